"""Learning curves of a comparison, over environment steps and over wall-clock."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leed_jax.evaluation.results import Comparison
from leed_jax.learning.config import IMITATING

# For colour-blind readers: Okabe and Ito's, without their yellow, which is too pale for a line, and some of Tol's.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#000000", "#882255", "#CCBB44", "#332288", "#117733", "#7A0000"),
)
STYLES: tuple[Any, ...] = ("-", (0, (6, 1.5)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1)), (0, (1.5, 0.8)), (0, (10, 1)))
GREY = "0.35"
_LOG_FROM = 4.0
_MAX_COLUMNS = 4
_MAX_LABEL = 28
_FONT_SIZE = 9.0
_LINE_HEIGHT = 1.25


def new_figure(width: float, height: float) -> Any:
    """An empty `matplotlib.figure.Figure` of a size in inches, without any display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_comparison(path: Path, comparison: Comparison) -> None:
    """Draw the interquartile means with their 95 % bands, and levels to compare them with.

    Args:
        path: the PNG to write.
        comparison: what to draw.
    """
    from matplotlib.ticker import EngFormatter  # noqa: PLC0415 - slow to import

    figure = new_figure(11.5, 4.6)
    by_steps, by_seconds = figure.subplots(1, 2, sharey=True)
    variants, ends = comparison.variants, []
    for variant, colour, style in zip(variants, itertools.cycle(COLOURS), itertools.cycle(STYLES)):
        curve, label = variant.curve, plain_label(variant.label)
        for axes, x in ((by_steps, curve.steps), (by_seconds, curve.seconds)):
            draw_curve(axes, x, curve, label=label, color=colour, linestyle=style)
        if (known := np.flatnonzero(np.isfinite(curve.iqm))).size:
            ends.append((float(curve.steps[known[-1]]), float(curve.iqm[known[-1]]), label, colour))
    lines = [
        [axes.axhline(level, color=GREY, linestyle=style, linewidth=1.2, label=label, zorder=1) for axes in panels]
        for panels in [(by_steps, by_seconds)]
        for level, label, style in reference_levels(comparison)
    ]
    for axes in (by_steps, by_seconds):
        axes.grid(alpha=0.25)
    _scale(by_steps, [variant.curve.steps for variant in variants], "environment steps of a seed")
    _scale(by_seconds, [variant.curve.seconds for variant in variants], "training time of a seed, s")
    by_steps.xaxis.set_major_formatter(EngFormatter(sep=""))
    by_seconds.xaxis.set_major_formatter("{x:g}")
    counts = sorted({len(variant.seeds) for variant in variants})
    seeds = "one seed" if counts == [1] else f"{' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} seeds"
    by_steps.set_ylabel(f"episode return per agent\ninterquartile mean over {seeds}, 95 % band")
    if comparison.title:
        figure.suptitle(plain_label(comparison.title))
    labelled = len(ends) == len(variants) and label_ends(figure, by_steps, ends)
    rows = add_legend(figure, [line[0] for line in lines] if labelled else by_steps.get_legend_handles_labels()[0])
    # Each row of the legend takes its room from below, so that the panels stay as high.
    figure.set_figheight(figure.get_figheight() + 0.22 * rows)
    figure.savefig(path, dpi=130, format="png")


def draw_curve(axes: Any, x: np.ndarray, curve: Any, **look: Any) -> None:
    """Draw the `iqm` of a learning curve, and the band from its `low` to its `high`.

    Args:
        axes: where to draw.
        x: the horizontal values of its points.
        curve: a `Curve`.
        **look: what a Matplotlib line takes.
    """
    axes.plot(x, curve.iqm, linewidth=1.9, marker="o" if len(x) == 1 else None, zorder=3, **look)
    axes.fill_between(x, curve.low, curve.high, color=look["color"], alpha=0.18, linewidth=0, zorder=2)


def label_ends(figure: Any, axes: Any, ends: Sequence[tuple[float, float, str, str]], size: float = _FONT_SIZE) -> bool:
    """Write names of curves to the right of a panel, each as near to the end of its curve as the others let it be.

    Args:
        figure: the figure, complete but for these.
        axes: the panel.
        ends: x and y of the end, label and colour of each curve.
        size: of the font, in points.

    Returns:
        Whether there was room; if not, nothing is written.
    """
    from scipy.optimize import isotonic_regression  # noqa: PLC0415 - slow to import

    figure.draw_without_rendering()  # Computes the layout.
    low, high = axes.get_ylim()
    gap = (high - low) * _LINE_HEIGHT * size / 72 * figure.dpi / axes.get_window_extent().height
    room = high - low - gap * (len(ends) - 1)
    if room < 0 or max(len(label) for _, _, label, _ in ends) > _MAX_LABEL:
        return False
    ordered, steps = sorted(ends, key=lambda end: end[1]), gap * np.arange(len(ends))
    # The places nearest to the ends, in least squares, that are at least a gap apart.
    places = np.clip(isotonic_regression([end[1] for end in ordered] - steps).x, low, low + room) + steps
    axes.set_ylim(low, high)
    for (x, y, label, colour), place in zip(ordered, places, strict=True):
        axes.annotate(
            label,
            xy=(x, y),
            xytext=(1.05, place),
            textcoords=axes.get_yaxis_transform(),
            color=colour,
            size=size,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.7,
                "shrinkA": 2,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )
    return True


def add_legend(figure: Any, handles: Sequence[Any]) -> int:
    """Put a legend below all panels, in as many columns as there is room for; return the number of its rows."""
    for columns in range(_MAX_COLUMNS, 0, -1):
        legend = figure.legend(
            handles=handles, loc="outside lower center", ncols=columns, frameon=False, handlelength=3.2
        )
        if columns == 1 or legend.get_window_extent(figure.canvas.get_renderer()).width <= figure.bbox.width:
            break
        legend.remove()
    return -(-len(handles) // columns)


def reference_levels(comparison: Comparison) -> Iterator[tuple[float, str, Any]]:
    """Value, label and line style of the horizontal lines to compare learning curves with."""
    yield comparison.threshold, f"threshold ({comparison.threshold:.2f})", ":"
    of_plans: dict[str, tuple[float, list[str]]] = {}
    for variant in comparison.variants:
        # The other algorithms record the return of the experiment's instructions, too, and do not learn from them.
        value = variant.instructions_return if variant.algorithm in IMITATING else None
        if value is not None:
            of_plans.setdefault(f"{value:.2f}", (value, []))[1].append(variant.label)
    for shown, (value, labels) in of_plans.items():
        # All labels together may be wider than the picture.
        further = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
        whose = "" if len(of_plans) == 1 else f", {plain_label(labels[0])}{further}"
        yield value, f"instructions alone{whose} ({shown})", (0, (8, 4))
    random = [variant.random_return for variant in comparison.variants if variant.random_return is not None]
    if random:
        yield float(np.mean(random)), f"random actions ({np.mean(random):.2f})", (0, (8, 3, 1.5, 3))


def _scale(axes: Any, values: Sequence[np.ndarray], label: str) -> None:
    """Name the horizontal axis; it is logarithmic where one variant takes many times as long as another."""
    ends = [float(x[-1]) for x in values]
    if max(ends) > _LOG_FROM * min(ends) and min(float(x[0]) for x in values) > 0:
        axes.set_xscale("log")
        label += " (log scale)"
    else:
        axes.set_xlim(left=0)
    axes.set_xlabel(label)


def plain_label(text: str) -> str:
    """Text that Matplotlib takes literally: no formulas, and no leading underscore, which would hide it."""
    shown = " ".join(text.split()).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown
