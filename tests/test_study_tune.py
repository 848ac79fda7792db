"""Studies of kind=tune: the same budget for all, and a record of everything that was tried."""

import errno
import json
import math
import os
import re
import signal
import time

import pytest
from rich.console import Console
from study_files import TUNE, write
from tiny_run import python

from leed_jax.cli.study import main as run_study
from leed_jax.errors import ConfigurationError, RunDirectoryError
from leed_jax.files import lock_folder
from leed_jax.studies import tuning
from leed_jax.studies.study import read_study
from leed_jax.studies.tuning import TRIED, Trained, ranked, run_tuning, train_and_score

LEARNING_RATES = [1e-4, 1e-2]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write(tmp_path_factory.mktemp("study") / "tune.yaml", TUNE)


class StandIn:
    """Trains nothing: the score is the share of the first learning rate in the second one, and may be given.

    Attributes:
        asked: learning rates and first seeds that it was asked for.
    """

    def __init__(self, stop_at=None, returns=None):
        self.asked, self._stop_at, self._returns = [], stop_at, returns or {}

    def __call__(self, configs):
        if len(self.asked) == self._stop_at:
            raise KeyboardInterrupt
        rate = configs[0].ppo.learning_rate
        self.asked.append((rate, configs[0].ppo.discount))
        seeds = sum(config.num_seeds for config in configs)
        returns = self._returns.get(rate, tuple(-rate + index for index in range(seeds)))
        return Trained(returns, 256, {"leed_jax": "9.9"}, {"platform": "abacus", "kind": "beads", "count": 2})


def tune(study, out, train, *arguments):
    assert run_tuning(read_study(study, [f"out={out}", *arguments]), Console(quiet=True), train) == 0
    return json.loads((out / "tuning.json").read_text())


def page_of(out):
    """The page, without the spaces that line up its columns."""
    return re.sub(r" +", " ", (out / "tuning.md").read_text())


def rows_of(out):
    return [json.loads(line) for line in (out / TRIED).read_text().splitlines()]


# --- the record -------------------------------------------------------------------------------------------------


def test_everything_that_was_tried_is_recorded(study, tmp_path):
    record = tune(study, tmp_path, StandIn(), "num_envs=6")
    assert record["title"] == "How fast"
    assert record["question"] == "Which learning rate?"
    assert record["command"] == f"python -m leed_jax.study {study} out={tmp_path} num_envs=6"
    assert record["budget"] == {"settings": 2, "seeds": [100, 101], "total_steps": 256, "evaluation_episodes": 256}
    assert "num_envs=6" in record["settings"].split()
    assert "2 x beads (abacus), with leed_jax 9.9" in record["machine"][0]
    grid = record["variants"]["grid"]
    assert grid["settings"] == {"ppo.discount": 0.9}
    # The stand-in's returns are -rate and 1 - rate.
    assert [row["changes"] for row in grid["tried"]] == [{"ppo.learning_rate": rate} for rate in LEARNING_RATES]
    assert [row["score"] for row in grid["tried"]] == pytest.approx([0.5 - rate for rate in LEARNING_RATES])
    assert [row["returns"] for row in grid["tried"]] == [[-rate, 1 - rate] for rate in LEARNING_RATES]
    assert grid["winner"] == 0
    assert grid["winning_settings"] == "ppo.discount=0.9 ppo.learning_rate=0.0001"
    drawn = record["variants"]["drawn"]
    assert drawn["ranges"] == {"ppo.learning_rate": {"log": [0.001, 0.1]}}
    assert drawn["tried"][0]["changes"] == {}
    assert all(len(row["returns"]) == 2 for variant in record["variants"].values() for row in variant["tried"])


def test_the_page_shows_winners_first_and_how_to_get_them(study, tmp_path):
    tune(study, tmp_path, StandIn())
    page = page_of(tmp_path)
    assert page.startswith("# How fast\n\nWhich learning rate?\n\n```sh\npython -m leed_jax.study ")
    assert "Every variant had 2 settings of 256 environment steps, with the seeds 100, 101." in page
    assert "| grid | 0.500 | `ppo.discount=0.9 ppo.learning_rate=0.0001` |" in page
    assert "| 0.500 | -0.000, 1.000 | 0.0001 |\n| 0.490 | -0.010, 0.990 | 0.01 |" in page
    assert "Drawn from: `ppo.learning_rate` 0.001 to 0.1 (log)." in page


def test_each_row_has_the_whole_configuration(study, tmp_path):
    tune(study, tmp_path, StandIn())
    rows = rows_of(tmp_path)
    assert [(row["variant"], row["number"]) for row in rows] == [("drawn", 0), ("grid", 0), ("drawn", 1), ("grid", 1)]
    assert [row["config"]["ppo"]["learning_rate"] for row in rows if row["variant"] == "grid"] == LEARNING_RATES
    assert {row["config"]["ppo"]["discount"] for row in rows if row["variant"] == "grid"} == {0.9}
    assert all(row["seconds"] >= 0 for row in rows)


