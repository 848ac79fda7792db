"""Prompts that build themselves from what an environment declares."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from leed_jax.generation.collective import ALL_AGENTS
from leed_jax.generation.template import Template
from leed_jax.instructions import InstructedEnvironment, Vocabulary, written
from leed_jax.llm import Message

_WORD_CHARACTERS = 80
_FACTS_CHARACTERS = 120
_MAX_LINE = 500

# What plan_v1 shows to make the form clear; later templates hold it themselves. It comes from no environment of this
# package, so that nothing can be copied from it.
_FORM = {
    "idea": "Fill the tank first, then let it cool.",
    "instructions": [["Open", "valve_2", "robot_1"], ["Wait", "until_full", "robot_1"], ["Watch", "gauge", "robot_0"]],
}


def head_messages(
    template: Template, environment: InstructedEnvironment, max_instructions: int
) -> tuple[Message, Message]:
    """Tell the model its role, and describe the environment, its words and the form of the answer.

    The text depends on the environment alone, so that it is the same at the head of every request and endpoints can
    reuse it.

    Args:
        template: the prompt's text.
        environment: what to describe.
        max_instructions: the largest number of instructions of an agent.
    """
    vocabulary = environment.vocabulary
    values = {
        "description": environment.describe(),
        "specs": _specs(environment),
        "agents": _listed(vocabulary.agents),
        "commands": _commands(vocabulary),
        "parameters": _parameters(vocabulary),
        "max_instructions": max_instructions,
        "form": json.dumps(_FORM),
    }
    return Message("system", template.fill("system", values)), Message("user", template.fill("task", values))


def request_message(
    template: Template,
    agents: Sequence[str],
    length: int,
    feedback: Sequence[str] = (),
    account: Sequence[str] = (),
    states: Mapping[str, str] | None = None,
) -> Message:
    """Ask for plans, after telling what came of earlier ones.

    Args:
        template: the prompt's text.
        agents: the agents' names.
        length: the number of instructions that a plan may give to an agent. Candidates of a round differ in it, as a
            model left alone writes plans of one and the same length.
        feedback: one line per fact, as `leed_jax.generation.feedback` writes them; empty in the first round.
        account: sentences on what others do well and badly here, such as policies that are being trained.
        states: with kind=episodes, what is to be told about each episode, by name.
    """
    values = {
        "agents": _listed(agents),
        "amount": "exactly one instruction" if length == 1 else f"1 to {length} instructions",
        "feedback": "\n".join(feedback),
        "account": "\n".join(f"- {one_line(sentence.removeprefix('- '))}" for sentence in account),
        "states": "\n\n".join(f"## Episode {name}\n\n{text}" for name, text in (states or {}).items()),
        "episodes": ", ".join(states or {}),
    }
    wanted = [section for section in ("account", "feedback") if values[section]]
    return Message("user", "\n\n".join(template.fill(section, values) for section in [*wanted, "request"]))


def one_line(text: str, limit: int = _MAX_LINE) -> str:
    """Text on one line, printable, and cut to `limit` characters."""
    shown = "".join(c if c.isprintable() else " " for c in text[:limit])
    return " ".join(shown.split()) + ("..." if len(text) > limit else "")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(written, names))


def _specs(environment: InstructedEnvironment) -> str:
    agents, steps = environment.num_agents, environment.max_steps
    who = "1 agent acts" if agents == 1 else f"{agents} agents act"
    return (
        f"{who} for at most {steps} steps in an episode. At each step every agent observes "
        f"{environment.observation_size} numbers and takes one of {environment.num_actions} primitive actions, which "
        "its current instruction chooses for it."
    )


def _commands(vocabulary: Vocabulary) -> str:
    lines = [f"- {written(c.name)}: {c.meaning} Takes one of: {_listed(c.parameters)}." for c in vocabulary.commands]
    return "\n".join(lines)


def _parameters(vocabulary: Vocabulary) -> str:
    """One line per meaning; parameters that share it stand on one line."""
    names: dict[str, list[str]] = {}
    for parameter in vocabulary.parameters:
        names.setdefault(parameter.meaning, []).append(parameter.name)
    return "\n".join(f"- {_listed(group)}: {meaning}" for meaning, group in names.items())


def reply_schema(
    vocabulary: Vocabulary, max_instructions: int, constrained: bool = False, collective: bool = False
) -> dict[str, Any]:
    """The JSON schema of an answer with one plan.

    It bounds the shape. Whether the words are executable is for validation to say, on every endpoint alike, those
    included that ignore schemas.

    Args:
        vocabulary: the environment's words.
        max_instructions: the largest number of instructions of an agent.
        constrained: whether to list the words, so that an endpoint that keeps a model to a schema lets it write no
            others; or to leave them free.
        collective: whether one instruction may be for all agents.
    """
    instructions = _instructions_schema(vocabulary, max_instructions, constrained, collective)
    return _object(idea={"type": "string", "maxLength": 200}, instructions=instructions)


def episodes_schema(
    vocabulary: Vocabulary, max_instructions: int, names: Sequence[str], constrained: bool = False
) -> dict[str, Any]:
    """The JSON schema of an answer with a plan for each of several episodes.

    The facts come before the instructions, so that a model has copied them when it decides.

    Args:
        vocabulary: the environment's words.
        max_instructions: the largest number of instructions of an agent.
        names: the episodes' names.
        constrained: as in `reply_schema`.
    """
    entry = _object(
        episode={"type": "string", "enum": list(names)},
        facts={"type": "string", "maxLength": _FACTS_CHARACTERS * (1 + len(vocabulary.agents))},
        instructions=_instructions_schema(vocabulary, max_instructions, constrained),
    )
    return _object(episodes={"type": "array", "items": entry, "minItems": len(names), "maxItems": len(names)})


def _instructions_schema(
    vocabulary: Vocabulary, max_instructions: int, constrained: bool, collective: bool = False
) -> dict[str, Any]:
    agents = len(vocabulary.agents)
    triple = _listed_triples(vocabulary, collective) if constrained else _free_triple(vocabulary)
    least = 1 if collective else agents
    return {"type": "array", "items": triple, "minItems": least, "maxItems": agents * max_instructions}


def _free_triple(vocabulary: Vocabulary) -> dict[str, Any]:
    names = (*vocabulary.command_index, *vocabulary.parameter_index, *vocabulary.agents)
    longest = max(_WORD_CHARACTERS, *map(len, names))
    return _triple(items={"type": "string", "maxLength": longest})


def _listed_triples(vocabulary: Vocabulary, collective: bool) -> dict[str, Any]:
    """One alternative per command; which agents may not take a parameter is left to validation."""
    agents = {"enum": [*vocabulary.agents, *([ALL_AGENTS] if collective else [])]}
    return {
        "anyOf": [
            _triple(prefixItems=[{"enum": [command.name]}, {"enum": list(command.parameters)}, agents])
            for command in vocabulary.commands
        ]
    }


def _triple(**words: Any) -> dict[str, Any]:
    return {"type": "array", **words, "minItems": 3, "maxItems": 3}


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
