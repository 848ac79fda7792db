"""The environment seam: what the engine asks of an environment, and nothing about any one of them.

An environment is an immutable, hashable object (a frozen dataclass is the natural form) whose `reset` and `step` are
pure, jittable functions on arrays with the agents on the leading axis. See `envs/mpe_spread.py` for one to start from
and `leed_jax.check_environment` for the contract that every one is put through.
"""

from typing import Any, Protocol, TypeVar, runtime_checkable

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

State = TypeVar("State")

Action = Int[Array, "A"] | Float[Array, "A N"]
"""One action for each agent: a number, or where actions are continuous a vector."""


@struct.dataclass
class TimeStep:
    """What the agents receive after a reset or a step.

    Attributes:
        observation: what to act on next. After an automatic reset it belongs to the new episode.
        final_observation: what the action led to, before any automatic reset; elsewhere equal to `observation`.
            Values at a time limit are bootstrapped from it.
        reward: one reward per agent for the action just taken; zero after a reset.
        terminated: the agent's task has ended: nothing follows, and no value is bootstrapped. It stays so to the end of
            the episode, and what the agent does and earns until then counts for nothing.
        truncated: the episode was cut off, by a time limit for instance: the value of what follows still counts.
        available_actions: which actions each agent may take next; with continuous actions, which components its actions
            have. Agents with fewer actions than others, or shorter observations, are padded.
    """

    observation: Float[Array, "A O"]
    final_observation: Float[Array, "A O"]
    reward: Float[Array, "A"]
    terminated: Bool[Array, "A"]
    truncated: Bool[Array, ""]
    available_actions: Bool[Array, "A N"]

    def episode_over(self) -> Bool[Array, ""]:
        """Whether the episode is over: cut off, or every agent terminated."""
        return self.truncated | jnp.all(self.terminated)


@runtime_checkable
class Environment(Protocol[State]):
    """A multi-agent environment.

    Implementations are hashable and compare by value, as they are static arguments of jitted functions. Actions are
    numbers, unless there is an attribute `continuous` that is true: then they are vectors with `num_actions` components
    in [-1, 1].
    """

    @property
    def num_agents(self) -> int:
        """The number of agents, `A`."""
        ...

    @property
    def observation_size(self) -> int:
        """The length of one agent's observation, `O`."""
        ...

    @property
    def num_actions(self) -> int:
        """The number of actions of an agent, or of the components of its action where those are continuous, `N`."""
        ...

    @property
    def max_steps(self) -> int:
        """The number of steps after which every episode is over."""
        ...

    def reset(self, key: PRNGKeyArray) -> tuple[State, TimeStep]:
        """Start an episode.

        Args:
            key: source of the initial state; consumed.
        """
        ...

    def step(self, state: State, action: Action, key: PRNGKeyArray) -> tuple[State, TimeStep]:
        """Take one action per agent.

        Args:
            state: the state that `reset` or `step` returned last.
            action: one action per agent, each in `[0, num_actions)`, or a vector of `num_actions` in [-1, 1].
            key: source of the transition's randomness; consumed.
        """
        ...


def has_continuous_actions(environment: Environment) -> bool:
    """Whether actions are vectors of real numbers."""
    return bool(getattr(environment, "continuous", False))


@runtime_checkable
class Drawable(Protocol):
    """An environment that can draw a state, for the animations of the report."""

    def draw(self, axes: Any, state: Any) -> None:
        """Draw one state on a matplotlib axes that has just been cleared.

        Args:
            axes: a `matplotlib.axes.Axes`.
            state: one unbatched state, as NumPy arrays.
        """
        ...
