"""Metrics of training, chunk by chunk: `metrics.jsonl` and TensorBoard events.

`metrics.jsonl` has one line for each chunk and seed. Lists are per agent; numbers that are not finite are null.
"""

import contextlib
import json
import math
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leed_jax.errors import RunDirectoryError
from leed_jax.files import write_whole, writing

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"

WALL_CLOCK_FIELDS = ("wall_s", "steps_per_s")
"""Fields in which a resumed run differs from an uninterrupted one; all others are equal bit for bit."""

MAX_AGENTS_SHOWN = 8
FLUSH_S = 10.0

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


class MetricsWriter:
    """Appends to `metrics.jsonl` and to TensorBoard's events. All methods raise RunDirectoryError if the disk is full.

    Args:
        directory: the run directory.
        env_steps: steps trained so far; TensorBoard hides later points that an earlier process wrote.
    """

    def __init__(self, directory: Path, env_steps: int = 0) -> None:
        # SummaryWriter, the usual front end, blocks forever once its thread has met a full disk.
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # noqa: PLC0415 - slow to import
        from tensorboardX.record_writer import RecordWriter  # noqa: PLC0415

        self._directory = directory
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{env_steps}"
        with writing(directory / METRICS):
            self._file = (directory / METRICS).open("a", encoding="utf-8")
        with writing(directory / TENSORBOARD):
            (directory / TENSORBOARD).mkdir(exist_ok=True)
            self._events = RecordWriter(str(directory / TENSORBOARD / name))
            start = SessionLog(status=SessionLog.START)
            for fields in ({"file_version": "brain.Event:2"}, {"step": env_steps + 1, "session_log": start}):
                self._events.write(Event(wall_time=time.time(), **fields).SerializeToString())
        self._flushed = time.monotonic()

    def write(self, rows: Sequence[Row]) -> None:
        """Write a chunk's rows, one line each."""
        with writing(self._directory / METRICS):
            self._file.write("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
            self._file.flush()
        with writing(self._directory / TENSORBOARD):
            for row in rows:
                self._events.write(_event(row))
            if time.monotonic() > self._flushed + FLUSH_S:
                self._flush_events()

    def sync(self) -> None:
        """Sync both to disk."""
        with writing(self._directory / METRICS):
            os.fsync(self._file.fileno())
        with writing(self._directory / TENSORBOARD):
            self._flush_events()

    def close(self) -> None:
        """Write out and close both."""
        with contextlib.ExitStack() as stack:
            for name, file in ((TENSORBOARD, self._events), (METRICS, self._file)):
                stack.enter_context(writing(self._directory / name))
                stack.callback(file.close)

    def _flush_events(self) -> None:
        self._events.flush()
        self._flushed = time.monotonic()


def _event(row: Row) -> bytes:
    """TensorBoard's record of a row: the mean over agents of each metric, and the return of each agent."""
    from tensorboardX.proto.event_pb2 import Event  # noqa: PLC0415 - slow to import
    from tensorboardX.proto.summary_pb2 import Summary  # noqa: PLC0415

    scalars = {
        name: mean_or_none(value) if isinstance(value, list) else value
        for name, value in row.items()
        if name not in ("chunk", "env_steps", "seed", "return_of_agents")
    }
    agents = each_agent(row.get("return_of_agents", ()))
    scalars |= {f"return_of_agents/{agent}": value for agent, value in agents.items()}
    values = [
        Summary.Value(tag=f"{name}/seed{row['seed']}", simple_value=value)
        for name, value in scalars.items()
        if value is not None
    ]
    event = Event(wall_time=time.time(), step=row["env_steps"], summary=Summary(value=values))
    return bytes(event.SerializeToString())


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
