"""Study files: what is asked, of which variants, on which seeds; read, and checked before anything runs."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from leed_jax.config.compose import quoted
from leed_jax.config.options import nearest, one_sentence, options
from leed_jax.config.yaml_text import read_mapping
from leed_jax.errors import ConfigurationError
from leed_jax.evaluation.runs import dotted

# Texts that a setting has as they are, without quotes.
_PLAIN = re.compile(r"(?:[A-Za-z_/]|\.\.?/)[A-Za-z0-9_./:-]*")
_NO_TEXTS = ("null", "true", "false", "inf", "nan")

KINDS = ("compare", "tune")
TUNING_SEED = 100
_OF_THE_STUDY = {
    "seed": "the seeds are those of the study: set seeds.first",
    "num_seeds": "the seeds are those of the study: set seeds.count and seeds_per_run",
    "out": "the study chooses the folders of its runs: pass out=DIR on the command line",
    "resume": "a study goes on by itself when its command is given again",
    "experiment": "all variants start from one experiment: set experiment at the top of the file",
}


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
        settings: what else holds at some of them, by value; a list's by its text, as in "[64,64]".
    """

    key: str = ""
    label: str = ""
    values: list[Any] = dataclasses.field(default_factory=list)
    settings: dict[Any, Any] = dataclasses.field(default_factory=dict)

    def settings_at(self, value: Any) -> Any:
        """What else holds at a value; None where it is nothing.

        A list cannot be a key, so its settings are those of its text, as in "[64,64]".
        """
        return next((held for key, held in self.settings.items() if _same(key, value)), None)


@dataclasses.dataclass
class StudyFile:
    """What a study file holds.

    Attributes:
        title: the heading of the results.
        description: the question that the study answers.
        kind: compare, variants beside each other; or tune, the same number of settings of each variant.
        experiment: the experiment that every run starts from.
        settings: what all runs have in common.
        seeds_per_run: seeds that are trained side by side in one run; null for all.
        threshold: return per agent whose first passing is compared; null for the default of leed_jax.evaluation.
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


def study_names() -> list[str]:
    """Names of the studies that come with leed_jax."""
    return sorted(Path(file.name).stem for file in _folder().iterdir() if file.name.endswith(".yaml"))


def read_study_file(name: str, changes: Mapping[str, Any]) -> tuple[str, StudyFile]:
    """Read a study file and check it.

    Args:
        name: of a study that comes with leed_jax, or a YAML file.
        changes: values of the file's own keys to take instead, by dotted key.

    Returns:
        What to call the file in messages, and what it holds.

    Raises:
        ConfigurationError: there is no such study, or a key or a value in it cannot work.
    """
    where, text = _read(name)
    values = read_mapping(text, f"study {where}")
    try:
        given = {key: value for key, value in values.items() if value is not None}
        merged = OmegaConf.merge(OmegaConf.structured(StudyFile), given)
        for key, value in changes.items():
            OmegaConf.update(merged, key, value)
        study: Any = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigurationError(f"study {where}: {_explain(error)}") from None
    _check(where, study)
    return where, study


def flatten(values: Any, where: str) -> dict[str, Any]:
    """Settings by dotted key, from nested or dotted ones.

    Args:
        values: as they stand in the file; None counts as empty.
        where: where they stand, for messages.

    Raises:
        ConfigurationError: they are no settings, or a key that the study itself decides about is among them.
    """
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{where} must hold keys and values, as in {{algorithm: ippo}}; it is {values!r}.")
    found: dict[str, Any] = {}
    for key, value in dotted(values):
        if key in _OF_THE_STUDY:
            raise ConfigurationError(f"{where}.{key}: {_OF_THE_STUDY[key]}.")
        if key in found:
            raise ConfigurationError(f"{where}.{key} is there twice, nested and with a dot; leave one of them out.")
        found[key] = value
    return found


def written(key: str, value: Any) -> str:
    """One setting as one would type it on the command line."""
    return f"{key}={written_value(value)}"


def written_value(value: Any) -> str:
    """A value as one would type it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and value.lower() not in _NO_TEXTS else quoted(value)
    if isinstance(value, Sequence):
        return "[" + ",".join(written_value(item) for item in value) + "]"
    return str(value)


def shown_value(value: Any) -> str:
    """A value as people read it: in headings, in names of folders, and where values are chosen by what they are."""
    return value if isinstance(value, str) else written_value(value)


