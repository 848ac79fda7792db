"""One setting, trained and scored in this process: no run directory, no checkpoints, no pictures."""

import dataclasses
import math
import signal
from collections.abc import Sequence
from typing import Any

import jax

from leed_jax.config import Config
from leed_jax.training.program import Program, describe_device, greedy_returns, memory_errors, prepare
from leed_jax.training.signals import StopSignals
from leed_jax.version import __version__


@dataclasses.dataclass(frozen=True)
class Trained:
    """What came of a setting.

    Attributes:
        returns: greedy return per agent of each seed; None where it is not finite.
        env_steps: environment steps of each seed.
        versions: what it was computed with.
        device: what it was computed on.
    """

    returns: tuple[float | None, ...]
    env_steps: int
    versions: dict[str, str]
    device: dict[str, Any]


def train_and_score(configs: Sequence[Config]) -> Trained:
    """Train every seed of a setting to the end, and play fresh episodes with its greedy policy.

    Ctrl-C and SIGTERM wait for the end of a chunk, and then do what they would have done.

    Args:
        configs: one for each group of seeds; those of a group are trained side by side.

    Raises:
        LeedError: the configuration cannot work.
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    returns: list[float | None] = []
    steps = 0
    for config in configs:
        # The exception that Python raises for Ctrl-C is lost where JAX calls back, as while garbage is collected.
        with StopSignals() as stop, memory_errors():
            scores, steps = _train_group(config, stop)
        if stop.received is not None:
            signal.raise_signal(stop.received)
            raise KeyboardInterrupt  # A process in the background ignores Ctrl-C, but this one was told to stop.
        returns += [score if math.isfinite(score) else None for score in scores]
    versions = {"leed_jax": __version__, "jax": jax.__version__}
    return Trained(tuple(returns), steps, versions, describe_device())


def _train_group(config: Config, stop: StopSignals) -> tuple[list[float], int]:
    """Greedy returns and environment steps of seeds that are trained side by side; none if a signal asks to stop."""
    # The learning curve is not kept, so its episodes need not be played.
    quick = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, curve_episodes=0))
    setup = prepare(quick)
    program = Program(setup)
    program.compile()
    state = program.init()
    for _ in range(setup.schedule.chunks):
        state, metrics = program.step(state)
        jax.block_until_ready(metrics)
        if stop.received is not None:
            return [], 0
    scores = [float(value) for value in greedy_returns(setup, state.parameters)]
    return scores, setup.schedule.chunks * setup.schedule.steps_per_chunk
