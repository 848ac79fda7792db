"""A vocabulary for any environment with discrete actions: its own primitive actions."""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from leed_jax.environments import Wrapper, has_continuous_actions
from leed_jax.errors import ConfigurationError
from leed_jax.instructions.vocabulary import Command, Parameter, Vocabulary


@dataclasses.dataclass(frozen=True)
class PrimitiveInstructions(Wrapper):
    """Adds one command, `Act`, whose parameters are the actions, named by `action_names` if the environment has them.

    Raises:
        ConfigurationError: the environment's actions are continuous.
    """

    def __post_init__(self) -> None:
        if has_continuous_actions(self.environment):
            raise ConfigurationError(
                f"{type(self.environment).__name__} has continuous actions, which cannot be listed as instructions; "
                "give it a vocabulary of its own (see leed_jax.InstructedEnvironment), or train without instructions."
            )

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """`Act` with the names of the actions."""
        default = tuple(f"action_{i}" for i in range(self.num_actions))
        names = tuple(getattr(self.environment, "action_names", default))
        act = Command("Act", "Take this action for one step; the last one is repeated.", names)
        parameters = tuple(Parameter(name, "The primitive action of that name.") for name in names)
        return Vocabulary((act,), parameters, tuple(f"agent_{i}" for i in range(self.num_agents)))

    def describe(self) -> str:
        """The environment's own description, or one of its sizes."""
        if hasattr(self.environment, "describe"):
            return self.environment.describe()
        return (
            f"{self.num_agents} agents act for at most {self.max_steps} steps in an episode. "
            f"Each has {self.num_actions} actions. A higher return is better."
        )

    def act(self, state: Any, command: Int[Array, "A"], parameter: Int[Array, "A"]) -> Int[Array, "A"]:
        """The action that the parameter names."""
        del state, command
        return parameter

    def achieved(self, state: Any, command: Int[Array, "A"], parameter: Int[Array, "A"]) -> Bool[Array, "A"]:
        """True: an action takes one step."""
        del state, parameter
        return jnp.ones_like(command, dtype=bool)
