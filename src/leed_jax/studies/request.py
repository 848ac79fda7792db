"""A study as it was asked for: the file, and what the command line changed."""

import dataclasses
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from leed_jax.config import Config
from leed_jax.config.compose import compose_config, whole_number
from leed_jax.config.options import options
from leed_jax.errors import ConfigurationError
from leed_jax.studies.schema import (
    StudyFile,
    flatten,
    folder_name,
    read_study_file,
    shown_value,
    written,
    written_value,
)

CHANGEABLE = (
    "experiment",
    "seeds.first",
    "seeds.count",
    "seeds_per_run",
    "threshold",
    "reference",
    "budget",
    "sampling_seed",
)
"""Keys of a study file that the command line may set, beside those of the configuration."""


@dataclasses.dataclass(frozen=True)
class Point:
    """Where all variants are compared.

    Attributes:
        value: of the study's `points.key`; None where there are no points.
        name: for folders and headings; empty where there are no points.
        settings: what holds here.
    """

    value: Any
    name: str
    settings: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Request:
    """A checked study.

    Attributes:
        name: what the command line called it.
        where: what to call the file in messages.
        file: what the file holds, with the command line's changes.
        out: the folder of everything that the study writes.
        overrides: `key=value` of the command line, for every run.
        variants: labels to run, in the file's order.
        points: points to run; a single nameless one where the file has none.
        command: the whole command.
    """

    name: str
    where: str
    file: StudyFile
    out: Path
    overrides: Mapping[str, str]
    variants: tuple[str, ...]
    points: tuple[Point, ...]
    command: str

    @property
    def partial(self) -> bool:
        """Whether some variants or points of the file are left out."""
        return len(self.variants) < len(self.file.variants) or len(self.points) < len(self.file.points.values)

    def seed_groups(self) -> Iterator[tuple[int, int]]:
        """First seed and number of seeds of each run of a variant."""
        seeds, first = self.file.seeds, self.file.seeds.first or 0
        step = self.file.seeds_per_run or seeds.count
        for start in range(first, first + seeds.count, step):
            yield start, min(step, first + seeds.count - start)

    def compose(self, where: str, *layers: Mapping[str, Any], **last: Any) -> Config:
        """The configuration of one run; of settings with the same key the last one stands.

        Args:
            where: which run, for messages.
            layers: settings, after those of all runs and before those of the command line.
            last: settings that the study decides about.

        Raises:
            ConfigurationError: they make no configuration; the message names the file and the run.
        """
        common = flatten(self.file.settings, f"study {self.where}: settings")
        values: dict[str, str] = {}
        for layer in (common, *layers):
            values |= {key: written_value(value) for key, value in layer.items()}
        values |= dict(self.overrides)
        arguments = [f"{key}={value}" for key, value in values.items()]
        if self.file.experiment:
            arguments.insert(0, f"experiment={self.file.experiment}")
        try:
            return compose_config([*arguments, *(written(key, value) for key, value in last.items())])
        except ConfigurationError as error:
            raise ConfigurationError(f"study {self.where}, {where}: {error}") from None


def read_request(name: str, arguments: Sequence[str]) -> Request:
    """Read a study file and what the command line changes.

    Args:
        name: of a study that comes with leed_jax, or a YAML file.
        arguments: `key=value` settings.

    Raises:
        ConfigurationError: one of them cannot work.
    """
    given = dict(_split(argument) for argument in arguments)
    whole = {option.key for option in options(StudyFile) if option.whole}
    changes = {
        key: _parsed(key, whole_number(given.pop(key)) if key in whole else given.pop(key))
        for key in CHANGEABLE
        if key in given
    }
    out, chosen = given.pop("out", ""), {key: given.pop(key, None) for key in ("variants", "points")}
    where, file = read_study_file(name, changes)
    flatten(given, "the command line")
    variants = _choice("variants", chosen["variants"], list(file.variants))
    values = _choice("points", chosen["points"], file.points.values)
    if file.reference not in variants:
        file = dataclasses.replace(file, reference=None)
    _check_overrides(where, file, given)
    return Request(
        name=name,
        where=where,
        file=file,
        out=Path(out).expanduser() if out else Path("runs") / "studies" / Path(name).stem,
        overrides=given,
        variants=tuple(variants),
        points=tuple(_points(where, file, values)),
        command=shlex.join(["python", "-m", "leed_jax.study", name, *arguments]),
    )


def _split(argument: str) -> tuple[str, str]:
    if argument.startswith("-"):
        raise ConfigurationError(f"{argument}: there is no such flag; settings are written key=value. See --help.")
    key, separator, value = argument.partition("=")
    if not separator:
        raise ConfigurationError(f"{argument}: settings are written key=value. See --help.")
    return key.strip(), value.strip()


def _parsed(key: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigurationError(f"{key}={value}: the value cannot be read; put it in quotes.") from None


def _choice(key: str, wanted: str | None, known: list[Any]) -> list[Any]:
    """Those of the known labels or values that are wanted, in their own order."""
    if wanted is None:
        return known
    parsed = _parsed(key, wanted)
    texts = {shown_value(item): item for item in known}
    parts = parsed if isinstance(parsed, list) else [part.strip() for part in wanted.split(",")]
    # A label may hold a comma, and a value be a list.
    whole = next((text for text in (wanted, shown_value(parsed)) if text in texts), None)
    chosen = {shown_value(part) for part in parts} if whole is None else {whole}
    there = ", ".join(f'"{text}"' if "," in text else text for text in texts) or "none"
    for part in chosen:
        if part not in texts:
            raise ConfigurationError(f"{key}={wanted}: the study has no {part}; it has {there}.")
    if not chosen:
        raise ConfigurationError(f"{key}={wanted}: that leaves nothing to run; name some of {there}.")
    return [item for text, item in texts.items() if text in chosen]


def _check_overrides(where: str, file: StudyFile, overrides: Mapping[str, str]) -> None:
    """Refuse what would make variants or points the same."""
    if file.points.key in overrides and file.points.key:
        raise ConfigurationError(
            f"{file.points.key} is what the points of study {where} differ by; choose some of them by points=VALUES."
        )
    for label, values in file.variants.items():
        section = f"study {where}: variants.{label}"
        flat = flatten(values, section) if file.kind == "compare" else {}
        both = [key for key in flat if key in overrides]
        if both:
            raise ConfigurationError(
                f"{both[0]} is what variant {label} of study {where} stands for, so the command line cannot set it for "
                "every run; change it in a copy of the file."
            )


def _points(where: str, file: StudyFile, values: Sequence[Any]) -> Iterator[Point]:
    points = file.points
    if not points.values:
        yield Point(None, "", {})
        return
    label = points.label or points.key.rpartition(".")[2]
    for value in values:
        shown = shown_value(value)
        further = flatten(points.settings_at(value), f"study {where}: points.settings.{shown}")
        name = "-".join(part for part in (folder_name(label), folder_name(value)) if part)
        yield Point(value, name, {points.key: value, **further})
