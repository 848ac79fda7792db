"""Finished run directories: reading and checking them, and pooling those that differ in their seeds alone."""

import dataclasses
import functools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float, Int
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from leed_jax.config import RunConfig, unread_sections
from leed_jax.config.options import one_sentence
from leed_jax.errors import ConfigurationError, RunDirectoryError
from leed_jax.report.directory import CONFIG, SUMMARY
from leed_jax.report.metrics import METRICS

GREEDY = "greedy_return_per_agent"
TRAINING = "return_per_agent"

NUMBER = int | float
_NUMBERS = ("env_steps", "wall_s", "compile_s", "num_agents", "evaluation_episodes")
_OPTIONAL = ("random_return_per_agent", "instructions_return_per_agent", "preparation_s", "recording_s")
_SUMMARY = {
    "algorithm": str,
    "versions": dict,
    "device": dict,
    "seeds": list,
    "return_per_agent": list,
    "return_of_agents": list | None,
    **dict.fromkeys(_NUMBERS, NUMBER),
    **dict.fromkeys(_OPTIONAL, NUMBER | None),
}
_ROW = {"seed": int, "env_steps": NUMBER, "wall_s": NUMBER, GREEDY: NUMBER | None, TRAINING: NUMBER | None}
DAMAGE = (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError)
"""What reading a damaged file may raise."""

# Settings that do not change what a run learns, besides the sections that its algorithm does not read.
_NOT_LEARNED = ("evaluation", "seed", "num_seeds", "experiment", "settings_of", "out", "resume", "checkpoint_every")
_REFRESH = "generate.refresh_every"
_MAX_DIFFERENCES_IN_LABEL = 3


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run; returns are per agent."""

    path: Path
    settings: Mapping[str, Any]  # its configuration, with dotted keys
    summary: Mapping[str, Any]
    seeds: tuple[int, ...]  # in ascending order, as in all that follows
    final: Float[np.ndarray, " S"]  # greedy return after training; -inf where it is not finite
    agents: Float[np.ndarray, "S A"] | None  # the same for each agent; None if the run did not record it
    steps: Int[np.ndarray, " C"]  # environment steps of each seed after each chunk
    seconds: Float[np.ndarray, " C"]  # wall-clock after each chunk, divided by the number of seeds
    returns: Mapping[str, Float[np.ndarray, "C S"]]  # return after each chunk by metric, NaN where there is none

    @property
    def algorithm(self) -> str:
        """The algorithm that was trained."""
        return str(self.summary["algorithm"])


# --- reading ----------------------------------------------------------------------------------------------------


def read_run(path: Path) -> Run:
    """Read a run directory.

    Raises:
        RunDirectoryError: there is none, the run has not finished, or a file in it is damaged.
    """
    if not path.is_dir():
        raise RunDirectoryError(f"{path}: there is no such directory. Name the directory of a finished run.")
    if not (path / SUMMARY).is_file():
        fault, remedy = f"{path} is not a run directory (no {CONFIG} in it)", "Name the directory of a finished run."
        if (path / CONFIG).is_file():
            fault = f"{path}: the run has not finished (no {SUMMARY} in it)"
            remedy = f"Resume it by python -m leed_jax.run resume={path}, or leave it out."
        raise RunDirectoryError(f"{fault}. {remedy}")
    summary, settings = read_summary(path), _read_settings(path)
    rows = _read_rows(path, summary)
    seeds, order = tuple(sorted(summary["seeds"])), np.argsort(summary["seeds"])
    agents = summary["return_of_agents"]

    def column(name: str) -> Float[np.ndarray, "C S"]:
        return np.array([row[name] for row in rows], np.float64).reshape(-1, len(seeds))

    return Run(
        path=path,
        settings=settings,
        summary=summary,
        seeds=seeds,
        final=_diverged_lowest(summary["return_per_agent"])[order],
        agents=None if agents is None else _diverged_lowest(agents)[order],
        steps=column("env_steps")[:, 0].astype(np.int64),
        seconds=column("wall_s")[:, 0] / len(seeds),
        returns={name: column(name) for name in (GREEDY, TRAINING)},
    )


def read_summary(path: Path) -> dict[str, Any]:
    """The summary of a finished run; what older versions did not record is None.

    Raises:
        RunDirectoryError: it is damaged, or lacks something that a comparison needs.
    """
    file = path / SUMMARY
    try:
        summary = parse_record(file.read_bytes(), _SUMMARY, optional=("return_of_agents", *_OPTIONAL))
        seeds = summary["seeds"]
        if not seeds or len(set(seeds)) < len(seeds) or not all(type(seed) is int for seed in seeds):
            raise ValueError(f"seeds are {seeds}")
        for name in ("return_per_agent", "return_of_agents"):
            if summary[name] is not None and len(_diverged_lowest(summary[name])) != len(seeds):
                raise ValueError(f"{name} has {len(summary[name])} entries for {len(seeds)} seeds")
    except DAMAGE as error:
        raise _damaged(file, error) from None
    return summary


def parse_record(text: bytes, kinds: Mapping[str, Any], optional: Collection[str] = ()) -> dict[str, Any]:
    """A JSON object whose values have the given types.

    Args:
        text: the object.
        kinds: the type of each value.
        optional: names that may be missing; their values are None then.

    Raises:
        KeyError: a value is missing.
        TypeError: one has another type.
        ValueError: the text is not JSON.
    """
    values = {**dict.fromkeys(optional), **json.loads(text, parse_constant=_not_finite)}
    for name, kind in kinds.items():
        if isinstance(values[name], bool) or not isinstance(values[name], kind):
            raise TypeError(f"{name} is {values[name]!r:.100}")
    return values


def _not_finite(name: str) -> float:
    raise ValueError(f"{name} is not finite")


def _read_settings(path: Path) -> dict[str, Any]:
    """The configuration with dotted keys, of any version of leed_jax; values of today's keys have today's types."""
    try:
        values: Any = OmegaConf.to_container(OmegaConf.load(path / CONFIG), resolve=True)
        if not isinstance(values, dict):
            raise ValueError("it does not hold keys and values")
        settings = flat(values)
        if "env.name" not in settings:
            raise ValueError("it names no environment")
        typed = OmegaConf.structured(RunConfig(env={}))
        known = {*_defaults(), *(key.partition(".")[0] for key in _defaults())}
        for key, value in settings.items():
            # A key that was optional once may be null.
            if key in known and value is not None:
                OmegaConf.update(typed, key, value)
    except (*DAMAGE, yaml.YAMLError, OmegaConfBaseException) as error:
        raise _damaged(path / CONFIG, error) from None
    return settings


def _read_rows(path: Path, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The metrics, ordered by environment steps and seed; one row for each chunk and seed."""
    file, rows, number = path / METRICS, [], 0
    try:
        for number, line in enumerate(file.read_bytes().splitlines(), start=1):  # noqa: B007 - named in the error
            rows.append(parse_record(line, _ROW, (GREEDY, TRAINING)))
    except DAMAGE as error:
        raise _damaged(file, error, f"line {number}: " if number else "") from None
    try:
        rows.sort(key=lambda row: (row["env_steps"], row["seed"]))
        steps, seeds = sorted({row["env_steps"] for row in rows}), sorted(summary["seeds"])
        if not rows or [(row["env_steps"], row["seed"]) for row in rows] != [(t, s) for t in steps for s in seeds]:
            raise ValueError(f"it does not hold every chunk of the seeds {', '.join(map(str, seeds))} once")
        if steps[-1] != summary["env_steps"]:
            raise ValueError(f"it ends at {steps[-1]:,} environment steps, and the run at {summary['env_steps']:,}")
    except DAMAGE as error:
        raise _damaged(file, error) from None
    return rows


