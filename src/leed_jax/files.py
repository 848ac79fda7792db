"""Files that are either whole or not there."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from leed_jax.errors import RunDirectoryError

LOCK = "lock"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in one piece: a reader, or a restart after a crash, sees all of it or none."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """A context in which a file of results is written: if that fails, the error names the file.

    Args:
        path: the file.

    Raises:
        RunDirectoryError: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise RunDirectoryError(
            f"{path} cannot be written: {error.strerror or error}. Mend that, and give the same command again; what "
            "has been trained is kept."
        ) from None


def lock_folder(folder: Path) -> int | None:
    """Take a folder for this process alone.

    Args:
        folder: an existing folder; a file `lock` is made in it.

    Returns:
        A handle that holds the lock until it is closed by `os.close` or the process ends, however it ends; None if
        another process holds it.

    Raises:
        OSError: the file cannot be made.
    """
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def append_line(path: Path, line: str) -> None:
    """Append a line to a file so that it outlives this process and the machine.

    Args:
        path: the file; made if it does not exist.
        line: the line, without its end.
    """
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())
