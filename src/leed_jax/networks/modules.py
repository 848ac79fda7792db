"""Layers, and operations on networks that are stacked over agents or over groups of agents."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Key

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"tanh": nn.tanh, "relu": nn.relu, "gelu": nn.gelu, "silu": nn.silu}

Parameters = Any


class MLP(nn.Module):
    """A feed-forward network with orthogonal initialisation.

    Attributes:
        hidden_sizes: widths of the hidden layers.
        outputs: width of the last layer.
        output_scale: gain of the last layer's initial weights.
        activation: a key of `ACTIVATIONS`.
    """

    hidden_sizes: tuple[int, ...]
    outputs: int
    output_scale: float
    activation: str

    @nn.compact
    def __call__(self, x: Float[Array, "*B O"]) -> Float[Array, "*B N"]:
        """Apply the network to observations."""
        for size in self.hidden_sizes:
            x = nn.Dense(size, kernel_init=nn.initializers.orthogonal(np.sqrt(2)))(x)
            x = ACTIVATIONS[self.activation](x)
        return nn.Dense(self.outputs, kernel_init=nn.initializers.orthogonal(self.output_scale))(x)


class _ResettingGRU(nn.Module):
    """A gated recurrent unit over time, whose hidden state is zero at the first step of an episode."""

    size: int

    @partial(nn.scan, variable_broadcast="params", split_rngs={"params": False}, in_axes=0, out_axes=0)
    @nn.compact
    def __call__(self, hidden: Float[Array, "*B H"], inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        x, is_first = inputs
        return nn.GRUCell(self.size)(jnp.where(is_first[..., None], 0.0, hidden), x)


class RecurrentMLP(nn.Module):
    """Hidden layers, a gated recurrent unit (Cho et al. 2014, arXiv 1406.1078), and a linear layer, over time.

    Attributes:
        hidden_sizes: widths of the hidden layers.
        hidden_state_size: width of the recurrent layer, `H`.
        outputs: width of the last layer.
        output_scale: gain of the last layer's initial weights.
        activation: a key of `ACTIVATIONS`.
    """

    hidden_sizes: tuple[int, ...]
    hidden_state_size: int
    outputs: int
    output_scale: float
    activation: str

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "*B H"], x: Float[Array, "L *B O"], is_first: Bool[Array, "L *B"]
    ) -> tuple[Float[Array, "*B H"], Float[Array, "L *B N"]]:
        """Apply the network to sequences.

        Args:
            hidden: the hidden state before the sequences.
            x: observations.
            is_first: which steps are the first of an episode.

        Returns:
            The hidden state after the sequences, and the outputs.
        """
        for size in self.hidden_sizes:
            x = nn.Dense(size, kernel_init=nn.initializers.orthogonal(np.sqrt(2)))(x)
            x = ACTIVATIONS[self.activation](x)
        hidden, x = _ResettingGRU(self.hidden_state_size)(hidden, (x, is_first))
        return hidden, nn.Dense(self.outputs, kernel_init=nn.initializers.orthogonal(self.output_scale))(x)


def init_stacked(init: Callable[[Array], Parameters], keys: Key[Array, "G"]) -> Parameters:
    """Draw networks with `init(key)`, stacked on a leading axis; the keys are consumed."""
    # One after the other, also under a vmap over seeds: batched QR decompositions, which orthogonal initialisation
    # needs, can deadlock on CPU, as they wait for threads of the pool that they occupy themselves.
    return jax.vmap(jax.custom_batching.sequential_vmap(init))(keys)


def of_agents(stacked: Any, groups: Sequence[int]) -> Any:
    """Gather each agent's arrays from arrays that are stacked over groups.

    Args:
        stacked: arrays with a leading axis over groups, `[G, ...]`.
        groups: the number of each agent's group.

    Returns:
        The same with a leading axis over agents, `[A, ...]`.
    """
    if tuple(groups) == tuple(range(len(groups))):
        return stacked
    return jax.tree.map(lambda x: x[np.array(groups)], stacked)


def mean_of_groups(per_agent: Any, groups: Sequence[int]) -> Any:
    """The mean over each group's agents, of gradients for instance: `[A, ...]` becomes `[G, ...]`.

    Every agent of a group has the same weight, however many of its samples are masked.
    """
    if tuple(groups) == tuple(range(len(groups))):
        return per_agent
    sizes = np.bincount(groups)

    def mean(x: Array) -> Array:
        total = jnp.zeros((len(sizes), *x.shape[1:]), x.dtype).at[np.array(groups)].add(x)
        return total / sizes.reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype)

    return jax.tree.map(mean, per_agent)


def with_agent_id(obs: Float[Array, "*B A O"], axis: int = -2) -> Array:
    """Append to each agent's observation its one-hot index.

    Args:
        obs: observations with the agents on `axis`.
        axis: which axis that is.
    """
    moved = jnp.moveaxis(obs, axis, -2)
    agents = moved.shape[-2]
    identity = jnp.broadcast_to(jnp.eye(agents), (*moved.shape[:-1], agents))
    return jnp.moveaxis(jnp.concatenate([moved, identity], axis=-1), -2, axis)
