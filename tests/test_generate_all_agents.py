"""One instruction for all agents: in prompts, schemas, replies and what the model is told of earlier plans."""

import asyncio
import dataclasses
import json
from pathlib import Path

import jsonschema
import numpy as np
from probes import Line
from scripted import RETURN, SMALL, Scripted, text

from leed_jax.config import LLMConfig
from leed_jax.errors import PlanShapeError
from leed_jax.generation.loop import Generation, generate
from leed_jax.generation.prompts import collapse_all_agents, expand_all_agents, load_template, reply_schema
from leed_jax.instructions import Vocabulary
from leed_jax.llm import ChatRequest

WORDS = Line().vocabulary
TOGETHER = [["Walk", "mark_3", "all_agents"], ["Stay", "forever", "all_agents"]]
EACH = [
    *[("Walk", "mark_3", "agent_0"), ("Walk", "mark_3", "agent_1")],
    *[("Stay", "forever", "agent_0"), ("Stay", "forever", "agent_1")],
]


def outcome_of(reply: str, **settings):
    model = Scripted([reply])
    chosen = dataclasses.replace(SMALL, prompt="plan_teams_v1", **settings)
    generation = Generation(Line(), model, LLMConfig(concurrency=1), chosen, seed=0, with_control=False)
    return asyncio.run(generate(generation)), model


def test_one_for_all_becomes_one_for_each() -> None:
    triples = [("Walk", "mark_1", "agent_1"), *map(tuple, TOGETHER)]
    assert expand_all_agents(WORDS, triples, 2) == [triples[0], *EACH]
    assert expand_all_agents(WORDS, EACH, 2) == EACH
    refused = expand_all_agents(WORDS, triples, 1)
    assert isinstance(refused, PlanShapeError)
    assert "More than 1 instructions for all_agents" in str(refused)


def test_an_agent_of_that_name_is_meant_alone() -> None:
    words = dataclasses.replace(WORDS, agents=("all_agents", "agent_1"))
    assert isinstance(words, Vocabulary)
    triples = [("Walk", "mark_1", "all_agents"), ("Walk", "mark_1", "agent_1")]
    assert expand_all_agents(words, triples, 1) == collapse_all_agents(words, triples) == triples


def test_a_plan_is_collected_if_all_agents_have_the_same() -> None:
    agent_by_agent = [EACH[0], EACH[2], EACH[1], EACH[3]]
    assert collapse_all_agents(WORDS, agent_by_agent) == [tuple(triple) for triple in TOGETHER]
    for other in (EACH[:3], [*EACH[:3], ("Stay", "forever", "agent_0")], [EACH[0], EACH[2], EACH[3], EACH[1]]):
        assert collapse_all_agents(WORDS, other) == other


def test_only_a_template_that_tells_of_it_lets_replies_be_short() -> None:
    assert load_template("plan_teams_v1", "relational").offers_all_agents
    assert not load_template("", "relational").offers_all_agents
    answer = {"idea": "go", "instructions": TOGETHER[:1]}
    assert jsonschema.Draft202012Validator(reply_schema(WORDS, 2, all_agents=True)).is_valid(answer)
    assert not jsonschema.Draft202012Validator(reply_schema(WORDS, 2)).is_valid(answer)
    assert jsonschema.Draft202012Validator(reply_schema(WORDS, 2, True, True)).is_valid(answer)
    barred = {"idea": "go", "instructions": [*TOGETHER, ["Walk", "mark_1", "nobody"]]}
    assert not jsonschema.Draft202012Validator(reply_schema(WORDS, 2, True, True)).is_valid(barred)


def test_a_short_reply_is_executed_and_told_in_short() -> None:
    outcome, model = outcome_of(text(TOGETHER))
    best = outcome.kept[0].candidate
    assert (best.score, best.validity, best.problems) == (RETURN[3], 1.0, ())
    assert sorted(best.triples) == sorted(EACH)
    np.testing.assert_array_equal(best.plan.length, [2, 2])
    later: ChatRequest = model.asked[-1]
    assert json.dumps(TOGETHER) in later.messages[-1].content
    assert "all_agents" in later.messages[1].content


def test_what_one_agent_may_not_do_is_told_for_that_agent() -> None:
    outcome, _ = outcome_of(text([["Walk", "mark_4", "all_agents"]]))
    candidate = outcome.candidates[0]
    assert candidate.validity == 0.5
    assert '"agent_1"' in candidate.problems[0]
    assert not outcome.kept


def test_too_many_for_all_are_refused_before_they_are_written_out() -> None:
    outcome, _ = outcome_of(text(TOGETHER * 1000))
    assert outcome.candidates[0].problems == ("More than 2 instructions for all_agents; write fewer.",)
    assert outcome.candidates[0].validity == 0


def test_a_template_of_ones_own_may_tell_of_it(tmp_path: Path) -> None:
    own = tmp_path / "own.md"
    own.write_text("{description} {agents} {commands} {parameters} or all_agents")
    assert load_template(str(own), "relational").offers_all_agents
