"""`python -m leed_jax.evaluate RUN`: what a run's policies earn on fresh episodes, greedy and stochastic."""

import argparse
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from leed_jax.cli.common import exit_on_error, use_compilation_cache
from leed_jax.config import RunConfig, check_config
from leed_jax.errors import ConfigurationError
from leed_jax.files import write_whole, writing
from leed_jax.learning.episodes import Actor, measured_play, random_actor
from leed_jax.report.checkpoints import read_parameters
from leed_jax.report.directory import last_checkpoint, read_config
from leed_jax.report.metrics import check_metrics, each_agent, plain
from leed_jax.report.statistics import interquartile_mean
from leed_jax.training.program import Setup, memory_errors, prepare
from leed_jax.training.trained_policy import stacked_parameters

ABOUT = """
Evaluate the policies of a run, finished or not, on fresh episodes: greedy and sampled actions, compared with the
instructions that the run started with and with random actions.
"""

EXAMPLES = """
examples:
  python -m leed_jax.evaluate runs/leed
  python -m leed_jax.evaluate runs/leed --checkpoint best --episodes 10000 --seed 7 --out evaluation.json

By default the episodes are those of the run's summary, so the greedy figures are the same.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate the run of a command line.

    Args:
        arguments: the command line; that of the process if None.

    Returns:
        The exit status: 0, or 2 after an error.
    """
    parsed = _parser().parse_args(arguments)
    return exit_on_error(lambda: _main(parsed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m leed_jax.evaluate",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a run directory")
    add("--checkpoint", default="last", metavar="WHICH", help="last, best (by the return while training), or a number")
    add("--episodes", type=int, metavar="N", help="fresh episodes for each figure; default: the run's own number")
    add("--seed", type=int, metavar="N", help="their seed; default: the run's own")
    add("--out", type=Path, metavar="FILE", help="write the figures to this file, as JSON")
    return parser


def _main(arguments: argparse.Namespace) -> int:
    use_compilation_cache()
    config = _wanted(read_config(arguments.run), arguments.episodes, arguments.seed)
    check_metrics(arguments.run, last_checkpoint(arguments.run), config.num_seeds)
    if arguments.out is not None:
        _check_out(arguments.out)
    found = evaluate_run(arguments.run, config, arguments.checkpoint)
    _print(found, arguments.run)
    if arguments.out is not None:
        with writing(arguments.out):
            write_whole(arguments.out, (json.dumps(found, indent=2, allow_nan=False) + "\n").encode())
        print(arguments.out)
    return 0


def _check_out(out: Path) -> None:
    if out.is_dir() or not os.access(out.absolute().parent, os.W_OK | os.X_OK):
        why = "it is a folder" if out.is_dir() else f"{out.absolute().parent} is not a writable folder"
        raise ConfigurationError(f"--out {out}: {why}; name a file in an existing folder.")


def _wanted(config: RunConfig, episodes: int | None, seed: int | None) -> RunConfig:
    changes = {name: value for name, value in (("episodes", episodes), ("seed", seed)) if value is not None}
    config = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, **changes))
    check_config(config)
    return config


def evaluate_run(path: Path, config: RunConfig, checkpoint: str = "last") -> dict[str, Any]:
    """Evaluate a checkpoint of a run.

    Args:
        path: the run directory.
        config: its configuration, with the number and the seed of the episodes.
        checkpoint: `last`, `best`, or the number of an existing one.

    Returns:
        Figures as plain values. Each of `greedy`, `stochastic`, `instructions` and `random` holds, by seed, the mean
        return per agent with its standard error, the mean return of each agent, and the environment's measures.

    Raises:
        LeedError: there is no such run or checkpoint, or something that it needs is missing.
    """
    with memory_errors():
        setup = prepare(config)
        chunk, named = read_parameters(path, checkpoint)
        state = stacked_parameters(setup.algorithm, named, path)
        figures = {
            name: _figures(setup, lambda parameters, greedy=greedy: setup.algorithm.actor(parameters, greedy), state)
            for name, greedy in (("greedy", True), ("stochastic", False))
        }
        figures["random"] = _figures(setup, lambda _: random_actor(setup.environment), None)
    if setup.demonstrations is not None:
        key = jax.random.fold_in(jax.random.key(config.evaluation.seed), 2)
        returns = np.asarray(setup.demonstrations.returns(key, config.evaluation.episodes))
        figures["instructions"] = _summarise(returns[None], {})
    return {
        "run": str(path),
        "algorithm": config.algorithm,
        "checkpoint": chunk,
        "env_steps": chunk * setup.schedule.steps_per_chunk,
        "seeds": [config.seed + index for index in range(config.num_seeds)],
        "episodes": config.evaluation.episodes,
        "evaluation_seed": config.evaluation.seed,
        **figures,
    }


