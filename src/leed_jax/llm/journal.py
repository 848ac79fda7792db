"""Replies on disk before anyone uses them, and a model that asks nothing twice."""

import asyncio
import contextlib
import json
import operator
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from leed_jax.errors import BudgetError, ConfigurationError, LLMError, RunDirectoryError
from leed_jax.files import lock
from leed_jax.llm.limits import Limits, Meter, Spending
from leed_jax.llm.messages import ChatModel, ChatRequest, Reply, Usage, request_key

_FIRST_WAIT_S = 0.02
_LONGEST_WAIT_S = 0.5
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
    block, on purpose: they cannot be cancelled half way.

    Args:
        path: The file. It is made, with its folder, by the first line. Beside it, `claim` makes a folder `PATH.claims`.

    Raises:
        RunDirectoryError: The file cannot be read, or a line of it is damaged.
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

    def __repr__(self) -> str:
        return f"Journal({str(self.path)!r}, replies={len(self)})"

    def get(self, key: str) -> Reply | None:
        """Return the reply to a request, or None when there is none yet.

        Args:
            key: The `request_key` of the request.

        Raises:
            RunDirectoryError: The file cannot be read any more, or a line of it is damaged.
        """
        if key not in self._replies:
            self._refresh()
        return self._replies.get(key)

    def record(self, key: str, reply: Reply) -> Reply:
        """Write a reply to disk, unless there is one for this key already.

        Args:
            key: The `request_key` of the request.
            reply: What came back.

        Returns:
            The reply to use: the given one, or the one that was there first.

        Raises:
            RunDirectoryError: It cannot be written, or a line of the file is damaged.
        """
        with self._writing() as append:
            if key not in self._replies:
                append({"key": key, "reply": reply.to_dict()}, True)
        return self._replies[key]

    def failure(self, key: str) -> str | None:
        """Return the error that a request ended in, in a closed round; None if in none."""
        return self._failures.get(key)

    def close_round(self, failures: Mapping[str, str]) -> None:
        """Write down, by key, which requests of a round failed for good; without failures, nothing is written.

        Raises:
            RunDirectoryError: It cannot be written, or a line of the file is damaged.
        """
        fresh = {key: error for key, error in failures.items() if key not in self._failures}
        if fresh:
            with self._writing() as append:
                append({"closed": fresh}, True)

    def charge(self, calls: int, usage: Usage) -> None:
        """Write down a change of what was spent.

        It survives the process as soon as this returns, and a power failure from the next `record` on.

        Args:
            calls: Attempts more.
            usage: Tokens more, or less where more had been reserved than were taken.

        Raises:
            RunDirectoryError: It cannot be written, or a line of the file is damaged.
        """
        with self._writing() as append:
            append({"calls": calls, **usage.to_dict()}, False)

    def spent(self) -> Spending:
        """Return the sum of all charges, of all processes; the cost is left at 0.

        Raises:
            RunDirectoryError: The file cannot be read any more, or a line of it is damaged.
        """
        self._refresh()
        return self._spent

    @contextlib.asynccontextmanager
    async def claim(self, key: str) -> AsyncIterator[None]:
        """Wait until no other task and no other process holds this key, and hold it while the context lasts.

        A claim is a lock on a file, which ends with its process, however that ends. Whoever held it before may have
        recorded a reply, so look again before asking.

        Args:
            key: The `request_key` of a request about to be sent.

        Raises:
            RunDirectoryError: The file cannot be made or locked.
        """
        path = self.path.with_name(f"{self.path.name}.claims") / key
        wait = _FIRST_WAIT_S
        while (handle := self._try_claim(path)) is None:
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT_S)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(handle)

    def _try_claim(self, path: Path) -> int | None:
        with self._explained(), contextlib.ExitStack() as on_failure:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            on_failure.callback(os.close, handle)
            if not lock(handle):
                return None
            with contextlib.suppress(FileNotFoundError):
                # Otherwise it was deleted by its last holder, between opening and locking.
                if os.path.samestat(os.fstat(handle), path.stat()):
                    on_failure.pop_all()
                    return handle
        return None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Callable[[Mapping[str, Any], bool], None]]:
        """Lock the file and read what others wrote; yields what appends a line, and syncs it if its flag is set."""
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:
                lock(file.fileno(), wait=True)
                self._read(file)

                def append(data: Mapping[str, Any], sync: bool) -> None:
                    line = json.dumps(data, separators=(",", ":")).encode("ascii")
                    file.truncate(self._end)  # what a killed process left of a line
                    file.write(line + b"\n")
                    file.flush()
                    if sync:
                        os.fsync(file.fileno())
                    self._take([line])

                yield append

    def _refresh(self) -> None:
        with self._explained():
            try:
                with self.path.open("rb") as file:
                    lock(file.fileno(), wait=True)
                    self._read(file)
            except FileNotFoundError:
                if self._end:
                    raise self._replaced() from None

    def _read(self, file: BinaryIO) -> None:
        """Read the whole lines that were added since the last time."""
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
            counts = (operator.index(data[name]) for name in ("calls", "prompt_tokens", "completion_tokens"))
            calls, prompt, completion = counts
            self._spent += Spending(calls, Usage(prompt, completion))

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
    """Return a meter that goes on from what a journal says was spent, and notes there all that it lets through.

    What was reserved for attempts on their way when a process was killed stays spent, so that the caps hold over any
    number of restarts. Rates begin anew.

    Args:
        limits: The limits.
        journal: Where the count is kept.

    Raises:
        RunDirectoryError: The journal cannot be read.
    """
    return Meter(limits, journal.spent(), ledger=journal.charge)


class Journalled:
    """A `ChatModel` that answers from a journal what the journal holds, and asks another model for the rest.

    A request that another task or process with the same journal has on its way is waited for.

    Args:
        model: The model to ask.
        journal: Where the replies are kept.
        rounds: The journal in which `close_round` notes failures; None notes none. The prompts of a later round depend
            on which requests failed in the earlier ones. So that an interrupted generation asks the same again, and
            finds its replies in the journal, requests that failed in a closed round fail again, unsent.

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
        """Answer a request from the journal, or ask the model and keep its reply.

        Args:
            request: What to ask.

        Returns:
            The reply that the journal holds for this request from now on.

        Raises:
            LLMError: The model gave no usable answer, now or in a closed round.
            RunDirectoryError: The journal cannot be read or written.
        """
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
        """Note which requests of a round failed for good, before anything is made of its outcomes.

        Nothing is noted of a round without any reply, which is worth another try, nor of a `BudgetError`, as a cap may
        be raised.

        Args:
            requests: What was asked.
            outcomes: What came of each, as `complete_all` returns it.

        Raises:
            RunDirectoryError: The journal cannot be written.
        """
        if self._rounds is not None and any(isinstance(outcome, Reply) for outcome in outcomes):
            self._rounds.close_round(
                {
                    request_key(self.identity, request): str(outcome)
                    for request, outcome in zip(requests, outcomes, strict=True)
                    if isinstance(outcome, LLMError) and not isinstance(outcome, BudgetError)
                }
            )
