"""Statistics over a few seeds: interquartile mean, bootstrap intervals, probability of improvement, first passage.

Definitions follow Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (arXiv
2108.13264). All functions are pure, and the bootstrap uses a fixed seed, so that intervals can be reproduced.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

CONFIDENCE = 0.95
RESAMPLES = 10_000
BAND_RESAMPLES = 2_000
WINDOW = 3
BOOTSTRAP_SEED = 0
MIN_SEEDS_FOR_INTERVAL = 2


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A statistic with the ends of its 95 % bootstrap interval, which are NaN for a single seed."""

    value: float
    low: float
    high: float


def interquartile_mean(values: Float[np.ndarray, "*batch S"]) -> Float[np.ndarray, "*batch"]:
    """The mean of the middle half along the last axis; NaN counts as missing.

    Infinite values are allowed in one direction, for a seed that diverged or never reached a level. The result is
    infinite if and only if one of them has a share in the middle half.

    Source: Agarwal et al. 2021, section 4.3.
    """
    ordered = np.sort(values, axis=-1)  # NaN comes last.
    count = np.sum(~np.isnan(ordered), axis=-1, keepdims=True)
    rank = np.arange(values.shape[-1])
    low = count * 0.25
    # Each sorted value stands for one unit of the interval [0, count]; its weight is its share of the middle half.
    weight = np.clip(np.minimum(rank + 1, count - low) - np.maximum(rank, low), 0.0, 1.0)
    total = np.sum(np.where(weight > 0, ordered, 0.0) * weight, axis=-1)
    covered = np.sum(weight, axis=-1)
    return np.divide(total, covered, out=np.full(total.shape, np.nan), where=covered > 0)


def probability_of_improvement(
    x: Float[np.ndarray, "*batch N"], y: Float[np.ndarray, "*batch M"]
) -> Float[np.ndarray, "*batch"]:
    """The probability that a random seed of X is better than one of Y; the Mann-Whitney U statistic divided by N M.

        P(X > Y) = 1/(N M) sum_i sum_j S(x_i, y_j),   S(x, y) = 1 if x > y, 1/2 if x = y, 0 if x < y

    Source: Agarwal et al. 2021, section 4.3, for one task.
    """
    left, right = x[..., :, None], y[..., None, :]
    wins, ties = np.mean(left > right, axis=(-2, -1)), np.mean(left == right, axis=(-2, -1))
    return np.asarray(wins + 0.5 * ties)


def percentile_interval(draws: Float[np.ndarray, "*batch R"]) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval of bootstrap draws (Efron 1979), rounded outwards to draws, which may be infinite."""
    ordered, last = np.sort(draws, axis=-1), draws.shape[-1] - 1
    tail = (1.0 - CONFIDENCE) / 2.0
    return ordered[..., int(np.floor(tail * last))], ordered[..., int(np.ceil((1.0 - tail) * last))]


def bootstrap(
    strata: Sequence[Float[np.ndarray, " _"]], statistic: Callable[..., np.ndarray], resamples: int = RESAMPLES
) -> Estimate:
    """A statistic with its stratified bootstrap interval: each stratum is resampled separately, with replacement.

    Agarwal et al. 2021, section 4.1, stratify by task. Here all seeds act in one environment, and a stratum is the
    seeds of one variant.

    Args:
        strata: values of each stratum.
        statistic: takes one array per stratum, and reduces their last axis.
        resamples: number of resamples.
    """
    value = float(statistic(*strata))
    if min(len(stratum) for stratum in strata) < MIN_SEEDS_FOR_INTERVAL:
        return Estimate(value, np.nan, np.nan)
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    drawn = [stratum[rng.integers(len(stratum), size=(resamples, len(stratum)))] for stratum in strata]
    low, high = percentile_interval(statistic(*drawn))
    return Estimate(value, float(low), float(high))


def bootstrap_band(
    curve: Float[np.ndarray, "C S"], resamples: int = BAND_RESAMPLES
) -> tuple[Float[np.ndarray, " C"], Float[np.ndarray, " C"]]:
    """The pointwise bootstrap interval of the interquartile mean of learning curves; whole curves are resampled.

    Args:
        curve: a column for each seed, NaN where a point has no return.
        resamples: number of resamples.
    """
    points, seeds = curve.shape
    low, high = np.full(points, np.nan), np.full(points, np.nan)
    if seeds < MIN_SEEDS_FOR_INTERVAL:
        return low, high
    chosen = np.random.default_rng(BOOTSTRAP_SEED).integers(seeds, size=(resamples, seeds))
    for index, values in enumerate(curve):
        draws = interquartile_mean(values[chosen])
        known = draws[np.isfinite(draws)]
        if known.size:
            low[index], high[index] = percentile_interval(known)
    return low, high


def running_means(curve: Float[np.ndarray, " C"], window: int = WINDOW) -> Float[np.ndarray, " M"]:
    """Means of each point and the `window - 1` points before it; NaN is left out.

    A curve of fewer points than the window is averaged as a whole.

    Args:
        curve: one seed's returns, NaN where there is none.
        window: number of points to average.
    """
    known = curve[np.isfinite(curve)]
    if not known.size:
        return known
    return np.mean(np.lib.stride_tricks.sliding_window_view(known, min(window, known.size)), axis=-1)


def last_level(curve: Float[np.ndarray, " C"]) -> float:
    """The last running mean of one seed's learning curve, NaN if the curve has no point."""
    means = running_means(curve)
    return float(means[-1]) if means.size else float("nan")


def first_passage(curve: Float[np.ndarray, " C"], threshold: float) -> int | None:
    """The index of the first point whose running mean is at or above a threshold, without interpolation.

    Args:
        curve: one seed's returns, NaN where there is none.
        threshold: the level to reach.
    """
    means = running_means(curve)
    reached = np.flatnonzero(means >= threshold)
    # The first mean belongs to the last point of the first whole window.
    points = np.flatnonzero(np.isfinite(curve))[-means.size :]
    return int(points[reached[0]]) if reached.size else None
