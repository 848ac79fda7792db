"""Independent PPO with an expert term, in one jitted function.

Learning is decentralised: agent i has its own actor, critic and optimiser state, and its gradient comes from its own
experience and its own demonstrations. Baselines that share parameters or have central critics differ in the `Policy`
that is passed in, and in nothing else.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int, PRNGKeyArray

from leed_jax.environments import AutoReset, Environment, TimeStep
from leed_jax.errors import ConfigurationError
from leed_jax.learning.config import Hparams
from leed_jax.learning.expert_weight import ExpertGap, update_gap, weight_of_agents
from leed_jax.learning.experts import Experts, sample_experts
from leed_jax.learning.loss import AgentBatch, AgentInputs, Metrics, PolicyOutput, agent_batches, agent_loss
from leed_jax.learning.rollout import ActFn, RolloutState, collect, init_rollout
from leed_jax.networks.modules import mean_of_groups
from leed_jax.networks.policy import (
    HiddenState,
    Policy,
    PolicyParameters,
    distributions_of_agents,
    values_of_agents,
)
from leed_jax.objectives import linear_schedule

TrainChunk = Callable[[Any, Experts | None, Hparams], tuple[Any, Metrics]]
"""`train_chunk(state, experts, hparams) -> (state, metrics)`."""


@struct.dataclass
class TrainState:
    """Everything that training continues from; one per seed, stacked where there are several.

    Attributes:
        parameters: all networks, stacked over groups of agents.
        optimiser_state: every group's optimiser.
        rollout_state: the environments.
        gap: how far the learners are behind their expert.
        key: source of all randomness to come.
        update: the number of updates so far.
    """

    parameters: PolicyParameters
    optimiser_state: optax.OptState
    rollout_state: RolloutState
    gap: ExpertGap
    key: PRNGKeyArray
    update: Int[Array, ""]


def init_state(environment: Environment, policy: Policy, num_envs: int, key: PRNGKeyArray) -> TrainState:
    """Draw parameters and reset the environments; `key` is consumed. Pure, jittable, and vmappable over keys."""
    parameter_key, rollout_key, train_key = jax.random.split(key, 3)
    parameters = policy.init(parameter_key)
    return TrainState(
        parameters=parameters,
        optimiser_state=jax.vmap(optimiser(0.0, 1.0).init)(parameters),
        rollout_state=init_rollout(AutoReset(environment), rollout_key, num_envs, policy.init_hidden(num_envs)),
        gap=ExpertGap.init(environment.num_agents),
        key=train_key,
        update=jnp.zeros((), jnp.int32),
    )


def make_train_chunk(
    environment: Environment, policy: Policy, rollout_steps: int, updates_per_chunk: int
) -> TrainChunk:
    """Build `train_chunk(state, experts, hparams) -> (state, metrics)`: a scan of `updates_per_chunk` updates.

    The function is pure, jittable (donate `state`), and vmappable over seeds (leading axis of `state`) and over
    hyperparameters (leading axis of `hparams`' leaves). Without demonstrations (`experts=None`) it is independent PPO,
    and the expert term costs nothing.

    `metrics` holds for each agent, `[A]`: `return_of_agents`, the mean undiscounted return of the episodes that ended
    in the chunk (NaN if none did); and, averaged over the chunk's updates, `expert_weight`, the losses, the entropy and
    the approximate KL divergence. There is an `expert_loss` only with demonstrations.

    Args:
        environment: where to learn, without automatic resets; it must offer instructions if the experts are plans.
        policy: the agents' networks.
        rollout_steps: steps in each environment per update, `T`.
        updates_per_chunk: the number of updates.

    Raises:
        ConfigurationError: when the function is traced: the settings do not fit each other.
    """
    wrapped = AutoReset(environment)

    def train_chunk(state: TrainState, experts: Experts | None, hparams: Hparams) -> tuple[TrainState, Metrics]:
        _check(environment, policy, state.rollout_state.obs.shape[0], rollout_steps, hparams)

        def body(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
            return _update(wrapped, policy, rollout_steps, state, experts, hparams)

        return summarise(*jax.lax.scan(body, state, None, length=updates_per_chunk))

    return train_chunk


def _check(environment: Environment, policy: Policy, num_envs: int, rollout_steps: int, hparams: Hparams) -> None:
    minibatches = hparams.ppo.minibatches
    samples = num_envs if policy.hidden_state_size else num_envs * rollout_steps
    if minibatches < 1 or samples % minibatches:
        what = "environments, which recurrent policies share out," if policy.hidden_state_size else "samples"
        raise ConfigurationError(
            f"ppo.minibatches={minibatches}: the {samples} {what} of an update (num_envs={num_envs}, rollout_steps="
            f"{rollout_steps}) cannot be cut into {minibatches} equal parts; choose a divisor of {samples}."
        )
    if hparams.expert.adapt == "dtw" and rollout_steps < environment.max_steps:
        raise ConfigurationError(
            f"expert.adapt=dtw compares whole episodes, and rollout_steps={rollout_steps} is less than one of "
            f"{environment.max_steps} steps; raise it to that, or use expert.adapt=return_gap."
        )


def _update(
    environment: AutoReset,
    policy: Policy,
    rollout_steps: int,
    state: TrainState,
    experts: Experts | None,
    hparams: Hparams,
) -> tuple[TrainState, Metrics]:
    """One update: a rollout, and epochs of minibatch steps on it."""
    key, rollout_key, learn_key = jax.random.split(state.key, 3)
    act = act_fn(policy, state.parameters)
    plans = None if experts is None else experts.plans
    rollout_state, rollout = collect(environment, act, state.rollout_state, rollout_key, rollout_steps, plans)
    gap = update_gap(state.gap, hparams.expert.adapt, experts, rollout)
    batch, global_state = agent_batches(policy, rollout, state.rollout_state.hidden, hparams.ppo)
    agents = AgentInputs(
        index=jnp.arange(policy.num_agents),
        old_params=policy.of_agents(state.parameters),
        expert_weight=weight_of_agents(gap, experts, state.update - hparams.first_update, hparams),
    )
    parameters, optimiser_state, metrics = _learn(
        policy, state, agents, batch, global_state, experts, hparams, learn_key
    )
    episodes, return_sum = rollout.finished_returns()
    metrics |= {"expert_weight": agents.expert_weight, "episodes": episodes, "return_sum": return_sum}
    return TrainState(parameters, optimiser_state, rollout_state, gap, key, state.update + 1), metrics


def act_fn(policy: Policy, parameters: PolicyParameters) -> ActFn:
    """Sample each agent's action from its own policy; the rollout's extras are a `PolicyOutput`."""
    agents = policy.of_agents(parameters)

    def act(state: RolloutState, key: PRNGKeyArray) -> tuple[HiddenState | None, Array, Callable]:
        actor, critic = (None, None) if state.hidden is None else (state.hidden.actor, state.hidden.critic)
        actor, distribution = distributions_of_agents(
            policy, agents, actor, policy.actor_input(state.obs), state.available_actions, state.is_first
        )
        action, log_prob = distribution.sample(key)
        critic, value = values_of_agents(policy, agents, critic, state.obs, state.is_first)

        def finish(time_step: TimeStep) -> PolicyOutput:
            not_first = jnp.zeros_like(state.is_first)
            _, next_value = values_of_agents(policy, agents, critic, time_step.final_observation, not_first)
            return PolicyOutput(log_prob, value, next_value)

        hidden = None if actor is None or critic is None else HiddenState(actor, critic)
        return hidden, action, finish

    return act


def _learn(
    policy: Policy,
    state: TrainState,
    agents: AgentInputs,
    batch: AgentBatch,
    global_state: Float[Array, "L S Q"] | None,
    experts: Experts | None,
    hparams: Hparams,
    key: PRNGKeyArray,
) -> tuple[PolicyParameters, optax.OptState, Metrics]:
    """Epochs of minibatch steps; `key` is consumed."""
    ppo = hparams.ppo
    shuffle_key, expert_key = jax.random.split(key)
    shuffle_keys = jax.random.split(shuffle_key, ppo.epochs)
    sequences, steps = batch.weight.shape[-1], ppo.epochs * ppo.minibatches
    shuffles = jax.vmap(lambda k: jax.random.permutation(k, sequences))(shuffle_keys).reshape(steps, -1)

    def decayed(start: Any, decay: Any) -> Array:
        return linear_schedule(state.update - hparams.first_update, start, start * (1.0 - decay), hparams.total_updates)

    adam = optimiser(decayed(ppo.learning_rate, ppo.learning_rate_decay), ppo.max_grad_norm)
    entropy_coefficient = decayed(ppo.entropy_coefficient, ppo.entropy_decay)
    now = dataclasses.replace(hparams, ppo=dataclasses.replace(ppo, entropy_coefficient=entropy_coefficient))  # type: ignore[arg-type]

    def step(carry: Any, inputs: tuple[Array, Array]) -> tuple[Any, Metrics]:
        (parameters, optimiser_state), (indices, key) = carry, inputs
        part, state_part = _minibatch(batch, global_state, indices)
        expert = _expert_batch(policy, experts, hparams.expert.batch_size, key)

        def loss(params: PolicyParameters, agent: AgentInputs, batch: AgentBatch, expert: Any) -> tuple[Array, Metrics]:
            return agent_loss(policy, now, params, agent, batch, state_part, expert)

        gradient_of = jax.vmap(jax.grad(loss, has_aux=True))
        gradient, metrics = gradient_of(policy.of_agents(parameters), agents, part, expert)
        gradient = mean_of_groups(gradient, policy.groups)
        updates, optimiser_state = jax.vmap(adam.update)(gradient, optimiser_state, parameters)
        return (optax.apply_updates(parameters, updates), optimiser_state), metrics

    inputs = (shuffles, jax.random.split(expert_key, steps))
    carry, metrics = jax.lax.scan(step, (state.parameters, state.optimiser_state), inputs)
    return *carry, {name: jnp.mean(value, axis=0) for name, value in metrics.items()}


def _minibatch(
    batch: AgentBatch, global_state: Float[Array, "L S Q"] | None, indices: Int[Array, "M"]
) -> tuple[AgentBatch, Float[Array, "L M Q"] | None]:
    """The sequences at `indices`."""
    part = jax.tree.map(lambda x: x[:, :, indices], dataclasses.replace(batch, hidden=None))
    part = dataclasses.replace(part, hidden=jax.tree.map(lambda x: x[:, indices], batch.hidden))
    return part, None if global_state is None else global_state[:, indices]


def _expert_batch(policy: Policy, experts: Experts | None, size: int, key: PRNGKeyArray) -> Any:
    """Sampled demonstrations, as input of the actors; None where there are none to sample. `key` is consumed."""
    if experts is None or experts.samples is None:
        return None
    batch = sample_experts(experts.samples, key, size)
    return dataclasses.replace(batch, obs=policy.actor_input(batch.obs, axis=0))


def optimiser(learning_rate: Any, max_grad_norm: Any) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015, arXiv 1412.6980) after clipping by the global norm; both numbers may be traced."""
    # Adam's epsilon of 1e-5 is that of PPO's reference implementations.
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), optax.adam(learning_rate, eps=1e-5))


def summarise(state: Any, metrics: Metrics) -> tuple[Any, Metrics]:
    """Turn the metrics of a chunk's updates into those of the chunk: means over updates, and the mean return.

    Args:
        state: passed through.
        metrics: each with a leading axis of updates, among them `episodes` and `return_sum`.
    """
    episodes, return_sum = jnp.sum(metrics.pop("episodes")), jnp.sum(metrics.pop("return_sum"), axis=0)
    means = {name: jnp.mean(value, axis=0) for name, value in metrics.items()}
    means["return_of_agents"] = return_sum / jnp.where(episodes > 0, episodes, jnp.nan)
    return state, means
