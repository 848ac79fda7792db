"""A transcript read again: what each reply says, and what the rounds come to when they are counted again.

Imported by `verify` alone: `leed_jax.generation` needs the package `leed_jax.demonstrations`, which must not need it in
turn to be imported.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from leed_jax.demonstrations.format import MANIFEST, MEND, TRANSCRIPT, is_number, plan_triples
from leed_jax.demonstrations.loading import read_files
from leed_jax.demonstrations.sets import DemonstrationSet
from leed_jax.demonstrations.transcript import transcript_lines
from leed_jax.errors import ConfigurationError, DemonstrationError, InstructionError
from leed_jax.generation.candidates import Candidate, Question, read_attempt
from leed_jax.instructions import Plan, compile_triples, printable
from leed_jax.llm import ChatRequest, Message, Reply, Usage

_ROUNDING = 1e-4
# What was asked does not decide how a reply is read; for which episodes does.
_NO_REQUEST = ChatRequest((Message("user", "-"),))


@dataclasses.dataclass(frozen=True)
class Entry:
    """What the transcript tells of one plan.

    Attributes:
        episode: the initial state that it is for, or None.
        validity: the share of its triples that are executable.
        score: the return per agent that it is said to have earned where it was selected; None if it is not executable.
        plan: the plan, read again; None if it is not executable.
    """

    episode: int | None
    validity: float
    score: float | None
    plan: Plan | None


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of the transcript.

    Attributes:
        where: the file and the line, for messages.
        round: the round.
        asked: whether a model was asked; not for a plan that was there before.
        sent: whether the request was sent.
        reply: the reply, or None.
        entries: a plan for each that was asked for.
    """

    where: str
    round: int
    asked: bool
    sent: bool
    reply: Reply | None
    entries: tuple[Entry, ...]


def read_replies(loaded: DemonstrationSet) -> list[Line]:
    """Read every reply of a transcript again.

    Args:
        loaded: the set.

    Raises:
        DemonstrationError: the plan or the validity beside a reply is not what the reply says.
    """
    content = read_files(loaded.path, loaded.manifest)[TRANSCRIPT]
    path = loaded.path / TRANSCRIPT
    return [
        _read_line(loaded, f"{path}, line {number}", line)
        for number, line in enumerate(transcript_lines(path, content), start=1)
    ]


def _read_line(loaded: DemonstrationSet, where: str, line: Mapping[str, Any]) -> Line:
    told = line["plans"] if isinstance(line.get("plans"), list) else [line]
    round_, asked, stored = line.get("round"), line.get("request") is not None, line.get("reply")
    if not isinstance(round_, int) or not told or not all(map(_is_entry, told)):
        raise _wrong(where, "is not laid out like a line of a transcript")
    if stored is not None and not asked:
        raise _wrong(where, "has a reply, and no request")
    reply = _reply(where, stored)
    if reply is None:
        entries = [_without_reply(loaded, where, entry, asked) for entry in told]
    else:
        entries = _read_again(loaded, where, told, reply)
    return Line(where, round_, asked, line.get("sent", True) is True, reply, tuple(entries))


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("episode"), int | None)
        and (entry.get("return_per_agent") is None or is_number(entry["return_per_agent"]))
        and isinstance(entry.get("triples"), list)
        and all(isinstance(t, list) and len(t) == 3 and all(isinstance(w, str) for w in t) for t in entry["triples"])  # noqa: PLR2004 - a triple
    )


def _reply(where: str, stored: Any) -> Reply | None:
    if stored is None:
        return None
    try:
        return Reply.from_dict(stored)
    except (ConfigurationError, AttributeError) as error:
        raise _wrong(where, f"has a reply that cannot be read ({printable(str(error), 200)})") from None


def _without_reply(loaded: DemonstrationSet, where: str, told: Mapping[str, Any], asked: bool) -> Entry:
    if asked and (told["triples"] or told.get("validity") or told["return_per_agent"] is not None):
        raise _wrong(where, "has a plan, and no reply that could have held it")
    plan = None
    if told["triples"]:
        try:
            vocabulary, capacity = loaded.environment.vocabulary, loaded.manifest["max_instructions"]
            plan = compile_triples(vocabulary, plan_triples(told), capacity)
        except InstructionError as error:
            raise _wrong(where, f"has a plan that cannot be executed ({printable(str(error), 300)})") from None
    return Entry(told.get("episode"), 0.0, told.get("return_per_agent"), plan)


def _read_again(loaded: DemonstrationSet, where: str, told: Sequence[Mapping[str, Any]], reply: Reply) -> list[Entry]:
    episodes = tuple(entry["episode"] for entry in told if entry.get("episode") is not None)
    if len(episodes) not in (0, len(told)) or len(set(episodes)) != len(episodes):
        raise _wrong(where, "does not tell each plan's own episode")
    vocabulary, capacity = loaded.environment.vocabulary, loaded.manifest["max_instructions"]
    found = read_attempt(vocabulary, capacity, 0, 0, Question(_NO_REQUEST, episodes), reply).candidates
    return [_same_entry(where, entry, candidate) for entry, candidate in zip(told, found, strict=True)]


