"""The wire formats: what is sent, what is read, and what an endpoint turns out to want otherwise."""

import asyncio
import dataclasses
import json
from typing import Any

import httpx
import loopback
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leed_jax.errors import ConfigurationError, EndpointRefusedError, LLMError
from leed_jax.llm import (
    Anthropic,
    ChatClient,
    ChatModel,
    ChatRequest,
    Message,
    OpenAI,
    Provider,
    Reply,
    RetryPolicy,
    Usage,
)
from leed_jax.llm.provider import Dialect

KEY = "sk-very-secret-0123456789abcdef"
QUICK = RetryPolicy(wait_initial_s=0.01, wait_max_s=0.02, wait_jitter_s=0.0, connect_wait_s=0.01)
SCHEMA = {
    "type": "object",
    "properties": {"maxLength": {"type": "array", "items": {"type": "string", "maxLength": 3}, "minItems": 2}},
    "required": ["maxLength"],
}
ASK = ChatRequest(
    (Message("system", "Be"), Message("user", "Hi"), Message("system", "brief."), Message("assistant", "Yes?")),
    0.5,
    11,
    64,
    SCHEMA,
)


def ask(
    provider: Any, *script: loopback.Act, times: int = 1, request: ChatRequest = ASK, **settings: Any
) -> tuple[Reply, list[loopback.Received]]:
    """Ask a server that follows a script; return the last reply and what was received."""

    async def asked() -> tuple[Reply, list[loopback.Received]]:
        async with loopback.serving(*script) as server:
            options = {"base_url": server.base_url, "retry": QUICK, **settings}
            async with ChatClient(provider, "tiny", **options) as model:
                assert isinstance(model, ChatModel)
                for _ in range(times):
                    reply = await model.complete(request)
                return reply, server.received

    return asyncio.run(asked())


def own_address(provider: Any, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> httpx.Request:
    """Ask the provider's own address, which is not reached; return what would have been sent there."""
    monkeypatch.setenv(provider.key_env, KEY)
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        body = loopback.completion("{}") if provider == OpenAI() else loopback.message("{}")
        return httpx.Response(200, json=body)

    async def asked() -> None:
        async with ChatClient(provider, "m", transport=httpx.MockTransport(answer), **settings) as model:
            await model.complete(ASK)

    asyncio.run(asked())
    return sent[0]


@pytest.mark.parametrize("provider", [OpenAI(), Anthropic()])
def test_a_provider_is_a_value(provider: Any) -> None:
    assert isinstance(provider, Provider)
    assert provider == dataclasses.replace(provider)
    assert hash(provider) == hash(dataclasses.replace(provider))
    with pytest.raises(dataclasses.FrozenInstanceError):
        provider.name = "other"


def test_what_openai_itself_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    request = own_address(OpenAI(), monkeypatch)
    assert str(request.url) == "https://api.openai.com/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    body = json.loads(request.content)
    assert body["max_completion_tokens"] == 64
    assert "max_tokens" not in body


def test_what_anthropic_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    request = own_address(Anthropic(), monkeypatch)
    assert str(request.url) == "https://api.anthropic.com/v1/messages"
    assert request.headers["x-api-key"] == KEY
    assert request.headers["anthropic-version"] == "2023-06-01"
    assert "authorization" not in request.headers
    body = json.loads(request.content)
    gist = body["messages"].pop()
    assert (gist["role"], json.dumps(SCHEMA, separators=(",", ":")) in gist["content"]) == ("user", True)
    assert body == {
        "model": "m",
        "max_tokens": 64,
        "system": "Be\n\nbrief.",
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}],
        "temperature": 0.5,
        "output_config": {
            "format": {
                "type": "json_schema",
                "schema": {
                    "type": "object",
                    "properties": {"maxLength": {"type": "array", "items": {"type": "string"}, "minItems": 1}},
                    "required": ["maxLength"],
                    "additionalProperties": False,
                },
            }
        },
    }


def test_a_tool_stands_in_for_the_mode_that_anthropic_lacks() -> None:
    content = [{"type": "text", "text": ""}, {"type": "tool_use", "name": "answer", "input": {"maxLength": ["ä", "b"]}}]
    answer = loopback.answer(loopback.message(content=content, stop_reason="tool_use"))
    reply, [received] = ask(Anthropic(), answer, response_format="json_object")
    assert received.data["tool_choice"] == {"type": "tool", "name": "answer"}
    assert received.data["tools"][0]["input_schema"]["required"] == ["maxLength"]
    assert reply == Reply('{"maxLength": ["ä", "b"]}', Usage(7, 3), "stop", "served", "json_object")


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("end_turn", "stop"), ("stop_sequence", "stop"), ("max_tokens", "length"), ("refusal", "refusal"), (None, None)],
)
def test_why_a_message_ended(reason: str | None, expected: str | None) -> None:
    reply, _ = ask(Anthropic(), loopback.answer(loopback.message(stop_reason=reason)), response_format="none")
    assert (reply.text, reply.finish_reason) == ("hello", expected)


def test_tokens_that_a_cache_held_were_read_too() -> None:
    usage = {"input_tokens": 1, "cache_creation_input_tokens": 10, "cache_read_input_tokens": 100, "output_tokens": 5}
    assert ask(Anthropic(), loopback.answer(loopback.message("{}", usage=usage)))[0].usage == Usage(111, 5)


def test_thoughts_are_not_part_of_the_text() -> None:
    content = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert ask(Anthropic(), loopback.answer(loopback.message(content=content)))[0].text == "ab"


def test_a_model_that_declines_has_answered() -> None:
    choices = [{"message": {"content": None, "refusal": "I would rather not."}, "finish_reason": "stop"}]
    reply, received = ask(OpenAI(), loopback.good(choices=choices))
    assert (reply.text, reply.finish_reason, len(received)) == ("I would rather not.", "refusal", 1)


