"""Text to validated instructions. What a model writes is data: it is matched against names and never evaluated."""

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from leed_jax.errors import (
    InstructionError,
    ParameterNotAllowedError,
    PlanShapeError,
    UnknownAgentError,
    UnknownCommandError,
    UnknownParameterError,
    UnreadableReplyError,
)
from leed_jax.instructions.vocabulary import Vocabulary

Triple = tuple[str, str, str]

MAX_REPLY_CHARACTERS = 200_000
MAX_WORD_CHARACTERS = 80
# No character can be matched in two ways, so that the time taken is proportional to the length of the text.
_TRIPLE = re.compile(r"\[([^,\[\]]*),([^,\[\]]*),([^,\[\]]*)\]")
_FENCE = re.compile(r"```[a-zA-Z]*\n(.*?)```", re.DOTALL)
_KEYS = ("command", "parameter", "agent")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A valid triple as positions in the vocabulary."""

    command: int
    parameter: int
    agent: int


@dataclasses.dataclass(frozen=True)
class Validation:
    """The outcome of validating a list of triples.

    Attributes:
        instructions: the valid ones, in order.
        errors: one error per invalid triple, with its text in the message.
    """

    instructions: tuple[Instruction, ...]
    errors: tuple[InstructionError, ...]

    @property
    def validity(self) -> float:
        """The share of valid triples, 0 where there are none at all."""
        total = len(self.instructions) + len(self.errors)
        return len(self.instructions) / total if total else 0.0


def parse_reply(text: str) -> list[Triple]:
    """Find the `[Command, Parameter, AgentID]` triples in a model's reply.

    Reads JSON, alone or in a code fence: a list of triples, or an object with such a list under `instructions`; a
    triple is a list of three strings or an object with `command`, `parameter` and `agent`. Where there is no such JSON,
    triples written plainly, as in `[MoveTo, Intersection_5, Agent_3]`, are read one by one.

    Args:
        text: the reply.

    Raises:
        UnreadableReplyError: there is no triple in it, or it is longer than 200,000 characters.
    """
    if len(text) > MAX_REPLY_CHARACTERS:
        raise UnreadableReplyError(f"The reply has {len(text)} characters; at most {MAX_REPLY_CHARACTERS} are read.")
    for candidate in _json_candidates(text):
        triples = _read_json(candidate)
        if triples:
            return triples
    triples = [triple for triple in map(_unquoted, _TRIPLE.finditer(text)) if all(map(_is_word, triple))]
    if not triples:
        raise UnreadableReplyError(
            "The reply holds no instruction; write a JSON list of [Command, Parameter, AgentID] triples."
        )
    return triples


def _json_candidates(text: str) -> Iterator[str]:
    yield text
    yield from (match.group(1) for match in _FENCE.finditer(text))
    for opening, closing in ("{}", "[]"):
        start, end = text.find(opening), text.rfind(closing)
        if 0 <= start < end:
            yield text[start : end + 1]


def _read_json(text: str) -> list[Triple]:
    try:
        return _triples(json.loads(text))
    except (ValueError, RecursionError):
        return []


def _triples(value: Any) -> list[Triple]:
    if isinstance(value, dict):
        value = value.get("instructions")
    if not isinstance(value, list):
        return []
    if len(value) == len(_KEYS) and all(isinstance(item, str) and "[" not in item for item in value):
        value = [value]
    # A list of other things is no list of triples; beside one triple at least, they are triples gone wrong.
    return [_triple(item) for item in value] if any(isinstance(item, list | dict) for item in value) else []


def _triple(item: Any) -> Triple:
    if isinstance(item, dict):
        item = [item.get(key) for key in _KEYS]
    if not isinstance(item, list):
        # It stays in sight of the validation, as an unknown command.
        item = [item]
    words = [word if isinstance(word, str) else json.dumps(word)[:MAX_WORD_CHARACTERS] for word in item]
    first, second, *rest = (*words, "", "")
    # What is too much stays in sight of the validation, as part of the last word.
    return first, second, ", ".join(filter(None, rest))


def _is_word(text: str) -> bool:
    return 0 < len(text) <= MAX_WORD_CHARACTERS and "\n" not in text


def _unquoted(match: re.Match[str]) -> Triple:
    first, second, third = (word.strip().strip("'\"`") for word in match.groups())
    return first, second, third


def validate(vocabulary: Vocabulary, triples: Sequence[Triple]) -> Validation:
    """Check every triple against the vocabulary.

    Args:
        vocabulary: the environment's words.
        triples: what `parse_reply` found.

    Returns:
        The valid instructions, and an error for each of the others; nothing is raised.
    """
    instructions: list[Instruction] = []
    errors: list[InstructionError] = []
    for triple in triples:
        try:
            instructions.append(_validate_one(vocabulary, triple))
        except InstructionError as error:
            errors.append(error)
    return Validation(tuple(instructions), tuple(errors))


def _validate_one(vocabulary: Vocabulary, triple: Triple) -> Instruction:
    command, parameter, agent = triple
    shown = "[" + ", ".join(printable(word) for word in triple) + "]"
    if command not in vocabulary.command_index:
        known = ", ".join(vocabulary.command_index)
        raise UnknownCommandError(f"{shown}: there is no command {printable(command)}; the commands are {known}.")
    if agent not in vocabulary.agent_index:
        known = ", ".join(vocabulary.agents)
        raise UnknownAgentError(f"{shown}: there is no agent {printable(agent)}; the agents are {known}.")
    allowed = vocabulary.allowed_parameters(command, agent)
    if parameter in allowed:
        return Instruction(
            vocabulary.command_index[command], vocabulary.parameter_index[parameter], vocabulary.agent_index[agent]
        )
    mend = f"{command} of {agent} takes one of: {', '.join(allowed) or 'nothing'}."
    if parameter in vocabulary.parameter_index:
        raise ParameterNotAllowedError(f"{shown}: {parameter} is not valid here; {mend}")
    raise UnknownParameterError(f"{shown}: there is no parameter {printable(parameter)}; {mend}")


def printable(word: str, limit: int = 60) -> str:
    """A word of a reply, safe to show: control characters escaped, and cut to `limit` characters."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in word[:limit])
    return shown + ("..." if len(word) > limit else "")


def check_complete(vocabulary: Vocabulary, instructions: Sequence[Instruction], max_length: int) -> None:
    """Make sure that every agent has between one and `max_length` instructions.

    Raises:
        PlanShapeError: some agent has none, or too many.
    """
    counts = [sum(i.agent == a for i in instructions) for a in range(len(vocabulary.agents))]
    idle = [name for name, count in zip(vocabulary.agents, counts, strict=True) if count == 0]
    if idle:
        raise PlanShapeError(f"No executable instruction for {', '.join(idle)}; every agent needs at least one.")
    busy = [name for name, count in zip(vocabulary.agents, counts, strict=True) if count > max_length]
    if busy:
        raise PlanShapeError(f"More than {max_length} instructions for {', '.join(busy)}; write fewer.")
