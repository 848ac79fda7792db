"""Whole fresh episodes, apart from training: how good a policy is, and what it looks like."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray

from leed_jax.environments import Environment
from leed_jax.environments.actions import executable, random_actions
from leed_jax.instructions.measures import episode_measures
from leed_jax.learning.rollout import act_all
from leed_jax.networks.policy import Policy, PolicyParameters


class Chooser(NamedTuple):
    """How actions are picked, with whatever there is to remember from step to step of an episode.

    Attributes:
        start: `start(num_episodes)` gives what is remembered before the first step.
        choose: `choose(key, memory, observation, available)` gives what is remembered from then on, and an action for
            every agent; observations are `[E, A, O]`, available actions `[E, A, N]`.
    """

    start: Callable[[int], Any]
    choose: Callable[[PRNGKeyArray, Any, Array, Array], tuple[Any, Array]]


def forgetful(choose: Callable[[PRNGKeyArray, Array, Array], Array]) -> Chooser:
    """A chooser that remembers nothing, from a function of a key, observations and available actions."""
    return Chooser(
        lambda _: (),
        lambda key, memory, observation, available: (memory, choose(key, observation, available)),
    )


def policy_chooser(policy: Policy, parameters: PolicyParameters, greedy: bool = True) -> Chooser:
    """Every agent acts on its own policy: its most probable action if `greedy`, else a sample."""
    agents = policy.of_agents(parameters)

    def start(num_episodes: int) -> Any:
        memory = policy.empty_memory(num_episodes)
        return None if memory is None else memory.actor

    def choose(key: PRNGKeyArray, memory: Any, observation: Array, available: Array) -> tuple[Any, Array]:
        nowhere = jnp.zeros(observation.shape[0], bool)
        memory, distribution = act_all(policy, agents, memory, policy.see(observation), available, nowhere)
        return memory, distribution.mode() if greedy else distribution.sample(key)[0]

    return Chooser(start, choose)


def random_chooser(environment: Environment) -> Chooser:
    """Every agent picks uniformly among its available actions, or from [-1, 1] where actions are continuous."""
    return forgetful(lambda key, _, available: random_actions(environment, available, key))


class Played(NamedTuple):
    """Whole episodes; past an episode's end, what is in them means nothing.

    Attributes:
        returns: the undiscounted return of each agent in each episode, `[E, A]`.
        before: the states before each step, with leading axes `[T, E]`.
        after: the states after each step, likewise.
        active: whether each agent took part in each step, `[T, E, A]`.
    """

    returns: Any
    before: Any
    after: Any
    active: Any


def play(
    environment: Environment, chooser: Chooser, key: PRNGKeyArray, num_episodes: int
) -> tuple[Float[Array, "E A"], Any]:
    """Play whole episodes. Pure and jittable.

    Args:
        environment: what to act in, without automatic resets; static.
        chooser: how actions are picked.
        key: source of initial states, transitions and sampled actions; consumed.
        num_episodes: the number of episodes, `E`; static.

    Returns:
        The undiscounted return of each agent in each episode, and the states before each step with leading axes `[T,
        E]`; states past an episode's end are to be ignored.
    """
    played = play_through(environment, chooser, key, num_episodes)
    return played.returns, played.before


def play_through(
    environment: Environment,
    chooser: Chooser,
    key: PRNGKeyArray,
    num_episodes: int,
    reset_keys: Key[Array, "E"] | None = None,
) -> Played:
    """Play whole episodes as `play` does, and keep everything about them.

    Args:
        environment: what to act in, without automatic resets; static.
        chooser: how actions are picked.
        key: source of initial states, transitions and sampled actions; consumed.
        num_episodes: the number of episodes, `E`; static.
        reset_keys: the initial states' own keys; None to draw them from `key`.
    """
    reset_key, play_key = jax.random.split(key)
    keys = jax.random.split(reset_key, num_episodes) if reset_keys is None else reset_keys
    state, time_step = jax.vmap(environment.reset)(keys)
    nothing, everybody = jnp.zeros_like(time_step.reward), jnp.ones(time_step.reward.shape, bool)
    start = (state, time_step, nothing, everybody, chooser.start(num_episodes))

    def advance(carry: Any, key: PRNGKeyArray) -> tuple[Any, Any]:
        state, time_step, returns, active, memory = carry
        action_key, step_key = jax.random.split(key)
        memory, action = chooser.choose(action_key, memory, time_step.observation, time_step.available_actions)
        action = executable(environment, action)
        next_state, time_step = jax.vmap(environment.step)(state, action, jax.random.split(step_key, num_episodes))
        returns = returns + jnp.where(active, time_step.reward, 0.0)
        going_on = active & ~time_step.terminated & ~time_step.truncated[:, None]
        return (next_state, time_step, returns, going_on, memory), (state, next_state, active)

    carry, (before, after, active) = jax.lax.scan(advance, start, jax.random.split(play_key, environment.max_steps))
    return Played(carry[2], before, after, active)


def measured_play(
    environment: Environment,
    chooser: Chooser,
    key: PRNGKeyArray,
    num_episodes: int,
    reset_keys: Key[Array, "E"] | None = None,
) -> tuple[Float[Array, "E A"], dict[str, Float[Array, "E"]]]:
    """Returns and measures of whole episodes, played as by `play_through`. Pure and jittable.

    Args:
        environment: what to act in, without automatic resets; static.
        chooser: how actions are picked.
        key: source of initial states, transitions and sampled actions; consumed.
        num_episodes: the number of episodes, `E`; static.
        reset_keys: the initial states' own keys; None to draw them from `key`.

    Returns:
        The undiscounted return of each agent in each episode, and each of the environment's measures of each episode.
    """
    played = play_through(environment, chooser, key, num_episodes, reset_keys)
    sum_up = functools.partial(episode_measures, environment)
    return played.returns, jax.vmap(sum_up, in_axes=1)(played.after, jnp.any(played.active, axis=-1))
