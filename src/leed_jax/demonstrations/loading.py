"""Demonstration sets found, written, read back and verified."""

import dataclasses
import datetime
import json
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from leed_jax.config.environments import environment_identity
from leed_jax.demonstrations.bounded import read_bounded
from leed_jax.demonstrations.execution import initial_state_keys, instructed
from leed_jax.demonstrations.format import (
    ARRAYS,
    FORMAT,
    MANIFEST,
    MEND,
    TRANSCRIPT,
    check_manifest,
    complete,
    manifest_sha256,
    plan_triples,
    read_manifest,
    sha256_hex,
)
from leed_jax.demonstrations.sets import DemonstrationSet
from leed_jax.demonstrations.transcript import MAX_TRANSCRIPT_BYTES, check_transcript
from leed_jax.environments import Environment, has_continuous_actions
from leed_jax.errors import DemonstrationError, InstructionError
from leed_jax.files import write_whole
from leed_jax.instructions import InstructedEnvironment, Plan, Trajectory, compile_triples, printable, stack_plans
from leed_jax.version import __version__

MAX_ARRAYS_BYTES = 4 * 2**30
_MAX_PLAN_BYTES = 2**30
_LIMITS = {TRANSCRIPT: MAX_TRANSCRIPT_BYTES, ARRAYS: MAX_ARRAYS_BYTES}


def save_demonstrations(
    path: Path, manifest: Mapping[str, Any], environment: Environment, transcript: bytes, recorded: Trajectory | None
) -> None:
    """Write a set; the manifest last and in one piece, so that a set without one was never finished.

    Args:
        path: the folder; made if it does not exist.
        manifest: what `leed_jax.demonstrations.format` lists, but for format, environment, files and sha256, which are
            filled in. Of the others `max_instructions` and `plans` are needed, and of each plan `triples`, `round` and
            `candidate`; with recorded episodes `recorded`, too.
        environment: what the set was made for.
        transcript: the transcript's bytes.
        recorded: episodes to store, or None.

    Raises:
        DemonstrationError: the manifest could not be loaded again.
    """
    files = {TRANSCRIPT: transcript}
    if recorded is not None:
        fields = dataclasses.fields(recorded)
        files[ARRAYS] = save_safetensors({f.name: np.asarray(getattr(recorded, f.name)) for f in fields})
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    whole = complete(manifest, {"created": created, "leed_jax": __version__})
    listing = {name: {"sha256": sha256_hex(content), "bytes": len(content)} for name, content in files.items()}
    identity = environment_identity(environment)
    whole = json.loads(json.dumps({"format": FORMAT, "environment": identity, **whole, "files": listing}))
    check_manifest(path / MANIFEST, whole)
    check_transcript(path, whole, transcript)
    whole["sha256"] = manifest_sha256(whole)
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_whole(path / name, content)
    write_whole(path / MANIFEST, (json.dumps(whole, indent=2, allow_nan=False) + "\n").encode())


def load_demonstrations(path: str, environment: Environment) -> DemonstrationSet:
    """Load a set and verify it.

    Args:
        path: a folder, or the name of a set that comes with leed_jax, as `ENVIRONMENT/MODEL`.
        environment: what it is to be used for.

    Raises:
        DemonstrationError: it is missing, damaged or altered, was made for another environment, or holds no plan.
    """
    folder = find_set(path)
    loaded = load_verified(folder, read_manifest(folder), environment)
    if not loaded.manifest["plans"]:
        model = printable(loaded.manifest["model"])
        raise DemonstrationError(
            f"{folder} holds no plan: it records an attempt in which nothing that {model} "
            f"wrote could be executed. It can be shown, not learnt from; name another set in demonstrations.path."
        )
    return loaded


