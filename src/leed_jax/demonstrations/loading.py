"""Demonstration sets found, written, and loaded with all checks."""

import dataclasses
import datetime
import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from leed_jax.config.environments import environment_identity, make_environment
from leed_jax.demonstrations.execution import initial_state_keys, instructed
from leed_jax.demonstrations.format import (
    ADVICE,
    ARRAYS,
    FORMAT,
    MANIFEST,
    TRANSCRIPT,
    check_manifest,
    check_transcript,
    complete,
    manifest_sha256,
    plan_triples,
    read_listed,
    read_manifest,
    sha256_hex,
)
from leed_jax.demonstrations.sets import DemonstrationSet
from leed_jax.environments import Environment, has_continuous_actions
from leed_jax.errors import DemonstrationError, InstructionError, LeedError
from leed_jax.files import write_whole
from leed_jax.instructions import InstructedEnvironment, Plan, Trajectory, compile_triples, printable, stack_plans
from leed_jax.version import __version__

MAX_AGENTS = 1_000
MAX_INTEGER = 10_000
_MAX_PLAN_BYTES = 2**30
_OWN_ENVIRONMENT = re.compile(r"leed_jax\.envs\.[A-Za-z_]\w*:[A-Za-z_]\w*", re.ASCII)


# --- writing ----------------------------------------------------------------------------------------------------


