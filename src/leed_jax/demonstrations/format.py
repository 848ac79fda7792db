"""The manifest: what stands in it, how it is hashed, and how one that comes from anywhere is read.

A manifest is JSON with these entries, and no other is needed to use or to check a set:

    format           2
    environment      {name, config}: the class's import path and the values of its fields
    created          when, in ISO 8601
    leed_jax         the version that wrote it
    provider, model  who was asked
    prompt           {name, sha256} of the prompt template, or null
    kind             relational: plans for any initial state; episodes: each plan for an initial state of its own
    settings         the settings of the generation, for reading
    max_instructions the capacity of a plan, for each agent
    plans            a list, best first, empty for an attempt that came to nothing; each with
                         triples, round, candidate  where it stands in the transcript
                         episode                    its initial state, with kind=episodes; else null
                         selection_return_per_agent, report_return_per_agent, report_returns
    states_seed      with kind=episodes: initial state i has the key `initial_state_keys(states_seed, n)[i]`; else null
    random_return_per_agent
    rounds           a list of objects with the figures of each round, for reading
    usage            {calls, prompt_tokens, completion_tokens, cost}, or null
    recorded         {episodes, noise, seed} of the arrays, with noise_from if that is not 0; or null
    files            name -> {sha256, bytes}
    sha256           of all of the above, as JSON with sorted keys and no spaces
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from leed_jax.demonstrations.bounded import read_bounded
from leed_jax.errors import DemonstrationError
from leed_jax.instructions import Triple, printable

FORMAT = 2
MANIFEST = "manifest.json"
TRANSCRIPT = "transcript.jsonl"
ARRAYS = "demonstrations.safetensors"
KINDS = ("relational", "episodes")
MEND = "Use another set, or record it anew with python -m leed_jax.generate."

MAX_INSTRUCTIONS = 10_000
MAX_PLANS = 10_000
MAX_EPISODES = 10_000_000
MAX_MANIFEST_BYTES = 64 * 2**20
MAX_TEXT = 10_000
_MAX_NUMBER = 1e30
_MAX_DEPTH = 4
_MAX_MANIFEST_DEPTH = 32

Check = Callable[[Any], bool]


def sha256_hex(content: bytes) -> str:
    """The SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def manifest_sha256(manifest: Mapping[str, Any]) -> str:
    """The hash of all that a manifest says but for this hash itself, however it is laid out."""
    said = {name: value for name, value in manifest.items() if name != "sha256"}
    return sha256_hex(json.dumps(said, sort_keys=True, separators=(",", ":")).encode())


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a manifest and check it by itself: its hash, and that every entry is of its kind.

    Args:
        folder: the set's folder.

    Raises:
        DemonstrationError: it is missing, damaged, altered or of another format.
    """
    path = folder / MANIFEST
    content = read_bounded(path, MAX_MANIFEST_BYTES)
    try:
        return _read_checked(path, content)
    except RecursionError:
        raise DemonstrationError(f"{path} cannot be read, as it is nested too deeply. {MEND}") from None


def _read_checked(path: Path, content: bytes) -> dict[str, Any]:
    manifest = parse_json(path, content)
    _check_depth(manifest, _MAX_MANIFEST_DEPTH)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        shown = printable(repr(found))
        raise DemonstrationError(f"{path} has format {shown}, and this version reads {FORMAT}. {MEND}")
    if manifest.get("sha256") != manifest_sha256(manifest):
        raise DemonstrationError(f"{path} is altered: its sha256 is not its content's. Restore the file. {MEND}")
    check_manifest(path, manifest)
    return manifest


def parse_json(path: Path, content: bytes) -> Any:
    """Read JSON from a file that may hold anything.

    Args:
        path: where it came from, for the message.
        content: the bytes.

    Raises:
        DemonstrationError: it is not JSON.
    """
    try:
        return json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise DemonstrationError(f"{path} cannot be read ({type(error).__name__}). {MEND}") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def check_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Check that every entry is there and of its kind.

    Args:
        path: where it stands or will stand, for the message.
        manifest: the manifest.

    Raises:
        DemonstrationError: the first entry that is not.
    """
    _check_entries(path, manifest, _ENTRIES, "")
    for index, plan in enumerate(manifest["plans"]):
        _check_entries(path, plan, _PLAN_ENTRIES, f"plans[{index}].")
        planned = plan["episode"] is not None
        if planned != (manifest["kind"] == "episodes"):
            raise _no_such(path, f"plans[{index}].episode", plan["episode"])
    if (manifest["states_seed"] is not None) != (manifest["kind"] == "episodes"):
        raise _no_such(path, "states_seed", manifest["states_seed"])
    if (manifest["recorded"] is not None) != (ARRAYS in manifest["files"]):
        raise _no_such(path, "recorded", manifest["recorded"])


