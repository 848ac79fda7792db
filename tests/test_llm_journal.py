"""The journal on disk: cut short, damaged, shared and killed."""

import asyncio
import json
import os
import signal
import stat
import sys
import tracemalloc
from pathlib import Path

import pytest
from processes import python

from leed_jax.errors import BudgetError, ConfigurationError, RunDirectoryError
from leed_jax.llm import ChatRequest, Journal, Limits, Message, Reply, Spending, Usage, resumed_meter


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


def test_the_first_of_two_lines_stands(tmp_path: Path) -> None:
    # Without locks, two processes may both have written.
    for name in ("a", "b"):
        Journal(tmp_path / name).record("k", reply(name))
    (tmp_path / "j").write_bytes((tmp_path / "a").read_bytes() + (tmp_path / "b").read_bytes())
    assert Journal(tmp_path / "j").get("k") == reply("a")


def test_another_journal_of_the_file_is_seen(tmp_path: Path) -> None:
    one, two = Journal(tmp_path / "j"), Journal(tmp_path / "j")
    one.record("k", reply("x"))
    assert two.get("k") == reply("x")


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


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"{}",
        b'{"key":1,"reply":{}}',
        b'{"key":"k","reply":{}}',
        b'{"key":"k","reply":{"text":"t","model":"m"},"spender":1}',
        b'{"spender":"s","calls":true,"prompt_tokens":1,"completion_tokens":1}',
        b'{"spender":"s","calls":1,"prompt_tokens":1e999,"completion_tokens":1}',
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
    for key in ("k", "k2"):
        with pytest.raises(RunDirectoryError, match="deleted"):
            journal.get(key)


def test_a_file_that_is_replaced_in_use_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = Journal(path)
    journal.record("k", reply("x"))
    other = Journal(tmp_path / "other")
    other.record("l", reply("x"))
    other.record("m", reply("y"))
    (tmp_path / "other").replace(path)
    with pytest.raises(RunDirectoryError, match="replaced"):
        journal.get("k")
    path.write_bytes(b"\n" * 1000)
    with pytest.raises(RunDirectoryError, match="replaced"):
        journal.get("k")


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="cannot be read"):
        Journal(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RunDirectoryError, match="cannot be"):
        Journal(tmp_path / "file" / "j").record("k", reply("x"))


def test_the_line_is_on_disk_before_record_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "j", []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        synced.append("folder" if folder else path.read_bytes().decode())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    Journal(path).record("k", reply("x"))
    assert synced[0] == "folder"
    assert json.loads(synced[1])["key"] == "k"
    assert synced[1].endswith("\n")
    assert len(synced) == 2


@pytest.mark.parametrize("failing", ["write", "fsync"])
def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    path = tmp_path / "j"
    journal = Journal(path)
    journal.record("k1", reply("one"))
    before = path.read_bytes()
    write = os.write
    calls: list[int] = []

    def full(descriptor: int, data: bytes = b"") -> int:
        calls.append(descriptor)
        if failing == "write" and len(calls) == 1:
            return write(descriptor, data[:10])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, full)
        with pytest.raises(RunDirectoryError, match="No space left on device"):
            journal.record("k2", reply("two"))
    assert path.read_bytes() == before
    assert journal.get("k2") is None
    journal.record("k2", reply("two"))
    assert Journal(path).get("k2") == reply("two")


DIES_IN_MID_WRITE = """
import os, signal, sys
from leed_jax.llm import Journal, Reply, Usage
journal = Journal(sys.argv[1])
journal.record("k1", Reply("one", Usage(1, 2), "stop", "m"))
write = os.write
def half(descriptor, data):
    write(descriptor, data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
os.write = half
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


def test_only_places_are_kept_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = Journal(path)
    for number in range(100):
        journal.record(f"k{number}", reply(f"{number}" + "x" * 100_000))
    assert path.stat().st_size > 10_000_000
    del journal
    tracemalloc.start()
    try:
        journal = Journal(path)
        assert all((found := journal.get(f"k{number}")) is not None and found.text[0] for number in range(100))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 3_000_000


def test_what_a_spender_spent_is_the_sum_of_all_processes(tmp_path: Path) -> None:
    one, two = Journal(tmp_path / "j"), Journal(tmp_path / "j")
    one.record("k1", reply("x"), "me")
    one.record("k2", reply("x"))
    two.record("k3", reply("x"), "me")
    two.record("k3", reply("y"), "me")
    two.record("k4", reply("x"), "other")
    for journal in (one, two, Journal(tmp_path / "j")):
        assert journal.spent("me") == Spending(2, Usage(2, 4))
        assert journal.spent("other") == Spending(1, Usage(1, 2))
        assert journal.spent("nobody") == Spending()


def test_charges_count_failed_attempts_too_and_replies_not_twice(tmp_path: Path) -> None:
    one, two = Journal(tmp_path / "j"), Journal(tmp_path / "j")
    one.charge("me", 1, Usage(100, 1000))
    assert two.spent("me") == Spending(1, Usage(100, 1000))
    two.charge("me", 0, Usage(-99, -998))
    two.record("k", reply("x"), "me")
    one.charge("me", 1, Usage(7, 0))
    for journal in (one, two, Journal(tmp_path / "j")):
        assert journal.spent("me") == Spending(2, Usage(8, 2))
        assert journal.get("k") == reply("x")
        assert len(journal) == 1


def test_a_journal_from_before_there_were_spenders(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2}
    old = {"key": "k", "reply": {"text": "t", "usage": usage, "finish_reason": "stop", "model": "m"}}
    (tmp_path / "j").write_text(json.dumps(old) + "\n")
    journal = Journal(tmp_path / "j")
    assert journal.get("k") == Reply("t", Usage(1, 2), "stop", "m", None)
    assert journal.spent("") == Spending()


def test_a_meter_goes_on_where_a_killed_one_was(tmp_path: Path) -> None:
    limits = Limits(max_calls=3, max_total_tokens=2000, max_cost=5.0, prompt_price=1e3, completion_price=1e3)
    ask = ChatRequest((Message("user", "abc"),), max_tokens=99)

    async def begin() -> None:
        meter = resumed_meter(limits, Journal(tmp_path / "j"), "me")
        async with meter.admit(ask) as ticket:
            ticket.settle(Usage(5, 5))
        # As if killed here: the attempt was let through, and nothing was heard of it.
        await meter.admit(ask).__aenter__()

    async def go_on() -> None:
        meter = resumed_meter(limits, Journal(tmp_path / "j"), "me")
        assert meter.spent == Spending(2, Usage(6, 104), 0.11)
        async with meter.admit(ask) as ticket:
            ticket.refused()
        with pytest.raises(BudgetError, match="max_calls"):
            await meter.admit(ask).__aenter__()
        assert Journal(tmp_path / "j").spent("me") == Spending(3, Usage(6, 104))

    asyncio.run(begin())
    asyncio.run(go_on())
    with pytest.raises(ConfigurationError, match="spender"):
        resumed_meter(limits, Journal(tmp_path / "j"), "")
