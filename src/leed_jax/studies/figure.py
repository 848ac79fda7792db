"""The summary of a study over its points: final returns, and steps to the threshold."""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leed_jax.evaluation import Comparison, Estimate, VariantResult
from leed_jax.evaluation.figure import COLOURS, STYLES, add_legend
from leed_jax.studies.schema import shown_value

BESIDE = 0.06
TOP = 0.97
HEADROOM = 1.1


def draw_points(path: Path, label: str, found: Sequence[tuple[Any, Comparison]]) -> None:
    """Draw the interquartile means over seeds with their 95 % intervals, at each point.

    Points stand at equal distances, whatever their values are. Where too few seeds of a variant reach the threshold for
    a finite mean, the right panel has a cross at its top.

    Args:
        path: the PNG to write.
        label: what the horizontal axis is called.
        found: the value and the comparison of each point.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.ticker import EngFormatter  # noqa: PLC0415

    figure = Figure(figsize=(11.0, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    final, reaching = figure.subplots(1, 2)
    names = [variant.label for variant in found[0][1].variants]
    for index, (name, colour, style) in enumerate(zip(names, itertools.cycle(COLOURS), itertools.cycle(STYLES))):
        places = np.arange(len(found)) + BESIDE * (index - (len(names) - 1) / 2)
        look = {"label": name, "color": colour, "linestyle": style}
        _draw(final, places, estimates(found, name, lambda variant: variant.iqm), look)
        _draw(reaching, places, estimates(found, name, lambda variant: variant.steps_to_threshold.iqm), look)
    for axes in (final, reaching):
        axes.set_xticks(range(len(found)), [shown_value(value) for value, _ in found])
        axes.set_xlim(-0.5, len(found) - 0.5)
        axes.set_xlabel(label)
        axes.grid(alpha=0.25)
    final.set_ylabel("final return per agent, greedy\ninterquartile mean over seeds, 95 % interval")
    reaching.set_ylabel("environment steps to each point's threshold\ninterquartile mean (cross: not reached)")
    longest = max(variant.env_steps for _, comparison in found for variant in comparison.variants)
    reaching.set_ylim(0, HEADROOM * longest)
    reaching.yaxis.set_major_formatter(EngFormatter(sep=""))
    add_legend(figure, final)
    figure.savefig(path, dpi=130, format="png")


def estimates(
    found: Sequence[tuple[Any, Comparison]], name: str, choose: Callable[[VariantResult], Estimate]
) -> np.ndarray:
    """Value, lower and upper end of a variant's statistic at each point `[P, 3]`; NaN where it is not finite.

    Args:
        found: the value and the comparison of each point.
        name: the variant.
        choose: the statistic.
    """
    rows = []
    for _, comparison in found:
        (variant,) = [variant for variant in comparison.variants if variant.label == name]
        estimate = choose(variant)
        row = (estimate.value, estimate.low, estimate.high)
        rows.append([number if math.isfinite(number) else math.nan for number in row])
    return np.array(rows)


def _draw(axes: Any, places: np.ndarray, rows: np.ndarray, look: dict[str, Any]) -> None:
    value, low, high = rows.T
    # An end that is not finite is left out, and so is the half of the bar that leads there.
    ends = np.nan_to_num(np.abs(np.stack([value - low, high - value])))
    axes.errorbar(places, value, yerr=ends, marker="o", markersize=4, capsize=3, linewidth=1.9, **look)
    missing = places[np.isnan(value)]
    at_top = axes.get_xaxis_transform()
    axes.scatter(missing, np.full(len(missing), TOP), marker="x", color=look["color"], transform=at_top)
