"""Policy optimisation: PPO and expert imitation in one loss, for each agent on its own, in one jitted chunk of updates.

Learning is decentralised. Agent i has its own actor, critic and optimiser state, and its gradient comes from its own
experience and its own demonstrations alone; the agents meet only in the environment. Baselines that share parameters or
see everything differ in the policy that is passed in, and in nothing else.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int, PRNGKeyArray

from leed_jax.environments import AutoReset, Environment
from leed_jax.errors import ConfigurationError
from leed_jax.learning.expert_weight import Gap, measure_gap
from leed_jax.learning.experts import Experts, Yardstick, sample_experts
from leed_jax.learning.hyper import Hyper, TrainSettings
from leed_jax.learning.loss import AgentBatch, Metrics, Standing, agent_batches, agent_loss
from leed_jax.learning.rollout import Actors, collect, start_actors
from leed_jax.networks.modules import mean_of_groups
from leed_jax.networks.policy import Policy, PolicyParameters
from leed_jax.objectives import expert_weight
from leed_jax.objectives.q_learning import linear_schedule

__all__ = ["Hyper", "Metrics", "TrainChunk", "TrainSettings", "TrainState", "init_state", "make_train_chunk"]

TrainChunk = Callable[["TrainState", "Experts | None", "Hyper"], tuple["TrainState", Metrics]]


@struct.dataclass
class TrainState:
    """All that training goes on from; one per seed, stacked where there are several.

    Attributes:
        parameters: all networks, stacked over groups of agents.
        optimiser_state: every group's optimiser.
        actors: the environments.
        gap: how far the learners are from their expert.
        key: source of all randomness to come.
        update: the number of updates made.
    """

    parameters: PolicyParameters
    optimiser_state: optax.OptState
    actors: Actors
    gap: Gap
    key: PRNGKeyArray
    update: Int[Array, ""]


def init_state(environment: Environment, policy: Policy, settings: TrainSettings, key: PRNGKeyArray) -> TrainState:
    """Draw parameters and start the environments; `key` is consumed. Pure, jittable, and vmappable over keys."""
    parameter_key, actor_key, train_key = jax.random.split(key, 3)
    parameters = policy.init_agents(parameter_key)
    return TrainState(
        parameters=parameters,
        optimiser_state=jax.vmap(optimiser(0.0, 1.0).init)(parameters),
        actors=start_actors(environment, actor_key, settings.num_envs, policy.empty_memory(settings.num_envs)),
        gap=Gap.unknown(environment.num_agents),
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

    Raises:
        ConfigurationError: policies remember, and the environments cannot be shared out among the minibatches; or
            episodes are to be compared, and rollouts are too short for one. When the function is traced: the weight of
            the expert term is to go by a yardstick that the experts do not have.
    """
    if policy.memory_size and settings.num_envs % settings.minibatches:
        raise ConfigurationError(
            f"Policies that remember learn from whole sequences, so num_envs={settings.num_envs} is shared out among "
            f"minibatches={settings.minibatches}; choose a divisor."
        )
    if settings.expert_adapt == "dtw" and settings.rollout_steps < environment.max_steps:
        raise ConfigurationError(
            f"expert.adapt=dtw compares whole episodes, and rollout_steps={settings.rollout_steps} is less than one of "
            f"{environment.max_steps} steps; raise it to that, or use expert.adapt=return_gap."
        )
    resetting = AutoReset(environment)

    def update(state: TrainState, experts: Experts | None, hyper: Hyper) -> tuple[TrainState, Metrics]:
        key, rollout_key, learn_key = jax.random.split(state.key, 3)
        plans = None if experts is None else experts.plans
        actors, rollout = collect(
            resetting, policy, state.parameters, state.actors, rollout_key, settings.rollout_steps, plans
        )
        yardstick = _yardstick(settings, experts)
        gap = measure_gap(state.gap, settings.expert_adapt, yardstick, rollout)
        batch, seen_by_all = agent_batches(rollout, state.actors.memory, hyper)
        learner = _Update(policy, settings, state, gap, experts, hyper)
        parameters, optimiser_state, metrics = learner.learn(batch, seen_by_all, learn_key)
        episodes = jnp.sum(rollout.episode_over)
        ended = jnp.where(rollout.episode_over[..., None], rollout.episode_return, 0.0)
        metrics |= {"episodes": episodes, "return_sum": jnp.sum(ended, axis=(0, 1))}
        state = TrainState(parameters, optimiser_state, actors, gap, key, state.update + 1)
        return state, metrics

    def train_chunk(state: TrainState, experts: Experts | None, hyper: Hyper) -> tuple[TrainState, Metrics]:
        def body(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
            return update(state, experts, hyper)

        return summarised(*jax.lax.scan(body, state, None, length=settings.updates_per_chunk))

    return train_chunk


def _yardstick(settings: TrainSettings, experts: Experts | None) -> Yardstick | None:
    """What the weight goes by; without it nothing would ever be measured, and so no expert be followed."""
    if experts is None:
        return None
    yardstick, adapt = experts.yardstick, settings.expert_adapt
    lacking = yardstick is None or (adapt == "dtw" and yardstick.episodes is None)
    if adapt != "none" and lacking:
        raise ConfigurationError(
            f"expert_adapt={adapt} goes by what the expert does by itself: give the Experts a yardstick"
            f"{' with episodes' if adapt == 'dtw' else ''}, or use expert_adapt=none."
        )
    return yardstick


def summarised(state: Any, metrics: Metrics) -> tuple[Any, Metrics]:
    """Turn the metrics of a chunk's updates into those of the chunk: `episodes` and `return_sum` become a mean return.

    Args:
        state: passed on.
        metrics: each with a leading axis of updates.
    """
    episodes, return_sum = jnp.sum(metrics.pop("episodes")), jnp.sum(metrics.pop("return_sum"), axis=0)
    means = {name: jnp.mean(value, axis=0) for name, value in metrics.items()}
    means["return_per_agent"] = return_sum / jnp.where(episodes > 0, episodes, jnp.nan)
    return state, means


def optimiser(learning_rate: Any, max_grad_norm: Any) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015, arXiv 1412.6980) behind a bound on the gradient's global norm; both may be traced."""
    # Adam's epsilon of 1e-5 is that of PPO's reference implementations.
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), optax.adam(learning_rate, eps=1e-5))


