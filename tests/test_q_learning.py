"""The formulas of Q-learning for a team, against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leed_jax.objectives import (
    best_available,
    double_q_value,
    linear_schedule,
    monotonic_mixing,
    sum_of_values,
    team_target,
)


@pytest.mark.parametrize(("update", "expected"), [(0, 1.0), (5, 0.6), (10, 0.2), (25, 0.2)])
def test_a_schedule_goes_evenly_and_stays(update: int, expected: float) -> None:
    np.testing.assert_allclose(linear_schedule(jnp.int32(update), 1.0, 0.2, 10.0), expected, rtol=1e-6)


def test_a_schedule_of_no_length_is_over_after_one_update() -> None:
    found = [float(linear_schedule(jnp.int32(update), 1.0, 0.2, 0.0)) for update in (0, 1)]
    np.testing.assert_allclose(found, [1.0, 0.2], rtol=1e-6)


@pytest.mark.parametrize(
    ("available", "expected"),
    [([True, True, True], 2), ([True, True, False], 1), ([True, False, False], 0), ([False] * 3, 0)],
)
def test_the_best_action_is_one_that_is_available(available: list[bool], expected: int) -> None:
    assert int(best_available(jnp.array([-7.0, -5.0, -3.0]), jnp.array(available))) == expected


def test_one_network_chooses_and_the_other_one_tells_the_value() -> None:
    online, target = jnp.array([1.0, 9.0, 5.0]), jnp.array([30.0, 10.0, 20.0])
    assert double_q_value(online, target, jnp.ones(3, bool)) == 10.0
    assert double_q_value(online, target, jnp.array([True, False, True])) == 20.0


def test_a_target_is_the_reward_and_what_is_still_to_come() -> None:
    going_on, over = jnp.array(False), jnp.array(True)
    np.testing.assert_allclose(team_target(jnp.float32(2), jnp.float32(10), going_on, 0.9), 11.0)
    np.testing.assert_allclose(team_target(jnp.float32(2), jnp.float32(10), over, 0.9), 2.0)
    # What stands there means nothing, and need not even be a number.
    np.testing.assert_allclose(team_target(jnp.float32(2), jnp.float32(np.nan), over, 0.9), 2.0)


def test_values_are_summed() -> None:
    assert sum_of_values(jnp.array([1.0, -2.0, 4.0])) == 3.0


def test_values_are_mixed() -> None:
    mixed = monotonic_mixing(
        value=jnp.array([1.0, -2.0]),
        first_weight=jnp.array([[2.0, -1.0], [0.5, 3.0]]),
        first_bias=jnp.array([0.5, 1.0]),
        second_weight=jnp.array([-2.0, 3.0]),
        second_bias=jnp.float32(0.25),
    )
    # |W_1|^T q + b_1 = [2 - 1 + 0.5, 1 - 6 + 1] = [1.5, -4], so that elu gives [1.5, exp(-4) - 1].
    np.testing.assert_allclose(mixed, 2 * 1.5 + 3 * (np.exp(-4) - 1) + 0.25, rtol=1e-6)


def test_the_mixed_value_falls_in_no_agents_value() -> None:
    draws, agents, size = 500, 3, 4
    keys = jax.random.split(jax.random.key(0), 5)
    shapes = [(agents,), (agents, size), (size,), (size,), ()]
    values = [jax.random.normal(key, (draws, *shape)) for key, shape in zip(keys, shapes, strict=True)]
    slopes = np.asarray(jax.vmap(jax.grad(monotonic_mixing))(*values))
    assert np.all(slopes >= 0)
    assert np.all(np.mean(slopes > 0, axis=0) > 0.99)


def test_ones_mix_to_the_sum_where_nothing_bends() -> None:
    value = jnp.array([1.0, 2.0, 3.0])
    mixed = monotonic_mixing(value, jnp.ones((3, 1)), jnp.zeros(1), jnp.ones(1), jnp.float32(0))
    np.testing.assert_allclose(mixed, sum_of_values(value))
