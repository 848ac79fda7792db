"""Action values of agents, and the mixing of the team's value from them."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from leed_jax.environments import Environment
from leed_jax.errors import ConfigurationError
from leed_jax.networks.config import NetworkConfig
from leed_jax.networks.modules import MLP, Parameters, init_stacked, of_agents, with_agent_id
from leed_jax.objectives import best_available, monotonic_mixing, sum_of_values

MIXERS = ("vdn", "qmix")


@struct.dataclass
class QParameters:
    """Networks of the agents, stacked over groups; and qmix's hypernetworks by name (vdn has none)."""

    agents: Parameters
    mixer: dict[str, Parameters]


@dataclasses.dataclass(frozen=True)
class QNetwork:
    """The agents' networks: from an observation to a value for each action.

    Attributes:
        num_actions: the number of actions, `N`.
        observation_size: the length of an observation, `O`.
        num_agents: the number of agents, `A`.
        network: layers, and which agents share networks. Feed-forward only.
    """

    num_actions: int
    observation_size: int
    num_agents: int
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)

    @classmethod
    def of(cls, environment: Environment, network: NetworkConfig) -> "QNetwork":
        """Networks with the environment's sizes."""
        return cls(environment.num_actions, environment.observation_size, environment.num_agents, network)

    @property
    def groups(self) -> tuple[int, ...]:
        """The number of each agent's group; the agents of a group share one network."""
        return self.network.group_of_agents(self.num_agents)

    @property
    def _module(self) -> MLP:
        return MLP(self.network.hidden_sizes, self.num_actions, 1.0, self.network.activation)

    def init(self, key: PRNGKeyArray) -> Parameters:
        """Draw a network for each group, stacked; `key` is consumed."""
        size = self.observation_size + self.num_agents * self.network.uses_agent_id(self.num_agents)
        keys = jax.random.split(key, max(self.groups) + 1)
        return init_stacked(lambda k: self._module.init(k, jnp.zeros(size)), keys)

    def values(self, parameters: Parameters, obs: Float[Array, "*B A O"]) -> Float[Array, "*B A N"]:
        """Each agent's value of each of its actions."""
        if self.network.uses_agent_id(self.num_agents):
            obs = with_agent_id(obs)
        if not any(self.groups):
            # One network for all: a single large matrix product, faster than one for each agent.
            return jnp.asarray(self._module.apply(jax.tree.map(lambda x: x[0], parameters), obs))
        own = of_agents(parameters, self.groups)
        return jnp.asarray(jax.vmap(self._module.apply, in_axes=(0, -2), out_axes=-2)(own, obs))


@dataclasses.dataclass(frozen=True)
class Mixer:
    """The mixing of the team's value from the agents' values.

    Attributes:
        kind: vdn, their sum; or qmix, a monotonic function of them that depends on the global state.
        num_agents: the number of agents, `A`.
        state_size: the length of the global state, `S`: all observations, concatenated.
        size: width of qmix's mixing network, `M`.

    Raises:
        ConfigurationError: there is no such mixer.
    """

    kind: str
    num_agents: int
    state_size: int
    size: int

    def __post_init__(self) -> None:
        if self.kind not in MIXERS:
            raise ConfigurationError(f"There is no mixer {self.kind!r}; choose one of {', '.join(MIXERS)}.")

    @property
    def _hypernetworks(self) -> dict[str, MLP]:
        """One for each argument of `monotonic_mixing`; all but that of the first bias have a hidden layer."""
        if self.kind == "vdn":
            return {}
        # Weights of about 1 / sqrt(M) in both layers make the slopes start near 1, as those of a sum. With much steeper
        # ones the values diverged in the first updates, and hardly came back.
        scale, hidden = self.size**-0.5, (2 * self.size,)
        return {
            "first_weight": MLP(hidden, self.num_agents * self.size, scale, "relu"),
            "first_bias": MLP((), self.size, 1.0, "relu"),
            "second_weight": MLP(hidden, self.size, scale, "relu"),
            "second_bias": MLP((self.size,), 1, 1.0, "relu"),
        }

    def init(self, key: PRNGKeyArray) -> dict[str, Parameters]:
        """Draw the hypernetworks; `key` is consumed."""
        modules = self._hypernetworks
        keys = jax.random.split(key, max(len(modules), 1))

        def draw(module: MLP, key: PRNGKeyArray) -> Parameters:
            drawn = init_stacked(lambda k: module.init(k, jnp.zeros(self.state_size)), key[None])
            return jax.tree.map(lambda x: x[0], drawn)

        return {name: draw(module, key) for (name, module), key in zip(modules.items(), keys, strict=False)}

    def total(
        self, parameters: dict[str, Parameters], state: Float[Array, "B S"], value: Float[Array, "B A"]
    ) -> Float[Array, "B"]:
        """The team's value in each state, from the value of each agent's action."""
        if self.kind == "vdn":
            return jax.vmap(sum_of_values)(value)
        weights = {name: jnp.asarray(m.apply(parameters[name], state)) for name, m in self._hypernetworks.items()}
        return jax.vmap(monotonic_mixing)(
            value,
            weights["first_weight"].reshape(-1, self.num_agents, self.size),
            weights["first_bias"],
            weights["second_weight"],
            weights["second_bias"][:, 0],
        )


def joint_values(
    mixer: Mixer,
    parameters: QParameters,
    obs: Float[Array, "B A O"],
    value: Float[Array, "B A"],
    active: Bool[Array, "B A"],
) -> Float[Array, "B"]:
    """The team's value, from the value of each agent's action; that of an inactive agent counts as 0.

    Args:
        mixer: how they are mixed; static.
        parameters: of the mixer.
        obs: observations of all agents.
        value: the value of each agent's action.
        active: which agents take part.
    """
    state = obs.reshape(obs.shape[0], -1)
    return mixer.total(parameters.mixer, state, jnp.where(active, value, 0.0))


def explore(
    values: Float[Array, "*B A N"],
    available: Bool[Array, "*B A N"],
    epsilon: Float[Array, ""] | float,
    key: PRNGKeyArray,
) -> Int[Array, "*B A"]:
    """Each agent's best available action or, with probability `epsilon`, any of them; `key` is consumed."""
    random_key, which_key = jax.random.split(key)
    best = jnp.vectorize(best_available, signature="(n),(n)->()")(values, available)
    # The lowest finite number: where nothing is available, minus infinity would leave nothing to draw from.
    lowest = jnp.finfo(values.dtype).min
    anything = jax.random.categorical(random_key, jnp.where(available, 0.0, lowest)).astype(jnp.int32)
    return jnp.where(jax.random.bernoulli(which_key, epsilon, best.shape), anything, best)
