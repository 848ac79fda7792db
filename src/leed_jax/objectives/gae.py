"""Generalised advantage estimation."""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def generalised_advantages(
    reward: Float[Array, "T"],
    value: Float[Array, "T"],
    next_value: Float[Array, "T"],
    terminated: Bool[Array, "T"],
    done: Bool[Array, "T"],
    discount: Float[Array, ""] | float,
    gae_lambda: Float[Array, ""] | float,
) -> Float[Array, "T"]:
    """Generalised advantage estimates for one sequence of steps, which may span several episodes.

        delta_t = r_t + gamma (1 - terminated_t) V(s'_t) - V(s_t)
        A_t     = delta_t + gamma lambda (1 - done_t) A_{t+1}

    `s'_t` is the state that the action led to, before any reset. At a time limit (done, but not terminated) its value
    is bootstrapped, and nothing leaks from the next episode.

    Source: Schulman et al. 2016 (arXiv 1506.02438), equation 16; time limits as in Pardo et al. 2018 (arXiv
    1712.00378), section 3.

    Args:
        reward: reward of each step.
        value: estimate for the state before each step.
        next_value: estimate for the state after each step, before any reset.
        terminated: whether the agent terminated in the step.
        done: whether the step was the last of its episode, for any reason.
        discount: gamma, per step.
        gae_lambda: lambda.
    """
    chex.assert_rank([reward, value, next_value, terminated, done], 1)
    chex.assert_equal_shape([reward, value, next_value, terminated, done])
    delta = reward + discount * jnp.where(terminated, 0.0, next_value) - value
    decay = discount * gae_lambda * (1.0 - done)

    def backwards(advantage: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        delta_t, decay_t = step
        advantage = delta_t + decay_t * advantage
        return advantage, advantage

    return jax.lax.scan(backwards, jnp.zeros_like(delta[0]), (delta, decay), reverse=True)[1]
