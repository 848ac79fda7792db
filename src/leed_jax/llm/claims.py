"""Claims on keys, by which the processes that share a file keep out of each other's way."""

import errno
import hashlib
import os
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

if sys.platform != "win32":
    import fcntl

# What locking answers on network file systems that have no locks.
NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP})
_HELD_ELSEWHERE = frozenset({errno.EACCES, errno.EAGAIN})
_OFFSETS = 2**40


@dataclass
class _Side:
    """The open side file of one process, and the offsets that this process holds there."""

    process: int
    descriptor: int
    held: set[int] = field(default_factory=set)


# POSIX locks belong to the process, and closing any descriptor of a file gives back all of them. So there is one
# descriptor for each file in a process, whoever asks, and it is open as long as anything is held.
_sides: dict[str, _Side] = {}
_mutex = threading.Lock()


class Claims:
    """Exclusive claims on keys, among all threads and processes that name the same side file.

    A claim is a lock on one byte of the side file, at a place that the key decides. The kernel gives it back when the
    process ends, however it ends, so that there is nothing to clean up. Two keys that share a place, which is rare,
    wait for each other without need.

    Where the file system has no locks, and on Windows, claims hold within the process only.

    Args:
        path: The side file; it stays empty, and is left there.
    """

    def __init__(self, path: Path) -> None:
        self._name = os.path.realpath(path)

    def take(self, key: str) -> bool:
        """Claim a key, without waiting; say whether it is claimed now.

        Args:
            key: Any text.

        Raises:
            OSError: The side file cannot be made or locked.
        """
        place = _place(key)
        with _mutex:
            side = self._opened()
            try:
                if place in side.held or not _try_lock(side.descriptor, place):
                    return False
                side.held.add(place)
                return True
            finally:
                self._close_if_idle(side)

    def give_back(self, key: str) -> None:
        """Give back a key that `take` has claimed."""
        place = _place(key)
        with _mutex:
            side = _sides[self._name]
            side.held.discard(place)
            if side.held:  # otherwise closing the file does it
                _unlock(side.descriptor, place)
            self._close_if_idle(side)

    def _opened(self) -> _Side:
        process = os.getpid()
        side = _sides.get(self._name)
        if side is not None and side.process == process:
            return side
        if side is not None:
            # Inherited in a fork, which hands on the descriptor but not the locks.
            os.close(side.descriptor)
        side = _sides[self._name] = _Side(process, os.open(self._name, os.O_RDWR | os.O_CREAT, 0o666))
        return side

    def _close_if_idle(self, side: _Side) -> None:
        if not side.held:
            del _sides[self._name]
            os.close(side.descriptor)


def _place(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()) % _OFFSETS


def _try_lock(descriptor: int, place: int) -> bool:
    if sys.platform == "win32":
        return True
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
    except OSError as error:
        if error.errno in _HELD_ELSEWHERE:
            return False
        if error.errno not in NO_LOCKS:
            raise
    return True


def _unlock(descriptor: int, place: int) -> None:
    if sys.platform == "win32":
        return
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, place)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
