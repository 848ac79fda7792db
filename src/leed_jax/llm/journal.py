"""The replies received so far, on disk before anyone uses them."""

import asyncio
import contextlib
import errno
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from leed_jax.errors import RunDirectoryError
from leed_jax.llm.claims import NO_LOCKS, Claims
from leed_jax.llm.entries import Entry, read_entry, written
from leed_jax.llm.limits import Spending
from leed_jax.llm.messages import Reply, Usage

if sys.platform != "win32":
    import fcntl

_FIRST_WAIT_S = 0.02
_LONGEST_WAIT_S = 0.5
# Says that the line before it may have been cut short.
_CUT = b'{"cut":true}\n'


class Journal:
    """An append-only file of replies, of failures and of what was spent, one JSON object a line.

    A line is one of these:

    - a reply, `{"key": ..., "reply": {...}}`, with the name of its `spender` if it has one;
    - a change of what a spender has spent,
      `{"spender": ..., "calls": ..., "prompt_tokens": ..., "completion_tokens": ...}`;
    - the failures of a round that a spender has closed, `{"spender": ..., "closed": {KEY: ERROR}}`, or null in place of
      them to forget all so far.

    A reply is on disk (`fsync`) before `record` returns, so that neither a crash nor `kill -9` makes it necessary to
    ask for it again. A last line that such an end cut short is passed over, and removed by the next one to write.
    Several processes may share a file where the file system has locks; each sees the others' replies. The first reply
    to a request stands. In memory there is only where each reply is, and the failures.

    On Windows, and where the file system has no locks, half a line may be one that somebody is about to finish. So it
    is left where it is: the next to write ends it, and puts the line `{"cut":true}` behind it. Before such a line, and
    nowhere else, a line that cannot be read is passed over.

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
        self._failures: dict[str, dict[str, str]] = {}
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
        with self._writing() as (descriptor, locked):
            if key not in self._places:
                self._append(descriptor, line, synced=True, locked=locked)
            return self._stored(key)

    def close_round(self, spender: str, failures: Mapping[str, str]) -> None:
        """Note which requests failed for good in a round whose outcomes are about to be used.

        What comes after a round depends on which of its requests failed. To go on with the same requests after an
        interruption, a spender asks `failure` first, and does not send those again. Only a round in which something
        was answered should be closed: if everything failed, trying again is what a restart is for.

        It is on disk before this returns. Without failures, nothing is written.

        Args:
            spender: Who closes it; nobody else sees it.
            failures: The errors, by the `request_key` of the requests.

        Raises:
            RunDirectoryError: It cannot be written, or a whole line of the file is damaged.
        """
        with self._writing() as (descriptor, locked):
            known = self._failures.get(spender, {})
            fresh = {key: error for key, error in failures.items() if key not in known}
            if fresh:
                self._append(descriptor, {"spender": spender, "closed": fresh}, synced=True, locked=locked)

    def failure(self, key: str, spender: str) -> str | None:
        """Return the error that a request ended in, in one of the spender's closed rounds; None if in none.

        Args:
            key: The `request_key` of the request.
            spender: As given to `close_round`.

        Raises:
            RunDirectoryError: The file cannot be read any more, or a whole line of it is damaged.
        """
        with self._mutex, self._explained("read"):
            if key not in self._failures.get(spender, {}):
                self._refresh()
            return self._failures.get(spender, {}).get(key)

    def forget_failures(self, spender: str) -> None:
        """Forget the failures of a spender's rounds so far, so that those requests are sent again.

        Raises:
            RunDirectoryError: It cannot be written, or a whole line of the file is damaged.
        """
        with self._writing() as (descriptor, locked):
            if self._failures.get(spender):
                self._append(descriptor, {"spender": spender, "closed": None}, synced=True, locked=locked)

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
        line = {"spender": spender, "calls": calls, **usage.to_dict()}
        with self._writing() as (descriptor, locked):
            self._append(descriptor, line, synced=False, locked=locked)

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

    def _append(self, descriptor: int, data: Mapping[str, Any], *, synced: bool, locked: bool) -> None:
        """Write one line, and wait until it is on disk if asked; on an error, leave the file as it was if possible."""
        rest = written(data)
        if locked:
            # Whoever wrote half a line is dead: the living hold the lock until their line is whole.
            os.ftruncate(descriptor, self._end)
        elif not _ends_a_line(descriptor):
            rest = b"\n" + _CUT + rest
        try:
            while rest:
                rest = rest[os.write(descriptor, rest) :]
                if rest and not locked:
                    # Others may have written meanwhile, so the rest would not come behind its beginning.
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if synced:
                os.fsync(descriptor)
        except OSError:
            if locked:
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
                self._read_on(file)
        except FileNotFoundError:
            if self._end:
                raise self._altered() from None

    def _read_on(self, file: BinaryIO) -> None:
        unread = b""
        for line in file:
            if not line.endswith(b"\n"):  # cut short, or still being written
                break
            if line == _CUT:
                self._end += len(unread)
                self._lines += bool(unread)
                unread = b""
            elif unread:
                break
            elif (entry := read_entry(line)) is None:
                unread = line
                continue
            else:
                self._take_over(entry, len(line))
            self._end += len(line)
            self._lines += 1
        if unread:
            raise RunDirectoryError(
                f"Line {self._lines + 1} of the journal {self.path} is damaged; restore the file from a copy, or "
                "delete that line, whose request is then sent again."
            )

    def _take_over(self, entry: Entry, length: int) -> None:
        """Note where the reply of the next line is, what was spent, and what failed."""
        account = self._charged if entry.reply is None else self._replied
        if entry.reply is not None:
            self._places.setdefault(entry.key, (self._end, length))
        if entry.spender:
            account[entry.spender] = account.get(entry.spender, Spending()) + entry.spending
        if entry.forgets:
            self._failures.pop(entry.spender, None)
        for key, error in entry.failures.items():
            self._failures.setdefault(entry.spender, {}).setdefault(key, error)

    def _stored(self, key: str) -> Reply:
        """Read the reply of a known key."""
        offset, length = self._places[key]
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                entry = read_entry(file.read(length))
        except FileNotFoundError:
            raise self._altered() from None
        if entry is None or entry.key != key or entry.reply is None:
            raise self._altered()
        return entry.reply

    def _altered(self) -> RunDirectoryError:
        return RunDirectoryError(
            f"The journal {self.path} was shortened, replaced or deleted while in use; start the run again, and "
            "leave the file alone while it runs."
        )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[tuple[int, bool]]:
        """Open the file for appending, alone among threads and processes, and up to date with what others wrote.

        Yields:
            The file, and whether other processes are really kept out.
        """
        with self._mutex, self._explained("written"), self._opened() as descriptor:
            locked = _lock(descriptor)
            self._refresh()
            yield descriptor, locked

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


def _lock(descriptor: int) -> bool:
    """Keep other processes from appending until the file is closed or the process ends; say whether there are locks."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def _ends_a_line(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    if size == 0:
        return True
    os.lseek(descriptor, size - 1, os.SEEK_SET)
    return os.read(descriptor, 1) == b"\n"


def _sync_folder(folder: Path) -> None:
    """Put a new file's name on disk too; Windows does that by itself."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
