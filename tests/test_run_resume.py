"""Stopping and going on, in real processes that get real signals."""

import contextlib
import os
import pty
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest
from tiny_run import TESTS, Walk, python, record_walk, rows_of, run_command, settings, wait_for_chunk

from leed_jax.cli.run import main
from leed_jax.report.metrics import WALL_CLOCK_FIELDS

CHUNKS, EVERY = 120, 10
SIGNAL_AT = 23


def long_run(out):
    """A run of LEED on plans that are executed again, with noise: all that is random in a run is in it."""
    changes = {"algorithm": "leed", "demonstrations.path": out.parent / "set", "demonstrations.episodes": 6}
    changes |= {"demonstrations.noise": 0.5, "num_seeds": 2, "total_steps": 64 * CHUNKS, "checkpoint_every": EVERY}
    return settings(out, **changes)


def timeless(directory):
    return [{k: v for k, v in row.items() if k not in WALL_CLOCK_FIELDS} for row in rows_of(directory)]


def last_state(directory):
    """Every array of the last checkpoint, by name."""
    with ocp.CheckpointManager(directory / "checkpoints") as manager:
        leaves = manager.restore(manager.latest_step())
    return {name: np.asarray(leaf) for name, leaf in leaves.items()}


def checkpoints_of(directory):
    return sorted(int(path.name) for path in (directory / "checkpoints").iterdir() if path.name.isdigit())


def assert_same_run(directory, reference):
    assert timeless(directory) == timeless(reference)
    ours, theirs = last_state(directory), last_state(reference)
    assert ours.keys() == theirs.keys()
    assert any(name.startswith("optimiser_state") for name in ours)
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    record_walk(folder / "set", Walk())
    return folder


@pytest.fixture(scope="module")
def reference(folder):
    """A run that was never stopped."""
    assert main(long_run(folder / "reference")) == 0
    assert len(timeless(folder / "reference")) == 2 * CHUNKS
    return folder / "reference"


def test_sigterm_leaves_a_checkpoint_and_the_run_continues_to_the_same_end(reference, folder, capsys):
    run = folder / "terminated"
    process = python(["-m", "leed_jax.run", *long_run(run)], folder)
    wait_for_chunk(process, run, 2 * SIGNAL_AT)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert errors == ""
    stopped_at = len(rows_of(run)) // 2
    assert SIGNAL_AT <= stopped_at < CHUNKS
    assert checkpoints_of(run)[-1] == stopped_at
    assert f"Stopped by SIGTERM after chunk {stopped_at} of {CHUNKS}" in output
    assert f"python -m leed_jax.run resume={run}" in output
    assert not (run / "summary.json").exists()
    wall_before = rows_of(run)[-1]["wall_s"]

    assert main([f"resume={run}"]) == 0
    assert f"Continuing after chunk {stopped_at} of {CHUNKS}" in capsys.readouterr().out
    assert_same_run(run, reference)
    assert rows_of(run)[2 * stopped_at]["wall_s"] > wall_before


def test_kill_loses_at_most_what_came_after_the_last_checkpoint(reference, folder, capsys):
    run = folder / "killed"
    process = python(["-m", "leed_jax.run", *long_run(run)], folder)
    try:
        wait_for_chunk(process, run, 2)
        # A run that another process trains is left alone.
        assert main([f"resume={run}"]) == 2
        assert "in use by another process" in capsys.readouterr().err
        wait_for_chunk(process, run, 2 * (3 * EVERY + 3))
    finally:
        process.kill()
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    kept = checkpoints_of(run)[-1]
    # One checkpoint may have been in the making.
    assert kept >= len(rows_of(run)) // 2 - 2 * EVERY
    # What a kill in the middle of a line and of a checkpoint leaves behind.
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"chunk": 999, "env_st')
    (run / "checkpoints" / f"{CHUNKS + 5}.orbax-checkpoint-tmp").mkdir()

    status, output, errors = run_command([f"resume={run}"], folder.parent)
    assert status == 0, errors
    assert f"Continuing after chunk {kept} of {CHUNKS}" in output
    assert_same_run(run, reference)


def test_a_run_killed_before_its_first_checkpoint_starts_over(reference, folder, capsys):
    run = folder / "early"
    run.mkdir()
    shutil.copy(reference / "config.yaml", run)
    (run / "metrics.jsonl").write_text('{"chunk": 1, "seed": 0}\n{"chu')
    assert main([f"resume={run}"]) == 0
    assert f"Continuing after chunk 0 of {CHUNKS}" in capsys.readouterr().out
    assert_same_run(run, reference)


