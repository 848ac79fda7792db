"""Replies on disk before anyone uses them, and a model that asks nothing twice."""

import asyncio
import contextlib
import json
import operator
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from leed_jax.errors import BudgetError, ConfigurationError, LLMError, RunDirectoryError
from leed_jax.files import lock
from leed_jax.llm.limits import Limits, Meter, Spending
from leed_jax.llm.messages import ChatModel, ChatRequest, Reply, Usage, request_key

_POLL_S = 0.05
# Earlier versions wrote this behind a line that was cut short, where the file system has no locks.
_CUT = b'{"cut":true}'


class Journal:
    """An append-only file of replies, failures and charges, one JSON object a line.

    - A reply: `{"key": ..., "reply": {...}}`. The first one to a request counts.
    - Failures of a closed round: `{"closed": {KEY: ERROR}}`.
    - A change of what was spent: `{"calls": ..., "prompt_tokens": ..., "completion_tokens": ...}`.

    A reply is on disk (`fsync`) before `record` returns, so that it is not asked for again after `kill -9`. What such
    an end leaves of a last line is ignored, and removed by the next write. Several processes of one machine may share a
    file: they lock it to read and write, and each sees what the others wrote. One instance is for one thread; its calls
    block, so that they cannot be cancelled half way. Keys are the `request_key` of requests. All methods raise
    `RunDirectoryError` if the file cannot be used or a line is damaged.

    Args:
        path: The file; made, with its folder, by the first line. `claim` keeps files in a folder `PATH.claims`.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._replies: dict[str, Reply] = {}
        self._failures: dict[str, str] = {}
        self._spent = Spending()
        self._lines = 0
        self._end = 0  # behind the last whole line
        self._refresh()

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> Reply | None:
        """Return the reply to a request, or None when there is none yet."""
        if key not in self._replies:
            self._refresh()
        return self._replies.get(key)

    def record(self, key: str, reply: Reply) -> Reply:
        """Write a reply to disk, unless there is one for this key already; return the one that was first."""
        self._append({"key": key, "reply": reply.to_dict()})
        return self._replies[key]

    def failure(self, key: str) -> str | None:
        """Return the error that a request ended in, in a closed round; None if in none."""
        return self._failures.get(key)

    def close_round(self, failures: Mapping[str, str]) -> None:
        """Write down, by key, the errors of the requests of a round that failed for good."""
        if not failures.keys() <= self._failures.keys():
            self._append({"closed": {**failures}})

    def charge(self, calls: int, usage: Usage) -> None:
        """Write down a change of what was spent; a power failure may undo it until the next `record`."""
        self._append({"calls": calls, **usage.to_dict()}, sync=False)

    def spent(self) -> Spending:
        """Return the sum of all charges, of all processes; the cost is left at 0."""
        self._refresh()
        return self._spent

    @contextlib.asynccontextmanager
    async def claim(self, key: str) -> AsyncIterator[None]:
        """Wait until no other task and no other process holds this key, and hold it while the context lasts.

        It ends with the process, however that ends. Whoever held it before may have recorded a reply: look again.
        """
        path = self.path.with_name(f"{self.path.name}.claims") / key
        while (handle := self._try_claim(path)) is None:
            await asyncio.sleep(_POLL_S)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(handle)
            with contextlib.suppress(OSError):  # there are other claims
                path.parent.rmdir()

    def _try_claim(self, path: Path) -> int | None:
        # A file that is not found was deleted by its last holder just now.
        with self._explained(), contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as on_failure:
            with contextlib.suppress(FileExistsError):
                path.parent.mkdir(parents=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            on_failure.callback(os.close, handle)
            if lock(handle) and os.path.samestat(os.fstat(handle), path.stat()):
                on_failure.pop_all()
                return handle
        return None

    def _append(self, data: Mapping[str, Any], *, sync: bool = True) -> None:
        """Read what others wrote and add a line, unless it is a second reply to a request."""
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:
                self._lock_and_read(file)
                if data.get("key") in self._replies:
                    return
                line = json.dumps(data, separators=(",", ":")).encode("ascii")
                file.truncate(self._end)  # what a killed process left of a line
                file.write(line + b"\n")
                file.flush()
                if sync:
                    os.fsync(file.fileno())
                self._take([line])

    def _refresh(self) -> None:
        with self._explained():
            try:
                with self.path.open("rb") as file:
                    self._lock_and_read(file)
            except FileNotFoundError:
                if self._end:
                    raise self._replaced() from None

    def _lock_and_read(self, file: BinaryIO) -> None:
        """Lock the file until it is closed, and read the whole lines that were added since the last time."""
        lock(file.fileno(), wait=True)
        if os.fstat(file.fileno()).st_size < self._end:
            raise self._replaced()
        file.seek(self._end)
        *lines, _ = file.read().split(b"\n")
        self._take(lines)

    def _take(self, lines: Sequence[bytes]) -> None:
        for line, following in zip(lines, [*lines[1:], b""], strict=False):
            try:
                if following != _CUT:
                    self._take_one(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigurationError):
                raise RunDirectoryError(
                    f"Line {self._lines + 1} of the journal {self.path} is damaged; restore the file from a copy, or "
                    "delete that line, whose request is then sent again."
                ) from None
            self._end += len(line) + 1
            self._lines += 1

    def _take_one(self, data: Mapping[str, Any]) -> None:
        # Lines of earlier versions also have the name of a "spender", which is ignored.
        if "key" in data:
            self._replies.setdefault(data["key"], Reply.from_dict(data["reply"]))
        elif "closed" in data:
            closed = data["closed"]  # null forgets those before
            self._failures = {} if closed is None else self._failures | closed
        elif data != json.loads(_CUT):
            usage = Usage(operator.index(data["prompt_tokens"]), operator.index(data["completion_tokens"]))
            self._spent += Spending(operator.index(data["calls"]), usage)

    def _replaced(self) -> RunDirectoryError:
        return RunDirectoryError(
            f"The journal {self.path} was shortened, replaced or deleted while in use; start the run again, and "
            "leave the file alone while it runs."
        )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunDirectoryError(
                f"The journal {self.path} cannot be read, written or locked ({error.strerror or error}); check the "
                "path, its permissions and the free space."
            ) from error


def resumed_meter(limits: Limits, journal: Journal) -> Meter:
    """Return a meter that goes on from a journal's charges and writes its own there, so that caps hold over restarts.

    What was reserved for attempts on their way when a process was killed stays spent. Rates begin anew.
    """
    return Meter(limits, journal.spent(), ledger=journal.charge)


class Journalled:
    """A `ChatModel` that answers from a journal what the journal holds, and asks another model for the rest.

    A request that another task or process with the same journal has on its way is waited for.

    Args:
        model: The model to ask.
        journal: Where the replies are kept.
        rounds: The journal in which `close_round` notes failures, which then fail again, unsent; None notes none. Later
            prompts depend on which requests failed before: so an interrupted generation asks the same again.

    Attributes:
        sent: Requests passed on to the model, failed ones included.
        reused: Requests answered from the journal.
    """

    def __init__(self, model: ChatModel, journal: Journal, rounds: Journal | None = None) -> None:
        self._model, self._journal, self._rounds = model, journal, rounds
        self.sent = 0
        self.reused = 0

    @property
    def identity(self) -> str:
        """The identity of the model behind it: the journal changes no answer."""
        return self._model.identity

    async def complete(self, request: ChatRequest) -> Reply:
        """Answer a request from the journal, or ask the model and keep its reply; failures are `LLMError`s."""
        key = request_key(self.identity, request)
        failure = None if self._rounds is None else self._rounds.failure(key)
        if failure is not None:
            raise LLMError(failure)
        reply = self._journal.get(key)
        if reply is None:
            async with self._journal.claim(key):
                reply = self._journal.get(key)
                if reply is None:
                    self.sent += 1
                    return self._journal.record(key, await self._model.complete(request))
        self.reused += 1
        return reply

    def close_round(self, requests: Sequence[ChatRequest], outcomes: Sequence[Reply | LLMError]) -> None:
        """Note which requests of a round failed for good, before its outcomes are used.

        Nothing is noted of a round without any reply, which is worth another try, nor of a cap, which may be raised.
        """
        if self._rounds is not None and any(isinstance(outcome, Reply) for outcome in outcomes):
            failures = {
                request_key(self.identity, request): str(outcome)
                for request, outcome in zip(requests, outcomes, strict=True)
                if isinstance(outcome, LLMError) and not isinstance(outcome, BudgetError)
            }
            self._rounds.close_round(failures)
