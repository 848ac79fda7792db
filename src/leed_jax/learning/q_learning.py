"""VDN and QMIX: Q-learning of a team's value that is mixed from the agents' own values.

Learning is centralised and acting is not: one loss, on the value of the joint action, trains all networks, while each
agent acts on its own network and observation. The team's value is monotonic in each agent's value, so the best joint
action is each agent's own best action.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from leed_jax.environments import AutoReset, Environment
from leed_jax.errors import ConfigurationError
from leed_jax.learning.config import Hparams, QLearningConfig
from leed_jax.learning.episodes import Actor, stateless_actor
from leed_jax.learning.experts import Experts
from leed_jax.learning.loss import Metrics
from leed_jax.learning.ppo import TrainChunk, optimiser, summarise
from leed_jax.learning.replay_buffer import ReplayBuffer, add_rollout, empty_buffer, sample_transitions
from leed_jax.learning.rollout import ActFn, Rollout, RolloutState, collect, init_rollout
from leed_jax.networks.values import Mixer, QNetwork, QParameters, explore, joint_values
from leed_jax.objectives import linear_schedule, value_loss, weighted_mean
from leed_jax.objectives.q_learning import double_q_value, team_target


@struct.dataclass
class Transition:
    """Joint transitions.

    Attributes:
        observation: the agents' observations.
        action: their actions.
        reward: the team's: the mean over all agents, in which an inactive agent counts as 0.
        active: which agents took part.
        next_observation: the observations that the actions led to, before any automatic reset.
        next_available: which actions each agent could take there.
        next_active: which agents still take part; also where the episode was truncated.
    """

    observation: Float[Array, "*B A O"]
    action: Int[Array, "*B A"]
    reward: Float[Array, "*B"]
    active: Bool[Array, "*B A"]
    next_observation: Float[Array, "*B A O"]
    next_available: Bool[Array, "*B A N"]
    next_active: Bool[Array, "*B A"]


@struct.dataclass
class QState:
    """Everything that training continues from; one per seed, stacked where there are several.

    Attributes:
        parameters: the online networks.
        target_parameters: the target networks.
        optimiser_state: the optimiser.
        buffer: the latest transitions.
        rollout_state: the environments.
        key: source of all randomness to come.
        update: the number of updates so far.
    """

    parameters: QParameters
    target_parameters: QParameters
    optimiser_state: optax.OptState
    buffer: ReplayBuffer
    rollout_state: RolloutState
    key: PRNGKeyArray
    update: Int[Array, ""]


def make_mixer(kind: str, network: QNetwork, settings: QLearningConfig) -> Mixer:
    """The mixer `vdn` or `qmix` for these agents' values."""
    return Mixer(kind, network.num_agents, network.num_agents * network.observation_size, settings.mixing_size)


