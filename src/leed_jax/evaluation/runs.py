"""Finished run directories, read and checked."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float, Int
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from leed_jax.config import Config
from leed_jax.config.options import one_sentence, options
from leed_jax.errors import RunDirectoryError
from leed_jax.evaluation.reading import damaged, read_number, read_summary
from leed_jax.report.curve import curves
from leed_jax.report.directory import CONFIG, SUMMARY
from leed_jax.report.metrics import METRICS, Row, read_metrics

GREEDY = "greedy_return_per_agent"
TRAINING = "return_per_agent"


@dataclasses.dataclass(frozen=True)
class Run:
    """What a finished run has left behind.

    Attributes:
        path: its directory.
        settings: its configuration, with dotted keys.
        summary: its `summary.json`.
        seeds: the seeds that were trained side by side.
        final: greedy return per agent of each seed after training; -inf where it is not finite.
        steps: environment steps of each seed after each chunk.
        seconds: wall-clock after each chunk, divided by the number of seeds.
        returns: returns per agent after each chunk, by the metric's name, NaN where there is none.
    """

    path: Path
    settings: Mapping[str, Any]
    summary: Mapping[str, Any]
    seeds: tuple[int, ...]
    final: Float[np.ndarray, " S"]
    steps: Int[np.ndarray, " C"]
    seconds: Float[np.ndarray, " C"]
    returns: Mapping[str, Float[np.ndarray, "C S"]]

    @property
    def algorithm(self) -> str:
        """The algorithm that was trained."""
        return str(self.summary["algorithm"])


def read_run(path: Path) -> Run:
    """Read a run directory.

    Raises:
        RunDirectoryError: there is none, the run has not finished, or a file in it is damaged.
    """
    _check_finished(path)
    summary = read_summary(path)
    settings = _read_settings(path)
    order = np.argsort(summary["seeds"])
    seeds = tuple(sorted(summary["seeds"]))
    final = np.array([-math.inf if value is None else value for value in summary["return_per_agent"]], np.float64)
    rows = _read_rows(path, seeds)
    _check_end(path, rows, summary)
    steps, training = curves([{**row, "return_per_agent": row.get(TRAINING)} for row in rows])
    _, greedy = curves([{**row, "return_per_agent": row.get(GREEDY)} for row in rows])
    wall_s = {row["env_steps"]: row["wall_s"] for row in rows}
    seconds = np.array([wall_s[step] for step in steps.tolist()], np.float64) / len(seeds)
    returns = {GREEDY: greedy, TRAINING: training}
    return Run(path, settings, summary, seeds, final[order], steps, seconds, returns)


def _check_finished(path: Path) -> None:
    if not path.is_dir():
        raise RunDirectoryError(f"{path}: there is no such directory. Name the directory of a finished run.")
    if (path / SUMMARY).is_file():
        return
    if (path / CONFIG).is_file():
        raise RunDirectoryError(
            f"{path}: the run has not finished (no {SUMMARY} in it). Go on with it by python -m leed_jax.run "
            f"resume={path}, or leave it out."
        )
    raise RunDirectoryError(f"{path} is not a run directory (no {CONFIG} in it). Name the directory of a finished run.")


def _read_settings(path: Path) -> dict[str, Any]:
    """The configuration with dotted keys, whatever version of leed_jax has written it."""
    try:
        values: Any = OmegaConf.to_container(OmegaConf.load(path / CONFIG), resolve=True)
    except (OSError, ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise damaged(path / CONFIG, f"it cannot be read ({type(error).__name__})") from None
    if not isinstance(values, dict):
        raise damaged(path / CONFIG, "it does not hold keys and values")
    settings = flat(values)
    if "env.name" not in settings:
        raise damaged(path / CONFIG, "it names no environment")
    try:
        read_number(settings, "evaluation.curve_episodes", missing=True)
    except (TypeError, ValueError) as error:
        raise damaged(path / CONFIG, str(error)) from None
    _check_types(path / CONFIG, settings)
    return settings


def _check_types(file: Path, settings: Mapping[str, Any]) -> None:
    """Refuse values of another type than the keys have today; keys of other versions of leed_jax may have any."""
    known = {option.key for option in options(Config)}
    typed = OmegaConf.structured(Config(env={}))
    for key, value in settings.items():
        # A key that was optional once may be null.
        if key not in known or value is None:
            continue
        try:
            OmegaConf.update(typed, key, value)
        except OmegaConfBaseException as error:
            raise damaged(file, f"a value is of the wrong type ({one_sentence(error).rstrip('.')})") from None


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values with dotted keys."""
    return dict(dotted(values, prefix))


def dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each nested value with its dotted key, which may come twice where some keys have dots already."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from dotted(value, f"{name}.")
        else:
            yield name, value


def _read_rows(path: Path, seeds: Sequence[int]) -> list[Row]:
    """The metrics, a row for each chunk and seed."""
    file = path / METRICS
    try:
        rows = read_metrics(path)
    except OSError as error:
        raise damaged(file, f"it cannot be read ({error.strerror})") from None
    number = 0
    try:
        for number, row in enumerate(rows, start=1):  # noqa: B007 - named in the error
            for name in ("seed", "env_steps", "wall_s"):
                read_number(row, name)
            for name in (GREEDY, TRAINING):
                read_number(row, name, missing=True)
        found = [(row["env_steps"], row["seed"]) for row in rows]
        expected = [(step, seed) for step in sorted({step for step, _ in found}) for seed in seeds]
        complete = bool(found) and sorted(found) == expected
    except (KeyError, TypeError, ValueError, AttributeError):
        raise damaged(file, f"line {number} lacks a seed, steps, seconds or a return") from None
    if not complete:
        raise damaged(file, f"it does not hold every chunk of the seeds {', '.join(map(str, seeds))} once")
    return rows


def _check_end(path: Path, rows: Sequence[Row], summary: Mapping[str, Any]) -> None:
    last = max(row["env_steps"] for row in rows)
    if last != summary["env_steps"]:
        raise damaged(path / METRICS, f"it ends at {last:,} environment steps, and the run at {summary['env_steps']:,}")
