"""A generation's figures worked out again, from its seed and its numbers of episodes: plans, control, random actions.

Imported by `verify` alone, as `replies` is, and for the same reason.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from leed_jax.demonstrations.execution import initial_state_keys
from leed_jax.demonstrations.format import MANIFEST, MEND, is_number
from leed_jax.demonstrations.sets import DemonstrationSet
from leed_jax.errors import DemonstrationError
from leed_jax.generation.control import best_of, random_plan_scores
from leed_jax.generation.kinds import Keys, random_play
from leed_jax.generation.replies import Entry, Line, asked_until
from leed_jax.generation.scoring import Scorer
from leed_jax.instructions import InstructedEnvironment, printable, stack_plans

# Another processor may round differently, which can tip a close decision in an episode now and then.
_SHARE_OF_SCALE = 0.01
_MAX_EPISODES = 2**17
_MAX_STATES = 10_000
_AT_ONCE = 16_384
_CONTROL_STEPS = 2 * 10**8
_QUICK_CONTROL = 400
_LEAST_CONTROL = 64
_STANDARD_ERRORS = 5.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides a generation's figures.

    Attributes:
        seed: source of all episodes and of the control.
        selection_episodes: episodes that plans were selected on.
        report_episodes: episodes that kept plans were reported on.
        control_plans: random plans that the control was drawn from.
        candidates: candidates of a round.
        states: the number of initial states that have plans of their own, or 0.
        states_seed: their seed, or None.
    """

    seed: int
    selection_episodes: int
    report_episodes: int
    control_plans: int
    candidates: int
    states: int
    states_seed: int | None


def recorded_settings(loaded: DemonstrationSet) -> Settings | None:
    """What the manifest tells of a generation's settings; None for a set that tells of no generation.

    Raises:
        DemonstrationError: it tells of rounds, and not of what their figures follow from.
    """
    manifest = loaded.manifest
    settings, states_seed = manifest["settings"], manifest["states_seed"]
    limits = {"seed": (0, 2**63), "selection_episodes": (1, _MAX_EPISODES), "report_episodes": (1, _MAX_EPISODES)}
    limits |= {"control_plans": (1, 10**7), "candidates": (1, 10**7)}
    if states_seed is not None:
        limits["episodes"] = (1, _MAX_STATES)
    if not manifest["rounds"] and "seed" not in settings:
        return None
    for name, (low, high) in limits.items():
        value = settings.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise DemonstrationError(
                f"{loaded.path / MANIFEST}: settings.{name} is {printable(repr(value))}; to work the figures out "
                f"again, a whole number from {low} to {high} is needed. {MEND}"
            )
    names = ("seed", "selection_episodes", "report_episodes", "control_plans", "candidates")
    chosen = {name: settings[name] for name in names}
    states = 0 if states_seed is None else settings["episodes"]
    return Settings(**chosen, states=states, states_seed=states_seed)


