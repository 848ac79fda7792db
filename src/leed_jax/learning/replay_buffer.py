"""A memory of the latest rounds of experience, of which all are of one size."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int, PRNGKeyArray


@struct.dataclass
class ReplayBuffer:
    """The latest rounds; the oldest makes room for a new one.

    Attributes:
        content: arrays with leading axes over rounds and over the items of a round.
        added: the number of rounds that were ever added.
    """

    content: Any
    added: Int[Array, ""]


def empty_buffer(items: Any, rounds: int) -> ReplayBuffer:
    """A buffer with room for `rounds` rounds.

    Args:
        items: a round, or its shapes: arrays with a leading axis over its items.
        rounds: how many to remember; static.
    """
    content = jax.tree.map(lambda x: jnp.zeros((rounds, *x.shape), x.dtype), items)
    return ReplayBuffer(content, jnp.zeros((), jnp.int32))


def add_round(buffer: ReplayBuffer, items: Any) -> ReplayBuffer:
    """Write a round over the oldest one."""
    rounds = jax.tree.leaves(buffer.content)[0].shape[0]
    slot = buffer.added % rounds
    content = jax.tree.map(
        lambda old, new: jax.lax.dynamic_update_index_in_dim(old, new, slot, 0), buffer.content, items
    )
    return ReplayBuffer(content, buffer.added + 1)


def sample_items(buffer: ReplayBuffer, key: PRNGKeyArray, size: int) -> Any:
    """Draw items evenly from all that are remembered, with replacement; `key` is consumed.

    Args:
        buffer: a buffer with at least one round in it.
        key: source of the draw; consumed.
        size: how many; static.
    """
    rounds, items = jax.tree.leaves(buffer.content)[0].shape[:2]
    remembered = jnp.minimum(buffer.added, rounds) * items
    rows = jax.random.randint(key, (size,), 0, jnp.maximum(remembered, 1))
    return jax.tree.map(lambda x: x.reshape(rounds * items, *x.shape[2:])[rows], buffer.content)
