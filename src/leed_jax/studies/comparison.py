"""Studies of kind=compare: every variant at every point on every seed, then tables and pictures."""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from leed_jax.config import RunConfig, to_dictionary
from leed_jax.config.environments import complete, make_environment
from leed_jax.demonstrations import find_set, load_demonstrations
from leed_jax.errors import ConfigurationError, DemonstrationError, LeedError, RunDirectoryError
from leed_jax.evaluation import compare, table
from leed_jax.evaluation.runs import differing_settings, flat, read_summary
from leed_jax.learning.config import IMITATING
from leed_jax.report.directory import CONFIG, SUMMARY, check_place, read_config
from leed_jax.studies.pages import Work, say, time_left, write_page
from leed_jax.studies.settings import as_text, flat_settings, folder_name
from leed_jax.studies.study import Study
from leed_jax.training.runner import RunResult, resume_run, start_run

_NAMES = ("out", "resume", "experiment", "settings_of")


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One run of a variant at a point."""

    point: str  # the point's name; empty where there are none
    variant: str
    path: Path
    config: RunConfig

    @property
    def label(self) -> str:
        """Which one it is, for people."""
        last = self.config.seed + self.config.num_seeds - 1
        seeds = f"seed {last}" if self.config.num_seeds == 1 else f"seeds {self.config.seed} to {last}"
        return ", ".join(part for part in (self.point, self.variant, seeds) if part)

    @property
    def begun(self) -> bool:
        """Whether it has recorded its configuration, and so can be resumed."""
        return (self.path / CONFIG).is_file()

    @property
    def finished(self) -> bool:
        """Whether it has finished."""
        return (self.path / SUMMARY).is_file()

    def work(self, seconds: float | None = None) -> Work:
        """Its environment steps, and the seconds that they took; those that it recorded, if None."""
        if seconds is None:
            summary = read_summary(self.path)
            seconds = float(summary["wall_s"]) + float(summary["compile_s"])
        return self.variant, float(self.config.total_steps) * self.config.num_seeds, seconds


def plan_runs(study: Study) -> list[PlannedRun]:
    """All runs of a study of kind=compare, point by point, variant by variant.

    Raises:
        LeedError: one of them cannot be made, or two variants are the same.
    """
    planned = []
    for point in study.points:
        for variant in study.variants:
            name = f"variants.{variant}"
            settings = flat_settings(study.file.variants[variant], f"study {study.source}: {name}")
            where = f"{name} at {point.name}" if point.name else name
            for config in study.compose(where, point.settings, settings):
                seeds = f"seeds{config.seed}-{config.seed + config.num_seeds - 1}"
                path = study.out / point.name / folder_name(variant) / seeds
                planned.append(PlannedRun(point.name, variant, path, dataclasses.replace(config, out=str(path))))
    _check_distinct(study, planned)
    check_inputs(study, [(run.label, run.config) for run in planned])
    return planned


def check_inputs(study: Study, configs: Sequence[tuple[str, RunConfig]]) -> None:
    """Check that the environments and demonstrations of configurations, each with a name, can be loaded.

    Raises:
        LeedError: one cannot.
    """
    checked: list[tuple[Any, str | None]] = []
    for label, config in configs:
        path = config.demonstrations.path if config.algorithm in IMITATING else None
        if (config.env, path) in checked:
            continue
        checked.append((config.env, path))
        try:
            environment = make_environment(config.env)
            if path is not None:
                load_demonstrations(path, environment)
        except LeedError as error:
            raise type(error)(f"study {study.source}, {label}: {error}") from None


def _check_distinct(study: Study, planned: Sequence[PlannedRun]) -> None:
    first = [(run, _comparable(run.config)) for run in planned if run.config.seed == planned[0].config.seed]
    for (one, of_one), (other, of_other) in itertools.combinations(first, 2):
        if one.point == other.point and not differing_settings(of_one, of_other, _NAMES):
            raise ConfigurationError(
                f"study {study.source}: variants {one.variant} and {other.variant} are the same configuration; "
                "change one of them or leave it out."
            )


# --- runs that are there already --------------------------------------------------------------------------------


def differences(recorded: RunConfig, asked: RunConfig) -> list[str]:
    """The settings in which a recorded run differs from the one asked for, in words.

    Where files are, and where settings come from, does not count.
    """
    found = differing_settings(_comparable(recorded), _comparable(asked), _NAMES)
    return [f"{key}={as_text(one)} there, {key}={as_text(other)} asked for" for key, (one, other) in found.items()]


def _comparable(config: RunConfig) -> dict[str, Any]:
    """All settings, with all fields of the environment and the folder of the demonstrations, as runs record them."""
    with contextlib.suppress(ConfigurationError):
        config = dataclasses.replace(config, env=complete(config.env))
    values = flat(to_dictionary(config))
    with contextlib.suppress(DemonstrationError):
        values["demonstrations.path"] = str(find_set(config.demonstrations.path).resolve())
    return values


def _check_recorded(run: PlannedRun) -> None:
    """Check that what a run directory holds, if anything, is what the study asks for."""
    if not run.begun:
        check_place(run.path)
        return
    try:
        recorded = read_config(run.path)
    except RunDirectoryError as error:
        raise RunDirectoryError(f"{error} To have the study start it, remove {run.path}.") from None
    if found := differences(recorded, run.config):
        raise RunDirectoryError(
            f"{run.path} holds a run with other settings than the study asks for now ({'; '.join(found)}). Pass "
            "another out=DIR, give the settings that it was made with, or remove that folder; nothing was overwritten."
        )


# --- running ----------------------------------------------------------------------------------------------------


def run_comparison(study: Study, console: Console) -> int:
    """Train what has not been trained, compare all of it, and write it down.

    Returns:
        The exit status: 0, or 130 or 143 if a signal stopped a run.
    """
    planned = plan_runs(study)
    check_place(study.out)
    for run in planned:
        _check_recorded(run)
    stopped_by = _train_all(planned, console)
    if stopped_by is not None:
        say(console, f"The study resumes when the same command is given again:\n  {study.command}")
        return 128 + stopped_by
    _report(study, planned, console)
    return 0


def _train_all(planned: Sequence[PlannedRun], console: Console) -> int | None:
    """Train what has not finished; return the signal that stopped it, if one did."""
    done = [run.work() for run in planned if run.finished]
    waiting = [run for run in planned if not run.finished]
    say(console, f"{len(planned)} runs, {len(done)} of them finished already.")
    for index, run in enumerate(waiting):
        left = time_left(done, [other.work(0.0) for other in waiting[index:]])
        say(console, f"\nRun {len(done) + 1} of {len(planned)}: {run.label}; {left}.")
        started, begun = time.monotonic(), run.begun
        outcome = _train(run, console)
        if outcome.stopped_by is not None:
            return outcome.stopped_by
        # Of a resumed run, this process has seen a part only.
        done.append(run.work(None if begun else time.monotonic() - started))
    return None


def _train(run: PlannedRun, console: Console) -> RunResult:
    try:
        if run.begun:
            return resume_run(run.path, console)
        # What a process that was killed while it claimed the directory has left.
        (run.path / f"{CONFIG}.partial").unlink(missing_ok=True)
        return start_run(run.config, console)
    except LeedError as error:
        raise type(error)(f"{run.label}: {error}") from None


def _report(study: Study, planned: Sequence[PlannedRun], console: Console) -> None:
    """Compare the variants at each point, and write the page of results."""
    found = []
    for point in study.points:
        paths = {
            label: [run.path for run in planned if (run.point, run.variant) == (point.name, label)]
            for label in study.variants
        }
        title = f"{study.file.title}, {point.name}" if point.name else study.file.title
        chosen: dict[str, Any] = {"threshold": study.file.threshold, "reference": study.file.reference}
        found.append((point, compare(paths, study.out / point.name, title=title, **chosen)))
        say(console, f"\n{table(found[-1][1])}")
    page = write_page(study, found, [read_summary(run.path) for run in planned])
    say(console, f"Results: {page}")
