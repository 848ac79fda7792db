"""Whole fresh episodes, apart from training: how good a policy is, and what it looks like."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from leed_jax.environment import Environment
from leed_jax.policy import Policy, PolicyParameters, greedy_action, sample_action
from leed_jax.rollout import all_logits

Chooser = Callable[[PRNGKeyArray, Float[Array, "E A O"], Bool[Array, "E A N"]], Int[Array, "E A"]]
"""Picks an action for every agent from a key, observations and available actions."""


def policy_chooser(policy: Policy, parameters: PolicyParameters, greedy: bool = True) -> Chooser:
    """Every agent acts on its own policy: its most probable action if `greedy`, else a sample."""

    def choose(key: PRNGKeyArray, observation: Array, available: Array) -> Array:
        logits = all_logits(policy, parameters, observation, available)
        return greedy_action(logits) if greedy else sample_action(logits, key)[0]

    return choose


def random_chooser(key: PRNGKeyArray, observation: Float[Array, "E A O"], available: Bool[Array, "E A N"]) -> Array:
    """Every agent picks uniformly among its available actions."""
    del observation
    return jax.random.categorical(key, jnp.where(available, 0.0, -jnp.inf)).astype(jnp.int32)


def play(
    environment: Environment, choose: Chooser, key: PRNGKeyArray, num_episodes: int
) -> tuple[Float[Array, "E A"], Any]:
    """Play whole episodes. Pure and jittable.

    Args:
        environment: what to act in, without automatic resets; static.
        choose: how actions are picked.
        key: source of initial states, transitions and sampled actions; consumed.
        num_episodes: the number of episodes, `E`; static.

    Returns:
        The undiscounted return of each agent in each episode, and the states before each step with leading axes `[T,
        E]`; states past an episode's end are to be ignored.
    """
    reset_key, play_key = jax.random.split(key)
    state, time_step = jax.vmap(environment.reset)(jax.random.split(reset_key, num_episodes))
    start = (state, time_step, jnp.zeros_like(time_step.reward), jnp.ones(num_episodes, bool))

    def advance(carry: Any, key: PRNGKeyArray) -> tuple[Any, Any]:
        state, time_step, returns, active = carry
        action_key, step_key = jax.random.split(key)
        action = choose(action_key, time_step.observation, time_step.available_actions)
        next_state, time_step = jax.vmap(environment.step)(state, action, jax.random.split(step_key, num_episodes))
        returns = returns + jnp.where(active[:, None], time_step.reward, 0.0)
        active = active & ~jax.vmap(lambda step: step.episode_over())(time_step)
        return (next_state, time_step, returns, active), state

    carry, states = jax.lax.scan(advance, start, jax.random.split(play_key, environment.max_steps))
    return carry[2], states
