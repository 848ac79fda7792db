"""`llm=random`: random valid instructions that go through everything that a model's go through."""

import asyncio
import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from probes import Line
from scripted import SMALL
from set_folders import LINE, run

from leed_jax.cli.generate import main
from leed_jax.config import RunConfig
from leed_jax.demonstrations import load_demonstrations, read_manifest
from leed_jax.errors import ConfigurationError, RunDirectoryError
from leed_jax.generation.connect import make_model, model_name
from leed_jax.generation.display import GenerationProgress
from leed_jax.generation.models import RandomModel
from leed_jax.generation.prompts import episodes_schema, reply_schema
from leed_jax.instructions import parse_episodes, parse_reply, validate
from leed_jax.llm import ChatModel, ChatRequest, Message, Usage

WORDS = Line().vocabulary
# What the two agents of `Line` can be told: to walk to a mark, of which agent_1 may not go to one, or to stay.
CHOICES = {"agent_0": 6, "agent_1": 5}


def request(seed: int | None, length: int = 1, text: str = "Plan.", **fields: Any) -> ChatRequest:
    fields.setdefault("response_schema", reply_schema(WORDS, length))
    return ChatRequest((Message("user", text),), 0.7, seed, 64, **fields)


def reply(model: RandomModel, asked: ChatRequest) -> str:
    return asyncio.run(model.complete(asked)).text


def settings(out: Path, *more: str, environment: str = "probes:Line") -> list[str]:
    sizes = {k: v for k, v in dataclasses.asdict(SMALL).items() if k not in ("out", "kind", "prompt")}
    sizes |= {"rounds": 3, "candidates": 5, "patience": 0}
    fixed = (f"env.name={environment}", "llm=random", f"generate.out={out}")
    return [*fixed, *(f"generate.{name}={value}" for name, value in sizes.items()), *more]


def transcript(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "transcript.jsonl").read_text().splitlines()]


# --- one answer -------------------------------------------------------------------------------------------------


def test_an_answer_follows_from_the_seeds_alone() -> None:
    first = RandomModel(WORDS, 3)
    assert isinstance(first, ChatModel)
    assert reply(first, request(5, 4)) == reply(RandomModel(WORDS, 3), request(5, 4, "Another prompt."))
    texts = {reply(RandomModel(WORDS, seed), request(asked, 4)) for seed in range(4) for asked in range(4)}
    assert len(texts) == 16
    assert first.identity != RandomModel(WORDS, 4).identity
    assert first.identity != RandomModel(Line(marks=4).vocabulary, 3).identity
    assert first.identity == RandomModel(Line().vocabulary, 3).identity


def test_every_answer_is_a_valid_plan_and_says_that_it_is_random() -> None:
    model = RandomModel(WORDS, 0)
    answer = asyncio.run(model.complete(request(1, 3)))
    assert "random" in json.loads(answer.text)["idea"]
    assert (answer.usage, answer.finish_reason, answer.model) == (Usage(), "stop", "random-instructions")
    lengths: Counter[int] = Counter()
    for seed in range(120):
        triples = parse_reply(reply(model, request(seed, 3)))
        assert validate(WORDS, triples).validity == 1
        lengths += Counter(Counter(agent for _, _, agent in triples).values())
    # Two agents in each plan, and each of the three lengths is as probable: five standard deviations.
    assert set(lengths) == {1, 2, 3}
    assert all(abs(count - 80) < 5 * (240 * 2 / 9) ** 0.5 for count in lengths.values())


def test_every_valid_instruction_is_as_probable() -> None:
    model = RandomModel(WORDS, 1)
    drawn = Counter(triple for seed in range(300) for triple in parse_reply(reply(model, request(seed))))
    for agent, choices in CHOICES.items():
        counts = [count for (_, _, who), count in drawn.items() if who == agent]
        share = 1 / choices
        assert len(counts) == choices
        assert all(abs(count - 300 * share) < 5 * (300 * share * (1 - share)) ** 0.5 for count in counts)


