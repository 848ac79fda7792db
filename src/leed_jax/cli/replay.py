"""Animations of executed plans."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from leed_jax.demonstrations import DemonstrationSet, demonstration_key
from leed_jax.environments import Drawable, Environment
from leed_jax.errors import DemonstrationError
from leed_jax.instructions import Trajectory, observe_execution
from leed_jax.instructions.plan import decompile
from leed_jax.report.animation import Frame, as_numpy, draw_frames


def draw_plan(loaded: DemonstrationSet, environment: Environment, index: int, seed: int, episodes: int) -> bytes:
    """Execute a plan and draw it as an animated GIF.

    Args:
        loaded: the set.
        environment: its environment, without wrappers that add instructions.
        index: the number of the plan, from 0.
        seed: seed of the transitions, and of the initial states unless the plan has one of its own.
        episodes: the number of episodes.

    Raises:
        DemonstrationError: there is no such plan, or the environment cannot be drawn.
    """
    plans = len(loaded.manifest["plans"])
    if index >= plans:
        raise DemonstrationError(f"--plan={index}: {loaded.path} has {plans} plans, counted from 0.")
    if not isinstance(environment, Drawable):
        raise DemonstrationError(
            f"{type(environment).__name__} cannot be drawn; give it a method draw(axes, state), as in "
            "leed_jax.environments.Drawable."
        )
    return draw_frames(environment, _episodes(loaded, index, demonstration_key(seed), episodes))


def _episodes(loaded: DemonstrationSet, index: int, key: PRNGKeyArray, count: int) -> Iterator[list[Frame]]:
    plan, own_state = jax.tree.map(lambda x: x[index], (loaded.plans, loaded.reset_keys))

    @jax.jit
    def run(key: PRNGKeyArray) -> Any:
        return observe_execution(loaded.environment, plan, key, _observe, reset_key=own_state)

    triples = iter(decompile(loaded.environment.vocabulary, plan))
    texts = [[" ".join(next(triples)[:2]) for _ in range(length)] for length in np.asarray(plan.length)]
    for episode_key in jax.random.split(key, count):
        before, after, active, earned, counter = as_numpy(run(episode_key))
        returns = np.cumsum(earned, axis=0)
        last = int(np.flatnonzero(active.any(axis=-1))[-1])
        frames = [Frame(0, _at(before, 0), np.zeros_like(returns[0]), _in_force(texts, counter[0]))]
        for step in range(last + 1):
            instructions = _in_force(texts, counter[min(step + 1, last)])
            frames.append(Frame(step + 1, _at(after, step), returns[step], instructions))
        yield frames


def _observe(state: Any, next_state: Any, step: Trajectory, counter: Array) -> Any:
    return state, next_state, step.active, jnp.where(step.active, step.reward, 0.0), counter


def _at(states: Any, step: int) -> Any:
    return jax.tree.map(lambda x: x[step], states)


def _in_force(texts: Sequence[Sequence[str]], counter: np.ndarray) -> list[str]:
    """The instruction that each agent's counter points to."""
    return [own[at] for own, at in zip(texts, counter.tolist(), strict=True)]
