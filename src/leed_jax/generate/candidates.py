"""Replies judged: read, validated, compiled, executed on the held-out initial states, and scored."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from leed_jax.errors import EnvironmentContractError, InstructionError, LLMError
from leed_jax.instructions import (
    InstructedEnvironment,
    Plan,
    Triple,
    compile_plan,
    decompile,
    instructions_in_force,
    parse_reply,
    plan_returns,
    stack_plans,
    validate,
)
from leed_jax.llm import Reply

_USAGE_EPISODES = 64


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One reply and what came of it.

    Attributes:
        round: the round it was asked for in, from 0.
        index: its place in the round.
        reply: the model's reply, or None if the endpoint gave none.
        problems: what was wrong, a sentence each: the endpoint's error, or triples that are not executable.
        validity: the share of its triples that are executable; 0 if there was nothing to read.
        plan: the executable instructions, compiled; None unless every agent has at least one.
        triples: the same as text.
        score: mean return per agent over the selection episodes, or None.
    """

    round: int
    index: int
    reply: Reply | None
    problems: tuple[str, ...]
    validity: float
    plan: Plan | None = None
    triples: tuple[Triple, ...] = ()
    score: float | None = None


def read_candidate(
    environment: InstructedEnvironment, max_instructions: int, round_: int, index: int, outcome: Reply | LLMError
) -> Candidate:
    """Turn the endpoint's answer into a candidate, not yet scored.

    Triples that are not executable are left out and reported; the rest is a plan if every agent keeps at least one.

    Args:
        environment: where the plan is to be executed.
        max_instructions: the plan's capacity.
        round_: the round, from 0.
        index: the place in the round.
        outcome: the reply, or the error that stands for it.
    """
    if isinstance(outcome, LLMError):
        return Candidate(round_, index, None, (str(outcome),), 0.0)
    try:
        triples = parse_reply(outcome.text)
    except InstructionError as error:
        return Candidate(round_, index, outcome, (str(error),), 0.0)
    checked = validate(environment.vocabulary, triples)
    problems = tuple(str(error) for error in checked.errors)
    try:
        plan = compile_plan(environment.vocabulary, checked.instructions, max_instructions)
    except InstructionError as error:
        return Candidate(round_, index, outcome, (*problems, str(error)), checked.validity)
    written = tuple(decompile(environment.vocabulary, plan))
    return Candidate(round_, index, outcome, problems, checked.validity, plan, written)


class Scorer:
    """Executes plans on one and the same set of initial states; compiled once for each number of plans.

    Args:
        environment: where to execute.
        keys: one key per episode.
        batch: the number of plans in one call; fewer are padded.
    """

    def __init__(self, environment: InstructedEnvironment, keys: Array, batch: int) -> None:
        self._batch = batch
        self._mean_returns = jax.jit(lambda plans: jnp.mean(plan_returns(environment, plans, keys), axis=(1, 2)))
        usage = functools.partial(instructions_in_force, environment)
        self._in_force = jax.jit(lambda plan: jax.vmap(usage, in_axes=(None, 0))(plan, keys[:_USAGE_EPISODES]))

    def scores(self, plans: Plan) -> Float[np.ndarray, "P"]:
        """Mean return per agent of each of the stacked plans."""
        count = plans.length.shape[0]
        parts = []
        for start in range(0, count, self._batch):
            part = jax.tree.map(lambda x, s=start: x[s : s + self._batch], plans)
            size = part.length.shape[0]
            padding = self._batch - size
            padded = jax.tree.map(lambda x, n=padding: jnp.concatenate([x, jnp.repeat(x[:1], n, axis=0)]), part)
            parts.append(np.asarray(self._mean_returns(padded))[:size])
        return np.concatenate(parts)

    def score_candidates(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The candidates with their scores; those without a plan as they are.

        Raises:
            EnvironmentContractError: a return is not finite.
        """
        plans = [c.plan for c in candidates if c.plan is not None]
        if not plans:
            return list(candidates)
        scores = self.scores(stack_plans(plans))
        if not np.all(np.isfinite(scores)):
            raise EnvironmentContractError("An executed plan's return is not finite; mend the environment's rewards.")
        following = iter(scores.tolist())
        return [c if c.plan is None else dataclasses.replace(c, score=next(following)) for c in candidates]

    def usage(self, plan: Plan) -> dict[tuple[int, int], float]:
        """The share of all agents' steps for which each (command, parameter) was in force."""
        position = np.asarray(self._in_force(plan))
        agents = np.broadcast_to(np.arange(position.shape[-1]), position.shape)
        command, parameter = np.asarray(plan.command)[agents, position], np.asarray(plan.parameter)[agents, position]
        counts: Counter[tuple[int, int]] = Counter(
            zip(command.ravel().tolist(), parameter.ravel().tolist(), strict=True)
        )
        return {words: count / position.size for words, count in counts.most_common()}


def best_candidate(candidates: Sequence[Candidate]) -> Candidate | None:
    """The executable candidate with the highest score; the earliest of equals."""
    return max((c for c in candidates if c.score is not None), key=_score, default=None)


def distinct_by_score(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Executable candidates, best first, each plan once."""
    seen: dict[Any, Candidate] = {}
    for candidate in sorted((c for c in candidates if c.score is not None), key=_score, reverse=True):
        seen.setdefault(candidate.triples, candidate)
    return list(seen.values())


def _score(candidate: Candidate) -> float:
    return -np.inf if candidate.score is None else candidate.score
