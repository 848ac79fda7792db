"""Statistics of a few seeds: interquartile means, stratified bootstrap, probability of improvement, first passage.

The definitions are those of Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice"
(arXiv 2108.13264). All functions are pure, and the bootstrap always draws the same resamples.
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
MIN_FOR_INTERVAL = 2


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """The mean of the middle half along the last axis (Agarwal et al. 2021, arXiv 2108.13264); NaN counts as missing.

    Args:
        values: `[..., S]`.
    """
    ordered = np.sort(values, axis=-1)
    count = np.sum(np.isfinite(ordered), axis=-1, keepdims=True)
    rank = np.arange(values.shape[-1])
    low = count * 0.25
    # Each sorted value stands for one unit of the interval [0, count]; its weight is its share of the middle half.
    weight = np.clip(np.minimum(rank + 1, count - low) - np.maximum(rank, low), 0.0, 1.0)
    total = np.sum(np.where(weight > 0, ordered * weight, 0.0), axis=-1)
    covered = np.sum(weight, axis=-1)
    return np.divide(total, covered, out=np.full(total.shape, np.nan), where=covered > 0)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A statistic with its bootstrap interval.

    Attributes:
        value: the statistic of the seeds that were trained.
        low: lower end of the 95 % interval; NaN where a single seed gives none.
        high: upper end.
    """

    value: float
    low: float
    high: float


def extended_iqm(values: Float[np.ndarray, "*batch S"]) -> Float[np.ndarray, "*batch"]:
    """The interquartile mean of numbers that may be infinite in one direction.

    It is infinite if, and only if, an infinite number has a share in the middle half. Infinity stands for a seed that
    did not reach a level, or that diverged; to leave it out would make the others look better.

    Args:
        values: no NaN, and not both infinities along the last axis.
    """
    infinite = np.isinf(values)
    finite = values[~infinite]
    largest = np.max(np.abs(finite)) if finite.size else 0.0
    # Whatever stands in for infinity has to be sorted to the same end.
    middle = interquartile_mean(np.where(infinite, np.copysign(largest, values), values))
    sign = np.where(np.any(values == -np.inf, axis=-1), -np.inf, np.inf)
    # The order of the marks is the order of the numbers: they are last for +inf, and the middle half is symmetric.
    touched = interquartile_mean(infinite.astype(np.float64)) > 0
    return np.where(touched, sign, middle)


def median(values: Float[np.ndarray, " S"]) -> float:
    """The median of numbers that may be infinite in one direction; the mean of the two in the middle if S is even."""
    return float(np.median(values))


def probability_of_improvement(
    x: Float[np.ndarray, "*batch N"], y: Float[np.ndarray, "*batch M"]
) -> Float[np.ndarray, "*batch"]:
    """How likely a random seed of X is better than one of Y; the Mann-Whitney U statistic divided by N M.

        P(X > Y) = 1/(N M) sum_i sum_j S(x_i, y_j),   S(x, y) = 1 if x > y, 1/2 if x = y, 0 if x < y

    Source: Agarwal et al. 2021 (arXiv 2108.13264), section 4.3, for one task.
    """
    left, right = x[..., :, None], y[..., None, :]
    wins, ties = np.mean(left > right, axis=(-2, -1)), np.mean(left == right, axis=(-2, -1))
    return np.asarray(wins + 0.5 * ties)


def percentile_interval(draws: Float[np.ndarray, "*batch R"]) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval of bootstrap draws, rounded outwards to whole draws, so that they may be infinite.

    Source: Efron 1979; the interval that Agarwal et al. 2021 report.
    """
    ordered, last = np.sort(draws, axis=-1), draws.shape[-1] - 1
    tail = (1.0 - CONFIDENCE) / 2.0
    return ordered[..., int(np.floor(tail * last))], ordered[..., int(np.ceil((1.0 - tail) * last))]


def bootstrap(
    strata: Sequence[Float[np.ndarray, " _"]], statistic: Callable[..., np.ndarray], resamples: int = RESAMPLES
) -> Estimate:
    """A statistic with its stratified bootstrap interval: each stratum is resampled for itself, with replacement.

    Agarwal et al. 2021, section 4.1, take tasks for strata. Here all seeds act in one environment, and a stratum is
    what was trained alike: one variant's seeds.

    Args:
        strata: numbers of each stratum.
        statistic: of one array per stratum, over the last axis.
        resamples: how many draws.
    """
    value = float(statistic(*strata))
    if min(len(stratum) for stratum in strata) < MIN_FOR_INTERVAL:
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
        curve: a column for each seed, NaN where a chunk has no return.
        resamples: how many draws.
    """
    points, seeds = curve.shape
    if seeds < MIN_FOR_INTERVAL:
        return np.full(points, np.nan), np.full(points, np.nan)
    chosen = np.random.default_rng(BOOTSTRAP_SEED).integers(seeds, size=(resamples, seeds))
    low, high = np.full(points, np.nan), np.full(points, np.nan)
    for index, values in enumerate(curve):
        draws = interquartile_mean(values[chosen])
        # A draw of nothing but missing values says nothing.
        known = draws[np.isfinite(draws)]
        if known.size:
            low[index], high[index] = percentile_interval(known)
    return low, high


def running_means(curve: Float[np.ndarray, " C"], window: int = WINDOW) -> Float[np.ndarray, " M"]:
    """Means of each point and the points before it, where there are enough of them.

        m_t = 1/W sum_{k=0}^{W-1} r_{t-k}

    Points without a return are passed over. A curve of fewer points than the window is averaged as a whole.

    Args:
        curve: one seed's returns, NaN where there is none.
        window: W, how many points are averaged.
    """
    known = curve[np.isfinite(curve)]
    if not known.size:
        return known
    return np.mean(np.lib.stride_tricks.sliding_window_view(known, min(window, known.size)), axis=-1)


def last_level(curve: Float[np.ndarray, " C"]) -> float:
    """The last running mean of a learning curve, NaN if it has no point."""
    means = running_means(curve)
    return float(means[-1]) if means.size else float("nan")


def first_reached(curve: Float[np.ndarray, " C"], threshold: float) -> int | None:
    """The first point at which the running mean is at or above a threshold, None if there is none.

        min { t : m_t >= threshold }

    Nothing is interpolated, and what comes afterwards does not matter.

    Args:
        curve: one seed's returns, NaN where there is none.
        threshold: the level to reach.
    """
    means = running_means(curve)
    reached = np.flatnonzero(means >= threshold)
    # The first means stand at the end of a whole window.
    points = np.flatnonzero(np.isfinite(curve))[-means.size :]
    return int(points[reached[0]]) if reached.size else None
