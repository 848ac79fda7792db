"""Clipping of continuous actions, and random actions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray

from leed_jax.environments.protocol import Environment, has_continuous_actions


def executable(environment: Environment, action: Array) -> Array:
    """The actions to pass to the environment: continuous ones are clipped to [-1, 1]."""
    return jnp.clip(action, -1.0, 1.0) if has_continuous_actions(environment) else action


def random_actions(environment: Environment, available: Bool[Array, "*B A N"], key: PRNGKeyArray) -> Array:
    """One random action per agent: uniform over the available ones, or over [-1, 1] if actions are continuous.

    Args:
        environment: decides whether actions are continuous; static.
        available: mask of the available actions, or of the components of continuous ones.
        key: source of the actions; consumed.
    """
    if has_continuous_actions(environment):
        return jnp.where(available, jax.random.uniform(key, available.shape, minval=-1.0), 0.0)
    return jax.random.categorical(key, jnp.where(available, 0.0, -jnp.inf)).astype(jnp.int32)
