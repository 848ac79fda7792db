"""Replies with plans for several episodes; and that whatever is read from a reply can be executed."""

import json
import time

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import JSON, LISTS, REPLIES, TWO, WORDS

from leed_jax.envs.mpe_spread import SimpleSpread
from leed_jax.errors import InstructionError, PlanShapeError, UnreadableReplyError
from leed_jax.instructions import (
    Triple,
    Vocabulary,
    compile_plan,
    execute_many,
    parse_episodes,
    parse_reply,
    stack_plans,
    validate,
)

EPISODES = ("e0", "e1")


def entry(name: object, triples: object = LISTS) -> dict[str, object]:
    return {"episode": name, "facts": "none", "instructions": triples}


BOTH = {"episodes": [entry("e0"), entry("e1", LISTS[:1])]}
READ = {"e0": TWO, "e1": TWO[:1]}

READABLE_EPISODES = {
    "an object": (json.dumps(BOTH), READ),
    "a list": (json.dumps(BOTH["episodes"]), READ),
    "in another order": (json.dumps({"episodes": BOTH["episodes"][::-1]}), READ),
    "a fence and more text": (f"Sure!\n```json\n{json.dumps(BOTH, indent=1)}\n```\nDone.", READ),
    "trailing text": (json.dumps(BOTH) + " I hope that helps {you}.", READ),
    "said twice": (json.dumps({"episodes": [entry("e0"), entry("e0"), entry("e1", LISTS[:1])]}), READ),
    "others beside them": (json.dumps({"episodes": [entry("e9"), *BOTH["episodes"], entry(1), 3]}), READ),
    "one alone": (json.dumps(entry("e1", LISTS[:1])), {"e0": None, "e1": TWO[:1]}),
    "one of two": (json.dumps({"episodes": [entry("e0")]}), {"e0": TWO, "e1": None}),
    "cut off in the second": (json.dumps(BOTH)[:-30], {"e0": TWO, "e1": None}),
    "cut off behind the second": (json.dumps(BOTH)[:-1], READ),
    "two different plans": (
        json.dumps({"episodes": [entry("e0"), entry("e1"), entry("e1", LISTS[:1])]}),
        {"e0": TWO, "e1": None},
    ),
    "no instructions": (json.dumps({"episodes": [entry("e0"), entry("e1", [])]}), {"e0": TWO, "e1": None}),
}


@pytest.mark.parametrize("form", READABLE_EPISODES)
def test_the_plans_of_several_episodes_are_found_in(form: str) -> None:
    reply, expected = READABLE_EPISODES[form]
    found = parse_episodes(reply, EPISODES)
    assert {name: None if isinstance(plan, InstructionError) else plan for name, plan in found.items()} == expected
    assert all(name in str(plan) for name, plan in found.items() if isinstance(plan, InstructionError))


@pytest.mark.parametrize(
    "reply", ["", "no", "[]", json.dumps(LISTS), json.dumps({"episodes": 3}), '{"episode": ' * 9_999]
)
def test_a_reply_without_any_of_the_episodes_is_told(reply: str) -> None:
    start = time.process_time()
    with pytest.raises(
        UnreadableReplyError, match="no plan for e0, e1; write a JSON object with a list under episodes"
    ):
        parse_episodes(reply, EPISODES)
    assert time.process_time() - start < 5
    with pytest.raises(UnreadableReplyError, match="at most 200000"):
        parse_episodes(reply + " " * 200_001, EPISODES)


EPISODE_REPLIES = REPLIES | st.lists(
    st.fixed_dictionaries({"episode": st.sampled_from([*EPISODES, "e9"]) | JSON, "instructions": JSON}), max_size=4
).flatmap(
    lambda entries: st.integers(0, 60).map(lambda cut: (whole := json.dumps({"episodes": entries}))[: len(whole) - cut])
)
SPREAD = SimpleSpread()
KEYS = jax.random.split(jax.random.key(0), 1)
RUN = jax.jit(lambda plan: execute_many(SPREAD, stack_plans([plan]), KEYS).episode_return())


def runs(words: Vocabulary, triples: list[Triple]) -> None:
    """If what is valid of these triples is a plan, then it can be executed."""
    outcome = validate(words, triples)
    assert all(str(error).isprintable() and len(str(error)) < 1000 for error in outcome.errors)
    try:
        plan = compile_plan(words, outcome.instructions, 4)
    except PlanShapeError:
        return
    assert bool(jnp.all((plan.length >= 1) & (plan.length <= 4)))
    assert bool(jnp.all(jnp.isfinite(RUN(plan))))


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(EPISODE_REPLIES)
def test_no_text_breaks_the_parser_of_episodes_or_yields_a_plan_that_cannot_be_run(text: str) -> None:
    try:
        found = parse_episodes(text, EPISODES)
    except UnreadableReplyError:
        return
    assert tuple(found) == EPISODES
    for plan in found.values():
        if not isinstance(plan, InstructionError):
            runs(WORDS, plan)


WHOLE = st.lists(
    st.tuples(
        st.sampled_from([c.name for c in WORDS.commands] * 3 + ["Fly"]),
        st.sampled_from([p.name for p in WORDS.parameters]),
        st.sampled_from(WORDS.agents),
    ),
    min_size=3,
    max_size=12,
)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(WHOLE)
def test_any_words_in_the_right_form_yield_a_plan_that_runs_or_none(triples: list[Triple]) -> None:
    runs(WORDS, parse_reply(json.dumps({"instructions": triples})))
