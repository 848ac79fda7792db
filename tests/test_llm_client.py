"""The client against a real server on this machine, good and bad."""

import asyncio
import json
import logging
import time
from pathlib import Path

import httpx
import loopback
import pytest

from leed_jax.errors import (
    ConfigurationError,
    EndpointRefusedError,
    EndpointReplyError,
    EndpointUnreachableError,
    LLMError,
)
from leed_jax.llm import ChatRequest, Journal, Message, Reply, RetryPolicy, Usage

KEY = "sk-very-secret-0123456789abcdef"
ENV = "LEED_TEST_KEY"
QUICK = RetryPolicy(wait_initial_s=0.01, wait_max_s=0.02, wait_jitter_s=0.0, connect_wait_s=0.01)
SCHEMA = {"type": "array", "items": {"type": "string"}}
ASK = ChatRequest((Message("system", "Be brief."), Message("user", "Hi")), 0.5, 11, 64, SCHEMA)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV, KEY)


def ask(*script: loopback.Act, request: ChatRequest = ASK, **settings: object) -> tuple[Reply, loopback.Server]:
    """Ask a server that follows a script; return the reply and the server."""

    async def run() -> tuple[Reply, loopback.Server]:
        async with loopback.serving(*script) as server:
            options = {"api_key_env": ENV, "retry": QUICK, "response_format": "json_schema", **settings}
            async with loopback.client(server.base_url, **options) as model:
                return await model.complete(request), server

    return asyncio.run(run())


def fail(expected: type[LLMError], *script: loopback.Act, tries: int = 1, **settings: object) -> str:
    """Ask a server that must fail in `tries` requests; return the message, which must be fit to print."""
    seen: list[loopback.Server] = []

    async def run() -> None:
        async with loopback.serving(*script) as server:
            seen.append(server)
            options = {"api_key_env": ENV, "retry": QUICK, "response_format": "json_schema", **settings}
            async with loopback.client(server.base_url, **options) as model:
                await model.complete(ASK)

    with pytest.raises(expected) as caught:
        asyncio.run(run())
    message = str(caught.value)
    assert type(caught.value) is expected
    assert message.isprintable()
    assert seen[0].base_url in message
    assert len(message) < 700
    assert KEY not in message + repr(caught.value)
    assert caught.value.__suppress_context__
    assert len(seen[0].received) == tries
    return message


def test_a_good_answer_and_what_was_sent() -> None:
    reply, server = ask(loopback.good("[]"))
    assert reply == Reply("[]", Usage(7, 3), "stop", "served", "json_schema")
    [request] = server.received
    assert request.line == "POST /v1/chat/completions HTTP/1.1"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["content-type"] == "application/json"
    assert request.data == {
        "model": "tiny",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "temperature": 0.5,
        "seed": 11,
        "max_tokens": 64,
        "stream": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA},
        },
    }


@pytest.mark.parametrize(("setting", "sent"), [("json_object", {"type": "json_object"}), ("none", None)])
def test_other_response_formats(setting: str, sent: object) -> None:
    _, server = ask(loopback.good(), response_format=setting)
    assert server.received[0].data.get("response_format") == sent


def test_what_is_not_set_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENV)
    _, server = ask(loopback.good(), request=ChatRequest((Message("user", "Hi"),)))
    assert set(server.received[0].data) == {"model", "messages", "temperature", "max_tokens", "stream"}
    assert "authorization" not in server.received[0].headers


def test_a_schema_keeps_the_order_of_its_fields() -> None:
    schema = {"type": "object", "properties": {"z": {}, "a": {}}}
    _, server = ask(loopback.good(), request=ChatRequest((Message("user", "Hi"),), response_schema=schema))
    sent = server.received[0].data["response_format"]["json_schema"]["schema"]
    assert list(sent["properties"]) == ["z", "a"]


def test_an_environment_with_a_dead_proxy_does_not_matter_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{loopback.closed_port()}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{loopback.closed_port()}")
    assert ask(loopback.good())[0].text == "hello"


@pytest.mark.parametrize("header", ["Retry-After: 0.3", "retry-after-ms: 300"])
def test_the_wait_that_the_endpoint_asks_for_is_kept(header: str) -> None:
    reply, server = ask(loopback.refusal(429, headers=[header]), loopback.good())
    assert reply.text == "hello"
    first, second = (request.at for request in server.received)
    assert 0.3 <= second - first < 2


