"""A tiny environment, demonstrations for it, and a tiny configuration: for tests of whole runs."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from leed_jax.demonstrations import demonstration_key, execute_episodes, instructed, save_demonstrations
from leed_jax.environments import TimeStep
from leed_jax.instructions import compile_triples, stack_plans

TESTS = Path(__file__).parent


@struct.dataclass
class WalkState:
    """Positions of the walkers, and the step."""

    position: Any
    step: Any


@dataclasses.dataclass(frozen=True)
class Walk:
    """Walkers on a line who should get to the origin and stay there."""

    num_agents: int = 2
    max_steps: int = 4
    start: float = 3.0

    num_actions = 3
    observation_size = 1

    def reset(self, key: jax.Array) -> tuple[WalkState, TimeStep]:
        position = jax.random.uniform(key, (self.num_agents,), minval=-self.start, maxval=self.start)
        state = WalkState(position, jnp.zeros((), jnp.int32))
        return state, self._time_step(state, jnp.zeros(self.num_agents))

    def step(self, state: WalkState, action: jax.Array, key: jax.Array) -> tuple[WalkState, TimeStep]:
        state = WalkState(state.position + action - 1.0, state.step + 1)
        return state, self._time_step(state, -jnp.abs(state.position))

    def _time_step(self, state: WalkState, reward: jax.Array) -> TimeStep:
        return TimeStep(
            observation=state.position[:, None],
            reward=reward,
            truncated=state.step >= self.max_steps,
        )


@dataclasses.dataclass(frozen=True)
class DrawnWalk(Walk):
    """The same with a picture."""

    def draw(self, axes: Any, state: WalkState) -> None:
        axes.scatter(state.position, [0.0] * self.num_agents)


@dataclasses.dataclass(frozen=True)
class Endless(Walk):
    """Breaks the contract: its episodes never end."""

    def _time_step(self, state: WalkState, reward: jax.Array) -> TimeStep:
        return super()._time_step(state, reward).replace(truncated=jnp.array(False))


@dataclasses.dataclass(frozen=True)
class Raising(Walk):
    """Breaks the contract: a bug in its step."""

    def step(self, state: WalkState, action: jax.Array, key: jax.Array) -> tuple[WalkState, TimeStep]:
        raise ZeroDivisionError("a bug of the user's own")


def record_walk(folder: Path, environment: Walk, episodes: int = 8) -> Path:
    """Write a demonstration set in which every walker goes left, on and on."""
    target = instructed(environment)
    command = target.vocabulary.commands[0]
    agents = target.vocabulary.agents
    triples = [(command.name, target.vocabulary.allowed_parameters(command.name, agent)[0], agent) for agent in agents]
    plans = stack_plans([compile_triples(target.vocabulary, triples, 2)])
    recorded = execute_episodes(target, plans, demonstration_key(5), episodes)
    place = {"round": 0, "candidate": 0, "triples": [list(triple) for triple in triples]}
    manifest = {
        "max_instructions": 2,
        "plans": [place],
        "recorded": {"episodes": episodes, "noise": 0.0, "seed": 5},
    }
    save_demonstrations(folder, manifest, environment, json.dumps(place).encode(), recorded)
    return folder


def settings(out: Path | str, cls: str = "Walk", **changes: Any) -> list[str]:
    """The command line of a run of four chunks; dots in keys are written as two underscores."""
    values = {
        "env.name": f"tiny_run:{cls}",
        "algorithm": "ippo",
        "num_envs": 4,
        "rollout_steps": 8,
        "updates_per_chunk": 2,
        "total_steps": 256,
        "checkpoint_every": 2,
        "network.hidden_sizes": "[8]",
        "ppo.epochs": 2,
        "ppo.minibatches": 2,
        "expert.batch_size": 8,
        "evaluation.episodes": 256,
        "out": out,
    }
    values |= {name.replace("__", "."): value for name, value in changes.items()}
    return [f"{key}={value}" for key, value in values.items()]


def python(arguments: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    """Start `python ARGUMENTS` in a working directory, with this folder importable."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "COLUMNS": "100"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run_command(arguments: Sequence[str], folder: Path) -> tuple[int, str, str]:
    """Run `python -m leed_jax.run ARGUMENTS` to its end: exit status, standard output, standard error."""
    process = python(["-m", "leed_jax.run", *arguments], folder)
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def rows_of(directory: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics so far."""
    path = directory / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def wait_for_chunk(process: subprocess.Popen[str], directory: Path, chunk: int) -> None:
    """Wait until a running process has written down a chunk."""
    deadline = time.monotonic() + 100
    while len(rows_of(directory)) < chunk:
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"chunk {chunk} never came: {process.communicate()}")
        time.sleep(0.005)
