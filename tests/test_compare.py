"""Comparison of runs: what is pooled, what comes out, and what is refused."""

import dataclasses
import json
import math

import numpy as np
import pytest
from PIL import Image
from run_folders import rising, write_run

from leed_jax.errors import ConfigurationError, RunDirectoryError
from leed_jax.evaluation import as_json, compare, compare_runs, group, read_run, table, write_comparison

FOUR = [1.0, 2.0, 3.0, 100.0]


def read(*folders):
    return [read_run(folder) for folder in folders]


def write_pair(folder):
    """Two variants of four seeds each: greedy curves that end at FOUR, and at FOUR plus one."""
    better = [level + 1 for level in FOUR]
    return {
        "slow": [write_run(folder / "slow", final=FOUR, curve=rising(FOUR), greedy=rising(FOUR))],
        "quick": [write_run(folder / "quick", final=better, curve=rising(better), greedy=rising(better), chunk_s=4.0)],
    }


def test_final_returns_and_costs(tmp_path):
    result = compare(write_pair(tmp_path), tmp_path / "out")
    slow, quick = result.variants
    assert slow.final == tuple(FOUR)
    assert slow.iqm.value == 2.5
    assert slow.iqm.low < 2.5 < slow.iqm.high
    assert (slow.median, slow.lowest, slow.highest) == (2.5, 1.0, 100.0)
    assert (slow.env_steps, slow.seconds_per_seed, slow.compile_s) == (600, 60.0 / 4, 5.0)
    assert quick.seconds_per_seed == 24.0 / 4
    assert slow.improvement is None
    # Of the 16 pairs (2, 3, 4, 101) against (1, 2, 3, 100): wins 1, 2, 3, 4 and ties 1, 1, 0, 0.
    assert quick.improvement.value == (1 + 2 + 3 + 4 + 0.5 * 2) / 16
    assert (result.reference, result.threshold) == ("slow", pytest.approx(2.5 * 5 / 6))
    (note,) = result.notes
    assert note.startswith("With fewer than 5 seeds a 95 % interval is too narrow")


def test_steps_and_seconds_to_a_threshold(tmp_path):
    # Running means are level (t - 1) / 6 at chunk t >= 3: 100 reaches 2.5 at once, 3 at chunk 6, the others never.
    slow, quick = compare(write_pair(tmp_path), tmp_path / "out", threshold=2.5).variants
    assert slow.steps_to_threshold.of_seeds == (math.inf, math.inf, 600.0, 300.0)
    assert slow.seconds_to_threshold.of_seeds == (math.inf, math.inf, 15.0, 7.5)
    assert (slow.reached, slow.steps_to_threshold.median, slow.steps_to_threshold.iqm.value) == (2, math.inf, math.inf)
    # 2 never, 3 at chunk 6, 4 at chunk 5 with 16 / 6, 101 at chunk 3: the middle two are 500 and 600.
    assert quick.steps_to_threshold.of_seeds == (math.inf, 600.0, 500.0, 300.0)
    assert (quick.reached, quick.steps_to_threshold.median, quick.steps_to_threshold.iqm.value) == (3, 550.0, 550.0)
    assert quick.seconds_to_threshold.iqm.value == 5.5
    assert quick.steps_to_threshold.iqm.high == math.inf


def test_the_reference_sets_the_threshold(tmp_path):
    result = compare(write_pair(tmp_path), tmp_path / "out", reference="quick")
    # The last three points are 4, 5 and 6 sixths of what the curve ends at, 3.5 in the middle.
    assert (result.reference, result.threshold) == ("quick", pytest.approx(3.5 * 5 / 6))
    assert result.variants[1].improvement is None
    # Of the 16 pairs (1, 2, 3, 100) against (2, 3, 4, 101): wins 0, 0, 1, 3 and ties 0, 1, 1, 0.
    assert result.variants[0].improvement.value == (0 + 0 + 1 + 3 + 0.5 * 2) / 16
    assert "the level at which the learning curves of quick end" in table(result)


