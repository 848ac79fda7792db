"""Verification to the end: beyond what loading checks, everything is executed again."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from leed_jax.demonstrations.execution import demonstration_key, execute_batch, execute_episodes, plan_batch
from leed_jax.demonstrations.format import ARRAYS, MANIFEST, MEND
from leed_jax.demonstrations.loading import load_verified
from leed_jax.demonstrations.sets import DemonstrationSet
from leed_jax.environment import Environment
from leed_jax.errors import DemonstrationError
from leed_jax.instructions import Trajectory

# Another processor may round differently, which can tip a close decision now and then; most steps agree all the same.
_AGREEING_STEPS = 0.99
_MIN_EPISODES, _MAX_EPISODES = 16, 4096
_STANDARD_ERRORS = 5.0


def verify_set(folder: Path, manifest: dict[str, Any], environment: Environment) -> Iterator[str]:
    """Verify a set whose manifest has been read.

    Args:
        folder: its folder.
        manifest: what `read_manifest` returned.
        environment: what it was made for.

    Yields:
        What has been checked, a sentence each.

    Raises:
        DemonstrationError: the first thing that is wrong.
    """
    loaded = load_verified(folder, manifest, environment)
    files = ", ".join(manifest["files"])
    yield f"The sha256 of {MANIFEST} and of each file ({files}) is right."
    plans = len(manifest["plans"])
    if not plans:
        yield "It was made for this environment. It records an attempt without an executable plan."
        return
    yield f"It was made for this environment. Plans that can be executed and stand in the transcript as here: {plans}."
    if loaded.recorded is not None:
        share = _check_recorded(loaded, loaded.recorded)
        yield f"Executed again, the plans give the recorded episodes: {share:.2%} of the steps agree."
    checked = sum(_check_report(loaded, index) for index in range(plans))
    if checked:
        yield f"Plans that earn what was reported if executed again ({_STANDARD_ERRORS:g} standard errors): {checked}."


def _check_recorded(loaded: DemonstrationSet, recorded: Trajectory) -> float:
    """The share of the steps in which the recorded episodes are those that execution gives."""
    how = loaded.manifest["recorded"]
    key = demonstration_key(how["seed"])
    again = execute_episodes(
        loaded.environment, loaded.plans, key, how["episodes"], float(how["noise"]), loaded.reset_keys
    )
    agree = _agreement(recorded, again)
    share = float(agree.mean())
    starts = np.isclose(recorded.observation[:, 0], again.observation[:, 0], rtol=1e-4, atol=1e-5)
    if share < _AGREEING_STEPS or not np.all(starts):
        raise DemonstrationError(
            f"{loaded.path / ARRAYS} does not hold what the plans give with seed {how['seed']} and noise "
            f"{how['noise']:g}: {share:.2%} of the steps agree. {MEND}"
        )
    return share


def _agreement(left: Trajectory, right: Trajectory) -> np.ndarray:
    """For each step of each agent, whether two executions are the same."""
    agree = np.ones(left.active.shape, bool)
    for field in dataclasses.fields(Trajectory):
        a, b = np.asarray(getattr(left, field.name)), np.asarray(getattr(right, field.name))
        same = np.isclose(a, b, rtol=1e-4, atol=1e-5) if a.dtype == np.float32 else a == b
        agree &= same.all(axis=tuple(range(agree.ndim, same.ndim)))
    return agree


def _check_report(loaded: DemonstrationSet, index: int) -> bool:
    """Whether there was a reported return to check; an error if the plan does not earn it."""
    entry = loaded.manifest["plans"][index]
    reported = entry["report_return_per_agent"]
    if reported is None:
        return False
    reported_over = _report_episodes(loaded)
    returns = _fresh_returns(loaded, index, int(np.clip(reported_over, _MIN_EPISODES, _MAX_EPISODES)))
    per_agent = [reported] if entry["report_returns"] is None else [reported, *entry["report_returns"]]
    found = np.concatenate([returns.mean(axis=1, keepdims=True), returns], axis=1)[:, : len(per_agent)]
    # Both figures are means over a finite number of episodes.
    error = np.sqrt(1.0 / reported_over + 1.0 / len(found)) * found.std(axis=0)
    tolerance = _STANDARD_ERRORS * error + 0.01 * np.abs(found.mean(axis=0)) + 1e-3
    wrong = np.flatnonzero(np.abs(found.mean(axis=0) - np.array(per_agent)) > tolerance)
    if wrong.size:
        column = int(wrong[0])
        raise DemonstrationError(
            f"{loaded.path / MANIFEST}: plans[{index}] is reported to earn {per_agent[column]:.4g}, and on "
            f"{len(found)} fresh episodes it earns {found.mean(axis=0)[column]:.4g} (within "
            f"{tolerance[column]:.2g}). {MEND}"
        )
    return True


def _fresh_returns(loaded: DemonstrationSet, index: int, episodes: int) -> Float[np.ndarray, "N A"]:
    plan, reset_key = jax.tree.map(lambda x: x[index : index + 1], (loaded.plans, loaded.reset_keys))
    key = jax.random.fold_in(jax.random.key(0), 0x5EC0D)
    batch = plan_batch(plan, key, episodes, 0.0, reset_key)
    return np.asarray(execute_batch(loaded.environment, batch, Trajectory.episode_return))


def _report_episodes(loaded: DemonstrationSet) -> int:
    """The number of episodes behind each reported return, as far as the settings tell."""
    settings = loaded.manifest["settings"]
    total = _whole(settings.get("report_episodes"), _MAX_EPISODES // 2)
    return total if loaded.reset_keys is None else max(1, total // _whole(settings.get("episodes"), total))


def _whole(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and 0 < value < 2**31 else otherwise
