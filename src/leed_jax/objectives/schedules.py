"""Schedules over training: linear interpolation, and the decay of the expert term's weight."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

Scalar = Float[Array, ""]

# Each s(p) of the progress p in [0, 1], with s(0) = 1.
SCHEDULES: dict[str, Callable[[Scalar], Scalar]] = {
    "constant": jnp.ones_like,
    "linear": lambda progress: 1.0 - progress,
    # Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5.
    "cosine": lambda progress: 0.5 * (1.0 + jnp.cos(jnp.pi * progress)),
    # Set to 0 at the end, where it would be 0.7 %.
    "exponential": lambda progress: jnp.where(progress < 1.0, jnp.exp(-5.0 * progress), 0.0),
}


def linear_schedule(update: Array, start: Scalar | float, end: Scalar | float, updates: Scalar | float) -> Scalar:
    """Interpolate linearly from `start` to `end` over `updates` updates, then stay at `end`.

        x(u) = x_0 + (x_1 - x_0) min(u / U, 1)

    Args:
        update: u, the number of updates made so far.
        start: x_0.
        end: x_1.
        updates: U; values below 1 count as 1.
    """
    # optax.linear_schedule requires a concrete number of steps; here it may be traced, so that vmap can sweep it.
    return start + (end - start) * _progress(update, updates)


def expert_weight(schedule: str, initial: Scalar | float, update: Array, decay_updates: Scalar | float) -> Scalar:
    """The weight of the expert term at an update.

        w(u) = w_0 s(min(u / U, 1))

    Args:
        schedule: a key of `SCHEDULES`, which gives s; static.
        initial: w_0.
        update: u, the number of updates made so far.
        decay_updates: U, the number of updates that the decay takes; values below 1 count as 1.

    Raises:
        KeyError: there is no such schedule.
    """
    return initial * SCHEDULES[schedule](_progress(update, decay_updates))


def _progress(update: Array, updates: Scalar | float) -> Scalar:
    return jnp.clip(update / jnp.maximum(updates, 1.0), 0.0, 1.0)


def remaining_share(distance: Float[Array, "A"], widest: Float[Array, "A"], below: Scalar | float) -> Float[Array, "A"]:
    """The share of its initial distance to the expert that an agent still has to cover; a factor of the expert weight.

        g_i = clip(d_i / (b d_i^max), 0, 1), and 0 where d_i^max <= 0

    If d is the expert's return minus the learner's, g is 0 once the learner does as well as the expert, so a bad expert
    has no influence. If d is the distance between their trajectories, g is 0 once they coincide. g is 1 until the share
    b of the largest distance is left. With b = 1 it falls from the start and becomes too small to learn the rest.

    Source: weighting by the difference between expert and agent is from RELED (arXiv 2511.19368); this form is ours.

    Args:
        distance: d, the current distance of each learner to its expert.
        widest: d^max, the largest distance so far.
        below: b > 0.
    """
    ahead = widest > 0
    return jnp.where(ahead, jnp.clip(distance / jnp.where(ahead, below * widest, 1.0), 0.0, 1.0), 0.0)
