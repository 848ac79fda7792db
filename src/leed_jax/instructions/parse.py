"""From a model's reply to validated instructions. Replies are data: matched against names and never evaluated."""

import dataclasses
import difflib
import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
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
_MAX_VALUES = 256  # JSON values that are read from one reply
_MAX_SUGGESTIONS = 20
_MAX_SEARCHES = 20  # searches for similar names per reply; each takes milliseconds if there are hundreds of names
_KEYS = ("command", "parameter", "agent")
_FENCE = re.compile(r"```[a-zA-Z]*\n(.*?)```", re.DOTALL)
# These patterns match in one way only, so the time they take is linear in the length of the text.
_TRIPLE = re.compile(r"\[([^,\[\]]*),([^,\[\]]*),([^,\[\]]*)\]")
_JSON_START = re.compile(r'\{\s*"|\[\s*[\[{"]')
_JSON_PART = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)
_EPISODE_START = re.compile(r'\{\s*"episode"\s*:')
# What may stand around plain triples. Words such as "not" or "never" and signs such as "~~" or "?" may not.
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
    """The valid instructions among some triples, in order, and one error per invalid triple."""

    instructions: tuple[Instruction, ...]
    errors: tuple[InstructionError, ...]

    @property
    def validity(self) -> float:
        """The share of valid triples; 0 if there are no triples."""
        total = len(self.instructions) + len(self.errors)
        return len(self.instructions) / total if total else 0.0


def parse_reply(text: str) -> list[Triple]:
    """Find the `[Command, Parameter, AgentID]` triples in a model's reply.

    Reads JSON, alone, in a code fence or within other text: a list of triples, or an object with such a list under
    `instructions`. A triple is a list of three strings or an object with `command`, `parameter` and `agent`.

    Also reads plain triples such as `[MoveTo, Intersection_5, Agent_3]`, if the reply or a fence in it contains nothing
    else but digits, closed brackets, quotation marks, bullets, `, ; . :`, and up to six words of a heading such as
    "Here is my final plan".

    Raises:
        UnreadableReplyError: there is no triple, the JSON is cut off, or the reply is longer than 200,000 characters.
        PlanShapeError: there are several different plans.
    """
    _check_length(text)
    try:
        plans = _plans(text)
    except RecursionError:  # from writing a word that is a deeply nested list
        plans = []
    if not plans:
        raise UnreadableReplyError(
            "The reply holds no instruction; write a JSON list of [Command, Parameter, AgentID] triples."
        )
    if any(plan != plans[0] for plan in plans):
        raise PlanShapeError(f"The reply holds {len(plans)} plans that differ; write one.")
    return plans[0]


def parse_episodes(text: str, names: Sequence[str]) -> dict[str, list[Triple] | InstructionError]:
    """Find the plan for each of several episodes in a model's reply.

    Reads JSON, alone, in a code fence or within other text: a list, or an object with a list under `episodes`, of
    objects with the name of an `episode` and its `instructions`. If the list is cut off, the complete entries are read.

    Args:
        text: the reply.
        names: the episodes that were asked for.

    Returns:
        The triples of each episode, or the error in its plan.

    Raises:
        UnreadableReplyError: there is no plan for any of the episodes, or the reply is longer than 200,000 characters.
    """
    _check_length(text)
    found: dict[str, list[list[Triple]]] = {name: [] for name in names}
    for name, triples in _episodes(text):
        if name in found:
            found[name].append(triples)
    if not any(found.values()):
        raise UnreadableReplyError(
            f"The reply holds no plan for {', '.join(names)}; write a JSON object with a list under episodes, whose "
            "entries have the fields episode, facts and instructions."
        )
    return {name: _only_plan(name, plans) for name, plans in found.items()}


def _only_plan(name: str, plans: Sequence[list[Triple]]) -> list[Triple] | InstructionError:
    if not plans:
        return UnreadableReplyError(f"The reply holds no whole plan for {name}.")
    if any(plan != plans[0] for plan in plans):
        return PlanShapeError(f"The reply holds {len(plans)} different plans for {name}; write one.")
    return plans[0] or UnreadableReplyError(
        f"The plan for {name} holds no instruction; write a list of [Command, Parameter, AgentID] triples."
    )


