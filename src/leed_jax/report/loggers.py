"""Loggers of metrics: JSON Lines, TensorBoard, Weights & Biases, MLflow; behind one small protocol."""

import contextlib
import hashlib
import importlib
import json
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from leed_jax.errors import ConfigurationError
from leed_jax.files import writing
from leed_jax.report.metrics import METRICS, Row, each_agent, mean_or_none

TENSORBOARD = "tensorboard"
FLUSH_S = 10.0
_NO_METRICS = ("chunk", "env_steps", "seed", "return_of_agents", "greedy_return_of_agents")


@runtime_checkable
class Logger(Protocol):
    """Where rows of metrics go."""

    def write(self, rows: Sequence[Row]) -> None:
        """Write a chunk's rows, one for each seed; all have the same `env_steps`."""
        ...

    def sync(self) -> None:
        """Make sure that what was written survives a crash of this process, as far as that is possible."""
        ...

    def close(self) -> None:
        """Write out and release everything."""
        ...


def scalars(row: Row) -> dict[str, float]:
    """The numbers of a row: the mean over agents of each metric, and the return of each agent."""
    values = {
        name: mean_or_none(value) if isinstance(value, list) else value
        for name, value in row.items()
        if name not in _NO_METRICS
    }
    agents = each_agent(row.get("return_of_agents", ()))
    values |= {f"return_of_agents/{agent}": value for agent, value in agents.items()}
    return {f"{name}/seed{row['seed']}": value for name, value in values.items() if value is not None}


class JsonlLogger:
    """Appends to `metrics.jsonl`. All methods raise RunDirectoryError if the disk is full.

    Args:
        directory: the run directory.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / METRICS
        with writing(self._path):
            self._file = self._path.open("a", encoding="utf-8")

    def write(self, rows: Sequence[Row]) -> None:
        """Write one line for each row."""
        with writing(self._path):
            self._file.write("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
            self._file.flush()

    def sync(self) -> None:
        """Sync the file to disk."""
        with writing(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        with writing(self._path):
            self._file.close()


class TensorBoardLogger:
    """Writes TensorBoard's events. All methods raise RunDirectoryError if the disk is full.

    Args:
        directory: the run directory.
        env_steps: steps trained so far; TensorBoard hides later points that an earlier process wrote.
    """

    def __init__(self, directory: Path, env_steps: int = 0) -> None:
        # SummaryWriter, the usual front end, blocks forever once its thread has met a full disk.
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # noqa: PLC0415 - slow to import
        from tensorboardX.record_writer import RecordWriter  # noqa: PLC0415

        self._folder = directory / TENSORBOARD
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{env_steps}"
        with writing(self._folder):
            self._folder.mkdir(exist_ok=True)
            self._events = RecordWriter(str(self._folder / name))
            start = SessionLog(status=SessionLog.START)
            for fields in ({"file_version": "brain.Event:2"}, {"step": env_steps + 1, "session_log": start}):
                self._events.write(Event(wall_time=time.time(), **fields).SerializeToString())
        self._flushed = time.monotonic()

    def write(self, rows: Sequence[Row]) -> None:
        """Write one event for each row."""
        with writing(self._folder):
            for row in rows:
                self._events.write(_event(row))
        if time.monotonic() > self._flushed + FLUSH_S:
            self.sync()

    def sync(self) -> None:
        """Flush the events."""
        with writing(self._folder):
            self._events.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Close the file."""
        with writing(self._folder):
            self._events.close()


def _event(row: Row) -> bytes:
    from tensorboardX.proto.event_pb2 import Event  # noqa: PLC0415 - slow to import
    from tensorboardX.proto.summary_pb2 import Summary  # noqa: PLC0415

    values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars(row).items()]
    event = Event(wall_time=time.time(), step=row["env_steps"], summary=Summary(value=values))
    return bytes(event.SerializeToString())


