"""Demonstration sets for tests, written as the package writes them and then changed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probes import Line
from tiny_run import Walk

from leed_jax.cli.demonstrations import main
from leed_jax.demonstrations import (
    ARRAYS,
    MANIFEST,
    TRANSCRIPT,
    demonstration_key,
    execute_episodes,
    initial_state_keys,
    instructed,
    load_demonstrations,
    save_demonstrations,
)
from leed_jax.demonstrations.format import manifest_sha256, sha256_hex
from leed_jax.errors import DemonstrationError
from leed_jax.instructions import Triple, compile_triples, stack_plans

CAPACITY = 3
LINE = "--environment=probes:Line"
WALK = "--environment=tiny_run:Walk"
BEST = [("Walk", "mark_3", "agent_0"), ("Walk", "mark_1", "agent_1"), ("Stay", "forever", "agent_1")]
WORSE = [("Walk", "mark_2", "agent_0"), ("Stay", "forever", "agent_1")]
RETURNS = {"best": 14.5, "worse": 7.5}
STATES_SEED = 11


def entry(triples: list[Triple], candidate: int, score: float | None, **more: Any) -> dict[str, Any]:
    return {
        "triples": [list(triple) for triple in triples],
        "round": 1,
        "candidate": candidate,
        "selection_return_per_agent": score,
        **more,
    }


def transcript_of(plans: list[dict[str, Any]]) -> bytes:
    """A line for each plan, and one for a reply of which nothing came."""
    lines = [
        {k: plan[k] for k in ("round", "candidate", "triples")}
        | {"return_per_agent": plan["selection_return_per_agent"]}
        for plan in plans
    ]
    lines.append({"round": 1, "candidate": 99, "triples": [], "return_per_agent": None})
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def write_line_set(folder: Path, episodes: int = 8, noise: float = 0.0, **changes: Any) -> Path:
    """Two plans for `Line`, whose returns are known: marks 1, 2, 3, 3, ... and 1, 1, ...; marks 1, 2, 2, ... and 0."""
    plans = [
        entry(BEST, 0, RETURNS["best"], report_return_per_agent=14.5, report_returns=[21.0, 8.0]),
        entry(WORSE, 3, RETURNS["worse"], report_return_per_agent=7.5),
    ]
    return write_set(folder, Line(), plans, episodes, noise, transcript_of(plans), **changes)


def write_walk_set(folder: Path, episodes: int = 6, **changes: Any) -> Path:
    """Plans for three initial states of `Walk`, in which the walkers start at random."""
    names = {0: "action_0", 4: "action_1", 2: "action_2"}
    plans = [
        entry([("Act", action, "agent_0"), ("Act", action, "agent_1")], 0, -1.0 - state, episode=state)
        for state, action in names.items()
    ]
    told = [
        {"episode": p["episode"], "triples": p["triples"], "return_per_agent": p["selection_return_per_agent"]}
        for p in plans
    ]
    transcript = json.dumps({"round": 1, "candidate": 0, "plans": told}).encode()
    more = {"kind": "episodes", "states_seed": STATES_SEED, **changes}
    return write_set(folder, Walk(), plans, episodes, 0.5, transcript, **more)


def write_set(
    folder: Path, environment: Any, plans: list[Any], episodes: int, noise: float, transcript: bytes, **changes: Any
) -> Path:
    target = instructed(environment)
    recorded = None
    manifest: dict[str, Any] = {"max_instructions": CAPACITY, "plans": plans, "model": "tiny"}
    if episodes:
        compiled = [compile_triples(target.vocabulary, list(map(tuple, p["triples"])), CAPACITY) for p in plans]
        reset_keys = None
        if changes.get("states_seed") is not None:
            reset_keys = initial_state_keys(STATES_SEED, 5)[np.array([plan["episode"] for plan in plans])]
        recorded = execute_episodes(target, stack_plans(compiled), demonstration_key(3), episodes, noise, reset_keys)
        manifest["recorded"] = {"episodes": episodes, "noise": noise, "seed": 3}
    save_demonstrations(folder, {**manifest, **changes}, environment, transcript, recorded)
    return folder


def read_json(folder: Path) -> dict[str, Any]:
    return json.loads((folder / MANIFEST).read_text())


def edit_manifest(folder: Path, **changes: Any) -> None:
    """Change a manifest and put its hash right."""
    put_manifest(folder, {**read_json(folder), **changes})


def put_manifest(folder: Path, manifest: Any) -> None:
    (folder / MANIFEST).write_text(json.dumps({**manifest, "sha256": manifest_sha256(manifest)}))


def put_file(folder: Path, name: str, content: bytes) -> None:
    """Replace a file and list it with its new hash."""
    (folder / name).write_bytes(content)
    files = {**read_json(folder)["files"], name: {"sha256": sha256_hex(content), "bytes": len(content)}}
    edit_manifest(folder, files=files)


__all__ = [
    "ARRAYS",
    "BEST",
    "CAPACITY",
    "MANIFEST",
    "TRANSCRIPT",
    "WORSE",
    "edit_manifest",
    "entry",
    "put_file",
    "put_manifest",
    "read_json",
    "transcript_of",
    "write_line_set",
    "write_set",
    "write_walk_set",
]


def run(capsys: Any, *arguments: Any) -> tuple[int, str, str]:
    """The command line of demonstrations: exit status, output, errors."""
    status = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def refused(capsys: Any, *arguments: Any) -> str:
    """The error of a command that is refused, one printable line."""
    status, _, errors = run(capsys, *arguments)
    assert status == 2
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert errors[:-1].isprintable()
    return errors


def refuse(folder: Path, environment: Any = None) -> str:
    """The error of a set that is not loaded, which names its folder."""
    with pytest.raises(DemonstrationError) as caught:
        load_demonstrations(str(folder), Line() if environment is None else environment)
    message = str(caught.value)
    assert str(folder) in message
    assert message.isprintable()
    return message