def test_what_is_not_finite_is_worse_than_any_number(study, tmp_path):
    record = tune(study, tmp_path, StandIn(returns={1e-4: (None, 5.0), 1e-2: (-1e9, -1e9)}))
    grid = record["variants"]["grid"]
    assert [row["score"] for row in grid["tried"]] == [None, -1e9]
    assert grid["winner"] == 1
    assert "| not finite | not finite, 5.000 | 0.0001 |" in page_of(tmp_path)
    assert [row["number"] for row in ranked([{"score": None, "number": 0}, {"score": None, "number": 1}])] == [0, 1]


def test_training_gives_each_seed_a_greedy_return(study, tmp_path):
    record = tune(study, tmp_path, train_and_score, "variants=grid")
    slow, fast = record["variants"]["grid"]["tried"]
    for row in (slow, fast):
        assert row["env_steps"] == 256
        # Episodes of four steps, each at most some steps away from the origin.
        assert all(-40 < value < 0 for value in row["returns"])
        assert row["score"] == pytest.approx(sum(row["returns"]) / 2)
    assert slow["returns"] != fast["returns"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", TRIED, "tuning.json", "tuning.md"]


# --- stopped and killed -----------------------------------------------------------------------------------------


def test_an_interrupted_study_goes_on_with_what_is_missing(study, tmp_path):
    whole = tune(study, tmp_path / "whole", StandIn())
    out = tmp_path / "out"
    first = StandIn(stop_at=3)
    with pytest.raises(KeyboardInterrupt):
        tune(study, out, first)
    assert len(rows_of(out)) == len(first.asked) == 3
    assert not (out / "tuning.json").exists()
    # What a kill in the middle of a line leaves.
    with (out / TRIED).open("a") as file:
        file.write('{"variant": "grid", "numb')
    rest = StandIn()
    record = tune(study, out, rest)
    assert rest.asked == [(1e-2, 0.9)]
    assert len(rows_of(out)) == 4
    for variants in (whole["variants"], record["variants"]):
        for row in (row for variant in variants.values() for row in variant["tried"]):
            del row["seconds"]
    assert record["variants"] == whole["variants"]
    again = StandIn()
    tune(study, out, again)
    assert again.asked == []


def test_a_study_can_be_done_variant_by_variant(study, tmp_path):
    assert list(tune(study, tmp_path, StandIn(), "variants=grid")["variants"]) == ["grid"]
    rest = StandIn()
    assert list(tune(study, tmp_path, rest)["variants"]) == ["drawn", "grid"]
    assert len(rest.asked) == 2


KILLED = """
import sys, time
from test_study_tune import StandIn, tune
from pathlib import Path
stand_in = StandIn()
def slow(configs):
    if len(stand_in.asked) == 2:
        print("two done", flush=True)
        time.sleep(100)
    return stand_in(configs)
tune(sys.argv[1], Path(sys.argv[2]), slow)
"""


def test_kill_loses_the_setting_that_was_being_tried_and_no_other(study, tmp_path):
    out = tmp_path / "out"
    process = python(["-c", KILLED, study, str(out)], tmp_path)
    assert process.stdout.readline() == "two done\n", process.communicate()
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert len(rows_of(out)) == 2
    rest = StandIn()
    tune(study, out, rest)
    assert len(rest.asked) == 2


@pytest.mark.parametrize(
    ("number", "status", "message"),
    [(signal.SIGINT, 128 + signal.SIGINT, "Interrupted.\n"), (signal.SIGTERM, -signal.SIGTERM, "")],
)
def test_signals_stop_a_study_without_a_traceback(study, tmp_path, number, status, message):
    # A process that is started in the background may have been told to ignore Ctrl-C.
    listening = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code = (
        listening
        + "import sys; from leed_jax.cli.common import leave; from leed_jax.cli.study import main as run_study; "
    )
    arguments = [study, f"out={tmp_path / 'out'}", "total_steps=640000"]
    process = python(["-c", code + "leave(lambda: run_study(sys.argv[1:]))", *arguments], tmp_path)
    first = process.stdout.readline()
    assert first.startswith("4 settings, 0 of them tried already."), process.communicate()
    time.sleep(0.5)
    process.send_signal(number)
    _, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (status, message)


# --- what is refused --------------------------------------------------------------------------------------------


def test_settings_that_have_changed_are_not_mixed_in(study, tmp_path):
    tune(study, tmp_path, StandIn())
    before = (tmp_path / TRIED).read_bytes()
    stand_in = StandIn()
    with pytest.raises(RunDirectoryError, match=r"setting 0 of drawn .*num_envs=4 there, num_envs=8 asked for"):
        tune(study, tmp_path, stand_in, "num_envs=8")
    with pytest.raises(RunDirectoryError, match=r"seeds \[100, 101\] there, \[100, 101, 102\] asked for"):
        tune(study, tmp_path, stand_in, "seeds.count=3")
    with pytest.raises(RunDirectoryError, match=r"setting 1 of drawn .*ppo\.learning_rate=.* there"):
        tune(study, tmp_path, stand_in, "sampling_seed=1")
    assert stand_in.asked == []
    assert (tmp_path / TRIED).read_bytes() == before


@pytest.fixture(scope="module")
def trials(study):
    return tuning.plan_trials(read_study(study, []))[1]


@pytest.fixture(scope="module")
def lines(study, tmp_path_factory):
    """What a finished study has recorded."""
    out = tmp_path_factory.mktemp("tried")
    tune(study, out, StandIn())
    return (out / TRIED).read_text().splitlines(keepends=True)


def with_second_line(folder, lines, text):
    """The same record with another second line."""
    (folder / TRIED).write_text("".join([lines[0], text + "\n", *lines[2:]]))
    return folder / TRIED


def test_a_damaged_line_stops_the_study(study, lines, tmp_path):
    with_second_line(tmp_path, lines, "[]")
    with pytest.raises(RunDirectoryError, match=r"tried\.jsonl, line 2 is damaged"):
        tune(study, tmp_path, StandIn())


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"returns": "a text"}, "returns is 'a text'"),
        ({"returns": ["a text", 1.0]}, ".*'a text'"),
        ({"returns": [1.0]}, "it has 1 returns of 2 seeds"),
        ({"score": [1.0]}, "score is .1.0."),
        ({"score": math.nan}, "NaN is not finite"),
        ({"env_steps": 1.5}, "env_steps is 1.5"),
        ({"number": True}, "number is True"),
        ({"seconds": None}, "seconds is None"),
        ({"versions": [1]}, "versions is .1."),
        ({"device": "cpu"}, "device is 'cpu'"),
        ({"changes": None}, "changes is None"),
    ],
)
def test_what_is_wrong_with_a_line_is_named(trials, lines, tmp_path, change, fault):
    path = with_second_line(tmp_path, lines, json.dumps({**json.loads(lines[1]), **change}))
    with pytest.raises(RunDirectoryError, match=rf"tried\.jsonl, line 2 is damaged \({fault}"):
        tuning.read_rows(path, trials)