def init_q_state(
    environment: Environment,
    network: QNetwork,
    mixer: Mixer,
    num_envs: int,
    rollout_steps: int,
    settings: QLearningConfig,
    key: PRNGKeyArray,
) -> QState:
    """Draw parameters and reset the environments; `key` is consumed. Pure, jittable, and vmappable over keys.

    Raises:
        ConfigurationError: the buffer has no room for one rollout.
    """
    steps = num_envs * rollout_steps
    if settings.buffer_size < steps:
        raise ConfigurationError(
            f"q_learning.buffer_size={settings.buffer_size} has no room for one rollout of num_envs x rollout_steps = "
            f"{steps} transitions; make it larger or those smaller."
        )
    agents_key, mixer_key, rollout_key, train_key = jax.random.split(key, 4)
    parameters = QParameters(network.init(agents_key), mixer.init(mixer_key))
    wrapped = AutoReset(environment)
    rollout_state = init_rollout(wrapped, rollout_key, num_envs)

    def example(parameters: QParameters, rollout_state: RolloutState, key: PRNGKeyArray) -> Transition:
        act = act_fn(network, parameters, 0.0)
        return _transitions(collect(wrapped, act, rollout_state, key, rollout_steps)[1])

    transitions = jax.eval_shape(example, parameters, rollout_state, train_key)
    return QState(
        parameters=parameters,
        # A copy, as an array that occurs twice in a state cannot be donated.
        target_parameters=jax.tree.map(jnp.copy, parameters),
        optimiser_state=optimiser(0.0, 1.0).init(parameters),
        buffer=empty_buffer(transitions, settings.buffer_size // steps),
        rollout_state=rollout_state,
        key=train_key,
        update=jnp.zeros((), jnp.int32),
    )


def make_q_chunk(
    environment: Environment, network: QNetwork, mixer: Mixer, rollout_steps: int, updates_per_chunk: int
) -> TrainChunk:
    """Build `train_chunk(state, experts, hparams) -> (state, metrics)`: a scan of `updates_per_chunk` updates.

    An update is a rollout, which goes into the replay buffer, and some gradient steps on samples of the buffer. The
    function is pure, jittable (donate `state`), and vmappable over seeds and hyperparameters. Experts are ignored.

    `metrics` holds for each agent, `[A]`: `return_of_agents`, the mean undiscounted return of the episodes that ended
    in the chunk, exploration included (NaN if none did); and, averaged over its updates, `td_loss` and `epsilon`, which
    are the same for all, `q_value`, the value of the agent's action, and `expert_weight`, which is 0.

    Args:
        environment: where to learn, without automatic resets.
        network: the agents' networks.
        mixer: the mixing of the team's value.
        rollout_steps: steps in each environment per update, `T`.
        updates_per_chunk: the number of updates.
    """
    wrapped = AutoReset(environment)

    def update(state: QState, hparams: Hparams) -> tuple[QState, Metrics]:
        settings = hparams.q_learning
        key, rollout_key, learn_key = jax.random.split(state.key, 3)
        epsilon = linear_schedule(
            state.update - hparams.first_update,
            settings.epsilon_start,
            settings.epsilon_end,
            settings.epsilon_fraction * hparams.total_updates,
        )
        act = act_fn(network, state.parameters, epsilon)
        rollout_state, rollout = collect(wrapped, act, state.rollout_state, rollout_key, rollout_steps)
        buffer = add_rollout(state.buffer, _transitions(rollout))
        state = dataclasses.replace(state, rollout_state=rollout_state, buffer=buffer, key=key)
        state, metrics = _learn(network, mixer, state, hparams, learn_key)
        episodes, return_sum = rollout.finished_returns()
        metrics |= {"episodes": episodes, "return_sum": return_sum}
        metrics |= {"epsilon": jnp.full(network.num_agents, epsilon), "expert_weight": jnp.zeros(network.num_agents)}
        return dataclasses.replace(state, update=state.update + 1), metrics

    def train_chunk(state: QState, experts: Experts | None, hparams: Hparams) -> tuple[QState, Metrics]:
        del experts
        return summarise(*jax.lax.scan(lambda s, _: update(s, hparams), state, None, length=updates_per_chunk))

    return train_chunk


def act_fn(network: QNetwork, parameters: QParameters, epsilon: Float[Array, ""] | float) -> ActFn:
    """Each agent's best action, or with probability `epsilon` a random one."""

    def act(state: RolloutState, key: PRNGKeyArray) -> tuple[None, Array, Any]:
        values = network.values(parameters.agents, state.obs)
        return None, explore(values, state.available_actions, epsilon, key), lambda _: ()

    return act


def q_actor(network: QNetwork, parameters: QParameters, greedy: bool = True, epsilon: float = 0.05) -> Actor:
    """Every agent acts on its own values.

    Args:
        network: the agents' networks.
        parameters: their parameters.
        greedy: take the best action; else a random one with probability `epsilon`.
        epsilon: the share of random actions if not `greedy`.
    """

    def select(obs: Array, available: Array, key: PRNGKeyArray) -> Array:
        return explore(network.values(parameters.agents, obs), available, 0.0 if greedy else epsilon, key)

    return stateless_actor(select)


def _transitions(rollout: Rollout) -> Transition:
    """The transitions of a rollout, with one leading axis, `[T * E, ...]`."""
    transitions = Transition(
        observation=rollout.obs,
        action=rollout.action,
        reward=jnp.mean(jnp.where(rollout.active, rollout.reward, 0.0), axis=-1),
        active=rollout.active,
        next_observation=rollout.final_obs,
        next_available=rollout.final_available_actions,
        next_active=rollout.active & ~rollout.terminated,
    )
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), transitions)


