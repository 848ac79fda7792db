"""The replies received so far, on disk before anyone uses them."""

import asyncio
import contextlib
import json
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from leed_jax.errors import ConfigurationError, RunDirectoryError
from leed_jax.llm.claims import NO_LOCKS, Claims
from leed_jax.llm.limits import Limits, Meter, Spending
from leed_jax.llm.messages import Reply, Usage

if sys.platform != "win32":
    import fcntl

_FIRST_WAIT_S = 0.02
_LONGEST_WAIT_S = 0.5


class Journal:
    """An append-only file of replies and of what was spent, one JSON object a line.

    A line is either a reply, `{"key": ..., "reply": {...}}`, with the name of its `spender` if it has one, or a change
    of what a spender has spent, `{"spender": ..., "calls": ..., "prompt_tokens": ..., "completion_tokens": ...}`.

    A reply is on disk (`fsync`) before `record` returns, so that neither a crash nor `kill -9` makes it necessary to
    ask for it again. A last line that such an end cut short is passed over, and removed by the next one to write.
    Several processes may share a file where the file system has locks; each sees the others' replies. The first reply
    to a request stands. In memory there is only where each reply is.

    The calls block for the length of an `fsync`, on purpose: they cannot be cancelled half way.

    Args:
        path: The file. It is made, with its folder, by the first line; `claim` makes an empty `PATH.lock` beside it.

    Raises:
        RunDirectoryError: The file cannot be read, or a whole line of it is damaged.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._claims = Claims(self.path.with_name(self.path.name + ".lock"))
        self._places: dict[str, tuple[int, int]] = {}  # offset and length of the line
        self._charged: dict[str, Spending] = {}
        self._replied: dict[str, Spending] = {}
        self._end = 0  # behind the last whole line read
        self._lines = 0
        self._mutex = threading.Lock()
        with self._mutex, self._explained("read"):
            self._refresh()

    def __len__(self) -> int:
        return len(self._places)

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
            if key not in self._places:
                self._refresh()
            return self._stored(key) if key in self._places else None

    def record(self, key: str, reply: Reply, spender: str = "") -> Reply:
        """Write a reply to disk, unless the journal has one for this key already.

        Args:
            key: The `request_key` of the request.
            reply: What came back.
            spender: On whose account; empty for nobody's.

        Returns:
            The reply that stands for this key: the given one, or the one that was there first. Use this one.

        Raises:
            RunDirectoryError: It cannot be written, or a whole line of the file is damaged.
        """
        line = {"key": key, "reply": reply.to_dict(), **({"spender": spender} if spender else {})}
        with self._writing() as descriptor:
            if key not in self._places:
                self._append(descriptor, line, synced=True)
            return self._stored(key)

    def charge(self, spender: str, calls: int, usage: Usage) -> None:
        """Note a change of what a spender has spent.

        It survives the process as soon as this returns, and a power failure from the next `record` on.

        Args:
            spender: On whose account.
            calls: Attempts more.
            usage: Tokens more, or less where more had been noted than were taken.

        Raises:
            RunDirectoryError: It cannot be written, or a whole line of the file is damaged.
        """
        with self._writing() as descriptor:
            self._append(descriptor, {"spender": spender, "calls": calls, **usage.to_dict()}, synced=False)

    def spent(self, spender: str) -> Spending:
        """Return what a spender has spent so far, by all processes together; the cost is left at 0.

        Each attempt that a `resumed_meter` lets through is counted. Without one, only the attempts that ended in a
        recorded reply are known.

        Args:
            spender: As given to `record` and `charge`.

        Raises:
            RunDirectoryError: The file cannot be read any more, or a whole line of it is damaged.
        """
        with self._mutex, self._explained("read"):
            self._refresh()
            charged = self._charged.get(spender, Spending())
            replied = self._replied.get(spender, Spending())
        # A reply is part of what was charged for it, if that was done at all.
        prompt = max(charged.usage.prompt_tokens, replied.usage.prompt_tokens)
        completion = max(charged.usage.completion_tokens, replied.usage.completion_tokens)
        return Spending(max(charged.calls, replied.calls), Usage(prompt, completion))

    @contextlib.asynccontextmanager
    async def claim(self, key: str) -> AsyncIterator[None]:
        """Wait until nobody else, in any process, holds this key, and hold it for the length of the context.

        Whoever held it before may have recorded a reply, so look again before asking. On Windows, and where the file
        system has no locks, other processes are not seen: the same request may then be sent by two at the same time.

        Args:
            key: The `request_key` of a request about to be sent.

        Raises:
            RunDirectoryError: The side file cannot be written.
        """
        wait = _FIRST_WAIT_S
        while not self._take(key):
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT_S)
        try:
            yield
        finally:
            self._claims.give_back(key)

    def _take(self, key: str) -> bool:
        with self._explained("written"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return self._claims.take(key)

    def _append(self, descriptor: int, data: dict[str, Any], *, synced: bool) -> None:
        """Write one line, and wait until it is on disk if asked; on an error, leave the file as it was."""
        # Whoever wrote half a line is dead: the living hold the lock until their line is whole.
        os.ftruncate(descriptor, self._end)
        rest = json.dumps(data, separators=(",", ":")).encode("ascii") + b"\n"
        try:
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            if synced:
                os.fsync(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, self._end)
            raise
        self._refresh()

    def _refresh(self) -> None:
        """Read the whole lines that were added since the last time."""
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._end:
                    raise self._altered()
                file.seek(self._end)
                for line in file:
                    if not line.endswith(b"\n"):  # cut short, or still being written
                        break
                    self._take_over(line)
        except FileNotFoundError:
            if self._end:
                raise self._altered() from None

    def _take_over(self, line: bytes) -> None:
        """Note where the reply of one whole line is, and what was spent."""
        try:
            entry = _Entry.from_line(line)
        except _UNREADABLE:
            raise RunDirectoryError(
                f"Line {self._lines + 1} of the journal {self.path} is damaged; restore the file from a copy, or "
                "delete that line, whose request is then sent again."
            ) from None
        account = self._charged if entry.reply is None else self._replied
        if entry.reply is not None:
            self._places.setdefault(entry.key, (self._end, len(line)))
        if entry.spender:
            account[entry.spender] = account.get(entry.spender, Spending()) + entry.spending
        self._end += len(line)
        self._lines += 1

    def _stored(self, key: str) -> Reply:
        """Read the reply of a known key."""
        offset, length = self._places[key]
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                entry = _Entry.from_line(file.read(length))
        except (*_UNREADABLE, FileNotFoundError):
            raise self._altered() from None
        if entry.key != key or entry.reply is None:
            raise self._altered()
        return entry.reply

    def _altered(self) -> RunDirectoryError:
        return RunDirectoryError(
            f"The journal {self.path} was shortened, replaced or deleted while in use; start the run again, and "
            "leave the file alone while it runs."
        )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[int]:
        """Open the file for appending, alone among threads and processes, and up to date with what others wrote."""
        with self._mutex, self._explained("written"), self._opened() as descriptor:
            _lock(descriptor)
            self._refresh()
            yield descriptor

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
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


def resumed_meter(limits: Limits, journal: Journal, spender: str) -> Meter:
    """Return a meter that goes on where this spender was, and notes in the journal all that it lets through.

    What was reserved for attempts on their way when a process was killed stays spent, so that the caps hold over any
    number of restarts.

    Args:
        limits: The limits.
        journal: Where the count is kept.
        spender: On whose account; runs that share a journal, but not a budget, need different names.

    Raises:
        ConfigurationError: The name is empty.
        RunDirectoryError: The journal cannot be read.
    """
    if not spender:
        raise ConfigurationError("The spender of a meter has no name; give it one, such as the name of the run.")
    return Meter(limits, journal.spent(spender), ledger=partial(journal.charge, spender))


@dataclass(frozen=True)
class _Entry:
    """What one line says."""

    key: str
    reply: Reply | None
    spender: str
    spending: Spending

    @classmethod
    def from_line(cls, line: bytes) -> "_Entry":
        """Read a line; what is not one raises any of `_UNREADABLE`."""
        data = json.loads(line)
        if "key" in data:
            reply = Reply.from_dict(data["reply"])
            return cls(_text(data["key"]), reply, _text(data.get("spender", "")), Spending(1, reply.usage))
        usage = Usage(_integer(data["prompt_tokens"]), _integer(data["completion_tokens"]))
        return cls("", None, _text(data["spender"]), Spending(_integer(data["calls"]), usage))


_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigurationError)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    return value


def _integer(value: object) -> int:
    # Below 0 too, where a reservation is given back.
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("not a whole number")
    return value


def _lock(descriptor: int) -> None:
    """Keep other processes from appending, where there are locks, until the file is closed or the process ends."""
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def _sync_folder(folder: Path) -> None:
    """Put a new file's name on disk too; Windows does that by itself."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
