"""Requests, replies and their keys."""

import dataclasses
import json
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leed_jax.errors import ConfigurationError
from leed_jax.llm import ChatRequest, Message, Reply, Usage, request_key
from leed_jax.llm.limits import estimated_usage

ASK = ChatRequest((Message("system", "s"), Message("user", "u")), 0.5, 1, 10, {"type": "array", "items": {}})


def test_a_key_is_the_hash_that_anyone_can_compute() -> None:
    # Canonical JSON by hand: a change of this would orphan every journal on disk.
    request = ChatRequest((Message("user", "é"),), 0.0, None, 5, None)
    assert request_key("m", request) == "30b02fe4bc9d480a3a0a2e4fd02676b5141ff94af7d4d9f7f4738796ab5e20e2"


def test_everything_that_decides_an_answer_is_in_the_key() -> None:
    changes = [
        {"messages": ASK.messages[::-1]},
        {"messages": (Message("user", "su"),)},
        {"temperature": 0.6},
        {"seed": 2},
        {"seed": None},
        {"max_tokens": 11},
        {"response_schema": None},
        {"response_schema": {"type": "array"}},
    ]
    keys = [request_key("m", dataclasses.replace(ASK, **change)) for change in changes]
    keys += [request_key("m", ASK), request_key("n", ASK)]
    assert len(set(keys)) == len(keys)


def test_equal_requests_have_equal_keys() -> None:
    schema = MappingProxyType({"items": MappingProxyType({}), "type": "array"})
    assert request_key("m", dataclasses.replace(ASK, response_schema=schema)) == request_key("m", ASK)
    zero = dataclasses.replace(ASK, temperature=0.0)
    assert request_key("m", zero) == request_key("m", dataclasses.replace(ASK, temperature=-0.0))


@given(st.text(), st.text(), st.floats(0, 2), st.none() | st.integers(), st.integers(1, 10**6))
def test_a_request_survives_json(one: str, two: str, temperature: float, seed: int | None, limit: int) -> None:
    request = ChatRequest((Message("user", one), Message("assistant", two)), temperature, seed, limit, {"a": [1]})
    again = ChatRequest.from_dict(json.loads(json.dumps(request.to_dict())))
    assert again == request
    assert request_key("m", again) == request_key("m", request)


@given(st.text(), st.none() | st.text(), st.integers(0, 10**9), st.none() | st.just("json_schema"))
def test_a_reply_survives_json(text: str, reason: str | None, tokens: int, form: str | None) -> None:
    reply = Reply(text, Usage(tokens, 1), reason, "m", form)
    assert Reply.from_dict(json.loads(json.dumps(reply.to_dict()))) == reply


def test_a_reply_from_before_the_response_format_was_noted() -> None:
    reply = Reply("t", Usage(1, 2), "stop", "m")
    assert "response_format" not in reply.to_dict()
    assert Reply.from_dict(reply.to_dict()).response_format is None


def test_usage_adds_up() -> None:
    assert Usage(1, 2) + Usage(10, 20) == Usage(11, 22)
    assert Usage(11, 22) - Usage(1, 2) == Usage(10, 20)
    assert Usage(1, 2).total == 3


@pytest.mark.parametrize(
    "changes", [{"messages": ()}, {"temperature": -0.1}, {"temperature": float("nan")}, {"max_tokens": 0}]
)
def test_unusable_requests(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(changes))):
        dataclasses.replace(ASK, **changes)


def test_an_unknown_role() -> None:
    with pytest.raises(ConfigurationError, match="'robot'"):
        Message("robot", "x")


@pytest.mark.parametrize(
    "data", [{}, {"messages": 3}, {**ASK.to_dict(), "seed": []}, {**ASK.to_dict(), "messages": [1]}]
)
def test_a_stored_request_of_another_shape(data: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        ChatRequest.from_dict(data)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"text": None, "model": "m"},
        {"text": "", "model": "m", "finish_reason": 3},
        {"text": "", "model": "m", "response_format": 3},
    ],
)
def test_a_stored_reply_of_another_shape(data: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        Reply.from_dict(data)


@given(st.text(), st.text(), st.integers(1, 10**6))
def test_any_request_can_be_estimated(one: str, two: str, limit: int) -> None:
    asked = ChatRequest((Message("system", one), Message("user", "\ud800" + two)), max_tokens=limit)
    usage = estimated_usage(asked)
    assert usage.completion_tokens == limit
    assert usage.prompt_tokens >= (len(one) + len(two) + 1) / 3


def test_a_schema_is_part_of_the_estimate() -> None:
    asked = ChatRequest((Message("user", "abc"),), max_tokens=5, response_schema={"type": "array"})
    assert estimated_usage(asked) == Usage(1 + len('{"type":"array"}') // 3 + 1, 5)
