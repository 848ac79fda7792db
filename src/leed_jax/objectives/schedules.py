"""How the expert term's weight falls as training goes on, and as the learner comes up to its expert."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

Scalar = Float[Array, ""]


def constant(progress: Scalar) -> Scalar:
    """1 throughout."""
    return jnp.ones_like(progress)


def linear(progress: Scalar) -> Scalar:
    """1 - p."""
    return 1.0 - progress


def cosine(progress: Scalar) -> Scalar:
    """(1 + cos(pi p)) / 2 (Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5)."""
    return 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


def exponential(progress: Scalar) -> Scalar:
    """exp(-5 p), and 0 at p = 1, where it would be 0.7 %."""
    return jnp.where(progress < 1.0, jnp.exp(-5.0 * progress), 0.0)


SCHEDULES: dict[str, Callable[[Scalar], Scalar]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "exponential": exponential,
}


def expert_weight(schedule: str, initial: Scalar | float, update: Array, decay_updates: Scalar | float) -> Scalar:
    """The weight of the expert term at an update.

        w(u) = w_0 s(min(u / U, 1)),  with s(0) = 1

    Args:
        schedule: a key of `SCHEDULES`; static.
        initial: w_0.
        update: u, the number of updates made so far.
        decay_updates: U, the number of updates that the decay takes.

    Raises:
        KeyError: there is no such schedule.
    """
    progress = jnp.clip(update / jnp.maximum(decay_updates, 1.0), 0.0, 1.0)
    return initial * SCHEDULES[schedule](progress)


def remaining_share(distance: Float[Array, "A"], widest: Float[Array, "A"], below: Scalar | float) -> Float[Array, "A"]:
    """How much an agent still has to learn from its expert, by how far it is from it.

        g_i = clip(d_i / (b d_i^max), 0, 1), and 0 where d_i^max <= 0

    With d the expert's return less the learner's, it is 0 from the moment at which a learner does as well as its
    expert, so that a bad expert is left alone; with d the distance of their trajectories, from the moment at which it
    does the same. It is 1 until the share b of the way is left: with b = 1 it falls from the start, and soon is so
    small that the last steps are hardly learnt.

    Source: the idea of a weight that goes by the difference of expert and agent is RELED's (arXiv 2511.19368); the
    form is this project's.

    Args:
        distance: d, how far each learner is from its expert now.
        widest: d^max, how far it has been at most.
        below: b, more than 0.
    """
    ahead = widest > 0
    return jnp.where(ahead, jnp.clip(distance / jnp.where(ahead, below * widest, 1.0), 0.0, 1.0), 0.0)
