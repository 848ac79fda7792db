"""Recurrent, continuous, shared, central and masked policies, each on a probe with a known answer."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Aim, Choice, Coin, InstructedAim, Learner, OneByOne, Preferred, Recall

from leed_jax.demonstrations import execute_episodes, instructed, load_demonstrations, save_demonstrations
from leed_jax.environments import AutoReset
from leed_jax.environments.contract import check_environment
from leed_jax.errors import ConfigurationError
from leed_jax.instructions import Trajectory, compile_triples, stack_plans
from leed_jax.learning.episodes import play, policy_actor
from leed_jax.learning.experts import Experts, expert_episodes, expert_samples
from leed_jax.learning.ppo import act_fn
from leed_jax.learning.rollout import collect, init_rollout
from leed_jax.networks.config import NetworkConfig
from leed_jax.networks.distributions import Gaussian
from leed_jax.networks.policy import Policy

IMITATION = {"policy_coefficient": 0.0, "expert_schedule": "constant"}


def learn(
    environment: Any, updates: int = 100, experts: Any = None, *, central_critic: bool = False, **changes: Any
) -> tuple[Learner, Any, dict[str, np.ndarray]]:
    """Train on a probe; fields of the network begin with `network_`."""
    network = {name: changes.pop(name) for name in list(changes) if name.startswith("network_")}
    network = {name.removeprefix("network_"): value for name, value in network.items()}
    sizes = {"central_critic": central_critic, "num_envs": 16, "rollout_steps": 6}
    probe = Learner(environment, NetworkConfig(hidden_sizes=(16,), **network), **sizes)
    state, metrics = probe.learn(updates, experts, **changes)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state.parameters))
    return probe, state.parameters, metrics


def greedy(probe: Learner, parameters: Any) -> np.ndarray:
    """Each agent's mean return."""

    @jax.jit
    def returns(parameters: Any) -> Any:
        return play(probe.environment, policy_actor(probe.policy, parameters), jax.random.key(7), 200)[0]

    return np.mean(returns(parameters), axis=0)


def mode(probe: Learner, parameters: Any) -> np.ndarray:
    """Each agent's most probable action, where there is nothing but ones to observe."""
    return np.asarray(probe.distribution(parameters).mode())[0]


# --- memory -----------------------------------------------------------------------------------------------------


GRU = {"network_memory": "gru", "network_memory_size": 8}


def test_a_recurrent_policy_names_the_cue() -> None:
    probe, parameters, _ = learn(Recall(), 200, **GRU)
    np.testing.assert_allclose(greedy(probe, parameters), [1, 1])


def test_hidden_states_are_reset_between_episodes_and_kept_between_rollouts() -> None:
    network = NetworkConfig(hidden_sizes=(4,), memory="gru", memory_size=3)
    environment, policy = AutoReset(Recall()), Policy.of(Recall(), network)
    parameters = jax.jit(policy.init)(jax.random.key(0))

    @functools.partial(jax.jit, static_argnums=2)
    def run(state: Any, key: Any, steps: int) -> Any:
        return collect(environment, act_fn(policy, parameters), state, key, steps)

    state = init_rollout(environment, jax.random.key(1), 5, policy.init_hidden(5))
    state, first = run(state, jax.random.key(2), 2)
    _, second = run(state, jax.random.key(3), 4)
    # Values of all six steps by one pass over both rollouts show whether hidden states were carried over, and reset.
    obs, is_first = (jnp.concatenate([getattr(r, name) for r in (first, second)]) for name in ("obs", "is_first"))
    np.testing.assert_array_equal(is_first[:, 0], [True, False, False, True, False, False])
    for agent in range(2):
        own = jax.tree.map(lambda x, i=agent: x[i], parameters)
        _, whole = policy.value(own, jnp.ones((5, 3)), obs[:, :, agent], is_first, jnp.int32(agent))
        recorded = jnp.concatenate([first.extras.value, second.extras.value])[..., agent]
        np.testing.assert_allclose(whole, recorded, rtol=1e-4, atol=1e-6)
        # The next value continues the episode, whatever comes after it in the rollout.
        continued = first.extras.next_value[0, :, agent]
        np.testing.assert_allclose(continued, first.extras.value[1, :, agent], rtol=1e-4, atol=1e-6)


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


def test_a_recurrent_policy_imitates_whole_episodes() -> None:
    experts = Experts(samples=expert_episodes(episodes_of_recall(16)))
    probe, parameters, metrics = learn(Recall(), experts=experts, **GRU, **IMITATION)
    np.testing.assert_allclose(greedy(probe, parameters), [1, 1])
    assert np.all(metrics["expert_loss"] < 0.5)


# --- continuous actions, and unequal agents ---------------------------------------------------------------------


def test_continuous_actions_come_near_their_aims_and_padding_stays_zero() -> None:
    check_environment(Aim())
    probe, parameters, _ = learn(Aim(), 200)
    found = mode(probe, parameters)
    np.testing.assert_allclose(found[[0, 1], [0, 0]], [0.5, -0.4], atol=0.1)
    assert found[1, 1] > 0.9
    assert found[0, 1] == 0.0
    # 1 is the nearest to 1.5 that agent 1 can come.
    np.testing.assert_allclose(greedy(probe, parameters), [0, -0.25], atol=0.05)


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
    probe, parameters, _ = learn(Aim(), experts=Experts(samples=expert_samples(shown)), **IMITATION)
    np.testing.assert_allclose(mode(probe, parameters), [[0.3, 0.0], [0.1, -0.6]], atol=0.05)


