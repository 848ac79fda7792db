"""Response formats: which an endpoint refuses, which it ignores, and what is used from then on."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import loopback
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leed_jax.errors import ConfigurationError, EndpointRefusedError
from leed_jax.llm import Anthropic, ChatClient, ChatRequest, Message, OpenAI, Reply, RetryPolicy, request_key
from leed_jax.llm.provider import FallbackFormat, keeps_to

QUICK = RetryPolicy(wait_initial_s=0.01, wait_max_s=0.02, wait_jitter_s=0.0, connect_wait_s=0.01)
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "array", "items": {"type": "string", "maxLength": 3}, "minItems": 2, "maxItems": 2}},
    "required": ["a"],
    "additionalProperties": False,
}
ASK = ChatRequest((Message("system", "Be brief."), Message("user", "Hi")), 0.5, 11, 64, SCHEMA)
FINE = '{"a":["x","y"]}'


def format_of(received: loopback.Received) -> str:
    """The format that a request was sent on, in either wire format."""
    data = received.data
    if "tools" in data:
        return "json_object"
    return data.get("response_format", data.get("output_config", {}).get("format", {})).get("type", "none")


@contextlib.asynccontextmanager
async def asking(*script: loopback.Act | loopback.Choice) -> AsyncIterator[ChatClient]:
    """A client of a server that follows a script."""
    async with (
        loopback.serving(*script) as server,
        ChatClient(OpenAI(), "tiny", base_url=server.base_url, retry=QUICK) as model,
    ):
        yield model


def ask_often(
    script: list[loopback.Act | loopback.Choice], times: int, provider: Any = None, **settings: Any
) -> tuple[list[Reply | str], list[str], str]:
    """Ask again and again; return the replies (or errors), the formats that were sent, and the format at the end."""

    async def asked() -> tuple[list[Reply | str], list[str], str]:
        replies: list[Reply | str] = []
        async with loopback.serving(*script) as server:
            options = {"base_url": server.base_url, "retry": QUICK, **settings}
            async with ChatClient(provider or OpenAI(), "tiny", **options) as model:
                for _ in range(times):
                    try:
                        replies.append(await model.complete(ASK))
                    except EndpointRefusedError as error:
                        replies.append(str(error))
                return replies, [format_of(item) for item in server.received], model.response_format_now

    return asyncio.run(asked())


def refusing(*formats: str, status: int = 400, message: str = "response_format is not supported") -> loopback.Choice:
    """Refuse these formats, and answer on others."""

    def choose(received: loopback.Received) -> loopback.Act:
        anthropic = "messages HTTP" in received.line
        answer = loopback.answer(loopback.message(FINE)) if anthropic else loopback.good(FINE)
        return loopback.refusal(status, message) if format_of(received) in formats else answer

    return loopback.Choice(choose)


@pytest.mark.parametrize("provider", [OpenAI(), Anthropic()])
@pytest.mark.parametrize("status", [400, 422])
def test_a_refused_format_is_left_at_once_and_for_good(
    provider: Any, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    replies, formats, now = ask_often([refusing("json_schema", status=status)], 3, provider)
    assert formats == ["json_schema", "json_object", "json_object", "json_object"]
    assert [reply.response_format for reply in replies if isinstance(reply, Reply)] == ["json_object"] * 3
    assert now == "json_object"
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1
    assert "refuses response_format=json_schema; from now on json_object" in caplog.text


def test_two_refused_formats() -> None:
    replies, formats, now = ask_often([refusing("json_schema", "json_object")], 2)
    assert formats == ["json_schema", "json_object", "none", "none"]
    assert now == "none"
    assert all(isinstance(reply, Reply) for reply in replies)


@pytest.mark.parametrize("status", [500, 501])
def test_a_grammar_that_breaks_the_server_is_left_too(status: int) -> None:
    _, formats, _ = ask_often([refusing("json_schema", status=status, message="failed to parse grammar")], 1)
    assert formats == ["json_schema", "json_object"]


def test_a_server_error_about_something_else_is_tried_again_on_the_same_format() -> None:
    _, formats, now = ask_often([loopback.refusal(500, "out of memory"), loopback.good(FINE)], 1)
    assert formats == ["json_schema"] * 2
    assert now == "json_schema"


def test_a_complaint_about_the_context_is_no_refusal_of_the_format() -> None:
    refusal = loopback.refusal(400, "This model's maximum context length is 512 tokens (json_schema)")
    [message], formats, now = ask_often([refusal], 1)
    assert formats == ["json_schema"]
    assert now == "json_schema"
    assert "llm.max_tokens" in str(message)


def test_a_refusal_on_every_format_has_another_cause_and_changes_nothing() -> None:
    [message, _], formats, now = ask_often([loopback.refusal(400, "no such model")], 2)
    assert formats == ["json_schema", "json_object", "none"] * 2
    assert now == "json_schema"
    assert "no such model" in str(message)


@pytest.mark.parametrize("name", ["json_schema", "json_object", "none"])
def test_a_fixed_format_never_changes(name: str) -> None:
    replies, formats, now = ask_often([loopback.good("no JSON")], 2, response_format=name)
    assert (formats, now) == ([name] * 2, name)
    assert [reply.response_format for reply in replies if isinstance(reply, Reply)] == [name] * 2
    replies, formats, _ = ask_often([loopback.refusal(400, "grammar")], 1, response_format=name)
    assert formats == [name]
    assert isinstance(replies[0], str)


@pytest.mark.parametrize(
    "text", ["Sure! Here it is.", f"```json\n{FINE}\n```", '{"a":["x"]}', '{"a":[1,2]}', "NaN", "[" * 9999]
)
def test_an_ignored_format_costs_no_reply_but_is_not_used_again(text: str, caplog: pytest.LogCaptureFixture) -> None:
    replies, formats, now = ask_often([loopback.good(text), loopback.good("{}"), loopback.good("{}")], 3)
    assert formats == ["json_schema", "json_object", "json_object"]
    assert [(r.text, r.response_format) for r in replies if isinstance(r, Reply)] == [
        *[(text, "json_schema"), ("{}", "json_object"), ("{}", "json_object")]
    ]
    assert now == "json_object"
    assert caplog.text.count("ignores response_format=json_schema") == 1


def test_an_endpoint_that_ignores_all_formats_ends_at_the_last() -> None:
    _, formats, now = ask_often([loopback.good("prose")], 4)
    assert formats == ["json_schema", "json_object", "none", "none"]
    assert now == "none"


def test_an_answer_cut_by_its_length_says_nothing_about_the_format() -> None:
    cut = loopback.good('{"a":["x', choices=[{"message": {"content": '{"a":["x'}, "finish_reason": "length"}])
    _, formats, now = ask_often([cut], 2)
    assert (formats, now) == (["json_schema"] * 2, "json_schema")


@pytest.mark.parametrize("reason", [None, "eos_token", "stop_sequence", "STOP", "tool_calls"])
def test_an_ignored_format_is_noticed_whatever_the_end_is_called(reason: str | None) -> None:
    prose = loopback.good(choices=[{"message": {"content": "prose"}, "finish_reason": reason}])
    assert ask_often([prose], 2)[1] == ["json_schema", "json_object"]


@pytest.mark.parametrize("reason", ["max_tokens", "MAX_TOKENS", "model_length", "content_filter", "refusal", "SAFETY"])
def test_an_answer_that_was_ended_says_nothing_about_the_format(reason: str) -> None:
    cut = loopback.good(choices=[{"message": {"content": '{"a":["x'}, "finish_reason": reason}])
    assert ask_often([cut], 2)[1] == ["json_schema"] * 2


def test_an_answer_as_long_as_allowed_counts_as_cut() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": ASK.max_tokens}
    cut = loopback.good(choices=[{"message": {"content": '{"a":["x'}, "finish_reason": None}], usage=usage)
    assert ask_often([cut], 2)[1] == ["json_schema"] * 2


def test_without_a_schema_there_is_no_format() -> None:
    async def asked() -> None:
        async with asking(loopback.good("prose")) as model:
            reply = await model.complete(ChatRequest((Message("user", "Hi"),)))
            assert (reply.response_format, model.response_format_now) == (None, "json_schema")

    asyncio.run(asked())


def test_requests_that_are_refused_at_the_same_time_go_down_one_format_only() -> None:
    async def asked() -> None:
        async with asking(refusing("json_schema")) as model:
            replies = await asyncio.gather(*(model.complete(ASK) for _ in range(8)))
            assert {reply.response_format for reply in replies} == {"json_object"}
            assert model.response_format_now == "json_object"

    asyncio.run(asked())


@pytest.mark.parametrize("provider", [OpenAI(), Anthropic()])
def test_the_schema_is_said_in_words_where_it_is_not_enforced(provider: Any) -> None:
    bodies = {name: json.loads(provider.body("m", ASK, name, provider.dialect("h"))) for name in provider.formats}
    said = {name: "maxItems" in body["messages"][-1]["content"] for name, body in bodies.items()}
    # Anthropic's schemas cannot bound the number of items.
    assert said == {"json_schema": provider == Anthropic(), "json_object": True, "none": True}
    assert all(body["messages"][-1]["content"].startswith("Hi") for body in bodies.values())
    assert ASK.messages[-1].content == "Hi"
    assert request_key("m", ASK) == request_key("m", ChatRequest(ASK.messages, 0.5, 11, 64, SCHEMA))


def test_the_gist_after_an_answer_is_a_message_of_its_own() -> None:
    request = ChatRequest((Message("user", "Hi"), Message("assistant", "{")), response_schema=SCHEMA)
    body = json.loads(OpenAI().body("m", request, "none", OpenAI().dialect("h")))
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]


def test_no_such_format() -> None:
    with pytest.raises(ConfigurationError, match=r"llm\.response_format is 'xml'; use one of auto, json_schema"):
        FallbackFormat("xml", OpenAI().formats, "h")


@pytest.mark.parametrize(
    "schema", [{"type": "banana"}, {"$ref": "http://127.0.0.1:9/schema"}, {"$ref": "#/nowhere"}, {"properties": 3}]
)
def test_a_schema_that_cannot_be_applied_blames_no_answer(schema: dict[str, Any]) -> None:
    assert keeps_to("{}", "json_schema", schema)


@given(
    st.text()
    | st.recursive(st.none() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)).map(
        json.dumps
    )
)
def test_any_text_is_judged_without_a_crash(text: str) -> None:
    strict, loose = keeps_to(text, "json_schema", SCHEMA), keeps_to(text, "json_object", None)
    assert loose or not strict
    assert keeps_to(text, "none", None)
