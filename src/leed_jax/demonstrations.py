"""Demonstration sets on disk: what a model wrote, what came of it, and the arrays that training consumes.

A set is a folder with

    manifest.json                what it was made for and from, plans, scores, the sha256 of each file and its own
    transcript.jsonl             every prompt and every reply, as they were
    demonstrations.safetensors   executed episodes (or none: plans can be executed again)

Loading verifies all of it before anything is used. Sets that come with leed_jax are found by name.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from leed_jax.environment import Environment
from leed_jax.environment_class import environment_identity
from leed_jax.errors import DemonstrationError, InstructionError
from leed_jax.files import write_whole
from leed_jax.instructions import (
    InstructedEnvironment,
    Plan,
    PrimitiveInstructions,
    Trajectory,
    Triple,
    compile_triples,
    execute,
    plan_returns,
    stack_plans,
)

FORMAT = 1
MANIFEST = "manifest.json"
TRANSCRIPT = "transcript.jsonl"
ARRAYS = "demonstrations.safetensors"
MAX_INSTRUCTIONS = 10_000

_MEND = "record the set anew with python -m leed_jax.generate, or name another in demonstrations.path."


def instructed(environment: Environment) -> InstructedEnvironment:
    """The environment itself if it offers instructions, else wrapped, with its primitive actions as vocabulary."""
    if isinstance(environment, InstructedEnvironment):
        return environment
    return PrimitiveInstructions(environment)


@dataclasses.dataclass(frozen=True)
class DemonstrationSet:
    """A verified set, for the environment that it was loaded for.

    Attributes:
        path: its folder.
        manifest: its manifest, as plain values.
        environment: the environment with its instructions.
        plans: the kept plans, best first, stacked on a leading axis `P`.
        recorded: the recorded episodes, `[N, T, ...]`, or None.
    """

    path: Path
    manifest: Mapping[str, Any]
    environment: InstructedEnvironment
    plans: Plan
    recorded: Trajectory | None

    def episodes(self, episodes: int | None = None, noise: float = 0.0, seed: int = 0) -> Trajectory:
        """Episodes to learn from, `[N, T, ...]`.

        Args:
            episodes: execute the plans again on this many fresh initial states, shared out among the plans; None for
            the
                recorded arrays.
            noise: the largest share of disturbed actions; episodes are spread evenly between none and that.
            seed: seed of the fresh initial states and of the noise.

        Raises:
            DemonstrationError: there are no recorded arrays, and no number of episodes either.
        """
        if episodes is None:
            if self.recorded is None:
                raise DemonstrationError(f"{self.path} holds plans only; set demonstrations.episodes to execute them.")
            return self.recorded
        return execute_episodes(self.environment, self.plans, demonstration_key(seed), episodes, noise)

    def returns(self, key: PRNGKeyArray, num_episodes: int) -> Float[Array, "N A"]:
        """The best plan's own returns on fresh episodes, without noise; `key` is consumed."""
        best = jax.tree.map(lambda x: x[:1], self.plans)
        score = jax.jit(lambda keys: plan_returns(self.environment, best, keys)[0])
        return score(jax.random.split(key, num_episodes))


def demonstration_key(seed: int) -> PRNGKeyArray:
    """The key of demonstrations with this seed; apart from those that the same seed gives elsewhere."""
    return jax.random.fold_in(jax.random.key(seed), 0xDE305)


def execute_episodes(
    environment: InstructedEnvironment, plans: Plan, key: PRNGKeyArray, episodes: int, noise: float = 0.0
) -> Trajectory:
    """Execute plans in turn on `episodes` fresh initial states, in one jitted call; `key` is consumed.

    Args:
        environment: where to execute.
        plans: plans stacked on a leading axis.
        key: source of everything random.
        episodes: the number of episodes, `N`.
        noise: see `DemonstrationSet.episodes`.
    """
    which = jnp.arange(episodes) % plans.length.shape[0]
    levels = jnp.linspace(0.0, noise, episodes)

    @jax.jit
    def run(keys: Array) -> Trajectory:
        chosen = jax.tree.map(lambda x: x[which], plans)
        return jax.vmap(lambda plan, key, level: execute(environment, plan, key, level))(chosen, keys, levels)

    return run(jax.random.split(key, episodes))


