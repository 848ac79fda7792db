"""Distances between trajectories."""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def dynamic_time_warping(
    left: Float[Array, "M D"],
    right: Float[Array, "N D"],
    left_length: Int[Array, ""] | int,
    right_length: Int[Array, ""] | int,
) -> Float[Array, ""]:
    """The dynamic-time-warping distance of two sequences of points.

        D(i, j) = |x_i - y_j| + min(D(i-1, j), D(i, j-1), D(i-1, j-1)),  D(0, 0) = |x_0 - y_0|

    The distance is D(m-1, n-1): the smallest sum of Euclidean distances over all monotonic alignments of the two
    sequences. Takes M N sequential steps.

    Source: Sakoe and Chiba 1978, "Dynamic programming algorithm optimization for spoken word recognition", with the
    symmetric step pattern and weight 1 for each step.

    Args:
        left: x.
        right: y.
        left_length: m, from 1 to M; the rest of x is padding.
        right_length: n, from 1 to N; likewise.
    """
    chex.assert_rank([left, right], 2)
    cost = jnp.linalg.norm(left[:, None] - right[None], axis=-1)
    first = jnp.cumsum(cost[0])

    def row(above: Array, cost: Array) -> tuple[Array, Array]:
        diagonal = jnp.concatenate([jnp.array([jnp.inf]), above[:-1]])
        entered = jnp.minimum(above, diagonal)

        def along(before: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            cost_j, entered_j = inputs
            distance = cost_j + jnp.minimum(before, entered_j)
            return distance, distance

        distances = jax.lax.scan(along, jnp.array(jnp.inf), (cost, entered))[1]
        return distances, distances

    rest = jax.lax.scan(row, first, cost[1:])[1]
    return jnp.concatenate([first[None], rest])[left_length - 1, right_length - 1]
