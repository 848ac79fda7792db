"""Studies of kind=tune: the same number of settings, seeds and steps for every variant, and the best one of each."""

import dataclasses
import json
import math
import operator
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from leed_jax.config import RunConfig, from_dictionary, to_dictionary
from leed_jax.errors import ConfigurationError, LeedError, RunDirectoryError
from leed_jax.evaluation.runs import DAMAGE, NUMBER, fault_of, parse_record
from leed_jax.evaluation.tables import cell, grid
from leed_jax.files import append_line, lock_folder, write_whole, writing
from leed_jax.report.statistics import interquartile_mean
from leed_jax.studies.comparison import check_inputs, differences
from leed_jax.studies.pages import Work, machine_line, say, time_left
from leed_jax.studies.search import Range, Search, read_search
from leed_jax.studies.settings import as_text
from leed_jax.studies.study import Study
from leed_jax.training.program import Program, Schedule, describe_device, greedy_returns, memory_errors, prepare
from leed_jax.training.signals import StopSignals
from leed_jax.version import __version__

TRIED, RECORD, PAGE = "tried.jsonl", "tuning.json", "tuning.md"

# Settings of a tuning may differ in the steps that they train by this share, as updates come whole.
_UNEQUAL = 0.02

Row = Mapping[str, Any]
_ROW = {
    "variant": str,
    "number": int,
    "changes": dict,
    "seeds": list,
    "returns": list,
    "score": NUMBER | None,
    "env_steps": int,
    "seconds": NUMBER,
    "versions": dict,
    "device": dict,
    "config": dict,
}


# --- what is tried ----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Trial:
    """One setting of a variant."""

    variant: str
    number: int  # its place among the variant's settings
    changes: Mapping[str, Any]  # to what the variant's settings have in common
    configs: tuple[RunConfig, ...]  # one for each group of seeds that is trained side by side

    @property
    def seeds(self) -> list[int]:
        """All seeds."""
        return [config.seed + index for config in self.configs for index in range(config.num_seeds)]

    @property
    def label(self) -> str:
        """Which one it is, for people."""
        return f"setting {self.number} of {self.variant}"

    def work(self, seconds: float) -> Work:
        """Its environment steps, and the seconds that they took."""
        return self.variant, float(self.configs[0].total_steps) * len(self.seeds), seconds


def plan_trials(study: Study) -> tuple[dict[str, Search], list[Trial]]:
    """All settings of all variants, composed and checked; the first setting of each variant comes first.

    Raises:
        LeedError: one of them cannot work, or the variants' budgets are unequal.
    """
    searches, trials = {}, []
    for label, values in study.file.variants.items():
        where = f"variants.{label}"
        source, budget = f"study {study.source}: {where}", study.file.budget or 0
        searches[label] = search = read_search(values, source, label, budget, study.file.sampling_seed)
        for number, changes in enumerate(search.tried):
            place = f"{where}, setting {number} ({changes})"
            trials.append(Trial(label, number, changes, tuple(study.compose(place, search.settings, changes))))
    for trial in trials:
        _check_equal(study, trials[0], trial)
    check_inputs(study, [(f"variants.{trial.variant}", trial.configs[0]) for trial in trials])
    chosen = [trial for trial in trials if trial.variant in study.variants]
    return searches, sorted(chosen, key=lambda trial: trial.number)


def _check_equal(study: Study, first: Trial, trial: Trial) -> None:
    """Refuse a setting that trains or is evaluated longer than another."""
    expected, config = first.configs[0], trial.configs[0]
    for key in ("total_steps", "evaluation.episodes", "evaluation.seed"):
        one, other = (operator.attrgetter(key)(values) for values in (config, expected))
        if one != other:
            raise ConfigurationError(
                f"study {study.source}: {key}={one} in {trial.label}, and {other} in {first.label}; every setting gets "
                f"the same. Set {key} in settings alone."
            )
    steps, others = Schedule.of(config).steps, Schedule.of(expected).steps
    if abs(steps - others) > _UNEQUAL * others:
        raise ConfigurationError(
            f"study {study.source}: {trial.label} trains {steps:,} steps of total_steps={config.total_steps:,}, and "
            f"{first.label} {others:,}; every setting gets the same. Choose total_steps that num_envs x rollout_steps "
            "of each goes into about evenly."
        )


# --- training ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Trained:
    """The result of one setting."""

    returns: Sequence[float | None]  # greedy return per agent of each seed; None where it is not finite
    env_steps: int  # of each seed
    versions: dict[str, str]
    device: dict[str, Any]


Trainer = Callable[[Sequence[RunConfig]], Trained]


