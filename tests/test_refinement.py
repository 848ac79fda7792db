"""Better demonstrations during training: swapped in, recorded, restored, and no harm from a bad endpoint."""

import asyncio
import contextlib
import dataclasses
import functools
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from loopback import Act, Server, after, good, refusal, serving
from rich.console import Console
from tiny_run import Walk, record_walk, rows_of, settings

from leed_jax.config.compose import compose_config
from leed_jax.demonstrations import load_demonstrations
from leed_jax.errors import ConfigurationError, DemonstrationError
from leed_jax.training.program import Program, Setup, prepare
from leed_jax.training.refinement import FOLDER, LOG, Refinement
from leed_jax.training.runner import resume_run, start_run

STAY = [["Act", "action_1", "agent_0"], ["Act", "action_1", "agent_1"]]
LEFT = [["Act", "action_0", "agent_0"], ["Act", "action_0", "agent_1"]]


def reply(triples: Any) -> Act:
    return good(json.dumps({"idea": "go", "instructions": triples}))


@contextlib.contextmanager
def endpoint(*script: Act) -> Iterator[Server]:
    """Serve a script from another thread."""
    ready: list[Server] = []
    begun, end = threading.Event(), threading.Event()

    async def serve() -> None:
        async with serving(*script) as server:
            ready.append(server)
            begun.set()
            while not end.is_set():
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert begun.wait(20)
    try:
        yield ready[0]
    finally:
        end.set()
        thread.join()


SETTINGS = {"algorithm": "leed", "demonstrations__episodes": 8, "demonstrations__plans": 1}
ARRAYS = {"demonstrations__episodes": "null"}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_walk(tmp_path_factory.mktemp("recorded") / "set", Walk())


def config_for(recorded: Path, folder: Path, server: Server, **changes: Any) -> Any:
    values = {
        **SETTINGS,
        "demonstrations__path": recorded,
        "llm": "openai",
        "llm__base_url": server.base_url,
        "llm__model": "m",
        "llm__max_attempts": 1,
        "llm__timeout_s": 5,
        "generate__refresh_every": 2,
        "generate__candidates": 2,
        "generate__max_instructions": 2,
        "generate__selection_episodes": 8,
        "generate__report_episodes": 8,
        **changes,
    }
    return compose_config(settings(folder, **values))


@pytest.fixture(scope="module")
def compiled(recorded: Path) -> Any:
    """A function that gives a run and its compiled program, by the settings of its demonstrations."""

    @functools.cache
    def compiled(**changes: Any) -> tuple[Setup, Program]:
        config = compose_config(settings("", **{**SETTINGS, "demonstrations__path": recorded, **changes}))
        setup = prepare(config)
        program = Program(setup)
        program.compile()
        return setup, program

    return compiled