def _check_length(text: str) -> None:
    if len(text) > MAX_REPLY_CHARACTERS:
        raise UnreadableReplyError(f"The reply has {len(text)} characters; at most {MAX_REPLY_CHARACTERS} are read.")


# --- finding JSON and plain triples in text ---------------------------------------------------------------------


def _plans(text: str) -> list[list[Triple]]:
    """The plan that the whole text is, or else the plans in its fences, or else those within other text."""
    whole = _plan(text)
    if whole:
        return [whole]
    fenced = [plan for match in _FENCE.finditer(text) if (plan := _plan(match.group(1)))]
    # A single triple within a sentence is not a plan.
    values = _values(text, _JSON_START, _end_of_json)
    return fenced or [plan for value in values if not _is_triple(value) and (plan := _triples(value))]


def _plan(text: str) -> list[Triple]:
    """The plan that a text is from beginning to end, as JSON, plainly, or plainly inside of JSON."""
    value = _loads(text)
    if value is None:
        return _plain(text)
    triples = _triples(value)
    if isinstance(value, dict):
        value = value.get("instructions")
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        value = "\n".join(value)
    return triples or (_plain(value) if isinstance(value, str) else [])


def _episodes(text: str) -> list[tuple[str, list[Triple]]]:
    """The named plans in the text as JSON, or else in its fences, between its outermost brackets, or anywhere in it."""
    found = _named_plans(_loads(text))
    found = found or [entry for match in _FENCE.finditer(text) for entry in _named_plans(_loads(match.group(1)))]
    for opening, closing in ("{}", "[]"):
        start, end = text.find(opening), text.rfind(closing)
        found = found or _named_plans(_loads(text[start : end + 1]))
    values = _values(text, _EPISODE_START, lambda _, start: start + 1)
    return found or [entry for value in values for entry in _named_plans(value)]