def test_without_greedy_curves_all_are_compared_while_training(tmp_path):
    curve = rising([6.0, 6.0])
    write_run(tmp_path / "old", final=(50.0, 50.0), curve=curve)
    write_run(tmp_path / "new", algorithm="leed", final=(50.0, 50.0), curve=curve, greedy=rising([60.0, 60.0]))
    result = compare_runs({"old": read(tmp_path / "old"), "new": read(tmp_path / "new")})
    assert {variant.curve.metric for variant in result.variants} == {"return_per_agent"}
    # The last three points are 4, 5 and 6.
    assert result.threshold == 5.0
    assert "learning curves of old end" in table(result)
    assert "returns while training" in result.notes[0]
    assert result.variants[1].steps_to_threshold.of_seeds == (600.0, 600.0)


@pytest.mark.parametrize("recorded", [True, False])
def test_a_variant_without_the_common_return_shows_the_other(recorded, tmp_path):
    nothing = [[None, None]] * 6
    write_run(tmp_path / "old", curve=rising([6.0, 6.0]))
    cloned = write_run(tmp_path / "cloned", algorithm="bc", curve=nothing, greedy=rising([9.0, 9.0]))
    if not recorded:
        text = (cloned / "metrics.jsonl").read_text()
        (cloned / "metrics.jsonl").write_text(text.replace(' "return_per_agent": null,', ""))
    result = compare_runs({"old": read(tmp_path / "old"), "cloned": read(tmp_path / "cloned")}, threshold=6.0)
    assert [variant.curve.metric for variant in result.variants] == ["return_per_agent", "greedy_return_per_agent"]
    assert "of cloned are of the greedy policy" in result.notes[0]
    assert [variant.reached for variant in result.variants] == [0, 2]


def test_runs_of_other_seeds_are_pooled(tmp_path):
    first = write_run(tmp_path / "a", final=FOUR[:2], curve=rising(FOUR[:2]), chunk_s=2.0)
    second = write_run(tmp_path / "b", final=FOUR[3:], seeds=[9], curve=rising(FOUR[3:]), chunk_s=3.0)
    (pooled,) = compare({"all": [first, second]}, tmp_path / "out", threshold=50.0).variants
    assert (pooled.seeds, pooled.final) == ((0, 1, 9), (1.0, 2.0, 100.0))
    # Two seeds side by side take 12 s together, and one 18 s.
    assert pooled.seconds_per_seed == (12.0 + 18.0) / 3
    assert pooled.seconds_to_threshold.of_seeds == (math.inf, math.inf, 12.0)
    assert pooled.steps_to_threshold.of_seeds[2] == 400.0
    np.testing.assert_allclose(pooled.curve.seconds, np.arange(1, 7) * (1.0 + 1.0 + 3.0) / 3)


def test_seeds_and_returns_go_together_in_any_order(tmp_path):
    run = read_run(write_run(tmp_path / "run", final=(30.0, 10.0), seeds=[3, 1], curve=[[30.0, 10.0]]))
    assert run.seeds == (1, 3)
    np.testing.assert_array_equal(run.final, [10.0, 30.0])
    np.testing.assert_array_equal(run.returns["return_per_agent"], [[10.0, 30.0]])


def test_curves_of_different_lengths(tmp_path):
    write_run(tmp_path / "short", curve=rising([5.0, 5.0], 3), final=(5.0, 5.0))
    write_run(tmp_path / "long", algorithm="leed", curve=rising([5.0, 5.0], 30), final=(5.0, 5.0))
    groups = {name: read(tmp_path / name) for name in ("short", "long")}
    short, long = compare_runs(groups, threshold=3.0).variants
    # The mean over three points of 5 t / 30 is 3 at t = 19.
    assert (short.steps_to_threshold.median, long.steps_to_threshold.median) == (300.0, 1900.0)
    assert (len(short.curve.steps), len(long.curve.steps)) == (3, 30)
    write_comparison(compare_runs(groups), tmp_path / "out")


