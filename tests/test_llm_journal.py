"""The journal on disk: cut short, damaged, shared, killed, and as earlier versions wrote it; claims on requests."""

import asyncio
import errno
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from processes import python

from leed_jax.errors import BudgetError, EndpointRefusedError, RunDirectoryError
from leed_jax.llm import (
    ChatRequest,
    Journal,
    Journalled,
    Limits,
    Message,
    Reply,
    Spending,
    Usage,
    complete_all,
    request_key,
    resumed_meter,
)


def reply(text: str) -> Reply:
    return Reply(text, Usage(1, 2), "stop", "m")


def test_replies_survive_the_process(tmp_path: Path) -> None:
    path = tmp_path / "new" / "replies.jsonl"
    journal = Journal(path)
    assert journal.get("k1") is None
    assert not path.parent.exists()
    assert journal.record("k1", reply("\ud800 \u2028 \r\n é")) == reply("\ud800 \u2028 \r\n é")
    journal.record("k2", reply("two"))
    again = Journal(path)
    assert len(again) == 2
    assert again.get("k1") == reply("\ud800 \u2028 \r\n é")
    lines = path.read_bytes().split(b"\n")
    assert [json.loads(line)["key"] for line in lines[:-1]] == ["k1", "k2"]
    assert lines[-1] == b""


def test_the_first_reply_stands(tmp_path: Path) -> None:
    one, two = Journal(tmp_path / "j"), Journal(tmp_path / "j")
    assert one.record("k", reply("first")) == reply("first")
    assert one.record("k", reply("second")) == reply("first")
    assert two.record("k", reply("third")) == reply("first")
    assert len((tmp_path / "j").read_bytes().splitlines()) == 1


def test_another_journal_of_the_file_is_seen(tmp_path: Path) -> None:
    one, two = Journal(tmp_path / "j"), Journal(tmp_path / "j")
    one.record("k", reply("x"))
    assert two.get("k") == reply("x")


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"{}",
        b'{"key":"k","reply":{}}',
        b'{"calls":1,"prompt_tokens":1}',
        b'{"calls":1,"prompt_tokens":1e999,"completion_tokens":1}',
        b'{"closed":"x"}',
        b'{"closed":3}',
        b'{\n{\n{"cut":true}',
    ],
)
def test_a_damaged_line_is_an_error_that_names_it(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "j"
    journal = Journal(path)
    journal.record("k1", reply("one"))
    path.write_bytes(path.read_bytes() + damage + b"\n")
    before = path.read_bytes()
    with pytest.raises(RunDirectoryError, match=r"Line 2 of the journal .* delete") as caught:
        Journal(path)
    assert str(path) in str(caught.value)
    with pytest.raises(RunDirectoryError, match="Line 2"):
        journal.record("k2", reply("two"))
    assert path.read_bytes() == before


def test_a_file_that_shrinks_in_use_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = Journal(path)
    journal.record("k", reply("x"))
    path.write_bytes(b"")
    with pytest.raises(RunDirectoryError, match="shortened"):
        journal.record("k2", reply("y"))
    path.unlink()
    with pytest.raises(RunDirectoryError, match="deleted"):
        journal.get("k2")


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="cannot be read"):
        Journal(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RunDirectoryError, match="cannot be"):
        Journal(tmp_path / "file" / "j").record("k", reply("x"))


DIES_IN_MID_WRITE = """
import os, signal, sys
from leed_jax.llm import Journal, Reply, Usage
journal = Journal(sys.argv[1])
journal.record("k1", Reply("one", Usage(1, 2), "stop", "m"))
def half(descriptor):
    os.ftruncate(descriptor, os.fstat(descriptor).st_size - 9)
    os.kill(os.getpid(), signal.SIGKILL)
os.fsync = half
journal.record("k2", Reply("two", Usage(1, 2), "stop", "m"))
"""

