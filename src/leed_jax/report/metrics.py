"""Metrics of training, one chunk after the other: `metrics.jsonl` and TensorBoard events.

One line for each chunk and seed. Lists are per agent; numbers that are not finite are null.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leed_jax.errors import RunDirectoryError
from leed_jax.files import write_whole
from leed_jax.report.directory import METRICS, TENSORBOARD

WALL_CLOCK_FIELDS = ("wall_s", "steps_per_s")
"""Fields in which a resumed run differs from one that was never stopped; all others are the same to the last bit."""

Row = dict[str, Any]


def metric_rows(metrics: Mapping[str, np.ndarray], common: Mapping[str, Any], first_seed: int) -> list[Row]:
    """Arrange a chunk's metrics by seed.

    Args:
        metrics: arrays `[S, A]` over seeds and agents.
        common: what is the same for all seeds.
        first_seed: the seed that the first row belongs to.
    """
    returns, greedy = metrics["return_of_agents"], metrics.get("greedy_return_per_agent")
    losses = {name: value for name, value in metrics.items() if not name.endswith("return_per_agent")}
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
    """Numbers and lists of numbers, None for those that are not finite."""
    if isinstance(value, np.ndarray) and value.ndim:
        return [plain(item) for item in value]
    number = float(value)
    return number if math.isfinite(number) else None


def mean_or_none(values: Sequence[float | None]) -> float | None:
    """The mean of the numbers that are there, None if there are none."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None


class MetricsWriter:
    """Appends to `metrics.jsonl` and to TensorBoard's events.

    Attributes:
        directory: the run directory.
    """

    def __init__(self, directory: Path, env_steps: int = 0) -> None:
        """Open both for a run that has made `env_steps`; TensorBoard hides what an earlier process wrote after that."""
        from tensorboardX import SummaryWriter  # noqa: PLC0415 - slow to import, and of no use before training starts

        self.directory = directory
        self._file = (directory / METRICS).open("a", encoding="utf-8")
        self._events = SummaryWriter(str(directory / TENSORBOARD), purge_step=env_steps + 1, flush_secs=10)

    def write(self, rows: Sequence[Row]) -> None:
        """Write a chunk's rows, whole lines at a time."""
        self._file.write("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
        self._file.flush()
        for row in rows:
            for name, value in row.items():
                self._event(name, value, row)

    def _event(self, name: str, value: Any, row: Row) -> None:
        if name in ("chunk", "env_steps", "seed", "return_of_agents"):
            return
        number = mean_or_none(value) if isinstance(value, list) else value
        if number is not None:
            self._events.add_scalar(f"{name}/seed{row['seed']}", number, row["env_steps"])

    def sync(self) -> None:
        """Make sure that everything written so far outlives the process and the machine."""
        os.fsync(self._file.fileno())
        self._events.flush()

    def close(self) -> None:
        """Write out and close both."""
        self._file.close()
        self._events.close()


def read_metrics(directory: Path) -> list[Row]:
    """All rows of a run."""
    return [json.loads(line) for line in (directory / METRICS).read_text(encoding="utf-8").splitlines()]


def cut_back(directory: Path, chunks: int, num_seeds: int) -> list[Row]:
    """Keep the rows of the first `chunks` chunks alone, and return them.

    Raises:
        RunDirectoryError: some of them are missing or damaged.
    """
    path = directory / METRICS
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    kept = lines[: chunks * num_seeds]
    try:
        rows = [json.loads(line) for line in kept]
        expected = [1 + index // num_seeds for index in range(chunks * num_seeds)]
        complete = [row["chunk"] for row in rows] == expected
    except (ValueError, KeyError, TypeError, RecursionError):
        complete = False
    if not complete:
        raise RunDirectoryError(
            f"{path} does not hold the {chunks} chunks that went before the checkpoint. Restore the file, or start "
            "a new run."
        )
    write_whole(path, b"".join(kept))
    return rows
