"""Policy optimisation: PPO and expert imitation in one loss, for each agent on its own, in one jitted chunk of updates.

Learning is decentralised. Agent i has its own actor, critic and optimiser state, and its gradient comes from its own
experience and its own demonstrations alone; the agents meet only in the environment.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from leed_jax.environment import AutoReset, Environment
from leed_jax.errors import ConfigurationError
from leed_jax.experts import ExpertBatch, Experts, ExpertSamples, sample_experts
from leed_jax.instructions import Plan
from leed_jax.objectives import (
    approximate_kl,
    clipped_surrogate_loss,
    expert_weight,
    generalised_advantages,
    negative_log_likelihood,
    normalise,
    value_loss,
)
from leed_jax.policy import Policy, PolicyParameters, log_prob_and_entropy
from leed_jax.rollout import Actors, Rollout, collect, start_actors

Metrics = dict[str, Array]
TrainChunk = Callable[["TrainState", "Experts | None", "Hyper"], tuple["TrainState", Metrics]]


@struct.dataclass
class Hyper:
    """Numeric hyperparameters: leaves of a pytree, so that `vmap` can sweep them.

    Attributes:
        learning_rate: Adam's step size at the start.
        learning_rate_decay: the share of the learning rate that is gone, linearly, by `total_updates`.
        total_updates: the number of updates of the whole run.
        discount: gamma.
        gae_lambda: lambda.
        clip_epsilon: eps of the clipped surrogate.
        entropy_coefficient: weight of the entropy bonus.
        value_coefficient: weight of the critic's loss.
        max_grad_norm: global norm at which each agent's gradient is clipped.
        expert_weight: weight of the expert term at the start.
        expert_decay_updates: the number of updates over which it falls.
    """

    learning_rate: Float[Array, ""] | float
    learning_rate_decay: Float[Array, ""] | float
    total_updates: Float[Array, ""] | float
    discount: Float[Array, ""] | float
    gae_lambda: Float[Array, ""] | float
    clip_epsilon: Float[Array, ""] | float
    entropy_coefficient: Float[Array, ""] | float
    value_coefficient: Float[Array, ""] | float
    max_grad_norm: Float[Array, ""] | float
    expert_weight: Float[Array, ""] | float
    expert_decay_updates: Float[Array, ""] | float


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """What fixes shapes and program: static under jit.

    Attributes:
        num_envs: parallel environments, `E`.
        rollout_steps: steps per environment and update, `T`.
        updates_per_chunk: updates in one dispatch.
        epochs: passes over each rollout.
        minibatches: parts that each pass is cut into.
        expert_batch_size: expert samples per agent and minibatch.
        expert_schedule: a key of `leed_jax.objectives.SCHEDULES`.

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


@struct.dataclass
class TrainState:
    """All that training goes on from; one per seed, stacked where there are several.

    Attributes:
        parameters: every agent's networks.
        optimiser_state: every agent's optimiser.
        actors: the environments.
        key: source of all randomness to come.
        update: the number of updates made.
    """

    parameters: PolicyParameters
    optimiser_state: optax.OptState
    actors: Actors
    key: PRNGKeyArray
    update: Int[Array, ""]


@struct.dataclass
class _AgentBatch:
    """One agent's part of a rollout."""

    observation: Float[Array, "B O"]
    available_actions: Bool[Array, "B N"]
    action: Int[Array, "B"]
    log_prob: Float[Array, "B"]
    advantage: Float[Array, "B"]
    target: Float[Array, "B"]
    instructed_action: Int[Array, "B"] | None


def _by_agent(x: Array) -> Array:
    """Turn `[T, E, A, ...]` into `[A, T * E, ...]`."""
    x = jnp.moveaxis(x, 2, 0)
    return x.reshape(x.shape[0], -1, *x.shape[3:])


def init_state(environment: Environment, policy: Policy, settings: TrainSettings, key: PRNGKeyArray) -> TrainState:
    """Draw parameters and start the environments; `key` is consumed. Pure, jittable, and vmappable over keys."""
    parameter_key, actor_key, train_key = jax.random.split(key, 3)
    parameters = policy.init_agents(parameter_key, environment.num_agents)
    return TrainState(
        parameters=parameters,
        optimiser_state=jax.vmap(_optimiser(0.0, 1.0).init)(parameters),
        actors=start_actors(environment, actor_key, settings.num_envs),
        key=train_key,
        update=jnp.zeros((), jnp.int32),
    )


