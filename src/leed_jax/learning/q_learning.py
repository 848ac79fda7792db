"""Q-learning of a team's value that is put together from each agent's own: VDN and QMIX.

Learning is central and acting is not. One loss, on the value of the joint action, trains all agents' networks at once,
while each agent acts on its own network and its own observation: as the team's value falls in no agent's own value,
the best joint action is each agent's own best one.
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

from leed_jax.environments import Environment
from leed_jax.errors import ConfigurationError
from leed_jax.learning.episodes import Chooser, forgetful
from leed_jax.learning.experts import Experts
from leed_jax.learning.loss import Metrics
from leed_jax.learning.ppo import optimiser, summarised
from leed_jax.learning.replay_buffer import ReplayBuffer, add_round, empty_buffer, sample_items
from leed_jax.networks.values import Mixer, QNetwork, QParameters, explore, joint_values
from leed_jax.objectives import value_loss, weighted_mean
from leed_jax.objectives.q_learning import double_q_value, linear_schedule, team_target

__all__ = [
    "QHyper",
    "QNetwork",
    "QParameters",
    "QSettings",
    "QState",
    "init_q_state",
    "make_q_chunk",
    "q_chooser",
]

QChunk = Callable[["QState", Experts | None, "QHyper"], tuple["QState", Metrics]]


@struct.dataclass
class QHyper:
    """Numeric hyperparameters: leaves of a pytree, so that `vmap` can sweep them.

    Attributes:
        learning_rate: Adam's step size at the start.
        learning_rate_decay: the share of the learning rate that is gone, linearly, by `total_updates`.
        total_updates: the number of updates of the whole run.
        discount: gamma.
        epsilon_start: the share of random actions at the start.
        epsilon_end: the share of random actions in the end.
        epsilon_updates: the number of updates over which it falls, linearly.
        target_rate: the share of the networks that the target networks take over after each step of learning.
        max_grad_norm: global norm at which the gradient of the one loss is clipped.
        reward_scale: factor of the rewards in learning; the values are in their unit.
    """

    learning_rate: Float[Array, ""] | float
    learning_rate_decay: Float[Array, ""] | float
    total_updates: Float[Array, ""] | float
    discount: Float[Array, ""] | float
    epsilon_start: Float[Array, ""] | float
    epsilon_end: Float[Array, ""] | float
    epsilon_updates: Float[Array, ""] | float
    target_rate: Float[Array, ""] | float
    max_grad_norm: Float[Array, ""] | float
    reward_scale: Float[Array, ""] | float


@dataclasses.dataclass(frozen=True)
class QSettings:
    """What fixes shapes and program: static under jit.

    Attributes:
        num_envs: parallel environments, `E`.
        rollout_steps: steps per environment and update, `T`.
        updates_per_chunk: updates in one dispatch.
        mixer: vdn, the team's value is the sum of the agents'; or qmix, a monotonic function of them.
        buffer_size: transitions that are remembered, at most; whole rollouts are, as many as fit.
        batch_size: transitions of a step of learning, `B`.
        learning_steps: steps of learning after each rollout.
        mixing_size: width of qmix's mixing network, `M`.

    Raises:
        ConfigurationError: the buffer does not hold one rollout.
    """

    num_envs: int = 128
    rollout_steps: int = 26
    updates_per_chunk: int = 10
    mixer: str = "qmix"
    buffer_size: int = 100_000
    batch_size: int = 512
    learning_steps: int = 32
    mixing_size: int = 32

    def __post_init__(self) -> None:
        if self.buffer_size < self.steps_per_update:
            raise ConfigurationError(
                f"buffer_size={self.buffer_size} has no room for one update's num_envs x rollout_steps = "
                f"{self.steps_per_update} transitions; make it larger or those smaller."
            )

    @property
    def steps_per_update(self) -> int:
        """Environment steps in one update."""
        return self.num_envs * self.rollout_steps

    def mixer_of(self, network: QNetwork) -> Mixer:
        """The mixer for these agents' values."""
        state_size = network.num_agents * network.observation_size
        return Mixer(self.mixer, network.num_agents, state_size, self.mixing_size)


