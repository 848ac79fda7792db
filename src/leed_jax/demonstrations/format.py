"""The files of a set: what a manifest and a transcript contain, and how untrusted ones are read and checked.

A manifest is JSON with these entries; others may be added and are not needed to use a set:

    format           2
    environment      {name, config}: the class's import path and the values of its fields
    created          when, in ISO 8601
    leed_jax         the version that wrote it
    provider, model  the provider and the model's name
    prompt           {name, sha256} of the prompt template, or null
    kind             relational: plans for any initial state; episodes: each plan for an initial state of its own
    settings         the settings of the generation
    max_instructions the capacity of a plan, for each agent
    plans            a list, best first, empty if no plan could be executed; each with
                         triples, round, candidate  its place in the transcript
                         episode                    its initial state, with kind=episodes; else null
                         selection_return_per_agent, report_return_per_agent, report_returns
    states_seed      with kind=episodes: initial state i has the key `initial_state_keys(states_seed, n)[i]`; else null
    random_return_per_agent
    rounds           a list of objects with the figures of each round
    usage            {calls, prompt_tokens, completion_tokens, cost}, or null
    recorded         {episodes, noise, seed} of the arrays, with noise_from if that is not 0; or null
    files            name -> {sha256, bytes}
    sha256           of all of the above, as JSON with sorted keys and no spaces

A transcript has a line of JSON for each request, with `round`, `candidate`, `request`, `reply`, and the plan read from
it: `triples` and `return_per_agent`, or with kind=episodes a list `plans` of objects with `episode`, `triples` and
`return_per_agent`.
"""

import hashlib
import io
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from leed_jax.errors import DemonstrationError
from leed_jax.instructions import Triple, printable

FORMAT = 2
MANIFEST = "manifest.json"
TRANSCRIPT = "transcript.jsonl"
ARRAYS = "demonstrations.safetensors"
KINDS = ("relational", "episodes")
ADVICE = "Use another set, or record it anew with python -m leed_jax.generate."

MAX_INSTRUCTIONS = 10_000
MAX_PLANS = 10_000
MAX_EPISODES = 10_000_000
MAX_TEXT = 10_000
MAX_BYTES = {MANIFEST: 64 * 2**20, TRANSCRIPT: 2**30, ARRAYS: 4 * 2**30}
_MAX_NUMBER = 1e30
_MAX_SETTING_DEPTH = 4

Check = Callable[[Any], bool]


# --- reading ----------------------------------------------------------------------------------------------------


def sha256_hex(content: bytes) -> str:
    """The SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def manifest_sha256(manifest: Mapping[str, Any]) -> str:
    """The hash of a manifest's entries other than this hash, independent of their layout."""
    entries = {name: value for name, value in manifest.items() if name != "sha256"}
    return sha256_hex(json.dumps(entries, sort_keys=True, separators=(",", ":")).encode())


def read_bounded(path: Path) -> bytes:
    """Read one of a set's files, unless it is larger than `MAX_BYTES` allows.

    Raises:
        DemonstrationError: it cannot be read, is not a regular file, or is too large.
    """
    limit = MAX_BYTES[path.name]
    try:
        # Opening a named pipe would otherwise block.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise DemonstrationError(f"{path} cannot be read, as it is not a file. Restore it.")
            if status.st_size > limit:
                raise DemonstrationError(
                    f"{path} has {status.st_size:,} bytes, and at most {limit:,} are expected. Restore the file."
                )
            return file.read(limit)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DemonstrationError(f"{path} cannot be read ({reason}). Restore the file.") from None


