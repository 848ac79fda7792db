"""Candidate plans: read from replies, validated, executed and ranked."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from leed_jax.errors import BudgetError, InstructionError, LLMError
from leed_jax.generation.prompts import expand_all_agents
from leed_jax.generation.scoring import PlanResult, Scorer
from leed_jax.instructions import (
    Plan,
    Triple,
    Vocabulary,
    compile_plan,
    compile_triples,
    decompile,
    parse_episodes,
    parse_reply,
    stack_plans,
    validate,
)
from leed_jax.llm import ChatRequest, Reply

MAX_PROBLEMS = 100
CUT_OFF = "The reply was cut off at the greatest length that was allowed; write less."


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """A plan that was asked for, and what became of it.

    Attributes:
        round: the round it was asked for in.
        index: the request's place in the round.
        episode: the initial state that it is for; None for all.
        problems: what was wrong with the reply, a sentence each, at most `MAX_PROBLEMS` and the number of the rest.
        validity: the share of its triples that are executable; 0 without a readable reply.
        plan: the executable instructions, compiled; None unless every agent has at least one.
        triples: the same as text.
        result: the result on the selection episodes; None before execution and without a plan.
    """

    round: int
    index: int
    episode: int | None
    problems: tuple[str, ...]
    validity: float
    plan: Plan | None = None
    triples: tuple[Triple, ...] = ()
    result: PlanResult | None = None

    @property
    def score(self) -> float | None:
        """Mean return per agent over the selection episodes."""
        return None if self.result is None else self.result.score


@dataclasses.dataclass(frozen=True)
class PlanRequest:
    """A request and the initial states that it asks plans for; none if it asks for one plan for all states."""

    request: ChatRequest
    episodes: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A request and its candidates.

    Attributes:
        round: the round.
        index: its place in the round.
        request: the request; None for a plan that was known before.
        reply: the model's reply, or None if there was none.
        error: why there was none.
        sent: False if a limit of the budget kept the request from being sent.
        candidates: one for each plan that was asked for.
    """

    round: int
    index: int
    request: ChatRequest | None
    reply: Reply | None
    error: str | None
    sent: bool
    candidates: tuple[Candidate, ...]


def episode_name(episode: int) -> str:
    """The name of an initial state in prompts and replies."""
    return f"e{episode}"


def read_attempt(
    vocabulary: Vocabulary,
    max_instructions: int,
    round_: int,
    index: int,
    asked: PlanRequest,
    outcome: Reply | LLMError,
) -> Attempt:
    """Turn a reply, or the error in its place, into candidates that are not yet executed.

    Triples that are not executable are left out and reported; the rest is a plan if every agent keeps at least one.
    """
    episodes = asked.episodes or (None,)
    if isinstance(outcome, LLMError):
        failed = tuple(Candidate(round_, index, episode, (), 0.0) for episode in episodes)
        sent = not isinstance(outcome, BudgetError)
        return Attempt(round_, index, asked.request, None, str(outcome), sent, failed)
    plans = _parse(asked, outcome.text)
    problems = (CUT_OFF,) if outcome.finish_reason == "length" else ()
    candidates = tuple(
        _candidate(vocabulary, max_instructions, Candidate(round_, index, episode, problems, 0.0), plans[episode])
        for episode in episodes
    )
    return Attempt(round_, index, asked.request, outcome, None, True, candidates)


def known_candidate(
    vocabulary: Vocabulary, max_instructions: int, index: int, episode: int | None, triples: Sequence[Triple]
) -> Candidate:
    """A plan that was known before the first request, as round 0; an InstructionError if it is not executable."""
    plan = compile_triples(vocabulary, triples, max_instructions)
    return Candidate(0, index, episode, (), 1.0, plan, tuple(decompile(vocabulary, plan)))


def _parse(asked: PlanRequest, text: str) -> dict[int | None, list[Triple] | InstructionError]:
    """The triples for each initial state that was asked for; under None if one plan was asked for."""
    try:
        if not asked.episodes:
            return {None: parse_reply(text)}
        found = parse_episodes(text, [episode_name(episode) for episode in asked.episodes])
        return {episode: found[episode_name(episode)] for episode in asked.episodes}
    except InstructionError as error:
        return dict.fromkeys(asked.episodes or (None,), error)


def _candidate(
    vocabulary: Vocabulary, max_instructions: int, empty: Candidate, triples: list[Triple] | InstructionError
) -> Candidate:
    if not isinstance(triples, InstructionError):
        triples = expand_all_agents(vocabulary, triples, max_instructions)
    if isinstance(triples, InstructionError):
        return dataclasses.replace(empty, problems=(*empty.problems, str(triples)))
    checked = validate(vocabulary, triples)
    problems = (*empty.problems, *(str(error) for error in checked.errors[:MAX_PROBLEMS]))
    if len(checked.errors) > MAX_PROBLEMS:
        problems += (f"{len(checked.errors) - MAX_PROBLEMS} more instructions are not executable.",)
    try:
        plan = compile_plan(vocabulary, checked.instructions, max_instructions)
    except InstructionError as error:
        return dataclasses.replace(empty, problems=(*problems, str(error)), validity=checked.validity)
    names = tuple(decompile(vocabulary, plan))
    return dataclasses.replace(empty, problems=problems, validity=checked.validity, plan=plan, triples=names)


def execute_candidates(scorer: Scorer, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates with their results, executed in one call; those without a plan are unchanged."""
    plans = [c.plan for c in candidates if c.plan is not None]
    if not plans:
        return list(candidates)
    states = [c.episode for c in candidates if c.plan is not None and c.episode is not None]
    results = iter(scorer.results(stack_plans(plans), states or None))
    return [c if c.plan is None else dataclasses.replace(c, result=next(results)) for c in candidates]


def best_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The executed candidates, best first, and the earliest first of equals."""
    executed = [(c.score, c) for c in candidates if c.score is not None]
    return [candidate for _, candidate in sorted(executed, key=lambda pair: -pair[0])]


def distinct_plans(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The executed candidates, best first, each plan once."""
    unique: dict[tuple[Triple, ...], Candidate] = {}
    for candidate in best_first(candidates):
        unique.setdefault(candidate.triples, candidate)
    return list(unique.values())


def distinct_behaviours(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """The best `count` candidates, best first, no two of which have the same returns in every selection episode."""
    chosen: list[Candidate] = []
    for candidate in best_first(candidates):
        if len(chosen) == count:
            break
        if not any(_same_returns(candidate, other) for other in chosen):
            chosen.append(candidate)
    return chosen


def _same_returns(left: Candidate, right: Candidate) -> bool:
    if left.result is None or right.result is None:
        return False
    return np.allclose(left.result.returns, right.result.returns, rtol=1e-5, atol=1e-6)