def plan_triples(entry: Mapping[str, Any]) -> list[Triple]:
    """The triples of a checked entry of `plans`."""
    return [(command, parameter, agent) for command, parameter, agent in entry["triples"]]


def _check_depth(value: Any, most: int) -> None:
    """Raise a RecursionError long before Python would, which it might do anywhere."""
    if not most:
        raise RecursionError
    if isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            _check_depth(part, most - 1)


def _check_entries(path: Path, values: Mapping[str, Any], entries: Mapping[str, Check], prefix: str) -> None:
    for name, check in entries.items():
        if name not in values or not check(values[name]):
            raise _no_such(path, prefix + name, values.get(name))


def _no_such(path: Path, name: str, value: Any) -> DemonstrationError:
    return DemonstrationError(f"{path}: {name} is {printable(repr(value))}, which it cannot be. {MEND}")


def is_number(value: Any) -> bool:
    """Whether a value is a finite number of sensible size."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -_MAX_NUMBER < value < _MAX_NUMBER


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT


def _whole(low: int, high: int) -> Check:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _object(**checks: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(name in value and c(value[name]) for name, c in checks.items())


def _list_of(check: Check, most: int) -> Check:
    return lambda value: isinstance(value, list) and len(value) <= most and all(map(check, value))


def _triple(value: Any) -> bool:
    return isinstance(value, list) and len(value) == len(("command", "parameter", "agent")) and all(map(_text, value))


def _listing(value: Any) -> bool:
    # No other names: nothing that a manifest says leads out of its folder.
    return isinstance(value, dict) and TRANSCRIPT in value and set(value) <= {TRANSCRIPT, ARRAYS}


def _setting(value: Any, depth: int = 0) -> bool:
    """Whether a value can be a field of an environment: plain, shallow, and nothing that OmegaConf would resolve."""
    if isinstance(value, list | dict):
        parts = value if isinstance(value, list) else [*value.keys(), *value.values()]
        return depth < _MAX_DEPTH and all(_setting(part, depth + 1) for part in parts)
    if isinstance(value, str):
        return _text(value) and "${" not in value
    return value is None or isinstance(value, bool) or is_number(value)


def _share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


def _recorded(value: Any) -> bool:
    return _recorded_always(value) and _share(value.get("noise_from", 0.0))


_count = _whole(0, 2**62)
_seed = _whole(0, 2**31 - 1)
_usage = _object(calls=_count, prompt_tokens=_count, completion_tokens=_count, cost=is_number)
_recorded_always = _object(episodes=_whole(1, MAX_EPISODES), noise=_share, seed=_seed)
_file = _object(sha256=_text, bytes=_count)

_ENTRIES: dict[str, Check] = {
    "environment": _object(name=_text, config=lambda value: isinstance(value, dict) and _setting(value)),
    "created": _text,
    "leed_jax": _text,
    "provider": _text,
    "model": _text,
    "prompt": _optional(_object(name=_text, sha256=_text)),
    "kind": lambda value: value in KINDS,
    "settings": lambda value: isinstance(value, dict),
    "max_instructions": _whole(1, MAX_INSTRUCTIONS),
    "plans": _list_of(lambda value: isinstance(value, dict), MAX_PLANS),
    "states_seed": _optional(_seed),
    "random_return_per_agent": _optional(is_number),
    "rounds": _list_of(lambda value: isinstance(value, dict), 100_000),
    "usage": _optional(_usage),
    "recorded": _optional(_recorded),
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
    """A manifest with what it leaves out filled in.

    Args:
        manifest: the entries that are given.
        defaults: further entries that have no fixed default.
    """
    given = {**_DEFAULTS, **defaults, **manifest}
    filled = {name: given.pop(name) for name in _ENTRIES if name in given} | given
    filled["plans"] = [{**_PLAN_DEFAULTS, **plan} for plan in filled["plans"]]
    return filled


_DEFAULTS: dict[str, Any] = {
    "provider": "unknown",
    "model": "unknown",
    "prompt": None,
    "kind": "relational",
    "settings": {},
    "states_seed": None,
    "random_return_per_agent": None,
    "rounds": [],
    "usage": None,
    "recorded": None,
}
_PLAN_DEFAULTS: dict[str, Any] = {
    "episode": None,
    "selection_return_per_agent": None,
    "report_return_per_agent": None,
    "report_returns": None,
}