def load_verified(folder: Path, manifest: dict[str, Any], environment: Environment) -> DemonstrationSet:
    """Verify a set whose manifest has been read, for an environment; one without plans as well.

    Args:
        folder: its folder.
        manifest: what `read_manifest` returned.
        environment: what it is to be used for.

    Raises:
        DemonstrationError: it is damaged or altered, or was made for another environment.
    """
    check_environment_identity(folder, manifest, environment)
    contents = read_files(folder, manifest)
    check_transcript(folder, manifest, contents[TRANSCRIPT])
    target = instructed(environment)
    plans = _compile_plans(folder, manifest, target)
    recorded = _read_arrays(folder / ARRAYS, contents[ARRAYS], target, manifest) if ARRAYS in contents else None
    reset_keys = None
    if manifest["kind"] == "episodes" and manifest["plans"]:
        episodes = np.array([plan["episode"] for plan in manifest["plans"]])
        reset_keys = initial_state_keys(manifest["states_seed"], int(episodes.max()) + 1)[episodes]
    return DemonstrationSet(folder, manifest, target, plans, recorded, reset_keys)


def read_files(folder: Path, manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """Read the files that a manifest lists.

    Args:
        folder: the set's folder.
        manifest: its checked manifest.

    Raises:
        DemonstrationError: a file is missing, or is not the one that the manifest lists.
    """
    return {name: _read_verified(folder / name, listing) for name, listing in manifest["files"].items()}


def find_set(path: str, setting: str = "demonstrations.path") -> Path:
    """The folder that a path or a name stands for.

    Args:
        path: a folder, or the name of a set that comes with leed_jax.
        setting: what the path was given as, for the message.

    Raises:
        DemonstrationError: there is none.
    """
    if not path:
        raise DemonstrationError(f"{setting} is empty: give the folder or the name of a demonstration set.")
    shown = f"{setting}={printable(path, 200)}"
    for folder in (Path(os.path.expanduser(path)), packaged_folder() / path):  # noqa: PTH111 - which never raises, as Path's does
        try:
            if (folder / MANIFEST).is_file():
                return folder
        except (OSError, ValueError) as error:
            raise DemonstrationError(f"{shown} cannot be looked up ({error}).") from None
    names = ", ".join(recorded_sets()) or "none"
    raise DemonstrationError(
        f"{shown}: there is no demonstration set (no {MANIFEST} in that folder, and no recorded "
        f"set of that name; recorded: {names}). Name one of these, or record one with python -m leed_jax.generate."
    )


def recorded_sets() -> list[str]:
    """Names of the sets that come with leed_jax."""
    root = packaged_folder()
    return sorted(str(file.parent.relative_to(root)) for file in root.rglob(MANIFEST))


def packaged_folder() -> Path:
    """The folder of the sets that come with leed_jax."""
    return Path(str(resources.files("leed_jax.demos")))


def check_environment_identity(folder: Path, manifest: Mapping[str, Any], environment: Environment) -> None:
    """Check that a set was made for just this environment.

    Args:
        folder: the set's folder, for the message.
        manifest: its checked manifest.
        environment: the environment.

    Raises:
        DemonstrationError: it was made for another one.
    """
    made_for, here = manifest["environment"], json.loads(json.dumps(environment_identity(environment)))
    if made_for == here:
        return
    differences = [f"it was made for {printable(made_for['name'])}, and this is {here['name']}"]
    if made_for["name"] == here["name"]:
        ours, theirs = here["config"], made_for["config"]
        names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name) or name not in ours]
        differences = [
            f"env.{printable(name)}={printable(repr(theirs.get(name)))} where the run has {ours.get(name)!r}"
            for name in names or ["?"]
        ]
    raise DemonstrationError(
        f"{folder} was made for another environment ({'; '.join(differences)}). Demonstrations fit exactly one: set "
        f"env.* as recorded. {MEND}"
    )


def _read_verified(path: Path, listing: Mapping[str, Any]) -> bytes:
    content = read_bounded(path, _LIMITS[path.name])
    if sha256_hex(content) != listing["sha256"] or len(content) != listing["bytes"]:
        how = "truncated" if len(content) < listing["bytes"] else "altered"
        raise DemonstrationError(f"{path} is {how}: its sha256 is not the manifest's. Restore the file. {MEND}")
    return content


