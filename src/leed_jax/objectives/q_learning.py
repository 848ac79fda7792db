"""The formulas of Q-learning for a team, each on one transition's arrays."""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Scalar = Float[Array, ""]


def linear_schedule(
    update: Array, start: Scalar | float, end: Scalar | float, updates: Scalar | float
) -> Scalar:
    """A number that goes evenly from one value to another, and stays there.

        x(u) = x_0 + (x_1 - x_0) min(u / U, 1)

    Source: for the share of random actions, Mnih et al. 2015, "Human-level control through deep reinforcement
    learning", methods.

    Args:
        update: u, the number of updates made so far.
        start: x_0.
        end: x_1.
        updates: U, the number of updates that it takes; below 1 it is 1.
    """
    return start + (end - start) * jnp.clip(update / jnp.maximum(updates, 1.0), 0.0, 1.0)


def best_available(value: Float[Array, "N"], available: Bool[Array, "N"]) -> Int[Array, ""]:
    """The available action of the highest value; action 0 where none is available."""
    chex.assert_rank([value, available], 1)
    return jnp.argmax(jnp.where(available, value, jnp.finfo(value.dtype).min)).astype(jnp.int32)


def double_q_value(online: Float[Array, "N"], target: Float[Array, "N"], available: Bool[Array, "N"]) -> Scalar:
    """One agent's value of the state after a transition, by double Q-learning.

        q' = Q_target(s', argmax_a Q(s', a)),  a among the available actions

    Source: van Hasselt et al. 2016 (arXiv 1509.06461), equation 4 with the target network for the second set of
    weights, as in its section "Double DQN".

    Args:
        online: Q(s', .) of the network that learns.
        target: Q_target(s', .).
        available: which actions there are in s'.
    """
    chex.assert_equal_shape([online, target, available])
    return target[best_available(online, available)]


def team_target(reward: Scalar, next_value: Scalar, over: Bool[Array, ""], discount: Scalar | float) -> Scalar:
    """What the value of a joint action is regressed on.

        y = r + gamma (1 - over) Q_tot(s', a')

    Source: Rashid et al. 2018 (arXiv 1803.11485), equation 6; time limits as in Pardo et al. 2018 (arXiv 1712.00378),
    section 3.

    Args:
        reward: r, of the team.
        next_value: Q_tot of the state that the actions led to, before any reset, and the actions chosen there.
        over: every agent has terminated. A time limit is not the end: what would follow still counts.
        discount: gamma, per step.
    """
    return reward + discount * jnp.where(over, 0.0, next_value)


def sum_of_values(value: Float[Array, "A"]) -> Scalar:
    """The team's value as the sum of the agents' own.

        Q_tot = sum_i q_i

    Source: Sunehag et al. 2017 (arXiv 1706.05296), section 3.1.

    Args:
        value: q_i, of each agent's own action.
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
    """The team's value as a function that falls in no agent's own value.

        Q_tot = |w_2| . elu(|W_1|^T q + b_1) + b_2

    So each agent's best action is its part of the best joint action. The weights are what hypernetworks make of the
    state.

    Source: Rashid et al. 2018 (arXiv 1803.11485), section 4 and figure 2.

    Args:
        value: q, of each agent's own action.
        first_weight: W_1, of either sign.
        first_bias: b_1.
        second_weight: w_2, of either sign.
        second_bias: b_2.
    """
    chex.assert_rank([value, first_weight, first_bias, second_weight], [1, 2, 1, 1])
    hidden = jax.nn.elu(value @ jnp.abs(first_weight) + first_bias)
    return hidden @ jnp.abs(second_weight) + second_bias
