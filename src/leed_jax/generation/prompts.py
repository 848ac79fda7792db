"""Prompt templates, the messages filled from an environment's vocabulary, and the JSON schemas of replies."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from leed_jax.errors import ConfigurationError, InstructionError, PlanShapeError
from leed_jax.instructions import InstructedEnvironment, Triple, Vocabulary, written
from leed_jax.llm import Message

NEWEST = {"relational": "plan_v2", "episodes": "episodes_v1"}
SECTIONS = ("system", "task", "account", "feedback", "request")
ALL_AGENTS = "all_agents"
"""A name that templates such as `plan_teams_v1` offer for every agent; replies are expanded when they are read."""
MAX_BYTES = 100_000

_REQUIRED = {
    "task": ("description", "agents", "commands", "parameters"),
    "account": ("account",),
    "feedback": ("feedback",),
}
_MARKER = re.compile(r"^<!-- (\w+) -->\n", re.MULTILINE)
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_WORD_CHARACTERS = 80
_FACTS_CHARACTERS = 120
_MAX_LINE = 500
# The example in plan_v1; later templates contain one. Its words are from no environment here, so it is no answer.
_FORM = {
    "idea": "Fill the tank first, then let it cool.",
    "instructions": [["Open", "valve_2", "robot_1"], ["Wait", "until_full", "robot_1"], ["Watch", "gauge", "robot_0"]],
}


# --- templates --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Template:
    """The text of a prompt.

    Attributes:
        name: the name of a packaged template or of the file.
        sha256: the hash of the file, kept in records.
        sections: the text of each of `SECTIONS`, with placeholders in braces.
    """

    name: str
    sha256: str
    sections: Mapping[str, str]

    @property
    def offers_all_agents(self) -> bool:
        """Whether the text mentions `ALL_AGENTS`."""
        return any(ALL_AGENTS in text for text in self.sections.values())

    def fill(self, section: str, values: Mapping[str, object]) -> str:
        """A section with its placeholders replaced once; other braces stay."""
        return _PLACEHOLDER.sub(lambda m: str(values.get(m[1], m[0])), self.sections[section]).strip()


def load_template(choice: str, kind: str) -> Template:
    """Load a template.

    Args:
        choice: the name of a packaged template or a file; empty for the newest of this kind. A file has sections
            headed by lines such as `<!-- request -->`, missing ones come from the newest template; a file without
            such lines is the section `task`.
        kind: the kind of plan, "relational" or "episodes".

    Raises:
        ConfigurationError: the template does not exist, cannot be read, is for the other kind or lacks a placeholder.
    """
    newest = _packaged(NEWEST[kind])
    if choice in ("", newest.name):
        return newest
    names = sorted(name for name in packaged_names() if name.startswith(newest.name.rpartition("_")[0]))
    if choice in packaged_names() and choice not in names:
        raise ConfigurationError(
            f"generate.prompt={choice} is not for generate.kind={kind}; use {' or '.join(names)}, or a file."
        )
    chosen = _packaged(choice) if choice in names else _from_file(choice, names)
    template = Template(chosen.name, chosen.sha256, {**newest.sections, **chosen.sections})
    _check_template(template, kind)
    return template


def packaged_names() -> list[str]:
    """Names of the templates that come with leed_jax."""
    folder = resources.files("leed_jax.generation").joinpath("templates")
    return [file.name.removesuffix(".md") for file in folder.iterdir() if file.name.endswith(".md")]


def _packaged(name: str) -> Template:
    return _split(name, resources.files("leed_jax.generation").joinpath(f"templates/{name}.md").read_bytes())


def _from_file(choice: str, names: list[str]) -> Template:
    shown = f"generate.prompt={choice[:200]}"
    try:
        path = Path(choice).expanduser()
        if not path.is_file():
            raise ConfigurationError(f"{shown}: there is no such file or template; templates are {', '.join(names)}.")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigurationError(f"{shown}: the file has more than {MAX_BYTES} bytes.")
        return _split(path.name, content)
    except ConfigurationError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigurationError(f"{shown} cannot be read as UTF-8 text: {error}.") from None


def _split(name: str, content: bytes) -> Template:
    first, *rest = _MARKER.split(content.decode("utf-8").replace("\r\n", "\n"))
    sections = dict(zip(rest[::2], rest[1::2], strict=True)) if rest else {"task": first}
    return Template(name, hashlib.sha256(content).hexdigest(), sections)


def _check_template(template: Template, kind: str) -> None:
    for section in template.sections:
        if section not in SECTIONS:
            raise ConfigurationError(
                f"generate.prompt={template.name} has a section {section}; the sections are {', '.join(SECTIONS)}."
            )
    required = {**_REQUIRED, "request": ("states",) if kind == "episodes" else ()}
    for section, names in required.items():
        for name in names:
            if f"{{{name}}}" not in template.sections[section]:
                raise ConfigurationError(
                    f"generate.prompt={template.name}: the section {section} lacks the placeholder {{{name}}}."
                )


# --- messages ---------------------------------------------------------------------------------------------------


def head_messages(
    template: Template, environment: InstructedEnvironment, max_instructions: int
) -> tuple[Message, Message]:
    """The system message and the description of the environment, its vocabulary and the form of an answer.

    They are the same in every request, so that endpoints can cache the prefix.
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
    """The last message of a request, which asks for plans.

    Args:
        template: the prompt's text.
        agents: the agents' names.
        length: the most instructions that an agent may get. It varies over the candidates of a round, as a model
            otherwise writes plans of one length only.
        feedback: lines on earlier plans, see `leed_jax.generation.feedback`; empty in the first round.
        account: sentences on how other policies do, such as those in training.
        states: with kind=episodes, the description of each episode by name.
    """
    values = {
        "agents": _listed(agents),
        "amount": "exactly one instruction" if length == 1 else f"1 to {length} instructions",
        "feedback": "\n".join(feedback),
        "account": "\n".join(f"- {one_line(sentence.removeprefix('- '))}" for sentence in account),
        "states": "\n\n".join(f"## Episode {name}\n\n{text}" for name, text in (states or {}).items()),
        "episodes": ", ".join(states or {}),
    }
    sections = [section for section in ("account", "feedback") if values[section]]
    return Message("user", "\n\n".join(template.fill(section, values) for section in [*sections, "request"]))


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
    """One line per meaning, for all parameters that share it."""
    names: dict[str, list[str]] = {}
    for parameter in vocabulary.parameters:
        names.setdefault(parameter.meaning, []).append(parameter.name)
    return "\n".join(f"- {_listed(group)}: {meaning}" for meaning, group in names.items())


