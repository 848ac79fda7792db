"""Q-learning for a team: targets, and mixing of the agents' values; on the arrays of one transition."""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Scalar = Float[Array, ""]


def best_available(value: Float[Array, "N"], available: Bool[Array, "N"]) -> Int[Array, ""]:
    """The available action with the highest value; action 0 if none is available."""
    chex.assert_rank([value, available], 1)
    return jnp.argmax(jnp.where(available, value, jnp.finfo(value.dtype).min)).astype(jnp.int32)


def double_q_value(online: Float[Array, "N"], target: Float[Array, "N"], available: Bool[Array, "N"]) -> Scalar:
    """One agent's double Q-learning estimate of the value of the next state.

        q' = Q_target(s', argmax_a Q(s', a)),  a among the available actions

    Source: van Hasselt et al. 2016 (arXiv 1509.06461), equation 4 with the target network as the second set of weights
    (section "Double DQN").

    Args:
        online: Q(s', .).
        target: Q_target(s', .).
        available: mask of the actions available in s'.
    """
    chex.assert_equal_shape([online, target, available])
    return target[best_available(online, available)]


def team_target(reward: Scalar, next_value: Scalar, terminated: Bool[Array, ""], discount: Scalar | float) -> Scalar:
    """The target of the value of a joint action.

        y = r + gamma (1 - terminated) Q_tot(s', a')

    Source: Rashid et al. 2018 (arXiv 1803.11485), equation 6; time limits as in Pardo et al. 2018 (arXiv 1712.00378),
    section 3.

    Args:
        reward: r, the team's.
        next_value: Q_tot in the next state, before any reset, for the actions chosen there.
        terminated: whether every agent has terminated; false at a time limit, which is bootstrapped.
        discount: gamma, per step.
    """
    return reward + discount * jnp.where(terminated, 0.0, next_value)


def sum_of_values(value: Float[Array, "A"]) -> Scalar:
    """VDN: the team's value is the sum of the agents' values.

        Q_tot = sum_i q_i

    Source: Sunehag et al. 2017 (arXiv 1706.05296), section 3.1.

    Args:
        value: q_i, the value of each agent's action.
    """
    chex.assert_rank(value, 1)
    return jnp.sum(value)


def monotonic_mixing(
    value: Float[Array, "A"],
    first_weight: Float[Array, "A M"],
    first_bias: Float[Array, "M"],
    second_weight: Float[Array, "M"],
    second_bias: Scalar,
) -> Scalar:
    """QMIX: the team's value is a monotonically increasing function of each agent's value.

        Q_tot = |w_2| . elu(|W_1|^T q + b_1) + b_2

    So the best joint action consists of each agent's best action. Hypernetworks compute the weights from the state.

    Source: Rashid et al. 2018 (arXiv 1803.11485), section 4 and figure 2.

    Args:
        value: q, the value of each agent's action.
        first_weight: W_1, of either sign.
        first_bias: b_1.
        second_weight: w_2, of either sign.
        second_bias: b_2.
    """
    chex.assert_rank([value, first_weight, first_bias, second_weight], [1, 2, 1, 1])
    hidden = jax.nn.elu(value @ jnp.abs(first_weight) + first_bias)
    return hidden @ jnp.abs(second_weight) + second_bias
