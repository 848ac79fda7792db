"""Training in Python: `train` and its result."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from leed_jax.config import RunConfig, environment_identity, from_dictionary, to_dictionary
from leed_jax.config.compose import compose_config
from leed_jax.environments import Environment
from leed_jax.errors import ConfigurationError
from leed_jax.report.checkpoints import Checkpoints
from leed_jax.report.directory import RunDirectory
from leed_jax.report.loggers import make_loggers
from leed_jax.report.metrics import Row
from leed_jax.report.progress import ProgressReport
from leed_jax.training.initial import initial_parameters
from leed_jax.training.loop import Callback, FunctionCallback, Iteration, LoopEnd, Position, train_loop
from leed_jax.training.program import Program, Setup, memory_errors, prepare
from leed_jax.training.runner import ShowProgress, report
from leed_jax.training.trained_policy import TrainedPolicy

OnIteration = Callable[[Iteration, Any], bool | None]


class _Rows(Callback):
    """Keeps the rows of metrics in memory."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def wants_state(self, chunk: int) -> bool:
        del chunk
        return False

    def on_iteration(self, metrics: Iteration, state: Any) -> None:
        del state
        self.rows.extend(metrics.rows())


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """What `train` returns.

    Attributes:
        config: the configuration.
        state: the training state, with a leading axis of seeds.
        rows: one row of metrics for each chunk and seed, as in `metrics.jsonl`.
    """

    config: RunConfig
    state: Any
    rows: Sequence[Row]
    _setup: Setup
    _end: LoopEnd
    _compile_s: float

    @property
    def policy(self) -> TrainedPolicy:
        """The trained policies of the first seed."""
        return self.policy_of(0)

    def policy_of(self, seed: int) -> TrainedPolicy:
        """The trained policies of a seed, by its index from 0 on."""
        if not 0 <= seed < self.config.num_seeds:
            raise ConfigurationError(f"seed={seed}: there are {self.config.num_seeds} seeds, with indices from 0 on.")
        parameters = jax.tree.map(lambda x: x[seed], self.state.parameters)
        return TrainedPolicy(self._setup.algorithm, parameters, self._setup.environment, self.config.algorithm)

    @property
    def metrics(self) -> Any:
        """The rows as a table: a pandas DataFrame if pandas is installed, else a dictionary of arrays by column."""
        try:
            import pandas as pd  # noqa: PLC0415 - optional
        except ImportError:
            return {
                name: np.array([row.get(name) for row in self.rows], dtype=_kind(self.rows, name))
                for name in self.rows[0]
            }
        return pd.DataFrame(self.rows)

    def save(self, folder: str | Path, console: Console | None = None) -> Path:
        """Write a run directory, as the command line does: it can be evaluated, compared, loaded and trained further.

        Args:
            folder: a folder that does not exist or is empty.
            console: where the summary is printed; nowhere if None.

        Raises:
            RunDirectoryError: there is something in it, or it cannot be written.
        """
        path = Path(folder).expanduser()
        with RunDirectory.create(path, dataclasses.replace(self.config, out=str(path))):
            writer = make_loggers(self.config.log, path, 0, to_dictionary(self.config))
            writer.write(self.rows)
            writer.sync()
            writer.close()
            checkpoints = Checkpoints(path)
            checkpoints.save(self._end.chunk, self.state, self._end.return_per_agent)
            checkpoints.close()
            report(self._setup, self._end, path, self._compile_s, console or Console(quiet=True))
        return path


def _kind(rows: Sequence[Row], name: str) -> Any:
    return object if any(isinstance(row.get(name), str) for row in rows) else np.float64


def train(
    environment: Environment | None = None,
    algorithm: str = "leed",
    *,
    experiment: str | None = None,
    callbacks: Sequence[Callback | OnIteration] = (),
    progress: bool = True,
    **settings: Any,
) -> TrainingResult:
    """Train in this process and return the result; nothing is written to disk.

    Args:
        environment: where to learn; None for that of the experiment.
        algorithm: leed, ippo, mappo, bc, vdn or qmix.
        experiment: the name or the file of an experiment whose settings to start from.
        callbacks: `Callback` objects, or functions `f(metrics, state)`; training stops when one returns True.
        progress: show progress, in a terminal or a notebook.
        **settings: fields of `RunConfig`; sections as dataclasses or dictionaries, as in `ppo=PPOConfig(epochs=8)` or
            `demonstrations={"path": "mpe_spread/qwen2.5-coder-1.5b"}`.

    Raises:
        LeedError: what was asked for cannot be done.
    """
    config = _config(environment, algorithm, experiment, settings)
    console = Console(quiet=not progress)
    with memory_errors():
        setup = prepare(config, environment)
    parameters, program = initial_parameters(setup), Program(setup)
    program.compile()
    state = program.init()
    if parameters is not None:
        state = state.replace(parameters=parameters)
    rows = _Rows()
    given = [c if isinstance(c, Callback) else FunctionCallback(c) for c in callbacks]
    with ProgressReport(console) as shown, memory_errors():
        end = train_loop(setup, program, state, [rows, ShowProgress(shown, Position()), *given])
    return TrainingResult(config, end.state, rows.rows, setup, end, program.compile_s)


def _config(
    environment: Environment | None, algorithm: str, experiment: str | None, settings: Mapping[str, Any]
) -> RunConfig:
    for name, instead in {"resume": "python -m leed_jax.run resume=RUN", "out": "result.save(FOLDER)"}.items():
        if settings.get(name) is not None:
            raise ConfigurationError(f"train takes no {name}; use {instead}.")
    if environment is not None and "env" in settings:
        raise ConfigurationError("train: give an environment or env, not both.")
    if dotted := [name for name in settings if "." in name]:
        section, _, key = dotted[0].partition(".")
        raise ConfigurationError(f"train: write {dotted[0]} as {section}={{{key!r}: ...}}.")
    values: dict[str, Any] = {}
    if experiment is not None:
        values = to_dictionary(compose_config([f"experiment={experiment}", f"algorithm={algorithm}"]))
    elif environment is None and "env" not in settings:
        raise ConfigurationError("train: give an environment, or experiment=NAME.")
    for name, value in settings.items():
        plain = dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
        values[name] = {**values.get(name, {}), **plain} if isinstance(plain, Mapping) else plain
    values["algorithm"] = algorithm
    if environment is not None:
        identity = environment_identity(environment)
        values["env"] = {"name": identity["name"], **identity["config"]}
    return from_dictionary(values)