def test_a_seed_that_diverged_counts_as_the_lowest(tmp_path):
    write_run(tmp_path / "run", final=(None, 3.0, 2.0, 1.0), curve=rising([1.0] * 4))
    result = compare_runs({"run": read(tmp_path / "run")}, threshold=0.5)
    (variant,) = result.variants
    assert (variant.lowest, variant.iqm.value) == (-math.inf, 1.5)
    assert any("1 of the seeds ended without a finite return" in note for note in result.notes)
    assert "not finite" in table(result)
    assert as_json(result)["variants"][0]["final"] == [None, 3.0, 2.0, 1.0]
    write_run(tmp_path / "all", final=(None, None), curve=rising([1.0] * 2), greedy=rising([1.0] * 2))
    with pytest.raises(ConfigurationError, match="learning curves of all have no finite end"):
        compare_runs({"all": read(tmp_path / "all")})


def test_a_single_seed_has_no_interval(tmp_path):
    write_run(tmp_path / "run", final=(3.0,), curve=rising([3.0]))
    result = compare_runs({"only": read(tmp_path / "run")})
    assert "There is no interval for a single seed: only." in result.notes
    row = next(line for line in table(result).splitlines() if line.startswith("| only"))
    assert [cell.strip() for cell in row.split("|")[2:4]] == ["1", "3.00"]


def test_what_is_written(tmp_path):
    variants = write_pair(tmp_path)
    result = compare(variants, tmp_path / "deep" / "out", title="Walk | tiny", threshold=2.5)
    out = tmp_path / "deep" / "out"
    assert sorted(path.name for path in out.iterdir()) == ["comparison.json", "comparison.md", "comparison.png"]
    written = (out / "comparison.md").read_text()
    assert written.startswith("# Walk \\| tiny\n")
    assert table(result) in written
    assert "![Learning curves](comparison.png)" in written
    numbers = json.loads((out / "comparison.json").read_text())
    assert numbers["variants"][0]["steps_to_threshold"]["of_seeds"] == [None, None, 600.0, 300.0]
    assert numbers["variants"][0]["runs"] == [str(variants["slow"][0])]
    assert numbers["variants"][1]["curve"]["steps"] == [100, 200, 300, 400, 500, 600]
    assert set(numbers) == {field.name for field in dataclasses.fields(result)}
    compare(variants, out)


def test_each_variants_end_is_a_level_that_the_others_pass(tmp_path):
    curves = {"slow": rising([3.0, 3.0, 3.0]), "quick": rising([6.0, 6.0, 6.0])}
    runs = {
        label: read(write_run(tmp_path / label, final=list(curve[-1]), curve=curve, greedy=curve))
        for label, curve in curves.items()
    }
    result = compare_runs(runs)
    # At chunk t the mean of the last three points is (t - 1) / 6 of the height: at the end 2.5, and 5.
    assert [(passing.label, passing.level) for passing in result.passing] == [
        ("slow", pytest.approx(2.5)),
        ("quick", pytest.approx(5.0)),
    ]
    assert [passing.steps for passing in result.passing] == [(600.0, 400.0), (math.inf, 600.0)]
    slow, quick = result.variants
    assert result.passing[0].seconds == (slow.seconds_to_threshold.median, quick.seconds_to_threshold.median)
    text = table(result)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    at = rows.index(["the end of", "return", "slow", "quick"])
    assert rows[at + 2 : at + 4] == [["slow", "2.50", "600", "400"], ["quick", "5.00", "-", "600"]]


def test_a_column_with_a_short_label_has_a_rule_under_it(tmp_path):
    # What never gets to a level has nothing but a hyphen in its column.
    curves = {"a": rising([3.0, 3.0]), "b": [[None, None]] * 6}
    runs = {label: read(write_run(tmp_path / label, curve=curve)) for label, curve in curves.items()}
    rules = [line for line in table(compare_runs(runs)).splitlines() if set(line) <= set("|:- ") and line]
    assert len(rules) == 3
    for cell in (cell.strip() for line in rules for cell in line.split("|")[1:-1]):
        assert len(cell) >= 3
        assert set(cell[:-1]) == {"-"}


def test_a_single_variant_passes_nobody(tmp_path):
    assert "the end of" not in table(compare_runs({"alone": read(write_run(tmp_path / "alone"))}, threshold=0.5))


