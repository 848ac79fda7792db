"""Better demonstrations beside training: swapped in, recorded, found again, and no harm from a bad endpoint."""

import asyncio
import contextlib
import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from loopback import Act, Server, after, good, refusal, serving
from rich.console import Console
from tiny_run import Walk, quick_compilation, record_walk, rows_of, settings

from leed_jax.config.compose import compose_config
from leed_jax.demonstrations import load_demonstrations
from leed_jax.errors import ConfigurationError, DemonstrationError
from leed_jax.training.program import Program, prepare
from leed_jax.training.refinement import FOLDER, LOG, Refinement
from leed_jax.training.runner import resume_run, start_run

STAY = [["Act", "action_1", "agent_0"], ["Act", "action_1", "agent_1"]]
LEFT = [["Act", "action_0", "agent_0"], ["Act", "action_0", "agent_1"]]


@pytest.fixture(scope="module", autouse=True)
def quickly() -> Iterator[None]:
    with quick_compilation():
        yield


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


def config_for(folder: Path, server: Server, **changes: Any) -> Any:
    if not (folder / "set").exists():
        record_walk(folder / "set", Walk())
    values = {
        "algorithm": "leed",
        "demonstrations__path": folder / "set",
        "demonstrations__episodes": 8,
        "demonstrations__plans": 1,
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
    return compose_config(settings(folder / "run", **values))


class Training:
    """A program and its refinement, chunk by chunk."""

    def __init__(self, config: Any, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.setup = prepare(config)
        self.program = Program(self.setup)
        self.program.compile()
        self.refinement = Refinement(self.setup, self.program, folder)
        self.chunk, self.state = 0, self.program.init()

    def advance(self) -> None:
        self.refinement.take(self.chunk)
        self.state, metrics = self.program.step(self.state)
        jax.block_until_ready(metrics)
        self.chunk += 1
        self.refinement.offer(self.chunk, self.state)

    def advance_until(self, notes: list[str]) -> None:
        """Train until something is noted."""
        deadline, before = time.monotonic() + 100, len(notes)
        while len(notes) == before:
            assert time.monotonic() < deadline, "nothing came of it"
            self.advance()

    def experts(self) -> Any:
        return self.program._inputs[0].samples


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def test_better_plans_are_learnt_from_without_compiling_again(tmp_path: Path) -> None:
    notes: list[str] = []
    with endpoint(reply(STAY)) as server:
        training = Training(config_for(tmp_path, server), tmp_path / "run")
        before = training.experts()
        assert set(np.unique(before.action)) == {0}
        with training.refinement.beside(notes.append):
            training.advance_until(notes)
            # What is compiled takes arrays of one shape alone; these chunks are made with the new ones.
            swapped_after = training.chunk - 1
            training.advance()
    assert "Better plans" in notes[0]
    assert set(np.unique(training.experts().action)) == {1}
    assert jax.tree.map(lambda x: x.shape, training.experts()) == jax.tree.map(lambda x: x.shape, before)
    (entry,) = log_of(tmp_path / "run")
    assert (entry["chunk"], entry["asked_after_update"]) == (swapped_after, 2)
    fresh = load_demonstrations(str(tmp_path / "run" / FOLDER / entry["set"]), Walk())
    assert fresh.manifest["plans"][0]["triples"] == STAY
    assert fresh.manifest["plans"][0]["selection_return_per_agent"] == pytest.approx(entry["best_return"])


def test_recorded_arrays_give_way_to_as_many_recorded_ones(tmp_path: Path) -> None:
    notes: list[str] = []
    with endpoint(refusal(500), reply(STAY)) as server:
        # The set's plans are longer than what the run would ask for, which is the set's to say.
        changes = {
            "demonstrations__episodes": "null",
            "generate__max_instructions": 1,
            "generate__recorded_episodes": 3,
        }
        training = Training(config_for(tmp_path, server, generate__candidates=1, **changes), tmp_path / "run")
        before = training.experts()
        with training.refinement.beside(notes.append):
            training.advance_until(notes)
            training.advance_until(notes)
    assert "in vain" in notes[0]
    assert "Better plans" in notes[1]
    assert set(np.unique(training.experts().action)) == {1}
    assert jax.tree.map(lambda x: x.shape, training.experts()) == jax.tree.map(lambda x: x.shape, before)
    (entry,) = log_of(tmp_path / "run")
    fresh = load_demonstrations(str(tmp_path / "run" / FOLDER / entry["set"]), Walk())
    assert fresh.manifest["max_instructions"] == 2
    assert fresh.recorded is not None
    assert len(fresh.manifest["plans"]) == 1
    assert fresh.manifest["recorded"] == {"episodes": 8, "noise": 0.0, "seed": 5}


def test_the_prompt_tells_how_the_learners_do_beside_the_plan(tmp_path: Path) -> None:
    notes: list[str] = []
    with endpoint(reply(STAY)) as server:
        training = Training(config_for(tmp_path, server), tmp_path / "run")
        with training.refinement.beside(notes.append):
            training.advance_until(notes)
        asked = server.received[0].data["messages"][-1]["content"]
    assert "trained to imitate the best plan" in asked
    assert json.dumps(LEFT) in asked


def test_the_same_plan_again_changes_nothing(tmp_path: Path) -> None:
    notes: list[str] = []
    with endpoint(reply(LEFT)) as server:
        training = Training(config_for(tmp_path, server), tmp_path / "run")
        before = training.experts()
        with training.refinement.beside(notes.append):
            deadline = time.monotonic() + 100
            while not (tmp_path / "run" / LOG).exists():
                assert time.monotonic() < deadline
                training.advance()
    assert training.experts() is before
    assert notes == []
    assert log_of(tmp_path / "run")[0]["set"] is None


def test_a_resumed_run_goes_on_with_what_it_had(tmp_path: Path) -> None:
    notes: list[str] = []
    with endpoint(reply(STAY)) as server:
        config = config_for(tmp_path, server)
        training = Training(config, tmp_path / "run")
        with training.refinement.beside(notes.append):
            training.advance_until(notes)
        swapped = log_of(tmp_path / "run")[0]["chunk"]
        with (tmp_path / "run" / LOG).open("a") as file:
            file.write('{"chunk": 1')  # as a sudden end leaves it
        later = Training(config, tmp_path / "run")
        later.refinement.go_on_after(swapped)
        jax.tree.map(np.testing.assert_array_equal, later.experts(), training.experts())
        assert len(log_of(tmp_path / "run")) == 1
        earlier = Training(config, tmp_path / "run")
        earlier.refinement.go_on_after(swapped - 1)
    assert set(np.unique(earlier.experts().action)) == {0}
    assert log_of(tmp_path / "run") == []


def test_demonstrations_of_another_size_are_not_swapped_in(tmp_path: Path) -> None:
    with endpoint(reply(STAY)) as server:
        training = Training(config_for(tmp_path, server), tmp_path / "run")
        other = prepare(config_for(tmp_path, server, demonstrations__episodes=9)).experts
    assert other is not None
    with pytest.raises(DemonstrationError, match="make as many"):
        training.program.swap(other)


@pytest.mark.parametrize(
    "act", [refusal(500), refusal(401), after(3600, good()), good("I would rather not."), good(None)]
)
def test_a_bad_endpoint_never_harms_training(tmp_path: Path, act: Act) -> None:
    with endpoint(act) as server:
        config = config_for(tmp_path, server, generate__refresh_every=1)
        plain = compose_config(
            settings(
                tmp_path / "plain",
                algorithm="leed",
                demonstrations__path=tmp_path / "set",
                demonstrations__episodes=8,
                demonstrations__plans=1,
            )
        )
        console = Console(file=io.StringIO())
        started = time.monotonic()
        disturbed = start_run(config, console)
        assert time.monotonic() - started < 60
        undisturbed = start_run(plain, console)
    jax.tree.map(np.testing.assert_array_equal, disturbed.state.parameters, undisturbed.state.parameters)
    assert (disturbed.directory / "summary.json").exists()
    assert len(rows_of(disturbed.directory)) == 4


def test_a_run_is_resumed_with_its_refinement(tmp_path: Path) -> None:
    with endpoint(reply(STAY)) as server:
        outcome = start_run(config_for(tmp_path, server), Console(file=io.StringIO()))
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
def test_settings_that_cannot_work_are_told_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with endpoint(reply(STAY)) as server, pytest.raises(ConfigurationError, match=words):
        start_run(config_for(tmp_path, server, **changes), Console(file=io.StringIO()))
    assert not (tmp_path / "run").exists()
