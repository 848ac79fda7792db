"""Studies of kind=tune: the same number of settings, seeds and steps for every variant, and the best one of each."""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from leed_jax.config import Config, from_dictionary, to_dictionary
from leed_jax.errors import ConfigurationError, LeedError, RunDirectoryError
from leed_jax.evaluation.reading import read_number
from leed_jax.files import append_line, lock_folder, write_whole, writing
from leed_jax.report.statistics import extended_iqm
from leed_jax.studies.plan import check_ingredients, differences
from leed_jax.studies.progress import Pace, say, work_of
from leed_jax.studies.request import Request
from leed_jax.studies.search import Search, read_search
from leed_jax.studies.trial import Trained, train_and_score
from leed_jax.studies.tuning_page import write_record
from leed_jax.training.program import Schedule

TRIED = "tried.jsonl"

# By so large a share two settings of a tuning may differ in the steps that they train: updates come whole.
_UNEQUAL = 0.02

Row = dict[str, Any]

# What the page tells of, besides numbers.
_ROW_TYPES: Mapping[str, type] = {
    "variant": str,
    "number": int,
    "changes": dict,
    "seeds": list,
    "returns": list,
    "env_steps": int,
    "versions": dict,
    "device": dict,
    "config": dict,
}


@dataclasses.dataclass(frozen=True)
class Trial:
    """One setting of a variant.

    Attributes:
        variant: its label.
        number: its place among the variant's settings.
        changes: what the setting is, beside what the variant's settings have in common.
        configs: its configurations, one for each group of seeds that is trained side by side.
    """

    variant: str
    number: int
    changes: Mapping[str, Any]
    configs: tuple[Config, ...]

    @property
    def seeds(self) -> list[int]:
        """All seeds."""
        return [config.seed + index for config in self.configs for index in range(config.num_seeds)]


def plan_trials(request: Request) -> tuple[dict[str, Search], list[Trial]]:
    """All settings of all variants, composed and checked; those of the first number come first.

    Raises:
        LeedError: one of them cannot work, or the variants' budgets are unequal.
    """
    file = request.file
    budget = file.budget or 0
    searches, trials = {}, []
    for label, values in file.variants.items():
        where = f"variants.{label}"
        searches[label] = read_search(values, f"study {request.where}: {where}", label, budget, file.sampling_seed)
        for number, changes in enumerate(searches[label].tried):
            place = f"{where}, setting {number} ({changes})"
            configs = tuple(
                request.compose(place, searches[label].settings, changes, seed=first, num_seeds=count)
                for first, count in request.seed_groups()
            )
            trials.append(Trial(label, number, changes, configs))
    _check_equal(request, trials)
    check_ingredients(request, [(f"variants.{trial.variant}", trial.configs[0]) for trial in trials])
    chosen = [trial for trial in trials if trial.variant in request.variants]
    return searches, sorted(chosen, key=lambda trial: trial.number)


def _check_equal(request: Request, trials: Sequence[Trial]) -> None:
    """Refuse settings that train or are evaluated longer than others."""
    first = trials[0]
    for trial in trials:
        for key, value in _budget(trial.configs[0]).items():
            expected = _budget(first.configs[0])[key]
            if value != expected:
                raise ConfigurationError(
                    f"study {request.where}: {key}={value} in setting {trial.number} of {trial.variant}, and "
                    f"{expected} in setting {first.number} of {first.variant}; every setting gets the same. Set {key} "
                    "in settings alone."
                )
        steps, expected = (Schedule.of(t.configs[0]).steps for t in (trial, first))
        if abs(steps - expected) > _UNEQUAL * expected:
            raise ConfigurationError(
                f"study {request.where}: setting {trial.number} of {trial.variant} trains {steps:,} steps of "
                f"total_steps={trial.configs[0].total_steps:,}, and setting {first.number} of {first.variant} "
                f"{expected:,}; every setting gets the same. Choose total_steps that num_envs x rollout_steps of each "
                "goes into about evenly."
            )


def _budget(config: Config) -> dict[str, int]:
    return {
        "total_steps": config.total_steps,
        "evaluation.episodes": config.evaluation.episodes,
        "evaluation.seed": config.evaluation.seed,
    }


def run_tuning(
    request: Request, console: Console, train: Callable[[Sequence[Config]], Trained] = train_and_score
) -> int:
    """Try every setting that has not been tried yet, and write down which are best.

    Args:
        request: a study of kind=tune.
        console: where progress is printed.
        train: trains the groups of seeds of one setting, and tells what came of it.

    Returns:
        The exit status, 0.

    Raises:
        LeedError: what was asked for cannot be done.
    """
    searches, trials = plan_trials(request)
    lock = _claim(request.out)
    try:
        rows = _recorded(request.out / TRIED, trials)
        _try_all(request.out / TRIED, trials, rows, console, train)
        ordered = {label: [rows[label, t.number] for t in trials if t.variant == label] for label in request.variants}
        write_record(request, searches, ordered, console)
    finally:
        os.close(lock)
    return 0