class _Update:
    """The learning of one update, from where a state stands."""

    def __init__(
        self,
        policy: Policy,
        settings: TrainSettings,
        state: TrainState,
        gap: Gap,
        experts: Experts | None,
        hyper: Hyper,
    ) -> None:
        self._policy, self._settings, self._state = policy, settings, state
        self._samples = None if experts is None else experts.samples

        def decayed(start: Any, decay: Any) -> Array:
            return linear_schedule(state.update, start, start * (1.0 - decay), hyper.total_updates)

        learning_rate = decayed(hyper.learning_rate, hyper.learning_rate_decay)
        entropy_coefficient = decayed(hyper.entropy_coefficient, hyper.entropy_decay)
        self._hyper = dataclasses.replace(hyper, entropy_coefficient=entropy_coefficient)
        self._optimiser = optimiser(learning_rate, hyper.max_grad_norm)
        weight = expert_weight(settings.expert_schedule, hyper.expert_weight, state.update, hyper.expert_decay_updates)
        share = jnp.ones(policy.num_agents)
        if settings.expert_adapt != "none":
            share = gap.share(hyper.expert_adapt_below)
        self._standing = Standing(
            agent=jnp.arange(policy.num_agents),
            earlier=policy.of_agents(state.parameters),
            expert_weight=(0.0 if experts is None else weight) * share,
        )

    def learn(
        self, batch: AgentBatch, seen_by_all: Float[Array, "L S Q"] | None, key: PRNGKeyArray
    ) -> tuple[PolicyParameters, optax.OptState, Metrics]:
        """Run the epochs of minibatch steps; `key` is consumed."""
        settings = self._settings
        shuffle_key, expert_key = jax.random.split(key)
        sequences = batch.weight.shape[-1]
        shuffle_keys = jax.random.split(shuffle_key, settings.epochs)
        shuffles = jax.vmap(lambda k: jax.random.permutation(k, sequences))(shuffle_keys)
        steps = settings.epochs * settings.minibatches
        inputs = (shuffles.reshape(steps, -1), jax.random.split(expert_key, steps))

        def step(carry: Any, inputs: tuple[Array, Array]) -> tuple[Any, Metrics]:
            indices, key = inputs
            part = jax.tree.map(lambda x: x[:, :, indices], dataclasses.replace(batch, memory=None))
            part = dataclasses.replace(part, memory=jax.tree.map(lambda x: x[:, indices], batch.memory))
            seen = None if seen_by_all is None else seen_by_all[:, indices]
            return self._step(carry[0], carry[1], part, seen, key)

        carry, metrics = jax.lax.scan(step, (self._state.parameters, self._state.optimiser_state), inputs)
        means = {name: jnp.mean(value, axis=0) for name, value in metrics.items()}
        means["expert_weight"] = self._standing.expert_weight
        return *carry, means

    def _step(
        self, parameters: PolicyParameters, optimiser_state: Any, batch: AgentBatch, seen_by_all: Any, key: PRNGKeyArray
    ) -> tuple[tuple[PolicyParameters, Any], Metrics]:
        """One step of every group's optimiser; `key` is consumed."""
        policy, samples, expert = self._policy, self._samples, None
        if samples is not None:
            expert = sample_experts(samples, key, self._settings.expert_batch_size)
            expert = dataclasses.replace(expert, observation=policy.see(expert.observation, axis=0))

        def loss(parameters: Any, standing: Any, batch: Any, expert: Any) -> tuple[Array, Metrics]:
            term, hyper = self._settings.expert_term, self._hyper
            return agent_loss(policy, term, parameters, standing, batch, seen_by_all, expert, hyper)

        gradient, metrics = jax.vmap(jax.grad(loss, has_aux=True))(
            policy.of_agents(parameters), self._standing, batch, expert
        )
        gradient = mean_of_groups(gradient, policy.agent_groups)
        updates, optimiser_state = jax.vmap(self._optimiser.update)(gradient, optimiser_state, parameters)
        return (optax.apply_updates(parameters, updates), optimiser_state), metrics
