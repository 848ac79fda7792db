"""`python -m leed_jax.demonstrations`: what is listed, shown, verified, drawn and exported, and what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from probes import Line, OneByOne
from set_folders import (
    BEST,
    LINE,
    MANIFEST,
    TRANSCRIPT,
    edit_manifest,
    entry,
    put_file,
    read_json,
    refused,
    run,
    transcript_of,
    write_line_set,
    write_set,
    write_walk_set,
)
from tiny_run import TESTS, DrawnWalk

from leed_jax.cli.demonstrations import main
from leed_jax.demonstrations import find_set, load_demonstrations, recorded_sets
from leed_jax.report import animation

CONTROL = "\x1b[31mred\x07\r\u202e"


@pytest.fixture
def line_set(tmp_path: Path) -> Path:
    return write_line_set(tmp_path / "set")


# --- list and show ----------------------------------------------------------------------------------------------


def test_sets_are_listed_and_broken_ones_told(capsys: Any, tmp_path: Path) -> None:
    write_line_set(tmp_path / "a" / "good")
    write_walk_set(tmp_path / "of episodes", episodes=0)
    os.truncate(write_line_set(tmp_path / "cut") / MANIFEST, 100)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / MANIFEST).write_text("{}")
    status, output, _ = run(capsys, "list", tmp_path)
    rows = [line.split() for line in output.splitlines()]
    assert status == 0
    assert [f"{tmp_path}/a/good", "Line", "tiny", "relational", "2", "14.50", "8"] in [row[:7] for row in rows]
    assert ["episodes", "Walk", "tiny", "episodes", "3", "-", "-"] in [row[1:8] for row in rows]
    assert f"broken: {tmp_path}/cut/manifest.json cannot be read" in output
    assert f"{tmp_path}/other" not in output
    assert set(recorded_sets()) <= {row[0] for row in rows}
    assert "no/such is not a folder" in refused(capsys, "list", "no/such")


def test_a_set_is_shown_with_its_rounds_and_scores(capsys: Any, line_set: Path) -> None:
    rounds = [
        {"index": 1, "replies": 8, "executable": 5, "validity": 0.875, "mean_return": -1.5, "best_return": 14.5}
        | {"best_so_far": 14.5, "control": {"mean": 9.25}, "prompt_tokens": 30, "completion_tokens": 4},
        {"index": 2, "control": "none"},
    ]
    usage = {"calls": 8, "prompt_tokens": 60, "completion_tokens": 4, "cost": 0.25}
    edit_manifest(line_set, rounds=rounds, usage=usage, random_return_per_agent=0.125)
    status, output, _ = run(capsys, "show", line_set)
    assert status == 0
    lines = [line.split() for line in output.splitlines()]
    assert ["1", "8", "5", "88%", "-1.50", "14.50", "14.50", "9.25", "30", "4"] in lines
    assert ["2", *"-" * 9] in lines
    assert "  [Walk, mark_3, agent_0]" in output
    assert "Plan 0 (round 1, candidate 0): 14.50 per agent where it was selected, 14.50 on fresh episodes" in output
    assert "(21.00, 8.00)" in output
    # Eight episodes of eight steps.
    assert "8 episodes, 64 environment steps" in output
    assert "8 calls, 60 tokens read, 4 written, cost 0.25; 1,000.0 tokens per thousand demonstration steps" in output
    assert "0.12 per agent" in output


def test_a_set_is_shown_for_programs(capsys: Any, line_set: Path) -> None:
    status, output, _ = run(capsys, "show", line_set, "--json")
    told = json.loads(output)
    assert status == 0
    assert told["manifest"] == read_json(line_set)
    assert (told["requests"], told["demonstration_steps"], told["tokens_per_thousand_steps"]) == (3, 64, None)


def test_an_attempt_is_listed_shown_and_verified(capsys: Any, tmp_path: Path) -> None:
    write_set(tmp_path / "set", Line(), [], 0, 0.0, transcript_of([]))
    assert "No plan: nothing that the model wrote" in run(capsys, "show", tmp_path / "set")[1]
    status, output, _ = run(capsys, "verify", tmp_path / "set", LINE)
    assert status == 0
    assert "an attempt without an executable plan" in output
    assert "holds no plan" in refused(capsys, "export", tmp_path / "set", "--out", tmp_path / "a.npz", LINE)


def test_what_a_manifest_says_cannot_steer_the_terminal(capsys: Any, line_set: Path) -> None:
    plans = read_json(line_set)["plans"]
    triples = [[CONTROL, "mark_3", CONTROL]]
    put_file(line_set, TRANSCRIPT, transcript_of([{**plans[0], "triples": triples}]))
    edit_manifest(
        line_set,
        model=CONTROL,
        provider=CONTROL,
        created=CONTROL,
        prompt={"name": CONTROL, "sha256": CONTROL},
        settings={CONTROL: CONTROL, "nested": [CONTROL]},
        rounds=[{"index": CONTROL, "mean_return": CONTROL}],
        plans=[{**plans[0], "triples": triples}],
        environment={"name": f"probes:{CONTROL}", "config": {CONTROL: CONTROL}},
    )
    for command in (["show", line_set], ["show", line_set, "--json"], ["list", line_set]):
        status, output, _ = run(capsys, *command)
        assert status == 0
        assert "red" in output
        assert output.replace("\n", "").isprintable()
    assert "\\x1b" in refused(capsys, "verify", line_set, LINE)
    assert "--environment" in refused(capsys, "verify", line_set)


# --- replay and export ------------------------------------------------------------------------------------------


def test_a_plan_is_drawn_from_its_own_initial_state(capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    plans = [
        entry([("Act", "action_2", "agent_0"), ("Act", "action_0", "agent_1")], 0, None, episode=state)
        for state in (1, 3)
    ]
    told = [{"episode": p["episode"], "triples": p["triples"], "return_per_agent": None} for p in plans]
    transcript = json.dumps({"round": 1, "candidate": 0, "plans": told}).encode()
    more = {"kind": "episodes", "states_seed": 11}
    folder = write_set(tmp_path / "set", DrawnWalk(), plans, 2, 0.0, transcript, **more)
    frames: list[Any] = []
    draw = DrawnWalk.draw
    monkeypatch.setattr(DrawnWalk, "draw", lambda self, axes, state: (frames.append(state), draw(self, axes, state)))
    out = tmp_path / "a.gif"
    command = ["replay", folder, "--out", out, "--plan", 1, "--episodes", 2, "--environment=tiny_run:DrawnWalk"]
    assert run(capsys, *command)[0] == 0
    recorded = load_demonstrations(str(folder), DrawnWalk()).episodes()
    expected = [*np.asarray(recorded.observation[1, :, :, 0])]
    assert [int(state.step) for state in frames] == [0, 1, 2, 3, 4] * 2
    np.testing.assert_allclose([state.position for state in frames[:4]], expected, rtol=1e-6)
    np.testing.assert_allclose(frames[5].position, frames[0].position)
    with Image.open(out) as image:
        assert image.n_frames > 1
    assert "has 2 plans" in refused(capsys, *command[:4], "--plan", 2, "--force", "--environment=tiny_run:DrawnWalk")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gif", "set"]


def test_an_environment_without_a_picture_cannot_be_replayed(capsys: Any, line_set: Path, tmp_path: Path) -> None:
    assert "cannot be drawn; give it a method draw(axes, state)" in refused(
        capsys, "replay", line_set, "--out", tmp_path / "a.gif", LINE
    )


def test_a_packaged_set_is_replayed_by_its_name(capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(animation, "MAX_FRAMES", 5)
    frames, draw = [], animation._Canvas.draw
    monkeypatch.setattr(animation._Canvas, "draw", lambda self, *args: (frames.append(args[1]), draw(self, *args))[1])
    assert run(capsys, "replay", "mpe_spread/qwen2.5-coder-1.5b", "--out", tmp_path / "a.gif", "--episodes", 1)[0] == 0
    with Image.open(tmp_path / "a.gif") as image:
        assert 1 < image.n_frames <= 5
    assert frames[0].instructions == ["MoveTo nearest_unclaimed_landmark"] * 3
    assert frames[-1].step == 24
    assert all(frames[-1].returns < frames[1].returns)


def test_an_export_is_a_plain_archive(capsys: Any, line_set: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.npz"
    status, output, _ = run(capsys, "export", line_set, "--out", out, LINE)
    assert status == 0
    assert f"8 episodes, 64 steps in {out}" in output
    with np.load(out, allow_pickle=False) as archive:
        found = {name: archive[name] for name in archive.files}
    recorded = load_demonstrations(str(line_set), Line()).episodes()
    np.testing.assert_array_equal(found["observations"], recorded.observation)
    np.testing.assert_array_equal(found["actions"], recorded.action)
    np.testing.assert_array_equal(found["taken_actions"], recorded.taken)
    np.testing.assert_array_equal(found["rewards"], recorded.reward)
    np.testing.assert_array_equal(found["action_masks"], recorded.available_actions)
    np.testing.assert_array_equal(found["episode_lengths"], [8] * 8)
    np.testing.assert_array_equal(found["agents"], ["agent_0", "agent_1"])
    assert not found["terminations"].any()
    np.testing.assert_array_equal(found["truncations"].nonzero()[1], [7] * 16)
    metadata = json.loads(str(found["metadata"]))
    assert metadata["set"]["sha256"] == read_json(line_set)["sha256"]
    assert metadata["execution"]["seed"] == 3
    assert {array.dtype.kind for array in found.values()} <= set("fibU")


def test_an_export_tells_ends_by_termination_from_others(capsys: Any, tmp_path: Path) -> None:
    plans = [entry([("Act", "action_0", f"agent_{i}") for i in range(3)], 0, None)]
    write_set(tmp_path / "set", OneByOne(max_steps=2), plans, 1, 0.0, transcript_of(plans))
    out = tmp_path / "a.npz"
    assert run(capsys, "export", tmp_path / "set", "--out", out, "--environment=probes:OneByOne")[0] == 0
    with np.load(out, allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["terminations"][0], [[True, False, False], [False, True, False]])
        np.testing.assert_array_equal(archive["truncations"][0], [[False, False, False], [False, False, True]])
        np.testing.assert_array_equal(archive["active"][0], [[True, True, True], [False, True, True]])


def test_exports_are_executed_and_filtered_as_asked(capsys: Any, line_set: Path, tmp_path: Path) -> None:
    how = ["--episodes", 64, "--noise", 1.0, "--seed", 2, "--plans", 1, "--quantile", 0.5, "--number", 7]
    out = tmp_path / "a.npz"
    assert run(capsys, "export", line_set, "--out", out, LINE, *how, "--per-agent")[0] == 0
    expected = load_demonstrations(str(line_set), Line()).episodes(
        64, 1.0, 2, plans=1, quantile=0.5, number=7, per_agent=True
    )
    with np.load(out, allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["observations"], expected.observation)
        assert json.loads(str(archive["metadata"]))["execution"] == {
            "episodes": 64,
            "noise": 1.0,
            "noise_from": 0.0,
            "seed": 2,
            "plans": 1,
            "quantile": 0.5,
            "per_agent": True,
            "number": 7,
        }


@pytest.mark.parametrize(("command", "suffix"), [("replay", "gif"), ("export", "npz")])
def test_what_is_there_is_not_written_over(
    capsys: Any, line_set: Path, tmp_path: Path, command: str, suffix: str
) -> None:
    out = tmp_path / f"a.{suffix}"
    out.write_text("mine")
    assert "exists already" in refused(capsys, command, line_set, "--out", out, LINE)
    assert out.read_text() == "mine"
    assert f"must end in .{suffix}" in refused(capsys, command, line_set, "--out", tmp_path / "a.txt", LINE)
    long = tmp_path / ("x" * 300 + f".{suffix}")
    assert "cannot be looked up" in refused(capsys, command, line_set, "--out", long, LINE)
    missing = tmp_path / "no" / f"a.{suffix}"
    assert "there is no folder" in refused(capsys, command, line_set, "--out", missing, LINE)


def test_force_writes_it_over_and_an_error_of_the_disk_is_told(capsys: Any, line_set: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.npz"
    out.write_text("old")
    assert run(capsys, "export", line_set, "--out", out, "--force", LINE)[0] == 0
    assert out.read_bytes()[:2] == b"PK"
    (tmp_path / "b.npz.partial").mkdir()
    assert "cannot be written: Is a directory" in refused(capsys, "export", line_set, "--out", tmp_path / "b.npz", LINE)


# --- the command line itself ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [[], ["no-such"], ["export", "set"], ["replay", "set", "--out", "a.gif", "--episodes", "0"]]
    + [["export", "set", "--out", "a.npz", name, value] for name, value in (("--noise", "2"), ("--quantile", "nan"))],
)
def test_a_wrong_command_line_is_refused(capsys: Any, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m leed_jax.demonstrations" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["list", "show", "verify", "replay", "export"])
def test_help_has_an_example(capsys: Any, command: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"python -m leed_jax.demonstrations {command} " in capsys.readouterr().out


def test_nobody_reads_on_and_no_traceback_comes_of_it(line_set: Path) -> None:
    edit_manifest(line_set, settings={f"setting_{i}": "x" * 50 for i in range(5000)})
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-m", "leed_jax.demonstrations", "show", str(line_set), "--json"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 141
    process.stderr.close()


def test_a_terminal_that_lacks_letters_and_a_full_disk(line_set: Path) -> None:
    edit_manifest(line_set, model="modèle")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "leed_jax.demonstrations", "show", str(line_set)]
    shown = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert "mod\\xe8le" in shown.stdout
    if os.path.exists("/dev/full"):  # noqa: PTH110
        with open("/dev/full", "w") as full:  # noqa: PTH123
            done = subprocess.run(command, check=False, stdout=full, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")


def test_a_folder_is_found_wherever_it_is(monkeypatch: Any, tmp_path: Path) -> None:
    write_line_set(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    assert find_set("set") == Path("set")
    assert [tuple(t) for t in read_json(find_set("set"))["plans"][0]["triples"]] == BEST
