"""The run directory: locked by one process at a time, and never overwritten."""

import contextlib
import datetime
import os
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from leed_jax.config import RunConfig, from_dictionary, to_dictionary, unread_sections
from leed_jax.errors import ConfigurationError, RunDirectoryError
from leed_jax.files import LOCK, lock_folder, write_whole, writing
from leed_jax.report.metrics import check_metrics

CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
SUMMARY = "summary.json"
CURVE = "learning_curve.png"
ANIMATION = "rollout.gif"

_PATTERNS = "[]*?"
_CHOOSE = "Choose another out; nothing was overwritten."


class RunDirectory:
    """A run directory locked by this process; a context manager that releases the lock.

    Attributes:
        path: the directory.
        config: the configuration recorded in it.
    """

    def __init__(self, path: Path, lock: int, config: RunConfig) -> None:
        self.path = path
        self.config = config
        self._lock = lock
        self._created: list[Path] = []

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> "RunDirectory":
        """Lock a directory that does not exist or is empty, and record the configuration.

        Raises:
            RunDirectoryError: it is not empty, or cannot be written.
        """
        check_free(path)
        missing = [parent for parent in path.parents if not parent.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = _lock(path)
            # Another process may have used it between the check and the lock.
            check_free(path)
            _write_config(path, config)
        except OSError as error:
            raise RunDirectoryError(f"out={path} cannot be written: {error.strerror}. Choose another out.") from None
        directory = cls(path, lock, config)
        directory._created = [path, *missing]
        return directory

    @classmethod
    def reopen(cls, path: Path, *, finished: bool = False) -> "RunDirectory":
        """Lock the directory of a run, and check that it can be resumed.

        Args:
            path: the directory.
            finished: whether the run has to have finished; else it must not have.

        Raises:
            RunDirectoryError: it is not a run directory, the run has finished or has not, another process uses it, or
                `metrics.jsonl` is damaged.
        """
        if not (path / CONFIG).is_file():
            raise RunDirectoryError(f"resume={path}: there is no run directory (no {CONFIG} in it). Check the path.")
        try:
            lock = _lock(path)
        except OSError as error:
            raise RunDirectoryError(f"resume={path}: the directory cannot be written: {error.strerror}.") from None
        try:
            if (path / SUMMARY).is_file() != finished:
                raise RunDirectoryError(
                    f"resume={path}: the run has not finished yet; resume it without total_steps first."
                    if finished
                    else f"resume={path}: the run has finished; its results are in {path / SUMMARY}. To train it "
                    "further, add total_steps=N."
                )
            config = read_config(path)
            check_metrics(path, last_checkpoint(path), config.num_seeds)
        except RunDirectoryError:
            os.close(lock)
            raise
        return cls(path, lock, config)

    def extend(self, config: RunConfig) -> None:
        """Turn a finished run into a stopped one with another configuration; its summary is kept under another name.

        Args:
            config: the configuration, with more steps.
        """
        with writing(self.path / CONFIG):
            # In this order: a run without a summary, whose steps are all trained, only writes its summary again.
            (self.path / SUMMARY).replace(self.path / f"summary-{self.config.total_steps}.json")
            _write_config(self.path, config)
        self.config = config

    def discard(self) -> None:
        """Remove what `create` wrote, where nothing has been trained."""
        for name in (CONFIG, LOCK):
            (self.path / name).unlink(missing_ok=True)
        for folder in self._created:
            with contextlib.suppress(OSError):
                folder.rmdir()

    def __enter__(self) -> "RunDirectory":
        """Enter the context."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lock."""
        os.close(self._lock)


def _write_config(path: Path, config: RunConfig) -> None:
    unread = unread_sections(config.algorithm, config.generate.refresh_every)
    if config.demonstrations.path:
        unread -= {"demonstrations"}  # their return is reported
    values = {key: value for key, value in to_dictionary(config).items() if key not in unread and key != "resume"}
    values["out"] = str(path)
    write_whole(path / CONFIG, OmegaConf.to_yaml(OmegaConf.create(values)).encode())


def read_config(path: Path) -> RunConfig:
    """The configuration that a run directory recorded.

    Args:
        path: the directory.

    Raises:
        RunDirectoryError: there is none, or it cannot be used.
    """
    if not (path / CONFIG).is_file():
        raise RunDirectoryError(f"{path}: there is no run directory (no {CONFIG} in it). Check the path.")
    advice = "Restore the file, or start a new run."
    try:
        return from_dictionary(_read_yaml(path / CONFIG))
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException, ConfigurationError) as error:
        raise RunDirectoryError(f"{path / CONFIG} cannot be used: {error} {advice}") from None
    except RecursionError:
        raise RunDirectoryError(f"{path / CONFIG} cannot be used: it refers to itself. {advice}") from None


