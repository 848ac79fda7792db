"""Claims on requests, between threads, journals and processes."""

import asyncio
import errno
import os
import signal
import sys
from pathlib import Path

import pytest
from processes import python

from leed_jax.errors import RunDirectoryError
from leed_jax.llm import Journal
from leed_jax.llm import claims as claims_module


def test_one_claim_at_a_time_in_a_process(tmp_path: Path) -> None:
    inside: list[str] = []

    async def hold(journal: Journal, key: str) -> None:
        async with journal.claim(key):
            assert key not in inside
            inside.append(key)
            await asyncio.sleep(0.05)
            inside.remove(key)

    async def run() -> None:
        before = len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0
        journals = [Journal(tmp_path / "j"), Journal(tmp_path / "x" / ".." / "j")]
        await asyncio.gather(*(hold(journal, key) for journal in journals for key in ("a", "a", "b", "c")))
        with pytest.raises(ZeroDivisionError):
            async with journals[0].claim("a"):
                raise ZeroDivisionError
        async with asyncio.timeout(1), journals[1].claim("a"):
            pass
        if sys.platform == "linux":
            assert len(list(Path("/proc/self/fd").iterdir())) == before

    (tmp_path / "x").mkdir()
    asyncio.run(run())
    assert not claims_module._sides


HOLDS = """
import asyncio, sys
from leed_jax.llm import Journal, Reply, Usage
async def main():
    journal = Journal(sys.argv[1])
    async with journal.claim("a"), journal.claim("b"):
        async with journal.claim("c"):
            pass
        print("held", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no file locks")
def test_a_claim_ends_with_the_process_that_holds_it(tmp_path: Path) -> None:
    child = python(HOLDS, tmp_path / "j")
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    journal = Journal(tmp_path / "j")

    async def taken(key: str, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds), journal.claim(key):
                return True
        except TimeoutError:
            return False

    async def run() -> None:
        assert not await taken("a", 0.2)
        assert await taken("c", 5)
        # Taking and leaving one claim must not disturb another one's.
        async with journal.claim("d"):
            assert not await taken("b", 0.2)
        waiting = asyncio.create_task(taken("a", 20))
        await asyncio.sleep(0.1)
        child.kill()
        assert await waiting
        assert await taken("b", 5)

    asyncio.run(run())
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL


@pytest.mark.skipif(sys.platform == "win32", reason="there are no file locks")
def test_claims_where_the_file_system_has_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def none(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    def broken(*arguments: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async def run() -> None:
        journal = Journal(tmp_path / "j")
        monkeypatch.setattr(fcntl, "lockf", none)
        async with journal.claim("a"), journal.claim("b"):
            pass
        monkeypatch.setattr(fcntl, "lockf", broken)
        with pytest.raises(RunDirectoryError, match="Input/output error"):
            async with journal.claim("a"):
                pass

    asyncio.run(run())
    assert not claims_module._sides


def test_a_claim_beside_a_journal_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "j.lock").mkdir()

    async def run() -> None:
        with pytest.raises(RunDirectoryError, match="cannot be written"):
            async with Journal(tmp_path / "j").claim("a"):
                pass

    asyncio.run(run())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_has_no_claims_of_its_parents(tmp_path: Path) -> None:
    code = """
import asyncio, os, sys
from leed_jax.llm import Journal
async def taken(journal):
    try:
        async with asyncio.timeout(0.3), journal.claim("a"):
            return 1
    except TimeoutError:
        return 0
journal = Journal(sys.argv[1])
assert journal._claims.take("a")
(read, write), pid = os.pipe(), os.getpid()
child = os.fork()
if child == 0:
    first = asyncio.run(taken(journal))
    os.write(write, b"x")
    while not (last := asyncio.run(taken(journal))) and os.getppid() == pid:
        pass
    os._exit(10 + 2 * first + last)
os.read(read, 1)
journal._claims.give_back("a")
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 11
assert asyncio.run(taken(journal)) == 1
"""
    child = python(code, tmp_path / "j")
    try:
        child.communicate(timeout=30)
    finally:
        child.kill()
    assert child.returncode == 0