def test_the_table_says_what_was_found(tmp_path):
    text = table(compare(write_pair(tmp_path), tmp_path / "out", threshold=2.5))
    lines = text[: text.index("the end of")].splitlines()
    rows = {line.split("|")[1].strip(): line for line in lines if line.startswith("|")}
    cells = [cell.strip() for cell in rows["slow"].split("|")[1:-1]]
    late = "not reached"
    assert cells == ["slow", "2 of 4", f"{late} (300, {late})", late, f"{late} (7.5, {late})", late, late]
    assert "550 (" in rows["quick"]
    assert "Up to a return per agent of 2.50, as asked for:" in text
    assert all(len(set(map(len, part.splitlines()))) == 1 for part in text.split("\n\n") if part.startswith("|"))


def test_what_comes_before_training_is_told_apart_and_counted_in_the_last_column(tmp_path):
    write_run(tmp_path / "a")
    before = {"preparation_s": 2.5, "recording_s": 1234.5}
    write_run(tmp_path / "b", algorithm="leed", summary=before)
    result = compare_runs({"a": read(tmp_path / "a"), "b": read(tmp_path / "b")}, threshold=0.5)
    without, with_demonstrations = result.variants
    assert [without.preparation_s, without.recording_s] == [None, None]
    assert [with_demonstrations.preparation_s, with_demonstrations.recording_s] == [2.5, 1234.5]
    assert without.everything_to_threshold.median == without.seconds_to_threshold.median + 5.0
    assert with_demonstrations.everything_to_threshold.median == without.everything_to_threshold.median + 1237.0
    rows = [line for line in table(result).splitlines() if line.startswith("| b")]
    assert "1,234.5" in rows[0]
    assert f"{with_demonstrations.everything_to_threshold.median:,.1f} |" in rows[1]


def write_agents(folder, label, returns):
    """Two seeds whose agents earn these returns."""
    mean = float(np.mean(returns))
    summary = {"return_of_agents": [returns, returns], "num_agents": len(returns)}
    curve = rising([mean, mean])
    return [write_run(folder / label, final=(mean, mean), curve=curve, summary=summary)]


def test_agents_are_shown_where_they_differ_clearly(tmp_path):
    alike = compare({"alike": write_agents(tmp_path, "alike", [8.0, 8.5])}, tmp_path / "out", threshold=1.0)
    assert alike.variants[0].agents == (8.0, 8.5)
    assert "each agent" not in table(alike)
    unlike = {label: write_agents(tmp_path, label, returns) for label, returns in UNLIKE.items()}
    result = compare(unlike, tmp_path / "out", threshold=1.0)
    assert rows_under("Return of each agent", table(result)) == [
        ["variant", "agent 0", "agent 1", "agent 2", "agent 3"],
        ["chased", "17.00", "17.00", "17.00", "-17.00"],
        ["quiet", "1.00", "1.00", "1.00", "1.00"],
    ]
    assert as_json(result)["variants"][0]["agents"] == [17.0, 17.0, 17.0, -17.0]


UNLIKE = {"chased": [17.0, 17.0, 17.0, -17.0], "quiet": [1.0, 1.0, 1.0, 1.0]}


def rows_under(heading, text):
    """The cells of the table under a heading."""
    lines = text[text.index(heading) :].split("\n\n")[1].splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in [lines[0], *lines[2:]]]


def test_of_many_agents_the_lowest_and_the_highest_are_shown(tmp_path):
    runs = write_agents(tmp_path, "many", [float(index) for index in range(50)])
    shown = rows_under("Of 50 agents", table(compare({"many": runs}, tmp_path / "out", threshold=1.0)))
    assert shown[1] == ["many", "0", "0.00", "49", "49.00"]


def test_agents_that_older_runs_did_not_record_are_left_out(tmp_path):
    variants = {"old": [write_run(tmp_path / "old", summary={"num_agents": 4})]}
    variants["new"] = write_agents(tmp_path, "new", UNLIKE["chased"])
    result = compare(variants, tmp_path / "out", threshold=1.0)
    assert result.variants[0].agents is None
    assert [row[0] for row in rows_under("Return of each agent", table(result))] == ["variant", "new"]


