"""The control: what random valid instructions come to with as many candidates and the same selection."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from leed_jax.generation.scoring import Scorer
from leed_jax.instructions import Plan, Vocabulary, random_plan

_BOOTSTRAP_SAMPLES = 200
_DRAWS = 4000


@dataclasses.dataclass(frozen=True)
class Control:
    """The best of `candidates` random valid plans, over many draws.

    Attributes:
        candidates: the number of plans that the best is taken of; with kind=episodes, for each initial state.
        mean: expected return per agent of the best.
        error: standard error of that, from the finite number of plans that were scored.
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
    """Scores of `count` random valid plans on the selection episodes, a row for each initial state; `key` is consumed.

    Their lengths are limited in turn as those of a round's candidates are: to 1, 2, ... `max_instructions` per agent,
    and no further than there are candidates.

    Args:
        vocabulary: the environment's words.
        scorer: executes and scores, on the same initial states as the model's plans.
        key: source of the plans.
        max_instructions: the largest number of instructions of an agent.
        candidates: the number of candidates of a round.
        count: the number of plans.
        states: the number of particular initial states that the scorer has; 0 for one row over all episodes.
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
    """The distribution of the best of so many plans, drawn with replacement from a pool of scored ones.

    There is a row for each initial state that has a plan of its own; what is told is the mean over rows. With F a
    row's distribution, the best of n is at most x with probability F(x)^n. The standard error of the mean is that of
    bootstrap samples of the plans; a plan is scored in every row, so that rows are wrong together. The quantiles are
    those of stratified draws.

    Args:
        pool: the scores.
        counts: n for each row.
        fallback: what a row comes to that has no plan, as its count is 0.
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
        # One choice of plans for all rows; it is drawn for each, as the quantiles of recorded sets are what follows it.
        drawn = random.integers(0, plans, (_BOOTSTRAP_SAMPLES, plans))
        samples = drawn if samples is None else samples
        means += np.sort(scores[samples], axis=-1) @ np.diff(below) / rows
        place = np.minimum(np.searchsorted(below[1:], random.permutation(uniform)), len(ordered) - 1)
        draws += ordered[place] / rows
    low, high = np.quantile(draws, [0.025, 0.975]).tolist()
    return Control(int(np.max(counts)), float(mean), float(np.std(means)), low, high)