def make_train_chunk(environment: Environment, policy: Policy, settings: TrainSettings) -> TrainChunk:
    """Build `train_chunk(state, experts, hyper) -> (state, metrics)`: a scan of `updates_per_chunk` updates.

    The function is pure, jittable (donate `state`) and vmappable over seeds (leading axis of `state`) and over
    hyperparameters (leading axis of `hyper`'s leaves). Without demonstrations (`experts=None`) it is independent PPO,
    and the expert term costs nothing.

    `metrics` holds, per agent `[A]`, `return_per_agent` (mean undiscounted return of the episodes that ended in the
    chunk, NaN if none did) and, averaged over the chunk's updates, `expert_weight`, the losses, the entropy and the
    approximate divergence. There is an `expert_loss` only where there are demonstrations.

    Args:
        environment: where to learn, without automatic resets; for experts that are plans it must offer instructions.
        policy: the agents' networks.
        settings: shapes and numbers of loops.
    """
    resetting = AutoReset(environment)

    def update(state: TrainState, experts: Experts | None, hyper: Hyper) -> tuple[TrainState, Metrics]:
        key, rollout_key, learn_key = jax.random.split(state.key, 3)
        actors, rollout = collect(
            resetting,
            policy,
            state.parameters,
            state.actors,
            rollout_key,
            settings.rollout_steps,
            experts if isinstance(experts, Plan) else None,
        )
        batch = _agent_batches(rollout, hyper)
        parameters, optimiser_state, metrics = _learn(policy, settings, state, batch, experts, hyper, learn_key)
        episodes = jnp.sum(rollout.episode_over)
        ended = jnp.where(rollout.episode_over[..., None], rollout.episode_return, 0.0)
        metrics |= {"episodes": episodes, "return_sum": jnp.sum(ended, axis=(0, 1))}
        state = TrainState(parameters, optimiser_state, actors, key, state.update + 1)
        return state, metrics

    def train_chunk(state: TrainState, experts: Experts | None, hyper: Hyper) -> tuple[TrainState, Metrics]:
        def body(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
            return update(state, experts, hyper)

        state, metrics = jax.lax.scan(body, state, None, length=settings.updates_per_chunk)
        episodes, return_sum = jnp.sum(metrics.pop("episodes")), jnp.sum(metrics.pop("return_sum"), axis=0)
        means = {name: jnp.mean(value, axis=0) for name, value in metrics.items()}
        means["return_per_agent"] = return_sum / jnp.where(episodes > 0, episodes, jnp.nan)
        return state, means

    return train_chunk


def _optimiser(learning_rate: Any, max_grad_norm: Any) -> optax.GradientTransformation:
    # Adam's epsilon of 1e-5 is that of PPO's reference implementations.
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), optax.adam(learning_rate, eps=1e-5))


def _agent_batches(rollout: Rollout, hyper: Hyper) -> _AgentBatch:
    """Compute advantages and lay the rollout out by agent, `[A, T * E, ...]`."""
    # For an agent that has terminated the episode is over, even while others go on.
    over = rollout.episode_over[..., None] | rollout.terminated
    sequences = (rollout.reward, rollout.value, rollout.next_value, rollout.terminated, over)
    estimate = functools.partial(generalised_advantages, discount=hyper.discount, gae_lambda=hyper.gae_lambda)
    advantage = jax.vmap(jax.vmap(estimate, in_axes=1, out_axes=1), in_axes=1, out_axes=1)(*sequences)

    return _AgentBatch(
        observation=_by_agent(rollout.observation),
        available_actions=_by_agent(rollout.available_actions),
        action=_by_agent(rollout.action),
        log_prob=_by_agent(rollout.log_prob),
        advantage=_by_agent(advantage),
        target=_by_agent(advantage + rollout.value),
        instructed_action=None if rollout.instructed_action is None else _by_agent(rollout.instructed_action),
    )


