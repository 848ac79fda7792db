"""Metrics of training, chunk by chunk, as rows and as lines of `metrics.jsonl`.

There is one line for each chunk and seed. Lists are per agent; numbers that are not finite are null.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leed_jax.errors import RunDirectoryError
from leed_jax.files import write_whole, writing

METRICS = "metrics.jsonl"

WALL_CLOCK_FIELDS = ("wall_s", "steps_per_s")
"""Fields in which a resumed run differs from an uninterrupted one; all others are equal bit for bit."""

MAX_AGENTS_SHOWN = 8

Row = dict[str, Any]


def metric_rows(metrics: Mapping[str, np.ndarray], common: Mapping[str, Any], first_seed: int) -> list[Row]:
    """Arrange a chunk's metrics by seed.

    Args:
        metrics: arrays `[S, A]` over seeds and agents.
        common: fields that are the same for all seeds.
        first_seed: the seed of the first row.
    """
    returns, greedy = metrics["return_of_agents"], metrics.get("greedy_return_of_agents")
    losses = {name: value for name, value in metrics.items() if name != "return_of_agents"}
    return [
        {
            **common,
            "seed": first_seed + index,
            "return_per_agent": plain(np.mean(returns[index], dtype=np.float64)),
            "return_of_agents": plain(returns[index]),
            **({} if greedy is None else {"greedy_return_per_agent": plain(np.mean(greedy[index], dtype=np.float64))}),
            **{name: plain(value[index]) for name, value in sorted(losses.items())},
        }
        for index in range(len(returns))
    ]


def plain(value: Any) -> Any:
    """Convert to float and lists of float, with None for numbers that are not finite."""
    if isinstance(value, np.ndarray) and value.ndim:
        return [plain(item) for item in value]
    number = float(value)
    return number if math.isfinite(number) else None


def mean_or_none(values: Sequence[float | None]) -> float | None:
    """The mean without the Nones; None if nothing is left."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None


def each_agent(values: Sequence[float | None]) -> dict[str, float | None]:
    """Label one value per agent, or the lowest and the highest where there are more than `MAX_AGENTS_SHOWN` agents."""
    if len(values) <= MAX_AGENTS_SHOWN:
        return {f"agent_{index}": value for index, value in enumerate(values)}
    known = [value for value in values if value is not None]
    return {"lowest_agent": min(known, default=None), "highest_agent": max(known, default=None)}


def read_metrics(directory: Path) -> list[Row]:
    """All rows of a run.

    Raises:
        RunDirectoryError: a line is damaged.
        OSError: the file cannot be read.
    """
    return _parse(directory / METRICS, (directory / METRICS).read_bytes().splitlines())


def check_metrics(directory: Path, chunks: int, num_seeds: int) -> list[Row]:
    """The rows of the first `chunks` chunks; lines after them, which a stopped run may have left, are ignored.

    Args:
        directory: the run directory.
        chunks: the number of the last checkpoint.
        num_seeds: the number of seeds, and so of lines for each chunk.

    Raises:
        RunDirectoryError: a line is missing or damaged.
    """
    return _parse(directory / METRICS, _lines(directory, chunks * num_seeds), num_seeds, chunks)


def cut_back(directory: Path, chunks: int, num_seeds: int) -> list[Row]:
    """Check the file as `check_metrics` does, remove the lines after those chunks, and return the rows.

    Raises:
        RunDirectoryError: a line is missing or damaged; the file is left as it was.
    """
    rows = check_metrics(directory, chunks, num_seeds)
    with writing(directory / METRICS):
        write_whole(directory / METRICS, b"".join(_lines(directory, chunks * num_seeds)))
    return rows


def _lines(directory: Path, count: int) -> list[bytes]:
    path = directory / METRICS
    return path.read_bytes().splitlines(keepends=True)[:count] if path.exists() else []


def _parse(path: Path, lines: Sequence[bytes], num_seeds: int = 0, chunks: int = 0) -> list[Row]:
    """Parse lines; with `num_seeds`, check that they hold chunks 1 to `chunks` in order."""
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise _damaged(path, f"line {number} is not valid JSON") from None
        expected = 1 + (number - 1) // num_seeds if num_seeds else None
        if not isinstance(row, dict) or (expected is not None and row.get("chunk") != expected):
            wanted = "a JSON object" if expected is None else f"of chunk {expected}"
            raise _damaged(path, f"line {number} is not {wanted}")
        rows.append(row)
    if len(rows) < chunks * num_seeds:
        raise _damaged(
            path, f"it ends after line {len(rows)}, and line {chunks * num_seeds} belongs to the last checkpoint"
        )
    return rows


def _damaged(path: Path, fault: str) -> RunDirectoryError:
    return RunDirectoryError(f"{path} is damaged: {fault}. Restore the file from a copy, or start a new run.")
