"""A plan at work, as an animation."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from leed_jax.demonstrations.execution import demonstration_key
from leed_jax.demonstrations.sets import DemonstrationSet
from leed_jax.environments import Drawable, Environment
from leed_jax.errors import DemonstrationError
from leed_jax.instructions import Trajectory, observe_execution
from leed_jax.report.animation import NumberedState, as_numpy, draw_states


def draw_plan(loaded: DemonstrationSet, environment: Environment, index: int, seed: int, episodes: int) -> bytes:
    """Execute a plan and draw it as an animated GIF.

    Args:
        loaded: the set.
        environment: its environment, without the instructions that it may have been given.
        index: which plan.
        seed: seed of the initial states, where the plan has none of its own, and of the transitions.
        episodes: how many episodes.

    Raises:
        DemonstrationError: there is no such plan, or the environment cannot be drawn.
    """
    plans = len(loaded.manifest["plans"])
    if index >= plans:
        raise DemonstrationError(f"--plan={index}: {loaded.path} has {plans} plans, counted from 0.")
    if not isinstance(environment, Drawable):
        raise DemonstrationError(
            f"{type(environment).__name__} has no method draw(axes, state), so that its states cannot be drawn."
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "replay.gif"
        draw_states(path, environment, _episodes(loaded, index, demonstration_key(seed), episodes))
        return path.read_bytes()


def _episodes(loaded: DemonstrationSet, index: int, key: PRNGKeyArray, count: int) -> Iterator[list[NumberedState]]:
    plan, own_state = jax.tree.map(lambda x: x[index], (loaded.plans, loaded.reset_keys))

    @jax.jit
    def run(key: PRNGKeyArray) -> Any:
        return observe_execution(loaded.environment, plan, key, _states, reset_key=own_state)

    for episode_key in jax.random.split(key, count):
        before, after, active = as_numpy(run(episode_key))
        at = lambda states, step: jax.tree.map(lambda x: x[step], states)  # noqa: E731
        steps = np.flatnonzero(active.any(axis=-1)).tolist()
        yield [(0, at(before, 0)), *((step + 1, at(after, step)) for step in steps)]


def _states(state: Any, next_state: Any, step: Trajectory, _counter: Array) -> Any:
    return state, next_state, step.active