@pytest.mark.parametrize("count", [1, 2, 8, 11])
def test_pictures_of_any_number_of_variants(count, tmp_path):
    variants = {
        f"_{index} $x^ ": [write_run(tmp_path / str(index), curve=rising([5.0, 6.0], 1 + index), final=(5.0, 6.0))]
        for index in range(count)
    }
    out = tmp_path / "out"
    compare(variants, out, title="$ 5")
    with Image.open(out / "comparison.png") as image:
        assert min(image.size) > 500
        assert np.asarray(image.convert("L")).std() > 5


# --- automatic variants -----------------------------------------------------------------------------------------


def test_runs_are_grouped_by_their_settings(tmp_path):
    folders = [
        write_run(tmp_path / "a"),
        write_run(tmp_path / "b", seeds=[5, 6], settings={"out": "elsewhere", "llm.model": "x"}),
        write_run(tmp_path / "c", algorithm="leed"),
        write_run(tmp_path / "d", algorithm="leed", settings={"expert.adapt": "dtw"}),
        # The defaults, spelled out; and keys that this algorithm does not use.
        write_run(tmp_path / "e", seeds=[8, 9], settings={"ppo.epochs": 4, "expert.weight": 0.5}),
    ]
    found = group(read(*folders))
    assert {label: [run.path.name for run in runs] for label, runs in found.items()} == {
        "ippo": ["a", "b", "e"],
        "leed expert.adapt=none": ["c"],
        "leed expert.adapt=dtw": ["d"],
    }


def test_runs_that_differ_in_much_are_named_by_their_directory(tmp_path):
    many = {"ppo.epochs": 7, "num_envs": 9, "total_steps": 5, "network.activation": "relu"}
    found = group(read(write_run(tmp_path / "a"), write_run(tmp_path / "b", settings=many)))
    assert list(found) == [f"ippo {tmp_path / 'a'}", f"ippo {tmp_path / 'b'}"]


# --- what a reader should know, and what is refused -------------------------------------------------------------


def test_what_is_not_alike_is_noted(tmp_path):
    write_run(tmp_path / "a", final=(1.0,), curve=[[1.0]])
    write_run(tmp_path / "b", seeds=[4, 5], curve=[[1.0, 1.0]], summary={"versions": {"leed_jax": "0.2.0"}})
    gpu = {"platform": "gpu", "kind": "H100", "count": 1}
    more = {"evaluation.curve_episodes": 64, "env.size": 3}
    write_run(tmp_path / "c", algorithm="leed", settings=more, summary={"device": gpu})
    notes = compare_runs({"x": read(tmp_path / "a", tmp_path / "b"), "y": read(tmp_path / "c")}, threshold=1.0).notes
    for part in (
        "x pools runs of different versions of leed_jax: 0.1.0, 0.2.0.",
        "different numbers of seeds side by side (1, 2)",
        "on different devices",
        "different numbers of episodes after each chunk (0, 64)",
        "With fewer than 5 seeds a 95 % interval is too narrow",
        "Not every run has recorded env.size",
    ):
        assert any(part in note for note in notes), part


