"""Every kind of policy on a probe with a known answer: memory, continuous actions, sharing, central critics, masks."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import HYPER, Aim, Choice, InstructedAim, OneByOne, Preferred, Recall, Told

from leed_jax.demonstrations import execute_episodes, instructed, load_demonstrations, save_demonstrations
from leed_jax.environments import AutoReset
from leed_jax.environments.contract import check_environment
from leed_jax.errors import ConfigurationError
from leed_jax.instructions import Trajectory, compile_triples, stack_plans
from leed_jax.learning.episodes import play, policy_actor
from leed_jax.learning.experts import Experts, expert_episodes, expert_samples
from leed_jax.learning.ppo import TrainSettings, init_state, make_train_chunk
from leed_jax.learning.rollout import act_all, collect, start_actors, value_all
from leed_jax.networks.policy import Gaussian, Policy

SETTINGS = TrainSettings(num_envs=16, rollout_steps=6, updates_per_chunk=100, epochs=2, minibatches=2)


def learn(
    environment: Any, chunks: int = 1, experts: Any = None, policy: Any = None, **changes: Any
) -> tuple[Any, Any]:
    """Train on a probe; `policy` holds settings of the policy."""
    made = Policy.of(environment, hidden_sizes=(16,), **(policy or {}))
    state = jax.jit(functools.partial(init_state, environment, made, SETTINGS))(jax.random.key(0))
    chunk = jax.jit(make_train_chunk(environment, made, SETTINGS))
    for _ in range(chunks):
        state, metrics = chunk(state, experts, HYPER.replace(**changes))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state.parameters))
    return made, (state, metrics)


def greedy(environment: Any, policy: Policy, state: Any, episodes: int = 200) -> np.ndarray:
    """Each agent's mean return."""
    returns, _ = play(environment, policy_actor(policy, state.parameters), jax.random.key(7), episodes)
    return np.mean(returns, axis=0)


def values(policy: Policy, state: Any, observation: Any) -> np.ndarray:
    nowhere = jnp.zeros(len(observation), bool)
    return np.asarray(value_all(policy, policy.of_agents(state.parameters), None, observation, nowhere)[1])


# --- memory -----------------------------------------------------------------------------------------------------


def test_only_a_policy_that_remembers_names_the_cue() -> None:
    policy, (state, _) = learn(Recall(), chunks=2, policy={"memory_size": 8}, discount=0.9)
    np.testing.assert_allclose(greedy(Recall(), policy, state), [1, 1])
    policy, (state, _) = learn(Recall())
    np.testing.assert_allclose(greedy(Recall(), policy, state), [0.5, 0.5], atol=0.12)


def test_memory_is_lost_between_episodes_and_kept_between_rollouts() -> None:
    environment, policy = Recall(), Policy.of(Recall(), hidden_sizes=(4,), memory_size=3)
    parameters = policy.init_agents(jax.random.key(0))
    actors = start_actors(environment, jax.random.key(1), 5, policy.empty_memory(5))
    run = functools.partial(collect, AutoReset(environment), policy, parameters)
    after, first = run(actors, jax.random.key(2), 2)
    _, second = run(after, jax.random.key(3), 4)
    # Values of all six steps by one pass over both rollouts say whether the memory was carried over, and reset.
    seen, start = (jnp.concatenate([getattr(r, name) for r in (first, second)]) for name in ("seen", "start"))
    np.testing.assert_array_equal(start[:, 0], [True, False, False, True, False, False])
    for agent in range(2):
        own = jax.tree.map(lambda x, i=agent: x[i], parameters)
        _, whole = policy.value(own, jnp.ones((5, 3)), seen[:, :, agent], start, jnp.int32(agent))
        recorded = jnp.concatenate([first.value, second.value])[..., agent]
        np.testing.assert_allclose(whole, recorded, rtol=1e-4, atol=1e-6)
        # The next value continues the episode, whatever comes after it in the rollout.
        np.testing.assert_allclose(first.next_value[0, :, agent], first.value[1, :, agent], rtol=1e-4, atol=1e-6)


