"""Text to validated instructions. What a model writes is data: it is matched against names and never evaluated."""

import dataclasses
import difflib
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
from leed_jax.instructions.vocabulary import Vocabulary, written

Triple = tuple[str, str, str]

MAX_REPLY_CHARACTERS = 200_000
MAX_WORD_CHARACTERS = 80
# No character can be matched in two ways, so that the time taken is proportional to the length of the text.
_TRIPLE = re.compile(r"\[([^,\[\]]*),([^,\[\]]*),([^,\[\]]*)\]")
_FENCE = re.compile(r"```[a-zA-Z]*\n(.*?)```", re.DOTALL)
_KEYS = ("command", "parameter", "agent")
_ENTRY = re.compile(r'\{\s*"episode"\s*:')
_MAX_ENTRIES = 256
_MAX_ALTERNATIVES = 20
# Searches for similar names in one reply; each takes milliseconds where there are hundreds of names.
_MAX_SEARCHES = 20
_JSON_START = re.compile(r'\{\s*"|\[\s*[\[{"]')
_JSON_PART = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)
# What may stand beside plain triples: no "not" or "never", and no sign that strikes out, asks or makes a comment.
_PLAIN_MARKS = re.compile(r"[\s\d,;.:()\[\]*+\-\u2022\u2013\"'`A-Za-z]*")
_PLAIN_WORDS = frozenset({"here", "is", "are", "my", "the", "a", "new", "final", "best", "plan", "instructions"})
_MAX_PLAIN_WORDS = 6


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

    Reads JSON: a list of triples, or an object with such a list under `instructions`; a triple is a list of three
    strings or an object with `command`, `parameter` and `agent`. It may stand in a code fence, and beside other text.

    Triples may also be written plainly, as in `[MoveTo, Intersection_5, Agent_3]`, if the reply, or a fence in it, has
    nothing else but digits, closed brackets, quotation marks, bullets (`-`, `*`, `+`, a dot or a dash) and `, ; . :`,
    and at most six words of such a heading as "Here is my final plan".

    Args:
        text: the reply.

    Raises:
        UnreadableReplyError: there is no triple in it, its JSON is cut off, or it is longer than 200,000 characters.
        PlanShapeError: there are several plans in it, and they differ.
    """
    _check_length(text)
    try:
        plans = _plans(text)
    except RecursionError:
        # A word that is a list of lists and so on, too deep to be shown.
        plans = []
    if not plans:
        raise UnreadableReplyError(
            "The reply holds no instruction; write a JSON list of [Command, Parameter, AgentID] triples."
        )
    if any(plan != plans[0] for plan in plans):
        raise PlanShapeError(f"The reply holds {len(plans)} plans that differ; write one.")
    return plans[0]


def _plans(text: str) -> list[list[Triple]]:
    """The plan that the text is, or else those in its fences, or else those among other text."""
    whole = _plan_of(text)
    if whole:
        return [whole]
    fenced = [plan for match in _FENCE.finditer(text) if (plan := _plan_of(match.group(1)))]
    # One triple in the middle of a sentence is no plan.
    return fenced or [plan for value in _embedded(text) if not _is_triple(value) and (plan := _triples(value))]


def _plan_of(text: str) -> list[Triple]:
    """The plan that a text is from beginning to end."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return _plain(text)
    return _triples(value) or _plain(_text_of(value))


def _text_of(value: Any) -> str:
    """Where JSON has text in place of triples, that text."""
    if isinstance(value, dict):
        value = value.get("instructions")
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        value = "\n".join(value)
    return value if isinstance(value, str) else ""


def _plain(text: str) -> list[Triple]:
    """The triples of a text that consists of them; see `parse_reply`."""
    triples = [_unquoted(match) for match in _TRIPLE.finditer(text)]
    if not all(_is_word(word) for triple in triples for word in triple):
        return []
    beside = _TRIPLE.sub(" ", text)
    words = re.findall(r"[A-Za-z]+", beside)
    harmless = len(words) <= _MAX_PLAIN_WORDS and all(word.lower() in _PLAIN_WORDS for word in words)
    whole = beside.count("[") == beside.count("]")
    return triples if harmless and whole and _PLAIN_MARKS.fullmatch(beside) else []


