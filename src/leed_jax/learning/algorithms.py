"""The registry of algorithms: what each name stands for."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from leed_jax.environments import Environment, has_continuous_actions
from leed_jax.errors import ConfigurationError
from leed_jax.learning.config import ALGORITHMS, VALUE_BASED, Hparams, imitation_alone
from leed_jax.learning.episodes import Actor, policy_actor, policy_value
from leed_jax.learning.ppo import TrainChunk, init_state, make_train_chunk
from leed_jax.learning.q_learning import init_q_state, make_mixer, make_q_chunk, q_actor
from leed_jax.networks.config import NetworkConfig
from leed_jax.networks.policy import Policy
from leed_jax.networks.values import QNetwork


class Algorithm(NamedTuple):
    """An algorithm for one environment; the functions are pure, jittable, and vmappable over seeds.

    Attributes:
        init: `init(key)` gives the initial training state; it has `parameters` and `update`.
        train_chunk: `train_chunk(state, experts, hparams)` gives the state after a chunk of updates, and its metrics.
        actor: `actor(parameters, greedy)` selects actions with trained parameters.
        value: `value(parameters, obs, carry)` gives each agent's estimated return for observations `[E, A, O]`, and the
            next carry; None is the carry at the start of an episode.
        hparams: the settings, with every number an array.
    """

    init: Callable[[PRNGKeyArray], Any]
    train_chunk: TrainChunk
    actor: Callable[[Any, bool], Actor]
    value: Callable[[Any, Array, Any], tuple[Array, Any]]
    hparams: Hparams


def make_algorithm(
    name: str,
    environment: Environment,
    network: NetworkConfig,
    hparams: Hparams,
    *,
    num_envs: int,
    rollout_steps: int,
    updates_per_chunk: int,
) -> Algorithm:
    """Build an algorithm by name.

    Args:
        name: one of `ALGORITHMS`.
        environment: where to learn.
        network: the agents' networks.
        hparams: the algorithm's settings.
        num_envs: parallel environments, `E`.
        rollout_steps: steps in each environment per update, `T`.
        updates_per_chunk: updates in one dispatch.

    Raises:
        ConfigurationError: there is no such algorithm, or it cannot learn there with these settings.
    """
    if name not in ALGORITHMS:
        raise ConfigurationError(f"algorithm={name}: must be one of {', '.join(ALGORITHMS)}.")
    if name in VALUE_BASED:
        if has_continuous_actions(environment):
            raise ConfigurationError(
                f"algorithm={name} needs discrete actions, and {type(environment).__name__} has continuous ones; use "
                "algorithm=leed, ippo or mappo."
            )
        settings = hparams.q_learning
        q_network = QNetwork.of(environment, network)
        mixer = make_mixer(name, q_network, settings)
        return Algorithm(
            functools.partial(init_q_state, environment, q_network, mixer, num_envs, rollout_steps, settings),
            make_q_chunk(environment, q_network, mixer, rollout_steps, updates_per_chunk),
            lambda parameters, greedy: q_actor(q_network, parameters, greedy, settings.epsilon_end),
            lambda parameters, obs, carry: (jnp.max(q_network.values(parameters.agents, obs), axis=-1), carry),
            hparams.as_arrays(),
        )
    hparams = _hparams_of(name, environment, hparams)
    policy = Policy.of(environment, network, central_critic=name == "mappo")
    return Algorithm(
        functools.partial(init_state, environment, policy, num_envs),
        make_train_chunk(environment, policy, rollout_steps, updates_per_chunk),
        lambda parameters, greedy: policy_actor(policy, parameters, greedy),
        functools.partial(policy_value, policy),
        hparams.as_arrays(),
    )


def _hparams_of(name: str, environment: Environment, hparams: Hparams) -> Hparams:
    """The settings of an algorithm that is a special case of PPO with an expert term."""
    ppo, expert = hparams.ppo, hparams.expert
    if name == "bc":
        ppo, expert = imitation_alone(ppo, expert)
    elif name != "leed":
        expert = dataclasses.replace(expert, adapt="none")
    elif expert.entropy >= 1 and has_continuous_actions(environment):
        raise ConfigurationError(
            f"expert.entropy={expert.entropy}: {type(environment).__name__} has continuous actions, and from 1 on "
            "their standard deviation would grow without bound; set less than 1."
        )
    return dataclasses.replace(hparams, ppo=ppo, expert=expert)