APPENDS = """
import sys
from leed_jax.llm import Journal, Reply, Usage
journal = Journal(sys.argv[1])
print("ready", flush=True)
for number in range(int(sys.argv[3])):
    journal.record(f"{sys.argv[2]} {number}", Reply("x" * 5000, Usage(1, 2), "stop", "m"))
    journal.record(f"shared {number}", Reply(sys.argv[2], Usage(1, 2), "stop", "m"))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_process_killed_in_mid_write(tmp_path: Path) -> None:
    path = tmp_path / "j"
    child = python(DIES_IN_MID_WRITE, path)
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    assert not path.read_bytes().endswith(b"\n")
    journal = Journal(path)
    assert journal.get("k1") == reply("one")
    assert journal.get("k2") is None
    journal.record("k3", reply("three"))
    again = Journal(path)
    assert len(again) == 2
    assert again.get("k3") == reply("three")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no file locks")
def test_processes_that_append_at_the_same_time_and_one_is_killed(tmp_path: Path) -> None:
    path, count = tmp_path / "j", 60
    children = [python(APPENDS, path, name, number) for name, number in (("a", count), ("b", count), ("c", 10**6))]
    victim = children[2]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
    for child in children[:2]:
        child.communicate(timeout=60)
        assert child.returncode == 0
    victim.kill()
    victim.communicate(timeout=60)
    journal = Journal(path)
    assert all(journal.get(f"{name} {number}") is not None for name in "ab" for number in range(count))
    keys = [json.loads(line)["key"] for line in path.read_bytes().split(b"\n")[:-1]]
    assert len(set(keys)) == len(keys) == len(journal)


def test_every_cut_of_the_last_line_is_recovered(tmp_path: Path) -> None:
    path = tmp_path / "j"
    Journal(path).record("k1", reply("one"))
    start = path.stat().st_size
    Journal(path).record("k2", reply("two"))
    whole = path.read_bytes()
    for length in range(start, len(whole)):
        path.write_bytes(whole[:length])
        journal = Journal(path)
        assert journal.get("k1") == reply("one")
        assert journal.get("k2") is None
        journal.record("k2", reply("two"))
        assert path.read_bytes() == whole


def test_the_line_is_on_disk_before_record_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "j", []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(path.read_bytes()))
    Journal(path).record("k", reply("x"))
    [content] = synced
    assert json.loads(content)["key"] == "k"
    assert content.endswith(b"\n")


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "j"
    journal = Journal(path)
    journal.record("k1", reply("one"))
    before = path.read_bytes()
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, most))
    try:
        with pytest.raises(RunDirectoryError, match="too large"):
            journal.record("k2", reply("two"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        signal.signal(signal.SIGXFSZ, handler)
    assert journal.get("k2") is None
    assert Journal(path).get("k1") == reply("one")
    journal.record("k3", reply("three"))
    assert [Journal(path).get(key) for key in ("k1", "k2", "k3")] == [reply("one"), None, reply("three")]


def test_what_was_spent_is_the_sum_of_all_processes(tmp_path: Path) -> None:
    one, two = Journal(tmp_path / "j"), Journal(tmp_path / "j")
    one.charge(1, Usage(100, 1000))
    assert two.spent() == Spending(1, Usage(100, 1000))
    two.charge(0, Usage(-99, -998))
    two.record("k", reply("x"))
    one.charge(1, Usage(7, 0))
    for journal in (one, two, Journal(tmp_path / "j")):
        assert journal.spent() == Spending(2, Usage(8, 2))
        assert journal.get("k") == reply("x")
        assert len(journal) == 1


def test_a_meter_goes_on_where_a_killed_one_was(tmp_path: Path) -> None:
    limits = Limits(max_calls=3, max_total_tokens=2000, max_cost=5.0, prompt_price=1e3, completion_price=1e3)
    ask = ChatRequest((Message("user", "abc"),), max_tokens=99)

    async def begin() -> None:
        meter = resumed_meter(limits, Journal(tmp_path / "j"))
        async with meter.admit(ask) as ticket:
            ticket.settle(Usage(5, 5))
        # As if killed here: the attempt was let through, and its end is not known.
        await meter.admit(ask).__aenter__()

    async def go_on() -> None:
        meter = resumed_meter(limits, Journal(tmp_path / "j"))
        assert meter.spent == Spending(2, Usage(6, 104), 0.11)
        async with meter.admit(ask) as ticket:
            ticket.refused()
        with pytest.raises(BudgetError, match="max_calls"):
            await meter.admit(ask).__aenter__()
        assert Journal(tmp_path / "j").spent() == Spending(3, Usage(6, 104))

    asyncio.run(begin())
    asyncio.run(go_on())


OLD = Path(__file__).parent / "old_journals" / "replies.jsonl"
OLD_ASKS = [ChatRequest((Message("user", str(n)),), 0.5, n, 64, {"type": "object"}) for n in range(4)]


class OldModel:
    """The model whose replies are in the old journal."""

    identity = "openai tiny response_format=auto"

    async def complete(self, request: ChatRequest) -> Reply:
        raise EndpointRefusedError("asked again")


def test_a_journal_of_an_earlier_version_is_a_cache_and_a_count(tmp_path: Path) -> None:
    # It was ended with an attempt on its way; the third request of a closed round had failed.
    path = tmp_path / "replies.jsonl"
    shutil.copy(OLD, path)
    journal = Journal(path)
    assert journal.spent() == Spending(5, Usage(30 * 3 + 6, 9 * 3 + 64))
    shared = journal.get(request_key(OldModel.identity, ChatRequest((Message("user", "shared"),))))
    assert shared == Reply("s", Usage(1, 2), "stop", "tiny")
    outcomes = asyncio.run(complete_all(Journalled(OldModel(), journal, journal), OLD_ASKS, 2))
    assert [str(getattr(outcome, "text", outcome)) for outcome in outcomes] == [
        '{"answer": "é 0"}',
        '{"answer": "é 1"}',
        "http://127.0.0.1:8081/v1 answered with status 500",
        '{"answer": "é 3"}',
    ]
    journal.record("new", reply("x"))
    assert Journal(path).get("new") == reply("x")


def test_what_earlier_versions_wrote_without_file_locks(tmp_path: Path) -> None:
    half, last = b'{"key":"k","reply":{"text\n', b'{"cut":true}\n{"spender":"run","closed":null}\n{"half'
    (tmp_path / "j").write_bytes(OLD.read_bytes() + half + last)
    journal = Journal(tmp_path / "j")
    assert len(journal) == 4
    assert [journal.failure(request_key(OldModel.identity, asked)) for asked in OLD_ASKS] == [None] * 4
    journal.record("k", reply("x"))
    assert Journal(tmp_path / "j").get("k") == reply("x")


def test_one_claim_at_a_time_in_a_process(tmp_path: Path) -> None:
    inside: list[str] = []

    async def hold(journal: Journal, key: str) -> None:
        async with journal.claim(key):
            assert key not in inside
            inside.append(key)
            await asyncio.sleep(0.01)
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
    assert not (tmp_path / "j.claims").exists()


HOLDS = """
import asyncio, sys
from leed_jax.llm import Journal
async def main():
    journal = Journal(sys.argv[1])
    async with journal.claim("a"):
        async with journal.claim("b"):
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
        assert await taken("b", 5)
        assert not await taken("a", 0.1)
        waiting = asyncio.create_task(taken("a", 20))
        await asyncio.sleep(0.05)
        child.kill()
        assert await waiting

    asyncio.run(run())
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL


CLAIMS = """
import asyncio, os, sys, time
from leed_jax.llm import Journal
async def main():
    journal, mark = Journal(sys.argv[1]), sys.argv[1] + ".mark"
    end = time.monotonic() + 0.3
    count = 0
    while time.monotonic() < end:
        async with journal.claim("a"):
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
            os.unlink(mark)
            count += 1
    print(count)
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no file locks")
def test_no_two_processes_hold_one_claim(tmp_path: Path) -> None:
    children = [python(CLAIMS, tmp_path / "j") for _ in range(3)]
    counts = [int(child.communicate(timeout=60)[0]) for child in children]
    assert [child.returncode for child in children] == [0, 0, 0]
    assert all(counts)


def test_where_files_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", none)
        with pytest.raises(RunDirectoryError, match=r"locked \(No locks available\)"):
            Journal(tmp_path / "j").record("k", reply("x"))


def test_a_claim_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "j.claims").write_text("")

    async def run() -> None:
        with pytest.raises(RunDirectoryError, match="cannot be"):
            async with Journal(tmp_path / "j").claim("a"):
                pass

    asyncio.run(run())
