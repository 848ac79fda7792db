"""Plans scored on held-out episodes, and the control: the best of as many random valid plans."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from leed_jax.errors import EnvironmentContractError
from leed_jax.instructions import (
    Execution,
    InstructedEnvironment,
    Plan,
    Vocabulary,
    measured_execution,
    random_plan,
    written,
)
from leed_jax.learning.episodes import measured_play, random_actor

_BOOTSTRAP_SAMPLES = 200
_DRAWS = 4000


@dataclasses.dataclass(frozen=True, eq=False)
class PlanResult:
    """The result of executing a plan.

    Attributes:
        returns: the undiscounted return of each agent in each episode, `[N, A]`.
        measures: the mean over episodes of each of the environment's measures, by name.
        usage: the instructions that were in force, each with its share of the agents' time, the longest first.
    """

    returns: Float[np.ndarray, "N A"]
    measures: Mapping[str, float]
    usage: tuple[tuple[str, float], ...]

    @property
    def score(self) -> float:
        """Mean return per agent."""
        return float(np.mean(self.returns))

    @property
    def by_agent(self) -> Float[np.ndarray, "A"]:
        """Mean return of each agent."""
        return np.mean(self.returns, axis=0)


class Scorer:
    """Executes plans on the same set of episodes, in batches of one size, so that it is compiled once.

    Args:
        environment: where to execute.
        keys: one key per episode, the same for every plan.
        batch: the number of plans per call; fewer are padded.
        initial: keys of given initial states; each plan starts from one of them in all of its episodes, and `keys`
            gives the transitions. None to draw the initial states from `keys`, too.
    """

    def __init__(
        self,
        environment: InstructedEnvironment,
        keys: Key[Array, "N"],
        batch: int,
        initial: Key[Array, "E"] | None = None,
    ) -> None:
        self._environment = environment
        self._keys, self._batch, self._initial = keys, batch, initial

    def results(self, plans: Plan, states: Sequence[int] | Int[np.ndarray, "P"] | None = None) -> list[PlanResult]:
        """Execute stacked plans, each from the initial state of its number in `states`.

        Raises:
            EnvironmentContractError: a return is not finite.
        """
        executed = self._execute(plans, states)
        command, parameter, length = (np.asarray(x) for x in (plans.command, plans.parameter, plans.length))
        return [
            PlanResult(
                executed.returns[i],
                {name: float(values[i]) for name, values in executed.measures.items()},
                _usage(self._environment.vocabulary, command[i], parameter[i], length[i], executed.shares[i]),
            )
            for i in range(len(length))
        ]

    def scores(self, plans: Plan, states: Sequence[int] | Int[np.ndarray, "P"] | None = None) -> Float[np.ndarray, "P"]:
        """Mean return per agent of each of the stacked plans; see `results`."""
        return np.mean(self._execute(plans, states).returns, axis=(1, 2))

    def _execute(self, plans: Plan, states: Any) -> Execution:
        count = plans.length.shape[0]
        chosen = None if self._initial is None else self._initial[np.asarray(states)]
        parts = []
        for start in range(0, count, self._batch):
            index = start + np.arange(self._batch)
            index = np.where(index < count, index, start)
            some = jax.tree.map(lambda x, i=index: x[i], (plans, chosen))
            part = _execute(self._environment, *some, self._keys)
            parts.append(jax.tree.map(lambda x, n=count - start: np.asarray(x)[:n], part))
        whole = jax.tree.map(lambda *x: np.concatenate(x), *parts)
        if not np.all(np.isfinite(whole.returns)):
            raise EnvironmentContractError("An executed plan's return is not finite; check the environment's rewards.")
        return whole


@functools.partial(jax.jit, static_argnames="environment")
def _execute(environment: InstructedEnvironment, plans: Plan, initial: Any, keys: Any) -> Execution:
    """Every plan in every episode: returns, and the means over episodes of measures and shares."""

    def one(plan: Plan, reset_key: Any, key: Any) -> Execution:
        return measured_execution(environment, plan, key, reset_key)

    over_episodes = jax.vmap(one, in_axes=(None, None, 0))
    executed = jax.vmap(over_episodes, in_axes=(0, None if initial is None else 0, None))(plans, initial, keys)
    measures, shares = jax.tree.map(lambda x: jnp.mean(x, axis=1), (executed.measures, executed.shares))
    return Execution(executed.returns, measures, shares)


def _usage(vocabulary: Vocabulary, command: Any, parameter: Any, length: Any, shares: Any) -> Any:
    """The share of all agents' time for which each pair of command and parameter was in force."""
    total: dict[str, float] = {}
    for agent, count in enumerate(length):
        for c, p, share in zip(command[agent, :count], parameter[agent, :count], shares[agent, :count], strict=True):
            words = f"{written(vocabulary.commands[c].name)} {written(vocabulary.parameters[p].name)}"
            total[words] = total.get(words, 0.0) + float(share) / len(length)
    return tuple(sorted(total.items(), key=lambda item: -item[1]))


