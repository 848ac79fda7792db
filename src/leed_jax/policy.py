"""Independent policies: every agent has parameters of its own, stacked on a leading agent axis and applied under vmap.

This is the only module that knows distrax and flax's layers.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import distrax
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"tanh": nn.tanh, "relu": nn.relu, "gelu": nn.gelu, "silu": nn.silu}

Parameters = Any


@struct.dataclass
class PolicyParameters:
    """Parameters of actor and critic; stacked over agents, and over seeds before that, where there are several."""

    actor: Parameters
    critic: Parameters


class MLP(nn.Module):
    """A feed-forward network with orthogonal initialisation.

    Attributes:
        hidden_sizes: widths of the hidden layers.
        outputs: width of the last layer.
        output_scale: gain of the last layer's initial weights.
        activation: a key of `ACTIVATIONS`.
    """

    hidden_sizes: tuple[int, ...]
    outputs: int
    output_scale: float
    activation: str

    @nn.compact
    def __call__(self, x: Float[Array, "*B O"]) -> Float[Array, "*B N"]:
        """Apply the network to observations."""
        for size in self.hidden_sizes:
            x = nn.Dense(size, kernel_init=nn.initializers.orthogonal(np.sqrt(2)))(x)
            x = ACTIVATIONS[self.activation](x)
        return nn.Dense(self.outputs, kernel_init=nn.initializers.orthogonal(self.output_scale))(x)


@dataclasses.dataclass(frozen=True)
class Policy:
    """One agent's actor and critic; `init_agents` and the vmapped methods serve all agents at once.

    Attributes:
        num_actions: the number of actions.
        observation_size: the length of an observation.
        hidden_sizes: widths of the hidden layers of the actor and of the critic, which share none.
        activation: a key of `ACTIVATIONS`.
    """

    num_actions: int
    observation_size: int
    hidden_sizes: tuple[int, ...] = (128, 128)
    activation: str = "tanh"

    @property
    def _actor(self) -> MLP:
        # A small last layer starts the policy near uniform (Andrychowicz et al. 2021, arXiv 2006.05990, section 3.2).
        return MLP(self.hidden_sizes, self.num_actions, 0.01, self.activation)

    @property
    def _critic(self) -> MLP:
        return MLP(self.hidden_sizes, 1, 1.0, self.activation)

    def init(self, key: PRNGKeyArray) -> PolicyParameters:
        """Draw the parameters of one agent; `key` is consumed."""
        actor_key, critic_key = jax.random.split(key)
        observation = jnp.zeros(self.observation_size)
        return PolicyParameters(
            actor=self._actor.init(actor_key, observation), critic=self._critic.init(critic_key, observation)
        )

    def init_agents(self, key: PRNGKeyArray, num_agents: int) -> PolicyParameters:
        """Draw the parameters of all agents, stacked on the leading axis; `key` is consumed."""
        # One after the other, also under a vmap over seeds: on CPU, batched QR decompositions, which orthogonal
        # initialisation needs, wait for threads of the pool that they themselves keep busy, and now and then for ever.
        return jax.vmap(jax.custom_batching.sequential_vmap(self.init))(jax.random.split(key, num_agents))

    def logits(
        self, parameters: PolicyParameters, observation: Float[Array, "*B O"], available: Bool[Array, "*B N"]
    ) -> Float[Array, "*B N"]:
        """One agent's unnormalised log-probabilities; an unavailable action gets the lowest finite number."""
        logits = jnp.asarray(self._actor.apply(parameters.actor, observation))
        return jnp.where(available, logits, jnp.finfo(logits.dtype).min)

    def value(self, parameters: PolicyParameters, observation: Float[Array, "*B O"]) -> Float[Array, "*B"]:
        """One agent's estimate of the return to come."""
        return jnp.squeeze(jnp.asarray(self._critic.apply(parameters.critic, observation)), axis=-1)


def sample_action(logits: Float[Array, "*B N"], key: PRNGKeyArray) -> tuple[Int[Array, "*B"], Float[Array, "*B"]]:
    """Draw actions and return them with their log-probabilities; `key` is consumed."""
    action, log_prob = distrax.Categorical(logits=logits).sample_and_log_prob(seed=key)
    return action.astype(jnp.int32), log_prob


def greedy_action(logits: Float[Array, "*B N"]) -> Int[Array, "*B"]:
    """The most probable action."""
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def log_prob_and_entropy(
    logits: Float[Array, "*B N"], action: Int[Array, "*B"]
) -> tuple[Float[Array, "*B"], Float[Array, "*B"]]:
    """The log-probability of given actions, and the entropy of the whole distribution, in nats."""
    distribution = distrax.Categorical(logits=logits)
    return distribution.log_prob(action), distribution.entropy()
