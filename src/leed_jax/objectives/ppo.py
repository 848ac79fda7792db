"""The terms of proximal policy optimisation, each on one agent's minibatch."""

import chex
import jax.numpy as jnp
from jaxtyping import Array, Float

Scalar = Float[Array, ""]


def weighted_mean(x: Float[Array, "B"], weight: Float[Array, "B"]) -> Scalar:
    """The mean of what has weight, and 0 where nothing has; what has none may be anything.

        sum_b w_b x_b / sum_b w_b

    Args:
        x: numbers.
        weight: w, not negative; 0 leaves a number out, as for padding.
    """
    chex.assert_rank([x, weight], 1)
    chex.assert_equal_shape([x, weight])
    total = jnp.sum(weight)
    return jnp.sum(jnp.where(weight > 0, weight * x, 0.0)) / jnp.where(total > 0, total, 1.0)


def normalise(x: Float[Array, "B"], weight: Float[Array, "B"]) -> Float[Array, "B"]:
    """Shift and scale what has weight to mean 0 and standard deviation 1; constant input becomes 0.

    Args:
        x: numbers.
        weight: 0 leaves a number out of mean and deviation, and makes it 0.
    """
    # The mean of equal numbers may differ from them by rounding, which the division would blow up; that of zeros is 0.
    # Any number near them serves, so the largest of those with weight.
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
        log_prob: log-probability of the action under the policy that learns.
        behaviour_log_prob: the same under the policy that acted.
        advantage: advantage of the action.
        clip_epsilon: eps.
        weight: of each sample in the expectation; 0 leaves it out.
    """
    chex.assert_rank([log_prob, behaviour_log_prob, advantage], 1)
    chex.assert_equal_shape([log_prob, behaviour_log_prob, advantage])
    # Nothing holds back samples that are left out. Their ratio may overflow, and 0 times infinity is no number.
    ratio = jnp.exp(jnp.where(weight > 0.0, log_prob - behaviour_log_prob, 0.0))
    clipped = jnp.clip(ratio, 1.0 - clip_epsilon, 1.0 + clip_epsilon)
    return -weighted_mean(jnp.minimum(ratio * advantage, clipped * advantage), weight)


def value_loss(value: Float[Array, "B"], target: Float[Array, "B"], weight: Float[Array, "B"]) -> Scalar:
    """Half the mean squared error of the critic.

        L = 1/2 E[(V(s) - R)^2]

    Source: Schulman et al. 2017 (arXiv 1707.06347), equation 9, the term L^VF. The critic's step is not clipped:
    clipping depends on the scale of the rewards and was found to bring nothing (Andrychowicz et al. 2021, arXiv
    2006.05990).

    Args:
        value: estimates of the critic.
        target: returns to regress on.
        weight: of each sample in the mean; 0 leaves it out.
    """
    chex.assert_rank([value, target], 1)
    chex.assert_equal_shape([value, target])
    return 0.5 * weighted_mean(jnp.square(value - target), weight)


def approximate_kl(
    log_prob: Float[Array, "B"], behaviour_log_prob: Float[Array, "B"], weight: Float[Array, "B"]
) -> Scalar:
    """Estimate KL(behaviour || learner) without bias and with low variance, as E[rho - 1 - log rho].

    Source: Schulman 2020, "Approximating KL divergence", estimator k3.
    """
    chex.assert_rank([log_prob, behaviour_log_prob], 1)
    chex.assert_equal_shape([log_prob, behaviour_log_prob])
    log_ratio = log_prob - behaviour_log_prob
    return weighted_mean(jnp.expm1(log_ratio) - log_ratio, weight)
