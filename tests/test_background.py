"""Jobs beside the main thread: results, failures, and an end that waits for nobody."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from leed_jax.errors import ConfigurationError
from leed_jax.training.background import Background, Finished

Work = Callable[[int], Awaitable[int]]


class Sessions:
    """Opens sessions, and counts them."""

    def __init__(self, work: Work, fail_first: int = 0) -> None:
        self.work, self.fail_first = work, fail_first
        self.opened = self.closed = 0

    @contextlib.asynccontextmanager
    async def __call__(self) -> AsyncIterator[Work]:
        self.opened += 1
        if self.opened <= self.fail_first:
            raise ConfigurationError("The door is shut; open it.")
        try:
            yield self.work
        finally:
            self.closed += 1


async def double(job: int) -> int:
    await asyncio.sleep(0)
    return 2 * job


def wait(background: Background[int, int]) -> Finished[int, int]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        finished = background.collect()
        if finished is not None:
            return finished
        time.sleep(0.001)
    raise AssertionError("the job never ended")


def test_jobs_are_done_in_one_session_in_another_thread() -> None:
    threads: list[str] = []

    async def work(job: int) -> int:
        threads.append(threading.current_thread().name)
        return await double(job)

    sessions = Sessions(work)
    background = Background(sessions)
    for job in (3, 4):
        assert background.submit(job)
        assert wait(background) == Finished(job, 2 * job, None)
    background.close()
    assert (sessions.opened, sessions.closed) == (1, 1)
    assert threads == ["leed_jax-background"] * 2


def test_a_second_job_is_not_taken_before_the_first_is_collected() -> None:
    background = Background(Sessions(double))
    assert background.submit(1)
    assert background.busy
    assert not background.submit(2)
    assert wait(background).result == 2
    assert not background.busy
    assert background.submit(2)
    assert wait(background).result == 4
    background.close()


@pytest.mark.parametrize(
    ("error", "said"),
    [(ConfigurationError("It is\n broken; mend it."), "It is broken; mend it."), (KeyError("k"), "KeyError: 'k'")],
)
def test_a_failure_is_reported_and_the_session_goes_on(error: Exception, said: str) -> None:
    async def work(job: int) -> int:
        if job == 0:
            raise error
        return await double(job)

    sessions = Sessions(work)
    background = Background(sessions)
    background.submit(7)
    assert wait(background).result == 14
    background.submit(0)
    assert wait(background) == Finished(0, None, said)
    background.submit(5)
    assert wait(background).result == 10
    background.close()
    assert (sessions.opened, sessions.closed) == (1, 1)


def test_a_session_that_cannot_be_opened_is_tried_again() -> None:
    background = Background(Sessions(double, fail_first=1))
    background.submit(1)
    assert wait(background) == Finished(1, None, "The door is shut; open it.")
    background.submit(1)
    assert wait(background).result == 2
    background.close()


def test_closing_cancels_the_job_and_ends_the_session() -> None:
    begun = threading.Event()

    async def work(job: int) -> int:
        begun.set()
        await asyncio.sleep(3600)
        return job

    sessions = Sessions(work)
    background = Background(sessions)
    background.submit(1)
    assert begun.wait(20)
    started = time.monotonic()
    background.close()
    background.close()
    assert time.monotonic() - started < 10
    assert sessions.closed == 1
    assert not background.submit(2)


def test_closing_without_a_job_leaves_no_thread() -> None:
    background = Background(Sessions(double))
    background.close()
    assert "leed_jax-background" not in [thread.name for thread in threading.enumerate()]
