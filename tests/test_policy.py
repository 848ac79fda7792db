"""Independent policies and their action distributions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leed_jax.networks.config import NetworkConfig
from leed_jax.networks.distributions import Categorical
from leed_jax.networks.modules import ACTIVATIONS
from leed_jax.networks.policy import Policy

POLICY = Policy(4, 3, 5, NetworkConfig(hidden_sizes=(8, 8)))
START = jnp.zeros((1, 6), bool)
OBSERVATION = jax.random.normal(jax.random.key(1), (6, 3))
AVAILABLE = jnp.array([True, False, True, False])


@pytest.fixture(scope="module")
def agents() -> Any:
    return jax.jit(POLICY.init)(jax.random.key(0))


def one(agents: Any, index: int) -> Any:
    return jax.tree.map(lambda x: x[index], agents)


def logits_of(parameters: Any, observation: Any, available: Any, policy: Policy = POLICY) -> jax.Array:
    return policy.distribution(parameters, None, observation[None], available[None], START)[1].logits[0]


def value_of(parameters: Any, observation: Any, policy: Policy = POLICY) -> jax.Array:
    return policy.value(parameters, None, observation[None], START, jnp.int32(0))[1][0]


def test_parameters_are_stacked_by_agent(agents: Any) -> None:
    assert all(leaf.shape[0] == 5 for leaf in jax.tree.leaves(agents))
    kernels = [leaf.shape for leaf in jax.tree.leaves(agents.critic) if leaf.ndim == 3]
    assert kernels == [(5, 3, 8), (5, 8, 8), (5, 8, 1)]


def test_agents_start_different(agents: Any) -> None:
    kernels = [np.asarray(leaf) for leaf in jax.tree.leaves(agents) if leaf.ndim == 3]
    assert len(kernels) == 6
    for kernel in kernels:
        assert len(np.unique(kernel.reshape(5, -1), axis=0)) == 5


def test_policies_start_near_uniform(agents: Any) -> None:
    logits = logits_of(one(agents, 0), OBSERVATION, jnp.ones((6, 4), bool))
    np.testing.assert_allclose(jax.nn.softmax(logits), 0.25, atol=0.02)


def test_networks_give_one_row_an_observation(agents: Any) -> None:
    assert logits_of(one(agents, 0), OBSERVATION, jnp.ones((6, 4), bool)).shape == (6, 4)
    assert value_of(one(agents, 0), OBSERVATION).shape == (6,)


def test_actor_and_critic_share_nothing(agents: Any) -> None:
    parameters = one(agents, 0)
    changed = parameters.replace(critic=jax.tree.map(jnp.zeros_like, parameters.critic))
    available = jnp.ones((6, 4), bool)
    np.testing.assert_array_equal(
        logits_of(parameters, OBSERVATION, available), logits_of(changed, OBSERVATION, available)
    )
    np.testing.assert_array_equal(value_of(changed, OBSERVATION), np.zeros(6))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_works(activation: str) -> None:
    policy = Policy(2, 3, 1, NetworkConfig(hidden_sizes=(4,), activation=activation))
    parameters = one(policy.init(jax.random.key(0)), 0)
    hidden = parameters.critic["params"]["Dense_0"], parameters.critic["params"]["Dense_1"]
    inner = ACTIVATIONS[activation](OBSERVATION @ hidden[0]["kernel"] + hidden[0]["bias"])
    expected = (inner @ hidden[1]["kernel"] + hidden[1]["bias"])[:, 0]
    np.testing.assert_allclose(value_of(parameters, OBSERVATION, policy), expected, rtol=1e-5, atol=1e-6)


def test_an_unavailable_action_is_never_taken(agents: Any) -> None:
    # However much the network wants it.
    parameters = one(agents, 0)
    wanting = jax.tree.map(lambda x: x, parameters)
    wanting.actor["params"]["Dense_2"]["bias"] = jnp.array([0.0, 50.0, 1.0, 50.0])
    logits = logits_of(wanting, OBSERVATION, jnp.tile(AVAILABLE, (6, 1)))[0]
    probability = jax.nn.softmax(logits)
    np.testing.assert_array_equal(probability[~AVAILABLE], [0.0, 0.0])
    assert int(Categorical(logits).mode()) == 2
    actions, log_prob = Categorical(jnp.tile(logits, (5000, 1))).sample(jax.random.key(0))
    assert set(np.unique(actions).tolist()) == {0, 2}
    np.testing.assert_allclose(np.mean(actions == 2), probability[2], atol=0.02)
    np.testing.assert_allclose(log_prob, jnp.log(probability)[actions], rtol=1e-5)


def test_masked_distributions_have_finite_gradients(agents: Any) -> None:
    def objective(parameters: Any) -> jax.Array:
        logits = logits_of(parameters, OBSERVATION, jnp.tile(AVAILABLE, (6, 1)))
        distribution = Categorical(logits)
        return jnp.mean(distribution.log_prob(jnp.full(6, 2, jnp.int32)) + distribution.entropy())

    gradient = jax.grad(objective)(one(agents, 0))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    assert np.any(gradient.actor["params"]["Dense_2"]["kernel"] != 0)


def test_likelihood_and_entropy_are_those_of_the_softmax() -> None:
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])) + 3.0
    distribution = Categorical(logits)
    np.testing.assert_allclose(distribution.log_prob(jnp.array([0, 2], jnp.int32)), np.log([0.5, 0.7]), rtol=1e-5)
    expected = [-np.sum(p * np.log(p)) for p in (np.array([0.5, 0.25, 0.25]), np.array([0.1, 0.2, 0.7]))]
    np.testing.assert_allclose(distribution.entropy(), expected, rtol=1e-5)


def test_unavailable_actions_add_no_entropy() -> None:
    logits = jnp.where(AVAILABLE, 0.0, jnp.finfo(jnp.float32).min)
    np.testing.assert_allclose(Categorical(logits).entropy(), np.log(2), rtol=1e-6)