@struct.dataclass
class QActors:
    """The environments between two rollouts.

    Attributes:
        environment_state: the environments' states, stacked on a leading axis `E`.
        observation: what each agent acts on next.
        available_actions: what each agent may do next.
        active: whether each agent still takes part in the episode.
        running_return: each agent's return in the episode so far.
    """

    environment_state: Any
    observation: Float[Array, "E A O"]
    available_actions: Bool[Array, "E A N"]
    active: Bool[Array, "E A"]
    running_return: Float[Array, "E A"]


@struct.dataclass
class Transition:
    """Joint transitions.

    Attributes:
        observation: what the agents acted on.
        action: what they did.
        reward: the team's: the mean over all agents, in which one that no longer takes part counts as 0.
        active: whether each agent took part.
        next_observation: what the actions led to, before any reset.
        next_available: what each agent could do there, before any reset.
        next_active: whether each agent goes on taking part; also where the episode was cut off.
    """

    observation: Float[Array, "*B A O"]
    action: Int[Array, "*B A"]
    reward: Float[Array, "*B"]
    active: Bool[Array, "*B A"]
    next_observation: Float[Array, "*B A O"]
    next_available: Bool[Array, "*B A N"]
    next_active: Bool[Array, "*B A"]


@struct.dataclass
class Ended:
    """What became of the episodes: whether each step was the last, and the returns up to there."""

    episode_over: Bool[Array, "T E"]
    episode_return: Float[Array, "T E A"]


@struct.dataclass
class QState:
    """All that training goes on from; one per seed, stacked where there are several.

    Attributes:
        parameters: the networks that learn and act.
        target_parameters: those that trail behind them.
        optimiser_state: the optimiser.
        buffer: the latest transitions.
        actors: the environments.
        key: source of all randomness to come.
        update: the number of updates made.
    """

    parameters: QParameters
    target_parameters: QParameters
    optimiser_state: optax.OptState
    buffer: ReplayBuffer
    actors: QActors
    key: PRNGKeyArray
    update: Int[Array, ""]


