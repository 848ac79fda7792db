"""The protocol of environments.

An environment is an immutable, hashable object, for example a frozen dataclass, whose `reset` and `step` are pure,
jittable functions of arrays with agents on the leading axis. `envs/mpe_spread.py` is an example to start from, and
`leed_jax.check_environment` checks an environment against the protocol.
"""

from typing import Any, Protocol, TypeVar, runtime_checkable

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

State = TypeVar("State")

Action = Int[Array, "A"] | Float[Array, "A N"]
"""One action per agent: an index, or a vector if actions are continuous."""


@struct.dataclass
class TimeStep:
    """What an environment returns from a reset or a step.

    Environments may leave out the fields with a default; `reset_env` and `step_env` fill them in.

    Attributes:
        observation: the observation to act on next. After an automatic reset it belongs to the new episode.
        reward: each agent's reward for the last action; zero after a reset.
        terminated: which agents have terminated: no value is bootstrapped for them. An agent stays terminated until the
            episode ends, and its actions and rewards until then are ignored. Default: none.
        truncated: whether the episode was cut off, for example by a time limit; values are bootstrapped. Default: no.
        available_actions: mask of the actions that each agent may take next; with continuous actions, of the components
            that its actions have. Use it to pad agents with fewer actions than others. Default: all.
        final_observation: the observation that the action led to, before an automatic reset. Default: `observation`.
        final_available_actions: the same for the available actions. Default: `available_actions`.
    """

    observation: Float[Array, "A O"]
    reward: Float[Array, "A"]
    terminated: Bool[Array, "A"] = struct.field(default=None)
    truncated: Bool[Array, ""] = struct.field(default=None)
    available_actions: Bool[Array, "A N"] = struct.field(default=None)
    final_observation: Float[Array, "A O"] = struct.field(default=None)
    final_available_actions: Bool[Array, "A N"] = struct.field(default=None)

    def done(self) -> Bool[Array, ""]:
        """Whether the episode is over: truncated, or every agent terminated."""
        truncated = jnp.zeros((), bool) if self.truncated is None else self.truncated
        return truncated if self.terminated is None else truncated | jnp.all(self.terminated)


@runtime_checkable
class Environment(Protocol[State]):
    """A multi-agent environment.

    Implementations are hashable and compare by value, as they are static arguments of jitted functions. Actions are
    indices, or, if the environment has an attribute `continuous` that is true, vectors of `num_actions` components in
    [-1, 1].
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
        """The number of actions of an agent, or of components of its action if actions are continuous, `N`."""
        ...

    @property
    def max_steps(self) -> int:
        """The largest number of steps of an episode."""
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
            state: the current state.
            action: one action per agent, an index in `[0, num_actions)` or a vector in [-1, 1].
            key: source of the transition's randomness; consumed.
        """
        ...


def has_continuous_actions(environment: Environment) -> bool:
    """Whether actions are continuous."""
    return bool(getattr(environment, "continuous", False))


def reset_env(environment: Environment, key: PRNGKeyArray) -> tuple[Any, TimeStep]:
    """Call `environment.reset`, with every field of the time step filled in."""
    state, time_step = environment.reset(key)
    return state, fill_defaults(environment, time_step)


def step_env(environment: Environment, state: Any, action: Action, key: PRNGKeyArray) -> tuple[Any, TimeStep]:
    """Call `environment.step`, with every field of the time step filled in."""
    state, time_step = environment.step(state, action, key)
    return state, fill_defaults(environment, time_step)


def fill_defaults(environment: Environment, time_step: TimeStep) -> TimeStep:
    """The time step with its defaults in place of the fields that the environment left out."""

    def default(value: Any, otherwise: Any) -> Any:
        return otherwise if value is None else value

    agents, actions = environment.num_agents, environment.num_actions
    available = default(time_step.available_actions, jnp.ones((agents, actions), bool))
    return time_step.replace(  # type: ignore[attr-defined]
        terminated=default(time_step.terminated, jnp.zeros(agents, bool)),
        truncated=default(time_step.truncated, jnp.zeros((), bool)),
        available_actions=available,
        final_observation=default(time_step.final_observation, time_step.observation),
        final_available_actions=default(time_step.final_available_actions, available),
    )


@runtime_checkable
class Drawable(Protocol):
    """An environment that can draw a state, for the animations of the report.

    Animations also show a trail behind each agent if there is a method `positions(state)` that returns where the agents
    are on the axes, `[A, 2]`. Trails have the colours `C0` to `C9`, in the order of the agents.
    """

    def draw(self, axes: Any, state: Any) -> None:
        """Draw one state on cleared matplotlib axes.

        Args:
            axes: the `matplotlib.axes.Axes`.
            state: one unbatched state, as NumPy arrays.
        """
        ...