def test_continuous_instructions_are_executed_stored_and_imitated(tmp_path: Path) -> None:
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
    probe, parameters, _ = learn(environment, experts=Experts(plans=plans), **IMITATION)
    np.testing.assert_allclose(mode(probe, parameters), wanted, atol=0.06)


def test_continuous_actions_cannot_be_listed_as_instructions() -> None:
    with pytest.raises(ConfigurationError, match="Aim has continuous actions, which cannot be listed"):
        instructed(Aim())


def test_a_gaussian_is_the_product_of_the_components_that_are_used() -> None:
    distribution = Gaussian(jnp.array([0.5, 1.0]), jnp.log(jnp.array([2.0, 3.0])), jnp.array([True, False]))
    density = -0.5 * ((1.5 - 0.5) / 2) ** 2 - np.log(2 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(distribution.log_prob(jnp.array([1.5, 77.0])), density, rtol=1e-6)
    np.testing.assert_allclose(distribution.entropy(), 0.5 * np.log(2 * np.pi * np.e * 4), rtol=1e-6)
    action, log_prob = jax.vmap(distribution.sample)(jax.random.split(jax.random.key(0), 4000))
    np.testing.assert_array_equal(action[:, 1], np.zeros(4000))
    np.testing.assert_allclose([action[:, 0].mean(), action[:, 0].std()], [0.5, 2.0], atol=0.1)
    np.testing.assert_allclose(log_prob, jax.vmap(distribution.log_prob)(action), rtol=1e-5)


def test_agents_with_fewer_actions_learn_the_best_of_theirs() -> None:
    probe, parameters, metrics = learn(Preferred())
    np.testing.assert_allclose(greedy(probe, parameters), [0.1, 0.2, 0.3], rtol=1e-5)
    # An action that was not available would have earned 100.
    assert np.all(metrics["return_of_agents"] < 0.31)


def test_an_agent_that_has_terminated_learns_nothing_more() -> None:
    environment = OneByOne(sees_time=True)
    check_environment(environment)
    probe, parameters, metrics = learn(environment, 300, discount=0.5)
    np.testing.assert_allclose(metrics["return_of_agents"], [1, 4, 9], rtol=1e-5)
    np.testing.assert_allclose(greedy(probe, parameters), [1, 4, 9])
    found = probe.values(parameters, jnp.tile(jnp.eye(6)[:3, None], (1, 3, 1)))
    # Agent i earns i + 1 in each of its i + 1 steps; its critic is not trained on later ones.
    np.testing.assert_allclose(found[0], [1, 2 * 1.5, 3 * 1.75], rtol=0.05)
    np.testing.assert_allclose(found[1, 1:], [2, 3 * 1.5], rtol=0.05)
    np.testing.assert_allclose(found[2, 2], 3, rtol=0.05)


# --- sharing ----------------------------------------------------------------------------------------------------


def test_agents_of_a_group_share_networks_that_tell_them_apart_by_their_index() -> None:
    # The best actions are 1, 2, 0 and 1.
    environment = Choice(num_agents=4)
    probe, parameters, _ = learn(environment, network_sharing="groups", network_groups=(0, 1, 1, 0))
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(parameters))
    np.testing.assert_array_equal(mode(probe, parameters), environment.best_action())


def test_agents_that_share_networks_without_an_index_act_alike() -> None:
    for sharing in ("all", "groups"):
        groups = (0, 1, 0) if sharing == "groups" else ()
        network = NetworkConfig(hidden_sizes=(16,), sharing=sharing, groups=groups, agent_id=False)
        probe = Learner(Choice(num_agents=3), network)
        logits = probe.distribution(probe.init(jax.random.key(0)).parameters).logits[0]
        np.testing.assert_array_equal(logits[0], logits[2])
        assert np.array_equal(logits[0], logits[1]) == (sharing == "all")


def test_groups_of_one_agent_are_no_sharing() -> None:
    alone = Policy.of(Choice(num_agents=3), NetworkConfig())
    grouped = Policy.of(Choice(num_agents=3), NetworkConfig(sharing="groups", groups=(0, 1, 2)))
    assert alone.groups == grouped.groups
    assert alone.actor_input_size == grouped.actor_input_size == 1


@pytest.mark.parametrize("groups", [(0, 1), (0, 0, 2), (1, 1, 1), (0, 0, -1)])
def test_groups_that_do_not_fit_are_refused(groups: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError, match=r"network\.groups=.*there are 3 agents"):
        _ = Policy.of(Choice(num_agents=3), NetworkConfig(sharing="groups", groups=groups)).groups


# --- central critics --------------------------------------------------------------------------------------------

COINS = jnp.array([[[0.0], [0.0]], [[1.0], [0.0]]])


@pytest.mark.parametrize("sharing", ["none", "all"])
def test_a_central_critic_knows_what_another_agent_sees(sharing: str) -> None:
    # Where it is shared, it still has a value for each agent.
    probe, parameters, _ = learn(Coin(), 200, central_critic=True, network_sharing=sharing)
    np.testing.assert_allclose(probe.values(parameters, COINS), [[0, 0], [1, 2]], atol=0.06)


def test_an_actor_and_a_critic_of_its_own_do_not_know_what_another_agent_sees() -> None:
    for central in (True, False):
        probe = Learner(Coin(), NetworkConfig(hidden_sizes=(4,)), central_critic=central)
        parameters = probe.init(jax.random.key(0)).parameters
        logits, values = probe.distribution(parameters, COINS).logits, probe.values(parameters, COINS)
        assert not np.array_equal(logits[0, 0], logits[1, 0])
        np.testing.assert_array_equal(logits[0, 1], logits[1, 1])
        assert values[0, 0] != values[1, 0]
        assert (values[0, 1] != values[1, 1]) == central
