"""The fallback vocabulary: any environment can be instructed in its own primitive actions."""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from leed_jax.environment import Environment, TimeStep
from leed_jax.instructions.vocabulary import Command, Parameter, Vocabulary


@dataclasses.dataclass(frozen=True)
class PrimitiveInstructions:
    """Gives an environment without instructions of its own the single command `Act`, one step per instruction.

    Attributes:
        environment: the environment to wrap; its `action_names`, if it has any, become the parameters.
    """

    environment: Environment

    @property
    def num_agents(self) -> int:
        """The number of agents, `A`."""
        return self.environment.num_agents

    @property
    def observation_size(self) -> int:
        """The length of one agent's observation, `O`."""
        return self.environment.observation_size

    @property
    def num_actions(self) -> int:
        """The number of actions of an agent, `N`."""
        return self.environment.num_actions

    @property
    def max_steps(self) -> int:
        """The number of steps after which every episode is over."""
        return self.environment.max_steps

    def reset(self, key: PRNGKeyArray) -> tuple[Any, TimeStep]:
        """Start an episode; `key` is consumed."""
        return self.environment.reset(key)

    def step(self, state: Any, action: Int[Array, "A"], key: PRNGKeyArray) -> tuple[Any, TimeStep]:
        """Take one action per agent; `key` is consumed."""
        return self.environment.step(state, action, key)

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """`Act` with the names of the actions."""
        default = tuple(f"action_{i}" for i in range(self.num_actions))
        names = getattr(self.environment, "action_names", default)
        agents = tuple(f"agent_{i}" for i in range(self.num_agents))
        parameters = tuple(Parameter(name, "The primitive action of that name.") for name in names)
        act = Command("Act", "Take this action for one step; the last one is repeated.", tuple(names))
        return Vocabulary((act,), parameters, agents)

    def describe(self) -> str:
        """The environment's own description, or what its sizes tell."""
        describe = getattr(self.environment, "describe", None)
        if describe is not None:
            return describe()
        return (
            f"{self.num_agents} agents act for at most {self.max_steps} steps in an episode. "
            f"Each has {self.num_actions} actions. A higher return is better."
        )

    def act(self, state: Any, command: Int[Array, "A"], parameter: Int[Array, "A"]) -> Int[Array, "A"]:
        """The action that the parameter names."""
        del state, command
        return parameter

    def achieved(self, state: Any, command: Int[Array, "A"], parameter: Int[Array, "A"]) -> Bool[Array, "A"]:
        """Always: an action takes one step."""
        del state, parameter
        return jnp.ones_like(command, dtype=bool)