def _try_all(
    path: Path,
    trials: Sequence[Trial],
    rows: dict[tuple[str, int], Row],
    console: Console,
    train: Callable[[Sequence[Config]], Trained],
) -> None:
    """Train what has no row yet, and append its row to the file."""
    pace = Pace()
    for trial in trials:
        if row := rows.get((trial.variant, trial.number)):
            pace.add(work_of(trial.variant, trial.configs[0]), row["seconds"] / len(trial.configs))
    waiting = [trial for trial in trials if (trial.variant, trial.number) not in rows]
    say(console, f"{len(trials)} settings, {len(rows)} of them tried already.")
    for index, trial in enumerate(waiting):
        started = time.monotonic()
        try:
            trained = train(trial.configs)
        except LeedError as error:
            raise type(error)(f"{trial.variant}, setting {trial.number} ({dict(trial.changes)}): {error}") from None
        seconds = time.monotonic() - started
        row = _row(trial, trained, seconds)
        with writing(path):
            append_line(path, json.dumps(row, allow_nan=False))
        rows[trial.variant, trial.number] = row
        pace.add(work_of(trial.variant, trial.configs[0]), seconds / len(trial.configs))
        rest = [work_of(t.variant, config) for t in waiting[index + 1 :] for config in t.configs]
        score = "not finite" if row["score"] is None else f"{row['score']:.3f}"
        done = len(trials) - len(waiting) + index + 1
        say(console, f"{done} of {len(trials)}: {trial.variant}, setting {trial.number}: {score}; {pace.told(rest)}")


def _row(trial: Trial, trained: Trained, seconds: float) -> Row:
    returns = np.array([-np.inf if value is None else value for value in trained.returns], np.float64)
    score = float(extended_iqm(returns))
    return {
        "variant": trial.variant,
        "number": trial.number,
        "changes": dict(trial.changes),
        "seeds": trial.seeds,
        "returns": list(trained.returns),
        "score": score if np.isfinite(score) else None,
        "env_steps": trained.env_steps,
        "seconds": round(seconds, 3),
        "versions": trained.versions,
        "device": trained.device,
        "config": to_dictionary(trial.configs[0]),
    }


def _claim(out: Path) -> int:
    """The lock of the study's folder."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(out)
    except OSError as error:
        raise RunDirectoryError(f"out={out} cannot be written: {error.strerror}. Choose another out.") from None
    if lock is None:
        raise RunDirectoryError(f"out={out} is in use by another process; wait for it, or choose another out.")
    return lock


def _recorded(path: Path, trials: Sequence[Trial]) -> dict[tuple[str, int], Row]:
    """What earlier processes have tried, and was asked for; half a last line, which a kill leaves, is cut off."""
    if not path.exists():
        return {}
    with writing(path):
        whole, _, torn = path.read_bytes().rpartition(b"\n")
        if torn:
            write_whole(path, whole + b"\n" if whole else b"")
    known = {(trial.variant, trial.number): trial for trial in trials}
    rows = {}
    for number, line in enumerate(whole.splitlines()):
        try:
            row = _checked(json.loads(line))
            place = (row["variant"], row["number"])
            recorded = from_dictionary(row["config"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            fault = f"it lacks {error}" if isinstance(error, KeyError) else error
            raise RunDirectoryError(
                f"{path}, line {number + 1} is damaged ({fault}). Restore it, or remove the line."
            ) from None
        if place in known:
            _check_same(path, known[place], recorded, row["seeds"])
            rows[place] = row
    return rows


def _checked(row: Any) -> Row:
    """A row that has everything that its page tells of.

    Raises:
        KeyError: something is missing.
        TypeError: something is of another type.
        ValueError: a number is not finite, or there are more or fewer returns than seeds.
    """
    if not isinstance(row, dict):
        raise TypeError("it is no object")
    for name, kind in _ROW_TYPES.items():
        if type(row[name]) is not kind:
            raise TypeError(f"{name} is {row[name]!r:.100}")
    read_number(row, "seconds")
    # A score that was not finite is written as null.
    numbers = {"score": row["score"], **{f"returns[{i}]": value for i, value in enumerate(row["returns"])}}
    for name in numbers:
        read_number(numbers, name, missing=True)
    if len(row["returns"]) != len(row["seeds"]):
        raise ValueError(f"it has {len(row['returns'])} returns of {len(row['seeds'])} seeds")
    return row


def _check_same(path: Path, trial: Trial, recorded: Config, seeds: Sequence[int]) -> None:
    found = differences(recorded, trial.configs[0])
    if seeds != trial.seeds:
        found.append(f"seeds {seeds} there, {trial.seeds} asked for")
    if found:
        raise RunDirectoryError(
            f"{path} holds setting {trial.number} of {trial.variant} with other settings than the study asks for now "
            f"({'; '.join(found)}). Pass another out=DIR, or give the settings that it was made with; nothing was "
            "overwritten."
        )
