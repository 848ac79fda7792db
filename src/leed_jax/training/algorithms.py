"""What `algorithm=NAME` stands for: one learner or another, with settings of its own."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from leed_jax.config import VALUE_BASED, Config
from leed_jax.environments import Environment, has_continuous_actions
from leed_jax.errors import ConfigurationError
from leed_jax.learning.episodes import Chooser, policy_chooser
from leed_jax.learning.experts import Experts
from leed_jax.learning.loss import Metrics
from leed_jax.learning.ppo import Hyper, TrainSettings, init_state, make_train_chunk
from leed_jax.learning.q_learning import QHyper, QNetwork, QSettings, init_q_state, make_q_chunk, q_chooser
from leed_jax.networks.policy import Policy


class Algorithm(NamedTuple):
    """An algorithm for one environment; the functions are pure, jittable, and vmappable over seeds.

    Attributes:
        init: `init(key)` gives the state that training starts from; it has `parameters` and `update`.
        train_chunk: `train_chunk(state, experts, hyper)` gives the state after a chunk, and its metrics.
        chooser: `chooser(parameters, greedy)` says how actions are picked.
        hyper: the numeric hyperparameters.
    """

    init: Callable[[PRNGKeyArray], Any]
    train_chunk: Callable[[Any, Experts | None, Any], tuple[Any, Metrics]]
    chooser: Callable[[Any, bool], Chooser]
    hyper: Any


def make_algorithm(config: Config, environment: Environment, updates_per_chunk: int, total_updates: int) -> Algorithm:
    """Build what a configuration's `algorithm` stands for.

    Args:
        config: a checked configuration.
        environment: where to learn.
        updates_per_chunk: updates in one dispatch.
        total_updates: updates of the whole run.

    Raises:
        ConfigurationError: the algorithm cannot learn there with these settings.
    """
    groups = agent_groups(config, environment.num_agents)
    if config.algorithm in VALUE_BASED:
        return _value_based(config, environment, groups, updates_per_chunk, total_updates)
    return _policy_based(config, environment, groups, updates_per_chunk, total_updates)


def agent_groups(config: Config, num_agents: int) -> tuple[int, ...]:
    """The number of each agent's group: agents of one group share their networks.

    Args:
        config: its `network.sharing` and `network.groups`.
        num_agents: the number of agents.

    Raises:
        ConfigurationError: the groups that it names do not fit.
    """
    network = config.network
    if network.sharing == "none":
        return tuple(range(num_agents))
    if network.sharing == "all":
        return (0,) * num_agents
    groups = tuple(network.groups)
    if len(groups) != num_agents or set(groups) != set(range(max(groups) + 1)):
        raise ConfigurationError(
            f"network.groups={list(groups)}: there are {num_agents} agents, so write {num_agents} numbers, with the "
            "groups counted from 0 on and none left out, as in [0,0,1]."
        )
    return groups


def _tells_agents_apart(config: Config, groups: tuple[int, ...]) -> bool:
    return len(set(groups)) < len(groups) if config.network.agent_id is None else config.network.agent_id


def _policy_based(
    config: Config, environment: Environment, groups: tuple[int, ...], updates_per_chunk: int, total_updates: int
) -> Algorithm:
    imitates_alone = config.algorithm == "bc"
    if config.algorithm == "leed" and config.expert.entropy >= 1 and has_continuous_actions(environment):
        raise ConfigurationError(
            f"expert.entropy={config.expert.entropy}: {type(environment).__name__} has continuous actions, and from 1 "
            "on their standard deviation would grow without end; set less than 1."
        )
    policy = Policy.of(
        environment,
        hidden_sizes=tuple(config.network.hidden_sizes),
        activation=config.network.activation,
        memory_size=0 if config.network.memory == "none" else config.network.memory_size,
        groups=groups,
        agent_id=_tells_agents_apart(config, groups),
        central_critic=config.algorithm == "mappo",
    )
    settings = TrainSettings(
        num_envs=config.num_envs,
        rollout_steps=config.rollout_steps,
        updates_per_chunk=updates_per_chunk,
        epochs=config.ppo.epochs,
        minibatches=config.ppo.minibatches,
        expert_batch_size=config.expert.batch_size,
        expert_schedule="constant" if imitates_alone else config.expert.schedule,
        expert_term=config.expert.term,
        expert_adapt=config.expert.adapt if config.algorithm == "leed" else "none",
    )
    return Algorithm(
        lambda key: init_state(environment, policy, settings, key),
        make_train_chunk(environment, policy, settings),
        lambda parameters, greedy: policy_chooser(policy, parameters, greedy),
        make_hyper(config, total_updates),
    )


def make_hyper(config: Config, total_updates: int) -> Hyper:
    """The numeric hyperparameters of policy optimisation, as arrays.

    Args:
        config: the configuration.
        total_updates: updates of the whole run.
    """
    ppo, expert, imitates_alone = config.ppo, config.expert, config.algorithm == "bc"
    values = Hyper(
        total_updates=float(total_updates),
        learning_rate=ppo.learning_rate,
        learning_rate_decay=ppo.learning_rate_decay,
        discount=ppo.discount,
        gae_lambda=ppo.gae_lambda,
        clip_epsilon=ppo.clip_epsilon,
        policy_coefficient=0.0 if imitates_alone else 1.0,
        entropy_coefficient=0.0 if imitates_alone else ppo.entropy_coefficient,
        entropy_decay=ppo.entropy_decay,
        # A critic that nobody asks would only take its share of the clipped gradient.
        value_coefficient=0.0 if imitates_alone and expert.term == "likelihood" else ppo.value_coefficient,
        max_grad_norm=ppo.max_grad_norm,
        expert_weight=expert.weight,
        expert_decay_updates=expert.decay_fraction * total_updates,
        expert_adapt_below=expert.adapt_below,
        expert_entropy=0.0 if imitates_alone else expert.entropy,
        expert_temperature=expert.temperature,
        expert_max_sample_weight=expert.max_sample_weight,
    )
    return jax.tree.map(jnp.float32, values)


def _value_based(
    config: Config, environment: Environment, groups: tuple[int, ...], updates_per_chunk: int, total_updates: int
) -> Algorithm:
    if has_continuous_actions(environment):
        raise ConfigurationError(
            f"algorithm={config.algorithm} needs discrete actions, and {type(environment).__name__} has continuous "
            "ones; use algorithm=leed, ippo or mappo."
        )
    network = QNetwork(
        num_actions=environment.num_actions,
        observation_size=environment.observation_size,
        num_agents=environment.num_agents,
        hidden_sizes=tuple(config.network.hidden_sizes),
        activation=config.network.activation,
        groups=groups,
        agent_id=_tells_agents_apart(config, groups),
    )
    learning = config.q_learning
    settings = QSettings(
        num_envs=config.num_envs,
        rollout_steps=config.rollout_steps,
        updates_per_chunk=updates_per_chunk,
        mixer=config.algorithm,
        buffer_size=learning.buffer_size,
        batch_size=learning.batch_size,
        learning_steps=learning.learning_steps,
        mixing_size=learning.mixing_size,
    )
    hyper = QHyper(
        learning_rate=learning.learning_rate,
        learning_rate_decay=learning.learning_rate_decay,
        total_updates=float(total_updates),
        discount=learning.discount,
        epsilon_start=learning.epsilon_start,
        epsilon_end=learning.epsilon_end,
        epsilon_updates=learning.epsilon_fraction * total_updates,
        target_rate=learning.target_rate,
        max_grad_norm=learning.max_grad_norm,
        reward_scale=learning.reward_scale,
    )
    return Algorithm(
        lambda key: init_q_state(environment, network, settings, key),
        make_q_chunk(environment, network, settings),
        lambda parameters, greedy: q_chooser(network, parameters, greedy, learning.epsilon_end),
        jax.tree.map(jnp.float32, hyper),
    )
