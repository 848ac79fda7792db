"""A verified set at hand: episodes and samples to learn from."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from leed_jax.demonstrations.execution import (
    Arrange,
    Batch,
    as_it_is,
    demonstration_key,
    execute_batch,
    labelled,
    pick_per_agent,
    plan_batch,
)
from leed_jax.demonstrations.filters import best_episodes, best_plans
from leed_jax.errors import DemonstrationError
from leed_jax.instructions import InstructedEnvironment, Plan, Trajectory
from leed_jax.learning.experts import ExpertSamples, expert_samples


@dataclasses.dataclass(frozen=True)
class DemonstrationSet:
    """A verified set, for the environment that it was loaded for.

    Attributes:
        path: its folder.
        manifest: its manifest, as plain values.
        environment: the environment with its instructions.
        plans: the kept plans, best first, stacked on a leading axis `P`.
        recorded: the recorded episodes, `[N, T, ...]`, or None.
        reset_keys: each plan's own initial state with kind=episodes, else None.
    """

    path: Path
    manifest: Mapping[str, Any]
    environment: InstructedEnvironment
    plans: Plan
    recorded: Trajectory | None
    reset_keys: Key[Array, "P"] | None = None

    @property
    def kind(self) -> str:
        """`relational`: plans for any initial state; `episodes`: each plan for an initial state of its own."""
        return self.manifest["kind"]

    @property
    def recording_s(self) -> float | None:
        """Seconds that the recording took: asking for plans, trying them out, selecting; None if they are unknown.

        Too few where the recording was interrupted: replies that were on disk already took no time when it went on.
        """
        seconds = [entry.get("seconds") for entry in self.manifest["rounds"]]
        known = [float(value) for value in seconds if value is not None]
        return sum(known) if known and len(known) == len(seconds) else None

    def episodes(
        self,
        episodes: int | None = None,
        noise: float = 0.0,
        seed: int = 0,
        plans: int | None = None,
        quantile: float = 0.0,
        per_agent: bool = False,
        number: int | None = None,
        *,
        noise_from: float = 0.0,
        label: str = "instructed",
    ) -> Trajectory:
        """Episodes to learn from, `[N, T, ...]`.

        Their number depends on these settings and on the number of recorded episodes alone, unless `plans` leaves out
        recorded episodes.

        Args:
            episodes: execute the plans again on this many initial states, shared out among the plans; None for the
                recorded arrays. Where each plan has an initial state of its own, those are repeated with other noise.
            noise: the largest share of disturbed actions; episodes are spread evenly between `noise_from` and that.
            seed: seed of the fresh initial states and of the noise.
            plans: use only this many plans, the best by the return that they were selected by; None for all.
            quantile: leave out the episodes whose return is below this quantile of all.
            per_agent: compare each agent's own return, and let every agent have its own best episodes. What stands side
                by side is then no joint episode any more.
            number: of the episodes that are left use at most this many, the best ones; None for all.
            noise_from: the smallest share of disturbed actions.
            label: what stands as `action`: instructed, what the plan wanted; or taken, what noise made of it. With
                noise_from=noise=1 and label=taken that is a random available action throughout.

        Raises:
            DemonstrationError: there are no recorded arrays, and no number of episodes either; or there are no plans,
                or no such label.
        """
        execution = episodes, (noise_from, noise), seed
        return self._collect(labelled(as_it_is, label), execution, plans, (quantile, per_agent, number))

    def samples(
        self,
        episodes: int | None = None,
        noise: float = 0.0,
        seed: int = 0,
        plans: int | None = None,
        quantile: float = 0.0,
        per_agent: bool = False,
        number: int | None = None,
        *,
        noise_from: float = 0.0,
        label: str = "instructed",
    ) -> ExpertSamples:
        """The same episodes, arranged for the expert term in the jitted call that executes them; see `episodes`."""
        execution = episodes, (noise_from, noise), seed
        return self._collect(labelled(expert_samples, label), execution, plans, (quantile, per_agent, number))

    def best(self, number: int | None = None) -> Plan:
        """The best plans by the return that they were selected by, best first, stacked; all of them if None.

        Args:
            number: how many, at most.

        Raises:
            DemonstrationError: there are no plans.
        """
        self._require_plans()
        return self._best(number)[0]

    def returns(self, key: PRNGKeyArray, num_episodes: int) -> Float[Array, "N A"]:
        """What the instructions alone earn, without noise: the best plan on fresh episodes; `key` is consumed.

        With kind=episodes every plan is executed on its own initial state, all of them equally often and at least once.

        Args:
            key: source of the initial states and of the transitions.
            num_episodes: how many episodes, about.

        Raises:
            DemonstrationError: there are no plans.
        """
        self._require_plans()
        number = 1 if self.reset_keys is None else len(self.manifest["plans"])
        chosen, reset_keys = self._best(number)
        episodes = max(1, num_episodes // number) * number
        return execute_batch(
            self.environment, plan_batch(chosen, key, episodes, 0.0, reset_keys), Trajectory.episode_return
        )

    def imitated_returns(
        self,
        key: PRNGKeyArray,
        num_episodes: int,
        plans: int | None = None,
        noise: float = 0.0,
        noise_from: float = 0.0,
        label: str = "instructed",
    ) -> Float[Array, "A"]:
        """Mean undiscounted return of each agent under what is imitated, on fresh episodes; see `trajectories`."""
        how = plans, (noise_from, noise), label
        return jnp.mean(self._imitated(Trajectory.episode_return, key, num_episodes, *how), axis=0)

    def trajectories(
        self,
        key: PRNGKeyArray,
        num_episodes: int,
        plans: int | None = None,
        noise: float = 0.0,
        noise_from: float = 0.0,
        label: str = "instructed",
    ) -> Trajectory:
        """Episodes of what is imitated, `[N, T, ...]`: of a learner that imitates perfectly; `key` is consumed.

        With label=instructed the plans are carried out without noise: who does in every state what it is told to is
        not disturbed. With label=taken the noise is part of what is imitated.

        Args:
            key: source of the initial states, of the transitions and of the noise.
            num_episodes: how many episodes, shared out in turn among the plans.
            plans: use only this many plans, the best ones; None for all.
            noise: the largest share of disturbed actions, as in `episodes`.
            noise_from: the smallest share of disturbed actions.
            label: instructed or taken.

        Raises:
            DemonstrationError: there are no plans, or there is no such label.
        """
        return self._imitated(as_it_is, key, num_episodes, plans, (noise_from, noise), label)

    def _imitated(
        self,
        arrange: Arrange,
        key: PRNGKeyArray,
        num_episodes: int,
        plans: int | None,
        noise: tuple[float, float],
        label: str,
    ) -> Any:
        self._require_plans()
        arranged = labelled(arrange, label)
        batch = self._batch(key, num_episodes, plans, noise if label == "taken" else (0.0, 0.0))
        return execute_batch(self.environment, batch, arranged)

    def _collect(
        self,
        arrange: Arrange,
        execution: tuple[int | None, tuple[float, float], int],
        plans: int | None,
        wanted: tuple[float, bool, int | None],
    ) -> Any:
        episodes, noise, seed = execution
        self._require_plans()
        if episodes is None:
            return _from_recorded(self._recorded(plans), arrange, wanted)
        batch = self._batch(demonstration_key(seed), episodes, plans, noise)
        return _from_execution(self.environment, batch, arrange, wanted)

    def _batch(self, key: PRNGKeyArray, episodes: int, plans: int | None, noise: tuple[float, float]) -> Batch:
        """The best plans in turn, with noise from the first number to the second; `key` is consumed."""
        chosen, reset_keys = self._best(plans)
        smallest, largest = noise
        return plan_batch(chosen, key, episodes, largest, reset_keys, smallest)

    def _require_plans(self) -> None:
        if not self.manifest["plans"]:
            raise DemonstrationError(f"{self.path} holds no plan, so there is nothing to execute; name another set.")

    def _ranked(self, number: int | None) -> list[int]:
        return best_plans([plan["selection_return_per_agent"] for plan in self.manifest["plans"]], number)

    def _best(self, number: int | None) -> tuple[Plan, Key[Array, "P"] | None]:
        rows = np.array(self._ranked(number))
        return jax.tree.map(lambda x: x[rows], (self.plans, self.reset_keys))

    def _recorded(self, plans: int | None) -> Trajectory:
        """The recorded episodes of the best plans; the plans went in turn when they were recorded."""
        if self.recorded is None:
            raise DemonstrationError(f"{self.path} holds plans only; set demonstrations.episodes to execute them.")
        kept = self._ranked(plans)
        count = len(self.manifest["plans"])
        if len(kept) == count:
            return self.recorded
        rows = np.flatnonzero(np.isin(np.arange(len(self.recorded.reward)) % count, kept))
        if not rows.size:
            raise DemonstrationError(
                f"{self.path} has no recorded episode of its best {plans} of {count} plans; set "
                "demonstrations.episodes to execute them, or raise demonstrations.plans."
            )
        return jax.tree.map(lambda x: x[rows], self.recorded)


def _filters_nothing(quantile: float, number: int | None, episodes: int) -> bool:
    return quantile == 0.0 and (number is None or number >= episodes)


def _from_recorded(recorded: Trajectory, arrange: Arrange, wanted: tuple[float, bool, int | None]) -> Any:
    quantile, per_agent, number = wanted
    if _filters_nothing(quantile, number, len(recorded.reward)):
        return arrange(recorded)
    chosen = best_episodes(np.asarray(recorded.episode_return()), quantile, per_agent, number)
    return jax.jit(lambda trajectory, chosen: arrange(pick_per_agent(trajectory, chosen)))(recorded, chosen)


def _from_execution(
    environment: InstructedEnvironment, batch: Batch, arrange: Arrange, wanted: tuple[float, bool, int | None]
) -> Any:
    quantile, per_agent, number = wanted
    if _filters_nothing(quantile, number, len(batch.which)):
        return execute_batch(environment, batch, arrange)
    # Executed twice, first for the returns alone: that takes time, where keeping all episodes would take memory.
    returns = np.asarray(execute_batch(environment, batch, Trajectory.episode_return))
    chosen: Int[np.ndarray, "K A"] = best_episodes(returns, quantile, per_agent, number)
    if per_agent:
        return execute_batch(environment, batch, arrange, jnp.asarray(chosen))
    return execute_batch(environment, batch.take(chosen[:, 0]), arrange)
