"""The learning curve of a run: greedy and sampled returns of each seed, and of each agent where agents differ."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from leed_jax.files import writing
from leed_jax.report.metrics import MAX_AGENTS_SHOWN
from leed_jax.report.statistics import interquartile_mean

MIN_SEEDS_FOR_QUARTILES = 4
# Agents get a panel of their own if their final returns spread over more than this share of the mean's magnitude.
CLEAR_SPREAD = 0.1
FINAL_SHARE = 0.1

# Distinguishable with all common kinds of colour blindness (Okabe and Ito 2008).
BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
COLOURS = (BLUE, VERMILION, GREEN, "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#999999")
_METRICS = (
    ("greedy_return_per_agent", "greedy actions", BLUE),
    ("return_per_agent", "sampled actions, while training", VERMILION),
)
_DASHES = ("-", "--", "-.", ":") * 2
_REFERENCES = ((GREEN, "--"), (GREY, ":"), ("#CC79A7", "-."))


def draw_learning_curve(path: Path, rows: Sequence[Mapping[str, Any]], references: Mapping[str, float | None]) -> None:
    """Draw returns over environment steps.

    Args:
        path: the image to write.
        rows: the lines of `metrics.jsonl`.
        references: returns to compare with, by label; None is left out.

    Raises:
        RunDirectoryError: the image cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.ticker import EngFormatter  # noqa: PLC0415

    steps, agents = agent_curves(rows)
    panels = 2 if agents_differ(agents) else 1
    figure = Figure(figsize=(8, 2.2 + 3.2 * panels), layout="constrained")
    FigureCanvasAgg(figure)
    column = figure.subplots(panels, sharex=True, squeeze=False, height_ratios=(1.4, 1.0)[:panels])[:, 0]
    _draw_returns(column[0], rows, references)
    if panels > 1:
        _draw_agents(column[1], steps, agents)
    for axes in column:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlim(left=0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    seeds = ", thin lines: single seeds" if agents.shape[1] > 1 else ""
    column[-1].set_xlabel(f"environment steps of each seed{seeds}")
    with writing(path):
        figure.savefig(path, dpi=110, format="png")


def _draw_returns(axes: Any, rows: Sequence[Mapping[str, Any]], references: Mapping[str, float | None]) -> None:
    """Greedy and sampled returns: a thin line for each seed, a thick one for their average."""
    for metric, label, colour in _METRICS:
        steps, returns = curves(rows, metric)
        if not np.isfinite(returns).any():
            continue
        seeds = returns.shape[1]
        quartiles = seeds >= MIN_SEEDS_FOR_QUARTILES
        middle = interquartile_mean(returns) if quartiles else _mean(returns)
        average = f": {'interquartile mean' if quartiles else 'mean'} of {seeds} seeds" if seeds > 1 else ""
        style = {"color": colour, "marker": "o" if len(steps) == 1 else None}
        if seeds > 1:
            axes.plot(steps, returns, linewidth=0.7, alpha=0.4, **style)
        axes.plot(steps, middle, linewidth=2.4, label=label + average, **style)
    for (label, value), (colour, line) in zip(references.items(), itertools.cycle(_REFERENCES), strict=False):
        if value is not None:
            axes.axhline(value, color=colour, linestyle=line, linewidth=1.6, label=f"{label}: {value:.2f}")
    axes.set_ylabel("return per agent\n(mean over agents)")
    axes.figure.legend(loc="outside upper center", ncols=2, frameon=False)


def _draw_agents(axes: Any, steps: Int[np.ndarray, " C"], agents: Float[np.ndarray, "C S A"]) -> None:
    """The return of each agent, or the lowest and highest where there are many, as means over seeds."""
    returns = _mean(np.moveaxis(agents, 1, -1))
    marker = "o" if len(steps) == 1 else None
    if returns.shape[1] <= MAX_AGENTS_SHOWN:
        # Dashes keep lines visible that lie on top of one another.
        for index, (values, colour, line) in enumerate(zip(returns.T, COLOURS, _DASHES, strict=False)):
            axes.plot(steps, values, line, color=colour, linewidth=1.8, marker=marker, label=f"agent {index}")
    else:
        low, high = np.fmin.reduce(returns, axis=1), np.fmax.reduce(returns, axis=1)
        axes.fill_between(steps, low, high, color=VERMILION, alpha=0.15, linewidth=0)
        axes.plot(steps, high, color=BLUE, linewidth=1.8, marker=marker, label="highest agent")
        axes.plot(steps, _mean(returns), color=VERMILION, linewidth=1.8, marker=marker, label="mean")
        axes.plot(steps, low, color="#000000", linewidth=1.8, marker=marker, label="lowest agent")
    axes.set_ylabel("return of each agent\n(sampled actions)")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def curves(
    rows: Sequence[Mapping[Any, Any]], metric: str | int = "return_per_agent"
) -> tuple[Int[np.ndarray, " C"], Float[np.ndarray, "C S"]]:
    """Environment steps after each chunk, and a metric of each seed; NaN where there is none."""
    seeds = {seed: index for index, seed in enumerate(sorted({row["seed"] for row in rows}))}
    steps = {step: index for index, step in enumerate(sorted({row["env_steps"] for row in rows}))}
    values = np.full((len(steps), len(seeds)), np.nan)
    for row in rows:
        value = row.get(metric)
        values[steps[row["env_steps"]], seeds[row["seed"]]] = np.nan if value is None else value
    return np.array(list(steps)), values


def agent_curves(rows: Sequence[Mapping[str, Any]]) -> tuple[Int[np.ndarray, " C"], Float[np.ndarray, "C S A"]]:
    """Environment steps after each chunk, and the return of each agent in each seed; NaN where there is none."""
    count = max(len(row.get("return_of_agents", ())) for row in rows)
    named = [{**row, **dict(enumerate(row.get("return_of_agents", ())))} for row in rows]
    found = [curves(named, index)[1] for index in range(count)]
    steps, returns = curves(rows)
    # Runs of earlier versions have no returns of agents: a single one stands for all.
    return steps, np.stack(found or [returns], axis=-1)


def agents_differ(returns: Float[np.ndarray, "C S A"]) -> bool:
    """Whether agents differ clearly in their mean returns over the last chunks."""
    last = returns[-max(1, round(FINAL_SHARE * len(returns))) :]
    means = _mean(last.reshape(-1, last.shape[-1]).T)
    if not np.isfinite(means).any():
        return False
    return bool(np.nanmax(means) - np.nanmin(means) > CLEAR_SPREAD * abs(np.nanmean(means)))


def _mean(values: Float[np.ndarray, "*batch S"]) -> Float[np.ndarray, "*batch"]:
    """The mean along the last axis; NaN counts as missing."""
    known = np.isfinite(values)
    count = np.sum(known, axis=-1)
    total = np.sum(np.where(known, values, 0.0), axis=-1)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)
