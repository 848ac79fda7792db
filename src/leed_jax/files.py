"""Writing files so that they are complete or absent, and locking folders."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from leed_jax.errors import RunDirectoryError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = "lock"
CACHE_VARIABLE = "LEED_JAX_CACHE"


def cache_folder() -> Path | None:
    """The folder for what can be computed again, which need not exist yet; None if caching is off.

    The environment variable `LEED_JAX_CACHE` moves it; `LEED_JAX_CACHE=off` turns caching off.
    """
    place = os.environ.get(CACHE_VARIABLE, "")
    if place:
        return None if place == "off" else Path(place)
    variable = {"win32": "LOCALAPPDATA", "darwin": ""}.get(sys.platform, "XDG_CACHE_HOME")
    try:
        default = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    except RuntimeError:  # there is no home
        return None
    return Path(os.environ.get(variable) or default) / "leed_jax"


def lock(handle: int, *, wait: bool = False) -> bool:
    """Lock an open file for this process, until it is closed or the process ends, however it ends.

    Args:
        handle: the file's descriptor.
        wait: whether to wait while another process, or another descriptor in this one, holds the lock.

    Returns:
        Whether it is locked; without `wait`, False if somebody else holds the lock.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        if sys.platform == "win32":
            msvcrt.locking(handle, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the second on Windows
        return False
    return True


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically: readers, and a restart after a crash, find all of it or the file of before."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def writing(path: Path, *also: type[Exception]) -> Iterator[None]:
    """Name the file and the reason if writing fails, for example on a full disk.

    Args:
        path: the file.
        also: exceptions besides `OSError` with which a library reports that it cannot write.

    Raises:
        RunDirectoryError: it cannot be written.
    """
    kinds: tuple[type[Exception], ...] = (OSError, *also)
    try:
        yield
    except kinds as error:
        raise RunDirectoryError(
            f"{path} cannot be written: {_reason(error)}. What was written before is kept; fix this, then resume the "
            "run or repeat the command."
        ) from None


def _reason(error: Exception) -> str:
    """The operating system's words for an error, also for one of tensorstore, which hides them in a long message."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return os.strerror(int(code[1]))
    return getattr(error, "strerror", None) or " ".join(str(error).split())


def lock_folder(folder: Path) -> int | None:
    """Lock a folder for this process.

    Args:
        folder: an existing folder; a file `lock` is created in it.

    Returns:
        A file descriptor; closing it by `os.close`, or the end of the process, releases the lock. None if another
        process holds the lock.

    Raises:
        OSError: the file cannot be created.
    """
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    if lock(handle):
        return handle
    os.close(handle)
    return None


def append_line(path: Path, line: str) -> None:
    """Append a line to a file and sync it to disk.

    Args:
        path: the file; created if it does not exist.
        line: the line, without its end.
    """
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())