class WandbLogger:
    """Logs to Weights & Biases; `WANDB_MODE=offline` keeps everything in the run directory.

    Args:
        directory: the run directory; its name is the run's name and, with its path, the run's id.
        config: the configuration, as plain values.
    """

    def __init__(self, directory: Path, config: Mapping[str, Any]) -> None:
        wandb = _import("wandb", "wandb")
        self._run = wandb.init(
            dir=str(directory),
            name=directory.name,
            config=dict(config),
            # The same id after a resume, so that the curve goes on.
            id=_identifier(directory),
            resume="allow",
            settings=wandb.Settings(console="off", silent=True),
        )

    def write(self, rows: Sequence[Row]) -> None:
        """Log the rows of all seeds at one step."""
        merged = {name: value for row in rows for name, value in scalars(row).items()}
        self._run.log(merged, step=rows[0]["env_steps"])

    def sync(self) -> None:
        """Nothing: the client writes in a process of its own."""

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class MLflowLogger:
    """Logs to MLflow: to `MLFLOW_TRACKING_URI`, or to a database in the run directory.

    Args:
        directory: the run directory.
        config: the configuration, as plain values.
    """

    def __init__(self, directory: Path, config: Mapping[str, Any]) -> None:
        tracking = _import("mlflow.tracking", "mlflow")
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{directory / 'mlflow.db'}"
        self._client = tracking.MlflowClient(tracking_uri=uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "leed_jax")
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        tag = {"leed_jax.run": _identifier(directory)}
        found = self._client.search_runs([number], f"tags.`leed_jax.run` = '{tag['leed_jax.run']}'")
        run = found[0] if found else self._client.create_run(number, run_name=directory.name, tags=tag)
        self._run_id = run.info.run_id
        if not found:
            for key, value in _flat(config).items():
                self._client.log_param(self._run_id, key, value)

    def write(self, rows: Sequence[Row]) -> None:
        """Log the rows of all seeds."""
        from mlflow.entities import Metric  # noqa: PLC0415 - optional

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, row["env_steps"]) for row in rows for name, value in scalars(row).items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def sync(self) -> None:
        """Nothing: every batch is written at once."""

    def close(self) -> None:
        """End the run."""
        self._client.set_terminated(self._run_id)


class Loggers:
    """Several loggers as one.

    Args:
        loggers: the loggers.
    """

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self._loggers = loggers

    def write(self, rows: Sequence[Row]) -> None:
        """Write to all."""
        for logger in self._loggers:
            logger.write(rows)

    def sync(self) -> None:
        """Sync all."""
        for logger in self._loggers:
            logger.sync()

    def close(self) -> None:
        """Close all, even if one fails."""
        with contextlib.ExitStack() as stack:
            for logger in self._loggers:
                stack.callback(logger.close)


def make_loggers(names: Sequence[str], directory: Path, env_steps: int, config: Mapping[str, Any]) -> Loggers:
    """Open loggers by name.

    Args:
        names: of `LOGGERS`.
        directory: the run directory.
        env_steps: steps trained so far.
        config: the configuration, as plain values.

    Raises:
        ConfigurationError: a package that a logger needs is not installed, or it cannot be opened.
        RunDirectoryError: a file cannot be written.
    """
    kinds: dict[str, Callable[[], Logger]] = {
        "jsonl": lambda: JsonlLogger(directory),
        "tensorboard": lambda: TensorBoardLogger(directory, env_steps),
        "wandb": lambda: WandbLogger(directory, config),
        "mlflow": lambda: MLflowLogger(directory, config),
    }
    opened: list[Logger] = []
    with contextlib.ExitStack() as stack:
        for name in names:
            opened.append(kinds[name]())
            stack.callback(opened[-1].close)
        stack.pop_all()
    return Loggers(opened)


def check_loggers(names: Sequence[str]) -> None:
    """Check that the packages of loggers are installed.

    Raises:
        ConfigurationError: one is not.
    """
    for name, package in (("wandb", "wandb"), ("mlflow", "mlflow.tracking")):
        if name in names:
            _import(package, name)


def _import(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigurationError(
            f"log={extra}: the package {extra} is not installed; install leed-jax[{extra}], or leave it out."
        ) from None


def _identifier(directory: Path) -> str:
    """An id of a run directory that stays the same when the run is resumed."""
    return hashlib.sha256(str(directory.absolute()).encode()).hexdigest()[:16]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
