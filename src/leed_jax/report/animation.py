"""Animated GIFs of episodes, for environments that can draw their states."""

import dataclasses
import io
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from leed_jax.environments import Drawable, Environment, reset_env, step_env
from leed_jax.environments.actions import executable
from leed_jax.files import write_whole, writing
from leed_jax.learning.episodes import Actor
from leed_jax.report.metrics import MAX_AGENTS_SHOWN

MAX_FRAMES = 120
MAX_EPISODES = 4
BUDGET_S = 5.0  # no further episode is begun that would take longer; the file is then encoded in about a second
TRAIL_STEPS = 10

_DPI, _WIDTH = 100, 6.4
_TITLE, _LINE, _MARGIN = 0.4, 0.24, 0.5  # inches
_FRAME_MS, _LAST_FRAME_MS = 100, 800
_COLOURS = 128
_COLUMNS = 4


@dataclasses.dataclass(frozen=True)
class Frame:
    """A moment of an episode.

    Attributes:
        step: the number of steps made.
        state: the state, as NumPy arrays.
        returns: what each agent has earned so far; None if unknown.
        instructions: the instruction that each agent follows; empty if there are none.
    """

    step: int
    state: Any
    returns: Float[np.ndarray, " A"] | None = None
    instructions: Sequence[str] = ()


