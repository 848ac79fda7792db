"""The control: what random valid instructions come to with as many candidates and the same selection."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from leed_jax.generate.candidates import Scorer
from leed_jax.instructions import Vocabulary, random_plan

_BOOTSTRAP_SAMPLES = 200


@dataclasses.dataclass(frozen=True)
class Control:
    """The best of `candidates` random valid plans, over many draws.

    Attributes:
        candidates: the number of plans that the best is taken of.
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
    vocabulary: Vocabulary, scorer: Scorer, key: PRNGKeyArray, max_instructions: int, count: int
) -> Float[np.ndarray, "P"]:
    """Scores of `count` random valid plans on the selection episodes; `key` is consumed.

    Their lengths are limited in turn to 1, 2, ... `max_instructions` per agent, as the model's are.

    Args:
        vocabulary: the environment's words.
        scorer: executes and scores, on the same initial states as the model's plans.
        key: source of the plans.
        max_instructions: the largest number of instructions of an agent.
        count: the number of plans.
    """
    keys = jax.random.split(key, count)
    longest = 1 + np.arange(count) % max_instructions
    return scorer.scores(jax.vmap(lambda k, n: random_plan(vocabulary, k, max_instructions, n))(keys, longest))


def best_of(scores: Float[np.ndarray, "P"], candidates: int) -> Control:
    """The distribution of the best of `candidates` plans drawn with replacement from a pool of scored ones.

    With F the pool's distribution, the best of n is at most x with probability F(x)^n; no sampling is needed. The
    standard error of the mean is that of bootstrap samples of the pool.

    Args:
        scores: the pool.
        candidates: n.
    """
    ordered = np.sort(scores)
    below = (np.arange(len(ordered) + 1) / len(ordered)) ** candidates
    mean = float(np.sum(ordered * np.diff(below)))
    resampled = np.sort(np.random.default_rng(0).choice(scores, (_BOOTSTRAP_SAMPLES, len(scores))), axis=-1)
    error = float(np.std(resampled @ np.diff(below)))
    low, high = ordered[np.minimum(np.searchsorted(below[1:], [0.025, 0.975]), len(ordered) - 1)].tolist()
    return Control(candidates, mean, error, low, high)


def controls(scores: Float[np.ndarray, "P"], counts: Sequence[int]) -> list[Control]:
    """`best_of` for several numbers of candidates."""
    return [best_of(scores, count) for count in counts]
