"""Networks of agents that are learnt as values, how a team's value is mixed from theirs, and how they act on them."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from leed_jax.errors import ConfigurationError
from leed_jax.networks.modules import MLP, Parameters, init_stacked, of_agents, with_agent_id
from leed_jax.objectives.q_learning import best_available, monotonic_mixing, sum_of_values

MIXERS = ("vdn", "qmix")


@struct.dataclass
class QParameters:
    """Networks of the agents, stacked over groups; and qmix's hypernetworks, by name, of which vdn has none."""

    agents: Parameters
    mixer: dict[str, Parameters]


@dataclasses.dataclass(frozen=True)
class QNetwork:
    """The agents' networks: from an observation to a value for each action.

    Attributes:
        num_actions: the number of actions, `N`.
        observation_size: the length of an observation, `O`.
        num_agents: the number of agents, `A`.
        hidden_sizes: widths of the hidden layers.
        activation: a key of `leed_jax.networks.modules.ACTIVATIONS`.
        groups: the number of each agent's group, from 0 on; agents of a group share one network. Empty for a network
            for each.
        agent_id: whether an agent is told who it is.

    Raises:
        ConfigurationError: the groups do not fit the agents.
    """

    num_actions: int
    observation_size: int
    num_agents: int
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    groups: tuple[int, ...] = ()
    agent_id: bool = False

    def __post_init__(self) -> None:
        numbers = set(self.groups)
        if self.groups and (len(self.groups) != self.num_agents or numbers != set(range(len(numbers)))):
            raise ConfigurationError(
                f"groups={list(self.groups)} does not number a group for each of {self.num_agents} agents, from 0 on "
                "and without gaps."
            )

    @property
    def agent_groups(self) -> tuple[int, ...]:
        """The number of each agent's group."""
        return self.groups or tuple(range(self.num_agents))

    @property
    def _module(self) -> MLP:
        return MLP(self.hidden_sizes, self.num_actions, 1.0, self.activation)

    def init(self, key: PRNGKeyArray) -> Parameters:
        """Draw a network for each group, stacked; `key` is consumed."""
        size = self.observation_size + self.num_agents * self.agent_id
        keys = jax.random.split(key, max(self.agent_groups) + 1)
        return init_stacked(lambda k: self._module.init(k, jnp.zeros(size)), keys)

    def values(self, parameters: Parameters, observation: Float[Array, "*B A O"]) -> Float[Array, "*B A N"]:
        """Each agent's own value of each of its actions."""
        if self.agent_id:
            observation = with_agent_id(observation)
        if not any(self.agent_groups):
            # One network for all: a single large product of matrices, faster than one for each agent.
            return jnp.asarray(self._module.apply(jax.tree.map(lambda x: x[0], parameters), observation))
        own = of_agents(parameters, self.agent_groups)
        return jnp.asarray(jax.vmap(self._module.apply, in_axes=(0, -2), out_axes=-2)(own, observation))


@dataclasses.dataclass(frozen=True)
class Mixer:
    """How the team's value comes from the agents' own.

    Attributes:
        kind: vdn, as their sum; or qmix, as a monotonic function of them that depends on the state, which is all
            agents' observations.
        num_agents: the number of agents, `A`.
        state_size: the length of the state, `S`.
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
        """One for each argument of `monotonic_mixing`, with a hidden layer in all but the first bias's."""
        if self.kind == "vdn":
            return {}
        # Weights of about 1 / sqrt(M) in both layers make the slopes start near 1, those of a sum. Much steeper ones
        # let the first steps of learning throw the values far off, from where they hardly came back.
        scale, hidden = self.size**-0.5, (2 * self.size,)
        return {
            "first_weight": MLP(hidden, self.num_agents * self.size, scale, "relu"),
            "first_bias": MLP((), self.size, 1.0, "relu"),
            "second_weight": MLP(hidden, self.size, scale, "relu"),
            "second_bias": MLP((self.size,), 1, 1.0, "relu"),
        }

    def init(self, key: PRNGKeyArray) -> dict[str, Parameters]:
        """Draw the hypernetworks, of which vdn has none; `key` is consumed."""
        modules = self._hypernetworks
        keys = jax.random.split(key, max(len(modules), 1))

        def draw(module: MLP, key: PRNGKeyArray) -> Parameters:
            drawn = init_stacked(lambda k: module.init(k, jnp.zeros(self.state_size)), key[None])
            return jax.tree.map(lambda x: x[0], drawn)

        return {name: draw(module, key) for (name, module), key in zip(modules.items(), keys, strict=False)}

    def total(
        self, parameters: dict[str, Parameters], state: Float[Array, "B S"], value: Float[Array, "B A"]
    ) -> Float[Array, "B"]:
        """The team's value in each state, from each agent's value of its own action."""
        if self.kind == "vdn":
            return jax.vmap(sum_of_values)(value)
        made = {name: jnp.asarray(m.apply(parameters[name], state)) for name, m in self._hypernetworks.items()}
        return jax.vmap(monotonic_mixing)(
            value,
            made["first_weight"].reshape(-1, self.num_agents, self.size),
            made["first_bias"],
            made["second_weight"],
            made["second_bias"][:, 0],
        )


def joint_values(
    mixer: Mixer,
    parameters: QParameters,
    observation: Float[Array, "B A O"],
    value: Float[Array, "B A"],
    active: Bool[Array, "B A"],
) -> Float[Array, "B"]:
    """The team's value, from each agent's value of its own action.

    An agent that no longer takes part has nothing to gain or lose: its value counts as 0.

    Args:
        mixer: how they are put together; static.
        parameters: its own and the agents'.
        observation: what the agents see.
        value: each agent's value of its own action.
        active: whether each agent takes part.
    """
    state = observation.reshape(observation.shape[0], -1)
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