# --- one name for all agents ------------------------------------------------------------------------------------


def expand_all_agents(
    vocabulary: Vocabulary, triples: Sequence[Triple], max_instructions: int
) -> list[Triple] | InstructionError:
    """Replace each triple for `ALL_AGENTS` by one per agent, in order; an agent of that name means itself.

    Returns:
        The triples, or an error if there are more for all agents than an agent may have.
    """
    if ALL_AGENTS in vocabulary.agent_index:
        return list(triples)
    if sum(agent == ALL_AGENTS for _, _, agent in triples) > max_instructions:
        return PlanShapeError(f"More than {max_instructions} instructions for {ALL_AGENTS}; write fewer.")
    named = {ALL_AGENTS: vocabulary.agents}
    return [(command, parameter, one) for command, parameter, agent in triples for one in named.get(agent, (agent,))]


def collapse_all_agents(vocabulary: Vocabulary, triples: Sequence[Triple]) -> list[Triple]:
    """Write a plan that is the same for every agent with `ALL_AGENTS`; any other plan is returned unchanged."""
    by_agent: dict[str, list[tuple[str, str]]] = {agent: [] for agent in vocabulary.agents}
    for command, parameter, agent in triples:
        by_agent[agent].append((command, parameter))
    first = by_agent[vocabulary.agents[0]]
    if ALL_AGENTS in by_agent or any(instructions != first for instructions in by_agent.values()):
        return list(triples)
    return [(command, parameter, ALL_AGENTS) for command, parameter in first]


# --- schemas ----------------------------------------------------------------------------------------------------


def reply_schema(
    vocabulary: Vocabulary, max_instructions: int, constrained: bool = False, all_agents: bool = False
) -> dict[str, Any]:
    """The JSON schema of a reply with one plan. Replies are validated again here, as some endpoints ignore schemas.

    Args:
        vocabulary: the environment's words.
        max_instructions: the most instructions of an agent.
        constrained: whether the schema lists the words, or leaves them free.
        all_agents: whether an instruction may be for `ALL_AGENTS`.
    """
    instructions = _instructions_schema(vocabulary, max_instructions, constrained, all_agents)
    return _object(idea={"type": "string", "maxLength": 200}, instructions=instructions)


def episodes_schema(
    vocabulary: Vocabulary, max_instructions: int, names: Sequence[str], constrained: bool = False
) -> dict[str, Any]:
    """The JSON schema of a reply with a plan for each episode in `names`; see `reply_schema`.

    The facts come before the instructions, so that a model has copied them when it decides.
    """
    entry = _object(
        episode={"type": "string", "enum": list(names)},
        facts={"type": "string", "maxLength": _FACTS_CHARACTERS * (1 + len(vocabulary.agents))},
        instructions=_instructions_schema(vocabulary, max_instructions, constrained),
    )
    return _object(episodes={"type": "array", "items": entry, "minItems": len(names), "maxItems": len(names)})


def _instructions_schema(
    vocabulary: Vocabulary, max_instructions: int, constrained: bool, all_agents: bool = False
) -> dict[str, Any]:
    agents = len(vocabulary.agents)
    triple = _constrained_triple(vocabulary, all_agents) if constrained else _free_triple(vocabulary)
    least = 1 if all_agents else agents
    return {"type": "array", "items": triple, "minItems": least, "maxItems": agents * max_instructions}


def _free_triple(vocabulary: Vocabulary) -> dict[str, Any]:
    names = (*vocabulary.command_index, *vocabulary.parameter_index, *vocabulary.agents)
    return _triple(items={"type": "string", "maxLength": max(_WORD_CHARACTERS, *map(len, names))})


def _constrained_triple(vocabulary: Vocabulary, all_agents: bool) -> dict[str, Any]:
    """One alternative per command; which agent may take which parameter is checked by validation."""
    agents = {"enum": [*vocabulary.agents, *([ALL_AGENTS] if all_agents else [])]}
    return {
        "anyOf": [
            _triple(prefixItems=[{"enum": [command.name]}, {"enum": list(command.parameters)}, agents])
            for command in vocabulary.commands
        ]
    }


def _triple(**words: Any) -> dict[str, Any]:
    return {"type": "array", **words, "minItems": 3, "maxItems": 3}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