def train_and_score(configs: Sequence[RunConfig]) -> Trained:
    """Train every seed of a setting in this process, without a run directory, and evaluate the greedy policies.

    Ctrl-C and SIGTERM take effect at the end of a chunk. There is one configuration for each group of seeds that are
    trained side by side.

    Raises:
        LeedError: the configuration cannot work.
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    returns: list[float | None] = []
    steps = 0
    for config in configs:
        # The exception that Python raises for Ctrl-C is lost where JAX calls back, as while garbage is collected.
        with StopSignals() as stop, memory_errors():
            scores, steps = _train_group(config, stop)
        if stop.received is not None:
            signal.raise_signal(stop.received)
            raise KeyboardInterrupt  # A process in the background ignores Ctrl-C, but this one was told to stop.
        returns += [score if math.isfinite(score) else None for score in scores]
    versions = {"leed_jax": __version__, "jax": jax.__version__}
    return Trained(tuple(returns), steps, versions, describe_device())


def _train_group(config: RunConfig, stop: StopSignals) -> tuple[list[float], int]:
    """Greedy returns and environment steps of seeds that are trained side by side; none if a signal asks to stop."""
    # The learning curve is not kept, so its episodes need not be played.
    setup = prepare(dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, curve_episodes=0)))
    program = Program(setup)
    program.compile()
    state = program.init()
    for _ in range(setup.schedule.chunks):
        state, metrics = program.step(state)
        jax.block_until_ready(metrics)
        if stop.received is not None:
            return [], 0
    scores = [float(value) for value in greedy_returns(setup, state.parameters)]
    return scores, setup.schedule.chunks * setup.schedule.steps_per_chunk


def run_tuning(study: Study, console: Console, train: Trainer = train_and_score) -> int:
    """Try every setting that has not been tried yet, and write down which are best.

    Args:
        study: a study of kind=tune.
        console: where progress is printed.
        train: trains the groups of seeds of one setting.

    Returns:
        The exit status, 0.
    """
    searches, trials = plan_trials(study)
    lock = _claim(study.out)
    try:
        rows = read_rows(study.out / TRIED, trials)
        _try_all(study.out / TRIED, trials, rows, console, train)
        ordered = {label: [rows[label, t.number] for t in trials if t.variant == label] for label in study.variants}
        _write_results(study, searches, ordered, console)
    finally:
        os.close(lock)
    return 0


def _try_all(
    path: Path, trials: Sequence[Trial], rows: dict[tuple[str, int], Row], console: Console, train: Trainer
) -> None:
    """Train what has no row yet, and append its row to the file."""
    waiting = [trial for trial in trials if (trial.variant, trial.number) not in rows]
    done = [t.work(rows[t.variant, t.number]["seconds"]) for t in trials if (t.variant, t.number) in rows]
    say(console, f"{len(trials)} settings, {len(rows)} of them tried already.")
    for index, trial in enumerate(waiting):
        started = time.monotonic()
        try:
            trained = train(trial.configs)
        except LeedError as error:
            raise type(error)(f"{trial.variant}, setting {trial.number} ({dict(trial.changes)}): {error}") from None
        seconds = time.monotonic() - started
        rows[trial.variant, trial.number] = row = _row(trial, trained, seconds)
        with writing(path):
            append_line(path, json.dumps(row, allow_nan=False))
        done.append(trial.work(seconds))
        left = time_left(done, [other.work(0.0) for other in waiting[index + 1 :]])
        say(console, f"{len(done)} of {len(trials)}: {trial.label}: {_shown(row['score'])}; {left}")


def _row(trial: Trial, trained: Trained, seconds: float) -> Row:
    score = float(interquartile_mean(np.nan_to_num(np.array(trained.returns, np.float64), nan=-np.inf)))
    setting = {"variant": trial.variant, "number": trial.number, "changes": dict(trial.changes), "seeds": trial.seeds}
    result = {**dataclasses.asdict(trained), "score": score if math.isfinite(score) else None}
    return {**setting, **result, "seconds": round(seconds, 3), "config": to_dictionary(trial.configs[0])}


# --- what was tried already -------------------------------------------------------------------------------------


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


def read_rows(path: Path, trials: Sequence[Trial]) -> dict[tuple[str, int], Row]:
    """What earlier processes have tried of what is asked for; half a last line, which a kill leaves, is cut off."""
    if not path.exists():
        return {}
    with writing(path):
        whole, _, torn = path.read_bytes().rpartition(b"\n")
        if torn:
            write_whole(path, whole + b"\n" if whole else b"")
    known = {(trial.variant, trial.number): trial for trial in trials}
    rows: dict[tuple[str, int], Row] = {}
    for number, line in enumerate(whole.splitlines()):
        try:
            row = parse_record(line, _ROW)
            recorded = from_dictionary(row["config"])
            if np.array(row["returns"], np.float64).shape != (len(row["seeds"]),):
                raise ValueError(f"it has {len(row['returns'])} returns of {len(row['seeds'])} seeds")
        except DAMAGE as error:
            raise RunDirectoryError(
                f"{path}, line {number + 1} is damaged ({fault_of(error)}). Restore it, or remove the line."
            ) from None
        if trial := known.get((row["variant"], row["number"])):
            _check_same(path, trial, recorded, row["seeds"])
            rows[trial.variant, trial.number] = row
    return rows


def _check_same(path: Path, trial: Trial, recorded: RunConfig, seeds: Sequence[int]) -> None:
    found = differences(recorded, trial.configs[0])
    if seeds != trial.seeds:
        found.append(f"seeds {seeds} there, {trial.seeds} asked for")
    if found:
        raise RunDirectoryError(
            f"{path} holds {trial.label} with other settings than the study asks for now ({'; '.join(found)}). Pass "
            "another out=DIR, or give the settings that it was made with; nothing was overwritten."
        )


# --- results ----------------------------------------------------------------------------------------------------


def _write_results(
    study: Study, searches: Mapping[str, Search], rows: Mapping[str, Sequence[Row]], console: Console
) -> None:
    """Write `tuning.json` and `tuning.md`, and print the best settings."""
    file, first = study.file, next(iter(rows.values()))[0]
    common = {"experiment": file.experiment} if file.experiment else {}
    results: dict[str, Any] = {
        "title": file.title,
        "question": file.description.strip(),
        "command": study.command,
        "experiment": file.experiment,
        "budget": {
            "settings": file.budget,
            "seeds": first["seeds"],
            "total_steps": first["config"]["total_steps"],
            "evaluation_episodes": first["config"]["evaluation"]["episodes"],
        },
        "settings": " ".join(f"{key}={value}" for key, value in {**common, **study.common, **study.overrides}.items()),
        "sampling_seed": file.sampling_seed,
        "score": "interquartile mean over seeds of the greedy return per agent after training",
        "machine": [machine_line([(row["device"], row["versions"]) for group in rows.values() for row in group])],
        "variants": {label: _variant_record(searches[label], group) for label, group in rows.items()},
    }
    page = _page(results, searches)
    for name, text in ((RECORD, json.dumps(results, indent=2, allow_nan=False) + "\n"), (PAGE, page)):
        with writing(study.out / name):
            write_whole(study.out / name, text.encode())
    for label, variant in results["variants"].items():
        say(console, f"{label}: {_shown(variant['score'])} with {_chosen(variant)}")
    say(console, f"Written to {study.out / PAGE} and {study.out / RECORD}.")


def _variant_record(search: Search, rows: Sequence[Row]) -> dict[str, Any]:
    best = ranked(rows)[0]
    chosen = {**search.settings, **best["changes"]}
    kept = ("number", "changes", "score", "returns", "env_steps", "seconds")
    return {
        "winner": best["number"],
        "score": best["score"],
        "winning_settings": " ".join(f"{key}={as_text(value)}" for key, value in chosen.items()),
        "settings": dict(search.settings),
        "ranges": {key: {item.scale: list(item.values)} for key, item in search.ranges.items()},
        "tried": [{key: row[key] for key in kept} for row in rows],
    }


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Rows by score, the highest first; one whose score is not finite comes last."""
    return sorted(rows, key=lambda row: math.inf if row["score"] is None else -row["score"])


