"""What the expert term learns from: tables of samples to draw from, or plans to ask; and what to measure oneself by."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from leed_jax.instructions import Plan, Trajectory


@struct.dataclass
class Outcome:
    """What came of an expert's steps.

    Attributes:
        reward: what the agent earned.
        active: whether it took part in the step.
        terminated: whether the step ended its task.
        undisturbed: whether it did what it is to imitate, so that what came of it says something about that.
    """

    reward: Float[Array, "*B"]
    active: Bool[Array, "*B"]
    terminated: Bool[Array, "*B"]
    undisturbed: Bool[Array, "*B"]


@struct.dataclass
class ExpertSamples:
    """Demonstrations as sequences to draw, `M` of them: single steps (`L` is 1), or whole episodes.

    Attributes:
        observation: what each agent saw.
        available_actions: what it could do.
        action: what it is to imitate, `[L, M, A]`, or `[L, M, A, N]` where actions are continuous.
        usable: whether it can learn from the step.
        rows: for each agent the sequences that it can learn from, in order; past `count` of them, padding.
        count: how many those are.
        outcome: what came of the steps, `[L, M, A]`; None for single steps.
    """

    observation: Float[Array, "L M A O"]
    available_actions: Bool[Array, "L M A N"]
    action: Array
    usable: Bool[Array, "L M A"]
    rows: Int[Array, "A M"]
    count: Int[Array, "A"]
    outcome: Outcome | None = None


@struct.dataclass
class ReferenceEpisodes:
    """Some of an expert's episodes, as many as will be compared, `K`.

    Attributes:
        observation: what each agent saw.
        length: how many steps there are for each agent; what comes after is padding.
        apart: how far two of them lie apart, on average, for each agent; see `expert_weight.reference_episodes`.
    """

    observation: Float[Array, "K T A O"]
    length: Int[Array, "K A"]
    apart: Float[Array, "A"]


@struct.dataclass
class Yardstick:
    """What an expert does by itself, for a weight that goes by how far the learners still are from that.

    Attributes:
        returns: what it earns, each agent's undiscounted return.
        episodes: some of its episodes; None if only returns are compared.
    """

    returns: Float[Array, "A"]
    episodes: ReferenceEpisodes | None = None


@struct.dataclass
class Experts:
    """What the expert term learns from; one of `samples` and `plans` is there.

    Attributes:
        samples: demonstrations to draw from.
        plans: plans that are asked in the learners' own states, stacked on a leading axis `P`.
        yardstick: what the expert does by itself; None if no weight goes by it.
    """

    samples: ExpertSamples | None = None
    plans: Plan | None = None
    yardstick: Yardstick | None = None


@struct.dataclass
class ExpertBatch:
    """Sequences drawn from them, agents first; `weight` is 0 for what an agent cannot learn from."""

    observation: Float[Array, "A L S O"]
    available_actions: Bool[Array, "A L S N"]
    action: Array
    weight: Float[Array, "A L S"]
    outcome: Outcome | None = None


@jax.jit
def expert_samples(demonstrations: Trajectory) -> ExpertSamples:
    """Arrange demonstrations as a table of single steps, to draw samples from.

    Steps in which an agent took no part are not drawn for it, and neither is an action that was not available, which no
    policy can imitate. Rows go through all episodes step by step: that is the order in which a scan over time leaves
    them in memory, so that executing and arranging in one jit needs room for the tables alone.

    Args:
        demonstrations: episodes with one leading axis, `[N, T, ...]`.
    """
    usable = _rows(_usable(demonstrations))
    return ExpertSamples(
        observation=_rows(demonstrations.observation)[None],
        available_actions=_rows(demonstrations.available_actions)[None],
        action=_rows(demonstrations.action)[None],
        usable=usable[None],
        rows=jax.vmap(_positions)(usable.T),
        count=jnp.sum(usable, axis=0, dtype=jnp.int32),
    )


@jax.jit
def expert_episodes(demonstrations: Trajectory) -> ExpertSamples:
    """Arrange demonstrations as whole episodes to draw, for recurrent policies and for terms that ask what followed.

    Args:
        demonstrations: episodes with one leading axis, `[N, T, ...]`.
    """
    usable = jnp.moveaxis(_usable(demonstrations), 1, 0)
    worth_drawing = jnp.any(usable, axis=0)
    same = demonstrations.action == demonstrations.taken
    undisturbed = jnp.all(same.reshape(*demonstrations.active.shape, -1), axis=-1)
    return ExpertSamples(
        observation=jnp.moveaxis(demonstrations.observation, 1, 0),
        available_actions=jnp.moveaxis(demonstrations.available_actions, 1, 0),
        action=jnp.moveaxis(demonstrations.action, 1, 0),
        usable=usable,
        rows=jax.vmap(_positions)(worth_drawing.T),
        count=jnp.sum(worth_drawing, axis=0, dtype=jnp.int32),
        outcome=Outcome(
            reward=jnp.moveaxis(demonstrations.reward, 1, 0),
            active=jnp.moveaxis(demonstrations.active, 1, 0),
            terminated=jnp.moveaxis(demonstrations.terminated, 1, 0),
            undisturbed=jnp.moveaxis(undisturbed, 1, 0),
        ),
    )


def _usable(demonstrations: Trajectory) -> Bool[Array, "N T A"]:
    """Which steps an agent took part in with an action that it could take; continuous ones are always possible."""
    action = demonstrations.action
    if jnp.issubdtype(action.dtype, jnp.floating):
        return demonstrations.active
    possible = jnp.take_along_axis(demonstrations.available_actions, action[..., None], axis=-1)
    return demonstrations.active & jnp.squeeze(possible, axis=-1)


def _rows(x: Array) -> Array:
    """Turn `[N, T, A, ...]` into `[T * N, A, ...]`."""
    return jnp.moveaxis(x, 1, 0).reshape(-1, *x.shape[2:])


def _positions(wanted: Bool[Array, "M"]) -> Int[Array, "M"]:
    """Where `wanted` is true, in order and padded with zeros."""
    size = wanted.shape[0]
    target = jnp.where(wanted, jnp.cumsum(wanted) - 1, size)
    return jnp.zeros(size, jnp.int32).at[target].set(jnp.arange(size, dtype=jnp.int32), mode="drop")


def sample_experts(experts: ExpertSamples, key: PRNGKeyArray, size: int) -> ExpertBatch:
    """Draw from the sequences that each agent can learn from, with replacement; `key` is consumed.

    Agents that can use the same ones get the same ones.

    Args:
        experts: the table.
        key: source of the draws.
        size: the number of steps to draw, about: as many whole sequences as have so many, and at least one.
    """
    length = experts.observation.shape[0]
    size = max(1, size // length)
    draws = jax.vmap(lambda count: jax.random.randint(key, (size,), 0, jnp.maximum(count, 1)))(experts.count)
    rows, agents = jnp.take_along_axis(experts.rows, draws, axis=1), jnp.arange(draws.shape[0])[:, None]

    def pick(x: Array) -> Array:
        return jnp.moveaxis(x[:, rows, agents], 0, 1)

    usable = pick(experts.usable) & (experts.count > 0)[:, None, None]
    return ExpertBatch(
        observation=pick(experts.observation),
        available_actions=pick(experts.available_actions),
        action=pick(experts.action),
        weight=usable.astype(jnp.float32),
        outcome=jax.tree.map(pick, experts.outcome),
    )