class Again:
    """Executes what a generation executed, on the very same episodes.

    Args:
        loaded: the set.
        settings: what its figures follow from.
        quick: try only some of the control's plans.
    """

    def __init__(self, loaded: DemonstrationSet, settings: Settings, quick: bool) -> None:
        self._loaded, self._settings, self._quick = loaded, settings, quick
        self._path = loaded.path / MANIFEST
        # Environments are static arguments of jitted functions, and hashable for that.
        self._environment: Any = loaded.environment
        self._keys = Keys.from_seed(settings.seed)

    def check_selection(self, lines: Sequence[Line]) -> int:
        """Execute every plan of the transcript on the episodes that plans were selected on.

        Returns:
            The number of plans.

        Raises:
            DemonstrationError: one did not earn what the transcript says.
        """
        told = [(line.where, e) for line in lines for e in line.entries if e.plan is not None]
        self._check_states(lines)
        if not told:
            return 0
        plans = stack_plans([entry.plan for _, entry in told if entry.plan is not None])
        states = [entry.episode for _, entry in told if entry.episode is not None]
        results = _selection_scorer(self._loaded.environment, self._settings).results(plans, states or None)
        for (where, entry), result in zip(told, results, strict=True):
            self._compare(where, "return_per_agent", entry.score, result.score, result.returns)
        return len(told)

    def _check_states(self, lines: Sequence[Line]) -> None:
        def fits(entry: Entry) -> bool:
            if not self._settings.states:
                return entry.episode is None
            return entry.episode is not None and 0 <= entry.episode < self._settings.states

        for line in lines:
            if not all(map(fits, line.entries)):
                raise DemonstrationError(f"{line.where}: it has an episode that the settings do not. {MEND}")

    def check_report(self) -> int:
        """Execute the kept plans on the episodes that they were reported on.

        Returns:
            The number of plans.

        Raises:
            DemonstrationError: one did not earn what the manifest says, or the manifest does not say it.
        """
        entries = self._loaded.manifest["plans"]
        if not entries:
            return 0
        settings = self._settings
        scorer = _scorer(self._loaded.environment, settings, self._keys.report, settings.report_episodes)
        states = [entry["episode"] for entry in entries] if settings.states else None
        for index, result in enumerate(scorer.results(self._loaded.plans, states)):
            entry = entries[index]
            told = entry["report_return_per_agent"]
            where = f"{self._path}: plans[{index}]"
            self._compare(where, "report_return_per_agent", told, result.score, result.returns)
            for agent, value in enumerate(entry["report_returns"] or []):
                self._compare(where, f"report_returns[{agent}]", value, float(result.by_agent[agent]), result.returns)
        return len(entries)

    def check_random(self) -> np.ndarray:
        """Play random actions on the same episodes.

        Returns:
            What they earn per agent, for each initial state that has plans of its own; else one number.

        Raises:
            DemonstrationError: the manifest says something else.
        """
        returns = _random_returns(self._environment, self._settings)
        told = self._loaded.manifest["random_return_per_agent"]
        self._compare(str(self._path), "random_return_per_agent", told, float(np.mean(returns)), returns)
        return np.mean(returns, axis=(1, 2))

    def check_controls(self, lines: Sequence[Line], fallback: np.ndarray) -> tuple[int, int]:
        """Draw the control again.

        Args:
            lines: the transcript.
            fallback: what random actions earn.

        Returns:
            The number of rounds with a control, and the number of random plans that were executed for it.

        Raises:
            DemonstrationError: a round's control is another one.
        """
        told = [(r["index"], r["control"]) for r in self._loaded.manifest["rounds"] if r.get("control") is not None]
        if not told:
            return 0, 0
        count = self._control_plans()
        pool = _control_pool(self._environment, self._settings, self._loaded.manifest["max_instructions"], count)
        for index, control in told:
            asked = asked_until(index, lines, self._settings.states)
            self._compare_control(index, control, pool, asked, fallback)
        return len(told), count

    def _control_plans(self) -> int:
        """All of them, or as many as there is time for."""
        settings = self._settings
        each = self._loaded.environment.max_steps * max(settings.selection_episodes, settings.states)
        most = _QUICK_CONTROL if self._quick else max(_LEAST_CONTROL, _CONTROL_STEPS // each)
        return min(settings.control_plans, most)

    def _compare_control(self, index: int, told: Any, pool: Any, asked: np.ndarray, fallback: np.ndarray) -> None:
        where = f"{self._path}: the control of round {index}"
        found = dataclasses.asdict(best_of(pool, asked, fallback))
        whole = pool.shape[1] == self._settings.control_plans
        # A part of the plans gives the mean, within an error that is known; for the ends of the range it is too few.
        slack = 0.0 if whole else 2 * _STANDARD_ERRORS * found["error"]
        if not isinstance(told, dict) or told.get("candidates") != found["candidates"]:
            raise DemonstrationError(f"{where} is not one of {found['candidates']} plans. {MEND}")
        for name in ("mean", "low", "high") if whole else ("mean",):
            self._compare(where, name, told.get(name), float(found[name]), pool, slack)

    def _compare(self, where: str, name: str, told: Any, found: float, scale: Any, slack: float = 0.0) -> None:
        tolerance = _SHARE_OF_SCALE * float(np.mean(np.abs(scale))) + 1e-4 + slack
        if not is_number(told) or abs(told - found) > tolerance:
            raise DemonstrationError(
                f"{where}: {name} is {printable(repr(told))}, and worked out again it is {found:.4g} (within "
                f"{tolerance:.2g}). {MEND}"
            )


def _scorer(environment: InstructedEnvironment, settings: Settings, key: Any, episodes: int, most: int = 64) -> Scorer:
    """Executes plans on the episodes that the generation drew from `key`."""
    initial = _initial(settings)
    each = episodes if initial is None else max(1, episodes // settings.states)
    return Scorer(environment, jax.random.split(key, each), max(1, min(most, _AT_ONCE // each)), initial)


def _selection_scorer(environment: InstructedEnvironment, settings: Settings) -> Scorer:
    return _scorer(environment, settings, Keys.from_seed(settings.seed).selection, settings.selection_episodes)


def _initial(settings: Settings) -> Key[Array, "E"] | None:
    return None if settings.states_seed is None else initial_state_keys(settings.states_seed, settings.states)


# Sets are often compared that differ in their model alone.
@functools.lru_cache(maxsize=8)
def _random_returns(environment: Any, settings: Settings) -> Float[np.ndarray, "E N A"]:
    key, initial = Keys.from_seed(settings.seed).random, _initial(settings)
    if initial is None:
        return random_play(environment, key, settings.report_episodes)[0][None]
    repeats = max(1, settings.report_episodes // settings.states)
    reset_keys = jnp.repeat(initial, repeats, axis=0)
    returns, _ = random_play(environment, key, len(reset_keys), reset_keys)
    return returns.reshape(settings.states, repeats, -1)


@functools.lru_cache(maxsize=8)
def _control_pool(environment: Any, settings: Settings, max_instructions: int, count: int) -> Float[np.ndarray, "R M"]:
    """Scores of `count` random plans, drawn as the control's are; of all of them, they are the very same."""
    scorer = _selection_scorer(environment, settings)
    key = Keys.from_seed(settings.seed).control
    return random_plan_scores(
        environment.vocabulary,
        scorer,
        key,
        max_instructions=max_instructions,
        candidates=settings.candidates,
        count=count,
        states=settings.states,
    )
