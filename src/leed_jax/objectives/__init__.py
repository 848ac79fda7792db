"""The formulas of learning, each once, on unbatched arrays."""

from leed_jax.objectives.expert import negative_log_likelihood
from leed_jax.objectives.gae import generalised_advantages
from leed_jax.objectives.ppo import approximate_kl, clipped_surrogate_loss, normalise, value_loss
from leed_jax.objectives.schedules import SCHEDULES, expert_weight

__all__ = [
    "SCHEDULES",
    "approximate_kl",
    "clipped_surrogate_loss",
    "expert_weight",
    "generalised_advantages",
    "negative_log_likelihood",
    "normalise",
    "value_loss",
]
