"""One asynchronous job at a time, in a thread of its own."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Generic, TypeVar

from leed_jax.errors import LeedError

Job = TypeVar("Job")
Result = TypeVar("Result")
Session = Callable[[], AbstractAsyncContextManager[Callable[[Job], Awaitable[Result]]]]

CLOSE_S = 30.0


@dataclass(frozen=True)
class Finished(Generic[Job, Result]):
    """What came of a job.

    Attributes:
        job: the job.
        result: its result, or None if it failed.
        problem: why it failed, for the user; None if it did not.
    """

    job: Job
    result: Result | None
    problem: str | None


class Background(Generic[Job, Result]):
    """Runs jobs in a thread with an event loop of its own. A job that fails is reported, and never raises.

    Args:
        session: opened before the first job, and closed at the end; it gives the function that does a job. If it cannot
            be opened, the job has failed, and the next one tries again; a job that fails leaves it open.

    Attributes:
        busy: whether a job is on its way, or its result not yet collected.
    """

    def __init__(self, session: Session[Job, Result]) -> None:
        self._session = session
        self._finished: queue.SimpleQueue[Finished[Job, Result]] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()
        self._main: asyncio.Task[None] | None = None
        self.busy = False
        # A daemon, so that a job that ignores its cancellation cannot keep the process alive.
        self._thread = threading.Thread(target=self._run, name="leed_jax-background", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> bool:
        """Start a job, unless one is on its way; say whether it was started. Returns at once."""
        if self.busy or not self._thread.is_alive():
            return False
        self.busy = True
        self._loop.call_soon_threadsafe(self._jobs.put_nowait, job)
        return True

    def collect(self) -> Finished[Job, Result] | None:
        """What has come of the job, if it has ended. Returns at once."""
        try:
            finished = self._finished.get_nowait()
        except queue.Empty:
            return None
        self.busy = False
        return finished

    def close(self) -> None:
        """Cancel the job on its way, and wait a little for it to end."""
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop was closed in this very moment
                self._loop.call_soon_threadsafe(self._cancel)
            self._thread.join(CLOSE_S)

    def _cancel(self) -> None:
        if self._main is not None:
            self._main.cancel()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._main = self._loop.create_task(self._work())
        try:
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._main)
        finally:
            self._loop.close()

    async def _work(self) -> None:
        while True:
            job = await self._jobs.get()
            try:
                async with self._session() as perform:
                    while True:
                        self._finished.put(await _performed(perform, job))
                        job = await self._jobs.get()
            except Exception as error:
                # Whatever it was, training continues.
                self._finished.put(Finished(job, None, _explained(error)))


async def _performed(perform: Callable[[Job], Awaitable[Result]], job: Job) -> Finished[Job, Result]:
    """Do a job; its failure does not end the session, which may hold what earlier jobs have found."""
    try:
        return Finished(job, await perform(job), None)
    except Exception as error:
        return Finished(job, None, _explained(error))


def _explained(error: Exception) -> str:
    return " ".join(str(error).split()) if isinstance(error, LeedError) else f"{type(error).__name__}: {error}"