def _page(results: Mapping[str, Any], searches: Mapping[str, Search]) -> str:
    budget, variants = results["budget"], results["variants"]
    best = [[cell(label), _shown(variant["score"]), _chosen(variant)] for label, variant in variants.items()]
    parts = [f"# {results['title']}", results["question"], f"```sh\n{results['command']}\n```"]
    parts += [
        f"Every variant had {budget['settings']} settings of {budget['total_steps']:,} environment steps, with the "
        f"seeds {', '.join(map(str, budget['seeds']))}. The score is the {results['score']}, over "
        f"{budget['evaluation_episodes']:,} fresh episodes. Results are to be reported on other seeds.",
        f"All had `{results['settings']}` in common.",
        *results["machine"],
        grid(["variant", "best score", "settings"], best),
    ]
    for label, variant in variants.items():
        parts += [f"## {label}", _settings_table(variant["tried"])]
        drawn = [f"`{key}` {_range(item)}" for key, item in searches[label].ranges.items()]
        parts += [f"Drawn from: {'; '.join(drawn)}."] if drawn else []
    return "\n\n".join(filter(None, parts)) + "\n"


def _settings_table(rows: Sequence[Row]) -> str:
    """All settings of a variant, the best one first."""
    keys = list(dict.fromkeys(key for row in rows for key in row["changes"]))
    lines = []
    for row in ranked(rows):
        values = [cell(as_text(row["changes"][key])) if key in row["changes"] else "" for key in keys]
        lines.append([_shown(row["score"]), ", ".join(map(_shown, row["returns"])), *values])
    return grid(["score", "seeds", *keys], lines)


def _chosen(variant: Mapping[str, Any]) -> str:
    return f"`{variant['winning_settings']}`" if variant["winning_settings"] else "no further setting"


def _range(item: Range) -> str:
    texts = [as_text(value) for value in item.values]
    return f"one of {', '.join(texts)}" if item.scale == "choices" else f"{' to '.join(texts)} ({item.scale})"


def _shown(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3f}"
