"""The training loop: chunk after chunk, with callbacks."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from leed_jax.report.metrics import Row, mean_or_none, metric_rows
from leed_jax.training.program import Program, Setup
from leed_jax.training.signals import StopSignals

POLL_S = 0.002


@dataclasses.dataclass(frozen=True)
class Iteration:
    """The metrics of one chunk of updates.

    Attributes:
        chunk: its number, from 1 on.
        env_steps: environment steps of each seed so far.
        wall_s: seconds of training so far.
        steps_per_s: environment steps per second in this chunk, of all seeds.
        first_seed: the first seed; the others count up from it.
        values: the arrays that `train_chunk` returned, over seeds and agents.
    """

    chunk: int
    env_steps: int
    wall_s: float
    steps_per_s: float
    first_seed: int
    values: dict[str, Float[np.ndarray, "S A"]]

    def rows(self) -> list[Row]:
        """One row for each seed, as in `metrics.jsonl`."""
        names = ("chunk", "env_steps", "wall_s", "steps_per_s")
        return metric_rows(self.values, {name: getattr(self, name) for name in names}, self.first_seed)

    def mean(self, name: str) -> float | None:
        """The mean of a metric over seeds and agents; None if no number in it is finite."""
        array = self.values[name]
        return mean_or_none([float(x) for x in array.mean(axis=-1, dtype=np.float64) if np.isfinite(x)])

    @property
    def return_per_agent(self) -> float | None:
        """The mean return of the episodes that ended in the chunk; None if there were none."""
        return self.mean("return_of_agents")


class Callback:
    """Hooks of the training loop. Subclasses override what they need.

    A chunk is dispatched before the metrics of the one before it are known, so that the device never waits. The state
    of a chunk is donated to the next one: `after_dispatch` may only read it during the call, and `on_iteration` gets a
    copy where `wants_state` says so.
    """

    def on_start(self, setup: Setup) -> None:
        """Called before the first chunk."""

    def before_chunk(self, chunk: int) -> None:
        """Called when a chunk is about to be dispatched.

        Args:
            chunk: its number, from 1 on.
        """

    def after_dispatch(self, chunk: int, state: Any) -> None:
        """Called when the device has begun to compute a chunk; must return at once."""

    def wants_state(self, chunk: int) -> bool:
        """Whether `on_iteration` needs the state after this chunk; a copy costs memory."""
        del chunk
        return True

    def on_iteration(self, metrics: Iteration, state: Any) -> bool | None:
        """Called with the metrics of each chunk.

        Args:
            metrics: the metrics.
            state: the training state after the chunk, with a leading axis of seeds; None unless `wants_state`.

        Returns:
            Whether to stop training. A chunk that is computed by then still counts.
        """

    def on_end(self) -> None:
        """Called after the last chunk, also when training was stopped."""


class FunctionCallback(Callback):
    """A function `f(metrics, state)` as a callback."""

    def __init__(self, function: Callable[[Iteration, Any], bool | None]) -> None:
        self._function = function

    def on_iteration(self, metrics: Iteration, state: Any) -> bool | None:
        """Call the function."""
        return self._function(metrics, state)


class EarlyStopping(Callback):
    """Stops training when the return has not improved for a while.

    Args:
        patience: chunks without improvement.
        min_delta: by how much the return has to exceed the best one so far.
        metric: the metric to watch, the mean over seeds and agents.
    """

    def __init__(self, patience: int, min_delta: float = 0.0, metric: str = "return_of_agents") -> None:
        self._patience, self._min_delta, self._metric = patience, min_delta, metric
        self._best, self._chunks = -np.inf, 0

    def wants_state(self, chunk: int) -> bool:
        """Only metrics are needed."""
        del chunk
        return False

    def on_iteration(self, metrics: Iteration, state: Any) -> bool:
        """Compare with the best return so far."""
        del state
        value = metrics.mean(self._metric)
        if value is not None and value > self._best + self._min_delta:
            self._best, self._chunks = value, 0
        else:
            self._chunks += 1
        return self._chunks >= self._patience


@dataclasses.dataclass(frozen=True)
class Position:
    """Where training stands when the loop starts: after how many chunks, and after how many seconds."""

    chunk: int = 0
    wall_s: float = 0.0


@dataclasses.dataclass(frozen=True)
class LoopEnd:
    """How the loop ended.

    Attributes:
        state: the training state.
        chunk: the number of the last chunk.
        wall_s: seconds of training.
        return_per_agent: the mean return in the last chunk; None if no episode ended in it.
        stopped_early: whether a callback stopped training.
    """

    state: Any
    chunk: int
    wall_s: float
    return_per_agent: float | None
    stopped_early: bool


def train_loop(
    setup: Setup,
    program: Program,
    state: Any,
    callbacks: Sequence[Callback],
    start: Position | None = None,
    stop: StopSignals | None = None,
    on_stopping: Callable[[], None] = lambda: None,
) -> LoopEnd:
    """Train to the last chunk, or until a signal or a callback stops it.

    Args:
        setup: the run.
        program: its compiled training.
        state: the training state; donated.
        callbacks: in the order in which they are called.
        start: where training stands.
        stop: signals that stop it.
        on_stopping: called once when a signal has come and the current chunk is still being computed.
    """
    loop = _Loop(setup, callbacks, start or Position(), stop or StopSignals(), on_stopping)
    for callback in callbacks:
        callback.on_start(setup)
    try:
        while loop.chunk < setup.schedule.chunks and not loop.stopped:
            for callback in callbacks:
                callback.before_chunk(loop.chunk + 1)
            state, metrics = program.step(state)
            loop.chunk += 1
            for callback in callbacks:
                callback.after_dispatch(loop.chunk, state)
            wanted = loop.chunk < setup.schedule.chunks and any(c.wants_state(loop.chunk) for c in callbacks)
            # The next step donates the state, so callbacks get a copy.
            loop.finish_and_add(loop.chunk, metrics, program.copy(state) if wanted else None)
        loop.finish(state)
    finally:
        with contextlib.ExitStack() as stack:
            # All are called, in their order, even if one fails.
            for callback in reversed(callbacks):
                stack.callback(callback.on_end)
    return LoopEnd(state, loop.chunk, loop.wall_s, loop.return_per_agent, loop.stopped_early)


class _Loop:
    """The chunk that is being computed, and the clock."""

    def __init__(
        self,
        setup: Setup,
        callbacks: Sequence[Callback],
        start: Position,
        stop: StopSignals,
        on_stopping: Callable[[], None],
    ) -> None:
        self._setup, self._callbacks, self._stop, self._on_stopping = setup, callbacks, stop, on_stopping
        self.chunk, self.wall_s, self._wall_before = start.chunk, start.wall_s, start.wall_s
        self.return_per_agent: float | None = None
        self.stopped_early = self._noticed = False
        self._pending: tuple[int, dict[str, Any], Any] | None = None
        self._started = self._previous = time.monotonic()

    @property
    def stopped(self) -> bool:
        return self.stopped_early or self._stop.received is not None

    def finish_and_add(self, chunk: int, metrics: dict[str, Any], state: Any) -> None:
        """Finish the chunk before, and remember this one."""
        self.finish()
        self._pending = (chunk, metrics, state)

    def finish(self, state: Any = None) -> None:
        """Wait for the pending chunk and call the callbacks with its metrics, and with `state` if it has no copy."""
        if self._pending is None:
            return
        (chunk, arrays, copy), self._pending = self._pending, None
        self._wait(arrays)
        now = time.monotonic()
        steps, seeds = self._setup.schedule.steps_per_chunk, self._setup.config.num_seeds
        self.wall_s = self._wall_before + now - self._started
        metrics = Iteration(
            chunk=chunk,
            env_steps=chunk * steps,
            wall_s=round(self.wall_s, 6),
            steps_per_s=round(steps * seeds / max(now - self._previous, 1e-9), 1),
            first_seed=self._setup.config.seed,
            values=jax.device_get(arrays),
        )
        self._previous, self.return_per_agent = now, metrics.return_per_agent
        copy = state if copy is None else copy
        for callback in self._callbacks:
            wanted = copy if callback.wants_state(chunk) else None
            self.stopped_early = bool(callback.on_iteration(metrics, wanted)) or self.stopped_early

    def _wait(self, metrics: dict[str, Any]) -> None:
        """Wait for the device by polling, so that a signal is noticed at once."""
        while not all(array.is_ready() for array in metrics.values()):
            if self._stop.received is not None and not self._noticed:
                self._noticed = True
                self._on_stopping()
            time.sleep(POLL_S)
