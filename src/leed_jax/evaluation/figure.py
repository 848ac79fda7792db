"""Learning curves of the variants of a comparison, over environment steps and over wall-clock."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from leed_jax.config import IMITATING
from leed_jax.evaluation.results import Comparison, VariantResult

# Okabe and Ito's colours, which most colour-blind people can tell apart, with a dark red in place of their yellow,
# which is too pale for a line. Line styles tell them apart in print, too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255")
STYLES: tuple[Any, ...] = ("-", (0, (6, 1.5)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1)), (0, (1.5, 0.8)), (0, (10, 1)))
GREY = "0.35"
LOG_FROM = 4.0
MOST_COLUMNS = 4


def draw(path: Path, comparison: Comparison) -> None:
    """Draw the interquartile means with their 95 % bands, and the levels to compare them with.

    Args:
        path: the PNG to write.
        comparison: what to draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.ticker import EngFormatter  # noqa: PLC0415

    figure = Figure(figsize=(11.5, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    by_steps, by_seconds = figure.subplots(1, 2, sharey=True)
    for variant, colour, style in zip(comparison.variants, itertools.cycle(COLOURS), itertools.cycle(STYLES)):
        _draw_curve(by_steps, variant, variant.curve.steps, colour, style)
        _draw_curve(by_seconds, variant, variant.curve.seconds, colour, style)
    for axes in (by_steps, by_seconds):
        for level, label, style in levels(comparison):
            axes.axhline(level, color=GREY, linestyle=style, linewidth=1.2, label=label, zorder=1)
        axes.grid(alpha=0.25)
    _scale(by_steps, [variant.curve.steps for variant in comparison.variants], "environment steps of a seed")
    _scale(by_seconds, [variant.curve.seconds for variant in comparison.variants], "training time of a seed, s")
    by_steps.xaxis.set_major_formatter(EngFormatter(sep=""))
    by_seconds.xaxis.set_major_formatter("{x:g}")
    by_steps.set_ylabel("episode return per agent\ninterquartile mean over seeds, 95 % band")
    rows = add_legend(figure, by_steps)
    # Each row of the legend takes its room from below, so that the panels stay as high.
    figure.set_figheight(figure.get_figheight() + 0.22 * rows)
    if comparison.title:
        figure.suptitle(_plain(comparison.title))
    figure.savefig(path, dpi=130, format="png")


def add_legend(figure: Any, axes: Any) -> int:
    """Put the legend of some panel below all of them, in as many columns as there is room for.

    Args:
        figure: a `matplotlib.figure.Figure`, on a canvas.
        axes: the panel.

    Returns:
        The number of its rows.
    """
    handles, labels = axes.get_legend_handles_labels()
    for columns in range(MOST_COLUMNS, 0, -1):
        legend = figure.legend(
            handles, labels, loc="outside lower center", ncols=columns, frameon=False, handlelength=3.2
        )
        if columns == 1 or legend.get_window_extent(figure.canvas.get_renderer()).width <= figure.bbox.width:
            break
        legend.remove()
    return -(-len(labels) // columns)


def _draw_curve(axes: Any, variant: VariantResult, x: np.ndarray, colour: str, style: Any) -> None:
    curve, seeds = variant.curve, len(variant.seeds)
    label = f"{_plain(variant.label)}, {seeds} seed{'s' if seeds > 1 else ''}"
    marker = "o" if len(x) == 1 else None
    axes.plot(x, curve.iqm, color=colour, linestyle=style, linewidth=1.9, marker=marker, label=label, zorder=3)
    axes.fill_between(x, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0, zorder=2)


def levels(comparison: Comparison) -> Iterator[tuple[float, str, Any]]:
    """Horizontal lines, to compare learning curves with.

    Args:
        comparison: what is drawn.

    Yields:
        Value, label and line style.
    """
    yield comparison.threshold, f"threshold ({comparison.threshold:.2f})", ":"
    of_plans: dict[str, tuple[float, list[str]]] = {}
    for variant in comparison.variants:
        # The other algorithms record what the experiment's instructions earn, too, and do not learn from them.
        value = variant.instructions_return if variant.algorithm in IMITATING else None
        if value is not None:
            of_plans.setdefault(f"{value:.2f}", (value, []))[1].append(variant.label)
    for shown, (value, labels) in of_plans.items():
        # All labels together may be wider than the picture.
        further = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
        whose = "" if len(of_plans) == 1 else f", {_plain(labels[0])}{further}"
        yield value, f"instructions alone{whose} ({shown})", (0, (8, 4))
    random = [variant.random_return for variant in comparison.variants if variant.random_return is not None]
    if random:
        yield float(np.mean(random)), f"random actions ({np.mean(random):.2f})", (0, (8, 3, 1.5, 3))


def _scale(axes: Any, values: list[np.ndarray], label: str) -> None:
    """Name the horizontal axis; it is logarithmic where one variant takes many times as long as another."""
    ends = [float(x[-1]) for x in values]
    first = min(float(x[0]) for x in values)
    if max(ends) > LOG_FROM * min(ends) and first > 0:
        axes.set_xscale("log")
        label += " (log scale)"
    else:
        axes.set_xlim(left=0)
    axes.set_xlabel(label)


def _plain(text: str) -> str:
    """Text that Matplotlib takes as it is: no formulas, and no leading underscore, which would hide it."""
    shown = " ".join(text.split()).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown
