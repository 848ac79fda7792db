"""Statistics of a comparison, against values worked out by hand, by enumeration, and by SciPy."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from leed_jax.report.statistics import (
    CONFIDENCE,
    WINDOW,
    bootstrap,
    bootstrap_band,
    first_passage,
    interquartile_mean,
    last_level,
    percentile_interval,
    probability_of_improvement,
    running_means,
)

INF, NAN = np.inf, np.nan
PUBLISHED = Path(__file__).parents[1] / "docs" / "results" / "sample_efficiency" / "comparison.json"
NUMBERS = st.floats(-1e6, 1e6)
SCORES = st.integers(1, 12).flatmap(lambda n: hnp.arrays(np.float64, n, elements=NUMBERS))
TIED = st.integers(1, 6).flatmap(lambda n: hnp.arrays(np.float64, n, elements=st.integers(-3, 3)))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0, 3.0, INF], 2.5),
        ([1.0, INF, 2.0, INF], INF),
        ([INF, 4.0, 1.0, 3.0, 2.0], (0.75 * 2 + 3 + 0.75 * 4) / 2.5),
        ([1.0, 2.0, 3.0, INF, INF], INF),
        ([-INF, 1.0, 2.0, 3.0], 1.5),
        ([-INF, -INF, 2.0, 3.0], -INF),
        ([-INF, -7.0, -3.0, -5.0], -6.0),
        ([INF], INF),
        ([-INF, -INF], -INF),
        ([5.0, 5.0], 5.0),
    ],
)
def test_the_interquartile_mean_is_infinite_only_if_the_middle_half_is(values, expected):
    both = np.array([values, values[::-1]])
    np.testing.assert_allclose(interquartile_mean(both), [expected, expected])


@given(st.sampled_from([4, 8, 12]).flatmap(lambda n: hnp.arrays(np.float64, (3, n), elements=NUMBERS)))
def test_the_interquartile_mean_is_a_trimmed_mean_where_quarters_are_whole(values):
    np.testing.assert_allclose(interquartile_mean(values), stats.trim_mean(values, 0.25, axis=-1), atol=1e-6)


@given(SCORES, st.data())
def test_a_seed_that_gets_worse_to_infinity_never_lowers_the_interquartile_mean(values, data):
    worse = values.copy()
    worse[data.draw(st.integers(0, len(values) - 1))] = INF
    assert interquartile_mean(worse) >= interquartile_mean(values) - 1e-6
    assert values.min() - 1e-6 <= interquartile_mean(values) <= values.max() + 1e-6


def test_probability_of_improvement_by_hand():
    # 1 loses twice, 2 ties twice, 3 wins twice: (0 + 0 + 0.5 + 0.5 + 1 + 1) / 6
    assert probability_of_improvement(np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0])) == 0.5
    assert probability_of_improvement(np.array([3.0, 1.0]), np.array([2.0])) == 0.5
    assert probability_of_improvement(np.array([-INF, 5.0]), np.array([1.0])) == 0.5
    batch = probability_of_improvement(np.array([[1.0], [2.0], [3.0]]), np.array([[2.0], [2.0], [2.0]]))
    np.testing.assert_array_equal(batch, [0.0, 0.5, 1.0])


@given(TIED, TIED)
def test_probability_of_improvement_is_the_u_statistic_of_mann_and_whitney(x, y):
    found = float(probability_of_improvement(x, y))
    assert found == pytest.approx(stats.mannwhitneyu(x, y, method="asymptotic").statistic / (len(x) * len(y)))
    assert found + float(probability_of_improvement(y, x)) == pytest.approx(1.0)


def test_the_percentile_interval_leaves_a_fortieth_at_each_end():
    draws = np.random.default_rng(1).permutation(np.arange(1001.0))
    assert percentile_interval(draws) == (25.0, 975.0)
    late = np.where(draws >= 960, INF, draws)
    assert percentile_interval(late) == (25.0, INF)


def exact_distribution(values):
    """The statistic of every equally likely resample."""
    return np.array([interquartile_mean(np.array(draw)) for draw in itertools.product(values, repeat=len(values))])


@pytest.mark.parametrize("values", [[0.0, 1.0, 10.0], [0.0, 1.0, 3.0, 9.0], [0.0, 1.0, 3.0, 9.0, 27.0]])
def test_the_bootstrap_interval_is_that_of_all_resamples(values):
    exact, tail = exact_distribution(values), (1 - CONFIDENCE) / 2
    found = bootstrap([np.array(values)], interquartile_mean)
    assert found.value == interquartile_mean(np.array(values))
    for end, share in ((found.low, tail), (found.high, 1 - tail)):
        assert np.mean(exact < end - 1e-9) <= share + 0.008
        assert np.mean(exact <= end + 1e-9) >= share - 0.008


def test_each_stratum_is_resampled_for_itself():
    seen = []

    def difference(x, y):
        seen.append((x, y))
        return np.mean(x, axis=-1) - np.mean(y, axis=-1)

    bootstrap([np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0])], difference, resamples=500)
    (_, _), (x, y) = seen
    assert x.shape == (500, 3)
    assert y.shape == (500, 2)
    assert set(x.ravel()) == {1.0, 2.0, 3.0}
    assert set(y.ravel()) == {10.0, 20.0}
    assert abs(np.corrcoef(x[:, 0], y[:, 0])[0, 1]) < 0.15


def test_the_bootstrap_draws_the_same_every_time_and_nothing_of_a_single_seed():
    values = np.random.default_rng(3).normal(size=7)
    assert bootstrap([values], interquartile_mean) == bootstrap([values], interquartile_mean)
    single = bootstrap([np.array([4.0])], interquartile_mean)
    assert single.value == 4.0
    assert np.isnan([single.low, single.high]).all()
    pair = bootstrap([np.array([4.0]), np.array([1.0, 9.0])], probability_of_improvement)
    assert pair.value == 0.5
    assert np.isnan(pair.low)


def test_an_interval_of_separate_variants_is_a_point_and_of_mixed_ones_is_not():
    apart = bootstrap([np.arange(5.0) + 10, np.arange(5.0)], probability_of_improvement)
    assert (apart.value, apart.low, apart.high) == (1.0, 1.0, 1.0)
    mixed = bootstrap([np.arange(5.0) + 1, np.arange(5.0)], probability_of_improvement)
    assert 0.0 < mixed.low < mixed.value < mixed.high <= 1.0


def test_the_band_is_the_interval_of_every_point():
    curve = np.random.default_rng(0).normal(size=(4, 5)) + np.arange(4.0)[:, None]
    low, high = bootstrap_band(curve)
    for index, values in enumerate(curve):
        point = bootstrap([values], interquartile_mean, resamples=2000)
        assert low[index] == pytest.approx(point.low)
        assert high[index] == pytest.approx(point.high)


def test_the_band_where_returns_are_missing_or_alike():
    low, high = bootstrap_band(np.array([[NAN, NAN, NAN], [2.0, 2.0, 2.0], [NAN, 1.0, 3.0]]))
    np.testing.assert_array_equal(low, [NAN, 2.0, 1.0])
    np.testing.assert_array_equal(high, [NAN, 2.0, 3.0])
    assert np.isnan(bootstrap_band(np.array([[1.0], [2.0]]))).all()


@pytest.mark.parametrize(
    ("curve", "threshold", "expected"),
    [
        # Means of three: -, -, 1, 2, 3
        ([0.0, 0.0, 3.0, 3.0, 3.0], 2.0, 3),
        ([0.0, 0.0, 3.0, 3.0, 3.0], 2.001, 4),
        ([0.0, 0.0, 3.0, 3.0, 3.0], 3.001, None),
        # One good chunk is no level, and what comes after it does not matter.
        ([0.0, 5.0, 0.0, 0.0], 2.0, None),
        ([0.0, 6.0, 0.0, 0.0, 0.0], 2.0, 2),
        ([9.0, 9.0, 9.0], 2.0, 2),
        ([NAN, 0.0, NAN, 3.0, 3.0, 3.0], 2.0, 4),
        ([5.0, 7.0], 6.0, 1),
        ([5.0, 7.0], 6.1, None),
        ([4.0], 4.0, 0),
        ([NAN, 4.0, NAN], 4.0, 1),
        ([NAN, NAN], 0.0, None),
    ],
)
def test_the_first_point_at_a_threshold(curve, threshold, expected):
    assert first_passage(np.array(curve), threshold) == expected


@given(st.lists(st.integers(-9, 9), min_size=WINDOW, max_size=20), st.floats(-10, 10), st.floats(0, 5))
def test_a_higher_threshold_is_never_reached_sooner(levels, threshold, more):
    curve = np.array(levels, np.float64)
    sooner, later = first_passage(curve, threshold), first_passage(curve, threshold + more)
    slow = [t for t in range(WINDOW - 1, len(curve)) if np.mean(curve[t - WINDOW + 1 : t + 1]) >= threshold]
    assert sooner == (slow[0] if slow else None)
    assert later is None or (sooner is not None and sooner <= later)


def test_the_level_at_the_end():
    assert last_level(np.array([100.0, 1.0, 2.0, NAN, 6.0])) == 3.0
    assert np.isnan(last_level(np.array([NAN])))
    np.testing.assert_array_equal(running_means(np.array([0.0, 3.0, 6.0, 9.0])), [3.0, 6.0])


def test_published_intervals_are_those_of_the_published_returns():
    comparison = json.loads(PUBLISHED.read_text())
    variants = {variant["label"]: variant for variant in comparison["variants"]}

    def numbers(values, missing):
        return np.array([missing if value is None else value for value in values])

    def published(values, missing):
        return tuple(numbers((values["value"], values["low"], values["high"]), missing))

    reference = numbers(variants[comparison["reference"]]["final"], -INF)
    for variant in variants.values():
        final = numbers(variant["final"], -INF)
        found = bootstrap([final], interquartile_mean)
        assert (found.value, found.low, found.high) == published(variant["iqm"], -INF)
        if variant["improvement"] is not None:
            found = bootstrap([final, reference], probability_of_improvement)
            assert (found.value, found.low, found.high) == published(variant["improvement"], NAN)
        steps = variant["steps_to_threshold"]
        found = bootstrap([numbers(steps["of_seeds"], INF)], interquartile_mean)
        assert (found.value, found.low, found.high) == published(steps["iqm"], INF)
