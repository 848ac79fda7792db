"""The forms of the expert term, and what its weight goes by."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from probes import HPARAMS, Choice, Nothing, Steady, hparams, learner
from test_objectives import warp

from leed_jax.errors import ConfigurationError
from leed_jax.instructions import Trajectory
from leed_jax.learning.expert_weight import ExpertGap, reference_episodes, trajectory_gap, update_gap
from leed_jax.learning.experts import (
    ExpertBatch,
    ExpertOutcome,
    ExpertReference,
    Experts,
    expert_episodes,
    sample_experts,
)
from leed_jax.learning.loss import demonstrated_advantages
from leed_jax.learning.rollout import Rollout

AGENTS, EPISODES = 2, 40
# Agent i earns 1 for action i + 1.
CHOICE = Choice(num_agents=AGENTS)
add = jax.jit(update_gap, static_argnums=1)
trajectory_distance = jax.jit(trajectory_gap)


def demonstrations(action: Any, reward: Any) -> Trajectory:
    """Episodes of two steps that look alike, in which all agents take the same actions and earn the same."""
    shape = (EPISODES, 2, AGENTS)
    taken = jnp.broadcast_to(jnp.asarray(action, jnp.int32)[:, None, None], shape)
    return Trajectory(
        observation=jnp.ones((*shape, 1)),
        action=taken,
        taken=taken,
        reward=jnp.broadcast_to(jnp.asarray(reward, jnp.float32)[:, None, None], shape),
        available_actions=jnp.ones((*shape, 3), bool),
        active=jnp.ones(shape, bool),
        terminated=jnp.zeros(shape, bool).at[:, 1].set(True),
    )


def learn(environment: Any, experts: Experts, updates: int = 100, **changes: Any) -> tuple[np.ndarray, Any]:
    """The probabilities of the actions after so many updates, and the means of the metrics."""
    probe = learner(environment)
    state, metrics = probe.learn(updates, experts, **{"expert_schedule": "constant", **changes})
    return probe.probabilities(state.parameters), metrics


# --- terms ------------------------------------------------------------------------------------------------------

# Half of the expert's episodes earn something by action 2, the other half nothing by action 0.
MIXED = expert_episodes(demonstrations([0, 2] * (EPISODES // 2), [0.0, 1.0] * (EPISODES // 2)))


def test_likelihood_imitates_good_and_bad_alike() -> None:
    found, _ = learn(CHOICE, Experts(samples=MIXED), policy_coefficient=0.0)
    np.testing.assert_allclose(found, [[0.5, 0.0, 0.5]] * AGENTS, atol=0.1)


@pytest.mark.parametrize("term", ["advantage", "surrogate"])
def test_what_earned_more_is_imitated_more(term: str) -> None:
    how = {"expert_term": term, "expert_temperature": 0.2, "policy_coefficient": 0.0}
    found, metrics = learn(Nothing(), Experts(samples=MIXED), **how)
    assert np.all(found[:, 2] > 0.9)
    assert np.all(np.isfinite(metrics["expert_loss"]))


PPO = dataclasses.replace(HPARAMS.ppo, discount=0.5, gae_lambda=0.5)


def test_advantages_of_demonstrations_worked_out_by_hand() -> None:
    # Two episodes: one that terminates in its third step, and one of two steps that is cut off by a time limit.
    outcome = ExpertOutcome(
        reward=jnp.array([[1.0, 5.0], [2.0, 6.0], [3.0, 99.0]]),
        active=jnp.array([[True, True], [True, True], [True, False]]),
        terminated=jnp.array([[False, False], [False, False], [True, False]]),
        executed=jnp.ones((3, 2), bool),
    )
    nothing = jnp.zeros((3, 2, 1))
    batch = ExpertBatch(nothing, nothing > 0, jnp.zeros((3, 2), jnp.int32), jnp.ones((3, 2)), outcome)
    value = jnp.array([[10.0, 40.0], [20.0, 50.0], [30.0, 60.0]])
    advantage, known = demonstrated_advantages(batch, value, PPO)
    delta = [1 + 0.5 * 20 - 10, 2 + 0.5 * 30 - 20, 3 - 30]
    ends = [delta[0] + 0.25 * (delta[1] + 0.25 * delta[2]), delta[1] + 0.25 * delta[2], delta[2]]
    np.testing.assert_allclose(advantage[:, 0], ends)
    # What the second step of the other one led to is unknown; the first bootstraps from its value.
    np.testing.assert_allclose(advantage[:2, 1], [5 + 0.5 * 50 - 40, 0.0])
    np.testing.assert_array_equal(known, [[True, True], [True, False], [True, False]])
    # Noise put another action in the place of the first one: what it earned says nothing about that.
    noisy = batch.replace(outcome=outcome.replace(executed=jnp.ones((3, 2), bool).at[0].set(False)))
    again, known = demonstrated_advantages(noisy, value, PPO)
    np.testing.assert_array_equal(again, advantage)
    np.testing.assert_array_equal(known, [[False, False], [True, False], [True, False]])


def test_what_noise_earned_is_not_credited_to_the_plan() -> None:
    shown = demonstrations([1] * EPISODES, [0.0] * EPISODES)
    taken = shown.taken.at[: EPISODES // 2].set(2)
    samples = expert_episodes(shown.replace(taken=taken))
    assert samples.outcome is not None
    expected = np.broadcast_to(np.arange(EPISODES)[:, None] >= EPISODES // 2, (2, EPISODES, AGENTS))
    np.testing.assert_array_equal(samples.outcome.executed, expected)


def test_whole_episodes_are_drawn_whole() -> None:
    shown = demonstrations(np.arange(EPISODES) % 3, np.arange(EPISODES))
    shown = shown.replace(active=shown.active.at[::2, 1, 1].set(False).at[1, :, 0].set(False))
    samples = expert_episodes(shown)
    np.testing.assert_array_equal(samples.count, [EPISODES - 1, EPISODES])
    drawn = sample_experts(samples, jax.random.key(0), 401)
    assert drawn.outcome is not None
    assert drawn.action.shape == (2, 2, 200)
    np.testing.assert_array_equal(drawn.outcome.reward[:, 0], drawn.outcome.reward[:, 1])
    np.testing.assert_array_equal(drawn.action, drawn.outcome.reward.astype(int) % 3)
    assert set(np.unique(drawn.outcome.reward[0]).tolist()) <= set(range(EPISODES)) - {1}
    np.testing.assert_array_equal(drawn.weight[0], np.ones((2, 200)))
    np.testing.assert_array_equal(drawn.weight[1, 1], drawn.outcome.reward[1, 0] % 2)


def test_the_entropy_bonus_keeps_an_imitator_from_committing_itself() -> None:
    shown = Experts(samples=expert_episodes(demonstrations([1] * EPISODES, [0.0] * EPISODES)))
    committed, _ = learn(CHOICE, shown, updates=400, policy_coefficient=0.0, expert_weight=2.0)
    assert np.all(committed[:, 1] > 0.98)
    # With the rest of the probability shared by two actions, -log p - H is least where p log(2 p / (1 - p)) = 1.
    probability = scipy.optimize.brentq(lambda p: p * np.log(2 * p / (1 - p)) - 1, 0.4, 0.99)
    rest = (1 - probability) / 2
    for weight in (0.5, 2.0):
        how = {"expert_weight": weight, "expert_entropy": 1.0, "policy_coefficient": 0.0}
        found, _ = learn(CHOICE, shown, updates=400, **how)
        np.testing.assert_allclose(found, [[rest, probability, rest]] * AGENTS, atol=0.03)


def test_the_entropy_bonus_is_gone_when_the_term_is() -> None:
    without, _ = learn(CHOICE, Experts(samples=MIXED), updates=3, expert_weight=0.0)
    found, _ = learn(CHOICE, Experts(samples=MIXED), updates=3, expert_weight=0.0, expert_entropy=5.0)
    np.testing.assert_array_equal(found, without)


def test_an_agent_without_demonstrations_gets_no_entropy_bonus() -> None:
    shown = demonstrations([1] * EPISODES, [0.0] * EPISODES)
    shown = Experts(samples=expert_episodes(shown.replace(active=shown.active.at[:, :, 1].set(False))))
    without, _ = learn(CHOICE, shown, updates=3)
    found, _ = learn(CHOICE, shown, updates=3, expert_entropy=5.0)
    np.testing.assert_array_equal(found[1], without[1])
    assert np.max(np.abs(found[0] - without[0])) > 1e-3


# --- the weight -------------------------------------------------------------------------------------------------


def test_a_bad_expert_is_left_alone_as_soon_as_the_learner_does_better() -> None:
    wrong = expert_episodes(demonstrations([0] * EPISODES, [0.0] * EPISODES))
    experts = Experts(samples=wrong, reference=ExpertReference(returns=jnp.zeros(AGENTS)))
    found, metrics = learn(CHOICE, experts, expert_adapt="return_gap", expert_weight=3.0)
    assert np.all(found[[0, 1], [1, 2]] > 0.9)
    np.testing.assert_array_equal(metrics["expert_weight"], [0, 0])
    followed, metrics = learn(CHOICE, Experts(samples=wrong), expert_weight=3.0)
    assert np.all(followed[:, 0] > 0.9)
    np.testing.assert_allclose(metrics["expert_weight"], [3, 3])


def test_each_agents_weight_goes_by_its_own_return_once_an_episode_has_ended() -> None:
    # Agents of `Steady` earn 9 and 18, whatever they do, in episodes that end in the third rollout of 4 steps.
    probe = learner(Steady(num_actions=3, max_steps=9))
    shown = expert_episodes(demonstrations([1] * EPISODES, [0.0] * EPISODES))
    experts = Experts(samples=shown, reference=ExpertReference(returns=jnp.array([45.0, 9.0])))
    settings = hparams(expert_adapt="return_gap", expert_weight=0.7, expert_schedule="constant")
    state, weights = probe.init(jax.random.key(0)), []
    for _ in range(3):
        state, metrics = probe.chunk(state, experts, settings)
        weights.append(metrics["expert_weight"])
    np.testing.assert_allclose(weights, [[0, 0], [0, 0], [0.7, 0.0]], rtol=1e-6)


def test_a_weight_that_cannot_be_adapted_is_refused() -> None:
    def trace(environment: Any, experts: Experts, adapt: str) -> None:
        probe, settings = learner(environment), hparams(expert_adapt=adapt)
        state = jax.eval_shape(probe.init, jax.random.key(0))
        jax.eval_shape(lambda state: probe.train_chunk(state, experts, settings), state)

    with pytest.raises(ConfigurationError, match=r"expert\.adapt=return_gap .* give the Experts a reference"):
        trace(CHOICE, Experts(samples=MIXED), "return_gap")
    returns = Experts(samples=MIXED, reference=ExpertReference(returns=jnp.zeros(AGENTS)))
    with pytest.raises(ConfigurationError, match=r"expert\.adapt=dtw .* a reference with episodes"):
        trace(CHOICE, returns, "dtw")
    with pytest.raises(ConfigurationError, match=r"rollout_steps=4 is less than one of 9 steps"):
        trace(Choice(num_agents=AGENTS, max_steps=9), returns, "dtw")


def rollout(episode_return: Any, done: Any, obs: Any = None) -> Rollout:
    shape = np.shape(episode_return)
    zeros = jnp.zeros(shape)
    obs = zeros[..., None] if obs is None else jnp.asarray(obs, jnp.float32)
    available = jnp.ones((*shape, 1), bool)
    return Rollout(
        obs=obs,
        available_actions=available,
        action=zeros.astype(jnp.int32),
        reward=zeros,
        terminated=zeros > 0,
        done=jnp.asarray(done),
        is_first=jnp.zeros(shape[:2], bool).at[0].set(True),
        active=zeros == 0,
        episode_return=jnp.asarray(episode_return, jnp.float32),
        final_obs=obs,
        final_available_actions=available,
        extras=(),
    )


def test_the_gap_is_that_of_the_episodes_that_ended_and_is_smoothed() -> None:
    experts = Experts(reference=ExpertReference(returns=jnp.array([10.0])))
    gap = ExpertGap.init(1)
    np.testing.assert_array_equal(gap.share(1.0), [0])
    unfinished = rollout([[[3.0], [4.0]]], [[False, False]])
    gap = add(gap, "return_gap", experts, unfinished)
    np.testing.assert_array_equal(gap.share(1.0), [0])
    gap = add(gap, "return_gap", experts, rollout([[[2.0], [99.0]]], [[True, False]]))
    np.testing.assert_allclose([gap.mean[0], gap.largest[0], gap.share(1.0)[0]], [8, 8, 1])
    gap = add(gap, "return_gap", experts, rollout([[[5.0], [7.0]]], [[True, True]]))
    # (10 - 6) after (10 - 2), of which a tenth counts.
    np.testing.assert_allclose(gap.mean, [8 + 0.1 * (4 - 8)], rtol=1e-6)
    np.testing.assert_allclose(gap.share(1.0), [(8 - 0.4) / 8], rtol=1e-6)
    np.testing.assert_array_equal(add(gap, "return_gap", experts, unfinished).mean, gap.mean)
    assert update_gap(gap, "none", experts, unfinished) is gap


def test_an_expert_is_followed_only_if_it_is_certainly_ahead() -> None:
    experts = Experts(reference=ExpertReference(returns=jnp.array([3.0, 9.0])))
    # Means of 2 and 2, with standard errors sqrt((1 + 1 + 0) / 2 / 3) = 1 / sqrt(3) and 0.
    unsure = rollout([[[1.0, 2.0], [3.0, 2.0], [2.0, 2.0]]], [[True, True, True]])
    gap = add(ExpertGap.init(2), "return_gap", experts, unsure)
    np.testing.assert_allclose(gap.mean, [1, 7], rtol=1e-6)
    np.testing.assert_allclose(gap.largest, [0, 7])
    np.testing.assert_allclose(gap.share(1.0), [0, 1])
    # 3 - 0.5, with a standard error of 0.5: one is certain, as soon as the mean is measured more exactly.
    surer = rollout([[[0.0, 2.0], [1.0, 2.0]]], [[True, True]])
    gap = add(gap, "return_gap", experts, surer)
    np.testing.assert_allclose(gap.largest, [2.5 - 3 * 0.5, 7], rtol=1e-6)
    np.testing.assert_allclose(gap.share(1.0), [1, 1])
    # The distance falls, and what it has been stays.
    gap = add(gap, "return_gap", experts, rollout([[[3.0, 2.0], [3.0, 2.0]]], [[True, True]]))
    np.testing.assert_allclose(gap.largest, [1, 7], rtol=1e-6)


def episodes_of(observation: Any, length: Any) -> Trajectory:
    """Episodes of which only the observations and their number matter."""
    shape = np.shape(observation)[:-1]
    zeros = jnp.zeros(shape)
    return Trajectory(
        observation=jnp.asarray(observation, jnp.float32),
        action=zeros.astype(jnp.int32),
        taken=zeros.astype(jnp.int32),
        reward=zeros,
        available_actions=jnp.ones((*shape, 1), bool),
        active=jnp.arange(shape[1])[None, :, None] < jnp.asarray(length)[:, None],
        terminated=zeros > 0,
    )


def test_the_distance_of_trajectories_is_what_plain_python_computes() -> None:
    source = np.random.default_rng(3)
    own, shown = source.normal(size=(5, 3, 2, 2)), source.normal(size=(3, 4, 2, 2))
    length = np.array([[4, 3], [2, 4], [4, 4]])
    over = np.zeros((5, 3), bool)
    over[[2, 4], [0, 0]], over[4, 1] = True, True
    # The first environment's episode ends after three steps, the second's after five, the third's not at all.
    steps = [3, 5, 5]
    expert = reference_episodes(episodes_of(shown, length))
    # Agent 1 terminates in its second step in the third environment.
    ended = np.zeros((5, 3, 2), bool)
    ended[1:, 2, 1] = True
    found, known = trajectory_distance(
        expert, rollout(np.zeros((5, 3, 2)), over, own).replace(terminated=jnp.array(ended))
    )
    assert np.all(known)
    for agent in range(2):
        steps[2] = (5, 2)[agent]
        cut = [shown[k, : length[k, agent], agent] for k in range(3)]
        apart = np.mean([warp(own[: steps[k], k, agent], cut[k]) for k in range(3)])
        within = np.mean([warp(cut[k], cut[(k + 1) % 3]) for k in range(3)])
        np.testing.assert_allclose(found[agent], apart - within, rtol=1e-4)


def test_acting_as_the_expert_does_leaves_no_distance() -> None:
    shown = jnp.tile(jnp.arange(4.0)[None, :, None, None], (3, 1, 1, 1)) + jnp.arange(3.0)[:, None, None, None]
    expert = reference_episodes(episodes_of(shown, np.full((3, 1), 4)))
    over = np.zeros((4, 3), bool)
    over[3] = True
    same = rollout(np.zeros((4, 3, 1)), over, jnp.moveaxis(shown, 0, 1))
    far = rollout(np.zeros((4, 3, 1)), over, jnp.moveaxis(shown, 0, 1) + 50.0)
    assert float(trajectory_distance(expert, same)[0][0]) <= 0.0
    assert float(trajectory_distance(expert, far)[0][0]) > 50.0


def test_an_agent_that_is_inactive_when_a_rollout_begins_has_no_distance() -> None:
    shown = jnp.ones((3, 4, 2, 1))
    expert = reference_episodes(episodes_of(shown, np.full((3, 2), 4)))
    some = rollout(np.zeros((4, 3, 2)), np.zeros((4, 3), bool), jnp.full((4, 3, 2, 1), 3.0))
    away = some.replace(active=some.active.at[:, :, 1].set(False).at[:, 0, 0].set(False))
    distance, known = trajectory_distance(expert, away)
    np.testing.assert_array_equal(known, [True, False])
    # Four steps of two units each in the two environments that are left.
    np.testing.assert_allclose(distance[0], 8.0, rtol=1e-5)
    # The second environment is in the middle of an episode when the rollout begins.
    assert not np.any(trajectory_distance(expert, away.replace(is_first=away.is_first.at[0, 1:].set(False)))[1])


def test_with_another_expert_the_gap_starts_again() -> None:
    first, second = (Experts(reference=ExpertReference(returns=jnp.array([x]))) for x in (-10.0, 15.0))
    over = rollout([[[2.0]]], [[True]])
    gap = add(ExpertGap.init(1), "return_gap", first, over)
    np.testing.assert_array_equal(gap.share(1.0), [0])
    gap = add(gap, "return_gap", second, over)
    np.testing.assert_allclose([gap.mean[0], gap.largest[0], gap.share(1.0)[0]], [13, 13, 1])


def test_the_weight_by_trajectories_is_in_the_metrics_for_each_agent() -> None:
    environment = Steady(max_steps=4, terminates=False, num_actions=3)
    shown = expert_episodes(demonstrations([1] * EPISODES, [0.0] * EPISODES))
    # All there is to see is the number 1: one expert saw just that, the other something else.
    seen = jnp.ones((8, 4, 2, 1)).at[:, :, 1].set(3.0)
    reference = ExpertReference(jnp.zeros(2), reference_episodes(episodes_of(seen, np.full((8, 2), 4))))
    experts = Experts(samples=shown, reference=reference)
    _, metrics = learn(environment, experts, 3, expert_adapt="dtw", expert_weight=0.5)
    np.testing.assert_allclose(metrics["expert_weight"], [0.0, 0.5], rtol=1e-5)
