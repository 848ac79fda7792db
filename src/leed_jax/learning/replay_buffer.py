"""A replay buffer of the latest rollouts, all of one size."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int, PRNGKeyArray


@struct.dataclass
class ReplayBuffer:
    """The latest rollouts; a new one overwrites the oldest.

    Attributes:
        content: arrays with leading axes over rollouts and over the transitions of a rollout.
        added: the number of rollouts that were ever added.
    """

    content: Any
    added: Int[Array, ""]


def empty_buffer(transitions: Any, rollouts: int) -> ReplayBuffer:
    """A buffer with room for `rollouts` rollouts.

    Args:
        transitions: those of a rollout, or their shapes, with one leading axis.
        rollouts: the capacity; static.
    """
    content = jax.tree.map(lambda x: jnp.zeros((rollouts, *x.shape), x.dtype), transitions)
    return ReplayBuffer(content, jnp.zeros((), jnp.int32))


def add_rollout(buffer: ReplayBuffer, transitions: Any) -> ReplayBuffer:
    """Overwrite the oldest rollout."""
    rollouts = jax.tree.leaves(buffer.content)[0].shape[0]
    slot = buffer.added % rollouts
    content = jax.tree.map(
        lambda old, new: jax.lax.dynamic_update_index_in_dim(old, new, slot, 0), buffer.content, transitions
    )
    return ReplayBuffer(content, buffer.added + 1)


def sample_transitions(buffer: ReplayBuffer, key: PRNGKeyArray, size: int) -> Any:
    """Sample transitions uniformly from all in the buffer, with replacement; `key` is consumed.

    Args:
        buffer: a buffer with at least one rollout in it.
        key: source of the draws; consumed.
        size: how many; static.
    """
    rollouts, size_of_rollout = jax.tree.leaves(buffer.content)[0].shape[:2]
    stored = jnp.minimum(buffer.added, rollouts) * size_of_rollout
    rows = jax.random.randint(key, (size,), 0, jnp.maximum(stored, 1))
    return jax.tree.map(lambda x: x.reshape(rollouts * size_of_rollout, *x.shape[2:])[rows], buffer.content)
