"""Whole episodes apart from training."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from probes import Choice, Line, Masked, Steady

from leed_jax.learning.episodes import play, policy_actor, random_actor, stateless_actor
from leed_jax.networks.config import NetworkConfig
from leed_jax.networks.policy import Policy


def played(environment: Any, actor: Any, episodes: int) -> Any:
    return jax.jit(lambda key: play(environment, actor, key, episodes))(jax.random.key(0))


def test_returns_are_those_of_the_probe() -> None:
    environment = Steady(max_steps=4, terminates=False)
    returns, states = played(environment, random_actor(environment), 3)
    np.testing.assert_array_equal(returns, [[4, 8]] * 3)
    np.testing.assert_array_equal(states[0], np.tile(np.arange(4)[:, None], 3))


def test_nothing_counts_after_an_episodes_end() -> None:
    for terminates in (True, False):
        environment = Steady(max_steps=5, terminates=terminates, random_length=True)
        returns, (_, length) = played(environment, random_actor(environment), 40)
        assert set(length[0].tolist()) == {1, 2, 3, 4, 5}
        np.testing.assert_array_equal(returns, np.outer(length[0], [1, 2]))


def test_an_actor_acts_on_its_observations() -> None:
    line = Line(max_steps=6)

    def towards_three(obs: Any, available: Any, key: Any) -> Any:
        return jnp.where(obs[..., 0] < 3, 3, 0).astype(jnp.int32)

    returns, states = played(line, stateless_actor(towards_three), 2)
    np.testing.assert_array_equal(states.position[:, 0, 0], [0, 1, 2, 3, 2, 3])
    np.testing.assert_array_equal(returns, np.full((2, 2), 1 + 2 + 3 + 2 + 3 + 2))


def with_probabilities(environment: Any, probability: list[float]) -> tuple[Policy, Any]:
    policy = Policy.of(environment, NetworkConfig(hidden_sizes=(2,)))
    parameters = policy.init(jax.random.key(0))
    actor = jax.tree.map(jnp.zeros_like, parameters.actor)
    actor["params"]["Dense_1"]["bias"] = jnp.tile(jnp.log(jnp.array(probability)), (environment.num_agents, 1))
    return policy, parameters.replace(actor=actor)


def test_greedy_takes_the_most_probable_action_and_a_sample_each_by_its_share() -> None:
    environment = Choice(num_agents=2, max_steps=10)
    policy, parameters = with_probabilities(environment, [0.3, 0.6, 0.1])
    greedy, _ = played(environment, policy_actor(policy, parameters), 200)
    np.testing.assert_array_equal(greedy, [[10, 0]] * 200)
    sampled, _ = played(environment, policy_actor(policy, parameters, greedy=False), 200)
    np.testing.assert_allclose(np.mean(sampled, axis=0), [6, 1], atol=0.3)


def test_random_actions_are_uniform_over_the_available_ones() -> None:
    environment = Choice(num_agents=2, max_steps=10)
    actor = random_actor(environment)
    returns, _ = played(environment, actor, 300)
    np.testing.assert_allclose(np.mean(returns, axis=0), [10 / 3, 10 / 3], atol=0.3)
    available = jnp.array([[[True, False, True], [False, True, False]]] * 500)
    _, action = actor.select_actions(actor.init(500), jnp.zeros((500, 2, 1)), available, jax.random.key(0))
    assert set(np.unique(action[:, 0]).tolist()) == {0, 2}
    np.testing.assert_array_equal(action[:, 1], np.ones(500))


def test_a_policy_takes_only_available_actions() -> None:
    environment = Masked()
    policy, parameters = with_probabilities(environment, [0.1, 0.1, 0.8])
    for greedy in (True, False):
        actor = policy_actor(policy, parameters, greedy)
        mask = jnp.tile(jnp.array([True, False, False]), (5, 2, 1))
        _, action = actor.select_actions(actor.init(5), jnp.ones((5, 2, 1)), mask, jax.random.key(0))
        np.testing.assert_array_equal(action, np.zeros((5, 2)))
