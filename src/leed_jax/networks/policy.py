"""Independent policies: every agent, or every group of agents that share, has parameters of its own.

Parameters are stacked on a leading axis and applied under vmap. This is the only module that knows distrax.
"""

import dataclasses
from typing import Any

import distrax
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from leed_jax.environments import Environment, has_continuous_actions
from leed_jax.networks.modules import MLP, Parameters, RecurrentMLP, init_stacked, of_agents, with_agent_id

# A standard deviation of 0.6 reaches over most of [-1, 1], to which continuous actions are clipped.
_INITIAL_LOG_STD = -0.5


@struct.dataclass
class PolicyParameters:
    """Parameters of actor and critic; stacked over groups of agents, and over seeds before that.

    Attributes:
        actor: of the network that chooses actions.
        critic: of the network that estimates values.
        log_std: the logarithm of the standard deviation of each component of an action; None for discrete actions.
    """

    actor: Parameters
    critic: Parameters
    log_std: Float[Array, "N"] | None = None


@struct.dataclass
class Memory:
    """What recurrent networks remember; the last axis is theirs."""

    actor: Float[Array, "*B H"]
    critic: Float[Array, "*B H"]


@struct.dataclass
class Categorical:
    """Distributions over discrete actions.

    Attributes:
        logits: unnormalised log-probabilities, those of unavailable actions the lowest finite number.
    """

    logits: Float[Array, "*B N"]

    def sample(self, key: PRNGKeyArray) -> tuple[Int[Array, "*B"], Float[Array, "*B"]]:
        """Draw actions and return them with their log-probabilities; `key` is consumed."""
        action, log_prob = distrax.Categorical(logits=self.logits).sample_and_log_prob(seed=key)
        return action.astype(jnp.int32), log_prob

    def mode(self) -> Int[Array, "*B"]:
        """The most probable action."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)

    def log_prob(self, action: Int[Array, "*B"]) -> Float[Array, "*B"]:
        """The log-probability of given actions."""
        return distrax.Categorical(logits=self.logits).log_prob(action)

    def entropy(self) -> Float[Array, "*B"]:
        """The entropy, in nats."""
        return distrax.Categorical(logits=self.logits).entropy()


@struct.dataclass
class Gaussian:
    """Distributions over vectors of real numbers with independent components.

    Attributes:
        mean: their means.
        log_std: logarithms of their standard deviations.
        used: which components there are; the others are padding, always zero, and count for nothing.
    """

    mean: Float[Array, "*B N"]
    log_std: Float[Array, "*B N"]
    used: Bool[Array, "*B N"]

    def _components(self) -> distrax.Normal:
        return distrax.Normal(self.mean, jnp.exp(self.log_std))

    def _sum(self, x: Float[Array, "*B N"]) -> Float[Array, "*B"]:
        return jnp.sum(jnp.where(self.used, x, 0.0), axis=-1)

    def sample(self, key: PRNGKeyArray) -> tuple[Float[Array, "*B N"], Float[Array, "*B"]]:
        """Draw actions and return them with their log-densities; `key` is consumed."""
        action, log_prob = self._components().sample_and_log_prob(seed=key)
        return jnp.where(self.used, action, 0.0), self._sum(log_prob)

    def mode(self) -> Float[Array, "*B N"]:
        """The action of the highest density."""
        return jnp.where(self.used, self.mean, 0.0)

    def log_prob(self, action: Float[Array, "*B N"]) -> Float[Array, "*B"]:
        """The log-density of given actions."""
        return self._sum(self._components().log_prob(action))

    def entropy(self) -> Float[Array, "*B"]:
        """The differential entropy, in nats."""
        return self._sum(self._components().entropy())


ActionDistribution = Categorical | Gaussian


@dataclasses.dataclass(frozen=True)
class Policy:
    """Actors and critics. Methods that name no agent serve all at once; those that do are to be vmapped over agents.

    Attributes:
        num_actions: the number of actions, or of the components of an action.
        observation_size: the length of an observation.
        num_agents: the number of agents, `A`.
        hidden_sizes: widths of the hidden layers of the actor and of the critic, which share none.
        activation: a key of `leed_jax.networks.modules.ACTIVATIONS`.
        memory_size: width of a recurrent layer after the hidden ones, `H`; 0 for none.
        groups: the number of each agent's group, from 0 on; the agents of a group share parameters. Empty: each agent
            is a group of its own.
        agent_id: whether the networks are told which agent they act for.
        central_critic: whether critics see what all agents see.
        continuous: whether actions are vectors of real numbers.
    """

    num_actions: int
    observation_size: int
    num_agents: int
    hidden_sizes: tuple[int, ...] = (128, 128)
    activation: str = "tanh"
    memory_size: int = 0
    groups: tuple[int, ...] = ()
    agent_id: bool = False
    central_critic: bool = False
    continuous: bool = False

    @classmethod
    def of(cls, environment: Environment, **settings: Any) -> "Policy":
        """A policy for an environment; `settings` are the attributes from `hidden_sizes` on."""
        return cls(
            environment.num_actions,
            environment.observation_size,
            environment.num_agents,
            continuous=has_continuous_actions(environment),
            **settings,
        )

    @property
    def agent_groups(self) -> tuple[int, ...]:
        """The number of each agent's group."""
        return self.groups or tuple(range(self.num_agents))

    @property
    def seen_size(self) -> int:
        """The length of what an actor sees."""
        return self.observation_size + (self.num_agents if self.agent_id else 0)

    def _network(self, outputs: int, output_scale: float) -> MLP | RecurrentMLP:
        if self.memory_size:
            return RecurrentMLP(self.hidden_sizes, self.memory_size, outputs, output_scale, self.activation)
        return MLP(self.hidden_sizes, outputs, output_scale, self.activation)

    @property
    def _actor(self) -> MLP | RecurrentMLP:
        # A small last layer starts the policy near uniform (Andrychowicz et al. 2021, arXiv 2006.05990, section 3.2).
        return self._network(self.num_actions, 0.01)

    @property
    def _critic(self) -> MLP | RecurrentMLP:
        return self._network(self._values, 1.0)

    @property
    def _values(self) -> int:
        """The number of values that a critic estimates: one that is central and shared has one for each agent."""
        shared = len(set(self.agent_groups)) < self.num_agents
        return self.num_agents if self.central_critic and shared else 1

    def init(self, key: PRNGKeyArray) -> PolicyParameters:
        """Draw the parameters of one group; `key` is consumed."""
        actor_key, critic_key = jax.random.split(key)
        critic_size = self.num_agents * self.observation_size if self.central_critic else self.seen_size
        return PolicyParameters(
            actor=self._init(self._actor, actor_key, self.seen_size),
            critic=self._init(self._critic, critic_key, critic_size),
            log_std=jnp.full(self.num_actions, _INITIAL_LOG_STD) if self.continuous else None,
        )

    def _init(self, network: MLP | RecurrentMLP, key: PRNGKeyArray, size: int) -> Parameters:
        if isinstance(network, MLP):
            return network.init(key, jnp.zeros(size))
        return network.init(key, jnp.zeros((1, self.memory_size)), jnp.zeros((1, 1, size)), jnp.zeros((1, 1), bool))

    def init_agents(self, key: PRNGKeyArray) -> PolicyParameters:
        """Draw the parameters of all groups, stacked on the leading axis `G`; `key` is consumed."""
        return init_stacked(self.init, jax.random.split(key, max(self.agent_groups) + 1))

    def of_agents(self, parameters: PolicyParameters) -> PolicyParameters:
        """Each agent's parameters, stacked on a leading axis `A`, from those of the groups."""
        return of_agents(parameters, self.agent_groups)

    def empty_memory(self, num_envs: int) -> Memory | None:
        """What networks remember when an episode starts, `[E, A, H]`; None for feed-forward networks."""
        if not self.memory_size:
            return None
        nothing = jnp.zeros((num_envs, self.num_agents, self.memory_size))
        return Memory(nothing, nothing)

    def see(self, observation: Float[Array, "*B"], axis: int = -2) -> Float[Array, "*C"]:
        """What each actor, and each critic of its own, is given of the agents' observations.

        Args:
            observation: observations, with the agents on `axis`.
            axis: which axis that is.
        """
        return with_agent_id(observation, axis) if self.agent_id else observation

    def see_all(self, observation: Float[Array, "*B A O"]) -> Float[Array, "*B Q"] | None:
        """What all central critics are given of the agents' observations; None where there are none."""
        return observation.reshape(*observation.shape[:-2], -1) if self.central_critic else None

    def act(
        self,
        parameters: PolicyParameters,
        memory: Float[Array, "B H"] | None,
        seen: Float[Array, "L B P"],
        available: Bool[Array, "L B N"],
        start: Bool[Array, "L B"],
    ) -> tuple[Float[Array, "B H"] | None, ActionDistribution]:
        """Run one agent's actor over sequences.

        Args:
            parameters: the agent's parameters.
            memory: what its actor remembers at the beginning of each sequence.
            seen: what `see` gave it.
            available: which actions it may take, or which components its actions have.
            start: where an episode starts.

        Returns:
            The memory after the sequences, and the distributions of the agent's actions, `[L, B]`.
        """
        memory, output = self._apply(self._actor, parameters.actor, memory, seen, start)
        if self.continuous:
            assert parameters.log_std is not None  # noqa: S101 - as `init` makes it
            return memory, Gaussian(output, jnp.broadcast_to(parameters.log_std, output.shape), available)
        return memory, Categorical(jnp.where(available, output, jnp.finfo(output.dtype).min))

    def value(
        self,
        parameters: PolicyParameters,
        memory: Float[Array, "B H"] | None,
        seen: Float[Array, "L B Q"],
        start: Bool[Array, "L B"],
        agent: Int[Array, ""],
    ) -> tuple[Float[Array, "B H"] | None, Float[Array, "L B"]]:
        """Run one agent's critic over sequences.

        Args:
            parameters: the agent's parameters.
            memory: what its critic remembers at the beginning of each sequence.
            seen: what `see_all` gave where critics are central, else what `see` gave it.
            start: where an episode starts.
            agent: its number.

        Returns:
            The memory after the sequences, and the agent's estimates of the return to come, `[L, B]`.
        """
        memory, output = self._apply(self._critic, parameters.critic, memory, seen, start)
        return memory, output[..., agent if self._values > 1 else 0]

    def _apply(self, network: Any, parameters: Parameters, memory: Any, seen: Array, start: Array) -> tuple[Any, Array]:
        if self.memory_size:
            return network.apply(parameters, memory, seen, start)
        # One axis for all samples: gradients of products of matrices with two take a third longer on CPU.
        output = jnp.asarray(network.apply(parameters, seen.reshape(-1, seen.shape[-1])))
        return memory, output.reshape(*seen.shape[:-1], output.shape[-1])