def _learn(
    policy: Policy,
    settings: TrainSettings,
    state: TrainState,
    batch: _AgentBatch,
    experts: Experts | None,
    hyper: Hyper,
    key: PRNGKeyArray,
) -> tuple[PolicyParameters, optax.OptState, Metrics]:
    """Run the epochs of minibatch steps of one update; `key` is consumed."""
    num_agents, size = batch.action.shape
    progress = jnp.minimum(state.update / hyper.total_updates, 1.0)
    learning_rate = hyper.learning_rate * (1.0 - hyper.learning_rate_decay * progress)
    weight = expert_weight(settings.expert_schedule, hyper.expert_weight, state.update, hyper.expert_decay_updates)
    optimiser = _optimiser(learning_rate, hyper.max_grad_norm)

    def agent_step(parameters: Any, optimiser_state: Any, batch: Any, expert: Any) -> tuple[Any, Any, Metrics]:
        loss = lambda p: _agent_loss(policy, p, batch, expert, weight, hyper)  # noqa: E731
        gradient, metrics = jax.grad(loss, has_aux=True)(parameters)
        updates, optimiser_state = optimiser.update(gradient, optimiser_state, parameters)
        return optax.apply_updates(parameters, updates), optimiser_state, metrics

    def minibatch_step(carry: Any, inputs: tuple[Array, Array]) -> tuple[Any, Metrics]:
        indices, expert_key = inputs
        minibatch = jax.tree.map(lambda x: x[:, indices], batch)
        expert = (
            None
            if not isinstance(experts, ExpertSamples)
            else sample_experts(experts, expert_key, settings.expert_batch_size)
        )
        parameters, optimiser_state, metrics = jax.vmap(agent_step)(carry[0], carry[1], minibatch, expert)
        return (parameters, optimiser_state), metrics

    shuffle_key, expert_key = jax.random.split(key)
    shuffles = jax.vmap(lambda k: jax.random.permutation(k, size))(jax.random.split(shuffle_key, settings.epochs))
    steps = settings.epochs * settings.minibatches
    inputs = (shuffles.reshape(steps, -1), jax.random.split(expert_key, steps))
    carry, metrics = jax.lax.scan(minibatch_step, (state.parameters, state.optimiser_state), inputs)
    means = {name: jnp.mean(value, axis=0) for name, value in metrics.items()}
    means["expert_weight"] = jnp.full(num_agents, 0.0 if experts is None else weight)
    return *carry, means


def _agent_loss(
    policy: Policy,
    parameters: PolicyParameters,
    batch: _AgentBatch,
    expert: ExpertBatch | None,
    weight: Float[Array, ""],
    hyper: Hyper,
) -> tuple[Float[Array, ""], Metrics]:
    """One agent's whole loss on its own minibatch.

        L = L_clip + c_v L_value - c_h H + w L_expert

    The first three terms are PPO's (Schulman et al. 2017, arXiv 1707.06347, equation 9); the fourth is the expert loss.
    """
    logits = policy.logits(parameters, batch.observation, batch.available_actions)
    log_prob, entropy = log_prob_and_entropy(logits, batch.action)
    advantage = normalise(batch.advantage)
    surrogate = clipped_surrogate_loss(log_prob, batch.log_prob, advantage, hyper.clip_epsilon)
    value = value_loss(policy.value(parameters, batch.observation), batch.target)
    loss = surrogate + hyper.value_coefficient * value - hyper.entropy_coefficient * jnp.mean(entropy)
    metrics = {
        "surrogate_loss": surrogate,
        "value_loss": value,
        "entropy": jnp.mean(entropy),
        "approximate_kl": approximate_kl(log_prob, batch.log_prob),
    }
    if expert is not None or batch.instructed_action is not None:
        expert_log_prob, usable = _expert_log_prob(policy, parameters, logits, batch, expert)
        metrics["expert_loss"] = negative_log_likelihood(expert_log_prob, usable)
        loss = loss + weight * metrics["expert_loss"]
    return loss, metrics


def _expert_log_prob(
    policy: Policy,
    parameters: PolicyParameters,
    logits: Float[Array, "B N"],
    batch: _AgentBatch,
    expert: ExpertBatch | None,
) -> tuple[Float[Array, "_"], Float[Array, "_"]]:
    """The log-probability of the expert's actions, and the weight of each, 0 for what no policy can imitate."""
    if expert is not None:
        expert_logits = policy.logits(parameters, expert.observation, expert.available_actions)
        return log_prob_and_entropy(expert_logits, expert.action)[0], expert.weight
    assert batch.instructed_action is not None  # noqa: S101 - one of the two is there
    # In the learner's own states the logits are known already: this source costs no pass through the networks.
    possible = jnp.take_along_axis(batch.available_actions, batch.instructed_action[:, None], axis=-1)[:, 0]
    return log_prob_and_entropy(logits, batch.instructed_action)[0], possible.astype(jnp.float32)