def random_play(
    environment: InstructedEnvironment, key: Any, episodes: int, reset_keys: Any = None
) -> tuple[Float[np.ndarray, "E A"], dict[str, Float[np.ndarray, "E"]]]:
    """Returns and measures of episodes of random actions; see `measured_play`."""
    return jax.tree.map(np.asarray, _random_play(environment, key, episodes, reset_keys))


@functools.partial(jax.jit, static_argnames=("environment", "episodes"))
def _random_play(environment: InstructedEnvironment, key: Any, episodes: int, reset_keys: Any) -> Any:
    return measured_play(environment, random_actor(environment), key, episodes, reset_keys)


@dataclasses.dataclass(frozen=True)
class Control:
    """The best of `candidates` random valid plans, over many draws.

    Attributes:
        candidates: the number of plans that the best is taken of; with kind=episodes, for each initial state.
        mean: expected return per agent of the best.
        error: standard error of the mean, from the finite number of plans that were scored.
        low: 2.5 % quantile over draws.
        high: 97.5 % quantile over draws.
    """

    candidates: int
    mean: float
    error: float
    low: float
    high: float


def random_plan_scores(
    vocabulary: Vocabulary,
    scorer: Scorer,
    key: PRNGKeyArray,
    *,
    max_instructions: int,
    candidates: int,
    count: int,
    states: int = 0,
) -> Float[np.ndarray, "R M"]:
    """Scores of `count` random valid plans on the selection episodes; `key` is consumed.

    Their lengths are limited as those of a round's candidates: to 1, 2, ... `max_instructions` in turn. There is a row
    for each of the scorer's initial states, or with states=0 one row over all episodes.
    """
    longest = 1 + (np.arange(count) % candidates) % max_instructions
    plans = _random_plans(vocabulary, jax.random.split(key, count), max_instructions, longest)
    if not states:
        return scorer.scores(plans)[None]
    repeated = jax.tree.map(lambda x: jnp.tile(x, (states,) + (1,) * (x.ndim - 1)), plans)
    return scorer.scores(repeated, np.repeat(np.arange(states), count)).reshape(states, count)


@functools.partial(jax.jit, static_argnames=("vocabulary", "max_instructions"))
def _random_plans(vocabulary: Vocabulary, keys: Any, max_instructions: int, longest: Any) -> Plan:
    return jax.vmap(lambda key, n: random_plan(vocabulary, key, max_instructions, n))(keys, longest)


def best_of(pool: Float[np.ndarray, "R M"], counts: Int[np.ndarray, "R"], fallback: Float[np.ndarray, "R"]) -> Control:
    """The distribution of the best of n plans, drawn with replacement from scored ones; the mean over rows.

    There is a row for each initial state that has its own plan. With F a row's distribution, the best of n is at most
    x with probability F(x)^n. The standard error of the mean is by bootstrap over plans, which are shared by the rows.
    The quantiles are those of stratified draws.

    Args:
        pool: the scores.
        counts: n for each row.
        fallback: the value of a row whose count is 0.
    """
    random = np.random.default_rng(0)
    rows, plans = pool.shape
    mean, means, draws = 0.0, np.zeros(_BOOTSTRAP_SAMPLES), np.zeros(_DRAWS)
    samples: Int[np.ndarray, "B R"] | None = None
    uniform = (np.arange(_DRAWS) + 0.5) / _DRAWS
    for scores, count, instead in zip(pool, counts, fallback, strict=True):
        if count == 0:
            mean, draws = mean + instead / rows, draws + instead / rows
            continue
        ordered = np.sort(scores)
        below = (np.arange(len(ordered) + 1) / len(ordered)) ** count
        mean += float(np.sum(ordered * np.diff(below))) / rows
        # Drawn for each row, though only the first is used: the recorded quantiles depend on the draws after it.
        drawn = random.integers(0, plans, (_BOOTSTRAP_SAMPLES, plans))
        samples = drawn if samples is None else samples
        means += np.sort(scores[samples], axis=-1) @ np.diff(below) / rows
        place = np.minimum(np.searchsorted(below[1:], random.permutation(uniform)), len(ordered) - 1)
        draws += ordered[place] / rows
    low, high = np.quantile(draws, [0.025, 0.975]).tolist()
    return Control(int(np.max(counts)), float(mean), float(np.std(means)), low, high)