def test_each_initial_state_gets_a_plan_of_its_own() -> None:
    names = [f"e{i}" for i in range(6)]
    text = reply(RandomModel(WORDS, 0), request(0, response_schema=episodes_schema(WORDS, 4, names)))
    plans = parse_episodes(text, names)
    assert all(validate(WORDS, plan).validity == 1 for plan in plans.values() if isinstance(plan, list))
    assert len({str(plan) for plan in plans.values()}) == 6


@pytest.mark.parametrize(
    "asked", [request(None), request(0, response_schema=None), request(0, response_schema={"properties": {}})]
)
def test_nothing_else_is_answered(asked: ChatRequest) -> None:
    with pytest.raises(ConfigurationError, match="llm=random answers requests for plans alone"):
        reply(RandomModel(WORDS, 0), asked)


def test_it_is_named_so_that_nobody_takes_it_for_a_model() -> None:
    config = RunConfig(env={"name": "probes:Line"}, seed=7)
    config.llm.provider = "random"
    assert model_name(config) == "random-instructions"

    async def identity() -> str:
        async with make_model(config) as model:
            assert isinstance(model, RandomModel)
            return model.identity

    assert asyncio.run(identity()) == RandomModel(WORDS, 7).identity


# --- a whole generation -----------------------------------------------------------------------------------------


def test_a_set_of_random_plans_is_recorded_like_any_other(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "set"
    assert main(settings(out, "seed=4")) == 0
    manifest = read_manifest(out)
    assert (manifest["provider"], manifest["model"]) == ("random", "random-instructions")
    assert [(r["replies"], r["executable"], r["validity"]) for r in manifest["rounds"]] == [(5, 5, 1.0)] * 3
    assert manifest["usage"] == {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0, "cost": 0.0}
    lines = transcript(out)
    best = max(line["return_per_agent"] for line in lines)
    assert manifest["plans"][0]["selection_return_per_agent"] == manifest["rounds"][-1]["best_so_far"] == best
    # As the control's, plans are limited in turn to 1 and 2 instructions of an agent.
    longest = [max(Counter(agent for _, _, agent in line["triples"]).values()) for line in lines]
    assert all(n == 1 for n, line in zip(longest, lines, strict=True) if line["candidate"] % 2 == 0)
    assert max(longest) == 2
    assert load_demonstrations(str(out), Line()).episodes(4, noise=1.0).action.shape == (4, 8, 2)
    capsys.readouterr()
    status, told, errors = run(capsys, "verify", LINE, out)
    assert (status, errors) == (0, "")
    assert "Replies that give the recorded plans: 15." in told


def test_an_interrupted_generation_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut, other = (tmp_path / name for name in ("whole", "cut", "other"))
    assert main(settings(whole)) == 0

    def end(*_: Any) -> None:
        raise RunDirectoryError("ended from outside")

    with monkeypatch.context() as patch:
        patch.setattr(GenerationProgress, "round", end)
        assert main(settings(cut)) == 2
    assert not (cut / "manifest.json").exists()
    assert (cut / "replies.jsonl").exists()
    assert main(settings(cut)) == 0
    assert (cut / "transcript.jsonl").read_bytes() == (whole / "transcript.jsonl").read_bytes()
    assert read_manifest(cut)["plans"] == read_manifest(whole)["plans"]
    assert main(settings(other, "seed=1")) == 0
    assert transcript(other)[0]["triples"] != transcript(whole)[0]["triples"]


def test_random_plans_for_concrete_states(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "set"
    assert main(settings(out, "generate.kind=episodes", environment="probes:MeasuredLine")) == 0
    manifest = read_manifest(out)
    assert sorted(plan["episode"] for plan in manifest["plans"]) == [0, 1, 2, 3]
    capsys.readouterr()
    assert run(capsys, "verify", "--environment=probes:MeasuredLine", out)[0] == 0
