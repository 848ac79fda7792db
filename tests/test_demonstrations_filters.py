"""Which plans and episodes are learnt from, beside plain NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leed_jax.demonstrations import best_episodes, best_plans
from leed_jax.demonstrations.sets import kept_episodes

SHARES = [0.0, 0.1, 0.25, 0.3, 0.5, 0.7, 0.9, 0.999, 1.0]


def different(episodes: int, agents: int, seed: int) -> np.ndarray:
    """Returns without equals, for each agent and on average."""
    values = np.random.default_rng(seed).permutation(episodes * agents).astype(float)
    return (values + np.sqrt(values)).reshape(episodes, agents)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 60), st.integers(1, 3), st.sampled_from(SHARES), st.integers(0, 99))
def test_what_is_below_the_quantile_is_left_out(episodes: int, agents: int, share: float, seed: int) -> None:
    returns = different(episodes, agents, seed)
    mean = returns.mean(axis=1)
    expected = np.flatnonzero(mean >= np.quantile(mean, share) - 1e-9)
    chosen = best_episodes(returns, share)
    assert chosen.shape == (len(expected), agents)
    for agent in range(agents):
        np.testing.assert_array_equal(chosen[:, agent], expected)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 60), st.sampled_from(SHARES), st.integers(0, 99))
def test_agents_may_be_compared_each_by_its_own_return(episodes: int, share: float, seed: int) -> None:
    returns = different(episodes, 3, seed)
    chosen = best_episodes(returns, share, per_agent=True)
    for agent, own in enumerate(returns.T):
        np.testing.assert_array_equal(chosen[:, agent], np.flatnonzero(own >= np.quantile(own, share) - 1e-9))


@pytest.mark.parametrize("per_agent", [False, True])
def test_of_what_is_left_the_best_are_taken(per_agent: bool) -> None:
    returns = np.array([[5.0, 0.0], [1.0, 9.0], [4.0, 0.5], [3.0, 3.0]])
    own = [[0, 1], [2, 3]] if per_agent else [[1, 1], [3, 3]]
    np.testing.assert_array_equal(best_episodes(returns, 0.3, per_agent, 2), own)
    np.testing.assert_array_equal(best_episodes(returns, 0.9, per_agent, 2), [[0, 1]] if per_agent else [[1, 1]])


def test_equals_are_taken_in_order_and_their_number_stays_the_same() -> None:
    for returns in (np.zeros((7, 2)), different(7, 2, 0)):
        assert best_episodes(returns, 0.5).shape == (kept_episodes(7, 0.5, None), 2) == (4, 2)
    np.testing.assert_array_equal(best_episodes(np.zeros((7, 2)), 0.5)[:, 0], [0, 1, 2, 3])


def test_nothing_is_left_out_unasked() -> None:
    np.testing.assert_array_equal(best_episodes(different(5, 2, 0), number=9), np.tile(np.arange(5)[:, None], 2))


def test_the_best_plans_come_first_and_those_without_a_score_last() -> None:
    assert best_plans([1.0, None, 3.0, 1.0, -2.0], None) == [2, 0, 3, 4, 1]
    assert best_plans([1.0, None, 3.0], 2) == [2, 0]
    assert best_plans([None, None], 5) == [0, 1]
