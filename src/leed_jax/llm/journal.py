"""The replies received so far, on disk before anyone uses them."""

import contextlib
import errno
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from leed_jax.errors import ConfigurationError, RunDirectoryError
from leed_jax.llm.messages import Reply

if sys.platform != "win32":
    import fcntl

# What flock answers on network file systems that have no locks.
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP})


class Journal:
    """An append-only file of replies, one JSON object a line: `{"key": ..., "reply": {...}}`.

    A reply is on disk (`fsync`) before `record` returns, so that neither a crash nor `kill -9` makes it necessary to
    ask for it again. A last line that such an end cut short is passed over, and removed by the next `record`. Several
    processes may share a file where the file system has locks; each sees the others' replies. The first reply to a
    request stands.

    The calls block for the length of an `fsync`, on purpose: they cannot be cancelled half way.

    Args:
        path: The file. It is made, with its folder, by the first `record`.

    Raises:
        RunDirectoryError: The file cannot be read, or a whole line of it is damaged.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._replies: dict[str, Reply] = {}
        self._end = 0  # behind the last whole line read
        self._lines = 0
        self._mutex = threading.Lock()
        with self._mutex, self._explained("read"):
            self._refresh()

    def __len__(self) -> int:
        return len(self._replies)

    def __repr__(self) -> str:
        return f"Journal({str(self.path)!r}, replies={len(self)})"

    def get(self, key: str) -> Reply | None:
        """Return the reply to a request, or None when there is none yet.

        Args:
            key: The `request_key` of the request.

        Raises:
            RunDirectoryError: The file cannot be read any more, or a whole line of it is damaged.
        """
        with self._mutex, self._explained("read"):
            if key not in self._replies:
                self._refresh()
            return self._replies.get(key)

    def record(self, key: str, reply: Reply) -> Reply:
        """Write a reply to disk, unless the journal has one for this key already.

        Args:
            key: The `request_key` of the request.
            reply: What came back.

        Returns:
            The reply that stands for this key: the given one, or the one that was there first. Use this one.

        Raises:
            RunDirectoryError: It cannot be written, or a whole line of the file is damaged.
        """
        line = json.dumps({"key": key, "reply": reply.to_dict()}, separators=(",", ":")).encode("ascii") + b"\n"
        with self._mutex, self._explained("written"), self._opened() as descriptor, _locked(descriptor):
            self._refresh()
            if key not in self._replies:
                # Whoever wrote half a line is dead: the living hold the lock until their line is whole.
                os.ftruncate(descriptor, self._end)
                self._append(descriptor, line)
                self._replies[key] = reply
            return self._replies[key]

    def _append(self, descriptor: int, line: bytes) -> None:
        """Write one line and wait until it is on disk; on an error, leave the file as it was."""
        try:
            rest = line
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, self._end)
            raise
        self._end += len(line)
        self._lines += 1

    def _refresh(self) -> None:
        """Read the whole lines that were added since the last time."""
        try:
            with self.path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(self._end)
                added = file.read()
        except FileNotFoundError:
            size, added = 0, b""
        if size < self._end:
            raise RunDirectoryError(
                f"The journal {self.path} was shortened, replaced or deleted while in use; start the run again, and "
                "leave the file alone while it runs."
            )
        lines = added.split(b"\n")
        for line in lines[:-1]:  # behind the last line end there is nothing, or a line that was cut short
            self._take(line)

    def _take(self, line: bytes) -> None:
        """Take over one whole line, without its end."""
        try:
            data = json.loads(line)
            key, reply = data["key"], Reply.from_dict(data["reply"])
            if not isinstance(key, str):
                raise TypeError("key")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigurationError):
            raise RunDirectoryError(
                f"Line {self._lines + 1} of the journal {self.path} is damaged; restore the file from a copy, or "
                "delete that line, whose request is then sent again."
            ) from None
        self._replies.setdefault(key, reply)
        self._end += len(line) + 1
        self._lines += 1

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """Open the file for appending, for as long as one line takes."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        descriptor = os.open(self.path, flags, 0o666)
        try:
            if os.fstat(descriptor).st_size == 0:
                _sync_folder(self.path.parent)
            yield descriptor
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _explained(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunDirectoryError(
                f"The journal {self.path} cannot be {verb} ({error.strerror or error}); check the path, its "
                "permissions and the free space."
            ) from error


@contextlib.contextmanager
def _locked(descriptor: int) -> Iterator[None]:
    """Keep other processes from appending, where there are locks."""
    if sys.platform == "win32":
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    # Closing the file gives the lock back, and so does the end of the process.
    yield


def _sync_folder(folder: Path) -> None:
    """Put a new file's name on disk too; Windows does that by itself."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
