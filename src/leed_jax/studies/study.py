"""Study files, and what a command line changes in them; checked before anything runs."""

import dataclasses
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from leed_jax.config import RunConfig
from leed_jax.config.compose import compose_config, split_setting, whole_number
from leed_jax.config.options import nearest, one_sentence, options
from leed_jax.config.yaml_text import read_mapping
from leed_jax.errors import ConfigurationError
from leed_jax.studies.settings import as_label, as_text, flat_settings, folder_name

KINDS = ("compare", "tune")
TUNING_SEED = 100
CHANGEABLE = (
    *("experiment", "seeds.first", "seeds.count", "seeds_per_run", "threshold", "reference", "budget", "sampling_seed"),
)
"""Keys of a study file that the command line may set, besides those of the configuration."""


@dataclasses.dataclass
class Seeds:
    """The seeds of every variant.

    Attributes:
        first: the first one; the others count up. Null for 0, and for 100 with kind=tune, whose seeds are not to be
            those of reports.
        count: how many.
    """

    first: int | None = None
    count: int = 10


@dataclasses.dataclass
class Points:
    """Values of one key at which all variants are compared.

    Attributes:
        key: the key; the horizontal axis of the summary figure.
        label: what the axis is called; empty for the key's last part.
        values: its values.
        settings: further settings at some of them, by value; a list's by its text, as in "[64,64]".
    """

    key: str = ""
    label: str = ""
    values: list[Any] = dataclasses.field(default_factory=list)
    settings: dict[Any, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class StudyFile:
    """The content of a study file.

    Attributes:
        title: the heading of the results.
        description: the question that the study answers.
        kind: compare, variants side by side; or tune, the same number of settings of each variant.
        experiment: the experiment that every run starts from.
        settings: what all runs have in common.
        seeds_per_run: seeds that are trained side by side in one run; null for all.
        threshold: return per agent whose first passage is compared; null for the default of leed_jax.evaluation.
        reference: the variant that the others are compared with; null for none.
        budget: with kind=tune, the settings that are tried of each variant.
        sampling_seed: with kind=tune, the seed of the drawn settings.
        variants: settings by label; with kind=tune, the label's settings, list, grid and sample.
    """

    title: str = ""
    description: str = ""
    kind: str = "compare"
    experiment: str = ""
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    seeds: Seeds = dataclasses.field(default_factory=Seeds)
    seeds_per_run: int | None = None
    threshold: float | None = None
    reference: str | None = None
    points: Points = dataclasses.field(default_factory=Points)
    budget: int | None = None
    sampling_seed: int = 0
    variants: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Point:
    """A point at which all variants are compared; value None and name empty where the study has none."""

    value: Any  # of the study's `points.key`
    name: str  # for folders and headings
    settings: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Study:
    """A checked study: a file, and what the command line changed."""

    source: str  # the file, for messages
    file: StudyFile  # with the command line's changes
    out: Path  # the folder of everything that the study writes
    overrides: Mapping[str, str]  # `key=value` of the command line, for every run
    variants: tuple[str, ...]  # labels to run, in the file's order
    points: tuple[Point, ...]  # points to run; a single nameless one where the file has none
    command: str

    @property
    def partial(self) -> bool:
        """Whether some variants or points of the file are left out."""
        return len(self.variants) < len(self.file.variants) or len(self.points) < len(self.file.points.values)

    @property
    def points_label(self) -> str:
        """What the key of the points is called."""
        return self.file.points.label or self.file.points.key

    @property
    def common(self) -> dict[str, str]:
        """Settings of the file for all runs, as text."""
        return {key: as_text(value) for key, value in flat_settings(self.file.settings, "settings").items()}

    def compose(self, where: str, *layers: Mapping[str, Any]) -> list[RunConfig]:
        """The configurations of a variant, one for each group of seeds that is trained side by side.

        Args:
            where: which variant, for messages.
            layers: settings, after those of all runs and before those of the command line; later ones override.

        Raises:
            ConfigurationError: they make no configuration; the message names the file and the variant.
        """
        first, count = self.file.seeds.first or 0, self.file.seeds.count
        side_by_side = min(self.file.seeds_per_run or count, count)
        values = self.common
        for layer in layers:
            values |= {key: as_text(value) for key, value in layer.items()}
        values |= {**self.overrides, "seed": str(first), "num_seeds": str(side_by_side)}
        if self.file.experiment:
            values["experiment"] = self.file.experiment
        try:
            config = compose_config([f"{key}={value}" for key, value in values.items()])
        except ConfigurationError as error:
            raise ConfigurationError(f"study {self.source}, {where}: {error}") from None
        end = first + count
        return [
            dataclasses.replace(config, seed=seed, num_seeds=min(side_by_side, end - seed))
            for seed in range(first, end, side_by_side)
        ]


# --- reading ----------------------------------------------------------------------------------------------------


def study_names() -> list[str]:
    """Names of the studies that come with leed_jax."""
    return sorted(Path(file.name).stem for file in _folder().iterdir() if file.name.endswith(".yaml"))


def read_study(name: str, arguments: Sequence[str]) -> Study:
    """Read a study file, or a study that comes with leed_jax, and the `key=value` settings of a command line.

    Raises:
        ConfigurationError: one of them cannot work.
    """
    given = dict(split_setting(argument) for argument in arguments)
    whole = {option.key for option in options(StudyFile) if option.whole}
    changes = {
        key: _parsed(key, whole_number(given.pop(key)) if key in whole else given.pop(key))
        for key in CHANGEABLE
        if key in given
    }
    out, labels, values = given.pop("out", ""), given.pop("variants", None), given.pop("points", None)
    source, file = read_study_file(name, changes)
    flat_settings(given, "the command line")
    variants = _choose("variants", labels, list(file.variants))
    points = [_point(source, file, value) for value in _choose("points", values, file.points.values)]
    if file.reference not in variants:
        file = dataclasses.replace(file, reference=None)
    _check_overrides(source, file, given)
    return Study(
        source=source,
        file=file,
        out=Path(out).expanduser() if out else Path("runs") / "studies" / Path(name).stem,
        overrides=given,
        variants=tuple(variants),
        points=tuple(points) or (Point(None, "", {}),),
        command=shlex.join(["python", "-m", "leed_jax.study", name, *arguments]),
    )


def read_study_file(name: str, changes: Mapping[str, Any]) -> tuple[str, StudyFile]:
    """Read a study file and check it; return what to call it in messages, and its content.

    Args:
        name: of a study that comes with leed_jax, or a YAML file.
        changes: values of the file's own keys to take instead, by dotted key.

    Raises:
        ConfigurationError: there is no such study, or a key or a value in it cannot work.
    """
    source, text = _read(name)
    values = read_mapping(text, f"study {source}")
    try:
        given = {key: value for key, value in values.items() if value is not None}
        merged = OmegaConf.merge(OmegaConf.structured(StudyFile), given)
        for key, value in changes.items():
            OmegaConf.update(merged, key, value)
        study: Any = OmegaConf.to_object(merged)
    except (ConfigKeyError, ConfigAttributeError) as error:
        key = str(error.full_key)
        near = nearest(key, [option.key for option in options(StudyFile)])
        hint = f" Did you mean {near}?" if near else ""
        raise ConfigurationError(
            f"study {source}: {key} is not a key of a study.{hint} --help lists all keys."
        ) from None
    except OmegaConfBaseException as error:
        raise ConfigurationError(f"study {source}: {one_sentence(error)}") from None
    for passed, message in _checks(study):
        if not passed:
            raise ConfigurationError(f"study {source}: {message}")
    if study.seeds.first is None:
        study.seeds.first = TUNING_SEED if study.kind == "tune" else 0
    _check_folders(f"study {source}: variants", "label", list(study.variants))
    _check_folders(f"study {source}: points.values", "value", study.points.values)
    return source, study


def _folder() -> Traversable:
    return resources.files("leed_jax.experiments").joinpath("studies")


def _read(name: str) -> tuple[str, str]:
    if name in study_names():
        return name, _folder().joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    path = Path(name).expanduser()
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        near = nearest(name, study_names())
        hint = f" Did you mean {near}?" if near else ""
        raise ConfigurationError(
            f"{name}: there is no such study or YAML file.{hint} Available: {', '.join(study_names())}."
        )
    try:
        return str(path), path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"study {path} cannot be read as UTF-8 text: {error}") from None


