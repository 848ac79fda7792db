"""Plans executed on held-out episodes, all of them on the same ones, and what came of each."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from leed_jax.errors import EnvironmentContractError
from leed_jax.instructions import Execution, InstructedEnvironment, Plan, Vocabulary, measured_execution, written


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What came of a plan.

    Attributes:
        returns: the undiscounted return of each agent in each episode, `[N, A]`.
        measures: the mean over episodes of each of the environment's measures, by name.
        usage: the instructions that were in force, each with its share of the agents' time, the longest first.
    """

    returns: Float[np.ndarray, "N A"]
    measures: Mapping[str, float]
    usage: tuple[tuple[str, float], ...]

    @property
    def score(self) -> float:
        """Mean return per agent."""
        return float(np.mean(self.returns))

    @property
    def by_agent(self) -> Float[np.ndarray, "A"]:
        """Mean return of each agent."""
        return np.mean(self.returns, axis=0)


class Scorer:
    """Executes plans on one and the same set of episodes, in calls of one size, so that it is compiled once.

    Args:
        environment: where to execute.
        keys: one key per episode, the same ones for every plan.
        batch: the number of plans in one call; fewer are padded.
        initial: keys of particular initial states; each plan starts from one of them in all of its episodes, and `keys`
            decides the rest. None for initial states that come from `keys`.
    """

    def __init__(
        self,
        environment: InstructedEnvironment,
        keys: Key[Array, "N"],
        batch: int,
        initial: Key[Array, "E"] | None = None,
    ) -> None:
        self._environment = environment
        self._keys, self._batch, self._initial = keys, batch, initial

    def results(self, plans: Plan, states: Sequence[int] | Int[np.ndarray, "P"] | None = None) -> list[Result]:
        """Execute plans and tell what came of each.

        Args:
            plans: plans stacked on a leading axis `P`.
            states: for each plan, which of the particular initial states it starts from.

        Raises:
            EnvironmentContractError: a return is not finite.
        """
        executed = self._execute(plans, states)
        command, parameter, length = (np.asarray(x) for x in (plans.command, plans.parameter, plans.length))
        return [
            Result(
                executed.returns[i],
                {name: float(values[i]) for name, values in executed.measures.items()},
                _usage(self._environment.vocabulary, command[i], parameter[i], length[i], executed.shares[i]),
            )
            for i in range(len(length))
        ]

    def scores(self, plans: Plan, states: Sequence[int] | Int[np.ndarray, "P"] | None = None) -> Float[np.ndarray, "P"]:
        """Mean return per agent of each of the stacked plans; see `results`."""
        return np.mean(self._execute(plans, states).returns, axis=(1, 2))

    def _execute(self, plans: Plan, states: Any) -> Execution:
        count = plans.length.shape[0]
        chosen = None if self._initial is None else self._initial[np.asarray(states)]
        parts = []
        for start in range(0, count, self._batch):
            # What is too much in the last part repeats its first plan.
            index = start + np.arange(self._batch)
            index = np.where(index < count, index, start)
            some = jax.tree.map(lambda x, i=index: x[i], (plans, chosen))
            part = _execute(self._environment, *some, self._keys)
            parts.append(jax.tree.map(lambda x, n=count - start: np.asarray(x)[:n], part))
        whole = jax.tree.map(lambda *x: np.concatenate(x), *parts)
        if not np.all(np.isfinite(whole.returns)):
            raise EnvironmentContractError("An executed plan's return is not finite; mend the environment's rewards.")
        return whole


@functools.partial(jax.jit, static_argnames="environment")
def _execute(environment: InstructedEnvironment, plans: Plan, initial: Any, keys: Any) -> Execution:
    """Every plan in every episode: returns, and the means over episodes of all else."""

    def one(plan: Plan, reset_key: Any, key: Any) -> Execution:
        return measured_execution(environment, plan, key, reset_key)

    over_episodes = jax.vmap(one, in_axes=(None, None, 0))
    executed = jax.vmap(over_episodes, in_axes=(0, None if initial is None else 0, None))(plans, initial, keys)
    measures, shares = jax.tree.map(lambda x: jnp.mean(x, axis=1), (executed.measures, executed.shares))
    return Execution(executed.returns, measures, shares)


def _usage(vocabulary: Vocabulary, command: Any, parameter: Any, length: Any, shares: Any) -> Any:
    """The share of all agents' time for which each command and parameter was in force."""
    total: dict[str, float] = {}
    for agent, count in enumerate(length):
        for c, p, share in zip(command[agent, :count], parameter[agent, :count], shares[agent, :count], strict=True):
            words = f"{written(vocabulary.commands[c].name)} {written(vocabulary.parameters[p].name)}"
            total[words] = total.get(words, 0.0) + float(share) / len(length)
    return tuple(sorted(total.items(), key=lambda item: -item[1]))
