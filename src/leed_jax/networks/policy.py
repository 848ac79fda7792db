"""Actors and critics. Parameters are stacked on a leading axis over groups of agents and applied under vmap."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from leed_jax.environments import Environment, has_continuous_actions
from leed_jax.networks.config import NetworkConfig
from leed_jax.networks.distributions import ActionDistribution, Categorical, Gaussian
from leed_jax.networks.modules import MLP, Parameters, RecurrentMLP, init_stacked, of_agents, with_agent_id

# A standard deviation of 0.6 covers most of [-1, 1], the range of continuous actions.
_INITIAL_LOG_STD = -0.5


@struct.dataclass
class PolicyParameters:
    """Parameters of actor and critic; stacked over groups of agents, and over seeds before that.

    Attributes:
        actor: of the network that chooses actions.
        critic: of the network that estimates values.
        log_std: logarithm of the standard deviation of each component of an action; None for discrete actions.
    """

    actor: Parameters
    critic: Parameters
    log_std: Float[Array, "N"] | None = None


@struct.dataclass
class HiddenState:
    """Hidden states of recurrent actors and critics."""

    actor: Float[Array, "*B H"]
    critic: Float[Array, "*B H"]


@dataclasses.dataclass(frozen=True)
class Policy:
    """Actors and critics of all agents.

    `distribution` and `value` are for one agent and are vmapped over agents; the other methods are for all at once.

    Attributes:
        num_actions: the number of actions, or of the components of an action.
        observation_size: the length of an observation.
        num_agents: the number of agents, `A`.
        network: layers, recurrence, and which agents share networks. Actor and critic share none.
        central_critic: whether critics get the observations of all agents.
        continuous: whether actions are real vectors.
    """

    num_actions: int
    observation_size: int
    num_agents: int
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    central_critic: bool = False
    continuous: bool = False

    @classmethod
    def of(cls, environment: Environment, network: NetworkConfig, *, central_critic: bool = False) -> "Policy":
        """A policy with the environment's sizes."""
        return cls(
            environment.num_actions,
            environment.observation_size,
            environment.num_agents,
            network,
            central_critic,
            has_continuous_actions(environment),
        )

    @property
    def groups(self) -> tuple[int, ...]:
        """The number of each agent's group; the agents of a group share parameters."""
        return self.network.group_of_agents(self.num_agents)

    @property
    def hidden_state_size(self) -> int:
        """The size of a recurrent network's hidden state, `H`; 0 for feed-forward ones."""
        return self.network.hidden_state_size

    @property
    def actor_input_size(self) -> int:
        """The length of an actor's input."""
        return self.observation_size + (self.num_agents if self.network.uses_agent_id(self.num_agents) else 0)

    def _module(self, outputs: int, output_scale: float) -> MLP | RecurrentMLP:
        sizes, activation = self.network.hidden_sizes, self.network.activation
        if self.hidden_state_size:
            return RecurrentMLP(sizes, self.hidden_state_size, outputs, output_scale, activation)
        return MLP(sizes, outputs, output_scale, activation)

    @property
    def _actor(self) -> MLP | RecurrentMLP:
        # A small last layer starts the policy near uniform (Andrychowicz et al. 2021, arXiv 2006.05990, section 3.2).
        return self._module(self.num_actions, 0.01)

    @property
    def _critic(self) -> MLP | RecurrentMLP:
        return self._module(self._num_values, 1.0)

    @property
    def _num_values(self) -> int:
        """The number of values of a critic: one that is central and shared has one for each agent."""
        shared = len(set(self.groups)) < self.num_agents
        return self.num_agents if self.central_critic and shared else 1

    def init(self, key: PRNGKeyArray) -> PolicyParameters:
        """Draw the parameters of all groups, stacked on the leading axis `G`; `key` is consumed."""
        return init_stacked(self._init_group, jax.random.split(key, max(self.groups) + 1))

    def _init_group(self, key: PRNGKeyArray) -> PolicyParameters:
        actor_key, critic_key = jax.random.split(key)
        critic_size = self.num_agents * self.observation_size if self.central_critic else self.actor_input_size
        return PolicyParameters(
            actor=self._init_module(self._actor, actor_key, self.actor_input_size),
            critic=self._init_module(self._critic, critic_key, critic_size),
            log_std=jnp.full(self.num_actions, _INITIAL_LOG_STD) if self.continuous else None,
        )

    def _init_module(self, module: MLP | RecurrentMLP, key: PRNGKeyArray, size: int) -> Parameters:
        if isinstance(module, MLP):
            return module.init(key, jnp.zeros(size))
        hidden = jnp.zeros((1, self.hidden_state_size))
        return module.init(key, hidden, jnp.zeros((1, 1, size)), jnp.zeros((1, 1), bool))

    def of_agents(self, parameters: PolicyParameters) -> PolicyParameters:
        """Each agent's parameters, stacked on a leading axis `A`, from those of the groups."""
        return of_agents(parameters, self.groups)

    def init_hidden(self, num_envs: int) -> HiddenState | None:
        """Hidden states at the start of an episode, `[E, A, H]`; None for feed-forward networks."""
        if not self.hidden_state_size:
            return None
        zeros = jnp.zeros((num_envs, self.num_agents, self.hidden_state_size))
        return HiddenState(zeros, zeros)

    def actor_input(self, obs: Float[Array, "*B"], axis: int = -2) -> Float[Array, "*C"]:
        """The input of each agent's actor, and of its critic where critics are not central.

        Args:
            obs: observations, with the agents on `axis`.
            axis: which axis that is.
        """
        return with_agent_id(obs, axis) if self.network.uses_agent_id(self.num_agents) else obs

    def global_state(self, obs: Float[Array, "*B A O"]) -> Float[Array, "*B Q"] | None:
        """The input of central critics: all observations, concatenated. None where critics are not central."""
        return obs.reshape(*obs.shape[:-2], -1) if self.central_critic else None

    def distribution(
        self,
        parameters: PolicyParameters,
        hidden: Float[Array, "B H"] | None,
        actor_input: Float[Array, "L B P"],
        available: Bool[Array, "L B N"],
        is_first: Bool[Array, "L B"],
    ) -> tuple[Float[Array, "B H"] | None, ActionDistribution]:
        """One agent's distributions of actions over sequences.

        Args:
            parameters: the agent's parameters.
            hidden: hidden state of its actor before the sequences.
            actor_input: what `actor_input` returned for it.
            available: which actions it may take, or which components its actions have.
            is_first: which steps are the first of an episode.

        Returns:
            The hidden state after the sequences, and the distributions, `[L, B]`.
        """
        hidden, output = self._apply(self._actor, parameters.actor, hidden, actor_input, is_first)
        if self.continuous:
            assert parameters.log_std is not None  # noqa: S101 - as `init` makes it
            return hidden, Gaussian(output, jnp.broadcast_to(parameters.log_std, output.shape), available)
        return hidden, Categorical(jnp.where(available, output, jnp.finfo(output.dtype).min))

    def value(
        self,
        parameters: PolicyParameters,
        hidden: Float[Array, "B H"] | None,
        critic_input: Float[Array, "L B Q"],
        is_first: Bool[Array, "L B"],
        agent: Int[Array, ""],
    ) -> tuple[Float[Array, "B H"] | None, Float[Array, "L B"]]:
        """One agent's estimates of its return over sequences.

        Args:
            parameters: the agent's parameters.
            hidden: hidden state of its critic before the sequences.
            critic_input: what `global_state` returned where critics are central, else what `actor_input` did.
            is_first: which steps are the first of an episode.
            agent: its index.

        Returns:
            The hidden state after the sequences, and the values, `[L, B]`.
        """
        hidden, output = self._apply(self._critic, parameters.critic, hidden, critic_input, is_first)
        return hidden, output[..., agent if self._num_values > 1 else 0]

    def _apply(
        self, module: MLP | RecurrentMLP, parameters: Parameters, hidden: Array | None, x: Array, is_first: Array
    ) -> tuple[Array | None, Array]:
        if isinstance(module, RecurrentMLP):
            return module.apply(parameters, hidden, x, is_first)  # type: ignore[return-value]
        # One axis for all samples: on CPU, gradients of matrix products with two batch axes take a third longer.
        output = jnp.asarray(module.apply(parameters, x.reshape(-1, x.shape[-1])))
        return hidden, output.reshape(*x.shape[:-1], output.shape[-1])


