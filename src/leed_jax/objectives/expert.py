"""Terms that pull a policy towards an expert's actions, each on one agent's minibatch."""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from leed_jax.objectives.ppo import weighted_mean


def negative_log_likelihood(log_prob: Float[Array, "B"], weight: Float[Array, "B"]) -> Float[Array, ""]:
    """Behaviour cloning: the weighted mean of the negative log-likelihood of the expert's actions.

        L = - sum_b w_b log pi(a_b|s_b) / sum_b w_b

    Source: Pomerleau 1991, "Efficient training of artificial neural networks for autonomous navigation", as maximum
    likelihood; zero where all weights are zero.

    Args:
        log_prob: log-probability of the expert's action under the policy that learns.
        weight: non-negative; 0 leaves a sample out, as for padding.
    """
    return -weighted_mean(log_prob, weight)


def advantage_weighted_loss(
    log_prob: Float[Array, "B"],
    advantage: Float[Array, "B"],
    weight: Float[Array, "B"],
    temperature: Float[Array, ""] | float,
    max_weight: Float[Array, ""] | float,
) -> Float[Array, ""]:
    """Imitation of what did better than one's own critic expects, and of the rest hardly at all.

        L = - sum_b w_b min(exp(A_b / beta), c) log pi(a_b|s_b) / sum_b w_b,  A = R - V(s)

    No gradient flows through the advantage. The sum is not divided by the exponentials, so that the term fades as the
    learner outgrows its expert.

    Source: Peng et al. 2019, "Advantage-weighted regression" (arXiv 1910.00177), algorithm 1 and section 5.2, with the
    learner's own critic for V.

    Args:
        log_prob: log-probability of the expert's action under the policy that learns.
        advantage: return of the expert from there on, less the learner's own estimate.
        weight: non-negative; 0 leaves a sample out.
        temperature: beta, in the unit of the rewards.
        max_weight: c.
    """
    chex.assert_rank([log_prob, advantage, weight], 1)
    chex.assert_equal_shape([log_prob, advantage, weight])
    # Bounded before the exponential, which would overflow, and whose derivative is of no use.
    exponent = jnp.minimum(jax.lax.stop_gradient(advantage) / temperature, jnp.log(max_weight))
    return -weighted_mean(jnp.exp(exponent) * log_prob, weight)
