"""Studies of kind=compare: trained, stopped, killed, gone on with, and written down."""

import dataclasses
import json
import shutil
import signal

import numpy as np
import pytest
from rich.console import Console
from study_files import COMPARE, write
from tiny_run import python, rows_of, wait_for_chunk

from leed_jax.cli.study import main as run_study
from leed_jax.errors import ConfigurationError, RunDirectoryError
from leed_jax.evaluation import Estimate, compare, compare_runs, read_run
from leed_jax.studies import comparison
from leed_jax.studies.comparison import run_comparison
from leed_jax.studies.pages import draw_points, estimates
from leed_jax.studies.study import Point, read_study

# One compiled program serves all of them.
POINTS = {"key": "ppo.discount", "label": "discount", "values": [0.5, 0.9]}
RUNS = [f"discount-{value}/{variant}/seeds7-7" for value in (0.5, 0.9) for variant in ("slow", "fast")]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write(tmp_path_factory.mktemp("study") / "walk.yaml", COMPARE, points=POINTS)


@pytest.fixture(scope="module")
def done(study, tmp_path_factory):
    """The folder of a study that was never stopped."""
    out = tmp_path_factory.mktemp("done") / "out"
    assert run_study([study, f"out={out}"]) == 0
    return out


@pytest.fixture
def copied(done, tmp_path):
    """A copy of it, to damage."""
    return shutil.copytree(done, tmp_path / "out")


def go_on(study, out, *arguments):
    """Run a study; what the comparison was called with."""
    called = []

    def comparer(groups, folder, **chosen):
        called.append((groups, folder, chosen))
        return compare(groups, folder, **chosen)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "compare", comparer)
        assert run_comparison(read_study(study, [f"out={out}", *arguments]), Console(quiet=True)) == 0
    return called


def summaries(out):
    return {name: json.loads((out / name / "summary.json").read_text()) for name in RUNS}


def results(out):
    """What came of each run, without what depends on the time of day."""
    return {name: (summary["return_per_agent"], summary["env_steps"]) for name, summary in summaries(out).items()}


# --- a study that is never stopped ------------------------------------------------------------------------------


def test_every_variant_is_trained_at_every_point(done):
    found = summaries(done)
    assert {tuple(summary["seeds"]) for summary in found.values()} == {(7,)}
    assert {summary["env_steps"] for summary in found.values()} == {256}
    # The settings differ, and so do the results.
    assert len({summary["return_per_agent"][0] for summary in found.values()}) == len(RUNS)


def test_the_page_has_question_command_versions_tables_and_pictures(done, study):
    page = (done / "README.md").read_text()
    assert page.startswith("# Slow and fast\n\nIs fast faster?\n\n```sh\npython -m leed_jax.study ")
    assert f"{study} out={done}" in page
    summary = summaries(done)[RUNS[0]]
    for text in ("seed 7", f"leed_jax {summary['versions']['leed_jax']}", "1 x cpu", "CPU cores, Python 3."):
        assert text in page
    for value in (0.5, 0.9):
        assert f"## discount = {value}\n" in page
        assert f"](discount-{value}/comparison.png)" in page
        assert (done / f"discount-{value}" / "comparison.png").stat().st_size > 1000
        runs = json.loads((done / f"discount-{value}" / "comparison.json").read_text())["variants"]
        assert [variant["label"] for variant in runs] == ["slow", "fast"]
    assert page.count("| slow ") >= 2
    assert "![Slow and fast](points.png)" in page
    assert (done / "points.png").read_bytes().startswith(b"\x89PNG")


def test_what_has_finished_is_not_trained_again(study, copied, monkeypatch):
    before = {name: (copied / name / "summary.json").stat().st_mtime_ns for name in RUNS}
    for name in ("start_run", "resume_run"):
        monkeypatch.setattr(comparison, name, None)
    called = go_on(study, copied, "threshold=-3.5")
    assert {name: (copied / name / "summary.json").stat().st_mtime_ns for name in RUNS} == before
    assert [folder for _, folder, _ in called] == [copied / "discount-0.5", copied / "discount-0.9"]
    groups, _, chosen = called[1]
    assert groups == {"slow": [copied / RUNS[2]], "fast": [copied / RUNS[3]]}
    assert chosen == {"threshold": -3.5, "reference": "slow", "title": "Slow and fast, discount-0.9"}


