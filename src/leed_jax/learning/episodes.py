"""Whole fresh episodes: for evaluation, animation, and the returns of experts."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, PRNGKeyArray

from leed_jax.environments import Environment, reset_env, step_env
from leed_jax.environments.actions import executable, random_actions
from leed_jax.instructions.measures import episode_measures
from leed_jax.networks.policy import Policy, PolicyParameters, distributions_of_agents, values_of_agents


class Actor(NamedTuple):
    """How actions are selected, with a carry from step to step of an episode.

    Attributes:
        init: `init(num_episodes)` gives the carry at the start of an episode.
        select_actions: `select_actions(carry, obs, available, key)` gives the next carry and an action for every agent;
            `obs` is `[E, A, O]`, `available` is `[E, A, N]`, and `key` is consumed.
    """

    init: Callable[[int], Any]
    select_actions: Callable[[Any, Array, Array, PRNGKeyArray], tuple[Any, Array]]


def stateless_actor(select: Callable[[Array, Array, PRNGKeyArray], Array]) -> Actor:
    """An actor without carry, from a function of observations, available actions and a key."""
    return Actor(lambda _: (), lambda carry, obs, available, key: (carry, select(obs, available, key)))


def policy_actor(policy: Policy, parameters: PolicyParameters, greedy: bool = True) -> Actor:
    """Every agent acts on its own policy: its most probable action if `greedy`, else a sample."""
    agents = policy.of_agents(parameters)

    def init(num_episodes: int) -> Any:
        hidden = policy.init_hidden(num_episodes)
        return None if hidden is None else hidden.actor

    def select_actions(carry: Any, obs: Array, available: Array, key: PRNGKeyArray) -> tuple[Any, Array]:
        not_first = jnp.zeros(obs.shape[0], bool)
        carry, distribution = distributions_of_agents(
            policy, agents, carry, policy.actor_input(obs), available, not_first
        )
        return carry, distribution.mode() if greedy else distribution.sample(key)[0]

    return Actor(init, select_actions)


def policy_value(
    policy: Policy, parameters: PolicyParameters, obs: Float[Array, "E A O"], carry: Any = None
) -> tuple[Float[Array, "E A"], Any]:
    """Each agent's estimate of its return, and the carry of recurrent critics; None is that of an episode's start."""
    hidden = policy.init_hidden(obs.shape[0])
    carry = hidden.critic if carry is None and hidden is not None else carry
    not_first = jnp.zeros(obs.shape[0], bool)
    carry, value = values_of_agents(policy, policy.of_agents(parameters), carry, obs, not_first)
    return value, carry


def random_actor(environment: Environment) -> Actor:
    """Every agent picks uniformly among its available actions, or from [-1, 1] where actions are continuous."""
    return stateless_actor(lambda _, available, key: random_actions(environment, available, key))


class Episodes(NamedTuple):
    """Whole episodes. Steps after an episode's end are meaningless; `active` is false there.

    Attributes:
        returns: the undiscounted return of each agent in each episode.
        before: the environment's states before each step, with leading axes `[T, E]`.
        after: the states after each step, likewise.
        active: whether each agent took part in each step.
    """

    returns: Float[Array, "E A"]
    before: Any
    after: Any
    active: Bool[Array, "T E A"]


def play_episodes(
    environment: Environment,
    actor: Actor,
    key: PRNGKeyArray,
    num_episodes: int,
    reset_keys: Key[Array, "E"] | None = None,
) -> Episodes:
    """Play whole episodes. Pure and jittable.

    Args:
        environment: what to act in, without automatic resets; static.
        actor: selects the actions.
        key: source of initial states, transitions and sampled actions; consumed.
        num_episodes: the number of episodes, `E`; static.
        reset_keys: the initial states' own keys; None to draw them from `key`.
    """
    reset_key, play_key = jax.random.split(key)
    keys = jax.random.split(reset_key, num_episodes) if reset_keys is None else reset_keys
    state, time_step = jax.vmap(functools.partial(reset_env, environment))(keys)
    returns, active = jnp.zeros_like(time_step.reward), jnp.ones(time_step.reward.shape, bool)
    start = (state, time_step, returns, active, actor.init(num_episodes))

    def advance(carry: Any, key: PRNGKeyArray) -> tuple[Any, Any]:
        state, time_step, returns, active, actor_carry = carry
        action_key, step_key = jax.random.split(key)
        actor_carry, action = actor.select_actions(
            actor_carry, time_step.observation, time_step.available_actions, action_key
        )
        action = executable(environment, action)
        step = functools.partial(step_env, environment)
        next_state, time_step = jax.vmap(step)(state, action, jax.random.split(step_key, num_episodes))
        returns = returns + jnp.where(active, time_step.reward, 0.0)
        still_active = active & ~time_step.terminated & ~time_step.truncated[:, None]
        return (next_state, time_step, returns, still_active, actor_carry), (state, next_state, active)

    carry, (before, after, active) = jax.lax.scan(advance, start, jax.random.split(play_key, environment.max_steps))
    return Episodes(carry[2], before, after, active)


def play(
    environment: Environment, actor: Actor, key: PRNGKeyArray, num_episodes: int
) -> tuple[Float[Array, "E A"], Any]:
    """Play whole episodes as `play_episodes` does.

    Returns:
        The undiscounted return of each agent in each episode, and the states before each step, `[T, E]`.
    """
    episodes = play_episodes(environment, actor, key, num_episodes)
    return episodes.returns, episodes.before


def measured_play(
    environment: Environment,
    actor: Actor,
    key: PRNGKeyArray,
    num_episodes: int,
    reset_keys: Key[Array, "E"] | None = None,
) -> tuple[Float[Array, "E A"], dict[str, Float[Array, "E"]]]:
    """Play whole episodes as `play_episodes` does.

    Returns:
        The undiscounted return of each agent in each episode, and each of the environment's measures of each episode.
    """
    episodes = play_episodes(environment, actor, key, num_episodes, reset_keys)
    measure = functools.partial(episode_measures, environment)
    return episodes.returns, jax.vmap(measure, in_axes=1)(episodes.after, jnp.any(episodes.active, axis=-1))