def test_a_wait_that_is_too_long_is_reported_and_not_waited() -> None:
    began = time.monotonic()
    message = fail(EndpointRefusedError, loopback.refusal(429, headers=["Retry-After: 3600"]))
    assert time.monotonic() - began < 3
    assert "asking to wait 3600.0 s" in message
    assert "llm.concurrency" in message


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
def test_a_passing_failure_is_tried_again(status: int) -> None:
    reply, server = ask(loopback.refusal(status), loopback.good())
    assert reply.text == "hello"
    assert len(server.received) == 2
    assert server.received[0].body == server.received[1].body


def test_a_failure_that_stays_is_reported_after_all_attempts() -> None:
    message = fail(EndpointRefusedError, loopback.refusal(503, "Loading model"), tries=4)
    assert "status 503" in message
    assert "Loading model" in message
    assert "attempt 4" in message


def test_a_closed_port_is_reported_soon_with_the_default_policy() -> None:
    url = f"http://127.0.0.1:{loopback.closed_port()}/v1"

    async def run() -> None:
        async with loopback.client(url) as model:
            await model.complete(ASK)

    began = time.monotonic()
    with pytest.raises(EndpointUnreachableError, match=r"cannot be connected to .* llm\.base_url") as caught:
        asyncio.run(run())
    assert time.monotonic() - began < 8
    assert url in str(caught.value)
    assert "(attempt 3, the last)" in str(caught.value)


def test_a_machine_that_does_not_answer_is_asked_once() -> None:
    calls: list[httpx.Request] = []

    def silent(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        raise httpx.ConnectTimeout("", request=request)

    async def run() -> None:
        async with loopback.client("http://10.0.0.1/v1", transport=httpx.MockTransport(silent)) as model:
            await model.complete(ASK)

    with pytest.raises(EndpointUnreachableError, match="within 5 s"):
        asyncio.run(run())
    assert len(calls) == 1


def test_a_reset_in_mid_body_is_tried_again() -> None:
    assert ask(loopback.reset, loopback.good())[0].text == "hello"
    message = fail(EndpointUnreachableError, loopback.reset, tries=4)
    assert "broke the connection off" in message


def test_a_body_that_ends_early_is_tried_again() -> None:
    assert ask(loopback.raw(b'{"choi', length=100), loopback.good())[0].text == "hello"


def test_a_dripping_answer_ends_at_the_time_limit() -> None:
    began = time.monotonic()
    policy = RetryPolicy(attempts=2, wait_initial_s=0.01, wait_jitter_s=0.0)
    message = fail(EndpointUnreachableError, loopback.drip, tries=2, timeout_s=0.3, retry=policy)
    assert 0.6 <= time.monotonic() - began < 4
    assert "within 0.3 s" in message
    assert "llm.timeout_s" in message


def test_a_silent_server_ends_at_the_bound_of_the_whole_request() -> None:
    policy = RetryPolicy(wait_initial_s=0.01, wait_jitter_s=0.0, total_s=0.5)
    silent = loopback.after(30, loopback.good())
    message = fail(EndpointUnreachableError, loopback.refusal(500), silent, tries=2, timeout_s=20.0, retry=policy)
    assert "within 0.5 s in all" in message
    assert "status 500" in message


def test_an_endless_answer_is_cut_off() -> None:
    message = fail(EndpointReplyError, loopback.flood, tries=4, max_reply_bytes=100_000)
    assert "larger than 100000 bytes" in message


def test_an_answer_of_just_the_allowed_size_is_read() -> None:
    body = json.dumps(loopback.completion("x" * 100)).encode()
    assert ask(loopback.raw(body), max_reply_bytes=len(body))[0].text == "x" * 100
    fail(EndpointReplyError, loopback.raw(body), tries=4, max_reply_bytes=len(body) - 1)


NOT_COMPLETIONS = {
    "not JSON": json.dumps(loopback.completion()).encode()[:-9],
    "in UTF-8": b'{"choices": "\xff\xfe\r\n\x1b[31m"}',
    "no choices": b'{"choices": []}',
    "has no choices": b'{"error": {"message": "overloaded"}}',
    "no text": json.dumps(loopback.completion(None)).encode(),
    "was cut short": b"",
    "or was cut": b"[" * 100_000,
}


@pytest.mark.parametrize("words", NOT_COMPLETIONS)
def test_an_answer_that_is_no_completion(words: str) -> None:
    message = fail(EndpointReplyError, loopback.raw(NOT_COMPLETIONS[words]), tries=4)
    assert words in message


@pytest.mark.parametrize(
    "body",
    [b"null", b"3", b'"text"', b"[]", b'{"choices": {"0": 1}}', b'{"choices": [7]}', b'{"choices": [{"message": 1}]}'],
)
def test_json_of_another_shape(body: bytes) -> None:
    fail(EndpointReplyError, loopback.raw(body), tries=4)


def test_an_excerpt_is_short_and_has_no_control_characters() -> None:
    message = fail(EndpointReplyError, loopback.raw(b"<html>\r\n\x1b]0;owned\x07" + b"y" * 5000), tries=4)
    assert r"<html>\r\n\x1b]0;owned\x07" in message


def test_odd_bookkeeping_does_not_cost_the_answer() -> None:
    usage = {"prompt_tokens": "many", "completion_tokens": True}
    reply, _ = ask(loopback.good("x", usage=usage, model=None))
    assert reply == Reply("x", Usage(0, 0), "stop", "tiny", "json_schema")


def test_half_a_surrogate_pair_in_an_answer_can_be_encoded_afterwards() -> None:
    reply, _ = ask(loopback.good("a\ud83db\U0001f600"))
    assert reply.text == "a\ufffdb\U0001f600"


def test_a_prompt_with_half_a_surrogate_pair_can_be_sent() -> None:
    _, server = ask(loopback.good(), request=ChatRequest((Message("user", "\ud83d\u2028"),)))
    assert server.received[0].data["messages"][0]["content"] == "\ud83d\u2028"


@pytest.mark.parametrize(
    ("status", "text", "mend"),
    [
        (400, "response_format of type json_schema is not supported", "llm.response_format=auto"),
        (400, "failed to parse grammar", "llm.response_format=auto"),
        (400, "This model's maximum context length is 512 tokens", "llm.max_tokens"),
        (401, "Incorrect API key", f"environment variable {ENV}"),
        (403, "Forbidden", f"environment variable {ENV}"),
        (404, "model not found", "llm.base_url"),
        (404, "model not found", "llm.model"),
        (418, "teapot", "llm.base_url"),
    ],
)
def test_a_refusal_is_not_tried_again_and_names_the_mend(status: int, text: str, mend: str) -> None:
    message = fail(EndpointRefusedError, loopback.refusal(status, text))
    assert f"status {status}" in message
    assert text in message
    assert mend in message


def test_a_400_is_not_blamed_on_a_format_that_was_not_sent() -> None:
    refuse = loopback.refusal(400, "bad schema")
    assert "response_format=" not in fail(EndpointRefusedError, refuse, response_format="none")


def test_a_missing_key_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENV)
    assert f"set the environment variable {ENV}" in fail(EndpointRefusedError, loopback.refusal(401))
    assert "llm.api_key_env" in fail(EndpointRefusedError, loopback.refusal(401), api_key_env=None)