def _checks(study: StudyFile) -> Iterator[tuple[bool, str]]:
    """Each condition that a file has to meet, with the message if it does not."""
    seeds, per_run, points = study.seeds, study.seeds_per_run, study.points
    yield bool(study.title), "title is missing: say what the results are called."
    yield study.kind in KINDS, f"kind={study.kind}: must be one of {', '.join(KINDS)}."
    yield bool(study.variants), "variants is empty: give at least one, as in leed: {}."
    yield seeds.first is None or seeds.first >= 0, f"seeds.first={seeds.first}: must be at least 0."
    yield seeds.count >= 1, f"seeds.count={seeds.count}: must be at least 1."
    yield per_run is None or per_run >= 1, f"seeds_per_run={per_run}: must be at least 1, or null."
    if study.kind == "tune":
        yield study.budget is not None, "budget is missing: kind=tune tries that many settings of each variant."
        yield (study.budget or 0) >= 1, f"budget={study.budget}: must be at least 1."
        yield study.sampling_seed >= 0, f"sampling_seed={study.sampling_seed}: must be at least 0."
        for key in ("threshold", "reference"):
            yield getattr(study, key) is None, f"{key} is for kind=compare; leave it out."
        yield points == Points(), "points is for kind=compare; leave it out."
        return
    yield study.budget is None, "budget is for kind=tune; leave it out."
    yield math.isfinite(study.threshold or 0), f"threshold={study.threshold}: must be a finite number, or null."
    yield (
        study.reference is None or study.reference in study.variants,
        f"reference={study.reference}: there is no such variant; it must be one of {', '.join(study.variants)}.",
    )
    yield (
        bool(points.key) == bool(points.values),
        "points.key and points.values belong together: the key, and the values that it is given in turn.",
    )
    yield bool(points.values) or points == Points(), "points: points.key and points.values are missing."
    for value in points.values:
        yield (
            not isinstance(value, Mapping),
            f"points.values: {value!r} holds keys of its own; give points.key one value at each point, and further "
            "keys under points.settings.",
        )
    for key in points.settings:
        yield (
            any(_same(key, value) for value in points.values),
            f"points.settings.{key}: there is no such point; points.values are {points.values}.",
        )