def init_q_state(environment: Environment, network: QNetwork, settings: QSettings, key: PRNGKeyArray) -> QState:
    """Draw parameters and start the environments; `key` is consumed. Pure, jittable, and vmappable over keys."""
    agents_key, mixer_key, actor_key, train_key = jax.random.split(key, 4)
    parameters = QParameters(network.init(agents_key), settings.mixer_of(network).init(mixer_key))
    state, time_step = jax.vmap(environment.reset)(jax.random.split(actor_key, settings.num_envs))
    actors = QActors(
        environment_state=state,
        observation=time_step.observation,
        available_actions=time_step.available_actions,
        active=jnp.ones(time_step.reward.shape, bool),
        running_return=jnp.zeros_like(time_step.reward),
    )
    act = functools.partial(_collect, environment, network, settings)
    _, transitions, _ = jax.eval_shape(act, parameters, actors, 0.0, train_key)
    return QState(
        parameters=parameters,
        # A copy, as a buffer cannot be given away twice.
        target_parameters=jax.tree.map(jnp.copy, parameters),
        optimiser_state=optimiser(0.0, 1.0).init(parameters),
        buffer=empty_buffer(transitions, settings.buffer_size // settings.steps_per_update),
        actors=actors,
        key=train_key,
        update=jnp.zeros((), jnp.int32),
    )


def make_q_chunk(environment: Environment, network: QNetwork, settings: QSettings) -> QChunk:
    """Build `train_chunk(state, experts, hyper) -> (state, metrics)`: a scan of `updates_per_chunk` updates.

    An update lets the agents act in all environments, remembers that, and takes some steps of learning on minibatches
    of what is remembered. The function is pure, jittable (donate `state`) and vmappable over seeds (leading axis of
    `state`) and over hyperparameters (leading axis of `hyper`'s leaves). Experts are not asked.

    `metrics` holds, per agent `[A]`, `return_per_agent` (mean undiscounted return of the episodes that ended in the
    chunk, exploration included, NaN if none did) and, averaged over the chunk's updates, `td_loss` and `epsilon`, which
    are the same for all, `q_value` (the agent's own value of what it did) and `expert_weight`, which is 0.

    Args:
        environment: where to learn, without automatic resets.
        network: the agents' networks.
        settings: shapes and numbers of loops.
    """

    def update(state: QState, hyper: QHyper) -> tuple[QState, Metrics]:
        key, act_key, learn_key = jax.random.split(state.key, 3)
        epsilon = linear_schedule(state.update, hyper.epsilon_start, hyper.epsilon_end, hyper.epsilon_updates)
        actors, transitions, ended = _collect(
            environment, network, settings, state.parameters, state.actors, epsilon, act_key
        )
        state = dataclasses.replace(state, actors=actors, buffer=add_round(state.buffer, transitions), key=key)
        state, metrics = _learn(network, settings, state, hyper, learn_key)
        returns = jnp.where(ended.episode_over[..., None], ended.episode_return, 0.0)
        metrics |= {"episodes": jnp.sum(ended.episode_over), "return_sum": jnp.sum(returns, axis=(0, 1))}
        metrics["epsilon"] = jnp.full(network.num_agents, epsilon)
        metrics["expert_weight"] = jnp.zeros(network.num_agents)
        return dataclasses.replace(state, update=state.update + 1), metrics

    def train_chunk(state: QState, experts: Experts | None, hyper: QHyper) -> tuple[QState, Metrics]:
        del experts

        def body(state: QState, _: None) -> tuple[QState, Metrics]:
            return update(state, hyper)

        return summarised(*jax.lax.scan(body, state, None, length=settings.updates_per_chunk))

    return train_chunk


def q_chooser(network: QNetwork, parameters: QParameters, greedy: bool = True, epsilon: float = 0.05) -> Chooser:
    """Every agent acts on its own values.

    Args:
        network: the agents' networks.
        parameters: their parameters.
        greedy: take the best action; else a random one with probability `epsilon`, as a learner of values has no
            distribution of its own to draw from.
        epsilon: the share of random actions if not `greedy`.
    """

    def choose(key: PRNGKeyArray, observation: Array, available: Array) -> Array:
        values = network.values(parameters.agents, observation)
        return explore(values, available, 0.0 if greedy else epsilon, key)

    return forgetful(choose)


def _collect(
    environment: Environment,
    network: QNetwork,
    settings: QSettings,
    parameters: QParameters,
    actors: QActors,
    epsilon: Float[Array, ""] | float,
    key: PRNGKeyArray,
) -> tuple[QActors, Transition, Ended]:
    """Let all agents act; `key` is consumed. The transitions have one leading axis, `[T * E, ...]`."""

    def advance(actors: QActors, key: PRNGKeyArray) -> tuple[QActors, tuple[Transition, Ended]]:
        action_key, step_key = jax.random.split(key)
        values = network.values(parameters.agents, actors.observation)
        action = explore(values, actors.available_actions, epsilon, action_key)
        step = functools.partial(_step, environment)
        return jax.vmap(step)(actors, action, jax.random.split(step_key, settings.num_envs))

    actors, (transitions, ended) = jax.lax.scan(advance, actors, jax.random.split(key, settings.rollout_steps))
    flat = jax.tree.map(lambda x: x.reshape(settings.steps_per_update, *x.shape[2:]), transitions)
    return actors, flat, ended


def _step(
    environment: Environment, actors: Any, action: Int[Array, "A"], key: PRNGKeyArray
) -> tuple[Any, tuple[Any, Any]]:
    """One environment's step and, where that ends the episode, the next one's start; `key` is consumed.

    An automatic reset would tell what is available in the new episode, but not at the end of the old one.
    """
    step_key, reset_key = jax.random.split(key)
    state, after = environment.step(actors.environment_state, action, step_key)
    fresh_state, fresh = environment.reset(reset_key)
    over, reward = after.episode_over(), jnp.where(actors.active, after.reward, 0.0)
    next_active = actors.active & ~after.terminated
    episode_return = actors.running_return + reward
    transition = Transition(
        observation=actors.observation,
        action=action,
        reward=jnp.mean(reward),
        active=actors.active,
        next_observation=after.final_observation,
        next_available=after.available_actions,
        next_active=next_active,
    )
    following = QActors(state, after.observation, after.available_actions, next_active, episode_return)
    start = QActors(
        fresh_state,
        fresh.observation,
        fresh.available_actions,
        jnp.ones_like(next_active),
        jnp.zeros_like(episode_return),
    )
    actors = jax.tree.map(lambda a, b: jnp.where(over, a, b), start, following)
    return actors, (transition, Ended(over, episode_return))


def _learn(
    network: QNetwork, settings: QSettings, state: QState, hyper: QHyper, key: PRNGKeyArray
) -> tuple[QState, Metrics]:
    """Run the steps of learning of one update; `key` is consumed."""
    final_rate = hyper.learning_rate * (1.0 - hyper.learning_rate_decay)
    learning_rate = linear_schedule(state.update, hyper.learning_rate, final_rate, hyper.total_updates)
    adam = optimiser(learning_rate, hyper.max_grad_norm)

    def step(carry: Any, key: PRNGKeyArray) -> tuple[Any, Metrics]:
        parameters, target_parameters, optimiser_state = carry
        batch = sample_items(state.buffer, key, settings.batch_size)
        target = _targets(network, settings, parameters, target_parameters, batch, hyper)
        loss = functools.partial(_loss, network, settings, batch=batch, target=target)
        gradient, metrics = jax.grad(loss, has_aux=True)(parameters)
        updates, optimiser_state = adam.update(gradient, optimiser_state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        target_parameters = optax.incremental_update(parameters, target_parameters, hyper.target_rate)
        return (parameters, target_parameters, optimiser_state), metrics

    carry = (state.parameters, state.target_parameters, state.optimiser_state)
    carry, metrics = jax.lax.scan(step, carry, jax.random.split(key, settings.learning_steps))
    state = dataclasses.replace(state, parameters=carry[0], target_parameters=carry[1], optimiser_state=carry[2])
    return state, {name: jnp.mean(value, axis=0) for name, value in metrics.items()}


def _targets(
    network: QNetwork,
    settings: QSettings,
    parameters: QParameters,
    target_parameters: QParameters,
    batch: Transition,
    hyper: QHyper,
) -> Float[Array, "B"]:
    """What the values of the joint actions are regressed on."""
    online = network.values(parameters.agents, batch.next_observation)
    target = network.values(target_parameters.agents, batch.next_observation)
    own = jax.vmap(jax.vmap(double_q_value))(online, target, batch.next_available)
    next_value = joint_values(
        settings.mixer_of(network), target_parameters, batch.next_observation, own, batch.next_active
    )
    over = ~jnp.any(batch.next_active, axis=-1)
    estimate = functools.partial(team_target, discount=hyper.discount)
    return jax.vmap(estimate)(hyper.reward_scale * batch.reward, next_value, over)


def _loss(
    network: QNetwork, settings: QSettings, parameters: QParameters, batch: Transition, target: Float[Array, "B"]
) -> tuple[Float[Array, ""], Metrics]:
    """Half the mean squared temporal-difference error of the team's value."""
    values = network.values(parameters.agents, batch.observation)
    own = jnp.take_along_axis(values, batch.action[..., None], axis=-1)[..., 0]
    total = joint_values(settings.mixer_of(network), parameters, batch.observation, own, batch.active)
    loss = value_loss(total, target, jnp.ones_like(total))
    return loss, {
        "td_loss": jnp.full(network.num_agents, loss),
        "q_value": jax.vmap(weighted_mean, in_axes=1)(own, batch.active.astype(own.dtype)),
    }
