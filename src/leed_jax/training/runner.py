"""Runs: training chunk after chunk, with metrics, checkpoints and progress; stopping and going on; and the report."""

import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from leed_jax.config import Config
from leed_jax.config.environments import complete
from leed_jax.learning.episodes import play, random_actor
from leed_jax.learning.loss import Metrics
from leed_jax.report.animation import draw_episodes
from leed_jax.report.checkpoints import Checkpoints
from leed_jax.report.curve import draw_learning_curve
from leed_jax.report.directory import ANIMATION, CURVE, RunDirectory, choose_path
from leed_jax.report.metrics import MetricsWriter, Row, cut_back, mean_or_none, metric_rows, plain, read_metrics
from leed_jax.report.progress import ProgressReport, Status
from leed_jax.report.summary import print_summary, write_summary
from leed_jax.training.program import Program, Setup, describe_device, final_returns, memory_errors, prepare
from leed_jax.training.signals import StopSignals
from leed_jax.version import __version__

if TYPE_CHECKING:
    from leed_jax.training.refinement import Refinement

POLL_S = 0.002


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        directory: its directory.
        stopped_by: the signal that stopped it; None if it finished.
        summary: what `summary.json` holds; None if it was stopped.
        state: the training state at the end, with a leading axis of seeds.
    """

    directory: Path
    stopped_by: int | None
    summary: Mapping[str, Any] | None
    state: Any


def start_run(config: Config, console: Console | None = None) -> Outcome:
    """Train from the beginning. Nothing is written before everything has been checked and compiled.

    Args:
        config: the run's configuration.
        console: where progress and the summary are printed; standard output if None.

    Raises:
        LeedError: what was asked for cannot be done.
    """
    console = console or Console()
    path = choose_path(config)
    _check_model(config)
    with memory_errors():
        setup = prepare(config)
    program = Program(setup)
    _compile(setup, program, console)
    with RunDirectory.create(path, _portable(setup)) as directory:
        return _go_on(_Run(setup, program, directory, console), program.init(), [])


def resume_run(path: Path, console: Console | None = None) -> Outcome:
    """Go on with a run that was stopped or killed, from its last checkpoint, or from the beginning if it has none.

    Args:
        path: the run directory.
        console: where progress and the summary are printed; standard output if None.

    Raises:
        LeedError: there is no run to go on with, or it cannot be.
    """
    console = console or Console()
    with RunDirectory.reopen(path) as directory:
        with memory_errors():
            setup = prepare(directory.config)
        program = Program(setup)
        run = _Run(setup, program, directory, console)
        chunk = run.checkpoints.latest() or 0
        run.refinement.go_on_after(chunk)
        restored = run.checkpoints.restore(chunk, program.abstract_state) if chunk else None
        rows = cut_back(path, chunk, setup.config.num_seeds)
        _compile(setup, program, console)
        state = program.init() if restored is None else restored
        console.print(f"Going on after chunk {chunk} of {setup.schedule.chunks}.", highlight=False)
        return _go_on(run, state, rows)


def _compile(setup: Setup, program: Program, console: Console) -> None:
    for note in setup.notes:
        console.print(note, soft_wrap=True, highlight=False, markup=False)
    config, schedule = setup.config, setup.schedule
    console.print(
        f"Training {config.algorithm} on {type(setup.environment).__name__}: {setup.environment.num_agents} agents, "
        f"{config.num_seeds} seed{'s' if config.num_seeds > 1 else ''}, "
        f"{schedule.chunks * schedule.steps_per_chunk:,} steps in {schedule.chunks} chunks, "
        f"on {jax.default_backend()}.",
        soft_wrap=True,
        highlight=False,
    )
    program.compile()
    console.print(f"Compiled in {program.compile_s:.1f} s.", highlight=False)


def _portable(setup: Setup) -> Config:
    """The configuration to record: with all fields of the environment, and demonstrations found from any folder."""
    config, used = dataclasses.replace(setup.config, env=complete(setup.config.env)), setup.demonstrations
    if used is None or used.path.is_absolute():
        return config
    demonstrations = dataclasses.replace(config.demonstrations, path=str(used.path.resolve()))
    return dataclasses.replace(config, demonstrations=demonstrations)


class _Run:
    """What training needs at hand."""

    def __init__(self, setup: Setup, program: Program, directory: RunDirectory, console: Console) -> None:
        self.setup, self.program, self.console = setup, program, console
        self.path = directory.path
        self.checkpoints = Checkpoints(directory.path)
        self.refinement = _refinement(setup, program, directory.path)


class _NoRefinement:
    """Demonstrations that stay as they are; see `leed_jax.training.refinement.Refinement`."""

    def go_on_after(self, chunk: int) -> None:
        """Nothing."""

    def beside(self, note: Callable[[str], None]) -> contextlib.AbstractContextManager[None]:
        """Nothing."""
        del note
        return contextlib.nullcontext()

    def take(self, chunk: int) -> None:
        """Nothing."""

    def offer(self, chunk: int, state: Any) -> None:
        """Nothing."""


def _check_model(config: Config) -> None:
    """Make sure, before time is spent, that the model that refines demonstrations can be asked."""
    if config.generate.refresh_every:
        from leed_jax.generation.connect import make_model  # noqa: PLC0415 - as below

        make_model(config)


def _refinement(setup: Setup, program: Program, directory: Path) -> "_NoRefinement | Refinement":
    if not setup.config.generate.refresh_every:
        return _NoRefinement()
    from leed_jax.training.refinement import Refinement  # noqa: PLC0415 - most runs ask no model, and need not load a client

    return Refinement(setup, program, directory)


def _go_on(run: _Run, state: Any, rows: Sequence[Row]) -> Outcome:
    """Train to the end or until a signal, then report."""
    with (
        ProgressReport(run.console) as progress,
        StopSignals() as stop,
        memory_errors(),
        run.refinement.beside(progress.note),
    ):
        loop = _Loop(run, progress, stop, rows)
        state = loop.train(state)
    run.checkpoints.close()
    chunks = run.setup.schedule.chunks
    if loop.chunk < chunks:
        assert stop.received is not None  # noqa: S101 - nothing else ends the loop early
        run.console.print(
            f"Stopped by {signal.Signals(stop.received).name} after chunk {loop.chunk} of {chunks}. Go on with:\n"
            f"  python -m leed_jax.run resume={run.path}",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
        return Outcome(run.path, stop.received, None, state)
    return Outcome(run.path, None, _report(run, state), state)


@dataclasses.dataclass(frozen=True)
class _Dispatched:
    """A chunk that the device is computing."""

    chunk: int
    metrics: Metrics
    snapshot: Any | None


class _Loop:
    """Dispatches each chunk before the one before it is written down, so that the device never waits for files.

    A chunk's metrics are on disk before the checkpoint that follows it.
    """

    def __init__(self, run: _Run, progress: ProgressReport, stop: StopSignals, rows: Sequence[Row]) -> None:
        self._run, self._progress, self._stop = run, progress, stop
        self._config, self._schedule = run.setup.config, run.setup.schedule
        self.chunk = len(rows) // self._config.num_seeds
        self._first = self.chunk
        self._wall_before = float(rows[-1]["wall_s"]) if rows else 0.0
        self._writer = MetricsWriter(run.path, self.chunk * self._schedule.steps_per_chunk)
        self._pending: _Dispatched | None = None
        self._score: float | None = None
        self._stop_noted = False

    def train(self, state: Any) -> Any:
        """Train until the last chunk or a signal, and leave a checkpoint of the state that is returned."""
        with contextlib.closing(self._writer):
            return self._train(state)

    def _train(self, state: Any) -> Any:
        self._started = self._previous = time.monotonic()
        while self.chunk < self._schedule.chunks and self._stop.received is None:
            self._run.refinement.take(self.chunk)
            state, metrics = self._run.program.step(state)
            self.chunk += 1
            self._run.refinement.offer(self.chunk, state)
            due = self.chunk % self._config.checkpoint_every == 0 and self.chunk < self._schedule.chunks
            # The next step donates the state, so a checkpoint needs a copy.
            dispatched = _Dispatched(self.chunk, metrics, self._run.program.copy(state) if due else None)
            self._finish()
            self._pending = dispatched
        self._finish()
        if self.chunk > self._first and self._run.checkpoints.latest() != self.chunk:
            self._save(self.chunk, state)
        self._run.checkpoints.wait()
        return state

    def _finish(self) -> None:
        """Wait for the pending chunk, and write it down."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        self._wait(pending.metrics)
        now = time.monotonic()
        steps = self._schedule.steps_per_chunk
        common = {
            "chunk": pending.chunk,
            "env_steps": pending.chunk * steps,
            "wall_s": round(self._wall_before + now - self._started, 6),
            "steps_per_s": round(steps * self._config.num_seeds / max(now - self._previous, 1e-9), 1),
        }
        self._previous = now
        rows = metric_rows(jax.device_get(pending.metrics), common, self._config.seed)
        self._score = mean_or_none([row["return_per_agent"] for row in rows])
        self._writer.write(rows)
        self._progress.update(self._status(pending.chunk, rows, now))
        if pending.snapshot is not None:
            self._save(pending.chunk, pending.snapshot)

    def _wait(self, metrics: Mapping[str, Any]) -> None:
        """Wait for the device without deafening this process: a signal is noticed at once, not at the chunk's end."""
        while not all(array.is_ready() for array in metrics.values()):
            if self._stop.received is not None and not self._stop_noted:
                self._stop_noted = True
                self._progress.note("Stopping after the current chunk; Ctrl-C stops at once.")
            time.sleep(POLL_S)

    def _save(self, chunk: int, state: Any) -> None:
        self._writer.sync()
        self._run.checkpoints.save(chunk, state, self._score)

    def _status(self, chunk: int, rows: Sequence[Row], now: float) -> Status:
        steps = self._schedule.steps_per_chunk
        speed = (chunk - self._first) * steps / max(now - self._started, 1e-9)
        weights = [mean_or_none(row["expert_weight"]) for row in rows]
        return Status(
            steps=chunk * steps,
            total=self._schedule.chunks * steps,
            steps_per_s=speed * self._config.num_seeds,
            seconds_left=(self._schedule.chunks - chunk) * steps / speed,
            return_per_agent=self._score,
            expert_weight=mean_or_none(weights) or 0.0,
        )


