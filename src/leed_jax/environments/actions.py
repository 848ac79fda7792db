"""Actions as environments take them, and at random."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray

from leed_jax.environments.protocol import Environment, has_continuous_actions


def executable(environment: Environment, action: Array) -> Array:
    """Actions as environments take them: continuous ones are clipped to [-1, 1]."""
    return jnp.clip(action, -1.0, 1.0) if has_continuous_actions(environment) else action


def random_actions(environment: Environment, available: Bool[Array, "*B A N"], key: PRNGKeyArray) -> Array:
    """One action per agent, uniformly among the available ones, or from [-1, 1] where actions are continuous.

    Args:
        environment: decides whether actions are continuous; static.
        available: which actions there are, or which components they have.
        key: source of the draw; consumed.
    """
    if has_continuous_actions(environment):
        return jnp.where(available, jax.random.uniform(key, available.shape, minval=-1.0), 0.0)
    return jax.random.categorical(key, jnp.where(available, 0.0, -jnp.inf)).astype(jnp.int32)
