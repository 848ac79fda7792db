"""Runs on disk: started, continued after a stop, trained further, and reported."""

import contextlib
import dataclasses
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from leed_jax.config import RunConfig, to_dictionary
from leed_jax.config.environments import complete
from leed_jax.demonstrations import find_set
from leed_jax.environments import Environment
from leed_jax.errors import ConfigurationError, DemonstrationError
from leed_jax.learning.episodes import play, random_actor
from leed_jax.report.animation import draw_episodes
from leed_jax.report.checkpoints import Checkpoints
from leed_jax.report.curve import draw_learning_curve
from leed_jax.report.directory import ANIMATION, CURVE, RunDirectory, choose_path
from leed_jax.report.loggers import Loggers, check_loggers, make_loggers
from leed_jax.report.metrics import Row, cut_back, plain, read_metrics
from leed_jax.report.progress import ProgressReport, Status
from leed_jax.report.summary import print_summary, write_summary
from leed_jax.training.initial import initial_parameters
from leed_jax.training.loop import Callback, Iteration, LoopEnd, Position, train_loop
from leed_jax.training.program import (
    Program,
    Schedule,
    Setup,
    describe_device,
    final_returns,
    memory_errors,
    prepare,
)
from leed_jax.training.signals import StopSignals
from leed_jax.version import __version__


@dataclasses.dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        directory: its directory.
        stopped_by: the signal that stopped it; None if it finished.
        summary: what `summary.json` holds; None if it was stopped by a signal.
        state: the training state at the end, with a leading axis of seeds.
    """

    directory: Path
    stopped_by: int | None
    summary: Mapping[str, Any] | None
    state: Any


class WriteMetrics(Callback):
    """Writes the metrics of each chunk."""

    def __init__(self, writer: Loggers) -> None:
        self._writer = writer

    def wants_state(self, chunk: int) -> bool:
        """Only metrics are needed."""
        del chunk
        return False

    def on_iteration(self, metrics: Iteration, state: Any) -> None:
        """Write one row for each seed."""
        del state
        self._writer.write(metrics.rows())

    def on_end(self) -> None:
        """Sync the files, before the last checkpoint is written, and close them."""
        with contextlib.closing(self._writer):
            self._writer.sync()


class WriteCheckpoints(Callback):
    """Writes a checkpoint every few chunks, and one at the end. A chunk's metrics are on disk before its checkpoint."""

    def __init__(self, checkpoints: Checkpoints, writer: Loggers, every: int) -> None:
        self._checkpoints, self._writer, self._every = checkpoints, writer, every

    def wants_state(self, chunk: int) -> bool:
        """Whether a checkpoint is due."""
        return chunk % self._every == 0

    def on_iteration(self, metrics: Iteration, state: Any) -> None:
        """Write a checkpoint if one is due."""
        if state is not None:
            self.save(metrics.chunk, state, metrics.return_per_agent)

    def save(self, chunk: int, state: Any, score: float | None) -> None:
        """Write a checkpoint."""
        self._writer.sync()
        self._checkpoints.save(chunk, state, score)


class ShowProgress(Callback):
    """Shows progress on the console."""

    def __init__(self, progress: ProgressReport, start: Position) -> None:
        self._progress, self._start = progress, start

    def on_start(self, setup: Setup) -> None:
        """Note the length of the run."""
        self._schedule, self._seeds = setup.schedule, setup.config.num_seeds

    def wants_state(self, chunk: int) -> bool:
        """Only metrics are needed."""
        del chunk
        return False

    def on_iteration(self, metrics: Iteration, state: Any) -> None:
        """Show speed, remaining time, return and weight."""
        del state
        steps = self._schedule.steps_per_chunk
        speed = (metrics.chunk - self._start.chunk) * steps / max(metrics.wall_s - self._start.wall_s, 1e-9)
        self._progress.update(
            Status(
                steps=metrics.env_steps,
                total=self._schedule.steps,
                steps_per_s=speed * self._seeds,
                seconds_left=(self._schedule.steps - metrics.env_steps) / speed,
                return_per_agent=metrics.return_per_agent,
                expert_weight=metrics.mean("expert_weight") or 0.0,
            )
        )


def start_run(
    config: RunConfig,
    console: Console | None = None,
    callbacks: Sequence[Callback] = (),
    environment: Environment | None = None,
) -> RunResult:
    """Train from the beginning. The directory is claimed first, and given up if something cannot be prepared.

    Args:
        config: the run's configuration.
        console: where progress and the summary are printed; standard output if None.
        callbacks: called after those that write metrics and checkpoints.
        environment: where to learn; None for the one that the configuration names.

    Raises:
        LeedError: what was asked for cannot be done.
    """
    console = console or Console()
    path = choose_path(config)
    _check_model(config)
    check_loggers(config.log)
    with RunDirectory.create(path, _portable(config)) as directory:
        try:
            with memory_errors():
                setup = prepare(config, environment)
            parameters = initial_parameters(setup)
            program = Program(setup)
            _compile(setup, program, console)
        except BaseException:
            directory.discard()
            raise
        state = program.init()
        if parameters is not None:
            state = state.replace(parameters=parameters)
        return _train(setup, program, directory, state, [], console, callbacks)


