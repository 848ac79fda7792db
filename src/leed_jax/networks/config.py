"""The settings of the agents' networks."""

import dataclasses

from leed_jax.errors import ConfigurationError
from leed_jax.fields import at_least, choice
from leed_jax.networks.modules import ACTIVATIONS


# Not frozen, as OmegaConf could not change a default then; nothing changes one that is in use.
@dataclasses.dataclass(unsafe_hash=True)
class NetworkConfig:
    """Networks of each agent.

    Attributes:
        hidden_sizes: widths of the hidden layers of each agent's actor and critic.
        activation: tanh, relu, gelu or silu.
        memory: none, feed-forward; or gru, with a recurrent layer after the hidden ones.
        memory_size: width of that layer.
        sharing: none, each agent has its own networks; all, they share them; groups, those of a group do.
        groups: with sharing=groups, the number of each agent's group, as in [0,0,1].
        agent_id: append the agent's one-hot index to its observation; null: where networks are shared.
    """

    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = choice("tanh", ACTIVATIONS)
    memory: str = choice("none", ("none", "gru"))
    memory_size: int = at_least(64)
    sharing: str = choice("none", ("none", "all", "groups"))
    groups: tuple[int, ...] = ()
    agent_id: bool | None = None

    def group_of_agents(self, num_agents: int) -> tuple[int, ...]:
        """The number of each agent's group; the agents of a group share their networks.

        Args:
            num_agents: the number of agents.

        Raises:
            ConfigurationError: `groups` does not fit.
        """
        if self.sharing == "none":
            return tuple(range(num_agents))
        if self.sharing == "all":
            return (0,) * num_agents
        if len(self.groups) != num_agents or set(self.groups) != set(range(len(set(self.groups)))):
            raise ConfigurationError(
                f"network.groups={list(self.groups)}: there are {num_agents} agents, so write {num_agents} numbers, "
                "with the groups counted from 0 on and none left out, as in [0,0,1]."
            )
        return self.groups

    def uses_agent_id(self, num_agents: int) -> bool:
        """Whether networks are given the agent's index."""
        if self.agent_id is None:
            return len(set(self.group_of_agents(num_agents))) < num_agents
        return self.agent_id

    @property
    def hidden_state_size(self) -> int:
        """The size of a recurrent network's hidden state, `H`; 0 for feed-forward ones."""
        return 0 if self.memory == "none" else self.memory_size
