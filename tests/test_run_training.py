"""Whole runs in this process: what is written, and that it is right."""

import dataclasses
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event
from tiny_run import DrawnWalk, record_walk, rows_of, settings

from leed_jax.cli.run import main
from leed_jax.config import from_dictionary
from leed_jax.config.compose import compose_config
from leed_jax.learning import algorithms
from leed_jax.report.directory import RunDirectory
from leed_jax.report.metrics import WALL_CLOCK_FIELDS
from leed_jax.training import runner
from leed_jax.training.program import Program, Schedule, prepare, seed_keys
from leed_jax.training.runner import start_run

CHUNKS, STEPS_PER_CHUNK, SEEDS, AGENTS = 4, 64, 2, 2


def events_of(directory):
    """The scalars in TensorBoard's files, as {tag: {step: value}}."""
    found = {}
    for path in sorted((directory / "tensorboard").glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of algorithm=leed with two seeds, what it printed, and how often its training was traced."""
    folder = tmp_path_factory.mktemp("finished")
    record_walk(folder / "set", DrawnWalk())
    traces = []
    build = algorithms.make_train_chunk

    def counting(*args):
        train_chunk = build(*args)

        def traced(*inputs):
            traces.append(1)
            return train_chunk(*inputs)

        return traced

    changes = {"algorithm": "leed", "num_seeds": SEEDS, "seed": 3, "demonstrations__path": folder / "set"}
    config = compose_config(settings(folder / "run", "DrawnWalk", **changes))
    console = Console(record=True, width=80, file=io.StringIO())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(algorithms, "make_train_chunk", counting)
        outcome = start_run(config, console)
    return outcome, console.file.getvalue(), len(traces)


def test_training_is_traced_once_for_all_chunks(finished):
    assert finished[2] == 1


def test_all_files_are_there(finished):
    names = {path.name for path in finished[0].directory.iterdir()}
    assert names == {
        "checkpoints",
        "config.yaml",
        "learning_curve.png",
        "lock",
        "metrics.jsonl",
        "rollout.gif",
        "summary.json",
        "tensorboard",
    }


def test_the_recorded_configuration_is_the_whole_one(finished):
    directory = finished[0].directory
    values = OmegaConf.to_container(OmegaConf.load(directory / "config.yaml"))
    config = from_dictionary(values)
    assert (config.algorithm, config.seed, config.num_seeds, config.ppo.epochs) == ("leed", 3, 2, 2)
    assert config.ppo.learning_rate == 1e-3
    assert config.out == str(directory)


def test_metrics_have_a_line_for_each_chunk_and_seed(finished):
    rows = rows_of(finished[0].directory)
    assert [(row["chunk"], row["seed"]) for row in rows] == [(c, s) for c in range(1, CHUNKS + 1) for s in (3, 4)]
    assert [row["env_steps"] for row in rows[::SEEDS]] == [STEPS_PER_CHUNK * c for c in range(1, CHUNKS + 1)]
    for row in rows:
        assert row["return_per_agent"] == pytest.approx(np.mean(row["return_of_agents"]), rel=1e-12)
        assert isinstance(row["greedy_return_per_agent"], float)
        assert len(row["expert_weight"]) == len(row["expert_loss"]) == len(row["value_loss"]) == AGENTS
    walls = [row["wall_s"] for row in rows]
    assert walls == sorted(walls)
    assert rows[0]["return_of_agents"] != rows[1]["return_of_agents"]


def test_the_expert_weight_falls_to_nothing_over_half_the_run(finished):
    weights = [row["expert_weight"] for row in rows_of(finished[0].directory)[::SEEDS]]
    # Two updates a chunk, eight in all: 1 - u / 4 at u = 0..3, averaged in pairs.
    assert weights == [[0.875, 0.875], [0.375, 0.375], [0.0, 0.0], [0.0, 0.0]]


def test_tensorboard_has_the_same_numbers(finished):
    rows, events = rows_of(finished[0].directory), events_of(finished[0].directory)
    for seed in (3, 4):
        expected = {row["env_steps"]: row["return_per_agent"] for row in rows if row["seed"] == seed}
        assert events[f"return_per_agent/seed{seed}"] == pytest.approx(expected, rel=1e-6)
        second = {row["env_steps"]: row["return_of_agents"][1] for row in rows if row["seed"] == seed}
        assert events[f"return_of_agents/agent_1/seed{seed}"] == pytest.approx(second, rel=1e-6)
    assert set(events["expert_weight/seed3"]) == {STEPS_PER_CHUNK * c for c in range(1, CHUNKS + 1)}


def test_the_summary_says_what_came_of_it(finished):
    outcome, _, _ = finished
    summary = json.loads((outcome.directory / "summary.json").read_text())
    assert summary == outcome.summary
    assert summary["algorithm"] == "leed"
    assert summary["env_steps"] == CHUNKS * STEPS_PER_CHUNK
    assert summary["seeds"] == [3, 4]
    assert len(summary["return_per_agent"]) == len(summary["stochastic_return_per_agent"]) == SEEDS
    np.testing.assert_allclose(np.mean(summary["return_of_agents"], axis=1), summary["return_per_agent"], rtol=1e-6)
    assert summary["wall_s"] == rows_of(outcome.directory)[-1]["wall_s"]
    assert summary["compile_s"] > 0
    assert summary["preparation_s"] > 0
    # Nobody timed how this set was made.
    assert summary["recording_s"] is None
    assert summary["steps_per_s"] == pytest.approx(SEEDS * summary["env_steps"] / summary["wall_s"], rel=1e-3)
    assert set(summary["versions"]) == {"leed_jax", "jax"}
    # Going left without end, from |x| <= 3 at the start: sum over t=1..4 of E|x - t| with x uniform.
    expected = -sum((9 + t**2) / 6 if t <= 3 else t for t in range(1, 5))
    assert summary["instructions_return_per_agent"] == pytest.approx(expected, abs=0.5)
    assert summary["random_return_per_agent"] == pytest.approx(-7.3, abs=0.7)


def test_the_pictures_are_pictures(finished):
    directory = finished[0].directory
    with Image.open(directory / "learning_curve.png") as image:
        assert min(image.size) > 400
    with Image.open(directory / "rollout.gif") as image:
        # Four episodes of five states each; identical neighbours are merged.
        assert 4 <= image.n_frames <= 20
    assert (directory / "rollout.gif").stat().st_size < 1_000_000


def test_the_last_thing_printed_is_the_table(finished):
    printed = finished[1].splitlines()
    assert printed[0].startswith("Training leed on DrawnWalk: 2 agents, 2 seeds, 256 steps in 4 chunks")
    assert printed[-1].startswith("└")
    text = finished[1]
    for label in ("greedy policy, 2 seeds", "instructions alone", "random actions", "steps/s"):
        assert label in text
    assert max(map(len, printed)) <= 80 or "Training" in max(printed, key=len)


def test_a_finished_run_is_not_continued(finished, capsys):
    directory = finished[0].directory
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    assert main([f"resume={directory}"]) == 2
    error = capsys.readouterr().err
    assert "has finished" in error
    assert "summary.json" in error
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before


def test_a_directory_in_use_is_refused(finished, tmp_path, capsys):
    config = compose_config(settings(tmp_path / "run"))
    with RunDirectory.create(tmp_path / "run", config):
        assert main([f"resume={tmp_path / 'run'}"]) == 2
        assert "in use by another process" in capsys.readouterr().err
        assert main(settings(tmp_path / "run")) == 2
        assert "holds a run already" in capsys.readouterr().err


@pytest.fixture(scope="module")
def alone(finished):
    """Algorithm leed with the second seed of the run above, by itself."""
    changes = {"algorithm": "leed", "seed": 4, "demonstrations__path": finished[0].directory.parent / "set"}
    setup = prepare(compose_config(settings("", "DrawnWalk", **changes)))
    program = Program(setup)
    program.compile()
    return setup, program


def test_each_seed_learns_as_it_would_alone(finished, alone):
    """Up to the order of sums in float32."""
    outcome, program = finished[0], alone[1]
    state = program.init()
    for _ in range(CHUNKS):
        state, metrics = program.step(state)
    last = rows_of(outcome.directory)[-1]
    assert last["seed"] == 4
    np.testing.assert_allclose(metrics["return_of_agents"][0], last["return_of_agents"], rtol=1e-4)
    for ours, theirs in zip(jax.tree.leaves(state.parameters), jax.tree.leaves(outcome.state.parameters), strict=True):
        np.testing.assert_allclose(ours[0], theirs[1], atol=1e-4)


def test_seed_keys_count_up_to_the_largest_seed():
    data = jax.random.key_data(seed_keys(2**31 - 1, 2))
    np.testing.assert_array_equal(data, [[0, 2**31 - 1], [0, 2**31]])
    np.testing.assert_array_equal(jax.random.key_data(seed_keys(5, 1))[0], jax.random.key_data(jax.random.key(5)))


def test_the_algorithms_differ_by_the_expert_weight_alone(alone):
    """With weight 0 from the start leed is ippo, parameter by parameter; with its own weight it is not."""
    setup, leed = alone
    without = prepare(dataclasses.replace(setup.config, algorithm="ippo"))
    assert setup.experts is not None
    assert without.experts is None
    assert without.demonstrations is not None
    hparams = setup.algorithm.hparams
    assert float(hparams.expert.weight) == 1.0
    ippo = Program(without)
    ippo.compile()
    expected, metrics = ippo.step(ippo.init())
    np.testing.assert_array_equal(metrics["expert_weight"], np.zeros((1, AGENTS)))
    weighted, _ = leed.step(leed.init())
    with pytest.MonkeyPatch.context() as patch:
        weightless = dataclasses.replace(hparams, expert=dataclasses.replace(hparams.expert, weight=jnp.float32(0.0)))
        patch.setattr(leed, "_inputs", (setup.experts, weightless))
        unweighted, _ = leed.step(leed.init())
    for ours, theirs in zip(jax.tree.leaves(unweighted.parameters), jax.tree.leaves(expected.parameters), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    actors = [jax.tree.leaves(state.parameters.actor) for state in (weighted, expected)]
    assert max(float(np.max(np.abs(a - b))) for a, b in zip(*actors, strict=True)) > 1e-3


def test_ippo_trains_without_usable_demonstrations(tmp_path):
    setup = prepare(compose_config(settings("", demonstrations__path=tmp_path / "none")))
    assert setup.demonstrations is None
    assert "will not be reported" in setup.notes[0]


@pytest.mark.parametrize(
    ("total", "per_chunk", "expected"),
    [
        (256, 2, (4, 2, 64)),
        (287, 2, (4, 2, 64)),
        (160, 10, (1, 5, 160)),
        (480, 10, (3, 5, 160)),
        (608, 2, (19, 1, 32)),
        (9632, 10, (30, 10, 320)),
        (32, 10, (1, 1, 32)),
    ],
)
def test_chunks_are_equal_and_never_more_than_asked_for(total, per_chunk, expected):
    config = compose_config(settings("", total_steps=total, updates_per_chunk=per_chunk))
    schedule = Schedule.of(config)
    assert (schedule.chunks, schedule.updates_per_chunk, schedule.steps_per_chunk) == expected
    assert 0.96 * total - 32 < schedule.steps <= total


def test_a_demonstration_folder_is_recorded_as_an_absolute_path(finished, monkeypatch):
    folder = finished[0].directory.parent
    monkeypatch.chdir(folder)
    config = compose_config(settings("", "DrawnWalk", algorithm="leed", demonstrations__path="set"))
    assert runner._portable(config).demonstrations.path == str(folder / "set")
    assert config.demonstrations.path == "set"


def test_every_field_of_the_environment_is_recorded(finished):
    recorded = OmegaConf.load(finished[0].directory / "config.yaml").env
    assert set(recorded) == {"name", "num_agents", "max_steps", "start"}


def test_wall_clock_fields_are_fields(finished):
    assert set(WALL_CLOCK_FIELDS) < set(rows_of(finished[0].directory)[0])
