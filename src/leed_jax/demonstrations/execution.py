"""Many plans executed and arranged in one jitted call."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from leed_jax.config.schema import LABELS
from leed_jax.environments import Environment
from leed_jax.errors import DemonstrationError
from leed_jax.instructions import InstructedEnvironment, Plan, PrimitiveInstructions, Trajectory, execute

Arrange = Callable[[Trajectory], Any]


def instructed(environment: Environment) -> InstructedEnvironment:
    """The environment itself if it offers instructions, else wrapped, with its primitive actions as vocabulary."""
    if isinstance(environment, InstructedEnvironment):
        return environment
    return PrimitiveInstructions(environment)


def demonstration_key(seed: int) -> PRNGKeyArray:
    """The key of demonstrations with this seed, different from other keys of the same seed."""
    return jax.random.fold_in(jax.random.key(seed), 0xDE305)


def initial_state_keys(seed: int, count: int) -> Key[Array, "N"]:
    """Keys of the initial states that plans with kind=episodes are for; key i does not depend on `count`."""
    root = jax.random.fold_in(jax.random.key(seed), 0x57A7E)
    return jax.vmap(lambda index: jax.random.fold_in(root, index))(jnp.arange(count))


@struct.dataclass
class Batch:
    """Episodes to execute, in order.

    Attributes:
        plans: the plans, stacked on a leading axis.
        which: each episode's plan.
        key: each episode's randomness.
        noise: its share of disturbed actions.
        reset_key: each plan's initial state, or None for fresh ones.
    """

    plans: Plan
    which: Int[Array, "N"]
    key: Key[Array, "N"]
    noise: Float[Array, "N"]
    reset_key: Key[Array, "P"] | None

    def take(self, episodes: Int[np.ndarray, "K"]) -> "Batch":
        """Some of the episodes, unchanged."""
        rows = {name: getattr(self, name)[episodes] for name in ("which", "key", "noise")}
        return dataclasses.replace(self, **rows)


def plan_batch(
    plans: Plan,
    key: PRNGKeyArray,
    episodes: int,
    noise: float = 0.0,
    reset_keys: Key[Array, "P"] | None = None,
    noise_from: float = 0.0,
) -> Batch:
    """Assign plans to episodes in turn.

    Args:
        plans: plans stacked on a leading axis.
        key: source of all randomness; consumed.
        episodes: the number of episodes, `N`.
        noise: the share of disturbed actions of the last episode; it grows linearly from that of the first one.
        reset_keys: each plan's own initial state; None for fresh ones.
        noise_from: the share of disturbed actions of the first episode.
    """
    return Batch(
        plans=plans,
        which=jnp.arange(episodes) % plans.length.shape[0],
        key=jax.random.split(key, episodes),
        noise=jnp.linspace(noise_from, noise, episodes),
        reset_key=reset_keys,
    )


@functools.partial(jax.jit, static_argnames=("environment", "arrange"))
def execute_batch(
    environment: InstructedEnvironment, batch: Batch, arrange: Arrange, per_agent: Int[Array, "K A"] | None = None
) -> Any:
    """Execute a batch and apply `arrange` to its episodes, `[N, T, ...]`, or to each agent's choice of them."""
    plans = jax.tree.map(lambda x: x[batch.which], batch.plans)
    reset_keys = None if batch.reset_key is None else batch.reset_key[batch.which]
    run = jax.vmap(functools.partial(execute, environment))
    trajectory = run(plans, batch.key, batch.noise, reset_keys)
    return arrange(trajectory if per_agent is None else pick_per_agent(trajectory, per_agent))


def pick_per_agent(trajectory: Trajectory, episodes: Int[Array, "K A"]) -> Trajectory:
    """For each agent its own choice of episodes, `[K, T, ...]`; row k is then no joint episode."""

    def pick(x: Array) -> Array:
        return jnp.take_along_axis(x, episodes.reshape(len(episodes), 1, -1, *[1] * (x.ndim - 3)), axis=0)

    return jax.tree.map(pick, trajectory)


def execute_episodes(
    environment: InstructedEnvironment,
    plans: Plan,
    key: PRNGKeyArray,
    episodes: int,
    noise: float = 0.0,
    reset_keys: Key[Array, "P"] | None = None,
    noise_from: float = 0.0,
) -> Trajectory:
    """Execute plans in turn, in one jitted call; see `plan_batch`."""
    return execute_batch(environment, plan_batch(plans, key, episodes, noise, reset_keys, noise_from), unchanged)


def unchanged(trajectory: Trajectory) -> Trajectory:
    """The trajectory itself."""
    return trajectory


@functools.cache
def with_label(arrange: Arrange, label: str) -> Arrange:
    """The same arrangement, of episodes whose `action` is the one of this label; see `DemonstrationSet.episodes`."""
    # Cached, as jit compiles again for each new function.
    if label not in LABELS:
        raise DemonstrationError(f"demonstrations.label={label}: must be one of {', '.join(LABELS)}.")
    if label == "instructed":
        return arrange
    return lambda trajectory: arrange(dataclasses.replace(trajectory, action=trajectory.taken))
