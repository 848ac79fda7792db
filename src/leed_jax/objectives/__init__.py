"""Losses, advantage estimators, distances and schedules as pure functions of unbatched arrays."""

from leed_jax.objectives.distance import dynamic_time_warping
from leed_jax.objectives.expert import advantage_weighted_loss, negative_log_likelihood
from leed_jax.objectives.gae import generalised_advantages
from leed_jax.objectives.ppo import approximate_kl, clipped_surrogate_loss, normalise, value_loss, weighted_mean
from leed_jax.objectives.q_learning import (
    best_available,
    double_q_value,
    monotonic_mixing,
    sum_of_values,
    team_target,
)
from leed_jax.objectives.schedules import SCHEDULES, expert_weight, linear_schedule, remaining_share

__all__ = [
    "SCHEDULES",
    "advantage_weighted_loss",
    "approximate_kl",
    "best_available",
    "clipped_surrogate_loss",
    "double_q_value",
    "dynamic_time_warping",
    "expert_weight",
    "generalised_advantages",
    "linear_schedule",
    "monotonic_mixing",
    "negative_log_likelihood",
    "normalise",
    "remaining_share",
    "sum_of_values",
    "team_target",
    "value_loss",
    "weighted_mean",
]
