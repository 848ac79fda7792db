"""The runs of a study, composed and checked as a whole before any of them starts."""

import contextlib
import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from leed_jax.config import IMITATING, Config, to_dictionary, unread_sections
from leed_jax.config.environments import complete, make_environment
from leed_jax.demonstrations import find_set, load_demonstrations
from leed_jax.errors import ConfigurationError, DemonstrationError, LeedError, RunDirectoryError
from leed_jax.evaluation.runs import flat
from leed_jax.report.directory import CONFIG, SUMMARY, check_place, read_config
from leed_jax.studies.request import Request
from leed_jax.studies.schema import flatten, folder_name, written

_NAMES = ("out", "resume", "experiment", "settings_of")
# It tells whether the rest of its section is read.
_REFRESHING = "generate.refresh_every"


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One run of a variant at a point.

    Attributes:
        point: the point's name; empty where there are none.
        variant: its label.
        path: its run directory.
        config: its configuration.
    """

    point: str
    variant: str
    path: Path
    config: Config

    @property
    def label(self) -> str:
        """Which one it is, for people."""
        last = self.config.seed + self.config.num_seeds - 1
        seeds = f"seed {last}" if self.config.num_seeds == 1 else f"seeds {self.config.seed} to {last}"
        return ", ".join(part for part in (self.point, self.variant, seeds) if part)


def plan_runs(request: Request) -> list[PlannedRun]:
    """All runs of a study of kind=compare, point by point, variant by variant.

    Raises:
        LeedError: one of them cannot be made, or two variants are the same.
    """
    planned = []
    for point in request.points:
        for variant in request.variants:
            name = f"variants.{variant}"
            settings = flatten(request.file.variants[variant], f"study {request.where}: {name}")
            where = f"{name} at {point.name}" if point.name else name
            for first, count in request.seed_groups():
                config = request.compose(where, point.settings, settings, seed=first, num_seeds=count)
                seeds = f"seeds{first}-{first + count - 1}"
                path = request.out / point.name / folder_name(variant) / seeds
                planned.append(PlannedRun(point.name, variant, path, dataclasses.replace(config, out=str(path))))
    _check_distinct(request, planned)
    check_ingredients(request, [(run.label, run.config) for run in planned])
    return planned


def check_ingredients(request: Request, configs: Sequence[tuple[str, Config]]) -> None:
    """Make sure that environments can be made and demonstrations be loaded, each once.

    Args:
        request: the study, for messages.
        configs: configurations, with what to call each.

    Raises:
        LeedError: one cannot.
    """
    seen: list[tuple[Any, str | None]] = []
    for label, config in configs:
        imitates = config.algorithm in IMITATING
        ingredients = (config.env, config.demonstrations.path if imitates else None)
        if ingredients in seen:
            continue
        seen.append(ingredients)
        try:
            environment = make_environment(config.env)
            if imitates:
                load_demonstrations(config.demonstrations.path, environment)
        except LeedError as error:
            raise type(error)(f"study {request.where}, {label}: {error}") from None


def _check_distinct(request: Request, planned: Sequence[PlannedRun]) -> None:
    for index, run in enumerate(planned):
        for other in planned[:index]:
            if (run.point, run.config.seed) == (other.point, other.config.seed) and not differences(
                other.config, run.config
            ):
                raise ConfigurationError(
                    f"study {request.where}: variants {other.variant} and {run.variant} are the same configuration; "
                    "change one of them or leave it out."
                )


# --- what is there already --------------------------------------------------------------------------------------


def has_finished(run: PlannedRun) -> bool:
    """Whether a run has finished."""
    return (run.path / SUMMARY).is_file()


def has_begun(run: PlannedRun) -> bool:
    """Whether a run has recorded its configuration, and so can be gone on with."""
    return (run.path / CONFIG).is_file()


def check_recorded(run: PlannedRun) -> None:
    """Make sure that what a run directory holds, if anything, is what the study asks for.

    Raises:
        RunDirectoryError: it was made with other settings, or cannot be read; or there can be no directory.
    """
    if not has_begun(run):
        check_place(run.path)
        return
    try:
        recorded = read_config(run.path)
    except RunDirectoryError as error:
        raise RunDirectoryError(f"{error} To have the study start it, remove {run.path}.") from None
    found = differences(recorded, run.config)
    if found:
        raise RunDirectoryError(
            f"{run.path} holds a run with other settings than the study asks for now ({'; '.join(found)}). Pass "
            "another out=DIR, give the settings that it was made with, or remove that folder; nothing was overwritten."
        )


def clear_debris(path: Path) -> None:
    """Remove what a process that was killed while it claimed a run directory has left: a half-written file."""
    if path.is_dir() and not (path / CONFIG).exists():
        (path / f"{CONFIG}.partial").unlink(missing_ok=True)


def differences(recorded: Config, asked: Config) -> list[str]:
    """Settings that differ, in words, of those that have a say in what is learnt.

    Where files are, and what the settings are from, does not count.

    Args:
        recorded: the configuration of a run that is there.
        asked: the one that is wanted.
    """
    idle = frozenset[str]().union(*(unread_sections(c.algorithm, c.generate.refresh_every) for c in (recorded, asked)))
    there, here = _comparable(recorded, idle), _comparable(asked, idle)
    missing = object()
    return [
        f"{written(key, there[key]) if key in there else f'no {key}'} there, "
        f"{written(key, here[key]) if key in here else f'no {key}'} asked for"
        for key in {**there, **here}
        if there.get(key, missing) != here.get(key, missing)
    ]


def _comparable(config: Config, idle: Collection[str]) -> dict[str, Any]:
    """All settings but names and those of idle sections, with dotted keys."""
    with contextlib.suppress(ConfigurationError):
        # A run records all fields of its environment.
        config = dataclasses.replace(config, env=complete(config.env))
    values = {
        key: value
        for key, value in flat(to_dictionary(config)).items()
        if key not in _NAMES and (key.partition(".")[0] not in idle or key == _REFRESHING)
    }
    if "demonstrations" in idle:
        return values
    try:
        # A run records the folder, however the set was called.
        path = find_set(config.demonstrations.path)
    except DemonstrationError:
        return values
    return {**values, "demonstrations.path": str(path.resolve())}