def test_a_part_of_a_study_says_so(study, copied):
    called = go_on(study, copied, "points=0.9", "variants=fast")
    assert [groups for groups, _, _ in called] == [{"fast": [copied / RUNS[3]]}]
    assert called[0][2]["reference"] is None
    assert "A part of the study alone: fast, discount-0.9." in (copied / "README.md").read_text()


def test_overrides_are_recorded_on_the_page(study, tmp_path):
    choice = ["points=0.9", "variants=slow", "total_steps=64", "ppo.gae_lambda=0.5"]
    go_on(study, tmp_path / "out", *choice)
    page = (tmp_path / "out" / "README.md").read_text()
    assert "Changed on the command line, for every run: `total_steps=64 ppo.gae_lambda=0.5`." in page
    run = tmp_path / "out" / RUNS[2]
    assert json.loads((run / "summary.json").read_text())["env_steps"] == 64
    assert "gae_lambda: 0.5\n" in (run / "config.yaml").read_text()


# --- stopped and killed -----------------------------------------------------------------------------------------


def test_killed_at_any_moment_a_study_goes_on_to_the_same_results(study, done, copied):
    claimed, begun, trained, missing = (copied / name for name in RUNS)
    # While its folder was claimed: a lock, and half a file.
    shutil.rmtree(claimed)
    claimed.mkdir()
    (claimed / "lock").touch()
    (claimed / "config.yaml.partial").write_text("env:\n  na")
    # Before its first checkpoint: half a line of metrics.
    for entry in begun.iterdir():
        if entry.name not in ("config.yaml", "lock"):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    (begun / "metrics.jsonl").write_text('{"chunk": 1, "se')
    # While it wrote its report; before it was started at all.
    (trained / "summary.json").unlink()
    shutil.rmtree(missing)
    go_on(study, copied)
    assert results(copied) == results(done)
    assert not list(copied.rglob("*.partial"))


def long_study(folder):
    return write(folder / "long.yaml", COMPARE, settings={**COMPARE["settings"], "total_steps": 64 * 60})


def started(folder, out):
    return python(["-m", "leed_jax.study", "long.yaml", f"out={out}"], folder)


def test_signals_stop_a_study_and_the_same_command_goes_on(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    long_study(folder)
    slow, fast = (folder / "out" / name / "seeds7-7" for name in ("slow", "fast"))
    process = started(folder, "out")
    wait_for_chunk(process, slow, 5)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (128 + signal.SIGINT, "")
    assert "2 runs, 0 of them finished already." in output
    assert "Run 1 of 2: slow, seed 7; time left not known yet." in output
    assert (
        "The study resumes when the same command is given again:\n  python -m leed_jax.study long.yaml out=out"
        in output
    )
    chunks = len(rows_of(slow))
    assert 5 <= chunks < 60
    assert not fast.exists()

    process = started(folder, "out")
    wait_for_chunk(process, fast, 5)
    process.kill()
    output, _ = process.communicate(timeout=60)
    assert f"Continuing after chunk {chunks} of 60." in output
    assert "Run 2 of 2: fast, seed 7; about " in output
    assert not (fast / "summary.json").exists()
    first = (slow / "summary.json").stat().st_mtime_ns

    process = started(folder, "out")
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    assert "2 runs, 1 of them finished already." in output
    assert "Run 2 of 2: fast, seed 7" in output
    assert "Run 1 of 2" not in output
    assert (slow / "summary.json").stat().st_mtime_ns == first
    for run in (slow, fast):
        assert [row["chunk"] for row in rows_of(run)] == list(range(1, 61))
    page = (folder / "out" / "README.md").read_text()
    assert "](comparison.png)" in page
    assert "points.png" not in page


# --- what is refused --------------------------------------------------------------------------------------------


def test_runs_with_other_settings_are_not_mixed_in(study, copied):
    shutil.rmtree(copied / RUNS[0])
    with pytest.raises(
        RunDirectoryError, match=r"discount-0\.5/fast/seeds7-7 holds .*rollout_steps=8 there, .*=16 asked"
    ):
        go_on(study, copied, "rollout_steps=16")
    # Not even what is missing was started.
    assert not (copied / RUNS[0]).exists()
    with pytest.raises(RunDirectoryError, match=r"env\.start=1\.0 asked for"):
        go_on(study, copied, "env.start=1.0", "points=0.9")


@pytest.mark.parametrize("name", ["README.md", "points.png"])
def test_a_result_that_cannot_be_written_is_named(name, study, copied):
    (copied / name).unlink()
    (copied / name).mkdir()
    with pytest.raises(RunDirectoryError, match=rf"{name} cannot be written: Is a directory\. .* is kept"):
        go_on(study, copied)


@pytest.mark.parametrize("place", ["out", "out/discount-0.9", "out/discount-0.9/slow"])
def test_a_file_in_the_way_is_found_before_the_first_run(place, study, tmp_path):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).touch()
    with pytest.raises(RunDirectoryError, match=rf"{place} is not a directory\. Choose another out"):
        go_on(study, tmp_path / "out")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / place]


