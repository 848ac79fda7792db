"""The formulas, against numbers worked out by hand and against plain Python."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leed_jax.objectives import (
    SCHEDULES,
    advantage_weighted_loss,
    approximate_kl,
    clipped_surrogate_loss,
    dynamic_time_warping,
    expert_weight,
    generalised_advantages,
    negative_log_likelihood,
    normalise,
    remaining_share,
    value_loss,
    weighted_mean,
)

advantages = jax.jit(generalised_advantages)


def gae(
    reward: Any, value: Any, next_value: Any, terminated: Any, over: Any, discount: float, lam: float
) -> np.ndarray:
    floats = [jnp.asarray(x, jnp.float32) for x in (reward, value, next_value)]
    flags = [jnp.asarray(x, bool) for x in (terminated, over)]
    return np.asarray(advantages(*floats, *flags, discount, lam))


def test_advantages_worked_out_by_hand() -> None:
    # Three steps of one episode that goes on: deltas 1 + 0.5 * 4 - 2 = 1, 2 + 0.5 * 6 - 4 = 1, 3 + 0.5 * 8 - 6 = 1.
    found = gae([1, 2, 3], [2, 4, 6], [4, 6, 8], [0, 0, 0], [0, 0, 0], 0.5, 0.5)
    np.testing.assert_allclose(found, [1 + 0.25 * 1.25, 1.25, 1.0])


def test_nothing_is_bootstrapped_from_a_termination() -> None:
    found = gae([1, 2], [2, 4], [4, 100], [0, 1], [0, 1], 0.5, 0.5)
    np.testing.assert_allclose(found, [1 + 0.25 * -2, -2.0])


def test_a_time_limit_is_bootstrapped_from_what_follows() -> None:
    found = gae([1, 2], [2, 4], [4, 6], [0, 0], [0, 1], 0.5, 0.5)
    np.testing.assert_allclose(found, [1.25, 1.0])


@pytest.mark.parametrize("terminated", [True, False])
def test_nothing_leaks_from_the_next_episode(terminated: bool) -> None:
    ends = [False, True, False], [False, True, False]
    flags = [False, terminated, False], ends[1]
    found = [gae([1, 2, reward], [2, 4, 6], [4, 6, 8], *flags, 0.9, 0.9) for reward in (0.0, 1e6)]
    np.testing.assert_array_equal(found[0][:2], found[1][:2])
    assert found[0][2] != found[1][2]


def test_lambda_picks_between_one_step_and_the_whole_return() -> None:
    arguments = [1, 2, 3], [2, 4, 6], [4, 6, 8], [0, 0, 0], [0, 0, 1], 0.5
    np.testing.assert_allclose(gae(*arguments, 0.0), [1, 1, 1])
    whole = np.array([1 + 1 + 3 / 4 + 8 / 8, 2 + 3 / 2 + 8 / 4, 3 + 8 / 2])
    np.testing.assert_allclose(gae(*arguments, 1.0), whole - [2, 4, 6])


def plain_gae(
    reward: Any, value: Any, next_value: Any, terminated: Any, over: Any, discount: float, lam: float
) -> list:
    result, following = [], 0.0
    for r, v, n, ends, last in reversed(list(zip(reward, value, next_value, terminated, over, strict=True))):
        delta = r - v if ends else r + discount * n - v
        following = delta if last else delta + discount * lam * following
        result.append(following)
    return result[::-1]


NUMBERS = st.lists(st.floats(-100, 100, width=32), min_size=7, max_size=7)
FLAGS = st.lists(st.booleans(), min_size=7, max_size=7)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(NUMBERS, NUMBERS, NUMBERS, FLAGS, FLAGS, st.floats(0, 1, width=32), st.floats(0, 1, width=32))
def test_advantages_are_those_of_a_plain_loop(
    reward: Any, value: Any, next_value: Any, terminated: Any, over: Any, discount: float, lam: float
) -> None:
    arguments = reward, value, next_value, terminated, over, discount, lam
    np.testing.assert_allclose(gae(*arguments), plain_gae(*arguments), rtol=1e-4, atol=1e-3)


def test_the_surrogate_is_clipped_where_the_ratio_went_far_enough() -> None:
    ratio = jnp.array([1.0, 1.5, 1.5, 0.5, 0.5, 1.1])
    advantage = jnp.array([2.0, 2.0, -2.0, 2.0, -2.0, 1.0])
    behaviour = jnp.full(6, -1.0)
    # min(rho A, clip(rho) A) = 2, 2.4, -3, 1, -1.6, 1.1
    loss, gradient = jax.value_and_grad(clipped_surrogate_loss)(
        behaviour + jnp.log(ratio), behaviour, advantage, 0.2, jnp.ones(6)
    )
    np.testing.assert_allclose(loss, -(2 + 2.4 - 3 + 1 - 1.6 + 1.1) / 6, rtol=1e-6)
    np.testing.assert_allclose(gradient, -np.array([2, 0, -3, 1, 0, 1.1]) / 6, rtol=1e-5)


def test_the_ratio_of_a_sample_that_is_left_out_may_overflow() -> None:
    weight, behaviour, advantage = jnp.array([1.0, 0.0]), jnp.array([-1.0, -500.0]), jnp.array([2.0, 3.0])
    loss = lambda log_prob: clipped_surrogate_loss(log_prob, behaviour, advantage, 0.2, weight)  # noqa: E731
    value, gradient = jax.value_and_grad(loss)(jnp.array([-1.0, -1.0]))
    np.testing.assert_allclose(value, -2.0, rtol=1e-6)
    np.testing.assert_allclose(gradient, [-2.0, 0.0], rtol=1e-6)


def test_the_critics_loss_is_half_the_squared_error() -> None:
    value, target = jnp.array([1.0, 2.0, 5.0]), jnp.array([1.0, 4.0, 1.0])
    loss, gradient = jax.value_and_grad(value_loss)(value, target, jnp.ones(3))
    np.testing.assert_allclose(loss, 0.5 * (0 + 4 + 16) / 3)
    np.testing.assert_allclose(gradient, np.array([0, -2, 4]) / 3, rtol=1e-6)


def test_the_divergence_is_zero_at_home_and_positive_elsewhere() -> None:
    behaviour = jnp.log(jnp.array([0.5, 0.25]))
    assert approximate_kl(behaviour, behaviour, jnp.ones(2)) == 0
    learner = jnp.log(jnp.array([0.25, 0.5]))
    np.testing.assert_allclose(
        approximate_kl(learner, behaviour, jnp.ones(2)), ((0.5 - 1 + math.log(2)) + (2 - 1 - math.log(2))) / 2
    )


def test_the_divergence_is_the_exact_one_on_average() -> None:
    behaviour, learner = np.array([0.7, 0.2, 0.1]), np.array([0.5, 0.3, 0.2])
    # Ten samples in the shares of the behaviour policy.
    drawn = np.repeat([0, 1, 2], [7, 2, 1])
    found = approximate_kl(jnp.log(jnp.asarray(learner))[drawn], jnp.log(jnp.asarray(behaviour))[drawn], jnp.ones(10))
    np.testing.assert_allclose(found, np.sum(behaviour * np.log(behaviour / learner)), rtol=1e-5)


def test_the_likelihood_is_weighted() -> None:
    log_prob, weight = jnp.array([-1.0, -2.0, -50.0]), jnp.array([1.0, 3.0, 0.0])
    loss, gradient = jax.value_and_grad(negative_log_likelihood)(log_prob, weight)
    np.testing.assert_allclose(loss, 7 / 4)
    np.testing.assert_allclose(gradient, [-1 / 4, -3 / 4, 0])


def test_no_weight_at_all_gives_no_loss_and_no_gradient() -> None:
    log_prob = jnp.array([-1.0, -jnp.inf, -3.0])
    loss, gradient = jax.value_and_grad(negative_log_likelihood)(log_prob, jnp.zeros(3))
    assert loss == 0
    np.testing.assert_array_equal(gradient, np.zeros(3))


@pytest.mark.parametrize("x", [[1.0, 2.0, 6.0], [-3.0, 1e4, 0.0, 7.0]])
def test_normalised_numbers_have_mean_zero_and_deviation_one(x: list[float]) -> None:
    found = np.asarray(normalise(jnp.array(x), jnp.ones(len(x))))
    np.testing.assert_allclose([found.mean(), found.std()], [0, 1], atol=1e-6)
    np.testing.assert_allclose(found, (np.array(x) - np.mean(x)) / np.std(x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7, 1000.1])
@pytest.mark.parametrize("size", [1, 3, 7, 832])
def test_equal_numbers_normalise_to_zero(value: float, size: int) -> None:
    np.testing.assert_array_equal(normalise(jnp.full(size, value), jnp.ones(size)), np.zeros(size))


def test_what_has_no_weight_is_as_if_it_were_not_there() -> None:
    kept, weight = np.array([0, 2, 3, 5]), jnp.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    left, right = jnp.array([-0.1, 9.0, -0.7, -0.4, -99.0, -0.2]), jnp.array([-0.3, 2.0, -0.5, -0.6, 1.0, -0.1])
    advantage, one = jnp.array([1.0, 1e9, -2.0, 0.5, jnp.inf, 3.0]), jnp.ones(4)
    for whole, part in (
        (weighted_mean(left, weight), jnp.mean(left[kept])),
        (value_loss(left, right, weight), value_loss(left[kept], right[kept], one)),
        (approximate_kl(left, right, weight), approximate_kl(left[kept], right[kept], one)),
        (
            clipped_surrogate_loss(left, right, advantage, 0.2, weight),
            clipped_surrogate_loss(left[kept], right[kept], advantage[kept], 0.2, one),
        ),
        (normalise(advantage, weight)[kept], normalise(advantage[kept], one)),
    ):
        np.testing.assert_allclose(whole, part, rtol=1e-5)
    np.testing.assert_array_equal(normalise(advantage, weight)[np.array([1, 4])], [0, 0])


def test_a_weight_of_two_counts_twice() -> None:
    twice = weighted_mean(jnp.array([1.0, 4.0]), jnp.array([2.0, 1.0]))
    np.testing.assert_allclose(twice, 2.0)


SCHEDULED = {
    "constant": [1, 1, 1, 1],
    "linear": [1, 0.5, 0, 0],
    "cosine": [1, 0.5, 0, 0],
    "exponential": [1, math.exp(-2.5), 0, 0],
}


def test_every_schedule_is_known() -> None:
    assert set(SCHEDULED) == set(SCHEDULES)


@pytest.mark.parametrize("schedule", SCHEDULED)
def test_the_experts_weight_falls_as_scheduled(schedule: str) -> None:
    found = [expert_weight(schedule, 2.0, jnp.array(update), 10.0) for update in (0, 5, 10, 25)]
    np.testing.assert_allclose(found, 2 * np.array(SCHEDULED[schedule]), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("schedule", SCHEDULED)
def test_no_schedule_rises_or_leaves_the_unit_interval(schedule: str) -> None:
    shape = np.asarray(jax.vmap(SCHEDULES[schedule])(jnp.linspace(0, 1, 101)))
    assert np.all(np.diff(shape) <= 0)
    assert np.all((shape >= -1e-7) & (shape <= 1))


def test_a_decay_over_no_updates_is_over_after_one() -> None:
    assert expert_weight("linear", 1.0, jnp.array(0), 0.0) == 1
    assert expert_weight("linear", 1.0, jnp.array(1), 0.0) == 0


def test_an_unknown_schedule_is_an_error() -> None:
    with pytest.raises(KeyError):
        expert_weight("stepwise", 1.0, jnp.array(0), 1.0)


FLAT, SQUARE, FLAGGED = jnp.zeros(4), jnp.zeros((2, 2)), jnp.zeros(4, bool)
BATCHED = {
    "advantages": lambda: generalised_advantages(SQUARE, FLAT, FLAT, FLAGGED, FLAGGED, 0.9, 0.9),
    "lengths": lambda: generalised_advantages(jnp.zeros(3), FLAT, FLAT, FLAGGED, FLAGGED, 0.9, 0.9),
    "surrogate": lambda: clipped_surrogate_loss(FLAT, SQUARE, FLAT, 0.2, FLAT),
    "surrogate of one": lambda: clipped_surrogate_loss(FLAT, jnp.zeros(1), FLAT, 0.2, FLAT),
    "value": lambda: value_loss(FLAT, SQUARE, FLAT),
    "value of one": lambda: value_loss(FLAT, jnp.zeros(1), FLAT),
    "divergence": lambda: approximate_kl(SQUARE, SQUARE, FLAT),
    "divergence of one": lambda: approximate_kl(FLAT, jnp.zeros(1), FLAT),
    "likelihood": lambda: negative_log_likelihood(SQUARE, FLAT),
    "likelihood of one": lambda: negative_log_likelihood(FLAT, jnp.zeros(1)),
    "normalise": lambda: normalise(SQUARE, FLAT),
}


@pytest.mark.parametrize("case", BATCHED)
def test_arrays_of_another_rank_or_length_are_errors(case: str) -> None:
    # Whether the annotations are checked first, as in these tests, or the function itself: it does not broadcast.
    with pytest.raises((AssertionError, TypeError)):
        BATCHED[case]()


def test_advantage_weighted_loss_worked_out_by_hand() -> None:
    log_prob, advantage = jnp.array([-1.0, -2.0, -3.0]), jnp.array([0.0, math.log(3.0), -50.0])
    found = advantage_weighted_loss(log_prob, advantage, jnp.ones(3), 1.0, 20.0)
    np.testing.assert_allclose(found, (1 * 1 + 3 * 2 + 0) / 3, rtol=1e-6)


def test_advantage_weights_are_bounded_and_their_temperature_divides() -> None:
    log_prob = jnp.array([-1.0, -1.0])
    found = advantage_weighted_loss(log_prob, jnp.array([1e30, 4.0]), jnp.array([1.0, 0.0]), 2.0, 5.0)
    np.testing.assert_allclose(found, 5.0, rtol=1e-6)
    found = advantage_weighted_loss(log_prob, jnp.array([-jnp.inf, 4.0]), jnp.array([0.0, 1.0]), 2.0, 1e6)
    np.testing.assert_allclose(found, math.exp(2.0), rtol=1e-6)


def test_no_gradient_flows_through_the_advantage_or_left_out_samples() -> None:
    weight = jnp.array([1.0, 0.0])
    loss = lambda log_prob, advantage: advantage_weighted_loss(log_prob, advantage, weight, 1.0, 20.0)  # noqa: E731
    for_log_prob, for_advantage = jax.grad(loss, (0, 1))(jnp.array([-1.0, -jnp.inf]), jnp.array([0.5, 1.0]))
    np.testing.assert_allclose(for_log_prob, [-math.exp(0.5), 0.0], rtol=1e-6)
    np.testing.assert_array_equal(for_advantage, [0.0, 0.0])
    assert float(advantage_weighted_loss(jnp.array([-1.0]), jnp.array([1.0]), jnp.zeros(1), 1.0, 20.0)) == 0.0


def warp(left: np.ndarray, right: np.ndarray) -> float:
    """Dynamic time warping as it is defined, by recursion."""
    table = np.full((len(left) + 1, len(right) + 1), np.inf)
    table[0, 0] = 0.0
    for i in range(len(left)):
        for j in range(len(right)):
            before = min(table[i, j + 1], table[i + 1, j], table[i, j])
            table[i + 1, j + 1] = float(np.sqrt(np.sum((left[i] - right[j]) ** 2))) + before
    return float(table[-1, -1])


@pytest.mark.parametrize(("rows", "columns", "width"), [(1, 1, 2), (1, 5, 1), (5, 1, 3), (7, 4, 2), (6, 6, 3)])
def test_dynamic_time_warping_is_what_plain_python_computes(rows: int, columns: int, width: int) -> None:
    source = np.random.default_rng(rows * 100 + columns)
    left, right = source.normal(size=(rows, width)), source.normal(size=(columns, width))
    padded = [np.concatenate([x, np.full((3, width), 99.0)]) for x in (left, right)]
    found = jax.jit(dynamic_time_warping)(*map(jnp.float32, padded), rows, columns)
    np.testing.assert_allclose(found, warp(left, right), rtol=1e-5)
    whole = jax.jit(dynamic_time_warping)(*map(jnp.float32, padded), rows + 3, columns + 3)
    np.testing.assert_allclose(whole, warp(*padded), rtol=1e-5)


def test_warping_forgives_waiting_and_nothing_else() -> None:
    path = jnp.array([[0.0], [1.0], [2.0], [3.0]])
    waited = jnp.array([[0.0], [0.0], [1.0], [2.0], [2.0], [3.0]])
    assert float(dynamic_time_warping(path, waited, 4, 6)) == 0.0
    assert float(dynamic_time_warping(path, waited + 0.5, 4, 6)) > 0.0


def test_the_remaining_share_falls_from_one_to_nothing() -> None:
    widest = jnp.array([10.0, 10.0, 10.0, 10.0, 0.0, -3.0])
    distance = jnp.array([20.0, 10.0, 4.0, -1.0, 5.0, 5.0])
    np.testing.assert_allclose(remaining_share(distance, widest, 1.0), [1.0, 1.0, 0.4, 0.0, 0.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(remaining_share(distance, widest, 0.8), [1.0, 1.0, 0.5, 0.0, 0.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(remaining_share(distance, widest, 0.1), [1.0, 1.0, 1.0, 0.0, 0.0, 0.0], rtol=1e-6)
