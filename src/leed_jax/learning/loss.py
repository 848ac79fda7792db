"""One agent's loss: PPO's on its own experience, and the expert term on its demonstrations."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from leed_jax.learning.config import Hparams, PPOConfig
from leed_jax.learning.experts import ExpertBatch
from leed_jax.learning.rollout import Rollout
from leed_jax.networks.distributions import ActionDistribution
from leed_jax.networks.policy import HiddenState, Policy, PolicyParameters
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
class PolicyOutput:
    """What acting on a policy adds to a rollout.

    Attributes:
        log_prob: log-probability of the action.
        value: the critic's estimate before the step.
        next_value: its estimate for the state that the step led to, before any automatic reset.
    """

    log_prob: Float[Array, "T E A"]
    value: Float[Array, "T E A"]
    next_value: Float[Array, "T E A"]


@struct.dataclass
class AgentBatch:
    """`S` sequences of a rollout for each agent; their length `L` is 1 for feed-forward policies.

    Attributes:
        actor_input: the actor's input.
        available_actions: which actions the agent could take.
        action: the action.
        log_prob: its log-probability under the policy that acted.
        advantage: its advantage.
        target: the target of the critic.
        weight: 1 where the agent took part, else 0.
        is_first: which steps are the first of an episode.
        expert_action: the action that the agent's instructions say; None without plans.
        hidden: hidden states before the sequences, `[A, S, H]`; None for feed-forward policies.
    """

    actor_input: Float[Array, "A L S P"]
    available_actions: Bool[Array, "A L S N"]
    action: Array
    log_prob: Float[Array, "A L S"]
    advantage: Float[Array, "A L S"]
    target: Float[Array, "A L S"]
    weight: Float[Array, "A L S"]
    is_first: Bool[Array, "A L S"]
    expert_action: Array | None
    hidden: HiddenState | None


def agent_batches(
    policy: Policy, rollout: Rollout, hidden: HiddenState | None, ppo: PPOConfig
) -> tuple[AgentBatch, Float[Array, "L S Q"] | None]:
    """Compute advantages and arrange a rollout by agent.

    Args:
        policy: the networks; static.
        rollout: experience, with `PolicyOutput` as extras.
        hidden: hidden states before the rollout, `[E, A, H]`; None for feed-forward policies, whose samples are taken
            one by one.
        ppo: discount and lambda.

    Returns:
        The agents' sequences; and the global state as input of central critics, None without such critics.
    """
    output: PolicyOutput = rollout.extras
    # For an agent that has terminated the episode is over, even while others go on.
    done = rollout.done[..., None] | rollout.terminated
    sequences = (rollout.reward, output.value, output.next_value, rollout.terminated, done)
    estimate = functools.partial(generalised_advantages, discount=ppo.discount, gae_lambda=ppo.gae_lambda)
    advantage = jax.vmap(jax.vmap(estimate, in_axes=1, out_axes=1), in_axes=1, out_axes=1)(*sequences)

    def arrange(x: Array) -> Array:
        # [T, E, A, ...] becomes [A, T, E, ...], or [A, 1, T * E, ...] where samples are taken one by one.
        x = jnp.moveaxis(x, 2, 0)
        return x if hidden is not None else x.reshape(x.shape[0], 1, -1, *x.shape[3:])

    batch = AgentBatch(
        actor_input=arrange(policy.actor_input(rollout.obs)),
        available_actions=arrange(rollout.available_actions),
        action=arrange(rollout.action),
        log_prob=arrange(output.log_prob),
        advantage=arrange(advantage),
        target=arrange(advantage + output.value),
        weight=arrange(rollout.active.astype(jnp.float32)),
        is_first=arrange(jnp.broadcast_to(rollout.is_first[..., None], rollout.active.shape)),
        expert_action=None if rollout.expert_action is None else arrange(rollout.expert_action),
        hidden=jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), hidden),
    )
    global_state = policy.global_state(rollout.obs)
    return batch, None if global_state is None else arrange(global_state[:, :, None])[0]


@struct.dataclass
class AgentInputs:
    """What one agent's loss depends on, other than its parameters and batches; stacked over agents.

    Attributes:
        index: the agent's index.
        old_params: its parameters at the beginning of the update.
        expert_weight: the weight of its expert term.
    """

    index: Int[Array, "A"]
    old_params: PolicyParameters
    expert_weight: Float[Array, "A"]


def agent_loss(
    policy: Policy,
    hparams: Hparams,
    params: PolicyParameters,
    agent: AgentInputs,
    batch: AgentBatch,
    global_state: Float[Array, "L S Q"] | None,
    expert: ExpertBatch | None,
) -> tuple[Float[Array, ""], Metrics]:
    """One agent's loss on its own minibatch; all arguments without the axis of agents.

        L = c_p L_clip + c_v L_value - c_h H + w (L_expert - c_e H)

    The first three terms are PPO's (Schulman et al. 2017, arXiv 1707.06347, equation 9), with c_p = 1 except in
    behaviour cloning. The fourth is the expert term with a bonus for entropy, after the confidence penalty of Pereyra
    et al. 2017 (arXiv 1701.06548, section 3), in the learner's own states whatever the source: imitation would
    otherwise remove the entropy that PPO needs to find better actions than the expert's. The bonus vanishes with w.

    Args:
        policy: the networks; static.
        hparams: the coefficients, with the entropy coefficient of this update.
        params: the agent's parameters.
        agent: its other inputs.
        batch: its sequences.
        global_state: the input of central critics; None without such critics.
        expert: its demonstrations; None without, or if the batch holds expert actions.
    """
    ppo = hparams.ppo
    actor_hidden, critic_hidden = (None, None) if batch.hidden is None else (batch.hidden.actor, batch.hidden.critic)
    _, distribution = policy.distribution(
        params, actor_hidden, batch.actor_input, batch.available_actions, batch.is_first
    )
    critic_input = batch.actor_input if global_state is None else global_state
    _, value = policy.value(params, critic_hidden, critic_input, batch.is_first, agent.index)
    weight, old_log_prob = batch.weight.ravel(), batch.log_prob.ravel()
    log_prob = distribution.log_prob(batch.action).ravel()
    entropy = weighted_mean(distribution.entropy().ravel(), weight)
    advantage = normalise(batch.advantage.ravel(), weight)
    metrics = {
        "surrogate_loss": clipped_surrogate_loss(log_prob, old_log_prob, advantage, ppo.clip_epsilon, weight),
        "value_loss": value_loss(value.ravel(), batch.target.ravel(), weight),
        "entropy": entropy,
        "approximate_kl": approximate_kl(log_prob, old_log_prob, weight),
    }
    loss = ppo.policy_coefficient * metrics["surrogate_loss"] + ppo.value_coefficient * metrics["value_loss"]
    loss = loss - ppo.entropy_coefficient * entropy
    bonus = hparams.expert.entropy * entropy
    if batch.expert_action is not None:
        metrics["expert_loss"] = _plan_loss(distribution, batch)
    elif expert is not None:
        metrics["expert_loss"] = expert_loss(policy, hparams, params, agent, expert)
        # An agent without demonstrations learns as it would without the term.
        bonus = jnp.where(jnp.any(expert.weight > 0), bonus, 0.0)
    if "expert_loss" in metrics:
        loss = loss + agent.expert_weight * (metrics["expert_loss"] - bonus)
    return loss, metrics


def _plan_loss(distribution: ActionDistribution, batch: AgentBatch) -> Float[Array, ""]:
    """The negative log-likelihood of the actions that the plan says in the learner's own states.

    It uses distributions that are computed anyway, so this source needs no forward pass of its own.
    """
    action, weight = batch.expert_action, batch.weight
    assert action is not None  # noqa: S101 - checked by the caller
    if not jnp.issubdtype(action.dtype, jnp.floating):
        available = jnp.take_along_axis(batch.available_actions, action[..., None], axis=-1)
        weight = weight * jnp.squeeze(available, axis=-1)
    return negative_log_likelihood(distribution.log_prob(action).ravel(), weight.ravel())


def expert_loss(
    policy: Policy, hparams: Hparams, params: PolicyParameters, agent: AgentInputs, expert: ExpertBatch
) -> Float[Array, ""]:
    """One agent's loss on its demonstrations, in one of three forms (`hparams.expert.term`).

    - `likelihood`: behaviour cloning.
    - `advantage`: advantage-weighted regression with the learner's own critic.
    - `surrogate`: PPO's clipped surrogate. The expert's action probabilities are unknown; the learner's at the
      beginning of the update take their place, so that the ratio starts at 1 and the clip bounds the change.

    Args:
        policy: the networks; static.
        hparams: the coefficients.
        params: the agent's parameters.
        agent: its other inputs.
        expert: its demonstrations.
    """
    hidden = jnp.zeros((expert.weight.shape[1], policy.hidden_state_size)) if policy.hidden_state_size else None
    is_first = jnp.zeros(expert.weight.shape, bool)

    def log_prob_of(params: PolicyParameters) -> Float[Array, "B"]:
        distribution = policy.distribution(params, hidden, expert.obs, expert.available_actions, is_first)[1]
        return distribution.log_prob(expert.action).ravel()

    log_prob, settings = log_prob_of(params), hparams.expert
    if settings.term == "likelihood":
        return negative_log_likelihood(log_prob, expert.weight.ravel())
    value = policy.value(jax.lax.stop_gradient(params), hidden, expert.obs, is_first, agent.index)[1]
    advantage, known = demonstrated_advantages(expert, value, hparams.ppo)
    weight = (expert.weight * known).ravel()
    if settings.term == "advantage":
        return advantage_weighted_loss(
            log_prob, advantage.ravel(), weight, settings.temperature, settings.max_sample_weight
        )
    advantage = normalise(advantage.ravel(), weight)
    return clipped_surrogate_loss(log_prob, log_prob_of(agent.old_params), advantage, hparams.ppo.clip_epsilon, weight)


def demonstrated_advantages(
    expert: ExpertBatch, value: Float[Array, "L S"], ppo: PPOConfig
) -> tuple[Float[Array, "L S"], Bool[Array, "L S"]]:
    """Advantages of an expert's actions over the learner's own critic, and where they are known.

    They are estimated as those of the learner's own actions are. The state after an episode's last action is not
    recorded: unless the agent terminated there, that action's advantage is unknown, and the step before bootstraps from
    its value. Unknown, too, is the advantage of an action that noise replaced. Noise in later steps counts as part of
    what followed.

    Args:
        expert: whole episodes, without the axis of agents.
        value: the learner's estimates for their states.
        ppo: discount and lambda.
    """
    assert expert.outcome is not None  # noqa: S101 - as whole episodes have it
    active, terminated, reward = expert.outcome.active, expert.outcome.terminated, expert.outcome.reward
    last = active & ~jnp.concatenate([active[1:], jnp.zeros_like(active[:1])])
    unknown = last & ~terminated
    next_value = jnp.concatenate([value[1:], jnp.zeros_like(value[:1])])
    # With its value as reward the last step has advantage 0, and adds nothing to those before it.
    reward = jnp.where(unknown, value, reward)
    next_value = jnp.where(unknown, 0.0, next_value)
    estimate = functools.partial(generalised_advantages, discount=ppo.discount, gae_lambda=ppo.gae_lambda)
    advantage: Any = jax.vmap(estimate, in_axes=1, out_axes=1)(reward, value, next_value, terminated, last)
    return advantage, active & ~unknown & expert.outcome.executed