def distributions_of_agents(
    policy: Policy,
    parameters: PolicyParameters,
    hidden: Float[Array, "E A H"] | None,
    actor_input: Float[Array, "E A P"],
    available: Bool[Array, "E A N"],
    is_first: Bool[Array, "E"],
) -> tuple[Float[Array, "E A H"] | None, ActionDistribution]:
    """One step of every agent's actor; the distributions have the shape `[E, A]`.

    Args:
        policy: the networks.
        parameters: each agent's parameters, `[A, ...]`, as `Policy.of_agents` gives them.
        hidden: hidden states of the actors.
        actor_input: what `Policy.actor_input` returned.
        available: which actions they may take.
        is_first: which steps are the first of an episode.
    """

    def one(parameters: PolicyParameters, hidden: Any, actor_input: Array, available: Array) -> tuple:
        hidden, distribution = policy.distribution(
            parameters, hidden, actor_input[None], available[None], is_first[None]
        )
        return hidden, jax.tree.map(lambda x: x[0], distribution)

    return jax.vmap(one, in_axes=(0, 1, 1, 1), out_axes=1)(parameters, hidden, actor_input, available)


def values_of_agents(
    policy: Policy,
    parameters: PolicyParameters,
    hidden: Float[Array, "E A H"] | None,
    obs: Float[Array, "E A O"],
    is_first: Bool[Array, "E"],
) -> tuple[Float[Array, "E A H"] | None, Float[Array, "E A"]]:
    """One step of every agent's critic; see `distributions_of_agents`."""

    def one(parameters: PolicyParameters, hidden: Any, critic_input: Array, agent: Array) -> tuple:
        hidden, value = policy.value(parameters, hidden, critic_input[None], is_first[None], agent)
        return hidden, value[0]

    global_state = policy.global_state(obs)
    axis, critic_input = (1, policy.actor_input(obs)) if global_state is None else (None, global_state)
    agents = jnp.arange(policy.num_agents)
    return jax.vmap(one, in_axes=(0, 1, axis, 0), out_axes=1)(parameters, hidden, critic_input, agents)