def _check_folders(where: str, kind: str, items: Sequence[Any]) -> None:
    """Check that every label or value has a folder of its own, also where upper and lower case are the same."""
    owner: dict[str, Any] = {}
    for item in items:
        folder = folder_name(item).lower()
        fault = "" if folder else "has no letter from A to Z and no digit for the name of its folder"
        if folder in owner:
            fault = f"is too much like {owner[folder]!r} for a folder of its own"
        if fault:
            remedy = "give it another name" if kind == "label" else "leave it out"
            raise ConfigurationError(f"{where}: the {kind} {item!r} {fault}; {remedy}.")
        owner[folder] = item


def _same(key: Any, value: Any) -> bool:
    """Whether a key of points.settings is a point's value; 3 is 3.0, and a list is its text."""
    return bool(key == value) or as_label(key) == as_label(value)


def _point(source: str, file: StudyFile, value: Any) -> Point:
    points = file.points
    settings = next((settings for key, settings in points.settings.items() if _same(key, value)), None)
    further = flat_settings(settings, f"study {source}: points.settings.{as_label(value)}")
    label = points.label or points.key.rpartition(".")[2]
    name = "-".join(part for part in (folder_name(label), folder_name(value)) if part)
    return Point(value, name, {points.key: value, **further})


def _parsed(key: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigurationError(f"{key}={value}: the value cannot be read; put it in quotes.") from None


def _choose(key: str, wanted: str | None, known: list[Any]) -> list[Any]:
    """Those of the known labels or values that are wanted, in their own order."""
    if wanted is None:
        return known
    parsed = _parsed(key, wanted)
    texts = {as_label(item): item for item in known}
    parts = parsed if isinstance(parsed, list) else [part.strip() for part in wanted.split(",")]
    # A label may hold a comma, and a value be a list.
    whole = next((text for text in (wanted, as_label(parsed)) if text in texts), None)
    chosen = {as_label(part) for part in parts} if whole is None else {whole}
    there = ", ".join(f'"{text}"' if "," in text else text for text in texts) or "none"
    for part in chosen:
        if part not in texts:
            raise ConfigurationError(f"{key}={wanted}: the study has no {part}; it has {there}.")
    if not chosen:
        raise ConfigurationError(f"{key}={wanted}: that leaves nothing to run; name some of {there}.")
    return [item for text, item in texts.items() if text in chosen]


def _check_overrides(source: str, file: StudyFile, overrides: Mapping[str, str]) -> None:
    """Refuse overrides of keys by which points or variants differ."""
    if file.points.key and file.points.key in overrides:
        raise ConfigurationError(
            f"{file.points.key} is what the points of study {source} differ by; choose some of them by points=VALUES."
        )
    for label, values in file.variants.items() if file.kind == "compare" else ():
        for key in flat_settings(values, f"study {source}: variants.{label}"):
            if key in overrides:
                raise ConfigurationError(
                    f"{key} is what variant {label} of study {source} sets, so the command line cannot set it for "
                    "every run; change it in a copy of the file."
                )