def draw_episodes(path: Path, environment: Environment, actor: Actor, key: PRNGKeyArray) -> bool:
    """Play a few whole episodes and write them as an animated GIF of at most `MAX_FRAMES` frames.

    Args:
        path: the file to write.
        environment: what to act in.
        actor: selects the actions.
        key: source of the episodes; consumed.

    Returns:
        Whether the file was written; False if the environment is not `Drawable`.

    Raises:
        RunDirectoryError: the file cannot be written.
    """
    if not isinstance(environment, Drawable):
        return False
    episodes = int(np.clip(MAX_FRAMES * _stride(environment) // environment.max_steps, 1, MAX_EPISODES))
    with writing(path):
        write_whole(path, draw_frames(environment, _play(environment, actor, key, episodes)))
    return True


def draw_frames(environment: Drawable, episodes: Iterable[Sequence[Frame]]) -> bytes:
    """Draw episodes as an animated GIF; of long ones not every frame.

    Args:
        environment: draws the states.
        episodes: each episode's frames.
    """
    from PIL import Image  # noqa: PLC0415 - slow to import

    pictures, durations, canvas = [], [], None
    for index, frames in enumerate(episodes, start=1):
        canvas = canvas or _Canvas(environment, frames[0])
        positions = _positions(environment, frames)
        shown = range(0, len(frames), _stride(environment))
        for at in shown:
            title, returns = f"episode {index}, step {frames[at].step} of {frames[-1].step}", frames[at].returns
            if returns is not None:
                title += f", return per agent {np.mean(returns):.2f}"
            trail = None if positions is None else positions[max(0, at - TRAIL_STEPS) : at + 1]
            picture = Image.fromarray(canvas.draw(title, frames[at], trail))
            pictures.append(picture.quantize(_COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE))
            durations.append(_FRAME_MS if at != shown[-1] else _LAST_FRAME_MS)
    file = io.BytesIO()
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    return file.getvalue()


class _Canvas:
    """A figure with the picture of a state above a line for each agent."""

    def __init__(self, environment: Drawable, first: Frame) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - slow to import
        from matplotlib.figure import Figure  # noqa: PLC0415

        self._environment = environment
        labels = _labels(first)
        self._columns = 1 if first.instructions else _COLUMNS
        rows = -(-len(labels) // self._columns)
        below = rows * _LINE + (_MARGIN if rows else 0.3)
        height = _TITLE + below + _WIDTH - 2 * _MARGIN
        figure = Figure(figsize=(_WIDTH, height), dpi=_DPI)
        self._figure, self._canvas = figure, FigureCanvasAgg(figure)
        side = (_WIDTH - 2 * _MARGIN) / height
        self._axes = figure.add_axes((_MARGIN / _WIDTH, below / height, 1 - 2 * _MARGIN / _WIDTH, side))
        self._title = figure.text(0.5, 1 - _TITLE / 2 / height, "", ha="center", va="center", fontsize=13)
        of_agents = first.returns is not None and len(first.returns) == len(labels)
        self._texts = []
        for index in range(len(labels)):
            row, column = divmod(index, self._columns)
            x = (_MARGIN + column * (_WIDTH - 2 * _MARGIN) / self._columns) / _WIDTH
            y = (0.15 + (rows - row - 0.5) * _LINE) / height
            colour = f"C{index % 10}" if of_agents else "black"
            self._texts.append(figure.text(x, y, "", color=colour, va="center", fontsize=11))

    def draw(self, title: str, frame: Frame, trail: Float[np.ndarray, "T A 2"] | None) -> np.ndarray:
        """The picture as RGB values `[H, W, 3]`."""
        self._axes.clear()
        self._environment.draw(self._axes, frame.state)
        if trail is not None and len(trail) > 1:
            self._draw_trail(trail)
        self._title.set_text(title)
        for text, label in zip(self._texts, _labels(frame), strict=True):
            text.set_text(label)
        self._canvas.draw()
        return np.ascontiguousarray(np.asarray(self._canvas.buffer_rgba())[..., :3])

    def _draw_trail(self, trail: Float[np.ndarray, "T A 2"]) -> None:
        """Where each agent came from, paler the longer ago."""
        from matplotlib.collections import LineCollection  # noqa: PLC0415 - slow to import
        from matplotlib.colors import to_rgb  # noqa: PLC0415

        alpha = np.linspace(0.1, 0.8, len(trail) - 1)
        for agent, points in enumerate(np.swapaxes(trail, 0, 1)):
            colours = [(*to_rgb(f"C{agent % 10}"), value) for value in alpha]
            segments = np.stack([points[:-1], points[1:]], axis=1)
            self._axes.add_collection(
                LineCollection(list(segments), colors=colours, linewidths=2.5, zorder=0.5), autolim=False
            )


def _labels(frame: Frame) -> list[str]:
    """A text for each agent; of many agents, the lowest and the highest return."""
    if frame.returns is None:
        return list(frame.instructions)
    returns = np.asarray(frame.returns)
    if len(returns) > MAX_AGENTS_SHOWN:
        return [f"lowest: {returns.min():.2f}", f"highest: {returns.max():.2f}"]
    tails = [f"   {text}" for text in frame.instructions] or [""] * len(returns)
    return [f"agent {i}: {value:.2f}{tail}" for i, (value, tail) in enumerate(zip(returns, tails, strict=True))]


def _positions(environment: Drawable, frames: Sequence[Frame]) -> np.ndarray | None:
    """Where the agents are in each frame, `[T, A, 2]`, if the environment says so."""
    positions = getattr(environment, "positions", None)
    return None if positions is None else np.stack([np.asarray(positions(frame.state)) for frame in frames])


def _stride(environment: Any) -> int:
    return max(1, -(-environment.max_steps // MAX_FRAMES))


def _play(environment: Environment, actor: Actor, key: PRNGKeyArray, episodes: int) -> Iterator[list[Frame]]:
    """The frames of each episode; no further episode once `BUDGET_S` would be exceeded."""

    @jax.jit
    def begin(number: Any) -> Any:
        reset_key, step_key = jax.random.split(jax.random.split(key, episodes)[number])
        state, time_step = reset_env(environment, reset_key)
        active = jnp.ones(environment.num_agents, bool)
        return (state, time_step, actor.init(1), active), jax.random.split(step_key, environment.max_steps)

    @jax.jit
    def advance(carry: Any, keys: Any, step: Any) -> Any:
        state, time_step, actor_carry, active = carry
        action_key, step_key = jax.random.split(keys[step - 1])
        inputs = (time_step.observation[None], time_step.available_actions[None])
        actor_carry, action = actor.select_actions(actor_carry, *inputs, action_key)
        state, time_step = step_env(environment, state, executable(environment, action[0]), step_key)
        earned = jnp.where(active, time_step.reward, 0.0)
        return (state, time_step, actor_carry, active & ~time_step.terminated), earned, time_step.done()

    started = time.monotonic()
    for number in range(episodes):
        carry, keys = begin(number)
        returns = np.zeros(environment.num_agents)
        frames = [Frame(0, as_numpy(carry[0]), returns)]
        for step in range(1, environment.max_steps + 1):
            carry, earned, over = advance(carry, keys, step)
            returns = returns + np.asarray(earned)
            frames.append(Frame(step, as_numpy(carry[0]), returns))
            if over:
                break
        yield frames
        if (time.monotonic() - started) * (number + 2) / (number + 1) > BUDGET_S:
            break


def as_numpy(state: Any) -> Any:
    """The state with NumPy arrays; typed keys, which NumPy cannot hold, stay as they are."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: x if is_key(x) else np.asarray(x), state)
