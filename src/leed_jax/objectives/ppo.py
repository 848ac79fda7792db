"""Losses of proximal policy optimisation on one agent's minibatch."""

import chex
import jax.numpy as jnp
from jaxtyping import Array, Float

Scalar = Float[Array, ""]


def weighted_mean(x: Float[Array, "B"], weight: Float[Array, "B"]) -> Scalar:
    """The weighted mean; 0 if all weights are 0. Values of weight 0 are ignored, even if they are not finite.

        sum_b w_b x_b / sum_b w_b

    Args:
        x: values.
        weight: w, non-negative; 0 for padding.
    """
    chex.assert_rank([x, weight], 1)
    chex.assert_equal_shape([x, weight])
    total = jnp.sum(weight)
    return jnp.sum(jnp.where(weight > 0, weight * x, 0.0)) / jnp.where(total > 0, total, 1.0)


def normalise(x: Float[Array, "B"], weight: Float[Array, "B"]) -> Float[Array, "B"]:
    """Shift and scale to mean 0 and standard deviation 1; constant input becomes 0.

    Args:
        x: values.
        weight: non-negative; values of weight 0 do not count and become 0.
    """
    # Subtracting the largest value first makes equal values exactly 0. Their computed mean may differ from them by
    # rounding, which the division would amplify.
    x = jnp.where(weight > 0, x - jnp.max(x, where=weight > 0, initial=-jnp.inf), 0.0)
    x = jnp.where(weight > 0, x - weighted_mean(x, weight), 0.0)
    return x / (jnp.sqrt(weighted_mean(jnp.square(x), weight)) + 1e-8)


def clipped_surrogate_loss(
    log_prob: Float[Array, "B"],
    behaviour_log_prob: Float[Array, "B"],
    advantage: Float[Array, "B"],
    clip_epsilon: Scalar | float,
    weight: Float[Array, "B"],
) -> Scalar:
    """The negative clipped surrogate objective.

        L = -E[min(rho A, clip(rho, 1 - eps, 1 + eps) A)],  rho = pi(a|s) / pi_behaviour(a|s)

    Source: Schulman et al. 2017 (arXiv 1707.06347), equation 7.

    Args:
        log_prob: log-probability of the action under the learner's policy.
        behaviour_log_prob: log-probability under the policy that acted.
        advantage: advantage of the action.
        clip_epsilon: eps.
        weight: weight of each sample; 0 for padding.
    """
    chex.assert_rank([log_prob, behaviour_log_prob, advantage], 1)
    chex.assert_equal_shape([log_prob, behaviour_log_prob, advantage])
    # The ratio of padding may overflow, and 0 times infinity is not a number.
    ratio = jnp.exp(jnp.where(weight > 0.0, log_prob - behaviour_log_prob, 0.0))
    clipped = jnp.clip(ratio, 1.0 - clip_epsilon, 1.0 + clip_epsilon)
    return -weighted_mean(jnp.minimum(ratio * advantage, clipped * advantage), weight)


def value_loss(value: Float[Array, "B"], target: Float[Array, "B"], weight: Float[Array, "B"]) -> Scalar:
    """Half the mean squared error of the critic.

        L = 1/2 E[(V(s) - R)^2]

    Source: Schulman et al. 2017 (arXiv 1707.06347), equation 9, the term L^VF. Values are not clipped, as
    clipping depends on the scale of rewards and does not help (Andrychowicz et al. 2021, arXiv 2006.05990).

    Args:
        value: estimates of the critic.
        target: returns.
        weight: weight of each sample; 0 for padding.
    """
    chex.assert_rank([value, target], 1)
    chex.assert_equal_shape([value, target])
    return 0.5 * weighted_mean(jnp.square(value - target), weight)


def approximate_kl(
    log_prob: Float[Array, "B"], behaviour_log_prob: Float[Array, "B"], weight: Float[Array, "B"]
) -> Scalar:
    """Unbiased, low-variance estimate of KL(behaviour || learner): E[rho - 1 - log rho].

    Source: Schulman 2020, "Approximating KL divergence", estimator k3.
    """
    chex.assert_rank([log_prob, behaviour_log_prob], 1)
    chex.assert_equal_shape([log_prob, behaviour_log_prob])
    log_ratio = log_prob - behaviour_log_prob
    return weighted_mean(jnp.expm1(log_ratio) - log_ratio, weight)