def episodes_of_recall(count: int) -> Trajectory:
    """Demonstrations of what to do in `Recall`."""
    environment = Recall()

    def episode(key: Any) -> Any:
        state, time_step = environment.reset(key)
        return state[0], time_step.observation

    cue, first = jax.vmap(episode)(jax.random.split(jax.random.key(5), count))
    shape = (count, 3, 2)
    return Trajectory(
        observation=jnp.zeros((*shape, 2)).at[:, 0].set(first),
        action=jnp.broadcast_to(cue[:, None], shape),
        taken=jnp.broadcast_to(cue[:, None], shape),
        reward=jnp.zeros(shape).at[:, 2].set(1.0),
        available_actions=jnp.ones((*shape, 2), bool),
        active=jnp.ones(shape, bool),
        terminated=jnp.zeros(shape, bool).at[:, 2].set(True),
    )


def test_a_policy_that_remembers_imitates_whole_episodes() -> None:
    experts = Experts(samples=expert_episodes(episodes_of_recall(16)))
    how = {"policy_coefficient": 0.0, "expert_weight": 1.0}
    policy, (state, metrics) = learn(Recall(), experts=experts, policy={"memory_size": 8}, **how)
    np.testing.assert_allclose(greedy(Recall(), policy, state), [1, 1])
    assert np.all(metrics["expert_loss"] < 0.5)


def test_environments_are_shared_out_among_the_minibatches_of_policies_that_remember() -> None:
    policy = Policy.of(Recall(), memory_size=4)
    with pytest.raises(ConfigurationError, match="num_envs=6 is shared out among minibatches=4"):
        make_train_chunk(Recall(), policy, TrainSettings(num_envs=6, rollout_steps=2, minibatches=4))


# --- continuous actions, and unequal agents ---------------------------------------------------------------------


def test_continuous_actions_come_near_their_aims_and_padding_stays_zero() -> None:
    environment = Aim()
    check_environment(environment)
    policy, (state, _) = learn(environment, chunks=2)
    available = environment.available(0)[None]
    _, choice = act_all(policy, state.parameters, None, jnp.ones((1, 2, 1)), available, jnp.ones(1, bool))
    mode = np.asarray(choice.mode())[0]
    np.testing.assert_allclose(mode[[0, 1], [0, 0]], [0.5, -0.4], atol=0.1)
    assert mode[1, 1] > 0.9
    assert mode[0, 1] == 0.0
    # 1 is the nearest to 1.5 that agent 1 can come.
    np.testing.assert_allclose(greedy(environment, policy, state), [0, -0.25], atol=0.05)


def test_continuous_actions_are_imitated() -> None:
    shape = (4, 1, 2)
    wanted = jnp.broadcast_to(jnp.array([[0.3, 0.0], [0.1, -0.6]]), (*shape, 2))
    shown = Trajectory(
        observation=jnp.ones((*shape, 1)),
        action=wanted,
        taken=wanted,
        reward=jnp.zeros(shape),
        available_actions=jnp.broadcast_to(Aim().available(0), (*shape, 2)),
        active=jnp.ones(shape, bool),
        terminated=jnp.ones(shape, bool),
    )
    how = {"policy_coefficient": 0.0, "expert_weight": 1.0}
    policy, (state, _) = learn(Aim(), experts=Experts(samples=expert_samples(shown)), **how)
    available = Aim().available(0)[None]
    _, choice = act_all(policy, state.parameters, None, jnp.ones((1, 2, 1)), available, jnp.ones(1, bool))
    np.testing.assert_allclose(choice.mode()[0], [[0.3, 0.0], [0.1, -0.6]], atol=0.05)