def _damaged(file: Path, error: Exception, where: str = "") -> RunDirectoryError:
    return RunDirectoryError(f"{file} is damaged: {where}{fault_of(error)}. Restore the file, or leave the run out.")


def fault_of(error: Exception) -> str:
    """What is wrong with a damaged file, in words."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"it lacks {error}" if isinstance(error, KeyError) else one_sentence(error).rstrip(".")


def _diverged_lowest(values: Any) -> np.ndarray:
    """Numbers, -inf for null."""
    return np.nan_to_num(np.array(values, np.float64), nan=-np.inf)


# --- settings ---------------------------------------------------------------------------------------------------


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values with dotted keys."""
    return dict(dotted(values))


def dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each nested value with its dotted key; a key may come twice, if some keys have dots already."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@functools.cache
def _defaults() -> dict[str, Any]:
    return flat(dataclasses.asdict(RunConfig(env={})))


def differing_settings(
    one: Mapping[str, Any], other: Mapping[str, Any], ignored: Collection[str] = _NOT_LEARNED
) -> dict[str, tuple[Any, Any]]:
    """The settings in which two runs differ, of those that both algorithms read; None for one that is not there.

    Args:
        one: settings of a run, with dotted keys. Keys of other versions do not count, and defaults fill gaps.
        other: those of another run.
        ignored: keys without a section, and whole sections, that do not count.
    """
    both = [
        {key: value for key, value in settings.items() if key.startswith("env.")}
        | {key: settings.get(key, default) for key, default in _defaults().items()}
        for settings in (one, other)
    ]
    idle = {section for s in both for section in unread_sections(s["algorithm"], s[_REFRESH] or 0)} | set(ignored)
    read = [key for key in both[0] | both[1] if key == _REFRESH or key.partition(".")[0] not in idle]
    pairs = {key: (both[0].get(key), both[1].get(key)) for key in read}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def check_same_task(runs: Sequence[Run]) -> None:
    """Check that all runs are of one environment and were evaluated alike.

    An `env` key that only one of two runs has recorded counts as equal; a note of the comparison mentions it.

    Raises:
        RunDirectoryError: they are not.
    """
    first = runs[0]
    for run in runs[1:]:
        keys = [key for key in first.settings if key.startswith("env.") and key in run.settings]
        both = [_defaults() | dict(of.settings) | dict(of.summary) for of in (first, run)]
        for key in (*keys, "evaluation.episodes", "evaluation.seed", "num_agents", "evaluation_episodes"):
            one, other = (values[key] for values in both)
            if one != other:
                raise RunDirectoryError(
                    f"{first.path} and {run.path} cannot be compared: {key} is {json.dumps(one)} in the one and "
                    f"{json.dumps(other)} in the other. Compare runs of one environment that were evaluated alike."
                )