def _embedded(text: str) -> Iterator[Any]:
    """The JSON objects and lists that stand among other text.

    Raises:
        UnreadableReplyError: one of them is cut off.
    """
    position = 0
    for _ in range(_MAX_ENTRIES):
        match = _JSON_START.search(text, position)
        if match is None:
            return
        try:
            value, position = json.JSONDecoder().raw_decode(text, match.start())
            yield value
        except (ValueError, RecursionError):
            # What is inside of damaged JSON may be a part of anything, and is not looked at.
            position = _end_of(text, match.start())


def _end_of(text: str, start: int) -> int:
    """Where the bracket that opens at `start` is closed."""
    depth = 0
    for match in _JSON_PART.finditer(text, start):
        depth += (match.group() in "[{") - (match.group() in "]}")
        if depth == 0:
            return match.end()
    raise UnreadableReplyError(
        "The reply holds no whole plan, as its JSON is cut off before the end; write a shorter one, and close every "
        "bracket."
    )


def parse_episodes(text: str, names: Sequence[str]) -> dict[str, list[Triple] | InstructionError]:
    """Find the plan for each of several episodes in a model's reply.

    Reads JSON, alone or in a code fence: an object with a list under `episodes`, or the list itself, whose entries are
    objects with the name of an `episode` and its `instructions`, triples as `parse_reply` reads them. Of a list that is
    cut off, the entries that are whole are read.

    Args:
        text: the reply.
        names: the episodes that were asked for.

    Returns:
        For each name its triples, or an error that says what is wrong with that episode's plan.

    Raises:
        UnreadableReplyError: there is no plan for any of the episodes in it, or it is longer than 200,000 characters.
    """
    _check_length(text)
    found: dict[str, list[list[Triple]]] = {}
    for name, triples in _entries(text):
        if name in names:
            found.setdefault(name, []).append(triples)
    if not found:
        raise UnreadableReplyError(
            f"The reply holds no plan for {', '.join(names)}; write a JSON object with a list under episodes, whose "
            "entries have the fields episode, facts and instructions."
        )
    return {name: _only_plan(name, found.get(name, [])) for name in names}


def _only_plan(name: str, plans: Sequence[list[Triple]]) -> list[Triple] | InstructionError:
    if not plans:
        return UnreadableReplyError(f"The reply holds no whole plan for {name}.")
    if any(plan != plans[0] for plan in plans):
        return PlanShapeError(f"The reply holds {len(plans)} different plans for {name}; write one.")
    return plans[0] or UnreadableReplyError(
        f"The plan for {name} holds no instruction; write a list of [Command, Parameter, AgentID] triples."
    )


def _named_plans(value: Any) -> list[tuple[str, list[Triple]]]:
    """The names and the plans of the entries of a list of episodes."""
    entries = value.get("episodes", [value]) if isinstance(value, dict) else value
    if not isinstance(entries, list):
        return []
    named = [e for e in entries if isinstance(e, dict) and isinstance(e.get("episode"), str)]
    return [(entry["episode"], _triples(entry)) for entry in named]


def _whole_entries(text: str) -> list[tuple[str, list[Triple]]]:
    """The same, of text that is no whole JSON."""
    found: list[tuple[str, list[Triple]]] = []
    position = 0
    for _ in range(_MAX_ENTRIES):
        match = _ENTRY.search(text, position)
        if match is None:
            break
        try:
            entry, position = json.JSONDecoder().raw_decode(text, match.start())
            found += _named_plans(entry)
        except (ValueError, RecursionError):
            position = max(position, match.end())
    return found


def _check_length(text: str) -> None:
    if len(text) > MAX_REPLY_CHARACTERS:
        raise UnreadableReplyError(f"The reply has {len(text)} characters; at most {MAX_REPLY_CHARACTERS} are read.")


def _entries(text: str) -> list[tuple[str, list[Triple]]]:
    """The names and the plans in the text that is JSON, or else in all fences, or between the outermost brackets."""
    found = _named_plans_in(text)
    found = found or [entry for match in _FENCE.finditer(text) for entry in _named_plans_in(match.group(1))]
    for opening, closing in ("{}", "[]"):
        start, end = text.find(opening), text.rfind(closing)
        found = found or _named_plans_in(text[start : end + 1])
    return found or _whole_entries(text)


