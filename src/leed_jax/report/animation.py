"""An animation of a policy at work, for environments that can draw their states."""

import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from leed_jax.environments import Drawable, Environment, reset_env, step_env
from leed_jax.environments.actions import executable
from leed_jax.learning.episodes import Actor

FRAMES_PER_S = 10
MAX_FRAMES = 120
MAX_EPISODES = 4
BUDGET_S = 8.0

NumberedState = tuple[int, Any]


def draw_episodes(path: Path, environment: Environment, actor: Actor, key: PRNGKeyArray) -> bool:
    """Write a few whole episodes as an animated GIF, as many as fit into `MAX_FRAMES` frames and a few seconds.

    Args:
        path: the file to write.
        environment: what to act in.
        actor: how actions are picked.
        key: source of the episodes; consumed.

    Returns:
        Whether anything was written: only a `Drawable` environment can be drawn.
    """
    if not isinstance(environment, Drawable):
        return False
    episodes = int(np.clip(MAX_FRAMES * _stride(environment) // environment.max_steps, 1, MAX_EPISODES))
    draw_states(path, environment, _play(environment, actor, key, episodes))
    return True


def draw_states(path: Path, environment: Drawable, episodes: Iterable[Sequence[NumberedState]]) -> None:
    """Write episodes as an animated GIF; of long ones not every state.

    Args:
        path: the file to write.
        environment: what draws the states.
        episodes: each episode's states with the numbers of their steps, as NumPy arrays.
    """
    from matplotlib.animation import PillowWriter  # noqa: PLC0415 - slow to import
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(3.6, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    writer = PillowWriter(fps=FRAMES_PER_S)
    with writer.saving(figure, str(path), dpi=80), warnings.catch_warnings():
        # Of a picture with very long numbers on its axes; it is drawn all the same.
        warnings.filterwarnings("ignore", "constrained_layout not applied")
        for index, states in enumerate(episodes, start=1):
            for step, state in states[:: _stride(environment)]:
                axes.clear()
                environment.draw(axes, state)
                axes.set_title(f"episode {index}, step {step} of {len(states) - 1}", fontsize=10)
                writer.grab_frame()


def _stride(environment: Any) -> int:
    return max(1, -(-environment.max_steps // MAX_FRAMES))


def _play(environment: Environment, actor: Actor, key: PRNGKeyArray, episodes: int) -> Iterator[list[NumberedState]]:
    """The states of each episode, and no further episode when the time is up."""
    reset = jax.jit(lambda key: reset_env(environment, key))

    @jax.jit
    def advance(state: Any, time_step: Any, memory: Any, key: PRNGKeyArray) -> Any:
        action_key, step_key = jax.random.split(key)
        seen = (time_step.observation[None], time_step.available_actions[None])
        memory, action = actor.select_actions(memory, *seen, action_key)
        return *step_env(environment, state, executable(environment, action[0]), step_key), memory

    deadline = time.monotonic() + BUDGET_S
    for episode_key in jax.random.split(key, episodes):
        reset_key, step_key = jax.random.split(episode_key)
        state, time_step = reset(reset_key)
        memory = actor.init(1)
        states = [(0, as_numpy(state))]
        for number, advance_key in enumerate(jax.random.split(step_key, environment.max_steps), start=1):
            state, time_step, memory = advance(state, time_step, memory, advance_key)
            states.append((number, as_numpy(state)))
            if bool(time_step.episode_over()):
                break
        yield states
        if time.monotonic() > deadline:
            break


def as_numpy(state: Any) -> Any:
    """The state with NumPy arrays; typed keys, which NumPy cannot hold, as they are."""
    is_key = lambda x: jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: x if is_key(x) else np.asarray(x), state)
