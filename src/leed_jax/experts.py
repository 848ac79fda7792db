"""What the expert term learns from: tables of samples to draw from, or plans to ask."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from leed_jax.instructions import Plan, Trajectory


@struct.dataclass
class ExpertSamples:
    """Demonstrations as tables of samples, with a row for every step of every episode.

    Attributes:
        observation: what each agent saw.
        available_actions: what it could do.
        action: what it is to imitate.
        usable_rows: for each agent the rows that it can learn from, in order; past `usable` of them, padding.
        usable: how many those are.
    """

    observation: Float[Array, "M A O"]
    available_actions: Bool[Array, "M A N"]
    action: Int[Array, "M A"]
    usable_rows: Int[Array, "A M"]
    usable: Int[Array, "A"]


Experts = ExpertSamples | Plan
"""What the expert term learns from: samples, or plans that are asked in the learners' own states."""


@struct.dataclass
class ExpertBatch:
    """Samples drawn from them; `weight` is 0 for an agent that has none at all."""

    observation: Float[Array, "A B O"]
    available_actions: Bool[Array, "A B N"]
    action: Int[Array, "A B"]
    weight: Float[Array, "A B"]


@jax.jit
def expert_samples(demonstrations: Trajectory) -> ExpertSamples:
    """Arrange demonstrations as tables to draw samples from.

    Steps in which an agent took no part are not drawn for it, and neither is an action that was not available, which no
    policy can imitate. Rows go through all episodes step by step: that is the order in which a scan over time leaves
    them in memory, so that executing and arranging in one jit needs room for the tables alone.

    Args:
        demonstrations: episodes with one leading axis, `[N, T, ...]`.
    """
    action = demonstrations.action[..., None]
    possible = jnp.squeeze(jnp.take_along_axis(demonstrations.available_actions, action, axis=-1), axis=-1)
    usable = _rows(demonstrations.active & possible).T
    return ExpertSamples(
        observation=_rows(demonstrations.observation),
        available_actions=_rows(demonstrations.available_actions),
        action=_rows(demonstrations.action),
        usable_rows=jax.vmap(_positions)(usable),
        usable=jnp.sum(usable, axis=1, dtype=jnp.int32),
    )


def _rows(x: Array) -> Array:
    """Turn `[N, T, A, ...]` into `[T * N, A, ...]`."""
    return jnp.moveaxis(x, 1, 0).reshape(-1, *x.shape[2:])


def _positions(wanted: Bool[Array, "M"]) -> Int[Array, "M"]:
    """Where `wanted` is true, in order and padded with zeros."""
    size = wanted.shape[0]
    target = jnp.where(wanted, jnp.cumsum(wanted) - 1, size)
    return jnp.zeros(size, jnp.int32).at[target].set(jnp.arange(size, dtype=jnp.int32), mode="drop")


def sample_experts(experts: ExpertSamples, key: PRNGKeyArray, size: int) -> ExpertBatch:
    """Draw from each agent's usable rows, with replacement; `key` is consumed.

    Agents that can use the same rows get the same ones.
    """
    usable = experts.usable[:, None]
    draws = jax.vmap(lambda count: jax.random.randint(key, (size,), 0, jnp.maximum(count, 1)))(experts.usable)
    rows, agents = jnp.take_along_axis(experts.usable_rows, draws, axis=1), jnp.arange(usable.shape[0])[:, None]
    return ExpertBatch(
        observation=experts.observation[rows, agents],
        available_actions=experts.available_actions[rows, agents],
        action=experts.action[rows, agents],
        weight=jnp.broadcast_to(usable > 0, rows.shape).astype(jnp.float32),
    )
