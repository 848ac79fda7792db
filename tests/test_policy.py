"""Independent policies and their action distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from leed_jax.networks.modules import ACTIVATIONS
from leed_jax.networks.policy import Categorical, Policy

POLICY = Policy(num_actions=4, observation_size=3, num_agents=5, hidden_sizes=(8, 8))
START = jnp.zeros((1, 6), bool)
OBSERVATION = jax.random.normal(jax.random.key(1), (6, 3))
AVAILABLE = jnp.array([True, False, True, False])


@pytest.fixture(scope="module")
def agents() -> object:
    return jax.jit(POLICY.init_agents)(jax.random.key(0))


def one(agents: object, index: int) -> object:
    return jax.tree.map(lambda x: x[index], agents)


def logits_of(parameters: object, observation: object, available: object, policy: Policy = POLICY) -> jax.Array:
    return policy.act(parameters, None, observation[None], available[None], START)[1].logits[0]


def value_of(parameters: object, observation: object, policy: Policy = POLICY) -> jax.Array:
    return policy.value(parameters, None, observation[None], START, jnp.int32(0))[1][0]


def test_parameters_are_stacked_by_agent(agents: object) -> None:
    assert all(leaf.shape[0] == 5 for leaf in jax.tree.leaves(agents))
    single = jax.eval_shape(POLICY.init, jax.random.key(0))
    assert [x.shape[1:] for x in jax.tree.leaves(agents)] == [x.shape for x in jax.tree.leaves(single)]


def test_agents_start_different(agents: object) -> None:
    kernels = [np.asarray(leaf) for leaf in jax.tree.leaves(agents) if leaf.ndim == 3]
    assert len(kernels) == 6
    for kernel in kernels:
        assert len(np.unique(kernel.reshape(5, -1), axis=0)) == 5


def test_policies_start_near_uniform(agents: object) -> None:
    logits = logits_of(one(agents, 0), OBSERVATION, jnp.ones((6, 4), bool))
    np.testing.assert_allclose(jax.nn.softmax(logits), 0.25, atol=0.02)


def test_networks_give_one_row_an_observation(agents: object) -> None:
    assert logits_of(one(agents, 0), OBSERVATION, jnp.ones((6, 4), bool)).shape == (6, 4)
    assert value_of(one(agents, 0), OBSERVATION).shape == (6,)


def test_actor_and_critic_share_nothing(agents: object) -> None:
    parameters = one(agents, 0)
    changed = parameters.replace(critic=jax.tree.map(jnp.zeros_like, parameters.critic))
    available = jnp.ones((6, 4), bool)
    np.testing.assert_array_equal(
        logits_of(parameters, OBSERVATION, available), logits_of(changed, OBSERVATION, available)
    )
    np.testing.assert_array_equal(value_of(changed, OBSERVATION), np.zeros(6))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_works(activation: str) -> None:
    policy = Policy(2, 3, 1, (4,), activation)
    parameters = policy.init(jax.random.key(0))
    hidden = parameters.critic["params"]["Dense_0"], parameters.critic["params"]["Dense_1"]
    inner = ACTIVATIONS[activation](OBSERVATION @ hidden[0]["kernel"] + hidden[0]["bias"])
    expected = (inner @ hidden[1]["kernel"] + hidden[1]["bias"])[:, 0]
    np.testing.assert_allclose(value_of(parameters, OBSERVATION, policy), expected, rtol=1e-5, atol=1e-6)


def test_an_unavailable_action_is_never_taken(agents: object) -> None:
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


def test_masked_distributions_have_finite_gradients(agents: object) -> None:
    def objective(parameters: object) -> jax.Array:
        logits = logits_of(parameters, OBSERVATION, jnp.tile(AVAILABLE, (6, 1)))
        choice = Categorical(logits)
        return jnp.mean(choice.log_prob(jnp.full(6, 2, jnp.int32)) + choice.entropy())

    gradient = jax.grad(objective)(one(agents, 0))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    assert np.any(gradient.actor["params"]["Dense_2"]["kernel"] != 0)


def test_likelihood_and_entropy_are_those_of_the_softmax() -> None:
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])) + 3.0
    choice = Categorical(logits)
    np.testing.assert_allclose(choice.log_prob(jnp.array([0, 2], jnp.int32)), np.log([0.5, 0.7]), rtol=1e-5)
    expected = [-np.sum(p * np.log(p)) for p in (np.array([0.5, 0.25, 0.25]), np.array([0.1, 0.2, 0.7]))]
    np.testing.assert_allclose(choice.entropy(), expected, rtol=1e-5)


def test_what_cannot_be_done_adds_no_entropy() -> None:
    logits = jnp.where(AVAILABLE, 0.0, jnp.finfo(jnp.float32).min)
    np.testing.assert_allclose(Categorical(logits).entropy(), np.log(2), rtol=1e-6)
