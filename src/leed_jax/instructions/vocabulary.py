"""The words of the instruction language, and the protocol of environments that can execute instructions.

An instruction is a triple `[Command, Parameter, AgentID]`. Each environment declares its commands, parameters and
agents; prompts, validation and random plans are built from that declaration.
"""

import dataclasses
import functools
import json
import re
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Bool, Int

from leed_jax.environments import Environment
from leed_jax.errors import EnvironmentContractError

_PLAIN = re.compile(r"[\w.:/+-]+", re.ASCII)


def written(name: str) -> str:
    """A name as prompts and messages show it: as it is if it is a plain word, else as a JSON string."""
    return name if _PLAIN.fullmatch(name) else json.dumps(name)


@dataclasses.dataclass(frozen=True)
class Parameter:
    """An object in the environment, or a relation that is resolved during execution.

    Attributes:
        name: the word to write.
        meaning: a sentence for the prompt; parameters with the same meaning are explained together.
        except_for: agents to which the parameter may not be given.
    """

    name: str
    meaning: str
    except_for: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Command:
    """A command for an agent.

    Attributes:
        name: the word to write.
        meaning: a sentence for the prompt, including when the command is done.
        parameters: names of the parameters that it takes.
    """

    name: str
    meaning: str
    parameters: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """All commands, parameters and agents of an environment; compiled plans refer to them by position.

    Raises:
        EnvironmentContractError: a name occurs twice, a command takes an undeclared parameter, or an agent has no valid
            instruction.
    """

    commands: tuple[Command, ...]
    parameters: tuple[Parameter, ...]
    agents: tuple[str, ...]

    def __post_init__(self) -> None:
        named = {
            "command": [command.name for command in self.commands],
            "parameter": [parameter.name for parameter in self.parameters],
            "agent": list(self.agents),
        }
        for kind, names in named.items():
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise EnvironmentContractError(f"The vocabulary has more than one {kind} of the name {twice}.")
        for command in self.commands:
            undeclared = sorted(set(command.parameters) - set(named["parameter"]))
            if undeclared:
                raise EnvironmentContractError(
                    f"The command {command.name} takes {undeclared[0]}, which is not among the vocabulary's parameters."
                )
        for name, valid in zip(self.agents, self.allowed, strict=True):
            if not valid.any():
                raise EnvironmentContractError(f"The vocabulary has no valid instruction for {name}.")

    @functools.cached_property
    def command_index(self) -> dict[str, int]:
        """Position of each command by name."""
        return {command.name: index for index, command in enumerate(self.commands)}

    @functools.cached_property
    def parameter_index(self) -> dict[str, int]:
        """Position of each parameter by name."""
        return {parameter.name: index for index, parameter in enumerate(self.parameters)}

    @functools.cached_property
    def agent_index(self) -> dict[str, int]:
        """Position of each agent by name."""
        return {name: index for index, name in enumerate(self.agents)}

    def allowed_parameters(self, command: str, agent: str) -> tuple[str, ...]:
        """Names of the parameters that `command` takes when given to `agent`.

        Raises:
            KeyError: there is no such command.
        """
        names = self.commands[self.command_index[command]].parameters
        return tuple(n for n in names if agent not in self.parameters[self.parameter_index[n]].except_for)

    @functools.cached_property
    def allowed(self) -> Bool[np.ndarray, "A C P"]:
        """Which triples are valid, over agents, commands and parameters."""
        allowed = np.zeros((len(self.agents), len(self.commands), len(self.parameters)), dtype=bool)
        for a, agent in enumerate(self.agents):
            for c, command in enumerate(self.commands):
                columns = [self.parameter_index[name] for name in self.allowed_parameters(command.name, agent)]
                allowed[a, c, columns] = True
        return allowed


@runtime_checkable
class InstructedEnvironment(Environment[Any], Protocol):
    """An environment that can execute instructions; `act` and `achieved` are pure and jittable.

    `command` and `parameter` are each agent's current instruction, as positions in `vocabulary.commands` and
    `vocabulary.parameters`.
    """

    @property
    def vocabulary(self) -> Vocabulary:
        """The commands, parameters and agents."""
        ...

    def describe(self) -> str:
        """Describe the task in a few sentences, for the prompt."""
        ...

    def act(self, state: Any, command: Int[Array, "A"], parameter: Int[Array, "A"]) -> Int[Array, "A"]:
        """Choose each agent's action under its instruction."""
        ...

    def achieved(self, state: Any, command: Int[Array, "A"], parameter: Int[Array, "A"]) -> Bool[Array, "A"]:
        """Whether each agent has done what its instruction says."""
        ...