def read_listed(folder: Path, manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """Read the files that a checked manifest lists.

    Raises:
        DemonstrationError: a file is missing, or is not the one that the manifest lists.
    """
    contents = {name: read_bounded(folder / name) for name in manifest["files"]}
    for name, listed in manifest["files"].items():
        if sha256_hex(contents[name]) != listed["sha256"] or len(contents[name]) != listed["bytes"]:
            how = "truncated" if len(contents[name]) < listed["bytes"] else "altered"
            raise DemonstrationError(
                f"{folder / name} is {how}: its sha256 is not the manifest's. Restore the file. {ADVICE}"
            )
    return contents


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a set's manifest and check its hash and every entry.

    Raises:
        DemonstrationError: it is missing, damaged, altered or of another format.
    """
    path = folder / MANIFEST
    content = read_bounded(path)
    try:
        manifest = parse_json(path, content)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            found = manifest.get("format") if isinstance(manifest, dict) else None
            shown = printable(repr(found))
            raise DemonstrationError(f"{path} has format {shown}, and this version reads {FORMAT}. {ADVICE}")
        if manifest.get("sha256") != manifest_sha256(manifest):
            raise DemonstrationError(f"{path} is altered: its sha256 is not its content's. Restore the file. {ADVICE}")
        check_manifest(path, manifest)
    except RecursionError:
        raise DemonstrationError(f"{path} cannot be read, as it is nested too deeply. {ADVICE}") from None
    return manifest


def parse_json(path: Path | str, content: bytes) -> Any:
    """Parse JSON without infinities; a DemonstrationError naming `path` if it is none."""
    try:
        return json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise DemonstrationError(f"{path} cannot be read ({type(error).__name__}). {ADVICE}") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


# --- the manifest's entries -------------------------------------------------------------------------------------


def check_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Raise a DemonstrationError for the first entry that is missing, or of a wrong type or range."""
    _check_entries(path, manifest, _ENTRIES, "")
    per_state = manifest["kind"] == "episodes"
    for index, plan in enumerate(manifest["plans"]):
        _check_entries(path, plan, _PLAN_ENTRIES, f"plans[{index}].")
        if (plan["episode"] is not None) != per_state:
            raise _wrong_entry(path, f"plans[{index}].episode", plan["episode"])
    if (manifest["states_seed"] is not None) != per_state:
        raise _wrong_entry(path, "states_seed", manifest["states_seed"])
    if (manifest["recorded"] is not None) != (ARRAYS in manifest["files"]):
        raise _wrong_entry(path, "recorded", manifest["recorded"])


def plan_triples(entry: Mapping[str, Any]) -> list[Triple]:
    """The triples of a checked entry of `plans`."""
    return [(command, parameter, agent) for command, parameter, agent in entry["triples"]]


def _check_entries(path: Path, values: Mapping[str, Any], entries: Mapping[str, Check], prefix: str) -> None:
    for name, check in entries.items():
        if name not in values or not check(values[name]):
            raise _wrong_entry(path, prefix + name, values.get(name))


def _wrong_entry(path: Path, name: str, value: Any) -> DemonstrationError:
    return DemonstrationError(f"{path}: {name} is {printable(repr(value))}, which it cannot be. {ADVICE}")


def is_number(value: Any) -> bool:
    """Whether a value is a finite number of sensible size."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -_MAX_NUMBER < value < _MAX_NUMBER


def is_whole(value: Any, low: int, high: int) -> bool:
    """Whether a value is a whole number in a range, both ends included."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT


def _whole(low: int, high: int) -> Check:
    return lambda value: is_whole(value, low, high)


def _optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _object(**checks: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(name in value and c(value[name]) for name, c in checks.items())


def _list_of(check: Check, most: int) -> Check:
    return lambda value: isinstance(value, list) and len(value) <= most and all(map(check, value))


def _triple(value: Any) -> bool:
    return isinstance(value, list) and len(value) == len(("command", "parameter", "agent")) and all(map(_text, value))


def _listing(value: Any) -> bool:
    # With no other names, a manifest cannot point outside its folder.
    return isinstance(value, dict) and TRANSCRIPT in value and set(value) <= {TRANSCRIPT, ARRAYS}


def _setting(value: Any, depth: int = 0) -> bool:
    """Whether a value can be a field of an environment: plain, shallow, and nothing that OmegaConf would resolve."""
    if isinstance(value, list | dict):
        parts = value if isinstance(value, list) else [*value.keys(), *value.values()]
        return depth < _MAX_SETTING_DEPTH and all(_setting(part, depth + 1) for part in parts)
    if isinstance(value, str):
        return _text(value) and "${" not in value
    return value is None or isinstance(value, bool) or is_number(value)


def _share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


_count = _whole(0, 2**62)
_seed = _whole(0, 2**31 - 1)
_dict: Check = lambda value: isinstance(value, dict)  # noqa: E731
_usage = _object(calls=_count, prompt_tokens=_count, completion_tokens=_count, cost=is_number)
_recorded = _object(episodes=_whole(1, MAX_EPISODES), noise=_share, seed=_seed)
_file = _object(sha256=_text, bytes=_count)

_ENTRIES: dict[str, Check] = {
    "environment": _object(name=_text, config=lambda value: isinstance(value, dict) and _setting(value)),
    "created": _text,
    "leed_jax": _text,
    "provider": _text,
    "model": _text,
    "prompt": _optional(_object(name=_text, sha256=_text)),
    "kind": lambda value: value in KINDS,
    "settings": _dict,
    "max_instructions": _whole(1, MAX_INSTRUCTIONS),
    "plans": _list_of(_dict, MAX_PLANS),
    "states_seed": _optional(_seed),
    "random_return_per_agent": _optional(is_number),
    "rounds": _list_of(_dict, 100_000),
    "usage": _optional(_usage),
    "recorded": _optional(lambda value: _recorded(value) and _share(value.get("noise_from", 0.0))),
    "files": lambda value: _listing(value) and all(map(_file, value.values())),
}
_PLAN_ENTRIES: dict[str, Check] = {
    "triples": _list_of(_triple, 1_000_000),
    "round": _whole(0, 10**9),
    "candidate": _whole(0, 10**9),
    "episode": _optional(_whole(0, MAX_EPISODES)),
    "selection_return_per_agent": _optional(is_number),
    "report_return_per_agent": _optional(is_number),
    "report_returns": _optional(_list_of(is_number, 1_000_000)),
}


def complete(manifest: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with missing entries filled in, by `defaults` or those of the format."""
    unset = {"provider": "unknown", "model": "unknown", "kind": "relational", "settings": {}, "rounds": []}
    optional = dict.fromkeys(("prompt", "states_seed", "random_return_per_agent", "usage", "recorded"))
    given = {**unset, **optional, **defaults, **manifest}
    filled = {name: given.pop(name) for name in _ENTRIES if name in given} | given
    plan = dict.fromkeys(("episode", "selection_return_per_agent", "report_return_per_agent", "report_returns"))
    filled["plans"] = [{**plan, **entry} for entry in filled["plans"]]
    return filled


# --- the transcript ---------------------------------------------------------------------------------------------


def check_transcript(folder: Path, manifest: Mapping[str, Any], content: bytes) -> int:
    """Check that the transcript has each kept plan with its triples and return; return its number of requests.

    Raises:
        DemonstrationError: a line is not JSON, or a plan is not there.
    """
    lines = list(transcript_lines(folder / TRANSCRIPT, content))
    found = {_plan_key(line, e, e.get("return_per_agent")) for line in lines for e in transcript_entries(line)}
    for index, plan in enumerate(manifest["plans"]):
        if _plan_key(plan, plan, plan["selection_return_per_agent"]) not in found:
            where = f"round {plan['round']}, candidate {plan['candidate']}"
            where += "" if plan["episode"] is None else f", episode {plan['episode']}"
            raise DemonstrationError(
                f"{folder / MANIFEST}: plans[{index}] refers to {where}, where {TRANSCRIPT} does not have these "
                f"triples with this return. {ADVICE}"
            )
    return len(lines)


def _plan_key(place: Mapping[str, Any], entry: Mapping[str, Any], score: Any) -> str:
    """What a kept plan and its entry in the transcript have in common."""
    score = float(score) if is_number(score) else score
    return json.dumps([place.get("round"), place.get("candidate"), entry.get("episode"), entry.get("triples"), score])


def transcript_lines(path: Path, content: bytes) -> Iterator[Mapping[str, Any]]:
    """The lines of a transcript as objects, without empty lines; a DemonstrationError naming `path` for others."""
    for number, line in enumerate(io.BytesIO(content), start=1):
        if not line.strip():
            continue
        value = parse_json(f"{path}, line {number},", line)
        if not isinstance(value, dict):
            raise DemonstrationError(f"{path}, line {number}, is not an object. {ADVICE}")
        yield value


def transcript_entries(line: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The plans of a line of a transcript; what is not an object is left out."""
    plans = line.get("plans")
    return [entry for entry in plans if isinstance(entry, dict)] if isinstance(plans, list) else [line]
