"""Replies turned into candidates: read, validated and compiled, each plan by itself; and the choice among them."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from leed_jax.errors import BudgetError, InstructionError, LLMError
from leed_jax.generation.collective import expanded
from leed_jax.generation.scoring import Result, Scorer
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
    """A plan that was asked for, and what came of it.

    Attributes:
        round: the round it was asked for in.
        index: the request's place in the round.
        episode: the initial state that it is for; None for all.
        problems: what was wrong with what the model wrote, a sentence each; of very many, the first ones and how many
            more there were.
        validity: the share of its triples that are executable; 0 if there was nothing to read.
        plan: the executable instructions, compiled; None unless every agent has at least one.
        triples: the same as text.
        result: what its execution on the selection episodes showed; None before, and without a plan.
    """

    round: int
    index: int
    episode: int | None
    problems: tuple[str, ...]
    validity: float
    plan: Plan | None = None
    triples: tuple[Triple, ...] = ()
    result: Result | None = None

    @property
    def score(self) -> float | None:
        """Mean return per agent over the selection episodes."""
        return None if self.result is None else self.result.score


@dataclasses.dataclass(frozen=True)
class Question:
    """A request of a round, and the initial states that it asks a plan for; none if it asks for one plan for all."""

    request: ChatRequest
    episodes: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A request and everything that came of it.

    Attributes:
        round: the round.
        index: its place in the round.
        request: what was asked; None for a plan that was there before.
        reply: the model's reply, or None if the endpoint gave none.
        error: why it gave none.
        sent: whether it was sent, as far as is known; not if a cap of the budget left no room for it.
        candidates: a candidate for each plan that was asked for.
    """

    round: int
    index: int
    request: ChatRequest | None
    reply: Reply | None
    error: str | None
    sent: bool
    candidates: tuple[Candidate, ...]


def episode_name(episode: int) -> str:
    """What an initial state is called in prompts and replies."""
    return f"e{episode}"


def read_attempt(
    vocabulary: Vocabulary,
    max_instructions: int,
    round_: int,
    index: int,
    question: Question,
    outcome: Reply | LLMError,
) -> Attempt:
    """Turn an endpoint's answer into candidates, not yet executed.

    Triples that are not executable are left out and reported; the rest is a plan if every agent keeps at least one.

    Args:
        vocabulary: the words of the environment in which plans are to be executed.
        max_instructions: the plans' capacity.
        round_: the round.
        index: the place in the round.
        question: what was asked.
        outcome: the reply, or the error that stands for it.
    """
    targets = question.episodes or (None,)
    if isinstance(outcome, LLMError):
        failed = tuple(Candidate(round_, index, episode, (), 0.0) for episode in targets)
        sent = not isinstance(outcome, BudgetError)
        return Attempt(round_, index, question.request, None, str(outcome), sent, failed)
    written = _written_plans(question, outcome.text)
    also = (CUT_OFF,) if outcome.finish_reason == "length" else ()
    candidates = tuple(
        _candidate(vocabulary, max_instructions, Candidate(round_, index, episode, also, 0.0), written[episode])
        for episode in targets
    )
    return Attempt(round_, index, question.request, outcome, None, True, candidates)


def known_candidate(
    vocabulary: Vocabulary, max_instructions: int, index: int, episode: int | None, triples: Sequence[Triple]
) -> Candidate:
    """A plan that was there before anything was asked, not yet executed; it counts as round 0.

    Raises:
        InstructionError: it is not executable.
    """
    plan = compile_triples(vocabulary, triples, max_instructions)
    return Candidate(0, index, episode, (), 1.0, plan, tuple(decompile(vocabulary, plan)))


def _written_plans(question: Question, text: str) -> dict[int | None, list[Triple] | InstructionError]:
    """What a reply says for each of the initial states that were asked for; for None if it was one plan for all."""
    try:
        if not question.episodes:
            return {None: parse_reply(text)}
        found = parse_episodes(text, [episode_name(episode) for episode in question.episodes])
        return {episode: found[episode_name(episode)] for episode in question.episodes}
    except InstructionError as error:
        return dict.fromkeys(question.episodes or (None,), error)


def _candidate(
    vocabulary: Vocabulary, max_instructions: int, empty: Candidate, written: list[Triple] | InstructionError
) -> Candidate:
    if not isinstance(written, InstructionError):
        written = expanded(vocabulary, written, max_instructions)
    if isinstance(written, InstructionError):
        return dataclasses.replace(empty, problems=(*empty.problems, str(written)))
    checked = validate(vocabulary, written)
    problems = (*empty.problems, *(str(error) for error in checked.errors[:MAX_PROBLEMS]))
    if len(checked.errors) > MAX_PROBLEMS:
        problems += (f"{len(checked.errors) - MAX_PROBLEMS} more instructions are not executable.",)
    try:
        plan = compile_plan(vocabulary, checked.instructions, max_instructions)
    except InstructionError as error:
        return dataclasses.replace(empty, problems=(*problems, str(error)), validity=checked.validity)
    triples = tuple(decompile(vocabulary, plan))
    return dataclasses.replace(empty, problems=problems, validity=checked.validity, plan=plan, triples=triples)


def execute_candidates(scorer: Scorer, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates with the results of their execution, in one call; those without a plan as they are.

    Raises:
        EnvironmentContractError: a return is not finite.
    """
    executable = [c for c in candidates if c.plan is not None]
    if not executable:
        return list(candidates)
    plans = stack_plans([c.plan for c in executable if c.plan is not None])
    states = [c.episode for c in executable if c.episode is not None]
    results = iter(scorer.results(plans, states or None))
    return [c if c.plan is None else dataclasses.replace(c, result=next(results)) for c in candidates]


def best_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The executed candidates, the best one first and the earliest first of equals."""
    executed = [(c.score, c) for c in candidates if c.score is not None]
    return [candidate for _, candidate in sorted(executed, key=lambda pair: -pair[0])]


def distinct_plans(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The executed candidates, best first, each plan once."""
    seen: dict[tuple[Triple, ...], Candidate] = {}
    for candidate in best_first(candidates):
        seen.setdefault(candidate.triples, candidate)
    return list(seen.values())


def distinct_behaviours(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """The best `count` candidates, best first, that do not all do the same.

    Two plans count as the same behaviour if every agent earns the same by both in every selection episode.

    Args:
        candidates: candidates for the same initial states.
        count: how many to choose, at most.
    """
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
