"""The journal on disk: cut short, damaged, shared and killed."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import leed_jax
from leed_jax.errors import RunDirectoryError
from leed_jax.llm import Journal, Reply, Usage


def reply(text: str) -> Reply:
    return Reply(text, Usage(1, 2), "stop", "m")


def python(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    """Start a Python process that runs `code` with this library importable."""
    source = str(Path(leed_jax.__file__).parents[1])
    path = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE)


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
    "damage", [b"", b"{", b"\xff", b"[]", b"{}", b'{"key":1,"reply":{}}', b'{"key":"k","reply":{}}']
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
