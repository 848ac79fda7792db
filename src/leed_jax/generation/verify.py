"""Verification to the end: beyond what loading checks, everything is read, counted and executed again."""

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from leed_jax.demonstrations.execution import demonstration_key, execute_batch, execute_episodes, plan_batch
from leed_jax.demonstrations.format import ARRAYS, MANIFEST, MEND
from leed_jax.demonstrations.loading import load_verified
from leed_jax.demonstrations.sets import DemonstrationSet
from leed_jax.environments import Environment
from leed_jax.errors import DemonstrationError
from leed_jax.generation.again import Again, Settings, recorded_settings
from leed_jax.generation.replies import Line, check_rounds, read_replies
from leed_jax.instructions import Trajectory, printable

# Another processor may round differently, which can tip a close decision now and then; most steps agree all the same.
_AGREEING_STEPS = 0.99
_FRESH_EPISODES = 1024
_STANDARD_ERRORS = 5.0


def verify_set(folder: Path, manifest: dict[str, Any], environment: Environment, quick: bool = False) -> Iterator[str]:
    """Verify a set whose manifest has been read.

    Args:
        folder: its folder.
        manifest: what `read_manifest` returned.
        environment: what it was made for.
        quick: try only some of the control's random plans.

    Yields:
        What has been checked, a sentence each, and last what has not.

    Raises:
        DemonstrationError: the first thing that is wrong.
    """
    loaded = load_verified(folder, manifest, environment)
    files = ", ".join(manifest["files"])
    yield f"The sha256 of {MANIFEST} and of each file ({files}) is right."
    plans = len(manifest["plans"])
    if plans:
        yield "It was made for this environment."
        yield f"Plans that can be executed and stand in the transcript as here: {plans}."
    else:
        yield "It was made for this environment. It records an attempt without an executable plan."
    lines = read_replies(loaded)
    replies = sum(line.reply is not None for line in lines)
    yield f"Replies that say what the transcript reads in them: {replies}."
    if loaded.recorded is not None:
        share = _check_recorded(loaded, loaded.recorded)
        yield f"Executed again, the plans give the recorded episodes: {share:.2%} of the steps agree."
    settings = recorded_settings(loaded)
    open_ends: list[str] = []
    if settings is not None:
        open_ends = yield from _check_generation(loaded, lines, Again(loaded, settings, quick))
    fresh = [_check_fresh(loaded, index, settings) for index in range(plans)]
    checked = [mean for mean in fresh if mean is not None]
    if checked:
        yield (
            f"Plans that earn what was reported on {_FRESH_EPISODES:,} other episodes, too ({_STANDARD_ERRORS:g} "
            f"standard errors): {len(checked)}. There the first one earns {checked[0]:.4g} per agent."
        )
    yield _not_verified(loaded, lines, settings, open_ends)


def _check_generation(loaded: DemonstrationSet, lines: Sequence[Line], again: Again) -> Generator[str, None, list[str]]:
    """Work out what follows from the seed; returns what was left open."""
    selected = again.check_selection(lines)
    yield f"Plans of the transcript that earn what it says on the episodes of their selection: {selected}."
    reported = again.check_report()
    yield f"Kept plans that earn what was reported on the very episodes of the report: {reported}."
    by_state = again.check_random()
    yield f"Random actions earn what was reported: {float(np.mean(by_state)):.4g} per agent."
    rounds = check_rounds(loaded, lines, by_state if loaded.manifest["kind"] == "episodes" else None)
    yield f"Rounds whose figures are those of the transcript: {rounds}."
    with_control, executed = again.check_controls(lines, by_state)
    if not with_control:
        return []
    total = loaded.manifest["settings"]["control_plans"]
    yield f"Rounds whose control comes out again, from {executed:,} of {total:,} random plans: {with_control}."
    return [] if executed == total else ["the range of the control, and its mean beyond what these plans tell"]


def _not_verified(
    loaded: DemonstrationSet, lines: Sequence[Line], settings: Settings | None, open_ends: Sequence[str]
) -> str:
    manifest = loaded.manifest
    named = sorted({line.reply.model for line in lines if line.reply is not None})
    models = f" (which name {', '.join(printable(name) for name in named[:3])})" if named else ""
    left = [f"that {printable(manifest['model'])} wrote the replies{models}, or that its prompt and time are as told"]
    if manifest["usage"] is not None:
        left.append("what it cost beyond the tokens of these replies")
    known = sum(entry.plan is not None for line in lines if not line.asked for entry in line.entries)
    if known:
        left.append(f"where {known} plans come from that were there before anything was asked")
    if settings is None:
        left.append("returns of selection and of random actions, as no settings tell how they came about")
        if any(plan["report_return_per_agent"] is None for plan in manifest["plans"]):
            left.append("returns on fresh episodes that are not told")
    left += open_ends
    return f"Not verified: {'; '.join(left)}."


def _check_recorded(loaded: DemonstrationSet, recorded: Trajectory) -> float:
    """The share of the steps in which the recorded episodes are those that execution gives."""
    how = loaded.manifest["recorded"]
    key = demonstration_key(how["seed"])
    noise_from, noise = float(how.get("noise_from", 0.0)), float(how["noise"])
    again = execute_episodes(
        loaded.environment, loaded.plans, key, how["episodes"], noise, loaded.reset_keys, noise_from
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


def _check_fresh(loaded: DemonstrationSet, index: int, settings: Settings | None) -> float | None:
    """What a plan earns on episodes of verification's own; None if there is no reported return to compare it with.

    Raises:
        DemonstrationError: it is not what was reported.
    """
    entry = loaded.manifest["plans"][index]
    reported = entry["report_return_per_agent"]
    if reported is None:
        return None
    returns = _fresh_returns(loaded, index)
    per_agent = [reported] if entry["report_returns"] is None else [reported, *entry["report_returns"]]
    found = np.concatenate([returns.mean(axis=1, keepdims=True), returns], axis=1)[:, : len(per_agent)]
    # Both figures are means over a finite number of episodes. A small number is only believed where the very same
    # episodes have been executed again.
    over = _FRESH_EPISODES if settings is None else settings.report_episodes // max(1, settings.states)
    error = np.sqrt(1.0 / max(1, over) + 1.0 / len(found)) * found.std(axis=0)
    tolerance = _STANDARD_ERRORS * error + 0.01 * np.abs(found.mean(axis=0)) + 1e-3
    wrong = np.flatnonzero(np.abs(found.mean(axis=0) - np.array(per_agent)) > tolerance)
    if wrong.size:
        column = int(wrong[0])
        raise DemonstrationError(
            f"{loaded.path / MANIFEST}: plans[{index}] is reported to earn {per_agent[column]:.4g}, and on "
            f"{len(found)} fresh episodes it earns {found.mean(axis=0)[column]:.4g} (within "
            f"{tolerance[column]:.2g}). {MEND}"
        )
    return float(found[:, 0].mean())


def _fresh_returns(loaded: DemonstrationSet, index: int) -> Float[np.ndarray, "N A"]:
    plan, reset_key = jax.tree.map(lambda x: x[index : index + 1], (loaded.plans, loaded.reset_keys))
    key = jax.random.fold_in(jax.random.key(0), 0x5EC0D)
    batch = plan_batch(plan, key, _FRESH_EPISODES, 0.0, reset_key)
    return np.asarray(execute_batch(loaded.environment, batch, Trajectory.episode_return))
