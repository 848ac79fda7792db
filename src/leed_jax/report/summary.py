"""The summary of a run: settings, times, and returns next to those of the instructions and of random actions."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from leed_jax.files import write_whole, writing
from leed_jax.report.directory import ANIMATION, SUMMARY
from leed_jax.report.metrics import each_agent, mean_or_none


def write_summary(directory: Path, summary: Mapping[str, Any]) -> None:
    """Write `summary.json` atomically; a run that has it has finished.

    Raises:
        RunDirectoryError: it cannot be written.
    """
    with writing(directory / SUMMARY):
        write_whole(directory / SUMMARY, (json.dumps(summary, indent=2, allow_nan=False) + "\n").encode())


def print_summary(console: Console, summary: Mapping[str, Any], directory: Path) -> None:
    """Print the summary as a small table."""
    table = Table(show_header=False, title=escape(f"{summary['algorithm']} in {directory}"), title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(justify="right")
    for label, value in _lines(summary):
        table.add_row(label, value)
    if not (directory / ANIMATION).exists():
        console.print(
            "No animation: the environment cannot draw itself. Give it a method draw(axes, state); see "
            "leed_jax.environments.Drawable.",
            highlight=False,
        )
    console.print(table, highlight=False)


def _lines(summary: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    returns = summary["return_per_agent"]
    known = [value for value in returns if value is not None]
    spread = [("lowest and highest seed", f"{min(known):.2f}, {max(known):.2f}")] if len(known) > 1 else []
    seeds = f", {len(returns)} seeds" if len(returns) > 1 else ""
    agents = mean_of_agents(summary.get("return_of_agents", ()))
    return [
        (f"return per agent, greedy policy{seeds}", _number(mean_or_none(returns))),
        *spread,
        *(
            (f"return of {name.replace('_', ' ')}, greedy policy", _number(value))
            for name, value in each_agent(agents).items()
        ),
        ("return per agent, sampled actions", _number(mean_or_none(summary["stochastic_return_per_agent"]))),
        ("return per agent, instructions alone", _number(summary["instructions_return_per_agent"])),
        ("return per agent, random actions", _number(summary["random_return_per_agent"])),
        ("evaluation episodes", f"{summary['evaluation_episodes']:,}"),
        ("environment steps of each seed", f"{summary['env_steps']:,}"),
        ("training time, s", f"{summary['wall_s']:.1f}"),
        ("compile time, s", f"{summary['compile_s']:.1f}"),
        ("time for checks and loading demonstrations, s", f"{summary['preparation_s']:.1f}"),
        ("time to record the demonstrations, once, s", _number(summary["recording_s"])),
        ("environment steps/s, all seeds", f"{summary['steps_per_s']:,.0f}"),
    ]


def mean_of_agents(returns: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Average returns `[S, A]` over seeds; None for an agent without any."""
    return [mean_or_none(values) for values in zip(*returns, strict=True)]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