def test_a_redirect_is_not_followed() -> None:
    redirect = loopback.refusal(307, headers=["Location: http://127.0.0.1:9/elsewhere"])
    assert "final address" in fail(EndpointRefusedError, redirect)


def test_the_key_shows_nowhere(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.DEBUG)
    echo = f"you sent Bearer {KEY} " + "z" * 150 + KEY
    for status in (200, 400, 401, 500):
        body = json.dumps({"error": echo}).encode()
        kind, tries = EndpointReplyError if status == 200 else EndpointRefusedError, 1 if 400 <= status < 500 else 4
        message = fail(kind, loopback.raw(body, status), tries=tries)
        assert "[key]" in message
        assert KEY[:8] not in message
    reply, _ = ask(loopback.good(echo, model=KEY))
    Journal(tmp_path / "j").record("k", reply)
    assert KEY not in (tmp_path / "j").read_text()
    assert "[key]" in reply.text
    assert KEY not in caplog.text
    assert all(KEY not in repr(vars(record)) for record in caplog.records)

    async def entered() -> str:
        async with loopback.client("http://127.0.0.1:1/v1", api_key_env=ENV) as model:
            return repr(model) + repr(vars(model)) + model.identity

    shown = asyncio.run(entered())
    assert "Secret(set)" in shown
    assert KEY not in shown


def test_a_key_that_no_header_can_carry_is_refused_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV, f"{KEY}\r\nX-Other: 1")
    with pytest.raises(ConfigurationError, match=ENV) as caught:
        ask(loopback.good())
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("act", [loopback.drip, loopback.refusal(503, headers=["Retry-After: 30"])])
def test_a_cancelled_request_ends_at_once(act: loopback.Act) -> None:
    async def run() -> None:
        async with loopback.serving(act) as server, loopback.client(server.base_url) as model:
            task = asyncio.create_task(model.complete(ASK))
            while not server.received:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(server.received) == 1

    began = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - began < 3


def test_a_schema_that_is_not_json_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="schema"):
        ask(loopback.good(), request=ChatRequest((Message("user", "Hi"),), response_schema={"type": {1, 2}}))
