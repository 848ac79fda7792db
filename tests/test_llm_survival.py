"""Whole batches under faults, kills and caps, with a real server, real processes and real files."""

import asyncio
import collections
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import loopback
import processes
import pytest

from leed_jax.llm import ChatRequest, Journal, Message, Reply, Spending, request_key

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no file locks, and no SIGKILL")

# What each process runs; it prints one line of JSON when it has come to the end.
CLIENT = """
import asyncio, json, logging, resource, sys
from leed_jax.llm import *

logging.getLogger("stamina").setLevel(logging.ERROR)

def megabytes():
    # On Linux, getrusage begins with what the parent process had when it started this one.
    if sys.platform == "linux":
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        return int(status["VmHWM"].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (20 if sys.platform == "darwin" else 10)

async def main(url, path, numbers, limits, concurrency=24):
    journal = Journal(path)
    meter = resumed_meter(Limits(**limits), journal)
    policy = RetryPolicy(attempts=8, wait_initial_s=0.01, wait_max_s=0.05, wait_jitter_s=0.02, connect_wait_s=0.05)
    settings = {"timeout_s": 3.0, "max_reply_bytes": 100_000, "retry": policy, "meter": meter}
    async with ChatClient(OpenAI(), "tiny", base_url=url, **settings) as model:
        journalled = Journalled(model, journal)
        requests = [ChatRequest((Message("user", f"{number} "),), max_tokens=50) for number in numbers]
        outcomes = await complete_all(journalled, requests, concurrency)
    errors = [type(outcome).__name__ for outcome in outcomes if not isinstance(outcome, Reply)]
    counts = {"sent": journalled.sent, "reused": journalled.reused}
    print(json.dumps({**counts, "errors": errors, "megabytes": megabytes()}))

asyncio.run(main(**json.loads(sys.argv[1])))
"""


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close the connection without a word."""


def cut_off() -> bytes:
    return json.dumps(loopback.completion()).encode()[:-9]


FAULTS: tuple[loopback.Act, ...] = (
    loopback.refusal(429),
    loopback.refusal(429, headers=["retry-after-ms: 30"]),
    loopback.refusal(429, headers=["Retry-After: 0"]),
    loopback.refusal(500),
    loopback.refusal(503),
    loopback.refusal(529),
    hang_up,
    loopback.reset,
    loopback.raw(b'{"choi', length=100),
    loopback.raw(cut_off()),
    loopback.raw(b'{"choices": "\xff\xfe"}'),
    loopback.raw(b'{"choices": []}'),
    loopback.raw(b'{"error": {"message": "overloaded"}}'),
    loopback.raw(b'[1e999, NaN, "<html>"]'),
    loopback.raw(b""),
    loopback.flood,
)
# Few, because each takes as long as the client is patient.
DRIPPING = 51


def text_of(number: int) -> str:
    return f"answer {number} " + "x" * 2000


def number_of(received: loopback.Received) -> int:
    return int(received.data["messages"][0]["content"])


@dataclass
class Endpoint:
    """Answers request number n with text n, but fails the first attempt of three numbers in ten in some way."""

    delay: float = 0.0
    faulty: bool = True
    asked: collections.Counter[int] = field(default_factory=collections.Counter)
    answered: collections.Counter[int] = field(default_factory=collections.Counter)
    faults: int = 0
    base_url: str = ""
    server: loopback.Server | None = None

    def choose(self, received: loopback.Received) -> loopback.Act:
        number = number_of(received)
        self.asked[number] += 1
        if self.faulty and self.asked[number] == 1 and number % 10 in {1, 4, 7}:
            self.faults += 1
            return loopback.drip if number % 100 == DRIPPING else FAULTS[number % len(FAULTS)]
        # Counted before it is sent: whatever becomes of it, it is paid for.
        self.answered[number] += 1
        return loopback.after(self.delay, loopback.good(text_of(number)))

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        async with loopback.serving(loopback.Choice(self.choose)) as self.server:
            self.base_url = self.server.base_url
            yield

    async def until(self, reached: Callable[[], bool], seconds: float = 60.0) -> None:
        async with asyncio.timeout(seconds):
            while not reached():
                await asyncio.sleep(0.002)

    async def quiet(self) -> None:
        """Wait until nothing is on its way, for the sake of exact counts."""
        await self.until(lambda: self.server is not None and self.server.open_now == 0)


def replies(path: Path, base_url: str, count: int) -> dict[int, Reply]:
    """Return the replies that a journal holds, by the numbers of their requests."""
    journal, identity = Journal(path), loopback.client(base_url).identity
    keys = (request_key(identity, ChatRequest((Message("user", f"{n} "),), max_tokens=50)) for n in range(count))
    return {number: reply for number, key in enumerate(keys) if (reply := journal.get(key)) is not None}


async def start(endpoint: Endpoint, path: Path, numbers: list[int], **settings: Any) -> asyncio.subprocess.Process:
    given = {
        "url": endpoint.base_url,
        "path": str(path),
        "numbers": numbers,
        "concurrency": 24,
        "limits": {},
        **settings,
    }
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CLIENT, json.dumps(given)),
        env=processes.environment(),
        stdout=asyncio.subprocess.PIPE,
    )


async def finish(process: asyncio.subprocess.Process) -> dict[str, Any]:
    async with asyncio.timeout(120):
        output, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(output)


async def kill(process: asyncio.subprocess.Process) -> None:
    process.kill()
    await process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_many_requests_with_faults_and_three_kills(tmp_path: Path) -> None:
    path, count, concurrency = tmp_path / "j", 300, 24
    numbers, endpoint, lost = list(range(count)), Endpoint(), collections.Counter[int]()

    async def run_and_kill(after: int) -> None:
        process = await start(endpoint, path, numbers, concurrency=concurrency)
        await endpoint.until(lambda: endpoint.asked.total() >= after)
        await kill(process)
        await endpoint.quiet()

    async def main() -> None:
        seen: list[tuple[set[int], collections.Counter[int]]] = []
        async with endpoint.open():
            for after in (1, 100, 280):
                await run_and_kill(after)
                kept = set(replies(path, endpoint.base_url, count))
                unseen = {number for number, times in endpoint.answered.items() if times > lost[number]} - kept
                assert len(unseen) <= concurrency
                lost.update(unseen)
                seen.append((kept, endpoint.asked.copy()))
            last = await finish(await start(endpoint, path, numbers, concurrency=concurrency))
            assert last["errors"] == []
            before = endpoint.asked.total()
            again = await finish(await start(endpoint, path, numbers, concurrency=concurrency))
            assert (again["sent"], again["reused"], endpoint.asked.total()) == (0, count, before)
        # What was in the journal at a kill was not asked for again.
        for kept, asked in seen:
            assert all(endpoint.asked[number] == asked[number] for number in kept)
        assert [len(kept) for kept, _ in seen] == sorted(len(kept) for kept, _ in seen)
        assert len(seen[-1][0]) > count // 2
        # Nothing was paid twice but what was on its way to a process that was killed.
        assert endpoint.answered == collections.Counter(numbers) + lost
        assert endpoint.faults == 90
        print(last, again)
        assert max(last["megabytes"], again["megabytes"]) < 80

    asyncio.run(main())
    found = replies(path, endpoint.base_url, count)
    assert {number: reply.text for number, reply in found.items()} == {number: text_of(number) for number in numbers}
    spent = Journal(path).spent()
    assert endpoint.asked.total() <= spent.calls <= endpoint.asked.total() + 3 * concurrency


def test_two_processes_that_share_a_cache_pay_each_reply_once(tmp_path: Path) -> None:
    path, count, endpoint = tmp_path / "j", 80, Endpoint(delay=0.02)
    numbers = list(range(count))

    async def main() -> None:
        async with endpoint.open():
            one = await start(endpoint, path, numbers, concurrency=8)
            two = await start(endpoint, path, numbers, concurrency=8)
            ends = await asyncio.gather(finish(one), finish(two))
        assert [end["errors"] for end in ends] == [[], []]
        assert sum(end["sent"] for end in ends) == count
        assert sum(end["reused"] for end in ends) == count
        assert endpoint.answered == collections.Counter(numbers)

    asyncio.run(main())
    found = replies(path, endpoint.base_url, count)
    assert {number: reply.text for number, reply in found.items()} == {number: text_of(number) for number in numbers}


def test_a_process_takes_over_from_one_that_is_killed(tmp_path: Path) -> None:
    path, count, endpoint = tmp_path / "j", 120, Endpoint(delay=0.05, faulty=False)
    numbers = list(range(count))

    async def main() -> None:
        async with endpoint.open():
            victim = await start(endpoint, path, numbers, concurrency=8)
            await endpoint.until(lambda: len(endpoint.asked) >= 10)
            other = await start(endpoint, path, numbers, concurrency=8)
            await endpoint.until(lambda: len(endpoint.asked) >= 60)
            await kill(victim)
            assert (await finish(other))["errors"] == []

    asyncio.run(main())
    assert len(replies(path, endpoint.base_url, count)) == count
    twice = endpoint.answered - collections.Counter(numbers)
    assert twice.total() <= 8
    assert set(twice.values()) <= {1}


@pytest.mark.parametrize("limits", [{"max_calls": 60}, {"max_cost": 1.5}])
def test_caps_hold_over_kills(tmp_path: Path, limits: dict[str, float]) -> None:
    path, count, concurrency, endpoint = tmp_path / "j", 300, 4, Endpoint(faulty="max_calls" in limits)
    numbers = list(range(count))
    # Each answer takes 10 tokens, and 51 or 52 are reserved for it.
    prices = {"prompt_price": 1000.0, "completion_price": 1000.0}
    settings = {"concurrency": concurrency, "limits": {**prices, **limits}}

    async def main() -> dict[str, Any]:
        async with endpoint.open():
            for after in (20,):
                process = await start(endpoint, path, numbers, **settings)
                await endpoint.until(lambda least=after: endpoint.asked.total() >= least)
                await kill(process)
                await endpoint.quiet()
            end = await finish(await start(endpoint, path, numbers, **settings))
            kept = len(replies(path, endpoint.base_url, count))
            assert end["errors"] == ["BudgetError"] * (count - kept)
            further = await finish(await start(endpoint, path, numbers, **settings))
            assert set(further["errors"]) == {"BudgetError"}
            kept = len(replies(path, endpoint.base_url, count))
            asked, spent = endpoint.asked.total(), Journal(path).spent()
            # With the cap out of the way, only the rest is asked for.
            assert (await finish(await start(endpoint, path, numbers)))["errors"] == []
        return {"asked": asked, "kept": kept, "spent": spent}

    end = asyncio.run(main())
    spent: Spending = end["spent"]
    lost = concurrency
    if "max_calls" in limits:
        assert spent.calls == 60
        assert 60 - lost <= end["asked"] <= 60
    else:
        assert 1500 - 2 * 52 <= spent.usage.total <= 1500
        assert 10 * end["asked"] <= 1500
        assert 10 * end["kept"] >= 1500 - (lost + 2) * 52
    assert len(replies(path, endpoint.base_url, count)) == count
