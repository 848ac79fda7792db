"""The weight of the expert term: its schedule, and how far the learners still are from their expert."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from leed_jax.errors import ConfigurationError
from leed_jax.instructions import Trajectory
from leed_jax.learning.config import Hparams
from leed_jax.learning.experts import ExpertReference, Experts, ReferenceEpisodes
from leed_jax.learning.rollout import Rollout
from leed_jax.objectives import dynamic_time_warping, expert_weight, remaining_share

# The rate of the moving average. A single rollout is too noisy; the average lags about ten updates behind.
_RATE = 0.1

# By how many standard errors an expert has to be ahead in some rollout before it is imitated. Otherwise chance would
# put one that is no better than the initial policy ahead in the first updates, and imitating it does lasting harm.
_STANDARD_ERRORS = 3.0


@struct.dataclass
class ExpertGap:
    """How far each learner is behind its expert.

    Attributes:
        mean: moving average of the gap.
        largest: the largest gap so far that is statistically significant; 0 as long as there is none.
        measured: whether there has been a measurement.
        reference_returns: the returns of the expert that it was measured against; with another expert it starts anew.
    """

    mean: Float[Array, "A"]
    largest: Float[Array, "A"]
    measured: Bool[Array, "A"]
    reference_returns: Float[Array, "A"]

    @classmethod
    def init(cls, num_agents: int) -> "ExpertGap":
        """No measurement yet."""
        # An array for each field: a state in which one array occurs twice cannot be donated.
        mean, largest, returns = (jnp.zeros(num_agents) for _ in range(3))
        return cls(mean, largest, jnp.zeros(num_agents, bool), returns)

    def share(self, below: Float[Array, ""] | float) -> Float[Array, "A"]:
        """The share of the gap that is left, see `remaining_share`; 0 before the first measurement.

        Where rollouts are shorter than episodes the first measurement takes some updates. Imitating a bad expert in the
        meantime does lasting harm, and waiting for a good one costs these updates.
        """
        return jnp.where(self.measured, remaining_share(self.mean, self.largest, below), 0.0)

    def add(
        self, distance: Float[Array, "A"], error: Float[Array, "A"] | float, known: Bool[Array, "A"]
    ) -> "ExpertGap":
        """Add a measurement with its standard error, for the agents for which there is one."""
        mean = jnp.where(self.measured, self.mean + _RATE * (distance - self.mean), distance)
        largest = jnp.where(self.measured, self.largest, 0.0)
        return ExpertGap(
            mean=jnp.where(known, mean, self.mean),
            largest=jnp.where(known, jnp.maximum(largest, distance - _STANDARD_ERRORS * error), largest),
            measured=self.measured | known,
            reference_returns=self.reference_returns,
        )

    def for_reference(self, reference: ExpertReference) -> "ExpertGap":
        """The same if it was measured against this expert; else without a measurement."""
        changed = jnp.any(self.reference_returns != reference.returns)
        return self.replace(  # type: ignore[attr-defined]
            measured=self.measured & ~changed, reference_returns=reference.returns
        )


def update_gap(gap: ExpertGap, adapt: str, experts: Experts | None, rollout: Rollout) -> ExpertGap:
    """Measure the gap in a rollout.

    Args:
        gap: the measurements so far.
        adapt: `return_gap`, the expert's return minus the learner's in the episodes that ended; `dtw`, see
            `trajectory_gap`; or `none`. Static.
        experts: the expert data; None for algorithms without an expert term.
        rollout: the learners' experience.

    Raises:
        ConfigurationError: the weight is adaptive, and the experts have no reference.
    """
    if adapt == "none" or experts is None:
        return gap
    reference = experts.reference
    if reference is None or (adapt == "dtw" and reference.episodes is None):
        raise ConfigurationError(
            f"expert.adapt={adapt} compares learners with what the expert achieves alone: give the Experts a reference"
            f"{' with episodes' if adapt == 'dtw' else ''}, or use expert.adapt=none."
        )
    gap = gap.for_reference(reference)
    if reference.episodes is not None and adapt == "dtw":
        distance, known = trajectory_gap(reference.episodes, rollout)
        return gap.add(distance, 0.0, known)
    return _add_return_gap(gap, reference, rollout)


def _add_return_gap(gap: ExpertGap, reference: ExpertReference, rollout: Rollout) -> ExpertGap:
    done = rollout.done[..., None]
    episodes, total = rollout.finished_returns()
    own = total / jnp.maximum(episodes, 1)
    square = jnp.sum(jnp.where(done, (rollout.episode_return - own) ** 2, 0.0), axis=(0, 1))
    # A single episode says nothing about the spread: its error counts as 0.
    error = jnp.sqrt(square / jnp.maximum(episodes - 1, 1) / jnp.maximum(episodes, 1))
    return gap.add(reference.returns - own, error, jnp.broadcast_to(episodes > 0, gap.measured.shape))


def weight_of_agents(
    gap: ExpertGap, experts: Experts | None, update: Float[Array, ""], hparams: Hparams
) -> Float[Array, "A"]:
    """The weight of each agent's expert term at an update: the schedule times the agent's share of the gap.

    Args:
        gap: the measurements so far.
        experts: the expert data; the weight is 0 without.
        update: the number of updates since schedules started.
        hparams: schedule, weight and adaptation.
    """
    expert = hparams.expert
    weight = expert_weight(expert.schedule, expert.weight, update, expert.decay_fraction * hparams.total_updates)
    share = jnp.ones_like(gap.mean) if expert.adapt == "none" else gap.share(expert.adapt_below)
    return (0.0 if experts is None else weight) * share


def reference_episodes(demonstrations: Trajectory) -> ReferenceEpisodes:
    """An expert's episodes to compare with, and the mean distance of each from the next.

    Args:
        demonstrations: at least two episodes with one leading axis, `[K, T, ...]`.
    """
    obs, length = demonstrations.observation, jnp.sum(demonstrations.active, axis=1, dtype=jnp.int32)
    distance = _distances(obs, jnp.roll(obs, -1, axis=0), length, jnp.roll(length, -1, axis=0))
    return ReferenceEpisodes(obs, length, jnp.mean(distance, axis=0))


def trajectory_gap(expert: ReferenceEpisodes, rollout: Rollout) -> tuple[Float[Array, "A"], Bool[Array, "A"]]:
    """How much farther apart learner and expert are than two episodes of the expert, for each agent.

        d_i = mean_k DTW(x_k, y_k) - mean_k DTW(y_k, y_{k+1})

    Here x_k are agent i's observations in environment k, from the start of the rollout to the agent's end in that
    episode, and y_k its observations in the expert's episode k. The second term is there because episodes with
    different initial states differ even if the agents behave alike. Only episodes that start with the rollout are
    compared; it has to be long enough for them to end in it.

    Source: the use of the distance is that of RELED (arXiv 2511.19368); the second term is this project's.

    Returns:
        The distances, and which agents have one: an agent without an episode that starts with the rollout has none.
    """
    count = expert.obs.shape[0]
    own = jnp.moveaxis(rollout.obs[:, :count], 1, 0)
    ended = rollout.done[:, :count, None] | rollout.terminated[:, :count]
    length = jnp.where(jnp.any(ended, axis=0), 1 + jnp.argmax(ended, axis=0), ended.shape[0]).astype(jnp.int32)
    distance = _distances(own, expert.obs, length, expert.length)
    compared = rollout.active[0, :count] & rollout.is_first[0, :count, None]
    number = jnp.sum(compared, axis=0)
    mean = jnp.sum(jnp.where(compared, distance, 0.0), axis=0) / jnp.maximum(number, 1)
    return mean - expert.mean_distance, number > 0


def _distances(
    left: Float[Array, "K M A O"],
    right: Float[Array, "K N A O"],
    left_length: Int[Array, "K A"],
    right_length: Int[Array, "K A"],
) -> Float[Array, "K A"]:
    """The distance of each pair, for each agent."""
    over_agents = jax.vmap(dynamic_time_warping, in_axes=(1, 1, 0, 0))
    return jax.vmap(over_agents)(left, right, left_length, right_length)