class Training:
    """A program and its refinement, chunk by chunk. The program is shared by tests; it begins with its own set."""

    def __init__(self, compiled: tuple[Setup, Program], config: Any, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.setup, self.program = dataclasses.replace(compiled[0], config=config), compiled[1]
        assert self.setup.experts is not None
        self.program.swap(self.setup.experts)
        self.refinement = Refinement(self.setup, self.program, folder)
        self.notes: list[str] = []
        self.refinement.note = self.notes.append
        self.chunk, self.state = 0, self.program.init()

    def __enter__(self) -> "Training":
        self.refinement.on_start(self.setup)
        return self

    def __exit__(self, *_: object) -> None:
        self.refinement.on_end()

    def advance(self) -> None:
        self.refinement.before_chunk(self.chunk + 1)
        self.state, metrics = self.program.step(self.state)
        jax.block_until_ready(metrics)
        self.chunk += 1
        self.refinement.after_dispatch(self.chunk, self.state)

    def advance_until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 100
        while not done():
            assert time.monotonic() < deadline, "nothing came of it"
            self.advance()

    def advance_until_noted(self) -> None:
        before = len(self.notes)
        self.advance_until(lambda: len(self.notes) > before)

    def experts(self) -> Any:
        return self.program._inputs[0].samples


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def test_better_plans_are_learnt_from_without_compiling_again(compiled: Any, recorded: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with endpoint(reply(STAY)) as server:
        training = Training(compiled(), config_for(recorded, run, server), run)
        before = training.experts()
        assert set(np.unique(before.action)) == {0}
        with training:
            training.advance_until_noted()
            # The compiled program takes arrays of one shape alone; these chunks are made with the new ones.
            swapped_after = training.chunk - 1
            training.advance()
        asked = server.received[0].data["messages"][-1]["content"]
    assert "Better plans" in training.notes[0]
    assert set(np.unique(training.experts().action)) == {1}
    assert jax.tree.map(lambda x: x.shape, training.experts()) == jax.tree.map(lambda x: x.shape, before)
    (entry,) = log_of(run)
    assert (entry["chunk"], entry["asked_after_update"]) == (swapped_after, 2)
    fresh = load_demonstrations(str(run / FOLDER / entry["set"]), Walk())
    assert fresh.manifest["plans"][0]["triples"] == STAY
    assert fresh.manifest["plans"][0]["selection_return_per_agent"] == pytest.approx(entry["best_return"])
    # The prompt compares the learners with the plan.
    assert "trained to imitate the best plan" in asked
    assert json.dumps(LEFT) in asked

    # A resumed run continues with what it had.
    with (run / LOG).open("a") as file:
        file.write('{"chunk": 1')  # as a sudden end leaves it
    used = jax.tree.map(np.asarray, training.experts())
    later = Training(compiled(), training.setup.config, run)
    later.refinement.restore(swapped_after)
    jax.tree.map(np.testing.assert_array_equal, later.experts(), used)
    assert len(log_of(run)) == 1
    earlier = Training(compiled(), training.setup.config, run)
    earlier.refinement.restore(swapped_after - 1)
    assert set(np.unique(earlier.experts().action)) == {0}
    assert log_of(run) == []


def test_recorded_arrays_are_replaced_by_as_many_recorded_ones(compiled: Any, recorded: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with endpoint(refusal(500), reply(STAY)) as server:
        # The set's plans are longer than what the run would ask for; the set decides.
        changes = {"generate__candidates": 1, "generate__max_instructions": 1, "generate__recorded_episodes": 3}
        config = config_for(recorded, run, server, **changes, **ARRAYS)
        training = Training(compiled(**ARRAYS), config, run)
        before = training.experts()
        with training:
            training.advance_until_noted()
            training.advance_until_noted()
    assert "failed" in training.notes[0]
    assert "Better plans" in training.notes[1]
    assert set(np.unique(training.experts().action)) == {1}
    assert jax.tree.map(lambda x: x.shape, training.experts()) == jax.tree.map(lambda x: x.shape, before)
    (entry,) = log_of(run)
    fresh = load_demonstrations(str(run / FOLDER / entry["set"]), Walk())
    assert fresh.manifest["max_instructions"] == 2
    assert fresh.recorded is not None
    assert len(fresh.manifest["plans"]) == 1
    assert fresh.manifest["recorded"] == {"episodes": 8, "noise": 0.0, "seed": 5}


def test_the_same_plan_again_changes_nothing(compiled: Any, recorded: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with endpoint(reply(LEFT)) as server:
        training = Training(compiled(), config_for(recorded, run, server), run)
        before = training.experts()
        with training:
            training.advance_until((run / LOG).exists)
    assert training.experts() is before
    assert training.notes == []
    assert log_of(run)[0]["set"] is None


def test_demonstrations_of_another_size_are_not_swapped_in(compiled: Any) -> None:
    smaller = jax.tree.map(lambda x: x[..., :1], compiled()[0].experts)
    with pytest.raises(DemonstrationError, match="make as many"):
        compiled()[1].swap(smaller)


@pytest.mark.parametrize(
    "act", [refusal(500), refusal(401), after(3600, good()), good("I would rather not."), good(None)]
)
def test_a_bad_endpoint_never_harms_training(compiled: Any, recorded: Path, tmp_path: Path, act: Act) -> None:
    run = tmp_path / "run"
    with endpoint(act) as server:
        config = config_for(recorded, run, server, generate__refresh_every=1, llm__timeout_s=1)
        started = time.monotonic()
        with Training(compiled(), config, run) as training:
            training.advance_until(lambda: bool(training.notes) or (run / LOG).exists())
        assert time.monotonic() - started < 60
    setup, program = compiled()
    assert training.experts() is setup.experts.samples
    undisturbed = program.init()
    for _ in range(training.chunk):
        undisturbed, _ = program.step(undisturbed)
    jax.tree.map(np.testing.assert_array_equal, training.state.parameters, undisturbed.parameters)


def test_a_run_is_finished_and_resumed_with_its_refinement(recorded: Path, tmp_path: Path) -> None:
    with endpoint(refusal(500)) as server:
        outcome = start_run(config_for(recorded, tmp_path / "run", server), Console(file=io.StringIO()))
        assert len(rows_of(outcome.directory)) == 4
        (outcome.directory / "summary.json").unlink()
        again = resume_run(outcome.directory, Console(file=io.StringIO()))
    assert again.summary is not None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"algorithm": "ippo"}, "algorithm=ippo learns from no demonstrations"),
        ({"llm": "replay", "llm__base_url": ""}, "llm=replay knows no answers"),
        ({"llm__model": ""}, "llm.model is empty"),
        ({"llm": "local", "llm__base_url": ""}, "llm.path is empty"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_written(
    recorded: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with endpoint(reply(STAY)) as server, pytest.raises(ConfigurationError, match=words):
        start_run(config_for(recorded, tmp_path / "run", server, **changes), Console(file=io.StringIO()))
    assert not (tmp_path / "run").exists()
