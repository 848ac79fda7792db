"""The settings of policy optimisation: numbers that can be swept, and what fixes shapes and program."""

import dataclasses

from flax import struct
from jaxtyping import Array, Float

from leed_jax.errors import ConfigurationError

Number = Float[Array, ""] | float


@struct.dataclass
class Hyper:
    """Numeric hyperparameters: leaves of a pytree, so that `vmap` can sweep them.

    Attributes:
        total_updates: the number of updates of the whole run.
        learning_rate: Adam's step size at the start.
        learning_rate_decay: the share of the learning rate that is gone, linearly, by `total_updates`.
        discount: gamma.
        gae_lambda: lambda.
        clip_epsilon: eps of the clipped surrogate.
        policy_coefficient: weight of the clipped surrogate; 0 for imitation alone.
        entropy_coefficient: weight of the entropy bonus at the start.
        entropy_decay: the share of that weight that is gone, linearly, by `total_updates`.
        value_coefficient: weight of the critic's loss.
        max_grad_norm: global norm at which each group's gradient is clipped.
        expert_weight: weight of the expert term at the start.
        expert_decay_updates: the number of updates over which it falls.
        expert_adapt_below: share of the way to the expert that is left when an adaptive weight begins to fall.
        expert_entropy: weight of an entropy bonus, in units of the expert term's weight at the time.
        expert_temperature: beta of the advantage-weighted term, in the unit of the rewards.
        expert_max_sample_weight: largest weight of a sample in that term.
    """

    total_updates: Number
    learning_rate: Number = 1e-3
    learning_rate_decay: Number = 1.0
    discount: Number = 0.99
    gae_lambda: Number = 0.95
    clip_epsilon: Number = 0.2
    policy_coefficient: Number = 1.0
    entropy_coefficient: Number = 0.01
    entropy_decay: Number = 0.0
    value_coefficient: Number = 0.5
    max_grad_norm: Number = 0.5
    expert_weight: Number = 0.0
    expert_decay_updates: Number = 1.0
    expert_adapt_below: Number = 0.1
    expert_entropy: Number = 0.0
    expert_temperature: Number = 1.0
    expert_max_sample_weight: Number = 20.0


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """What fixes shapes and program: static under jit.

    Attributes:
        num_envs: parallel environments, `E`.
        rollout_steps: steps per environment and update, `T`.
        updates_per_chunk: updates in one dispatch.
        epochs: passes over each rollout.
        minibatches: parts that each pass is cut into: of the samples, or of the environments where policies remember.
        expert_batch_size: expert samples per agent and minibatch.
        expert_schedule: a key of `leed_jax.objectives.SCHEDULES`.
        expert_term: `likelihood`, `advantage` or `surrogate`; see `leed_jax.learning.loss.expert_loss`.
        expert_adapt: `none`, `return_gap` or `dtw`; see `leed_jax.learning.expert_weight`.

    Raises:
        ConfigurationError: the samples of an update cannot be cut into that many minibatches of equal size.
    """

    num_envs: int = 128
    rollout_steps: int = 26
    updates_per_chunk: int = 10
    epochs: int = 4
    minibatches: int = 4
    expert_batch_size: int = 256
    expert_schedule: str = "linear"
    expert_term: str = "likelihood"
    expert_adapt: str = "none"

    def __post_init__(self) -> None:
        if self.minibatches < 1 or self.steps_per_update % self.minibatches:
            raise ConfigurationError(
                f"An update has num_envs x rollout_steps = {self.steps_per_update} samples, which cannot be cut into "
                f"minibatches={self.minibatches} equal parts; choose a divisor."
            )

    @property
    def steps_per_update(self) -> int:
        """Environment steps in one update."""
        return self.num_envs * self.rollout_steps