def test_continuous_instructions_are_executed_stored_and_asked_in_the_learners_states(tmp_path: Path) -> None:
    environment = InstructedAim(max_steps=3)
    triples = [("Go", "quarter", "agent_0"), ("Go", "whole", "agent_1")]
    plans = stack_plans([compile_triples(environment.vocabulary, triples, 1)])
    wanted = np.array([[0.125, 0.0], [-0.4, 1.0]], np.float32)
    shown = execute_episodes(environment, plans, jax.random.key(0), 40, noise=1.0)
    np.testing.assert_allclose(shown.action, np.broadcast_to(wanted, (40, 3, 2, 2)))
    # The first episode is undisturbed, in the last one every action is random.
    np.testing.assert_allclose(shown.taken[0], shown.action[0])
    assert not np.any(np.isclose(shown.taken[-1, :, 1], wanted[1]))
    assert np.all(np.abs(shown.taken) <= 1.0)
    assert not np.any(shown.taken[:, :, 0, 1])
    manifest = {
        "max_instructions": 1,
        "plans": [{"round": 0, "candidate": 0, "triples": [list(triple) for triple in triples]}],
        "recorded": {"episodes": 40, "noise": 1.0, "seed": 0},
    }
    place = json.dumps(manifest["plans"][0]).encode()
    save_demonstrations(tmp_path / "set", manifest, environment, place, shown)
    loaded = load_demonstrations(str(tmp_path / "set"), environment)
    jax.tree.map(np.testing.assert_array_equal, loaded.episodes(), shown)
    how = {"policy_coefficient": 0.0, "expert_weight": 1.0}
    policy, (state, _) = learn(environment, experts=Experts(plans=plans), **how)
    _, choice = act_all(
        policy, state.parameters, None, jnp.ones((1, 2, 1)), environment.available(0)[None], jnp.ones(1, bool)
    )
    np.testing.assert_allclose(choice.mode()[0], wanted, atol=0.06)


def test_continuous_actions_cannot_be_listed_as_instructions() -> None:
    with pytest.raises(ConfigurationError, match="Aim has continuous actions, which cannot be listed"):
        instructed(Aim())


def test_a_gaussian_is_the_product_of_the_components_that_are_used() -> None:
    choice = Gaussian(jnp.array([0.5, 1.0]), jnp.log(jnp.array([2.0, 3.0])), jnp.array([True, False]))
    density = -0.5 * ((1.5 - 0.5) / 2) ** 2 - np.log(2 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(choice.log_prob(jnp.array([1.5, 77.0])), density, rtol=1e-6)
    np.testing.assert_allclose(choice.entropy(), 0.5 * np.log(2 * np.pi * np.e * 4), rtol=1e-6)
    action, log_prob = jax.vmap(choice.sample)(jax.random.split(jax.random.key(0), 4000))
    np.testing.assert_array_equal(action[:, 1], np.zeros(4000))
    np.testing.assert_allclose([action[:, 0].mean(), action[:, 0].std()], [0.5, 2.0], atol=0.1)
    np.testing.assert_allclose(log_prob, jax.vmap(choice.log_prob)(action), rtol=1e-5)


def test_agents_with_fewer_actions_learn_the_best_of_theirs() -> None:
    policy, (state, metrics) = learn(Preferred())
    np.testing.assert_allclose(greedy(Preferred(), policy, state), [0.1, 0.2, 0.3], rtol=1e-5)
    # An action that was not available would have earned 100.
    assert np.all(metrics["return_per_agent"] < 0.31)


def test_an_agent_that_has_terminated_learns_nothing_more() -> None:
    environment = OneByOne(sees_time=True)
    check_environment(environment)
    policy, (state, metrics) = learn(environment, chunks=3, discount=0.5)
    np.testing.assert_allclose(metrics["return_per_agent"], [1, 4, 9], rtol=1e-5)
    np.testing.assert_allclose(greedy(environment, policy, state), [1, 4, 9])
    found = values(policy, state, jnp.tile(jnp.eye(6)[:3, None], (1, 3, 1)))
    # Agent i earns i + 1 in each of its i + 1 steps; what its critic says of later ones nobody has taught it.
    np.testing.assert_allclose(found[0], [1, 2 * 1.5, 3 * 1.75], rtol=0.05)
    np.testing.assert_allclose(found[1, 1:], [2, 3 * 1.5], rtol=0.05)
    np.testing.assert_allclose(found[2, 2], 3, rtol=0.05)


# --- sharing ----------------------------------------------------------------------------------------------------


def best_of(environment: Any, policy: Policy, state: Any) -> np.ndarray:
    observation = policy.see(jnp.ones((1, environment.num_agents, 1)))
    available = jnp.ones((1, environment.num_agents, environment.num_actions), bool)
    agents = policy.of_agents(state.parameters)
    return np.asarray(act_all(policy, agents, None, observation, available, jnp.ones(1, bool))[1].mode())[0]


def test_agents_that_share_are_told_apart_by_who_they_are() -> None:
    environment = Choice(num_agents=3)
    policy, (state, _) = learn(environment, policy={"groups": (0, 0, 0), "agent_id": True})
    assert all(leaf.shape[0] == 1 for leaf in jax.tree.leaves((state.parameters, state.optimiser_state)))
    np.testing.assert_array_equal(best_of(environment, policy, state), [1, 2, 0])
    policy, (state, _) = learn(environment, policy={"groups": (0, 0, 0)})
    assert len(set(best_of(environment, policy, state).tolist())) == 1


def test_agents_of_a_group_share_and_others_do_not() -> None:
    # Agents 0 and 3 have the same best action, and so have no need to be told apart; neither have 1 and 2 of others.
    environment = Choice(num_agents=4)
    policy, (state, _) = learn(environment, policy={"groups": (0, 1, 2, 0)})
    assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(state.parameters))
    np.testing.assert_array_equal(best_of(environment, policy, state), [1, 2, 0, 1])


