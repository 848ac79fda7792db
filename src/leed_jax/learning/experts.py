"""The data of the expert term: demonstrations to sample, or plans to execute in the learners' own states."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from leed_jax.instructions import Plan, Trajectory


@struct.dataclass
class ExpertOutcome:
    """What followed an expert's steps.

    Attributes:
        reward: the reward.
        active: whether the agent took part in the step.
        terminated: whether the agent terminated with it.
        executed: whether the action to imitate was the one that was executed; noise may have replaced it.
    """

    reward: Float[Array, "*B"]
    active: Bool[Array, "*B"]
    terminated: Bool[Array, "*B"]
    executed: Bool[Array, "*B"]


@struct.dataclass
class ExpertSamples:
    """`M` demonstrated sequences of length `L`: single steps (`L` is 1), or whole episodes.

    Attributes:
        obs: each agent's observation.
        available_actions: which actions it could take.
        action: the action to imitate, `[L, M, A]`, or `[L, M, A, N]` where actions are continuous.
        valid: whether the agent can learn from the step.
        rows: for each agent the indices of the sequences that it can learn from; after `count` of them, padding.
        count: the number of those.
        outcome: what followed, `[L, M, A]`; None for single steps.
    """

    obs: Float[Array, "L M A O"]
    available_actions: Bool[Array, "L M A N"]
    action: Array
    valid: Bool[Array, "L M A"]
    rows: Int[Array, "A M"]
    count: Int[Array, "A"]
    outcome: ExpertOutcome | None = None


@struct.dataclass
class ReferenceEpisodes:
    """`K` episodes of an expert to compare with.

    Attributes:
        obs: each agent's observations.
        length: the number of steps of each agent; the rest is padding.
        mean_distance: the mean distance between two of them, for each agent; see `expert_weight.reference_episodes`.
    """

    obs: Float[Array, "K T A O"]
    length: Int[Array, "K A"]
    mean_distance: Float[Array, "A"]


@struct.dataclass
class ExpertReference:
    """What an expert achieves when it acts alone; an adaptive weight of the expert term compares learners with it.

    Attributes:
        returns: each agent's mean undiscounted return.
        episodes: some of its episodes; None if only returns are compared.
    """

    returns: Float[Array, "A"]
    episodes: ReferenceEpisodes | None = None


@struct.dataclass
class Experts:
    """The data of the expert term: either `samples` or `plans`.

    Attributes:
        samples: demonstrations to sample.
        plans: plans to execute in the learners' own states, stacked on a leading axis `P`.
        reference: what the expert achieves alone; None if the weight is not adaptive.
    """

    samples: ExpertSamples | None = None
    plans: Plan | None = None
    reference: ExpertReference | None = None


@struct.dataclass
class ExpertBatch:
    """`S` sampled sequences for each agent; `weight` is 0 for steps that the agent cannot learn from."""

    obs: Float[Array, "A L S O"]
    available_actions: Bool[Array, "A L S N"]
    action: Array
    weight: Float[Array, "A L S"]
    outcome: ExpertOutcome | None = None


@jax.jit
def expert_samples(demonstrations: Trajectory) -> ExpertSamples:
    """Arrange demonstrations as single steps to sample.

    Left out for an agent are steps in which it took no part, and actions that were not available, which no policy can
    imitate. Rows go through all episodes step by step: this is the order in which a scan over time leaves them in
    memory, so that executing and arranging them in one jitted function needs memory for the result alone.

    Args:
        demonstrations: episodes with one leading axis, `[N, T, ...]`.
    """
    valid = _rows(_valid_steps(demonstrations))
    return ExpertSamples(
        obs=_rows(demonstrations.observation)[None],
        available_actions=_rows(demonstrations.available_actions)[None],
        action=_rows(demonstrations.action)[None],
        valid=valid[None],
        rows=jax.vmap(_indices)(valid.T),
        count=jnp.sum(valid, axis=0, dtype=jnp.int32),
    )


@jax.jit
def expert_episodes(demonstrations: Trajectory) -> ExpertSamples:
    """Arrange demonstrations as whole episodes to sample, for recurrent policies and for terms that need advantages.

    Args:
        demonstrations: episodes with one leading axis, `[N, T, ...]`.
    """
    valid = jnp.moveaxis(_valid_steps(demonstrations), 1, 0)
    any_valid = jnp.any(valid, axis=0)
    same = demonstrations.action == demonstrations.taken
    executed = jnp.all(same.reshape(*demonstrations.active.shape, -1), axis=-1)
    return ExpertSamples(
        obs=jnp.moveaxis(demonstrations.observation, 1, 0),
        available_actions=jnp.moveaxis(demonstrations.available_actions, 1, 0),
        action=jnp.moveaxis(demonstrations.action, 1, 0),
        valid=valid,
        rows=jax.vmap(_indices)(any_valid.T),
        count=jnp.sum(any_valid, axis=0, dtype=jnp.int32),
        outcome=ExpertOutcome(
            reward=jnp.moveaxis(demonstrations.reward, 1, 0),
            active=jnp.moveaxis(demonstrations.active, 1, 0),
            terminated=jnp.moveaxis(demonstrations.terminated, 1, 0),
            executed=jnp.moveaxis(executed, 1, 0),
        ),
    )


def _valid_steps(demonstrations: Trajectory) -> Bool[Array, "N T A"]:
    """Steps in which an agent took part with an available action; continuous actions are always available."""
    action = demonstrations.action
    if jnp.issubdtype(action.dtype, jnp.floating):
        return demonstrations.active
    available = jnp.take_along_axis(demonstrations.available_actions, action[..., None], axis=-1)
    return demonstrations.active & jnp.squeeze(available, axis=-1)


def _rows(x: Array) -> Array:
    """Turn `[N, T, A, ...]` into `[T * N, A, ...]`."""
    return jnp.moveaxis(x, 1, 0).reshape(-1, *x.shape[2:])


def _indices(mask: Bool[Array, "M"]) -> Int[Array, "M"]:
    """The indices at which `mask` is true, in order, padded with zeros."""
    size = mask.shape[0]
    target = jnp.where(mask, jnp.cumsum(mask) - 1, size)
    return jnp.zeros(size, jnp.int32).at[target].set(jnp.arange(size, dtype=jnp.int32), mode="drop")


def sample_experts(experts: ExpertSamples, key: PRNGKeyArray, size: int) -> ExpertBatch:
    """Sample sequences that each agent can learn from, with replacement; `key` is consumed.

    Agents that can learn from the same sequences get the same ones.

    Args:
        experts: the sequences.
        key: source of the draws.
        size: the number of steps to sample; rounded down to whole sequences, and at least one of them.
    """
    length = experts.obs.shape[0]
    size = max(1, size // length)
    draws = jax.vmap(lambda count: jax.random.randint(key, (size,), 0, jnp.maximum(count, 1)))(experts.count)
    rows, agents = jnp.take_along_axis(experts.rows, draws, axis=1), jnp.arange(draws.shape[0])[:, None]

    def pick(x: Array) -> Array:
        return jnp.moveaxis(x[:, rows, agents], 0, 1)

    valid = pick(experts.valid) & (experts.count > 0)[:, None, None]
    return ExpertBatch(
        obs=pick(experts.obs),
        available_actions=pick(experts.available_actions),
        action=pick(experts.action),
        weight=valid.astype(jnp.float32),
        outcome=jax.tree.map(pick, experts.outcome),
    )