@pytest.mark.parametrize(
    ("said", "before", "after"),
    [
        (
            "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens'",
            "max_tokens",
            "max_completion_tokens",
        ),
        ("Unsupported value: 'temperature' does not support 0.5, only the default (1) value", "temperature", None),
        ("`temperature` is deprecated for this model.", "temperature", None),
        ("seed: Extra inputs are not permitted", "seed", None),
    ],
)
def test_a_field_that_is_refused_is_left_out_or_renamed_for_good(said: str, before: str, after: str | None) -> None:
    reply, received = ask(OpenAI(), loopback.refusal(400, said), loopback.good("{}"), times=2, response_format="none")
    first, second, third = (item.data for item in received)
    assert reply.text == "{}"
    assert before in first
    assert before not in second
    assert after is None or second[after] == first[before]
    assert third == second


def test_several_fields_one_after_the_other() -> None:
    script = [
        loopback.refusal(400, "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."),
        loopback.refusal(400, "'temperature' does not support 0.5 with this model."),
        loopback.refusal(400, "Unknown parameter: 'seed'"),
        loopback.refusal(400, "response_format is not supported"),
        loopback.good("{}"),
    ]
    reply, received = ask(OpenAI(), *script)
    assert reply.response_format == "json_object"
    assert not {"max_tokens", "temperature", "seed"} & set(received[-1].data)


@pytest.mark.parametrize(
    "said", ["max_tokens is too large: this model's context length is 512; unsupported", "temperature must be below 1"]
)
def test_a_value_out_of_range_is_not_a_field_that_is_refused(said: str) -> None:
    with pytest.raises(EndpointRefusedError):
        ask(OpenAI(), loopback.refusal(400, said), response_format="none")
    assert Dialect().after(400, said) is None


def test_the_field_for_the_length_is_swapped_once() -> None:
    said = "max_tokens and max_completion_tokens are not supported"
    swapped = Dialect().after(400, said)
    assert swapped == Dialect("max_completion_tokens", swapped=True)
    assert swapped.after(400, said) is None
    assert Dialect().after(500, said) is None


def test_anthropic_takes_no_temperature_above_one() -> None:
    hot = dataclasses.replace(ASK, temperature=1.5)
    with pytest.raises(ConfigurationError, match=r"llm\.temperature is 1\.5; anthropic takes 0 to 1"):
        ask(Anthropic(), loopback.answer(loopback.message()), request=hot)


def test_an_empty_account_is_named() -> None:
    said = "Your credit balance is too low to access the Anthropic API."
    with pytest.raises(LLMError, match="no credit left"):
        ask(Anthropic(), loopback.refusal(400, said))


@pytest.mark.parametrize("provider", [OpenAI(), Anthropic()])
@pytest.mark.parametrize("url", ["http://h.test/v1", "http://10.0.0.1:8000/v1", "http://127.evil.test/v1"])
def test_a_key_does_not_travel_unencrypted(provider: Any, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)

    async def enter(env: str) -> None:
        async with ChatClient(provider, "m", base_url=url, api_key_env=env):
            pass

    with pytest.raises(ConfigurationError, match="unencrypted") as caught:
        asyncio.run(enter("MY_KEY"))
    assert KEY not in str(caught.value)
    asyncio.run(enter(""))


@pytest.mark.parametrize("provider", [OpenAI(), Anthropic()])
def test_the_usual_key_goes_to_the_providers_own_address_only(provider: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(provider.key_env, KEY)
    body = loopback.completion("{}") if provider == OpenAI() else loopback.message("{}")
    _, [received] = ask(provider, loopback.answer(body))
    assert KEY not in str(received.headers)
    _, [received] = ask(provider, loopback.answer(body), api_key_env=provider.key_env)
    assert KEY in str(received.headers)
    assert KEY not in str(own_address(provider, monkeypatch, api_key_env="").headers)


@pytest.mark.parametrize("provider", [OpenAI(), Anthropic()])
def test_the_providers_own_address_wants_a_key(provider: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(provider.key_env, raising=False)

    async def enter() -> None:
        async with ChatClient(provider, "m"):
            pass

    with pytest.raises(ConfigurationError, match=f"set the environment variable {provider.key_env}"):
        asyncio.run(enter())


def test_what_decides_an_answer_is_part_of_the_identity() -> None:
    identities = {
        ChatClient(provider, model, response_format=form).identity
        for provider in (OpenAI(), Anthropic())
        for model in ("a", "b")
        for form in ("auto", "none")
    }
    assert len(identities) == 8
    assert ChatClient(OpenAI(), "a").identity == ChatClient(OpenAI(), "a", base_url="http://h.test/v1").identity


KEYS = [
    "choices",
    "message",
    "content",
    "type",
    "text",
    "input",
    "usage",
    "finish_reason",
    "stop_reason",
    "model",
    "refusal",
]
WORDS = ["text", "tool_use", "length", "max_tokens", "/a/b", "", "\ud800"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=20,
)
ANSWERS = st.fixed_dictionaries({"choices": st.lists(JSON, max_size=2), "content": st.lists(JSON, max_size=2)})


@pytest.mark.parametrize("provider", [OpenAI(), Anthropic()])
@given(body=st.binary(max_size=100) | (JSON | ANSWERS).map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_an_answer_or_not_but_never_a_crash(provider: Any, body: bytes) -> None:
    try:
        reply = provider.read(body, "m")
    except ValueError:
        return
    reply.text.encode("utf-8")
    assert Reply.from_dict(json.loads(json.dumps(reply.to_dict()))) == reply