def test_points_at_different_distances_are_noted(tmp_path):
    returns = [4.0] * 5
    write_run(tmp_path / "often", final=returns, curve=rising(returns), steps=100)
    write_run(tmp_path / "seldom", algorithm="leed", final=returns, curve=rising(returns), steps=300)
    groups = {"often": read(tmp_path / "often"), "seldom": read(tmp_path / "seldom")}
    notes = compare_runs(groups, threshold=1.0).notes
    assert any("points at different distances (100, 300 environment steps)" in note for note in notes)
    assert not any("too narrow" in note for note in notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"env.num_agents": 3}}, "env.num_agents is 2 in the one and 3 in the other"),
        ({"settings": {"env.name": "tiny_run:Other"}}, "env.name is"),
        ({"settings": {"evaluation.seed": 7}}, "evaluation.seed is 1000003 in the one and 7"),
        ({"settings": {"evaluation.episodes": 300}}, "evaluation.episodes is 1024"),
        ({"summary": {"evaluation_episodes": 300}}, "evaluation_episodes is 1024"),
        ({"summary": {"num_agents": 3}}, "num_agents is 2"),
    ],
)
def test_runs_of_different_tasks_are_not_compared(changes, message, tmp_path):
    variants = {"a": [write_run(tmp_path / "a")], "b": [write_run(tmp_path / "b", algorithm="leed", **changes)]}
    with pytest.raises(RunDirectoryError, match=message) as caught:
        compare(variants, tmp_path / "out")
    assert str(tmp_path / "b") in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_seed_counts_once(tmp_path):
    first, second = write_run(tmp_path / "a"), write_run(tmp_path / "b", seeds=[1, 2])
    with pytest.raises(RunDirectoryError, match=r"seed 1 is in .*/a and in .*/b"):
        compare({"x": [first, second]}, tmp_path / "out")
    with pytest.raises(RunDirectoryError, match=r"seed 0 is in .*/a and in .*/a"):
        compare({"x": [first, first]}, tmp_path / "out")


def test_only_seeds_may_differ_in_a_variant(tmp_path):
    first = write_run(tmp_path / "a")
    other = write_run(tmp_path / "b", seeds=[5, 6], settings={"ppo.learning_rate": 0.5})
    with pytest.raises(RunDirectoryError, match=r"ppo\.learning_rate is 0\.001 and 0\.5\. Give them different labels"):
        compare({"x": [first, other]}, tmp_path / "out")
    longer = write_run(tmp_path / "c", seeds=[5, 6], curve=rising([1.0, 1.0], 5))
    with pytest.raises(RunDirectoryError, match="metrics at different environment steps"):
        compare({"x": [first, longer]}, tmp_path / "out")


@pytest.mark.parametrize(
    ("variants", "options", "message"),
    [
        ({}, {}, "nothing to compare"),
        ({"a": []}, {}, "a: there are no runs"),
        ({" ": ["a"]}, {}, "label is empty"),
        ({"a": ["a"]}, {"reference": "b"}, "reference b: there is no such variant. The labels are: a"),
        ({"a": ["a"]}, {"threshold": math.nan}, "threshold is nan"),
    ],
)
def test_questions_that_make_no_sense(variants, options, message, tmp_path):
    write_run(tmp_path / "a")
    paths = {label: [tmp_path / name for name in names] for label, names in variants.items()}
    with pytest.raises(ConfigurationError, match=message):
        compare(paths, tmp_path / "out", **options)


def test_a_reference_without_a_finite_end_sets_no_threshold(tmp_path):
    run = write_run(tmp_path / "a", curve=((None, None), (None, None)))
    with pytest.raises(ConfigurationError, match=r"learning curves of a have no finite end .* Give one by --threshold"):
        compare({"a": [run]}, tmp_path / "out")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"out=.*file/out cannot be written: .*Choose another folder"):
        compare({"a": [write_run(tmp_path / "a")]}, tmp_path / "file" / "out")


def edit_summary(folder, **changes):
    path = folder / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def remove(folder, name):
    path = folder / "summary.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != name}))


def edit_row(folder, **changes):
    path = folder / "metrics.jsonl"
    first, *rest = path.read_text().splitlines()
    row = {key: value for key, value in {**json.loads(first), **changes}.items() if value != "gone"}
    path.write_text("\n".join([json.dumps(row), *rest]) + "\n")