def _loads(text: str) -> Any:
    """The text as JSON; None if it is not."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _values(text: str, start: re.Pattern[str], skip: Callable[[str, int], int]) -> Iterator[Any]:
    """The JSON values that begin at matches of `start`; `skip` gives the position after a value that is damaged."""
    position = 0
    for _ in range(_MAX_VALUES):
        match = start.search(text, position)
        if match is None:
            return
        try:
            value, position = json.JSONDecoder().raw_decode(text, match.start())
            yield value
        except (ValueError, RecursionError):
            position = skip(text, match.start())


def _end_of_json(text: str, start: int) -> int:
    """The position after the bracket that closes the one at `start`. What is inside of damaged JSON is not read."""
    depth = 0
    for match in _JSON_PART.finditer(text, start):
        depth += (match.group() in "[{") - (match.group() in "]}")
        if depth == 0:
            return match.end()
    raise UnreadableReplyError(
        "The reply holds no whole plan, as its JSON is cut off before the end; write a shorter one, and close every "
        "bracket."
    )


def _plain(text: str) -> list[Triple]:
    """The plain triples of a text that contains little else; see `parse_reply`."""
    triples = []
    for match in _TRIPLE.finditer(text):
        first, second, third = (word.strip().strip("'\"`") for word in match.groups())
        triples.append((first, second, third))
    if not all(0 < len(word) <= MAX_WORD_CHARACTERS and "\n" not in word for triple in triples for word in triple):
        return []
    rest = _TRIPLE.sub(" ", text)
    words = re.findall(r"[A-Za-z]+", rest)
    harmless = len(words) <= _MAX_PLAIN_WORDS and all(word.lower() in _PLAIN_WORDS for word in words)
    closed = rest.count("[") == rest.count("]")
    return triples if harmless and closed and _PLAIN_MARKS.fullmatch(rest) else []


# --- from JSON values to triples --------------------------------------------------------------------------------


def _named_plans(value: Any) -> list[tuple[str, list[Triple]]]:
    """Name and plan of each entry of a list of episodes."""
    entries = value.get("episodes", [value]) if isinstance(value, dict) else value
    if not isinstance(entries, list):
        return []
    named = [e for e in entries if isinstance(e, dict) and isinstance(e.get("episode"), str)]
    return [(entry["episode"], _triples(entry)) for entry in named]


def _triples(value: Any) -> list[Triple]:
    if isinstance(value, dict):
        value = value.get("instructions")
    if not isinstance(value, list):
        return []
    if _is_triple(value):
        value = [value]
    # Other items in a list with a triple are taken for invalid triples; a list without one holds none.
    return [_triple(item) for item in value] if any(isinstance(item, list | dict) for item in value) else []


def _is_triple(value: Any) -> bool:
    """Whether this is one triple, not a list of three triples as text."""
    is_list = isinstance(value, list) and len(value) == len(_KEYS)
    return is_list and all(isinstance(item, str) and "[" not in item for item in value)


def _triple(item: Any) -> Triple:
    """An item as a triple. What is missing or too much is kept, so that validation reports it."""
    if isinstance(item, dict):
        item = [item.get(key) for key in _KEYS]
    items = item if isinstance(item, list) else [item]
    words = [word if isinstance(word, str) else json.dumps(word)[:MAX_WORD_CHARACTERS] for word in items]
    first, second, *rest = (*words, "", "")
    return first, second, ", ".join(filter(None, rest))


# --- validation -------------------------------------------------------------------------------------------------


def validate(vocabulary: Vocabulary, triples: Sequence[Triple]) -> Validation:
    """Check every triple against the vocabulary. Errors are returned, not raised."""
    instructions: list[Instruction] = []
    errors: list[InstructionError] = []
    suggest = _suggestions()
    for triple in triples:
        try:
            instructions.append(_validate_one(vocabulary, triple, suggest))
        except InstructionError as error:
            errors.append(error)
    return Validation(tuple(instructions), tuple(errors))


def _validate_one(
    vocabulary: Vocabulary, triple: Triple, suggest: Callable[[str, tuple[str, ...]], str]
) -> Instruction:
    command, parameter, agent = triple
    shown = "[" + ", ".join(quoted(word) for word in triple) + "]"
    if command not in vocabulary.command_index:
        known = suggest(command, tuple(vocabulary.command_index))
        raise UnknownCommandError(f"{shown}: there is no command {quoted(command)}; the commands are {known}.")
    if agent not in vocabulary.agent_index:
        known = suggest(agent, vocabulary.agents)
        raise UnknownAgentError(f"{shown}: there is no agent {quoted(agent)}; the agents are {known}.")
    allowed = vocabulary.allowed_parameters(command, agent)
    if parameter in allowed:
        return Instruction(
            vocabulary.command_index[command], vocabulary.parameter_index[parameter], vocabulary.agent_index[agent]
        )
    known = suggest(parameter, allowed) if allowed else "nothing"
    fix = f"{written(command)} of {written(agent)} takes one of: {known}."
    if parameter in vocabulary.parameter_index:
        raise ParameterNotAllowedError(f"{shown}: {written(parameter)} is not valid here; {fix}")
    raise UnknownParameterError(f"{shown}: there is no parameter {quoted(parameter)}; {fix}")


def _suggestions() -> Callable[[str, tuple[str, ...]], str]:
    """A function that lists the valid names in place of a wrong word: if there are many, the most similar ones.

    A reply may have thousands of wrong words, so only the first few are searched for.
    """
    searches = itertools.count()

    @functools.cache
    def suggest(word: str, names: tuple[str, ...]) -> str:
        if len(names) <= _MAX_SUGGESTIONS:
            return ", ".join(map(written, names))
        listed: Sequence[str] = names[:_MAX_SUGGESTIONS]
        if next(searches) < _MAX_SEARCHES:
            listed = difflib.get_close_matches(word[:MAX_WORD_CHARACTERS], names, _MAX_SUGGESTIONS, cutoff=0.0)
        return f"{', '.join(map(written, listed))} and {len(names) - len(listed)} others"

    return suggest


def quoted(word: str) -> str:
    """A word of a reply in quotation marks, safe to print."""
    return '"' + printable(word).replace('"', "'") + '"'


def printable(word: str, limit: int = 60) -> str:
    """A word of a reply, safe to print: control characters escaped, and cut to `limit` characters."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in word[:limit])
    return shown + ("..." if len(word) > limit else "")
