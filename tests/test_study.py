"""Study files: read, checked, planned; nothing is trained here."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from study_files import COMPARE, SETTINGS, TUNE, write
from tiny_run import Walk, record_walk

from leed_jax.cli import study as command
from leed_jax.cli.study import main as run_study
from leed_jax.config import from_dictionary, to_dictionary
from leed_jax.config.compose import compose_config
from leed_jax.demonstrations import find_set
from leed_jax.errors import ConfigurationError, DemonstrationError
from leed_jax.studies import comparison, tuning
from leed_jax.studies.comparison import differences, plan_runs
from leed_jax.studies.pages import time_left
from leed_jax.studies.search import Range, draw, read_search
from leed_jax.studies.settings import as_text, folder_name
from leed_jax.studies.study import read_study, study_names
from leed_jax.studies.tuning import plan_trials

RESULTS = Path(__file__).parents[1] / "docs" / "results"
ONE_POINT = {"key": "env.num_agents", "values": [2]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "study.yaml"


# --- what comes with leed_jax -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", study_names())
def test_every_study_can_be_planned(name, monkeypatch):
    # Some name demonstration sets that are recorded later.
    for module in (comparison, tuning):
        monkeypatch.setattr(module, "check_inputs", lambda study, configs: None)
    request = read_study(name, [])
    if request.file.kind == "tune":
        # All that are listed, and one that is drawn.
        budget = 1 + max(len(values["list"]) for values in request.file.variants.values())
        request = read_study(name, [f"budget={budget}"])
        searches, trials = plan_trials(request)
        assert len(trials) == budget * len(searches) == budget * len(request.file.variants)
        assert min(trials[0].seeds) >= 100
        return
    runs = plan_runs(request)
    groups = -(-request.file.seeds.count // (request.file.seeds_per_run or request.file.seeds.count))
    assert len(runs) == groups * len(request.file.variants) * max(1, len(request.file.points.values))
    assert len({run.path for run in runs}) == len(runs)


def test_no_study_is_missing():
    expected = {"sample_efficiency", "long_baselines", "few_steps", "agents", "bad_experts", "tune_mpe_spread"}
    expected |= {f"ablation_{name}" for name in ("term", "weight", "source", "demonstrations", "quality")}
    assert expected <= set(study_names())


def test_the_whole_budget_of_the_tuning_study_has_no_setting_twice():
    file = read_study("tune_mpe_spread", []).file
    for label, values in file.variants.items():
        search = read_search(values, label, label, file.budget, file.sampling_seed)
        assert len(search.tried) == file.budget
        assert search.tried[0] == {}


def test_the_published_settings_are_drawn_again():
    published = json.loads((RESULTS / "tune_mpe_spread" / "tuning.json").read_text())
    file = read_study("tune_mpe_spread", []).file
    for label, variant in published["variants"].items():
        budget, seed = published["budget"]["settings"], published["sampling_seed"]
        search = read_search(file.variants[label], label, label, budget, seed)
        assert list(search.tried) == [row["changes"] for row in variant["tried"]]


def test_help_and_list_show_all_studies(capsys):
    for arguments in (["--help"], ["list"]):
        assert run_study(arguments) == 0
        shown = capsys.readouterr().out
        assert all(f" {name} " in shown for name in study_names())
    assert "seeds_per_run" in command.help_text()
    assert run_study([]) == 2


# --- settings and their order -----------------------------------------------------------------------------------


def test_of_settings_with_one_key_the_last_layer_stands(path):
    points = {"key": "env.num_agents", "values": [2, 3], "settings": {3: {"num_envs": 16, "ppo.epochs": 5}}}
    variants = {"one": {"ppo.epochs": 6, "rollout_steps": 4}, "two": {}}
    request = read_study(write(path, COMPARE, points=points, variants=variants, reference="one"), ["total_steps=1e4"])
    runs = {(run.point, run.variant): run.config for run in plan_runs(request)}
    two, three = "num_agents-2", "num_agents-3"
    assert [runs[p, v].env["num_agents"] for p in (two, three) for v in ("one", "two")] == [2, 2, 3, 3]
    assert [runs[p, v].num_envs for p in (two, three) for v in ("one", "two")] == [4, 4, 16, 16]
    assert [runs[p, v].ppo.epochs for p in (two, three) for v in ("one", "two")] == [6, 2, 6, 5]
    assert [runs[two, v].rollout_steps for v in ("one", "two")] == [4, 8]
    assert {config.total_steps for config in runs.values()} == {10_000}


def test_the_command_line_is_stronger_than_a_point(path):
    points = {"key": "env.num_agents", "values": [2], "settings": {2: {"num_envs": 16}}}
    request = read_study(write(path, COMPARE, points=points), ["num_envs=6"])
    assert {run.config.num_envs for run in plan_runs(request)} == {6}


def test_seeds_are_cut_into_groups_with_folders_of_their_own(path, tmp_path):
    name = write(path, COMPARE, seeds={"first": 5, "count": 10}, seeds_per_run=4)
    runs = plan_runs(read_study(name, [f"out={tmp_path}/out", "variants=fast"]))
    assert [(run.config.seed, run.config.num_seeds) for run in runs] == [(5, 4), (9, 4), (13, 2)]
    assert [str(run.path.relative_to(tmp_path)) for run in runs] == [
        "out/fast/seeds5-8",
        "out/fast/seeds9-12",
        "out/fast/seeds13-14",
    ]
    assert runs[0].label == "fast, seeds 5 to 8"
    assert runs[0].config.out == str(runs[0].path)


def test_points_and_variants_can_be_chosen(path):
    name = write(path, COMPARE, points={"key": "env.num_agents", "label": "walkers", "values": [1, 2, 3]})
    request = read_study(name, ["points=3,1", "variants=[fast]"])
    assert [(run.point, run.variant) for run in plan_runs(request)] == [("walkers-1", "fast"), ("walkers-3", "fast")]
    assert request.partial
    # The reference is not among them.
    assert request.file.reference is None
    assert not read_study(name, []).partial


def test_whole_numbers_of_a_study_may_be_written_as_powers(path):
    request = read_study(write(path, COMPARE), ["seeds.count=1e1", "seeds.first=2e2", "seeds_per_run=5"])
    assert [(config.seed, config.num_seeds) for config in request.compose("")] == [(200, 5), (205, 5)]


def test_points_may_be_lists(path):
    values, settings = [[8, 8], [4]], {"[8,8]": {"num_envs": 16}, "[4]": {"num_envs": 8}}
    points = {"key": "network.hidden_sizes", "values": values, "settings": settings}
    name = write(path, COMPARE, points=points)
    runs = [run for run in plan_runs(read_study(name, [])) if run.variant == "slow"]
    assert [list(run.config.network.hidden_sizes) for run in runs] == values
    assert [run.config.num_envs for run in runs] == [16, 8]
    assert [run.point for run in runs] == ["hidden_sizes-8-8", "hidden_sizes-4"]
    for wanted, there in (("[8, 8]", [[8, 8]]), ("[4]", [[4]]), ("[[8,8],[4]]", values)):
        assert [point.value for point in read_study(name, [f"points={wanted}"]).points] == there


def test_a_point_is_chosen_as_it_is_written(path):
    name = write(path, COMPARE, points={"key": "expert.per_agent", "values": [True, None, 1]})
    for text, value in (("true", True), ("null", None), ("1", 1)):
        assert [point.value for point in read_study(name, [f"points={text}"]).points] == [value]


def test_a_label_with_a_comma_can_be_chosen_as_it_is_written(path):
    name = write(path, COMPARE, variants={"slow, or not": {}, "fast": {"ppo.epochs": 1}}, reference=None)
    assert read_study(name, ["variants=slow, or not"]).variants == ("slow, or not",)
    with pytest.raises(ConfigurationError, match='it has "slow, or not", fast'):
        read_study(name, ["variants=slow"])


def test_values_are_written_as_on_the_command_line():
    assert as_text(None) == "null"
    assert as_text(True) == "true"
    assert as_text([1, "x", [0.5, None]]) == "[1,x,[0.5,null]]"
    assert as_text(["1e3", "it's", ""]) == r"['1e3','it\'s','']"
    assert as_text(1e-5) == "1e-05"
    assert folder_name("LEED, from arrays!") == "LEED-from-arrays"


def test_folders_tell_signs_apart(path):
    points = {"key": "env.start", "label": "start (m)", "values": [-1, 1, -0.5, 0.5]}
    found = [point.name for point in read_study(write(path, COMPARE, points=points), []).points]
    assert found == ["start-m-minus-1", "start-m-1", "start-m-minus-0.5", "start-m-0.5"]
    assert [folder_name(value) for value in ([-1, 1], [1, -1], 1e-5)] == ["minus-1-1", "1-minus-1", "1e-05"]
    assert folder_name("half-good, from-1 to 2-3") == "half-good-from-1-to-2-3"


@pytest.mark.parametrize("text", ["null", "1_000", "true", "it's", "a,b", "", ".5", "a/b:c", "../x", "日本", "a\\'b\\"])
def test_texts_come_as_they_stand_in_the_file(text, path):
    settings = {**SETTINGS, "llm": {"model": text}}
    runs = plan_runs(read_study(write(path, COMPARE, settings=settings), []))
    assert {run.config.llm.model for run in runs} == {text}
    assert compose_config([f"env.tag={as_text(text)}", "env.name=a:B"]).env["tag"] == text


def test_the_command_is_recorded_so_that_a_shell_takes_it(path):
    request = read_study(write(path, COMPARE), ["network.hidden_sizes=[8, 8]"])
    assert request.command == f"python -m leed_jax.study {path} 'network.hidden_sizes=[8, 8]'"


# --- what is refused --------------------------------------------------------------------------------------------

REFUSED = [
    ({"title": None}, [], "title is missing"),
    ({"kind": "race"}, [], "kind=race: must be one of compare, tune"),
    ({"variants": {}}, [], "variants is empty"),
    ({"seed": {"first": 1}}, [], "seed is not a key of a study. Did you mean seeds?"),
    ({"seeds": {"count": 0}}, [], "seeds.count=0: must be at least 1"),
    ({"seeds": {"cuont": 2}}, [], "seeds.cuont is not a key of a study. Did you mean seeds.count?"),
    ({"seeds": {"count": "many"}}, [], "seeds.count"),
    ({"seeds": {"first": -1}}, [], "seeds.first=-1"),
    ({"seeds_per_run": 0}, [], "seeds_per_run=0"),
    ({"reference": "quick"}, [], "reference=quick: there is no such variant; it must be one of slow, fast"),
    ({"budget": 3}, [], "budget is for kind=tune"),
    ({"settings": {**SETTINGS, "num_seeds": 3}}, [], "settings.num_seeds: the seeds are those of the study"),
    (
        {"settings": {**SETTINGS, "num_envz": 3}},
        [],
        "num_envz is not a key of the configuration. Did you mean num_envs",
    ),
    ({"settings": {**SETTINGS, "ppo": {"epochs": 0}}}, [], "variants.slow: ppo.epochs=0: must be at least 1"),
    ({"settings": {**SETTINGS, "env.length": 1}}, [], "env.length: the environment has no such field"),
    ({"variants": {"a": {}, "b": {}}, "reference": "a"}, [], "variants a and b are the same configuration"),
    ({"variants": {"a": {}, "A": {"ppo.epochs": 1}}, "reference": "a"}, [], "the label 'A' is too much like 'a' for"),
    ({"variants": {"!": {}}, "reference": None}, [], "the label '!' has no letter from A to Z and no digit"),
    ({"variants": {"日本": {}}, "reference": None}, [], "the label '日本' has no letter from A to Z and no digit"),
    (
        {"points": {**ONE_POINT, "values": ["x", "X"]}},
        [],
        "the value 'X' is too much like 'x' for a folder of its own; leave",
    ),
    ({"points": {**ONE_POINT, "values": ["日本"]}}, [], "the value '日本' has no letter from A to Z"),
    ({"variants": {"slow": 3}}, [], "variants.slow must hold keys and values"),
    ({"variants": {"slow": {"ppo": {"epochs": 1}, "ppo.epochs": 2}}}, [], "variants.slow.ppo.epochs is there twice"),
    ({"variants": {"slow": {"out": "x"}}}, [], "variants.slow.out: the study chooses the folders"),
    ({"variants": {"slow": {"algorithm": "magic"}}}, [], "variants.slow: algorithm=magic: must be one of"),
    ({"points": {"key": "env.num_agents"}}, [], "points.key and points.values belong together"),
    ({"points": {"label": "x"}}, [], "points: points.key and points.values are missing"),
    ({"points": {**ONE_POINT, "settings": {3: {}}}}, [], "points.settings.3: there is no such point"),
    ({"points": {**ONE_POINT, "values": [{"a": 1}]}}, [], "points.values: {'a': 1} holds keys of its own"),
    ({"points": {**ONE_POINT, "values": [[2]], "settings": {"[3]": {}}}}, [], "points.settings.[3]: there is no such"),
    ({"points": {**ONE_POINT, "values": [[2], [3]]}}, ["points=[4]"], "the study has no 4; it has [2], [3]"),
    ({"points": {**ONE_POINT, "values": [2, 2]}}, [], "the value 2 is too much like 2"),
    ({"points": ONE_POINT}, ["env.num_agents=3"], "env.num_agents is what the points of study"),
    ({"points": ONE_POINT}, ["points=4"], "points=4: the study has no 4; it has 2"),
    ({}, ["points=4"], "points=4: the study has no 4; it has none"),
    ({}, ["variants=slower"], "variants=slower: the study has no slower; it has slow, fast"),
    ({}, ["ppo.learning_rate=1"], "ppo.learning_rate is what variant slow of study"),
    ({}, ["num_seeds=1"], "num_seeds: the seeds are those of the study"),
    ({}, ["variants=[]"], "variants=[]: that leaves nothing to run; name some of slow, fast"),
    ({"points": ONE_POINT}, ["points=[]"], "points=[]: that leaves nothing to run; name some of 2"),
    ({}, ["threshold=.nan"], "threshold=nan: must be a finite number"),
    ({}, ["threshold=.inf"], "threshold=inf: must be a finite number"),
    ({}, ["threshold=nan"], "threshold=nan: must be a finite number"),
    ({}, ["seeds.count=[1"], "seeds.count=[1: the value cannot be read"),
    ({"seeds": {"count": None}}, [], "seeds.count cannot be null"),
    ({}, ["seeds.count=1.5"], "seeds.count: Value '1.5'"),
    ({}, ["seeds.count=0"], "seeds.count=0"),
    ({}, ["total_steps"], "total_steps: settings are written key=value"),
    ({}, ["--force"], "--force: there is no such flag"),
]


@pytest.mark.parametrize(("changes", "arguments", "message"), REFUSED)
def test_what_cannot_work_is_refused(path, changes, arguments, message):
    name = write(path, COMPARE, **changes)
    with pytest.raises(ConfigurationError) as caught:
        plan_runs(read_study(name, arguments))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: [", "is not valid YAML"),
        ("- 1", "must hold keys and values"),
        ("3", "must hold keys and values"),
        ("title: a\nvariants: &x {a: *x}", "study.yaml refers to itself, or is nested too deeply"),
        ("title: '${'", "study.yaml cannot be read: title"),
        ("title: a\ntitle: b", "duplicate key title"),
        ("title: a\nvariants:\n", "variants is empty: give at least one"),
    ],
)
def test_files_that_are_no_studies_are_refused(path, text, message):
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read_study(str(path), [])


def test_an_unknown_study_is_an_error_with_the_nearest_name(capsys):
    assert run_study(["sample_eficiency"]) == 2
    assert "Did you mean sample_efficiency?" in capsys.readouterr().err
    assert run_study(["total_steps=5"]) == 2
    assert "the study comes first" in capsys.readouterr().err
    assert run_study(["list", "x=1"]) == 2
    assert "list takes no settings" in capsys.readouterr().err


def test_missing_demonstrations_are_found_before_anything_runs(path, tmp_path):
    variants = {"slow": {}, "leed": {"algorithm": "leed", "demonstrations.path": str(tmp_path / "nowhere")}}
    with pytest.raises(DemonstrationError, match=r"leed, seed 7: demonstrations\.path=.*nowhere"):
        plan_runs(read_study(write(path, COMPARE, variants=variants), []))


# --- whether recorded runs are the ones asked for ----------------------------------------------------------------


def small_config(**changes):
    return from_dictionary({"env": {"name": "tiny_run:Walk"}, **changes})


def test_differences_are_told_by_key():
    asked = small_config(num_envs=64, ppo={"epochs": 3})
    recorded = dataclasses.replace(
        small_config(out="elsewhere", experiment="walk"), env={"name": "tiny_run:Walk", "start": 2.0}
    )
    assert differences(recorded, recorded) == []
    assert differences(recorded, asked) == [
        "env.start=2.0 there, env.start=3.0 asked for",
        "num_envs=128 there, num_envs=64 asked for",
        "ppo.epochs=4 there, ppo.epochs=3 asked for",
    ]


@pytest.mark.parametrize(
    ("algorithm", "idle", "read"),
    [
        ("leed", {"q_learning": {"discount": 0.5}}, {"expert": {"entropy": 0.5}}),
        ("leed", {"generate": {"rounds": 9}, "llm": {"model": "x"}}, {"demonstrations": {"noise": 0.5}}),
        ("ippo", {"expert": {"entropy": 0.5}, "demonstrations": {"noise": 0.5}}, {"ppo": {"discount": 0.5}}),
        ("qmix", {"ppo": {"discount": 0.5}}, {"q_learning": {"discount": 0.5}}),
        ("qmix", {"expert": {"weight": 0.5}}, {"evaluation": {"episodes": 512}}),
    ],
)
def test_settings_that_an_algorithm_does_not_read_do_not_count(algorithm, idle, read):
    plain = small_config(algorithm=algorithm)
    assert differences(plain, small_config(algorithm=algorithm, **idle)) == []
    assert len(differences(plain, small_config(algorithm=algorithm, **read))) == 1


def test_a_model_that_is_asked_again_counts():
    model = {"provider": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "x"}
    plain, hot = (small_config(generate={"refresh_every": 10}, llm={**model, "temperature": t}) for t in (0.1, 0.9))
    assert differences(plain, hot) == ["llm.temperature=0.1 there, llm.temperature=0.9 asked for"]


def test_where_the_algorithm_differs_only_what_both_read_is_listed():
    found = differences(small_config(expert={"weight": 0.5}), small_config(algorithm="ippo", num_envs=64))
    assert found == ["algorithm=leed there, algorithm=ippo asked for", "num_envs=128 there, num_envs=64 asked for"]
    model = {"provider": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "x"}
    found = differences(small_config(), small_config(generate={"refresh_every": 10}, llm=model))
    assert found == ["generate.refresh_every=0 there, generate.refresh_every=10 asked for"]


def test_a_default_of_the_environment_is_the_same_written_out():
    assert differences(small_config(), small_config(env={"name": "tiny_run:Walk", "start": 3.0})) == []


def test_a_demonstration_set_is_the_same_by_name_and_by_folder(tmp_path):
    name = "mpe_spread/qwen2.5-coder-1.5b"
    by_name, by_folder = (small_config(demonstrations={"path": str(p)}) for p in (name, find_set(name).resolve()))
    assert differences(by_folder, by_name) == []
    other = small_config(demonstrations={"path": str(record_walk(tmp_path / "other", Walk()))})
    assert len(differences(other, by_name)) == 1
    assert to_dictionary(by_name)["demonstrations"]["path"] == name


# --- drawn settings ---------------------------------------------------------------------------------------------


def test_ranges_are_even_in_their_own_scale():
    assert Range("log", (1, 100)).at(0.5) == 10.0
    assert Range("linear", (1, 100)).at(0.5) == 50.5
    assert Range("linear", (0, 1)).at(1 / 3) == 0.3333
    assert [Range("choices", ("a", "b", "c")).at(share) for share in (0.0, 0.34, 0.99)] == ["a", "b", "c"]


def test_every_part_of_a_range_is_drawn_from_once():
    ranges = {"x": Range("linear", (0, 1)), "y": Range("log", (1e-4, 1.0)), "z": Range("choices", (1, 2, 3, 4))}
    drawn = draw(ranges, 16, [0])
    assert sorted(int(16 * entry["x"]) for entry in drawn) == list(range(16))
    assert sorted(int(4 * (np.log10(entry["y"]) + 4)) for entry in drawn) == list(range(16))
    assert sorted(entry["z"] for entry in drawn) == [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4
    assert drawn == draw(ranges, 16, [0])
    assert drawn != draw(ranges, 16, [1])
    # Keys are drawn independently.
    assert [int(16 * entry["x"]) for entry in drawn] != [int(4 * (np.log10(entry["y"]) + 4)) for entry in drawn]


def test_listed_settings_come_first_then_the_grid_then_drawn_ones():
    values = {
        "settings": {"algorithm": "ippo"},
        "list": [{"ppo": {"epochs": 9}}],
        "grid": {"ppo.epochs": [1, 2], "num_envs": [8, 16]},
        "sample": {"ppo": {"epochs": {"choices": [3]}}, "ppo.discount": {"linear": [0.5, 1]}},
    }
    search = read_search(values, "variants.a", "a", 7, 0)
    assert search.settings == {"algorithm": "ippo"}
    assert search.tried[:5] == (
        {"ppo.epochs": 9},
        {"ppo.epochs": 1, "num_envs": 8},
        {"ppo.epochs": 1, "num_envs": 16},
        {"ppo.epochs": 2, "num_envs": 8},
        {"ppo.epochs": 2, "num_envs": 16},
    )
    assert [entry["ppo.epochs"] for entry in search.tried[5:]] == [3, 3]
    assert all(0.5 <= entry["ppo.discount"] <= 1.0 for entry in search.tried[5:])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "must hold some of settings, list, grid, sample"),
        ({"smaple": {}}, "smaple: there is no such part (did you mean sample?)"),
        ({"list": {"x": 1}}, "list must be a list of settings"),
        ({"list": [{"x": 1}]}, "has 1 settings, and the budget of every variant is 2"),
        ({"list": [{"x": 1}, {"x": 2}, {"x": 3}]}, "has 3 settings, and the budget of every variant is 2"),
        ({"list": [{}, {"x": 1}, {"x": 2}], "sample": {"x": {"linear": [0, 1]}}}, "has 3 settings"),
        ({"list": [{"x": 1}, {"x": 1}]}, "has the setting {'x': 1} twice"),
        ({"list": [{"seed": 1}, {}]}, "list[0].seed: the seeds are those of the study"),
        ({"grid": {"x": 3}}, "grid.x must be a list of values"),
        ({"grid": {"x": []}}, "grid.x must be a list of values"),
        ({"sample": {"x": [0, 1]}}, "sample.x: write a range as"),
        ({"sample": {"x": {"sqrt": [0, 1]}}}, "sample.x.sqrt: write a range as"),
        ({"sample": [1]}, "sample must hold a range for each key"),
        ({"sample": {"x": {"linear": [1, 0]}}}, "sample.x.linear must be two numbers, the lower one first"),
        ({"sample": {"x": {"linear": [1]}}}, "sample.x.linear must be two numbers"),
        ({"sample": {"x": {"log": [0, 1]}}}, "the lower one more than 0"),
        ({"sample": {"x": {"linear": [0, 1], "log": [1, 2]}}}, "sample.x has two ranges"),
        ({"sample": {"x": {"choices": []}}}, "sample.x.choices must be a list"),
        ({"sample": {"x": {"choices": [1]}}}, "has the setting {'x': 1} twice"),
    ],
)
def test_searches_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ConfigurationError) as caught:
        read_search(values, "study s: variants.a", "a", 2, 0)
    assert message in str(caught.value)
    assert str(caught.value).startswith("study s: variants.a")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": None}, "budget is missing"),
        ({"budget": 0}, "budget=0"),
        ({"threshold": 1.0}, "threshold is for kind=compare"),
        ({"reference": "grid"}, "reference is for kind=compare"),
        ({"points": ONE_POINT}, "points is for kind=compare"),
        ({"sampling_seed": -1}, "sampling_seed=-1"),
    ],
)
def test_tuning_studies_have_keys_of_their_own(path, changes, message):
    with pytest.raises(ConfigurationError, match=message):
        read_study(write(path, TUNE, **changes), [])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"total_steps": 512}, "total_steps=512 in setting 1 of b, and 256 in setting 0 of a"),
        ({"evaluation.episodes": 512}, "evaluation.episodes=512 in setting 1 of b, and 256 in"),
        ({"evaluation.seed": 1}, "evaluation.seed=1 in setting 1 of b"),
        ({"rollout_steps": 3 * 16}, "setting 1 of b trains 192 steps of total_steps=256, and setting 0 of a 256"),
    ],
)
def test_unequal_tuning_budgets_are_refused(path, setting, message):
    variants = {"a": {"list": [{}, {"ppo.epochs": 3}]}, "b": {"list": [{}, setting]}}
    with pytest.raises(ConfigurationError, match=message):
        plan_trials(read_study(write(path, TUNE, variants=variants), ["variants=a"]))


def test_a_variant_with_fewer_settings_is_refused(path):
    variants = {"a": {"list": [{}, {"ppo.epochs": 3}]}, "b": {"list": [{}]}}
    with pytest.raises(ConfigurationError, match=r"variants\.b has 1 settings, and the budget of every variant is 2"):
        plan_trials(read_study(write(path, TUNE, variants=variants), []))


def test_tuning_seeds_are_not_those_of_reports_unless_asked_for(path):
    _, trials = plan_trials(read_study(write(path, TUNE), []))
    assert [trial.seeds for trial in trials] == [[100, 101]] * 4
    # The first setting of every variant comes before the second of any.
    assert [(trial.number, trial.variant) for trial in trials] == [(0, "drawn"), (0, "grid"), (1, "drawn"), (1, "grid")]
    assert [trial.changes["ppo.learning_rate"] for trial in trials if trial.variant == "grid"] == [1e-4, 1e-2]
    _, trials = plan_trials(read_study(str(path), ["seeds.first=3", "seeds_per_run=1"]))
    assert [config.seed for config in trials[0].configs] == [3, 4]


# --- time left --------------------------------------------------------------------------------------------------


def test_a_variant_goes_at_its_own_pace_where_it_is_known():
    assert time_left([], [("a", 10.0, 0.0)]) == "time left not known yet"
    done = [("a", 100.0, 100.0), ("a", 100.0, 200.0), ("b", 200.0, 900.0)]
    # a takes 300 s for 200 steps, b 900 s for 200, and others 1200 s for 400.
    assert time_left(done, [("a", 20.0, 0.0), ("b", 20.0, 0.0), ("c", 100.0, 0.0)]) == "about 7:00 left"
    assert time_left(done, [("b", 200.0, 0.0)]) == "about 15:00 left"
    assert time_left(done, []) == "about 0:00 left"
