"""The learning curve: every seed, their mean, and the returns that it is to be compared with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leed_jax.report.statistics import interquartile_mean

MIN_SEEDS_FOR_QUARTILES = 4


def draw_learning_curve(path: Path, rows: Sequence[Mapping[str, Any]], references: Mapping[str, float | None]) -> None:
    """Draw returns over environment steps.

    Args:
        path: the image to write.
        rows: the lines of `metrics.jsonl`.
        references: returns to compare with, by label; None is left out.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.ticker import EngFormatter  # noqa: PLC0415

    steps, returns = curves(rows)
    figure = Figure(figsize=(8, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    seeds = returns.shape[1]
    marker = "o" if len(steps) == 1 else None
    if seeds > 1:
        axes.plot(
            steps,
            returns,
            color="C0",
            linewidth=0.8,
            alpha=0.45,
            marker=marker,
            label=["single seeds"] + ["_"] * (seeds - 1),
        )
    quartiles = seeds >= MIN_SEEDS_FOR_QUARTILES
    middle = interquartile_mean(returns) if quartiles else _mean(returns)
    name = "interquartile mean" if quartiles else "mean"
    label = f"{name} of {seeds} seeds" if seeds > 1 else "training, one seed"
    axes.plot(steps, middle, color="C0", linewidth=2.2, marker=marker, label=label)
    for index, (reference, value) in enumerate(references.items()):
        if value is not None:
            axes.axhline(
                value, color=f"C{index + 1}", linestyle="--", linewidth=1.4, label=f"{reference} ({value:.2f})"
            )
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(left=0)
    axes.set_xlabel("environment steps of each seed")
    axes.set_ylabel("episode return per agent\n(undiscounted reward, mean over agents)")
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=110, format="png")


def curves(rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Environment steps `[C]` of each chunk, and returns per agent `[C, S]` of each seed, NaN where there is none."""
    seeds = sorted({row["seed"] for row in rows})
    steps = sorted({row["env_steps"] for row in rows})
    returns = np.full((len(steps), len(seeds)), np.nan)
    place_step, place_seed = ({value: i for i, value in enumerate(values)} for values in (steps, seeds))
    for row in rows:
        if row["return_per_agent"] is not None:
            returns[place_step[row["env_steps"]], place_seed[row["seed"]]] = row["return_per_agent"]
    return np.array(steps), returns


def _mean(returns: np.ndarray) -> np.ndarray:
    known = np.isfinite(returns)
    count = np.sum(known, axis=-1)
    total = np.sum(np.where(known, returns, 0.0), axis=-1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
