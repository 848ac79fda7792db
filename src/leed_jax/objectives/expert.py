"""Terms that pull a policy towards an expert's actions, each on one agent's minibatch."""

import chex
import jax.numpy as jnp
from jaxtyping import Array, Float


def negative_log_likelihood(log_prob: Float[Array, "B"], weight: Float[Array, "B"]) -> Float[Array, ""]:
    """Behaviour cloning: the weighted mean of the negative log-likelihood of the expert's actions.

        L = - sum_b w_b log pi(a_b|s_b) / sum_b w_b

    Source: Pomerleau 1991, "Efficient training of artificial neural networks for autonomous navigation", as maximum
    likelihood; zero where all weights are zero.

    Args:
        log_prob: log-probability of the expert's action under the policy that learns.
        weight: non-negative; 0 leaves a sample out, as for padding.
    """
    chex.assert_rank([log_prob, weight], 1)
    chex.assert_equal_shape([log_prob, weight])
    total = jnp.sum(weight)
    return -jnp.sum(jnp.where(weight > 0, weight * log_prob, 0.0)) / jnp.where(total > 0, total, 1.0)
