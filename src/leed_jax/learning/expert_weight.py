"""How far the learners still are from their expert: what an adaptive weight of the expert term goes by."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from leed_jax.instructions import Trajectory
from leed_jax.learning.experts import ReferenceEpisodes, Yardstick
from leed_jax.learning.rollout import Rollout
from leed_jax.objectives import dynamic_time_warping, remaining_share

# Of each new measurement; one rollout alone says too little. So the mean lags about ten updates behind.
_SMOOTHING = 0.1

# By as many standard errors an expert has to be ahead in some rollout before it is followed. Without that, chance would
# put one that is no better than the first policy ahead for the first updates, which do lasting harm.
_CERTAIN = 3.0


@struct.dataclass
class Gap:
    """How far each learner is from its expert, on average over the last updates, and how far it certainly has been.

    Attributes:
        now: the distance now.
        widest: the largest that chance does not explain; 0 as long as there is none.
        measured: whether there has been one.
        against: the return of the expert that it was measured against; with another expert it starts again.
    """

    now: Float[Array, "A"]
    widest: Float[Array, "A"]
    measured: Bool[Array, "A"]
    against: Float[Array, "A"]

    @classmethod
    def unknown(cls, num_agents: int) -> "Gap":
        """Nothing measured yet."""
        # An array for each: a state whose arrays are one and the same cannot be donated.
        now, widest, against = (jnp.zeros(num_agents) for _ in range(3))
        return cls(now, widest, jnp.zeros(num_agents, bool), against)

    def share(self, below: Float[Array, ""] | float) -> Float[Array, "A"]:
        """What is left to learn, see `remaining_share`; nothing as long as nothing has been measured.

        Where rollouts are shorter than episodes, that takes some updates. To follow a bad expert meanwhile does harm
        that lasts, and to wait for a good one costs these updates.
        """
        return jnp.where(self.measured, remaining_share(self.now, self.widest, below), 0.0)

    def with_measurement(
        self, distance: Float[Array, "A"], error: Float[Array, "A"] | float, known: Bool[Array, "A"]
    ) -> "Gap":
        """Take in another measurement, with its standard error, for the agents for which there is one."""
        smoothed = jnp.where(self.measured, self.now + _SMOOTHING * (distance - self.now), distance)
        before = jnp.where(self.measured, self.widest, 0.0)
        return Gap(
            now=jnp.where(known, smoothed, self.now),
            widest=jnp.where(known, jnp.maximum(before, distance - _CERTAIN * error), before),
            measured=self.measured | known,
            against=self.against,
        )

    def facing(self, yardstick: Yardstick) -> "Gap":
        """The same if it was measured against this expert, and nothing measured yet if against another one."""
        changed = jnp.any(self.against != yardstick.returns)
        return self.replace(measured=self.measured & ~changed, against=yardstick.returns)  # type: ignore[attr-defined]


def measure_gap(gap: Gap, adapt: str, yardstick: Yardstick | None, rollout: Rollout) -> Gap:
    """Measure the distance in a rollout.

    Args:
        gap: what was measured before.
        adapt: `return_gap`, the expert's return less the learner's own in the episodes that ended; `dtw`, by how much
            episodes of learner and expert lie further apart than two of the expert's do; or `none`. Static.
        yardstick: what the expert does by itself.
        rollout: what the learners did.
    """
    if adapt == "return_gap" and yardstick is not None:
        return _return_gap(gap.facing(yardstick), yardstick, rollout)
    if adapt == "dtw" and yardstick is not None and yardstick.episodes is not None:
        distance, known = trajectory_gap(yardstick.episodes, rollout)
        return gap.facing(yardstick).with_measurement(distance, 0.0, known)
    return gap


def _return_gap(gap: Gap, yardstick: Yardstick, rollout: Rollout) -> Gap:
    ended = rollout.episode_over[..., None]
    episodes = jnp.sum(ended)
    own = jnp.sum(jnp.where(ended, rollout.episode_return, 0.0), axis=(0, 1)) / jnp.maximum(episodes, 1)
    square = jnp.sum(jnp.where(ended, (rollout.episode_return - own) ** 2, 0.0), axis=(0, 1))
    # One episode tells nothing of the spread, and is taken as it is.
    error = jnp.sqrt(square / jnp.maximum(episodes - 1, 1) / jnp.maximum(episodes, 1))
    return gap.with_measurement(yardstick.returns - own, error, jnp.broadcast_to(episodes > 0, gap.measured.shape))


def reference_episodes(demonstrations: Trajectory) -> ReferenceEpisodes:
    """An expert's episodes to compare with, and how far each of them lies from the next one.

    Args:
        demonstrations: at least two episodes with one leading axis, `[K, T, ...]`.
    """
    shown, length = demonstrations.observation, jnp.sum(demonstrations.active, axis=1, dtype=jnp.int32)
    apart = _distances(shown, jnp.roll(shown, -1, axis=0), length, jnp.roll(length, -1, axis=0))
    return ReferenceEpisodes(shown, length, jnp.mean(apart, axis=0))


def trajectory_gap(expert: ReferenceEpisodes, rollout: Rollout) -> tuple[Float[Array, "A"], Bool[Array, "A"]]:
    """By how much learner and expert lie further apart than two episodes of the expert's do, for each agent.

        d_i = mean_k DTW(x_k, y_k) - mean_k DTW(y_k, y_{k+1})

    with x_k what agent i saw in environment k from the start of the rollout to its own end in that episode, and y_k
    what it saw in the expert's episode k. Episodes that start in different places lie apart even if the agents behave
    alike, hence the second term. Only episodes that start with the rollout are compared; it has to be long enough for
    them to end in it.

    Source: the use of the distance is that of RELED (arXiv 2511.19368); the second term is this project's.

    Returns:
        The distances, and for which agents there are any: one that begins no episode with the rollout has none.
    """
    count, size = expert.observation.shape[0], expert.observation.shape[-1]
    own = jnp.moveaxis(rollout.seen[:, :count, :, :size], 1, 0)
    over = rollout.episode_over[:, :count, None] | rollout.terminated[:, :count]
    steps = jnp.where(jnp.any(over, axis=0), 1 + jnp.argmax(over, axis=0), over.shape[0]).astype(jnp.int32)
    distance = _distances(own, expert.observation, steps, expert.length)
    there = rollout.active[0, :count] & rollout.start[0, :count, None]
    number = jnp.sum(there, axis=0)
    mean = jnp.sum(jnp.where(there, distance, 0.0), axis=0) / jnp.maximum(number, 1)
    return mean - expert.apart, number > 0


def _distances(
    left: Float[Array, "K M A O"],
    right: Float[Array, "K N A O"],
    left_length: Int[Array, "K A"],
    right_length: Int[Array, "K A"],
) -> Float[Array, "K A"]:
    """The distance of each pair, for each agent."""
    over_agents = jax.vmap(dynamic_time_warping, in_axes=(1, 1, 0, 0))
    return jax.vmap(over_agents)(left, right, left_length, right_length)