def test_what_is_no_run_of_the_study_is_left_alone(study, copied):
    shutil.rmtree(copied / RUNS[0])
    (copied / RUNS[0]).mkdir()
    (copied / RUNS[0] / "thesis.tex").touch()
    with pytest.raises(RunDirectoryError, match=r"discount-0\.5, slow, seed 7: .* is not empty"):
        go_on(study, copied)
    assert (copied / RUNS[0] / "thesis.tex").exists()


@pytest.mark.parametrize("text", ["env: [", "env: &env {name: *env}"])
def test_a_damaged_configuration_is_named(text, study, copied):
    (copied / RUNS[3] / "config.yaml").write_text(text)
    with pytest.raises(RunDirectoryError, match=r"fast/seeds7-7/config\.yaml cannot be used"):
        go_on(study, copied)


def test_a_summary_that_lacks_what_the_page_tells_of_is_found_before_anything_runs(study, copied):
    shutil.rmtree(copied / RUNS[0])
    summary = json.loads((copied / RUNS[3] / "summary.json").read_text())
    (copied / RUNS[3] / "summary.json").write_text(json.dumps({**summary, "versions": None}))
    with pytest.raises(RunDirectoryError, match=r"fast/seeds7-7/summary\.json is damaged: .*versions is None"):
        go_on(study, copied)
    assert not (copied / RUNS[0]).exists()


def test_a_late_variant_that_cannot_work_stops_the_study_before_the_first_run(study, tmp_path):
    variants = {"slow": {}, "fast": {"ppo.minibatches": 3}}
    name = write(tmp_path / "broken.yaml", COMPARE, variants=variants)
    with pytest.raises(ConfigurationError, match=r"broken\.yaml, variants\.fast: ppo\.minibatches=3"):
        go_on(name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- the picture over points ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one(done):
    """A comparison, to change."""
    return compare_runs({"slow": [read_run(done / RUNS[0])], "fast": [read_run(done / RUNS[1])]})


def with_levels(found, *levels):
    """The same comparison with other final returns and steps to the threshold."""
    changed = [
        dataclasses.replace(
            variant,
            iqm=Estimate(level, level - 1, level + 1),
            steps_to_threshold=dataclasses.replace(variant.steps_to_threshold, iqm=Estimate(steps, steps, np.inf)),
        )
        for variant, (level, steps) in zip(found.variants, levels, strict=True)
    ]
    return dataclasses.replace(found, variants=tuple(changed))


def test_the_summary_has_the_statistics_of_each_point(one):
    found = [
        (Point(3, "", {}), with_levels(one, (-5.0, 100.0), (-7.0, np.inf))),
        (Point(5, "", {}), with_levels(one, (-6.0, 90.0), (0.0, 1.0))),
    ]
    np.testing.assert_array_equal(estimates(found, "slow", lambda v: v.iqm), [[-5, -6, -4], [-6, -7, -5]])
    reached = estimates(found, "fast", lambda v: v.steps_to_threshold.iqm)
    np.testing.assert_array_equal(reached, [[np.nan] * 3, [1, 1, np.nan]])


def test_the_summary_is_drawn_even_where_nothing_was_reached(one, tmp_path):
    found = [(Point(value, "", {}), with_levels(one, (-5.0, np.inf), (-7.0, np.inf))) for value in (3, "many")]
    draw_points(tmp_path / "points.png", "agents", found)
    assert (tmp_path / "points.png").read_bytes().startswith(b"\x89PNG")