def save_demonstrations(
    path: Path, manifest: Mapping[str, Any], environment: Environment, transcript: bytes, recorded: Trajectory | None
) -> None:
    """Write a set; the manifest last and in one piece, so that a set without one was never finished.

    Args:
        path: the folder; made if it does not exist.
        manifest: everything but format, environment and files, which are filled in; `plans` is a list of objects with
            `triples`, best first, and `max_instructions` their capacity.
        environment: what the set was made for.
        transcript: the transcript's bytes.
        recorded: episodes to store, or None.
    """
    path.mkdir(parents=True, exist_ok=True)
    files = {TRANSCRIPT: transcript}
    if recorded is not None:
        fields = dataclasses.fields(recorded)
        files[ARRAYS] = save_safetensors({f.name: np.asarray(getattr(recorded, f.name)) for f in fields})
    for name, content in files.items():
        write_whole(path / name, content)
    listing = {name: {"sha256": _sha256(content), "bytes": len(content)} for name, content in files.items()}
    whole = {"format": FORMAT, "environment": environment_identity(environment), **manifest, "files": listing}
    whole["sha256"] = _manifest_sha256(whole)
    write_whole(path / MANIFEST, (json.dumps(whole, indent=2, allow_nan=False) + "\n").encode())


def load_demonstrations(path: str, environment: Environment) -> DemonstrationSet:
    """Load a set and verify it.

    Args:
        path: a folder, or the name of a set that comes with leed_jax, as `ENVIRONMENT/MODEL`.
        environment: what it is to be used for.

    Raises:
        DemonstrationError: it is missing, damaged or altered, or was made for another environment.
    """
    folder = find_set(path)
    manifest = _read_manifest(folder)
    _check_environment(folder, manifest, environment)
    contents = {name: _read_verified(folder / name, listing) for name, listing in _listed_files(folder, manifest)}
    target = instructed(environment)
    plans = _read_plans(folder, manifest, target)
    recorded = _read_arrays(folder / ARRAYS, contents[ARRAYS], target) if ARRAYS in contents else None
    return DemonstrationSet(folder, manifest, target, plans, recorded)


def find_set(path: str) -> Path:
    """The folder that a path or a name stands for.

    Raises:
        DemonstrationError: there is none.
    """
    if not path:
        raise DemonstrationError("demonstrations.path is empty: give the folder or the name of a demonstration set.")
    packaged = Path(str(resources.files("leed_jax.demos"))) / path
    for folder in (Path(os.path.expanduser(path)), packaged):  # noqa: PTH111 - which never raises, as Path's does
        try:
            if (folder / MANIFEST).is_file():
                return folder
        except (OSError, ValueError) as error:
            raise DemonstrationError(f"demonstrations.path={path[:200]} cannot be looked up ({error}).") from None
    names = ", ".join(recorded_sets()) or "none"
    raise DemonstrationError(
        f"demonstrations.path={path}: there is no demonstration set (no {MANIFEST} in that folder, and no recorded set "
        f"of that name; recorded: {names}). Name one of these, or {_MEND}"
    )


def recorded_sets() -> list[str]:
    """Names of the sets that come with leed_jax."""
    root = Path(str(resources.files("leed_jax.demos")))
    return sorted(str(file.parent.relative_to(root)) for file in root.rglob(MANIFEST))