# --- variants ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Variant:
    """Runs with the same settings, the same chunks and different seeds, and their arrays side by side; see `Run`."""

    label: str
    runs: tuple[Run, ...]
    seeds: tuple[int, ...]
    final: Float[np.ndarray, " S"]
    agents: Float[np.ndarray, "S A"] | None
    steps: Int[np.ndarray, " C"]
    seconds: Float[np.ndarray, "C S"]
    returns: Mapping[str, Float[np.ndarray, "C S"]]
    metric: str = GREEDY  # which of the returns its learning curve shows

    @property
    def curve(self) -> Float[np.ndarray, "C S"]:
        """The returns of its learning curve."""
        return self.returns[self.metric]

    def has(self, metric: str) -> bool:
        """Whether every seed has this return at least once."""
        return bool(np.all(np.any(np.isfinite(self.returns[metric]), axis=0)))


def pool(label: str, runs: Sequence[Run]) -> Variant:
    """Put runs together.

    Raises:
        ConfigurationError: there is no run, or no label.
        RunDirectoryError: they have a seed in common, or differ in more than their seeds.
    """
    if not label.strip():
        raise ConfigurationError("A variant's label is empty. Give it a name.")
    if not runs:
        raise ConfigurationError(f"{label}: there are no runs. Name at least one run directory.")
    first, owner = runs[0], dict[int, Run]()
    for run in runs:
        found = differing_settings(first.settings, run.settings)
        if found or not np.array_equal(first.steps, run.steps):
            listed = "; ".join(f"{key} is {json.dumps(a)} and {json.dumps(b)}" for key, (a, b) in found.items())
            fault = (
                f"differ in more than their seeds: {listed}" if found else "have metrics at different environment steps"
            )
            raise RunDirectoryError(f"{label}: {first.path} and {run.path} {fault}. Give them different labels.")
        for seed in run.seeds:
            if seed in owner:
                raise RunDirectoryError(
                    f"{label}: seed {seed} is in {owner[seed].path} and in {run.path}; a seed counts once. Leave one "
                    "of the two out, or give them different labels."
                )
            owner[seed] = run
    agents = [run.agents for run in runs if run.agents is not None]
    return Variant(
        label=label,
        runs=tuple(runs),
        seeds=tuple(owner),
        final=np.concatenate([run.final for run in runs]),
        agents=np.concatenate(agents) if len(agents) == len(runs) else None,
        steps=first.steps,
        seconds=np.stack([run.seconds for run in runs for _ in run.seeds], axis=-1),
        returns={name: np.concatenate([run.returns[name] for run in runs], axis=-1) for name in first.returns},
    )


def group(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that differ in their seeds alone, under labels.

    The label is the algorithm; where that is not enough, with the settings that differ, or the first run's directory if
    those are many.
    """
    groups: list[list[Run]] = []
    for run in runs:
        same = (members for members in groups if not differing_settings(members[0].settings, run.settings))
        members = next(same, [])
        if not members:
            groups.append(members)
        members.append(run)
    return {_label(members[0], groups): members for members in groups}


def _label(first: Run, groups: Sequence[Sequence[Run]]) -> str:
    rivals = [other[0].settings for other in groups if other[0].algorithm == first.algorithm]
    keys = dict.fromkeys(key for rival in rivals for key in differing_settings(rivals[0], rival))
    if len(keys) > _MAX_DIFFERENCES_IN_LABEL:
        return f"{first.algorithm} {first.path}"
    shown = {key: json.dumps(first.settings.get(key, _defaults().get(key))).strip('"') for key in keys}
    return " ".join([first.algorithm, *(f"{key}={value}" for key, value in shown.items())])