def test_ctrl_c_in_a_terminal_gives_the_terminal_back(folder):
    run = folder / "interrupted"
    parent, child = pty.openpty()
    arguments = [sys.executable, "-m", "leed_jax.run", *long_run(run)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(
        arguments, cwd=folder, stdout=child, stderr=child, stdin=child, env=environment, start_new_session=True
    )
    os.close(child)
    os.set_blocking(parent, False)
    shown, sent, deadline = b"", False, time.monotonic() + 100
    while process.poll() is None and time.monotonic() < deadline:
        try:
            shown += os.read(parent, 65536)
        except (BlockingIOError, OSError):
            time.sleep(0.005)
        if not sent and len(rows_of(run)) >= 2 * SIGNAL_AT:
            process.send_signal(signal.SIGINT)
            sent = True
    with contextlib.suppress(OSError):
        shown += os.read(parent, 65536)
    os.close(parent)
    assert process.returncode == 128 + signal.SIGINT
    assert b"Traceback" not in shown
    assert b"return/agent" in shown
    assert b"Stopped by SIGINT after chunk" in shown
    # The cursor was hidden for the live line, and is shown again.
    assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l") >= 0
    assert checkpoints_of(run)[-1] == len(rows_of(run)) // 2


SECOND_SIGNAL = """
import os, signal, sys, time
from leed_jax.training import loop
from leed_jax.cli.common import leave
from leed_jax.cli.run import main
waiting = loop.time.sleep
def twice(seconds):
    if not sent:
        sent.append(time.monotonic())
        print(sent[0], flush=True)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    waiting(seconds)
sent = []
loop.time.sleep = twice
leave(lambda: main(sys.argv[1:]))
"""


def test_a_second_ctrl_c_stops_at_once(folder):
    # One chunk takes far longer than the test: it is not waited for.
    arguments = settings(folder / "at_once", total_steps=32_000_000, updates_per_chunk=1_000_000)
    process = python(["-c", SECOND_SIGNAL, *arguments], folder)
    output, errors = process.communicate(timeout=100)
    ended = time.monotonic()
    assert process.returncode == 128 + signal.SIGINT
    assert ended - float(output.splitlines()[-1]) < 5
    assert errors == "Interrupted.\n"
    assert rows_of(folder / "at_once") == []


def copy_of_a_stopped_run(reference, target):
    """The reference as if it had been killed before its report."""
    shutil.copytree(reference, target)
    (target / "summary.json").unlink()
    return target


def test_a_run_killed_during_its_report_only_reports(reference, tmp_path, capsys):
    run = copy_of_a_stopped_run(reference, tmp_path / "run")
    before = (run / "metrics.jsonl").read_text()
    assert main([f"resume={run}"]) == 0
    assert f"Continuing after chunk {CHUNKS} of {CHUNKS}" in capsys.readouterr().out
    assert (run / "metrics.jsonl").read_text() == before
    assert (run / "summary.json").exists()


def test_a_changed_configuration_is_an_error(reference, tmp_path, capsys):
    run = copy_of_a_stopped_run(reference, tmp_path / "run")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("- 8\n", "- 9\n", 1))
    assert main([f"resume={run}"]) == 2
    assert "config.yaml was changed" in capsys.readouterr().err


def test_a_damaged_configuration_is_an_error(reference, tmp_path, capsys):
    run = copy_of_a_stopped_run(reference, tmp_path / "run")
    for text in ("env: [", "- 1\n", "nm_envs: 3\n"):
        (run / "config.yaml").write_text(text)
        assert main([f"resume={run}"]) == 2
        assert "config.yaml cannot be used" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_an_error(reference, tmp_path):
    run = copy_of_a_stopped_run(reference, tmp_path / "run")
    for path in (run / "checkpoints" / str(CHUNKS)).rglob("d/*"):
        path.write_bytes(b"")
    status, _, errors = run_command([f"resume={run}"], tmp_path)
    assert status == 2
    # The readers of the other arrays may complain too, from threads of their own.
    paragraph = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(paragraph) == 1
    assert "it is damaged" in paragraph[0]


def test_missing_metrics_are_an_error(reference, tmp_path, capsys):
    run = copy_of_a_stopped_run(reference, tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:-1]))
    assert main([f"resume={run}"]) == 2
    assert "metrics.jsonl is damaged: it ends after line" in capsys.readouterr().err