def save_demonstrations(
    path: Path, manifest: Mapping[str, Any], environment: Environment, transcript: bytes, recorded: Trajectory | None
) -> None:
    """Write a set; the manifest last and atomically, so that a set without one is unfinished.

    Args:
        path: the folder; made if it does not exist.
        manifest: the entries listed in `leed_jax.demonstrations.format`. Needed are `max_instructions`, `plans` with
            `triples`, `round` and `candidate` each, and with recorded episodes `recorded`; format, environment, files
            and sha256 are filled in.
        environment: what the set was made for.
        transcript: the transcript's bytes.
        recorded: episodes to store, or None.

    Raises:
        DemonstrationError: the set could not be loaded again.
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


# --- finding ----------------------------------------------------------------------------------------------------


def find_set(path: str, setting: str = "demonstrations.path") -> Path:
    """The folder of a set: `path` itself, or that of a set that comes with leed_jax, named as `ENVIRONMENT/MODEL`.

    Raises:
        DemonstrationError: there is none.
    """
    if not path:
        raise DemonstrationError(f"{setting} is empty: give the folder or the name of a demonstration set.")
    shown = f"{setting}={printable(path, 200)}"
    for folder in (Path(os.path.expanduser(path)), packaged_folder() / path):  # noqa: PTH111 - Path.expanduser may raise
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


# --- loading ----------------------------------------------------------------------------------------------------


def load_demonstrations(path: str, environment: Environment) -> DemonstrationSet:
    """Load a set, with all checks, to learn from it.

    Args:
        path: a folder, or the name of a set that comes with leed_jax.
        environment: what it is to be used for.

    Raises:
        DemonstrationError: it is missing, damaged or altered, was made for another environment, or has no plan.
    """
    folder = find_set(path)
    loaded = load_verified(folder, read_manifest(folder), environment)
    if not loaded.manifest["plans"]:
        raise DemonstrationError(
            f"{folder} holds no plan: nothing that {printable(loaded.manifest['model'])} wrote could be executed. Name "
            "another set in demonstrations.path."
        )
    return loaded


def load_verified(folder: Path, manifest: dict[str, Any], environment: Environment) -> DemonstrationSet:
    """Load a set whose manifest has been read, with all checks; one without plans, too. See `load_demonstrations`."""
    _check_environment(folder, manifest, environment)
    contents = read_listed(folder, manifest)
    check_transcript(folder, manifest, contents[TRANSCRIPT])
    target = instructed(environment)
    plans = _compile_plans(folder, manifest, target)
    recorded = _read_arrays(folder / ARRAYS, contents[ARRAYS], target, manifest) if ARRAYS in contents else None
    reset_keys = None
    if manifest["kind"] == "episodes" and manifest["plans"]:
        episodes = np.array([plan["episode"] for plan in manifest["plans"]])
        reset_keys = initial_state_keys(manifest["states_seed"], int(episodes.max()) + 1)[episodes]
    return DemonstrationSet(folder, manifest, target, plans, recorded, reset_keys)


def _check_environment(folder: Path, manifest: Mapping[str, Any], environment: Environment) -> None:
    """Raise a DemonstrationError unless a set was made for this environment."""
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
        f"env.* as recorded. {ADVICE}"
    )


def environment_of(folder: Path, manifest: Mapping[str, Any], named: str | None = None) -> Environment:
    """Build the environment that a set was made for.

    A manifest may come from anywhere, so only classes of leed_jax are imported, unless the user names another one.

    Args:
        folder: the set's folder, for messages.
        manifest: its checked manifest.
        named: the class that the user names, as `package.module:Class`.

    Raises:
        DemonstrationError: the manifest names a class that is not imported, or one that cannot be built.
    """
    name = manifest["environment"]["name"]
    shown = printable(name, 200)
    if named is not None and named != name:
        raise DemonstrationError(f"{folder} was made for {shown}, not for --environment {named}; name that class.")
    if named is None and not _OWN_ENVIRONMENT.fullmatch(name):
        raise DemonstrationError(
            f"{folder} was made for {shown}, which does not come with leed_jax and is not imported because a manifest "
            f"says so. If you trust that class, add --environment {shown}"
        )
    config = manifest["environment"]["config"]
    large = [field for field, value in config.items() if isinstance(value, int) and abs(value) > MAX_INTEGER]
    if named is None and large:
        raise DemonstrationError(
            f"{folder / MANIFEST}: its environment has {printable(large[0])}={config[large[0]]}, which may exhaust the "
            f"memory. If it is meant so, add --environment {name}"
        )
    try:
        environment = make_environment({**config, "name": name})
        agents = environment.num_agents
    except LeedError as error:
        problem = printable(str(error), 500)
        raise DemonstrationError(f"{folder / MANIFEST}: its environment cannot be built: {problem} {ADVICE}") from None
    if agents > MAX_AGENTS:
        raise DemonstrationError(f"{folder / MANIFEST}: it has {agents} agents, more than {MAX_AGENTS}. {ADVICE}")
    return environment


def _compile_plans(folder: Path, manifest: Mapping[str, Any], environment: InstructedEnvironment) -> Plan:
    """The plans, stacked; with an axis of length zero where there are none."""
    path, capacity, entries = folder / MANIFEST, manifest["max_instructions"], manifest["plans"]
    if 8 * capacity * environment.num_agents * len(entries) > _MAX_PLAN_BYTES:
        raise DemonstrationError(f"{path}: max_instructions={capacity} is too much for {len(entries)} plans. {ADVICE}")
    if not entries:
        none = jnp.zeros((0, environment.num_agents, capacity), jnp.int32)
        return Plan(command=none, parameter=none, length=none[:, :, 0])
    plans = []
    for index, entry in enumerate(entries):
        try:
            plans.append(compile_triples(environment.vocabulary, plan_triples(entry), capacity))
        except InstructionError as error:
            message = f"{path}: plans[{index}] cannot be executed: {error} {ADVICE}"
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
            f"their mean must be report_return_per_agent. {ADVICE}"
        )


def _read_arrays(
    path: Path, content: bytes, environment: InstructedEnvironment, manifest: Mapping[str, Any]
) -> Trajectory:
    arrays, episodes = parse_arrays(path, content), manifest["recorded"]["episodes"]
    found = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    if found != {name: (shape, np.dtype(d)) for name, (shape, d) in _array_shapes(environment, episodes).items()}:
        raise DemonstrationError(
            f"{path} does not hold the {episodes} episodes of this environment that {MANIFEST} lists. {ADVICE}"
        )
    problem = _impossible(arrays, None if has_continuous_actions(environment) else environment.num_actions)
    if problem:
        raise DemonstrationError(f"{path} holds {problem} that cannot occur. {ADVICE}")
    return Trajectory(**{name: jnp.asarray(array) for name, array in arrays.items()})


def parse_arrays(path: Path, content: bytes) -> dict[str, np.ndarray]:
    """The arrays in a safetensors file's content; a DemonstrationError naming `path` if it is none."""
    try:
        return load_safetensors(content)
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise DemonstrationError(f"{path} is not a safetensors file ({printable(str(error))}). {ADVICE}") from None


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
    """What no execution could have written, or nothing; continuous actions have no `num_actions`."""
    for name in ("observation", "reward"):
        if not np.all(np.isfinite(arrays[name])):
            return f"a {name}"
    low, high = (-1.0, 1.0) if num_actions is None else (0, num_actions - 1)
    for name in ("action", "taken"):
        if not np.all((arrays[name] >= low) & (arrays[name] <= high)):
            return "an action"
    active, terminated = arrays["active"], arrays["terminated"]
    gone = np.concatenate([np.zeros_like(active[:, :1]), ~active[:, :-1] | terminated[:, :-1]], axis=1)
    if not np.all(active[:, 0]) or np.any(active & gone) or np.any(terminated & ~active):
        return "ends of episodes"
    return ""