def resume_run(
    path: Path,
    console: Console | None = None,
    *,
    total_steps: int | None = None,
    schedule: str = "restart",
    callbacks: Sequence[Callback] = (),
) -> RunResult:
    """Continue a run from its last checkpoint, or from the beginning if it has none.

    Args:
        path: the run directory.
        console: where progress and the summary are printed; standard output if None.
        total_steps: train a finished run further, to so many environment steps in all; None to continue a run that was
            stopped.
        schedule: with `total_steps`, what schedules do in the added steps: `restart` or `hold`.
        callbacks: called after those that write metrics and checkpoints.

    Raises:
        LeedError: there is no run to continue, or it cannot be.
    """
    console = console or Console()
    if total_steps is not None:
        _extend(path, total_steps, schedule, console)
    with RunDirectory.reopen(path) as directory:
        with memory_errors():
            setup = prepare(directory.config)
        program = Program(setup)
        with contextlib.closing(Checkpoints(path)) as checkpoints:
            chunk = checkpoints.latest() or 0
            state = checkpoints.restore(chunk, program.abstract_state) if chunk else None
        rows = cut_back(path, chunk, setup.config.num_seeds)
        refinement = _refinement(setup, program, path)
        if refinement is not None:
            refinement.restore(chunk)
        _compile(setup, program, console)
        state = program.init() if state is None else state
        console.print(f"Continuing after chunk {chunk} of {setup.schedule.chunks}.", highlight=False)
        return _train(setup, program, directory, state, rows, console, callbacks, refinement)


def _extend(path: Path, total_steps: int, schedule: str, console: Console) -> None:
    """Prepare a finished run for more steps."""
    with RunDirectory.reopen(path, finished=True) as directory:
        config = directory.config
        before = Schedule.of(config)
        # As many updates in a chunk as before, so that checkpoints and rows of metrics keep their numbers.
        chunks = total_steps // before.steps_per_chunk
        if chunks <= before.chunks:
            raise ConfigurationError(
                f"total_steps={total_steps}: {path} has been trained for {before.steps} steps, and a chunk takes "
                f"{before.steps_per_chunk}; give at least {(before.chunks + 1) * before.steps_per_chunk}."
            )
        changes: dict[str, Any] = {"total_steps": chunks * before.steps_per_chunk}
        changes["updates_per_chunk"] = before.updates_per_chunk
        if schedule == "restart":
            changes |= {"schedule_from": before.steps, "schedule_steps": None}
        elif config.schedule_steps is None:
            changes["schedule_steps"] = before.steps - config.schedule_from
        directory.extend(dataclasses.replace(config, **changes))
        what = "run anew over the added steps" if schedule == "restart" else "stay at their final values"
        console.print(
            f"Training {path} further, to {changes['total_steps']:,} steps; schedules {what}.", soft_wrap=True
        )


def _compile(setup: Setup, program: Program, console: Console) -> None:
    for note in setup.notes:
        console.print(note, soft_wrap=True, highlight=False, markup=False)
    config, schedule = setup.config, setup.schedule
    console.print(
        f"Training {config.algorithm} on {type(setup.environment).__name__}: {setup.environment.num_agents} agents, "
        f"{config.num_seeds} seed{'s' if config.num_seeds > 1 else ''}, {schedule.steps:,} steps in "
        f"{schedule.chunks} chunks, on {jax.default_backend()}.",
        soft_wrap=True,
        highlight=False,
    )
    # A KeyboardInterrupt that is raised during compiling may get lost in JAX's callbacks.
    with StopSignals() as stop:
        program.compile()
    if stop.received is not None:
        raise KeyboardInterrupt if stop.received == signal.SIGINT else SystemExit(128 + stop.received)
    console.print(f"Compiled in {program.compile_s:.1f} s.", highlight=False)


def _portable(config: RunConfig) -> RunConfig:
    """The configuration to record: with all fields of the environment, and demonstrations found from any folder."""
    config = dataclasses.replace(config, env=complete(config.env))
    with contextlib.suppress(DemonstrationError):
        path = find_set(config.demonstrations.path)
        if config.demonstrations.path and not path.is_absolute():
            demonstrations = dataclasses.replace(config.demonstrations, path=str(path.resolve()))
            config = dataclasses.replace(config, demonstrations=demonstrations)
    return config


def _check_model(config: RunConfig) -> None:
    """Check, before time is spent, that the model that refines demonstrations can be asked."""
    if config.generate.refresh_every:
        from leed_jax.generation.connect import make_model  # noqa: PLC0415 - as below

        make_model(config)


def _refinement(setup: Setup, program: Program, directory: Path) -> Any:
    if not setup.config.generate.refresh_every:
        return None
    from leed_jax.training.refinement import Refinement  # noqa: PLC0415 - most runs ask no model, and load no client

    return Refinement(setup, program, directory)


