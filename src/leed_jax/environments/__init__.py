"""Environments: the protocol, time steps, wrappers, and the contract check. Knows nothing else of the package."""

from leed_jax.environments.protocol import Action, Drawable, Environment, State, TimeStep, has_continuous_actions
from leed_jax.environments.wrappers import AutoReset, Wrapper

__all__ = [
    "Action",
    "AutoReset",
    "Drawable",
    "Environment",
    "State",
    "TimeStep",
    "Wrapper",
    "has_continuous_actions",
]
