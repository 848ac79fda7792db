"""The formulas of learning, each once, on unbatched arrays."""

from leed_jax.objectives.distance import dynamic_time_warping
from leed_jax.objectives.expert import advantage_weighted_loss, negative_log_likelihood
from leed_jax.objectives.gae import generalised_advantages
from leed_jax.objectives.ppo import approximate_kl, clipped_surrogate_loss, normalise, value_loss, weighted_mean
from leed_jax.objectives.q_learning import linear_schedule
from leed_jax.objectives.schedules import SCHEDULES, expert_weight, remaining_share

__all__ = [
    "SCHEDULES",
    "advantage_weighted_loss",
    "approximate_kl",
    "clipped_surrogate_loss",
    "dynamic_time_warping",
    "expert_weight",
    "generalised_advantages",
    "linear_schedule",
    "negative_log_likelihood",
    "normalise",
    "remaining_share",
    "value_loss",
    "weighted_mean",
]
