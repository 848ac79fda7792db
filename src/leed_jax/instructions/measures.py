"""Two optional protocols for feedback on episodes: measures of states, and descriptions of initial states."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, Shaped

from leed_jax.environments import Environment, Wrapper
from leed_jax.instructions.execute import observe_execution
from leed_jax.instructions.plan import Plan
from leed_jax.instructions.vocabulary import InstructedEnvironment

Summary = Literal["sum", "mean", "last", "first"]
Offering = TypeVar("Offering")


@dataclasses.dataclass(frozen=True)
class Measure:
    """A number that describes a state, and how it is summarised over an episode.

    Attributes:
        name: its key in what `Measured.measure` returns.
        sentence: the summary in a few words, such as "collisions between agents".
        summary: the "sum", "mean" or "last" value over the states after each step; or "first", the number of steps
            until the value is first non-zero, `max_steps` if it never is.
    """

    name: str
    sentence: str
    summary: Summary


@runtime_checkable
class Measured(Protocol):
    """An environment with measures."""

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The measures."""
        ...

    def measure(self, state: Any) -> dict[str, Float[Array, ""]]:
        """The value of each measure in a state, by name; pure and jittable."""
        ...


@runtime_checkable
class DescribesStates(Protocol):
    """An environment that describes initial states, for plans that are written for one of them."""

    def describe_state(self, state: Any) -> str:
        """The facts that decide what to do in one unbatched state of NumPy arrays: distances, not coordinates."""
        ...


def offering(environment: Environment, protocol: type[Offering]) -> Offering | None:
    """The environment, or the one it wraps, that implements `protocol`; None if there is none.

    Wrappers must keep the states of the environment that they wrap.
    """
    found: Any = environment
    while not isinstance(found, protocol):
        if not isinstance(found, Wrapper):
            return None
        found = found.environment
    return found


def measures_of(environment: Environment) -> tuple[Measure, ...]:
    """The environment's measures; none if it is not `Measured`."""
    measured = offering(environment, Measured)  # type: ignore[type-abstract]
    return () if measured is None else tuple(measured.measures)


def episode_measures(environment: Environment, states: Any, active: Bool[Array, "T"]) -> dict[str, Float[Array, ""]]:
    """Summarise one episode: a number per measure, by name. Pure and jittable.

    Args:
        environment: measured or not.
        states: the states after each step, `[T, ...]`, padded to `max_steps`.
        active: which of these steps belong to the episode.
    """
    measured = offering(environment, Measured)  # type: ignore[type-abstract]
    if measured is None or not measured.measures:
        return {}
    values = jax.vmap(measured.measure)(states)
    return {m.name: _summarise(m.summary, values[m.name], active) for m in measured.measures}


def _summarise(summary: Summary, values: Shaped[Array, "T"], active: Bool[Array, "T"]) -> Float[Array, ""]:
    values = values.astype(jnp.float32)
    if summary == "last":
        return values[jnp.sum(active) - 1]
    if summary == "first":
        met = active & (values != 0)
        return jnp.where(jnp.any(met), jnp.argmax(met) + 1, len(values)).astype(jnp.float32)
    total = jnp.sum(jnp.where(active, values, 0.0))
    return total if summary == "sum" else total / jnp.sum(active)


class Execution(NamedTuple):
    """The summary of one execution of a plan.

    Attributes:
        returns: the undiscounted return of each agent, `[A]`.
        measures: a number per measure, by name.
        shares: the share of an agent's steps during which each of its instructions was in force, `[A, K]`.
    """

    returns: Any
    measures: Any
    shares: Any


def measured_execution(
    environment: InstructedEnvironment, plan: Plan, key: PRNGKeyArray, reset_key: PRNGKeyArray | None = None
) -> Execution:
    """Execute a plan for one episode and summarise it; arguments as in `execute`. Pure and jittable."""
    trajectory, states, counter = observe_execution(
        environment, plan, key, lambda _, after, step, counter: (step, after, counter), reset_key=reset_key
    )
    active = trajectory.active
    in_force = (counter[..., None] == jnp.arange(plan.command.shape[-1])) & active[..., None]
    return Execution(
        returns=trajectory.episode_return(),
        measures=episode_measures(environment, states, jnp.any(active, axis=-1)),
        shares=jnp.sum(in_force, axis=0) / jnp.sum(active, axis=0)[:, None],
    )


def measure_lines(environment: Environment, values: Mapping[str, float]) -> list[str]:
    """The measures in words, such as "collisions between agents: 1.20"; `values` has a number per measure."""
    return [f"{m.sentence}: {values[m.name]:.2f}" for m in measures_of(environment)]
