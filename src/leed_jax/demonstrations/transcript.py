"""The transcript: what the model was asked and answered, and that the kept plans really stand there.

It has a line of JSON for each request, with `round` and `candidate`. What was read from the reply stands in the same
line: `triples` and `return_per_agent`, or with kind=episodes a list `plans` of objects with `episode`, `triples` and
`return_per_agent`.
"""

import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from leed_jax.demonstrations.format import MANIFEST, MEND, TRANSCRIPT, is_number, parse_json
from leed_jax.errors import DemonstrationError

MAX_TRANSCRIPT_BYTES = 2**30
_TOLERANCE = 1e-6


def check_transcript(folder: Path, manifest: Mapping[str, Any], content: bytes) -> int:
    """Check that each kept plan stands in the transcript with the same triples and the same return.

    Args:
        folder: the set's folder, for messages.
        manifest: its checked manifest.
        content: the transcript.

    Returns:
        The number of requests in the transcript.

    Raises:
        DemonstrationError: a line is not JSON, or a plan does not stand there.
    """
    wanted = {(plan["round"], plan["candidate"], plan["episode"]) for plan in manifest["plans"]}
    found: dict[Any, list[Mapping[str, Any]]] = {place: [] for place in wanted}
    lines = 0
    for line in transcript_lines(folder / TRANSCRIPT, content):
        lines += 1
        for place, entry in _entries(line):
            if place in wanted:
                found[place].append(entry)
    for index, plan in enumerate(manifest["plans"]):
        place = plan["round"], plan["candidate"], plan["episode"]
        if not any(_same(plan, entry) for entry in found[place]):
            raise _missing(folder, index, plan, found[place])
    return lines


def transcript_lines(path: Path, content: bytes) -> Iterator[Mapping[str, Any]]:
    """The lines of a transcript that may hold anything, as objects; empty lines are left out.

    Args:
        path: where it came from, for messages.
        content: the bytes.

    Raises:
        DemonstrationError: a line is not JSON, or not an object.
    """
    for number, line in enumerate(io.BytesIO(content), start=1):
        if not line.strip():
            continue
        value = parse_json(Path(f"{path}, line {number},"), line)
        if not isinstance(value, dict):
            raise DemonstrationError(f"{path}, line {number}, is not an object. {MEND}")
        yield value


def _entries(line: Mapping[str, Any]) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """What was read from one reply, each with its round, candidate and episode."""
    plans = line.get("plans")
    entries = plans if isinstance(plans, list) else [line]
    for entry in entries:
        place = line.get("round"), line.get("candidate"), entry.get("episode") if isinstance(entry, dict) else None
        if isinstance(entry, dict) and not any(isinstance(part, list | dict) for part in place):
            yield place, entry


def _same(plan: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    score, recorded = plan["selection_return_per_agent"], entry.get("return_per_agent")
    if recorded is not None and is_number(recorded):
        agree = score is not None and math.isclose(score, recorded, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    else:
        agree = score is None and recorded is None
    return agree and entry.get("triples") == plan["triples"]


def _missing(folder: Path, index: int, plan: Mapping[str, Any], found: list[Mapping[str, Any]]) -> DemonstrationError:
    where = f"round {plan['round']}, candidate {plan['candidate']}"
    where += "" if plan["episode"] is None else f", episode {plan['episode']}"
    if not found:
        what = f"which {TRANSCRIPT} does not have"
    elif all(entry.get("triples") != plan["triples"] for entry in found):
        what = f"where {TRANSCRIPT} has other triples"
    else:
        what = f"where {TRANSCRIPT} has another return than {plan['selection_return_per_agent']}"
    return DemonstrationError(f"{folder / MANIFEST}: plans[{index}] is said to be of {where}, {what}. {MEND}")
