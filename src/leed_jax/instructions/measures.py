"""What happened in an episode, in figures that the environment names: for feedback to a model, and to people.

Two optional protocols. An environment that keeps `Measured` tells figures of each state (collisions, landmarks without
an agent), which are summed up over whole episodes, of plans and of policies alike. One that keeps `DescribesStates`
tells the facts about one initial state in words, for plans that are written for that state alone.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, Shaped

from leed_jax.environments import Environment, Wrapper
from leed_jax.instructions.execute import Trajectory, observe_execution
from leed_jax.instructions.plan import Plan
from leed_jax.instructions.vocabulary import InstructedEnvironment

Summary = Literal["sum", "mean", "last", "first"]
Offering = TypeVar("Offering")


@dataclasses.dataclass(frozen=True)
class Measure:
    """A figure of each state, and how an episode is summed up in one number.

    Attributes:
        name: its key in what `Measured.measure` returns.
        sentence: what the episode's number is, in a few words, as in "collisions between agents".
        summary: of the states after each step, the "sum", the "mean" or the "last" figure; or "first", the number of
            steps until the figure is first not zero, and `max_steps` if it never is.
    """

    name: str
    sentence: str
    summary: Summary


@runtime_checkable
class Measured(Protocol):
    """An environment that can tell what happened."""

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What is measured."""
        ...

    def measure(self, state: Any) -> dict[str, Float[Array, ""]]:
        """The figure of each measure in a state, by name; pure and jittable."""
        ...


@runtime_checkable
class DescribesStates(Protocol):
    """An environment that can put one initial state into words."""

    def describe_state(self, state: Any) -> str:
        """The facts that decide what to do in this state, computed and rounded: distances rather than coordinates.

        Args:
            state: one unbatched state, as NumPy arrays.
        """
        ...


def offering(environment: Environment, protocol: type[Offering]) -> Offering | None:
    """The environment, or the one that it wraps, that keeps an optional protocol on states; None if there is none.

    Args:
        environment: an environment; a wrapper must have the states of what it wraps.
        protocol: `Measured` or `DescribesStates`.
    """
    found: Any = environment
    while not isinstance(found, protocol):
        if not isinstance(found, Wrapper):
            return None
        found = found.environment
    return found


def measures_of(environment: Environment) -> tuple[Measure, ...]:
    """What the environment measures; nothing if it does not."""
    measured = offering(environment, Measured)  # type: ignore[type-abstract]
    return () if measured is None else tuple(measured.measures)


def episode_measures(environment: Environment, states: Any, active: Bool[Array, "T"]) -> dict[str, Float[Array, ""]]:
    """Sum one episode up. Pure and jittable.

    Args:
        environment: measured or not.
        states: the states after each step, `[T, ...]`, padded to `max_steps`.
        active: whether each of these steps belongs to the episode.

    Returns:
        A number per measure, by name; nothing if the environment measures nothing.
    """
    measured = offering(environment, Measured)  # type: ignore[type-abstract]
    if measured is None or not measured.measures:
        return {}
    figures = jax.vmap(measured.measure)(states)
    return {m.name: _summarise(m.summary, figures[m.name], active) for m in measured.measures}


def _summarise(summary: Summary, figures: Shaped[Array, "T"], active: Bool[Array, "T"]) -> Float[Array, ""]:
    figures = figures.astype(jnp.float32)
    if summary == "last":
        return figures[jnp.sum(active) - 1]
    if summary == "first":
        met = active & (figures != 0)
        return jnp.where(jnp.any(met), jnp.argmax(met) + 1, len(figures)).astype(jnp.float32)
    total = jnp.sum(jnp.where(active, figures, 0.0))
    return total if summary == "sum" else total / jnp.sum(active)


class Execution(NamedTuple):
    """One execution of a plan, summed up.

    Attributes:
        returns: the undiscounted return of each agent, `[A]`.
        measures: a number per measure, by name.
        shares: for each agent and each of its instructions, the share of its steps for which that was in force,
            `[A, K]`.
    """

    returns: Any
    measures: Any
    shares: Any


def measured_execution(
    environment: InstructedEnvironment, plan: Plan, key: PRNGKeyArray, reset_key: PRNGKeyArray | None = None
) -> Execution:
    """Execute a plan for one episode, as `execute` does, and tell what happened. Pure and jittable.

    Args:
        environment: where to execute; static.
        plan: one plan, without leading axes.
        key: source of the initial state and of the transitions; consumed.
        reset_key: source of the initial state, where it is a particular one.
    """

    def keep(state: Any, following: Any, step: Trajectory, counter: Array) -> Any:
        del state
        return step, following, counter

    trajectory, states, counter = observe_execution(environment, plan, key, keep, reset_key=reset_key)
    active = trajectory.active
    in_force = (counter[..., None] == jnp.arange(plan.command.shape[-1])) & active[..., None]
    return Execution(
        returns=trajectory.episode_return(),
        measures=episode_measures(environment, states, jnp.any(active, axis=-1)),
        shares=jnp.sum(in_force, axis=0) / jnp.sum(active, axis=0)[:, None],
    )


def measure_lines(environment: Environment, figures: Mapping[str, float]) -> list[str]:
    """The means of measures in words, as in "collisions between agents: 1.20".

    Args:
        environment: what was measured.
        figures: a number per measure, by name.
    """
    return [f"{m.sentence}: {figures[m.name]:.2f}" for m in measures_of(environment)]