def folder_name(label: Any) -> str:
    """A label or a value as the name of a folder, which tells -1 from 1."""
    signed = re.sub(r"(?<![A-Za-z0-9._)])-(?=\.?\d|inf\b)", "-minus-", shown_value(label))
    return re.sub(r"[^A-Za-z0-9._]+", "-", signed).strip("-.")


def check_folders(where: str, kind: str, items: Sequence[Any]) -> None:
    """Make sure that every label or value has a folder of its own.

    Args:
        where: where they stand, for messages.
        kind: what they are: label, of which another one can be given, or value.
        items: all of them.

    Raises:
        ConfigurationError: two have the same, or one has none.
    """
    seen: dict[str, Any] = {}
    for item in items:
        # Some file systems do not tell upper case from lower.
        folder = folder_name(item).lower()
        if folder and folder not in seen:
            seen[folder] = item
            continue
        mend = "give it another one" if kind == "label" else "leave one of them out" if folder else "leave it out"
        fault = (
            f"is too much like {seen[folder]!r} for a folder of its own"
            if folder
            else "has no letter from A to Z and no digit that its folder could be called by"
        )
        raise ConfigurationError(f"{where}: the {kind} {item!r} {fault}; {mend}.")


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


def _explain(error: OmegaConfBaseException) -> str:
    if not isinstance(error, (ConfigKeyError, ConfigAttributeError)):
        return one_sentence(error)
    key = str(error.full_key)
    near = nearest(key, [option.key for option in options(StudyFile)])
    hint = f" Did you mean {near}?" if near else ""
    return f"{key} is not a key of a study.{hint} --help lists all keys."


def _check(where: str, study: StudyFile) -> None:
    def require(condition: bool, message: str) -> None:
        if not condition:
            raise ConfigurationError(f"study {where}: {message}")

    require(bool(study.title), "title is missing: say what the results are called.")
    require(study.kind in KINDS, f"kind={study.kind}: must be one of {', '.join(KINDS)}.")
    require(bool(study.variants), "variants is empty: give at least one, as in leed: {}.")
    seeds, per_run = study.seeds, study.seeds_per_run
    require(seeds.first is None or seeds.first >= 0, f"seeds.first={seeds.first}: must be at least 0.")
    require(seeds.count >= 1, f"seeds.count={seeds.count}: must be at least 1.")
    require(per_run is None or per_run >= 1, f"seeds_per_run={per_run}: must be at least 1, or null.")
    if seeds.first is None:
        seeds.first = TUNING_SEED if study.kind == "tune" else 0
    check_folders(f"study {where}: variants", "label", list(study.variants))
    if study.kind == "tune":
        _check_tuning(study, require)
    else:
        _check_comparison(study, require)
        _check_points(where, study, require)


def _check_tuning(study: StudyFile, require: Any) -> None:
    budget = study.budget
    require(budget is not None, "budget is missing: kind=tune tries that many settings of each variant.")
    require(budget is None or budget >= 1, f"budget={budget}: must be at least 1.")
    require(study.sampling_seed >= 0, f"sampling_seed={study.sampling_seed}: must be at least 0.")
    for key in ("threshold", "reference"):
        require(getattr(study, key) is None, f"{key} is for kind=compare; leave it out.")
    require(study.points == Points(), "points is for kind=compare; leave it out.")


def _check_comparison(study: StudyFile, require: Any) -> None:
    require(study.budget is None, "budget is for kind=tune; leave it out.")
    threshold = study.threshold
    require(threshold is None or math.isfinite(threshold), f"threshold={threshold}: must be a finite number, or null.")
    names, reference = ", ".join(study.variants), study.reference
    require(
        reference is None or reference in study.variants,
        f"reference={reference}: there is no such variant; it must be one of {names}.",
    )


def _check_points(where: str, study: StudyFile, require: Any) -> None:
    points = study.points
    require(
        bool(points.key) == bool(points.values),
        "points.key and points.values belong together: the key, and the values that it is given in turn.",
    )
    require(bool(points.values) or points == Points(), "points: without points.key and points.values it says nothing.")
    for value in points.values:
        require(
            not isinstance(value, Mapping),
            f"points.values: {value!r} holds keys of its own; give points.key one value at each point, and further "
            "keys under points.settings.",
        )
    for key in points.settings:
        require(
            any(_same(key, value) for value in points.values),
            f"points.settings.{key}: there is no such point; points.values are {points.values}.",
        )
    check_folders(f"study {where}: points.values", "value", points.values)


def _same(key: Any, value: Any) -> bool:
    """Whether a key of points.settings is a point's value; 3 is 3.0."""
    return bool(key == value) or shown_value(key) == shown_value(value)