def _named_plans_in(text: str) -> list[tuple[str, list[Triple]]]:
    try:
        return _named_plans(json.loads(text))
    except (ValueError, RecursionError):
        return []


def _triples(value: Any) -> list[Triple]:
    if isinstance(value, dict):
        value = value.get("instructions")
    if not isinstance(value, list):
        return []
    if _is_triple(value):
        value = [value]
    # A list of other things is no list of triples; beside one triple at least, they are triples gone wrong.
    return [_triple(item) for item in value] if any(isinstance(item, list | dict) for item in value) else []


def _is_triple(value: Any) -> bool:
    """Whether this is one triple, and no list of three that are written as text."""
    return (
        isinstance(value, list)
        and len(value) == len(_KEYS)
        and all(isinstance(item, str) and "[" not in item for item in value)
    )


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
    alternatives = _Alternatives()
    for triple in triples:
        try:
            instructions.append(_validate_one(vocabulary, triple, alternatives))
        except InstructionError as error:
            errors.append(error)
    return Validation(tuple(instructions), tuple(errors))


def _validate_one(vocabulary: Vocabulary, triple: Triple, alternatives: "_Alternatives") -> Instruction:
    command, parameter, agent = triple
    shown = "[" + ", ".join(quoted(word) for word in triple) + "]"
    if command not in vocabulary.command_index:
        known = alternatives.to(command, tuple(vocabulary.command_index))
        raise UnknownCommandError(f"{shown}: there is no command {quoted(command)}; the commands are {known}.")
    if agent not in vocabulary.agent_index:
        known = alternatives.to(agent, vocabulary.agents)
        raise UnknownAgentError(f"{shown}: there is no agent {quoted(agent)}; the agents are {known}.")
    allowed = vocabulary.allowed_parameters(command, agent)
    if parameter in allowed:
        return Instruction(
            vocabulary.command_index[command], vocabulary.parameter_index[parameter], vocabulary.agent_index[agent]
        )
    known = alternatives.to(parameter, allowed) if allowed else "nothing"
    mend = f"{written(command)} of {written(agent)} takes one of: {known}."
    if parameter in vocabulary.parameter_index:
        raise ParameterNotAllowedError(f"{shown}: {written(parameter)} is not valid here; {mend}")
    raise UnknownParameterError(f"{shown}: there is no parameter {quoted(parameter)}; {mend}")


class _Alternatives:
    """The valid names in words; where there are many, those that are most like a wrong one.

    One reply may have thousands of wrong words. Equal ones are looked up once, and of the others only the first few.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, Sequence[str]], str] = {}
        self._searches = 0

    def to(self, word: str, names: tuple[str, ...]) -> str:
        """The names to tell in place of a word."""
        if len(names) <= _MAX_ALTERNATIVES:
            word = ""
        elif (word, names) not in self._found:
            self._searches += 1
            word = word[:MAX_WORD_CHARACTERS] if self._searches <= _MAX_SEARCHES else ""
        if (word, names) not in self._found:
            self._found[word, names] = _told(word, names)
        return self._found[word, names]


def _told(word: str, names: Sequence[str]) -> str:
    if len(names) <= _MAX_ALTERNATIVES:
        return ", ".join(map(written, names))
    close = difflib.get_close_matches(word, names, _MAX_ALTERNATIVES, cutoff=0.0) if word else names[:_MAX_ALTERNATIVES]
    return f"{', '.join(map(written, close))} and {len(names) - len(close)} others"


def quoted(word: str) -> str:
    """A word of a reply, safe to show and marked as a quotation."""
    return '"' + printable(word).replace('"', "'") + '"'


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
        listed = ", ".join(map(written, idle))
        raise PlanShapeError(f"No executable instruction for {listed}; every agent needs at least one.")
    busy = [name for name, count in zip(vocabulary.agents, counts, strict=True) if count > max_length]
    if busy:
        listed = ", ".join(map(written, busy))
        raise PlanShapeError(f"More than {max_length} instructions for {listed}; write fewer.")
