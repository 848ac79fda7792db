"""The environment protocol, time steps and wrappers; `contract` checks an environment against the protocol."""

from leed_jax.environments.protocol import (
    Action,
    Drawable,
    Environment,
    State,
    TimeStep,
    fill_defaults,
    has_continuous_actions,
    reset_env,
    step_env,
)
from leed_jax.environments.wrappers import AutoReset, Wrapper

__all__ = [
    "Action",
    "AutoReset",
    "Drawable",
    "Environment",
    "State",
    "TimeStep",
    "Wrapper",
    "fill_defaults",
    "has_continuous_actions",
    "reset_env",
    "step_env",
]