def _train(
    setup: Setup,
    program: Program,
    directory: RunDirectory,
    state: Any,
    rows: Sequence[Row],
    console: Console,
    callbacks: Sequence[Callback],
    refinement: Any = None,
) -> RunResult:
    """Train to the end or until a signal, then report."""
    config, path = setup.config, directory.path
    chunk = len(rows) // config.num_seeds
    start = Position(chunk, float(rows[-1]["wall_s"]) if rows else 0.0)
    refinement = refinement or _refinement(setup, program, path)
    checkpoints = Checkpoints(path)
    with contextlib.closing(checkpoints), ProgressReport(console) as progress, StopSignals() as stop, memory_errors():
        steps = chunk * setup.schedule.steps_per_chunk
        writer = make_loggers(config.log, path, steps, to_dictionary(config))
        saving = WriteCheckpoints(checkpoints, writer, config.checkpoint_every)
        everything = [WriteMetrics(writer), saving, ShowProgress(progress, start), *callbacks]
        if refinement is not None:
            refinement.note = progress.note
            everything.append(refinement)
        end = train_loop(
            setup,
            program,
            state,
            everything,
            start,
            stop,
            lambda: progress.note("Stopping after the current chunk; Ctrl-C stops at once."),
        )
        if end.chunk > start.chunk and checkpoints.latest() != end.chunk:
            checkpoints.save(end.chunk, end.state, end.return_per_agent)
        checkpoints.wait()
    if end.chunk < setup.schedule.chunks and not end.stopped_early:
        assert stop.received is not None  # noqa: S101 - nothing else ends the loop
        console.print(
            f"Stopped by {signal.Signals(stop.received).name} after chunk {end.chunk} of {setup.schedule.chunks}. "
            f"Continue with:\n  python -m leed_jax.run resume={path}",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
        return RunResult(path, stop.received, None, end.state)
    return RunResult(path, None, report(setup, end, path, program.compile_s, console), end.state)


def report(setup: Setup, end: LoopEnd, path: Path, compile_s: float, console: Console) -> dict[str, Any]:
    """Evaluate, draw, and write the summary, whose presence says that the run has finished.

    Args:
        setup: the run.
        end: how training ended.
        path: its directory, with the metrics of every chunk.
        compile_s: seconds of compiling.
        console: where the summary is printed.
    """
    rows = read_metrics(path)
    summary = summarise_run(setup, end, compile_s)
    references = {
        "instructions alone": summary["instructions_return_per_agent"],
        "random actions": summary["random_return_per_agent"],
    }
    draw_learning_curve(path / CURVE, rows, references)
    first = jax.tree.map(lambda x: x[0], end.state.parameters)
    key = jax.random.fold_in(jax.random.key(setup.config.evaluation.seed), 1)
    draw_episodes(path / ANIMATION, setup.environment, setup.algorithm.actor(first, True), key)
    write_summary(path, summary)
    print_summary(console, summary, path)
    return summary


def _recording_s(setup: Setup) -> float | None:
    """Seconds that recording the demonstrations took, where the algorithm learns from them."""
    if setup.experts is None or setup.demonstrations is None:
        return None
    return setup.demonstrations.recording_s


def summarise_run(setup: Setup, end: LoopEnd, compile_s: float) -> dict[str, Any]:
    """What `summary.json` holds; see `report`."""
    config, steps = setup.config, end.chunk * setup.schedule.steps_per_chunk
    key, episodes, environment = jax.random.key(config.evaluation.seed), config.evaluation.episodes, setup.environment
    random_return = jax.jit(lambda key: jnp.mean(play(environment, random_actor(environment), key, episodes)[0]))
    instructions = None
    if setup.demonstrations is not None:
        instructions = plain(jnp.mean(setup.demonstrations.returns(jax.random.fold_in(key, 2), episodes)))
    greedy = np.asarray(final_returns(setup, end.state.parameters))
    sampled = np.asarray(final_returns(setup, end.state.parameters, greedy=False))
    wall_s = round(end.wall_s, 6)
    return {
        "algorithm": config.algorithm,
        "experiment": config.experiment,
        "env_steps": steps,
        "wall_s": wall_s,
        "compile_s": round(compile_s, 6),
        "preparation_s": round(setup.preparation_s, 6),
        "recording_s": _recording_s(setup),
        "steps_per_s": round(steps * config.num_seeds / wall_s, 1),
        "return_per_agent": plain(np.mean(greedy, axis=-1)),
        "return_of_agents": plain(greedy),
        "stochastic_return_per_agent": plain(np.mean(sampled, axis=-1)),
        "stochastic_return_of_agents": plain(sampled),
        "random_return_per_agent": plain(random_return(key)),
        "instructions_return_per_agent": instructions,
        "evaluation_episodes": episodes,
        "num_agents": environment.num_agents,
        "seeds": [config.seed + index for index in range(config.num_seeds)],
        "chunks": end.chunk,
        "updates": end.chunk * setup.schedule.updates_per_chunk,
        "stopped_early": end.stopped_early,
        "versions": {"leed_jax": __version__, "jax": jax.__version__},
        "device": describe_device(),
    }
