"""A loaded demonstration set: its episodes and samples to learn from, filtered by rank."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from leed_jax.demonstrations.execution import (
    Arrange,
    Batch,
    demonstration_key,
    execute_batch,
    pick_per_agent,
    plan_batch,
    unchanged,
    with_label,
)
from leed_jax.errors import DemonstrationError
from leed_jax.instructions import InstructedEnvironment, Plan, Trajectory
from leed_jax.learning.experts import ExpertSamples, expert_samples


@dataclasses.dataclass(frozen=True)
class DemonstrationSet:
    """A checked set, for the environment that it was loaded for.

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
        """Seconds that the recording took, or None if unknown; after an interruption those of the last part only."""
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
        arrange: Arrange = unchanged,
    ) -> Any:
        """Episodes to learn from, `[N, T, ...]`; their number depends only on these settings and the recorded number.

        Args:
            episodes: execute the plans again on this many initial states, in turn; None for the recorded arrays. Where
                each plan has an initial state of its own, those are repeated with other noise.
            noise: the largest share of disturbed actions; episodes are spread evenly between `noise_from` and that.
            seed: seed of the fresh initial states and of the noise.
            plans: use only this many plans, the best by selection return; None for all.
            quantile: leave out the episodes whose return is below this quantile of all.
            per_agent: compare each agent's own return, and give every agent its own best episodes, which are then no
                joint episodes.
            number: of the remaining episodes use at most this many, the best ones; None for all.
            noise_from: the smallest share of disturbed actions.
            label: what `action` holds: instructed, the plan's action; or taken, the action after noise. With
                noise_from=noise=1 and label=taken that is a random available action throughout.
            arrange: applied to the episodes inside the jitted call; its result is returned.

        Raises:
            DemonstrationError: there are neither recorded arrays nor a number of episodes, or no plans, or no such
                label.
        """
        arrange = with_label(arrange, label)
        self._require_plans()
        if episodes is None:
            recorded = self._recorded(plans)
            if _keeps_all(quantile, number, len(recorded.reward)):
                return arrange(recorded)
            chosen = best_episodes(np.asarray(recorded.episode_return()), quantile, per_agent, number)
            return jax.jit(lambda trajectory, chosen: arrange(pick_per_agent(trajectory, chosen)))(recorded, chosen)
        batch = self._batch(demonstration_key(seed), episodes, plans, noise_from, noise)
        if _keeps_all(quantile, number, episodes):
            return execute_batch(self.environment, batch, arrange)
        # Executed twice, first for the returns alone, as keeping all episodes would take too much memory.
        returns = np.asarray(execute_batch(self.environment, batch, Trajectory.episode_return))
        chosen = best_episodes(returns, quantile, per_agent, number)
        if per_agent:
            return execute_batch(self.environment, batch, arrange, jnp.asarray(chosen))
        return execute_batch(self.environment, batch.take(chosen[:, 0]), arrange)

    def samples(self, episodes: int | None = None, **kwargs: Any) -> ExpertSamples:
        """The same episodes arranged for the expert term; see `episodes` for the arguments."""
        return self.episodes(episodes, **kwargs, arrange=expert_samples)

    def best(self, number: int | None = None) -> Plan:
        """The best plans by selection return, at most `number` of them, best first, stacked."""
        self._require_plans()
        return self._best(number)[0]

    def returns(self, key: PRNGKeyArray, num_episodes: int) -> Float[Array, "N A"]:
        """Returns of the plans alone, without noise: of the best plan in fresh episodes; `key` is consumed.

        With kind=episodes every plan is executed on its own initial state, all of them equally often and at least once,
        so that the number of episodes may differ.
        """
        self._require_plans()
        number = 1 if self.reset_keys is None else len(self.manifest["plans"])
        episodes = max(1, num_episodes // number) * number
        return execute_batch(self.environment, self._batch(key, episodes, number), Trajectory.episode_return)

    def imitated_returns(self, key: PRNGKeyArray, num_episodes: int, **kwargs: Any) -> Float[Array, "A"]:
        """Mean undiscounted return of each agent in `trajectories`, which has the same arguments."""
        returns = self.trajectories(key, num_episodes, **kwargs, arrange=Trajectory.episode_return)
        return jnp.mean(returns, axis=0)

    def trajectories(
        self,
        key: PRNGKeyArray,
        num_episodes: int,
        plans: int | None = None,
        noise: float = 0.0,
        noise_from: float = 0.0,
        label: str = "instructed",
        arrange: Arrange = unchanged,
    ) -> Any:
        """Fresh episodes of a learner that imitates perfectly, `[N, T, ...]`; `key` is consumed.

        With label=instructed the plans are executed without noise; with label=taken the noise is imitated, too.

        Args:
            key: source of the initial states, of the transitions and of the noise.
            num_episodes: how many episodes, shared among the plans in turn.
            plans: as in `episodes`, and so are the others.
            noise: the largest share of disturbed actions.
            noise_from: the smallest share of disturbed actions.
            label: instructed or taken.
            arrange: applied to the episodes.

        Raises:
            DemonstrationError: there are no plans, or there is no such label.
        """
        self._require_plans()
        arrange = with_label(arrange, label)
        low, high = (noise_from, noise) if label == "taken" else (0.0, 0.0)
        return execute_batch(self.environment, self._batch(key, num_episodes, plans, low, high), arrange)

    def _batch(
        self, key: PRNGKeyArray, episodes: int, plans: int | None, noise_from: float = 0.0, noise: float = 0.0
    ) -> Batch:
        """The best plans in turn; `key` is consumed."""
        chosen, reset_keys = self._best(plans)
        return plan_batch(chosen, key, episodes, noise, reset_keys, noise_from)

    def _require_plans(self) -> None:
        if not self.manifest["plans"]:
            raise DemonstrationError(f"{self.path} holds no plan, so there is nothing to execute; name another set.")

    def _ranked(self, number: int | None) -> list[int]:
        return best_plans([plan["selection_return_per_agent"] for plan in self.manifest["plans"]], number)

    def _best(self, number: int | None) -> tuple[Plan, Key[Array, "P"] | None]:
        rows = np.array(self._ranked(number))
        return jax.tree.map(lambda x: x[rows], (self.plans, self.reset_keys))

    def _recorded(self, plans: int | None) -> Trajectory:
        """The recorded episodes of the best plans; episode i is of plan i modulo their number."""
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


def best_plans(scores: Sequence[float | None], number: int | None) -> list[int]:
    """Positions of the best plans, best first, at most `number`; those without a score come last, ties keep order."""
    order = sorted(range(len(scores)), key=lambda i: math.inf if scores[i] is None else -float(scores[i] or 0.0))
    return order[:number]


def kept_episodes(episodes: int, quantile: float, number: int | None) -> int:
    """How many of `episodes` are kept; not depending on returns, so that a compiled program fits other sets, too."""
    # Of n distinct sorted numbers, ceil(q (n - 1)) are below the quantile q; 1e-9 absorbs rounding as in 0.1 x 30.
    below = math.ceil(quantile * (episodes - 1) - 1e-9)
    return episodes - below if number is None else min(episodes - below, number)


def best_episodes(
    returns: Float[np.ndarray, "N A"], quantile: float = 0.0, per_agent: bool = False, number: int | None = None
) -> Int[np.ndarray, "K A"]:
    """The episodes that each agent learns from, in ascending order; ties are taken in order.

    Args:
        returns: each agent's return in each episode.
        quantile: episodes whose return is below this quantile of all are left out.
        per_agent: compare each agent's own returns; otherwise the mean over the agents, so that all columns are equal.
        number: of the remaining episodes, the number of the best to keep; None for all.
    """
    scores = returns if per_agent else np.broadcast_to(returns.mean(axis=1, keepdims=True), returns.shape)
    order = np.argsort(-scores, axis=0, kind="stable")
    return np.sort(order[: kept_episodes(len(returns), quantile, number)], axis=0)


def _keeps_all(quantile: float, number: int | None, episodes: int) -> bool:
    return quantile == 0.0 and (number is None or number >= episodes)