def _compile_plans(folder: Path, manifest: Mapping[str, Any], environment: InstructedEnvironment) -> Plan:
    """The plans, stacked; with an axis of length zero where there are none."""
    path, capacity, entries = folder / MANIFEST, manifest["max_instructions"], manifest["plans"]
    if 8 * capacity * environment.num_agents * len(entries) > _MAX_PLAN_BYTES:
        raise DemonstrationError(f"{path}: max_instructions={capacity} is too much for {len(entries)} plans. {MEND}")
    if not entries:
        none = jnp.zeros((0, environment.num_agents, capacity), jnp.int32)
        return Plan(command=none, parameter=none, length=none[:, :, 0])
    plans = []
    for index, entry in enumerate(entries):
        try:
            plans.append(compile_triples(environment.vocabulary, plan_triples(entry), capacity))
        except InstructionError as error:
            message = f"{path}: plans[{index}] cannot be executed: {error} {MEND}"
            raise DemonstrationError(message) from None
        _check_per_agent(path, index, entry, environment.num_agents)
    return stack_plans(plans)


def _check_per_agent(path: Path, index: int, entry: Mapping[str, Any], agents: int) -> None:
    returns, mean = entry["report_returns"], entry["report_return_per_agent"]
    if returns is not None and (
        len(returns) != agents or mean is None or not np.isclose(np.mean(returns), mean, rtol=1e-4, atol=1e-4)
    ):
        raise DemonstrationError(
            f"{path}: plans[{index}].report_returns do not fit: there must be one for each of the {agents} agents, and "
            f"their mean must be report_return_per_agent. {MEND}"
        )


def _read_arrays(
    path: Path, content: bytes, environment: InstructedEnvironment, manifest: Mapping[str, Any]
) -> Trajectory:
    arrays = parse_arrays(path, content)
    expected = _array_shapes(environment, manifest["recorded"]["episodes"])
    found = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    if found != {name: (shape, np.dtype(dtype)) for name, (shape, dtype) in expected.items()}:
        raise DemonstrationError(
            f"{path} does not hold the {manifest['recorded']['episodes']} episodes of this "
            f"environment that {MANIFEST} tells of. {MEND}"
        )
    problem = _impossible(arrays, None if has_continuous_actions(environment) else environment.num_actions)
    if problem:
        raise DemonstrationError(f"{path} holds {problem} that cannot occur. {MEND}")
    return Trajectory(**{name: jnp.asarray(array) for name, array in arrays.items()})


def parse_arrays(path: Path, content: bytes) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file that may hold anything.

    Args:
        path: where it came from, for the message.
        content: the bytes.

    Raises:
        DemonstrationError: it is no safetensors file.
    """
    try:
        return load_safetensors(content)
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise DemonstrationError(f"{path} is not a safetensors file ({printable(str(error))}). {MEND}") from None


def _array_shapes(environment: InstructedEnvironment, episodes: int) -> dict[str, tuple[Sequence[int], Any]]:
    each = (episodes, environment.max_steps, environment.num_agents)
    continuous = has_continuous_actions(environment)
    action = ((*each, environment.num_actions), np.float32) if continuous else (each, np.int32)
    return {
        "observation": ((*each, environment.observation_size), np.float32),
        "action": action,
        "taken": action,
        "reward": (each, np.float32),
        "available_actions": ((*each, environment.num_actions), np.bool_),
        "active": (each, np.bool_),
        "terminated": (each, np.bool_),
    }


def _impossible(arrays: Mapping[str, np.ndarray], num_actions: int | None) -> str:
    """What no execution could have written, or nothing; without a number of actions those are continuous."""
    for name in ("observation", "reward"):
        if not np.all(np.isfinite(arrays[name])):
            return f"a {name}"
    for name in ("action", "taken"):
        low, high = (-1.0, 1.0) if num_actions is None else (0, num_actions - 1)
        if not np.all((arrays[name] >= low) & (arrays[name] <= high)):
            return "an action"
    active = arrays["active"]
    gone = np.concatenate([np.zeros_like(active[:, :1]), ~active[:, :-1] | arrays["terminated"][:, :-1]], axis=1)
    if not np.all(active[:, 0]) or np.any(active & gone) or np.any(arrays["terminated"] & ~active):
        return "ends of episodes"
    return ""