def _same_entry(where: str, told: Mapping[str, Any], found: Candidate) -> Entry:
    if plan_triples(told) != list(found.triples):
        raise _wrong(where, f"has other triples than its reply, which gives {len(found.triples)} executable ones")
    if not _alike(told.get("validity"), found.validity):
        shown = printable(repr(told.get("validity")))
        raise _wrong(where, f"has validity {shown}, and of its reply's triples {found.validity:.1%} are executable")
    score = told.get("return_per_agent")
    if (score is None) != (found.plan is None):
        raise _wrong(where, "has a return without an executable plan, or such a plan without a return")
    return Entry(found.episode, found.validity, score, found.plan)


def check_rounds(loaded: DemonstrationSet, lines: Sequence[Line], fallback: np.ndarray | None) -> int:
    """Count every round again.

    Args:
        loaded: the set.
        lines: its transcript, read again.
        fallback: with kind=episodes, what random actions earn in each initial state; else None.

    Returns:
        The number of rounds.

    Raises:
        DemonstrationError: a figure is not what the transcript comes to.
    """
    rounds, path = loaded.manifest["rounds"], loaded.path / MANIFEST
    indices = [figures.get("index") for figures in rounds]
    if not all(isinstance(i, int) for i in indices) or any(a >= b for a, b in itertools.pairwise(indices)):
        raise _wrong(str(path), "has rounds that are not numbered in order")
    stray = next((line for line in lines if line.reply is not None and line.round not in indices), None)
    if rounds and stray is not None:
        raise _wrong(stray.where, f"has a reply of round {stray.round}, of which {MANIFEST} tells nothing")
    for place, figures in enumerate(rounds):
        for name, found in _figures(figures["index"], lines, fallback):
            # The best plans' mean holds what random actions earn, which differs a little on another machine.
            tolerance = 0.01 if fallback is not None and name.startswith("best") else _ROUNDING
            if name in figures and not _alike(figures[name], found, tolerance):
                shown = printable(repr(figures[name]))
                raise _wrong(str(path), f"says rounds[{place}].{name} is {shown}; the transcript comes to {found}")
    return len(rounds)


def _figures(index: int, lines: Sequence[Line], fallback: np.ndarray | None) -> Iterator[tuple[str, Any]]:
    own = [line for line in lines if line.round == index and line.asked]
    replies = [line.reply for line in own if line.reply is not None]
    asked = [entry for line in own if line.sent for entry in line.entries]
    scores = [entry.score for entry in asked if entry.score is not None]
    usage = sum((reply.usage for reply in replies), Usage())
    yield "requests", sum(line.sent for line in own)
    yield "replies", len(replies)
    yield "candidates", len(asked)
    yield "executable", len(scores)
    yield "validity", float(np.mean([entry.validity for entry in asked])) if asked else 0.0
    yield "mean_return", float(np.mean(scores)) if scores else None
    yield "best_return", _value(asked, fallback)
    yield "best_so_far", _value([e for line in lines if line.round <= index for e in line.entries], fallback)
    yield "prompt_tokens", usage.prompt_tokens
    yield "completion_tokens", usage.completion_tokens


def _value(entries: Sequence[Entry], fallback: np.ndarray | None) -> float | None:
    """What the best plans among these come to, per agent."""
    scores = [(entry.episode, entry.score) for entry in entries if entry.score is not None]
    if not scores or fallback is None:
        return max((score for _, score in scores), default=None)
    best: dict[int, float] = {}
    for episode, score in scores:
        if episode is not None:
            best[episode] = max(score, best.get(episode, -math.inf))
    return float(np.mean([best.get(i, instead) for i, instead in enumerate(fallback)]))


def asked_until(index: int, lines: Sequence[Line], states: int) -> np.ndarray:
    """How many plans were asked for up to a round: for each of the initial states, or in all where there are none."""
    episodes = [e.episode for line in lines if line.asked and line.sent and line.round <= index for e in line.entries]
    if not states:
        return np.array([len(episodes)])
    return np.bincount([episode for episode in episodes if episode is not None], minlength=states)


def _alike(told: Any, found: Any, tolerance: float = _ROUNDING) -> bool:
    if found is None or not is_number(told):
        return told is None and found is None
    if isinstance(found, int):
        return told == found
    return math.isclose(told, found, rel_tol=tolerance, abs_tol=_ROUNDING)


def _wrong(where: str, what: str) -> DemonstrationError:
    return DemonstrationError(f"{where} {what}. {MEND}")