def test_sharing_by_groups_of_one_is_not_sharing() -> None:
    environment = Choice(num_agents=3)
    alone, (left, _) = learn(environment)
    grouped, (right, _) = learn(environment, policy={"groups": (0, 1, 2)})
    assert alone.agent_groups == grouped.agent_groups
    for a, b in zip(jax.tree.leaves(left.parameters), jax.tree.leaves(right.parameters), strict=True):
        np.testing.assert_array_equal(a, b)


# --- central critics --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [(), (0, 0)])
def test_a_central_critic_knows_what_another_agent_sees(groups: tuple[int, ...]) -> None:
    coins = jnp.array([[[0.0], [0.0]], [[1.0], [0.0]]])
    policy, (state, _) = learn(Told(), chunks=2, policy={"central_critic": True, "groups": groups})
    np.testing.assert_allclose(values(policy, state, coins), [[0, 0], [1, 1]], atol=0.05)
    if not groups:
        policy, (state, _) = learn(Told(), chunks=2)
        np.testing.assert_allclose(values(policy, state, coins), [[0, 0.5], [1, 0.5]], atol=0.12)


def test_a_central_critic_that_is_shared_tells_the_agents_values_apart() -> None:
    environment = Choice(num_agents=3, num_actions=2)
    policy, (state, _) = learn(environment, chunks=2, policy={"central_critic": True, "groups": (0, 0, 0)})
    # All take the same action, which is the best one of agents 0 and 2, or of agent 1.
    taken = int(best_of(environment, policy, state)[0])
    expected = (np.asarray(environment.best_action()) == taken).astype(float)
    np.testing.assert_allclose(values(policy, state, jnp.ones((1, 3, 1)))[0], expected, atol=0.1)


def test_an_actor_does_not_know_what_another_agent_sees() -> None:
    policy = Policy.of(Told(), hidden_sizes=(4,), central_critic=True)
    parameters = policy.init_agents(jax.random.key(0))
    coins, available = jnp.array([[[0.0], [0.0]], [[1.0], [0.0]]]), jnp.ones((2, 2, 2), bool)
    _, choice = act_all(policy, parameters, None, policy.see(coins), available, jnp.ones(2, bool))
    assert not np.array_equal(choice.logits[0, 0], choice.logits[1, 0])
    np.testing.assert_array_equal(choice.logits[0, 1], choice.logits[1, 1])