def _report(run: _Run, state: Any) -> dict[str, Any]:
    """Evaluate, draw, and write the summary, whose presence says that the run has finished."""
    setup, config = run.setup, run.setup.config
    rows = read_metrics(run.path)
    summary = _summary(run, state, rows)
    references = {
        "instructions alone": summary["instructions_return_per_agent"],
        "random actions": summary["random_return_per_agent"],
    }
    draw_learning_curve(run.path / CURVE, rows, references)
    first = jax.tree.map(lambda x: x[0], state.parameters)
    key = jax.random.fold_in(jax.random.key(config.evaluation.seed), 1)
    draw_episodes(run.path / ANIMATION, setup.environment, setup.algorithm.actor(first, True), key)
    write_summary(run.path, summary)
    print_summary(run.console, summary, run.path)
    return summary


def _recording_s(setup: Setup) -> float | None:
    """What making the demonstrations took, of an algorithm that learns from them."""
    if setup.experts is None or setup.demonstrations is None:
        return None
    return setup.demonstrations.recording_s


def _summary(run: _Run, state: Any, rows: Sequence[Row]) -> dict[str, Any]:
    setup, config, schedule = run.setup, run.setup.config, run.setup.schedule
    steps, wall_s = schedule.chunks * schedule.steps_per_chunk, rows[-1]["wall_s"]
    key, episodes = jax.random.key(config.evaluation.seed), config.evaluation.episodes
    at_random = jax.jit(
        lambda key: jnp.mean(play(setup.environment, random_actor(setup.environment), key, episodes)[0])
    )
    instructions = (
        None
        if setup.demonstrations is None
        else jnp.mean(setup.demonstrations.returns(jax.random.fold_in(key, 2), episodes))
    )
    greedy = final_returns(setup, state.parameters)
    sampled = final_returns(setup, state.parameters, greedy=False)
    return {
        "algorithm": config.algorithm,
        "experiment": config.experiment,
        "env_steps": steps,
        "wall_s": wall_s,
        "compile_s": round(run.program.compile_s, 6),
        "preparation_s": round(setup.preparation_s, 6),
        "recording_s": _recording_s(setup),
        "steps_per_s": round(steps * config.num_seeds / wall_s, 1),
        "return_per_agent": plain(np.mean(np.asarray(greedy), axis=-1)),
        "return_of_agents": plain(np.asarray(greedy)),
        "stochastic_return_per_agent": plain(np.mean(np.asarray(sampled), axis=-1)),
        "random_return_per_agent": plain(at_random(key)),
        "instructions_return_per_agent": None if instructions is None else plain(instructions),
        "evaluation_episodes": episodes,
        "num_agents": setup.environment.num_agents,
        "seeds": [config.seed + index for index in range(config.num_seeds)],
        "chunks": schedule.chunks,
        "updates": schedule.chunks * schedule.updates_per_chunk,
        "versions": {"leed_jax": __version__, "jax": jax.__version__},
        "device": describe_device(),
    }