def _learn(
    network: QNetwork, mixer: Mixer, state: QState, hparams: Hparams, key: PRNGKeyArray
) -> tuple[QState, Metrics]:
    """The gradient steps of one update; `key` is consumed."""
    settings = hparams.q_learning
    final_rate = settings.learning_rate * (1.0 - settings.learning_rate_decay)
    update = state.update - hparams.first_update
    learning_rate = linear_schedule(update, settings.learning_rate, final_rate, hparams.total_updates)
    adam = optimiser(learning_rate, settings.max_grad_norm)

    def step(carry: Any, key: PRNGKeyArray) -> tuple[Any, Metrics]:
        parameters, target_parameters, optimiser_state = carry
        batch = sample_transitions(state.buffer, key, settings.batch_size)
        target = _targets(network, mixer, parameters, target_parameters, batch, settings)
        loss = functools.partial(_loss, network, mixer, batch=batch, target=target)
        gradient, metrics = jax.grad(loss, has_aux=True)(parameters)
        updates, optimiser_state = adam.update(gradient, optimiser_state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        target_parameters = optax.incremental_update(parameters, target_parameters, settings.target_rate)
        return (parameters, target_parameters, optimiser_state), metrics

    carry = (state.parameters, state.target_parameters, state.optimiser_state)
    carry, metrics = jax.lax.scan(step, carry, jax.random.split(key, settings.learning_steps))
    state = dataclasses.replace(state, parameters=carry[0], target_parameters=carry[1], optimiser_state=carry[2])
    return state, {name: jnp.mean(value, axis=0) for name, value in metrics.items()}


def _targets(
    network: QNetwork,
    mixer: Mixer,
    parameters: QParameters,
    target_parameters: QParameters,
    batch: Transition,
    settings: QLearningConfig,
) -> Float[Array, "B"]:
    """The targets of the joint actions' values."""
    online = network.values(parameters.agents, batch.next_observation)
    target = network.values(target_parameters.agents, batch.next_observation)
    own = jax.vmap(jax.vmap(double_q_value))(online, target, batch.next_available)
    next_value = joint_values(mixer, target_parameters, batch.next_observation, own, batch.next_active)
    all_terminated = ~jnp.any(batch.next_active, axis=-1)
    estimate = functools.partial(team_target, discount=settings.discount)
    return jax.vmap(estimate)(settings.reward_scale * batch.reward, next_value, all_terminated)


def _loss(
    network: QNetwork, mixer: Mixer, parameters: QParameters, batch: Transition, target: Float[Array, "B"]
) -> tuple[Float[Array, ""], Metrics]:
    """Half the mean squared temporal-difference error of the team's value."""
    values = network.values(parameters.agents, batch.observation)
    own = jnp.take_along_axis(values, batch.action[..., None], axis=-1)[..., 0]
    total = joint_values(mixer, parameters, batch.observation, own, batch.active)
    loss = value_loss(total, target, jnp.ones_like(total))
    return loss, {
        "td_loss": jnp.full(network.num_agents, loss),
        "q_value": jax.vmap(weighted_mean, in_axes=1)(own, batch.active.astype(own.dtype)),
    }