def _figures(setup: Setup, actor_of: Any, parameters: Any) -> dict[str, Any]:
    """Play with the policies of each seed, or once if there are no parameters."""
    evaluation = setup.config.evaluation

    @jax.jit
    def score(parameters: Any) -> Any:
        def one(parameters: Any) -> Any:
            actor: Actor = actor_of(parameters)
            return measured_play(setup.environment, actor, jax.random.key(evaluation.seed), evaluation.episodes)

        if parameters is None:
            return jax.tree.map(lambda x: x[None], one(None))
        return jax.lax.map(one, parameters)

    returns, measures = score(parameters)
    return _summarise(np.asarray(returns), {name: np.asarray(value) for name, value in measures.items()})


def _summarise(returns: np.ndarray, measures: dict[str, np.ndarray]) -> dict[str, Any]:
    """Average returns `[S, E, A]` and measures `[S, E]` over episodes."""
    teams = returns.mean(axis=-1, dtype=np.float64)
    return {
        "return_per_agent": plain(teams.mean(axis=1)),
        "standard_error": plain(teams.std(axis=1, ddof=1) / np.sqrt(teams.shape[1])),
        "return_of_agents": plain(returns.mean(axis=1, dtype=np.float64)),
        "measures": {name: plain(value.mean(axis=1)) for name, value in measures.items()},
    }


_ROWS = {
    "greedy": "policies, greedy",
    "stochastic": "policies, sampled",
    "instructions": "instructions alone",
    "random": "random actions",
}


def _print(found: dict[str, Any], path: Path) -> None:
    seeds = len(found["seeds"])
    title = (
        f"{found['algorithm']} in {path}: checkpoint {found['checkpoint']}, after {found['env_steps']:,} steps; "
        f"{found['episodes']:,} fresh episodes{f', {seeds} seeds' if seeds > 1 else ''}"
    )
    table = Table(title=escape(title), title_justify="left")
    measures = list(found["greedy"]["measures"])
    agents = list(each_agent(found["greedy"]["return_of_agents"][0]))
    middle = "return per agent" if seeds == 1 else "return per agent (interquartile mean)"
    spread = "spread" if seeds == 1 else "lowest, highest seed"
    for column in ("", middle, spread, *(name.replace("_", " ") for name in agents), *measures):
        table.add_column(column, justify="right" if column else "left")
    for key, label in _ROWS.items():
        if key in found:
            table.add_row(label, *_cells(found[key], measures))
    # Wide enough for all columns, as Rich cuts off cells that do not fit the terminal.
    width = max(Console().width, 60 + 24 * (1 + len(measures)) + 16 * len(agents))
    Console(width=width).print(table, highlight=False)


def _cells(figures: dict[str, Any], names: Sequence[str]) -> list[str]:
    returns = np.array(figures["return_per_agent"], np.float64)
    error = np.array(figures["standard_error"], np.float64)[0]
    spread = f"s.e. {error:.2f}" if len(returns) == 1 else f"{returns.min():.2f}, {returns.max():.2f}"
    agents = interquartile_mean(np.array(figures["return_of_agents"], np.float64).T)
    measured = [figures["measures"].get(name) for name in names]
    return [
        f"{interquartile_mean(returns):.2f}",
        spread,
        *(f"{value:.2f}" for value in each_agent(agents.tolist()).values()),
        *("" if value is None else f"{np.mean(np.array(value, np.float64)):.2f}" for value in measured),
    ]
