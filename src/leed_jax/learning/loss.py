"""One agent's loss: PPO's on its own experience, and the expert's on its demonstrations."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from leed_jax.learning.experts import ExpertBatch
from leed_jax.learning.hyper import Hyper
from leed_jax.learning.rollout import Rollout
from leed_jax.networks.policy import ActionDistribution, Memory, Policy, PolicyParameters
from leed_jax.objectives import (
    advantage_weighted_loss,
    approximate_kl,
    clipped_surrogate_loss,
    generalised_advantages,
    negative_log_likelihood,
    normalise,
    value_loss,
    weighted_mean,
)

Metrics = dict[str, Array]


@struct.dataclass
class Standing:
    """What an agent brings into an update, agents first.

    Attributes:
        agent: its number.
        earlier: its parameters at the beginning of the update.
        expert_weight: the weight of its expert term.
    """

    agent: Int[Array, "A"]
    earlier: PolicyParameters
    expert_weight: Float[Array, "A"]


@struct.dataclass
class AgentBatch:
    """Sequences of a rollout, agents first: `S` of length `L`, which is 1 where policies remember nothing.

    Attributes:
        seen: what the actor was given.
        available_actions: what the agent could do.
        action: what it did.
        log_prob: the log-probability of that under the acting policy.
        advantage: the advantage of that.
        target: what its critic is to estimate.
        weight: 1 where the agent took part, else 0.
        start: where an episode starts.
        instructed_action: what its instructions would have had it do; None where there are none.
        memory: what its networks remembered at the beginning, `[A, S, H]`; None for feed-forward ones.
    """

    seen: Float[Array, "A L S P"]
    available_actions: Bool[Array, "A L S N"]
    action: Array
    log_prob: Float[Array, "A L S"]
    advantage: Float[Array, "A L S"]
    target: Float[Array, "A L S"]
    weight: Float[Array, "A L S"]
    start: Bool[Array, "A L S"]
    instructed_action: Array | None
    memory: Memory | None


def agent_batches(
    rollout: Rollout, memory: Memory | None, hyper: Hyper
) -> tuple[AgentBatch, Float[Array, "L S Q"] | None]:
    """Compute advantages and lay a rollout out by agent.

    Args:
        rollout: what the agents did.
        memory: what their networks remembered when it began, `[E, A, H]`; None for feed-forward ones, whose samples
            are taken one by one.
        hyper: discount and lambda.

    Returns:
        The agents' sequences, and what central critics saw meanwhile, without an axis of agents; None without such.
    """
    # For an agent that has terminated the episode is over, even while others go on.
    over = rollout.episode_over[..., None] | rollout.terminated
    sequences = (rollout.reward, rollout.value, rollout.next_value, rollout.terminated, over)
    estimate = functools.partial(generalised_advantages, discount=hyper.discount, gae_lambda=hyper.gae_lambda)
    advantage = jax.vmap(jax.vmap(estimate, in_axes=1, out_axes=1), in_axes=1, out_axes=1)(*sequences)

    def arrange(x: Array) -> Array:
        # [T, E, A, ...] becomes [A, T, E, ...], or [A, 1, T * E, ...].
        x = jnp.moveaxis(x, 2, 0)
        return x if memory is not None else x.reshape(x.shape[0], 1, -1, *x.shape[3:])

    batch = AgentBatch(
        seen=arrange(rollout.seen),
        available_actions=arrange(rollout.available_actions),
        action=arrange(rollout.action),
        log_prob=arrange(rollout.log_prob),
        advantage=arrange(advantage),
        target=arrange(advantage + rollout.value),
        weight=arrange(rollout.active.astype(jnp.float32)),
        start=arrange(jnp.broadcast_to(rollout.start[..., None], rollout.active.shape)),
        instructed_action=None if rollout.instructed_action is None else arrange(rollout.instructed_action),
        memory=jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), memory),
    )
    everything = rollout.seen_by_all
    return batch, None if everything is None else arrange(everything[:, :, None])[0]


def agent_loss(
    policy: Policy,
    term: str,
    parameters: PolicyParameters,
    standing: Standing,
    batch: AgentBatch,
    seen_by_all: Float[Array, "L S Q"] | None,
    expert: ExpertBatch | None,
    hyper: Hyper,
) -> tuple[Float[Array, ""], Metrics]:
    """One agent's whole loss on its own minibatch.

        L = c_p L_clip + c_v L_value - c_h H + w (L_expert - c_e H)

    The first three terms are PPO's (Schulman et al. 2017, arXiv 1707.06347, equation 9), with c_p = 1 but for imitation
    alone; the fourth is the expert loss, after the confidence penalty of Pereyra et al. 2017 (arXiv 1701.06548, section
    3), but in the learner's own states whatever the source. Imitation takes the entropy that PPO would need to find out
    that another action is better than the expert's; the penalty leaves some, and is gone when the weight w is.

    Args:
        policy: the networks; static.
        term: the form of the expert term, see `expert_loss`; static.
        parameters: the agent's parameters.
        standing: what else it brings into the update, without the axis of agents, as all that follows.
        batch: its sequences.
        seen_by_all: what central critics saw meanwhile; None without such.
        expert: its demonstrations; None if there are none, or if the batch holds instructed actions.
        hyper: the coefficients.
    """
    actor_memory, critic_memory = (None, None) if batch.memory is None else (batch.memory.actor, batch.memory.critic)
    _, choice = policy.act(parameters, actor_memory, batch.seen, batch.available_actions, batch.start)
    seen = batch.seen if seen_by_all is None else seen_by_all
    _, value = policy.value(parameters, critic_memory, seen, batch.start, standing.agent)
    weight, behaviour = batch.weight.ravel(), batch.log_prob.ravel()
    log_prob, entropy = choice.log_prob(batch.action).ravel(), weighted_mean(choice.entropy().ravel(), weight)
    advantage = normalise(batch.advantage.ravel(), weight)
    metrics = {
        "surrogate_loss": clipped_surrogate_loss(log_prob, behaviour, advantage, hyper.clip_epsilon, weight),
        "value_loss": value_loss(value.ravel(), batch.target.ravel(), weight),
        "entropy": entropy,
        "approximate_kl": approximate_kl(log_prob, behaviour, weight),
    }
    loss = hyper.policy_coefficient * metrics["surrogate_loss"] + hyper.value_coefficient * metrics["value_loss"]
    loss = loss - hyper.entropy_coefficient * entropy
    bonus = hyper.expert_entropy * entropy
    if batch.instructed_action is not None:
        metrics["expert_loss"] = _instructed_loss(choice, batch)
    elif expert is not None:
        metrics["expert_loss"] = expert_loss(policy, term, parameters, standing, expert, hyper)
        # An agent without demonstrations learns as it would without the term.
        bonus = jnp.where(jnp.any(expert.weight > 0), bonus, 0.0)
    if "expert_loss" in metrics:
        loss = loss + standing.expert_weight * (metrics["expert_loss"] - bonus)
    return loss, metrics


def _instructed_loss(choice: ActionDistribution, batch: AgentBatch) -> Float[Array, ""]:
    """The negative log-likelihood of what the instructions say in the learner's own states.

    The distributions are known there already: this source costs no pass through the networks.
    """
    action, weight = batch.instructed_action, batch.weight
    assert action is not None  # noqa: S101 - the caller has seen to it
    if not jnp.issubdtype(action.dtype, jnp.floating):
        possible = jnp.take_along_axis(batch.available_actions, action[..., None], axis=-1)
        weight = weight * jnp.squeeze(possible, axis=-1)
    return negative_log_likelihood(choice.log_prob(action).ravel(), weight.ravel())


def expert_loss(
    policy: Policy,
    term: str,
    parameters: PolicyParameters,
    standing: Standing,
    expert: ExpertBatch,
    hyper: Hyper,
) -> Float[Array, ""]:
    """One agent's loss on its demonstrations.

    Args:
        policy: the networks; static.
        term: `likelihood`, behaviour cloning; `advantage`, advantage-weighted regression with the learner's own critic;
            or `surrogate`, PPO's clipped surrogate. Nobody knows with what probability an expert acts that follows
            instructions; what stands for it is the learner's own probability at the beginning of the update, so that
            the ratio starts at 1 and the clip bounds how far one update moves the policy. Static.
        parameters: the agent's parameters.
        standing: what else it brings into the update.
        expert: its demonstrations.
        hyper: the coefficients.
    """
    nothing = jnp.zeros((expert.weight.shape[1], policy.memory_size)) if policy.memory_size else None
    start = jnp.zeros(expert.weight.shape, bool)
    act = functools.partial(policy.act, memory=nothing, seen=expert.observation, available=expert.available_actions)
    log_prob = act(parameters, start=start)[1].log_prob(expert.action).ravel()
    if term == "likelihood":
        return negative_log_likelihood(log_prob, expert.weight.ravel())
    value = policy.value(jax.lax.stop_gradient(parameters), nothing, expert.observation, start, standing.agent)[1]
    advantage, known = demonstrated_advantages(expert, value, hyper)
    weight = (expert.weight * known).ravel()
    if term == "advantage":
        return advantage_weighted_loss(
            log_prob, advantage.ravel(), weight, hyper.expert_temperature, hyper.expert_max_sample_weight
        )
    behaviour = act(standing.earlier, start=start)[1].log_prob(expert.action).ravel()
    return clipped_surrogate_loss(log_prob, behaviour, normalise(advantage.ravel(), weight), hyper.clip_epsilon, weight)


def demonstrated_advantages(
    expert: ExpertBatch, value: Float[Array, "L S"], hyper: Hyper
) -> tuple[Float[Array, "L S"], Bool[Array, "L S"]]:
    """Advantages of an expert's actions over the learner's own critic, and where they are known.

    They are estimated as those of the learner's own actions are. What an episode's last action led to is not recorded:
    unless it ended the agent's task, its advantage is not known, and the step before it bootstraps from its value. Nor
    is that of an action in whose place noise put another one. Noise in later steps is part of what followed.

    Args:
        expert: whole episodes, without the axis of agents.
        value: the learner's estimates for their states.
        hyper: discount and lambda.
    """
    assert expert.outcome is not None  # noqa: S101 - as whole episodes have it
    active, terminated, reward = expert.outcome.active, expert.outcome.terminated, expert.outcome.reward
    last = active & ~jnp.concatenate([active[1:], jnp.zeros_like(active[:1])])
    unknown = last & ~terminated
    following = jnp.concatenate([value[1:], jnp.zeros_like(value[:1])])
    # With its value for reward, the last step has advantage 0, and adds nothing to those before it.
    reward = jnp.where(unknown, value, reward)
    following = jnp.where(unknown, 0.0, following)
    estimate = functools.partial(generalised_advantages, discount=hyper.discount, gae_lambda=hyper.gae_lambda)
    advantage: Any = jax.vmap(estimate, in_axes=1, out_axes=1)(reward, value, following, terminated, last)
    return advantage, active & ~unknown & expert.outcome.undisturbed
