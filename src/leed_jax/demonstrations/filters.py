"""Which plans and which episodes to learn from: pure functions on scores, by rank.

How many are kept depends on how many there are and on the settings, never on the scores: programs that are compiled for
one set serve another one of the same size.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int


def best_plans(scores: Sequence[float | None], number: int | None) -> list[int]:
    """Positions of the best plans, best first; plans without a score come last, and equals keep their order.

    Args:
        scores: each plan's score.
        number: how many to keep, at most; None for all.
    """
    order = sorted(range(len(scores)), key=lambda i: math.inf if scores[i] is None else -float(scores[i] or 0.0))
    return order[:number]


def kept_episodes(episodes: int, quantile: float, number: int | None) -> int:
    """How many of `episodes` are left by `best_episodes`.

    Args:
        episodes: how many there are.
        quantile: see `best_episodes`.
        number: see `best_episodes`.
    """
    # Of n sorted numbers without equals, ceil(q (n - 1)) lie below the quantile q. The small number keeps a product
    # that is whole but for rounding, such as 0.1 x 30, from being rounded up.
    below = math.ceil(quantile * (episodes - 1) - 1e-9)
    return episodes - below if number is None else min(episodes - below, number)


def best_episodes(
    returns: Float[np.ndarray, "N A"], quantile: float = 0.0, per_agent: bool = False, number: int | None = None
) -> Int[np.ndarray, "K A"]:
    """Which episodes each agent learns from, in ascending order; equals are taken in order.

    Args:
        returns: each agent's return in each episode.
        quantile: episodes whose return is below this quantile of all are left out.
        per_agent: compare each agent's own returns; otherwise the mean over the agents, so that all columns are equal.
        number: of what is left, the number of the best to keep; None for all.
    """
    scores = returns if per_agent else np.broadcast_to(returns.mean(axis=1, keepdims=True), returns.shape)
    order = np.argsort(-scores, axis=0, kind="stable")
    return np.sort(order[: kept_episodes(len(returns), quantile, number)], axis=0)