def last_checkpoint(path: Path) -> int:
    """The number of a run's last checkpoint, by the names of its folders; 0 if there is none."""
    folder = path / CHECKPOINTS
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdecimal()), default=0)


def choose_path(config: RunConfig) -> Path:
    """The directory of a new run: `out`, or an unused name below `runs` in the working directory.

    Raises:
        RunDirectoryError: `out` is not empty, or cannot be used.
    """
    if config.out:
        path = Path(config.out).expanduser()
        check_free(path)
        return path
    label = config.experiment or str(config.env.get("name", "")).rpartition(":")[2] or "run"
    stamp = datetime.datetime.now(tz=datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    stem = f"{label}-{config.algorithm}-seed{config.seed}-{stamp}"
    candidates = (Path("runs") / (stem if i == 1 else f"{stem}-{i}") for i in range(1, 1000))
    path = next(path for path in candidates if not path.exists())
    check_free(path)
    return path


def check_free(path: Path) -> None:
    """Check that a new run can be written to `path`, which need not exist.

    Raises:
        RunDirectoryError: it is a file, is not empty, or cannot be created.
    """
    check_place(path)
    # A run that was killed before it recorded its configuration leaves only its lock file.
    if not os.path.lexists(path) or all(entry.name == LOCK for entry in path.iterdir()):
        return
    if (path / CONFIG).is_file():
        raise RunDirectoryError(
            f"out={path} holds a run already. Resume it with resume={path}, or choose another out; nothing was "
            "overwritten."
        )
    raise RunDirectoryError(f"out={path} is not empty. {_CHOOSE}")


def check_place(path: Path) -> None:
    """Check that `path` is a writable directory, or can be created as one.

    Raises:
        RunDirectoryError: it is a file, or cannot be written or created.
    """
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if os.path.lexists(p))
    if not existing.is_dir():
        raise RunDirectoryError(f"out={path}: {existing} is not a directory. {_CHOOSE}")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise RunDirectoryError(f"out={path}: {existing} cannot be written. {_CHOOSE}")
    # orbax treats these characters as glob patterns, and could not read its checkpoints again.
    if set(_PATTERNS) & set(str(path.absolute())):
        raise RunDirectoryError(
            f"out={path}: checkpoints cannot be kept in {path.absolute()}, as that path holds one of {_PATTERNS}. "
            "Choose another out."
        )
    if existing != path.absolute():
        _check_makeable(path, existing)


def _check_makeable(path: Path, existing: Path) -> None:
    """Create the directory, and remove it again."""
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise RunDirectoryError(f"out={path} cannot be made: {error.strerror}. Choose another out.") from None
    finally:
        for made in (path.absolute(), *path.absolute().parents):
            if made == existing:
                break
            with contextlib.suppress(OSError):
                made.rmdir()


def _lock(path: Path) -> int:
    """Lock the directory; the operating system releases the lock when the process ends."""
    handle = lock_folder(path)
    if handle is None:
        raise RunDirectoryError(
            f"{path} is in use by another process that trains there. Wait for it, stop it, or choose another directory."
        )
    return handle


def _read_yaml(path: Path) -> dict[str, Any]:
    values: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    if not isinstance(values, dict):
        raise ValueError("it does not hold keys and values.")
    return {**values, "resume": None}