def test_whatever_a_line_lacks_is_named(trials, lines, tmp_path):
    whole = json.loads(lines[1])
    for name in whole:
        rest = {key: value for key, value in whole.items() if key != name}
        path = with_second_line(tmp_path, lines, json.dumps(rest))
        with pytest.raises(RunDirectoryError, match=rf"line 2 is damaged \(it lacks '{name}'\)"):
            tuning.read_rows(path, trials)
    path = with_second_line(tmp_path, lines, "[" * 10**5)
    with pytest.raises(RunDirectoryError, match="line 2 is damaged"):
        tuning.read_rows(path, trials)


def test_two_processes_do_not_write_to_one_folder(study, tmp_path):
    lock = lock_folder(tmp_path)
    try:
        with pytest.raises(RunDirectoryError, match="in use by another process"):
            tune(study, tmp_path, StandIn())
    finally:
        os.close(lock)
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        tune(study, tmp_path / "file", StandIn())


@pytest.mark.parametrize("name", [TRIED, "tuning.json", "tuning.md"])
def test_a_result_that_cannot_be_written_is_named(name, study, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(RunDirectoryError, match=rf"{name} cannot be written: Is a directory\. .* is kept"):
        tune(study, tmp_path, StandIn())


def test_a_full_disk_is_named(study, tmp_path, monkeypatch):
    def full(path, line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tuning, "append_line", full)
    with pytest.raises(RunDirectoryError, match=rf"{TRIED} cannot be written: No space left on device"):
        tune(study, tmp_path, StandIn())


def test_errors_in_training_name_the_setting(study, tmp_path):
    def broken(configs):
        raise ConfigurationError("Out of memory.")

    with pytest.raises(ConfigurationError, match=r"drawn, setting 0 \(\{\}\): Out of memory\."):
        tune(study, tmp_path, broken)


def test_unequal_budgets_are_an_error_before_anything_is_written(tmp_path, capsys):
    name = write(tmp_path / "tune.yaml", TUNE, budget=3)
    assert run_study([name, f"out={tmp_path / 'out'}"]) == 2
    assert "variants.grid has 2 settings, and the budget of every variant is 3" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
