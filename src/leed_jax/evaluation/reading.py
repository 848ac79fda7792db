"""Reading what a run has left behind, with an error that names the file where it is damaged."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leed_jax.errors import RunDirectoryError
from leed_jax.report.directory import SUMMARY

NUMBERS = ("env_steps", "wall_s", "compile_s", "num_agents", "evaluation_episodes")
TYPES: Mapping[str, type] = {"algorithm": str, "versions": dict, "device": dict}
PERHAPS = ("random_return_per_agent", "instructions_return_per_agent", "preparation_s", "recording_s")


def read_summary(path: Path) -> dict[str, Any]:
    """The summary of a finished run.

    Args:
        path: the run directory.

    Raises:
        RunDirectoryError: it is damaged, or lacks something that a comparison needs.
    """
    file = path / SUMMARY
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise damaged(file, f"it cannot be read ({error.strerror})") from None
    except ValueError:
        raise damaged(file, "it is not JSON") from None
    except RecursionError:
        raise damaged(file, "it is nested too deeply") from None
    try:
        _check_summary(file, summary)
    except KeyError as error:
        raise damaged(file, f"it lacks {error.args[0]}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise damaged(file, f"a value is not what it should be ({error})") from None
    return dict(summary)


def _check_summary(file: Path, summary: Any) -> None:
    """Make sure that a summary has all that is read of it.

    Raises:
        RunDirectoryError: its seeds do not go with its returns.
        KeyError: something is missing.
        TypeError: something is of another type.
        ValueError: a number is not finite.
    """
    for name, kind in TYPES.items():
        if not isinstance(summary[name], kind):
            raise TypeError(f"{name} is {summary[name]!r:.100}")
    for name in NUMBERS:
        read_number(summary, name)
    for name in PERHAPS:
        read_number(summary, name, missing=True)
    seeds, returns = list(summary["seeds"]), list(summary["return_per_agent"])
    if not seeds or len(set(seeds)) != len(seeds) or len(returns) != len(seeds):
        raise damaged(file, f"it has {len(returns)} returns of {len(set(seeds))} different seeds")
    if not all(type(seed) is int for seed in seeds):
        raise damaged(file, "its seeds are not whole numbers")
    for value in returns:
        read_number({"return_per_agent": value}, "return_per_agent", missing=True)


def read_number(values: Mapping[str, Any], name: str, *, missing: bool = False) -> float | None:
    """A finite number by its name.

    Args:
        values: where to look it up.
        name: its name.
        missing: whether it may be null or not there at all.

    Raises:
        KeyError: it is not there.
        TypeError: it is no number.
        ValueError: it is not finite.
    """
    value = values.get(name) if missing else values[name]
    if value is None and missing:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is no number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} is not finite")
    return number


def damaged(file: Path, fault: str) -> RunDirectoryError:
    """The error for a file that cannot be used."""
    return RunDirectoryError(f"{file} is damaged: {fault}. Restore the file, or leave the run out.")