def cut(folder, lines):
    path = folder / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "summary.json").unlink(), "has not finished .*resume="),
        (lambda run: [(run / name).unlink() for name in ("summary.json", "config.yaml")], "is not a run directory"),
        (lambda run: (run / "summary.json").write_text("{"), r"summary\.json is damaged: "),
        (
            lambda run: (run / "summary.json").write_text("[" * 10**5),
            r"summary\.json is damaged: .*recursion",
        ),
        (lambda run: (run / "metrics.jsonl").write_text("[" * 10**5), "recursion"),
        (
            lambda run: (run / "config.yaml").write_text("env: &env {name: *env}"),
            r"config\.yaml is damaged: ",
        ),
        (lambda run: (run / "summary.json").write_text("{}"), r"summary\.json is damaged: it lacks 'algorithm'"),
        (lambda run: (run / "summary.json").write_text("[]"), r"summary\.json is damaged"),
        (
            lambda run: edit_summary(run, algorithm=["ippo"]),
            r"summary\.json is damaged: .*algorithm is \['ippo'\]",
        ),
        (lambda run: edit_summary(run, versions=None), r"summary\.json is damaged: .*versions is None"),
        (lambda run: edit_summary(run, device="cpu"), r"summary\.json is damaged: .*device is 'cpu'"),
        (lambda run: remove(run, "versions"), r"summary\.json is damaged: it lacks 'versions'"),
        (lambda run: remove(run, "device"), r"summary\.json is damaged: it lacks 'device'"),
        (lambda run: edit_summary(run, wall_s=None), "wall_s is None"),
        (lambda run: edit_summary(run, env_steps="many"), "env_steps is 'many'"),
        (lambda run: edit_summary(run, seeds=[0, 0]), r"seeds are \[0, 0\]"),
        (lambda run: edit_summary(run, seeds=[0, 0.5]), r"seeds are \[0, 0.5\]"),
        (lambda run: edit_summary(run, return_per_agent=[1.0]), "return_per_agent has 1 entries for 2 seeds"),
        (lambda run: edit_summary(run, return_per_agent=[1.0, "x"]), "'x'"),
        (lambda run: edit_summary(run, seeds=[5, 6]), r"metrics\.jsonl is damaged: .*every chunk of the seeds 5, 6"),
        (lambda run: edit_summary(run, env_steps=900), "it ends at 200 environment steps, and the run at 900"),
        (lambda run: (run / "metrics.jsonl").unlink(), r"metrics\.jsonl is damaged: No such file"),
        (lambda run: (run / "metrics.jsonl").write_text(""), "does not hold every chunk"),
        (lambda run: (run / "metrics.jsonl").write_bytes(b"\xff\n"), "is damaged: .*utf-8"),
        (lambda run: (run / "metrics.jsonl").write_text("{}\n"), "it lacks 'seed'"),
        (lambda run: cut(run, 2), "it ends at 100 environment steps"),
        (lambda run: cut(run, 3), "does not hold every chunk"),
        (lambda run: edit_row(run, seed="gone"), "it lacks 'seed'"),
        (lambda run: edit_row(run, wall_s=None), "wall_s is None"),
        (lambda run: edit_row(run, return_per_agent="x"), "return_per_agent is 'x'"),
        (lambda run: (run / "config.yaml").unlink(), r"config\.yaml is damaged: No such file"),
        (lambda run: (run / "config.yaml").write_text("a: ["), r"config\.yaml is damaged: "),
        (lambda run: edit_summary(run, return_per_agent=[1.0, 10**400]), r"summary\.json is damaged: .*too large"),
        (lambda run: (run / "config.yaml").write_text("{}"), r"config\.yaml is damaged: it names no environment"),
        (
            lambda run: (run / "config.yaml").write_text("{env: {name: x}, evaluation: {curve_episodes: lots}}"),
            r"config\.yaml is damaged: .*curve_episodes",
        ),
        (
            lambda run: (run / "config.yaml").write_text("{env: {name: x}, generate: {refresh_every: [1]}}"),
            r"config\.yaml is damaged: .*generate\.refresh_every",
        ),
        (
            lambda run: (run / "config.yaml").write_text("{env: {name: x}, ppo: 3}"),
            r"config\.yaml is damaged: .*ppo",
        ),
        (lambda run: (run / "config.yaml").write_text("- 1"), r"config\.yaml is damaged: it does not hold keys"),
    ],
)
def test_damaged_and_unfinished_runs_are_named(damage, message, tmp_path):
    run = write_run(tmp_path / "run")
    damage(run)
    with pytest.raises(RunDirectoryError, match=message) as caught:
        read_run(run)
    assert str(run) in str(caught.value)


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(RunDirectoryError, match="nowhere: there is no such directory"):
        read_run(tmp_path / "nowhere")
