"""`python -m leed_jax.compare`: how runs are named, what is printed, and what is refused."""

import json
import subprocess
import sys

import pytest
from processes import environment
from run_folders import rising, write_run

from leed_jax.cli.compare import main


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Three seeds of one variant in two directories, and two seeds of another."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "a", final=(1.0, 2.0), curve=rising([1.0, 2.0]))
    write_run(tmp_path / "b", final=(3.0,), seeds=[2], curve=rising([3.0]))
    write_run(tmp_path / "c", algorithm="leed", final=(4.0, 4.0), curve=rising([4.0, 4.0]))
    return tmp_path


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def seeds_of(output):
    """Label and number of seeds of each row of the first table."""
    rows = [line.split("|")[1:3] for line in output.split("\n\n")[0].splitlines()[2:]]
    return [(label.strip(), int(seeds)) for label, seeds in rows]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["a", "b", "c"], [("ippo", 3), ("leed", 2)]),
        (["c", "b", "a"], [("leed", 2), ("ippo", 3)]),
        (["a", "c", "b"], [("ippo", 3), ("leed", 2)]),
        (["base=a,b", "ours=c"], [("base", 3), ("ours", 2)]),
        (["ours=c", "base=a", "base=b"], [("ours", 2), ("base", 3)]),
        (["c", "base=a,b"], [("leed", 2), ("base", 3)]),
        (["c", "a", "b", "--labels", "y", "x", "x"], [("y", 2), ("x", 3)]),
        (["c", "a", "b", "--labels", "one", "two", "three"], [("one", 2), ("two", 2), ("three", 1)]),
    ],
)
def test_how_runs_are_named(runs, capsys, arguments, expected):
    status, output, errors = run(capsys, *arguments)
    assert (status, errors) == (0, "")
    assert seeds_of(output) == expected
    assert not (runs / "comparison.md").exists()


def test_a_directory_with_an_equals_sign_is_a_directory(runs, capsys):
    write_run(runs / "x=1,2", algorithm="vdn")
    assert seeds_of(run(capsys, "x=1,2", "a")[1]) == [("vdn", 2), ("ippo", 2)]
    assert seeds_of(run(capsys, "q=x=1,2")[1]) == [("q", 2)]


def test_everything_is_written_and_can_be_written_again(runs, capsys):
    for _ in range(2):
        options = ["--out", "out", "--threshold", "3", "--reference", "leed", "--title", "Walks"]
        status, output, errors = run(capsys, "a", "b", "c", *options)
        assert (status, errors) == (0, "")
    assert output.startswith("# Walks\n")
    assert output.endswith("out: comparison.md, comparison.png, comparison.json\n")
    numbers = json.loads((runs / "out" / "comparison.json").read_text())
    assert (numbers["threshold"], numbers["reference"], numbers["threshold_source"]) == (3.0, "leed", "given")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "nowhere"], "nowhere: there is no such directory"),
        (["a", "a"], "seed 0 is in a and in a"),
        (["x=a,c"], "x: a and c differ in more than their seeds: algorithm is"),
        (["x="], "x=: write it as LABEL=RUN"),
        (["=a"], "=a: write it as LABEL=RUN"),
        (["x=a,,b"], "write it as LABEL=RUN"),
        (["ippo=c", "a"], "label ippo is that of a run without one"),
        (["a", "c", "--labels", "x"], "gives 1 labels to 2 runs"),
        (["x=a", "c", "--labels", "y", "z"], "write no RUN as LABEL=RUN"),
        (["a", "--reference", "leed"], "reference leed: there is no such variant"),
        (["a", "--threshold", "inf"], "The threshold is inf"),
        (["a", "--out", "a/config.yaml/x"], "cannot be written"),
    ],
)
def test_what_is_refused_in_one_line(runs, capsys, arguments, message):
    status, output, errors = run(capsys, *arguments)
    assert (status, output) == (2, "")
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert message in errors


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for word in ("LABEL=RUN,RUN", "--out", "--threshold", "--reference", "--labels", "--title", "comparison.json"):
        assert word in shown
    assert max(map(len, shown.splitlines())) <= 120


def test_a_reader_that_leaves_is_no_error(runs):
    command = [sys.executable, "-m", "leed_jax.compare", "a", "b", "c"]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141