def _manifest_sha256(manifest: Mapping[str, Any]) -> str:
    """The hash of all that a manifest says but for this hash itself, however it is laid out."""
    said = {name: value for name, value in manifest.items() if name != "sha256"}
    return _sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DemonstrationError(f"{path} cannot be read ({type(error).__name__}): {_MEND}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise DemonstrationError(f"{path} has format {found!r}, and this version reads {FORMAT}: {_MEND}")
    if manifest.get("sha256") != _manifest_sha256(manifest):
        raise DemonstrationError(f"{path} is altered: its sha256 is not its content's. Restore the file, or {_MEND}")
    return manifest


def _check_environment(folder: Path, manifest: Mapping[str, Any], environment: Environment) -> None:
    made_for, here = manifest.get("environment"), environment_identity(environment)
    if made_for == json.loads(json.dumps(here)):
        return
    differences = [f"environment {here['name']}"]
    if isinstance(made_for, dict) and made_for.get("name") == here["name"] and isinstance(made_for.get("config"), dict):
        theirs = made_for["config"]
        differences = [
            f"{key}={theirs.get(key)!r} where the run has {value!r}"
            for key, value in here["config"].items()
            if theirs.get(key) != value
        ]
        differences = [f"env.{text}" for text in differences]
    raise DemonstrationError(
        f"{folder} was made for another environment ({'; '.join(differences)}). Demonstrations fit exactly one: set "
        f"env.* as recorded, or {_MEND}"
    )


def _listed_files(folder: Path, manifest: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    listed = manifest.get("files")
    if not isinstance(listed, dict) or TRANSCRIPT not in listed or not set(listed) <= {TRANSCRIPT, ARRAYS}:
        raise DemonstrationError(f"{folder / MANIFEST} does not list the set's files: {_MEND}")
    return list(listed.items())


def _read_verified(path: Path, listing: Any) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DemonstrationError(f"{path} cannot be read ({error.strerror}): {_MEND}") from None
    expected = listing.get("sha256") if isinstance(listing, dict) else None
    if _sha256(content) != expected:
        size = listing.get("bytes") if isinstance(listing, dict) else None
        how = "truncated" if isinstance(size, int) and len(content) < size else "altered"
        raise DemonstrationError(f"{path} is {how}: its sha256 is not the manifest's. Restore the file, or {_MEND}")
    return content


def _read_plans(folder: Path, manifest: Mapping[str, Any], environment: InstructedEnvironment) -> Plan:
    capacity, entries = manifest.get("max_instructions"), manifest.get("plans")
    if not isinstance(capacity, int) or capacity > MAX_INSTRUCTIONS or not isinstance(entries, list) or not entries:
        raise DemonstrationError(f"{folder / MANIFEST} lists no plans: {_MEND}")
    try:
        plans = [compile_triples(environment.vocabulary, _as_triples(entry), capacity) for entry in entries]
    except InstructionError as error:
        manifest_path = folder / MANIFEST
        raise DemonstrationError(f"{manifest_path} holds a plan that cannot be executed: {error} {_MEND}") from None
    return stack_plans(plans)


def _as_triples(entry: Any) -> list[Triple]:
    triples = entry.get("triples") if isinstance(entry, dict) else None
    if not isinstance(triples, list):
        raise InstructionError("a plan without triples.")
    result = []
    for triple in triples:
        if not (isinstance(triple, list) and len(triple) == len(("command", "parameter", "agent"))):
            raise InstructionError("a triple that is not a list of three words.")
        command, parameter, agent = map(str, triple)
        result.append((command, parameter, agent))
    return result


def _read_arrays(path: Path, content: bytes, environment: InstructedEnvironment) -> Trajectory:
    try:
        arrays = load_safetensors(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise DemonstrationError(f"{path} is not a safetensors file ({error}): {_MEND}") from None
    steps, agents, actions = environment.max_steps, environment.num_agents, environment.num_actions
    shapes = {
        "observation": ((steps, agents, environment.observation_size), np.float32),
        "action": ((steps, agents), np.int32),
        "reward": ((steps, agents), np.float32),
        "available_actions": ((steps, agents, actions), np.bool_),
        "active": ((steps,), np.bool_),
    }
    episodes = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
    fits = set(arrays) == set(shapes) and len(episodes) == 1 and 0 not in episodes
    if not fits or any(arrays[n].shape[1:] != s or arrays[n].dtype != d for n, (s, d) in shapes.items()):
        raise DemonstrationError(f"{path} does not hold episodes of this environment: {_MEND}")
    if not np.all(np.isfinite(arrays["observation"])) or np.any((arrays["action"] < 0) | (arrays["action"] >= actions)):
        raise DemonstrationError(f"{path} holds observations or actions that cannot occur: {_MEND}")
    return Trajectory(**{name: jnp.asarray(array) for name, array in arrays.items()})
