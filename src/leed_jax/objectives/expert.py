"""Imitation losses on one agent's minibatch of expert actions."""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from leed_jax.objectives.ppo import weighted_mean


def negative_log_likelihood(log_prob: Float[Array, "B"], weight: Float[Array, "B"]) -> Float[Array, ""]:
    """Behaviour cloning: the weighted mean negative log-likelihood of the expert's actions; 0 if all weights are 0.

        L = - sum_b w_b log pi(a_b|s_b) / sum_b w_b

    Source: Pomerleau 1991, "Efficient training of artificial neural networks for autonomous navigation", as maximum
    likelihood.

    Args:
        log_prob: log-probability of the expert's action under the learner's policy.
        weight: non-negative; 0 for padding.
    """
    return -weighted_mean(log_prob, weight)


def advantage_weighted_loss(
    log_prob: Float[Array, "B"],
    advantage: Float[Array, "B"],
    weight: Float[Array, "B"],
    temperature: Float[Array, ""] | float,
    max_weight: Float[Array, ""] | float,
) -> Float[Array, ""]:
    """Imitation weighted by the exponential of the expert's advantage over the learner's own value estimate.

        L = - sum_b w_b min(exp(A_b / beta), c) log pi(a_b|s_b) / sum_b w_b,  A = R - V(s)

    No gradient flows through the advantage. The exponentials are not normalised, so the term vanishes as the learner
    becomes better than its expert.

    Source: Peng et al. 2019, "Advantage-weighted regression" (arXiv 1910.00177), algorithm 1 and section 5.2, with the
    learner's own critic for V.

    Args:
        log_prob: log-probability of the expert's action under the learner's policy.
        advantage: the expert's return from this step on minus the learner's value estimate.
        weight: non-negative; 0 for padding.
        temperature: beta, in units of reward.
        max_weight: c.
    """
    chex.assert_rank([log_prob, advantage, weight], 1)
    chex.assert_equal_shape([log_prob, advantage, weight])
    # Clipped before the exponential, which could overflow.
    exponent = jnp.minimum(jax.lax.stop_gradient(advantage) / temperature, jnp.log(max_weight))
    return -weighted_mean(jnp.exp(exponent) * log_prob, weight)
