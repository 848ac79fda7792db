"""Recorded replies in place of a model."""

import asyncio
import dataclasses
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from leed_jax.config import RunConfig
from leed_jax.demonstrations import find_set, recorded_sets
from leed_jax.errors import BudgetError, ConfigurationError, DemonstrationError, LLMError, ReplayError
from leed_jax.generation.connect import check_provider, connect, make_model, model_name, retry_policy, transcript_path
from leed_jax.llm import (
    Anthropic,
    ChatClient,
    ChatModel,
    ChatRequest,
    Limits,
    Message,
    Meter,
    OpenAI,
    Replay,
    Reply,
    Usage,
)

REPLY = Reply("[]", Usage(7, 3), "stop", "served", "json_schema")


def request(text: str, seed: int | None = 0, **fields: Any) -> ChatRequest:
    return ChatRequest((Message("user", text),), **{"temperature": 0.7, "seed": seed, "max_tokens": 64, **fields})


def write(path: Path, *pairs: tuple[ChatRequest, Reply | None]) -> Path:
    lines = [
        {"round": 0, "request": asked.to_dict(), "reply": None if reply is None else reply.to_dict()}
        for asked, reply in pairs
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def said(text: str) -> Reply:
    return dataclasses.replace(REPLY, text=text)


def complete(model: Replay, asked: ChatRequest) -> Reply:
    return asyncio.run(model.complete(asked))


def configured(**llm: Any) -> RunConfig:
    config = RunConfig(env={"name": "leed_jax.envs.mpe_spread:MPESpread"})
    return dataclasses.replace(config, llm=dataclasses.replace(config.llm, **llm))


def test_the_same_request_gets_its_reply(tmp_path: Path) -> None:
    pairs = [(request("a", 1), said("A")), (request("b", 2), said("B")), (request("a", 2), said("C"))]
    model = Replay(write(tmp_path / "t.jsonl", *pairs))
    assert isinstance(model, ChatModel)
    for asked, reply in pairs:
        assert complete(model, asked) == reply
    assert (model.replayed, model.inexact) == (3, 0)


def test_a_plan_that_nobody_was_asked_for_is_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", (request("a", 1), said("A")))
    path.write_text(json.dumps({"round": 0, "request": None, "reply": None}) + "\n" + path.read_text())
    model = Replay(path)
    assert complete(model, request("a", 1)) == said("A")


def test_a_prompt_that_differs_is_told_by_its_sampling_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    transcript = write(tmp_path / "t.jsonl", (request("return -1.25", 1), said("A")), (request("b", 2), said("B")))

    async def run() -> None:
        async with Replay(transcript) as model:
            assert (await model.complete(request("return -1.26", 1))).text == "A"
            assert (await model.complete(request("b", 2))).text == "B"
            assert (model.replayed, model.inexact) == (2, 1)

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert "1 of 2 replies" in caplog.text


@pytest.mark.parametrize(
    "asked", [request("a", 3), request("a", 1, temperature=0.8), request("a", 1, max_tokens=65), request("a", None)]
)
def test_a_request_that_was_not_recorded(tmp_path: Path, asked: ChatRequest) -> None:
    model = Replay(write(tmp_path / "t.jsonl", (request("a", 1), said("A"))))
    with pytest.raises(ReplayError, match=r"t\.jsonl does not have this request.*llm=openai") as caught:
        complete(model, asked)
    assert isinstance(caught.value, LLMError)
    assert model.replayed == 0


def test_two_that_could_stand_for_it_are_none(tmp_path: Path) -> None:
    model = Replay(write(tmp_path / "t.jsonl", (request("a", 1), said("A")), (request("b", 1), said("B"))))
    with pytest.raises(ReplayError, match="there are 2"):
        complete(model, request("c", 1))


def test_a_request_that_failed_when_recorded_fails_again(tmp_path: Path) -> None:
    model = Replay(write(tmp_path / "t.jsonl", (request("a", 1), None)))
    for asked in (request("a", 1), request("b", 1)):
        with pytest.raises(ReplayError, match="got no reply when"):
            complete(model, asked)


@pytest.mark.parametrize(("error", "words"), [("llm.max_calls=1 leaves no room", "max_calls=1"), (None, "not sent")])
def test_a_request_that_a_cap_kept_back_is_kept_back_again(tmp_path: Path, error: str | None, words: str) -> None:
    lines = [
        {"request": request("a", 1).to_dict(), "reply": None, "error": error, "sent": False},
        {"request": request("b", 2).to_dict(), "reply": None, "error": "refused", "sent": True},
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = Replay(tmp_path / "t.jsonl")
    for asked in (request("a", 1), request("similar", 1)):
        with pytest.raises(BudgetError, match=words):
            complete(model, asked)
    with pytest.raises(ReplayError, match="got no reply"):
        complete(model, request("b", 2))


def test_a_request_that_was_answered_at_the_second_time(tmp_path: Path) -> None:
    pairs = [(request("a", 1), None), (request("a", 1), said("A")), (request("a", 1), said("later"))]
    model = Replay(write(tmp_path / "t.jsonl", *pairs))
    assert complete(model, request("a", 1)).text == "A"
    assert complete(model, request("b", 1)).text == "A"


DAMAGED = [
    b"{",
    b"[]",
    b"null",
    b'{"request": {}, "reply": null}',
    b'{"reply": null}',
    b'{"request": 3, "reply": null}',
    b"\xff",
    b"[" * 100_000,
    json.dumps({"request": request("a").to_dict(), "reply": 3}).encode(),
    json.dumps({"request": request("a").to_dict(), "reply": {"text": 3}}).encode(),
    json.dumps({"request": {**request("a").to_dict(), "temperature": 1e999}, "reply": None}).encode(),
    json.dumps({"request": {**request("a").to_dict(), "seed": 1e999}, "reply": None}).encode(),
]


@pytest.mark.parametrize("line", DAMAGED)
def test_a_damaged_transcript_is_named_with_its_line(tmp_path: Path, line: bytes) -> None:
    path = write(tmp_path / "t.jsonl", (request("a"), REPLY))
    path.write_bytes(path.read_bytes() + b"\n" + line + b"\n")
    with pytest.raises(ConfigurationError, match=r"Line 3 of .*t\.jsonl"):
        Replay(path)


@pytest.mark.parametrize("name", ["missing.jsonl", ".", "a\0b"])
def test_a_transcript_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be read .* llm\.path"):
        Replay(tmp_path / name)


def test_the_content_is_the_identity(tmp_path: Path) -> None:
    first = Replay(write(tmp_path / "a.jsonl", (request("a"), REPLY)))
    assert first.identity == Replay(write(tmp_path / "b.jsonl", (request("a"), REPLY))).identity
    assert first.identity != Replay(write(tmp_path / "c.jsonl", (request("a"), said("x")))).identity


@pytest.mark.parametrize("name", recorded_sets())
def test_every_recorded_set_can_be_replayed(name: str) -> None:
    path = find_set(name) / "transcript.jsonl"
    model = Replay(path)
    recorded = [json.loads(line) for line in path.read_text().splitlines()]
    for entry in recorded:
        if entry["reply"] is not None:
            reply = complete(model, ChatRequest.from_dict(entry["request"]))
            assert reply.text == entry["reply"]["text"]
    assert model.inexact == 0


def test_connecting_to_a_transcript(tmp_path: Path) -> None:
    transcript = write(tmp_path / "t.jsonl", (request("a"), REPLY))

    async def run(config: RunConfig) -> int:
        async with connect(config, tmp_path / "journal", Meter(Limits())) as model:
            assert await model.complete(request("a")) == REPLY
            return model.reused

    assert asyncio.run(run(configured(path=str(transcript)))) == 0
    assert asyncio.run(run(configured(path=str(transcript)))) == 1
    assert not (tmp_path / "shared").exists()
    assert asyncio.run(run(configured(path=str(transcript), cache=str(tmp_path / "shared")))) == 0
    assert (tmp_path / "shared").exists()


def test_replay_finds_sets_by_name_and_falls_back_on_the_demonstrations(tmp_path: Path) -> None:
    name = recorded_sets()[0]
    assert transcript_path(configured(path=name)) == find_set(name) / "transcript.jsonl"
    config = configured()
    config.demonstrations.path = name
    assert transcript_path(config) == find_set(name) / "transcript.jsonl"
    assert model_name(config) == json.loads((find_set(name) / "manifest.json").read_text())["model"]
    assert model_name(configured(path=str(tmp_path / "own.jsonl"))) == "own"
    with pytest.raises(ConfigurationError, match=r"set llm\.path"):
        transcript_path(configured())
    with pytest.raises(DemonstrationError, match="no/such"):
        transcript_path(configured(path="no/such"))


def test_each_provider_becomes_its_model(tmp_path: Path) -> None:
    openai = make_model(configured(provider="openai", model="m", base_url="http://127.0.0.1:1/v1", timeout_s=3.0))
    assert isinstance(openai, ChatClient)
    assert (openai.provider, openai.url) == (OpenAI(), "http://127.0.0.1:1/v1/chat/completions")
    assert (openai.api_key_env, openai.timeout_s, openai.retry.attempts) == ("", 3.0, 6)
    anthropic = make_model(configured(provider="anthropic", model="m"))
    assert isinstance(anthropic, ChatClient)
    assert (anthropic.provider, anthropic.api_key_env) == (Anthropic(), "ANTHROPIC_API_KEY")
    assert model_name(configured(provider="anthropic", model="m")) == "m"
    assert model_name(configured(provider="local", path="/x/tiny-1b.Q4.gguf")) == "tiny-1b.Q4"
    with pytest.raises(ConfigurationError, match="MPESpread"):
        make_model(configured(provider="random"))
    with pytest.raises(ConfigurationError, match=re.escape("not a GGUF file")):
        make_model(configured(provider="local", path=str(write(tmp_path / "t.gguf", (request("a"), REPLY)))))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"provider": "openai"}, "llm.model is empty"),
        ({"provider": "anthropic"}, "llm.model is empty"),
        ({"provider": "anthropic", "model": "m", "temperature": 1.5}, "takes 0 to 1"),
        ({"provider": "local"}, "llm.path is empty"),
        ({"provider": "local", "path": "x.gguf", "base_url": "http://h.test/v1"}, "has no address"),
        ({"provider": "replay", "base_url": "http://h.test/v1"}, "has no address"),
        ({"provider": "random", "base_url": "http://h.test/v1"}, "has no address"),
    ],
)
def test_settings_that_cannot_work_are_told_before_anything_is_done(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        check_provider(configured(**settings).llm)
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        make_model(configured(**settings))


def test_the_whole_request_may_take_as_long_as_its_attempts() -> None:
    policy = retry_policy(configured(timeout_s=10.0, max_attempts=3).llm)
    assert policy.attempts == 3
    assert policy.total_s >= 3 * (10 + policy.retry_after_max_s)
