"""The page and the summary figure of a comparison, and what all studies print."""

import dataclasses
import itertools
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from leed_jax.evaluation import PICTURE, Comparison, Estimate, VariantResult, table
from leed_jax.evaluation.figures import COLOURS, STYLES, add_legend, new_figure
from leed_jax.evaluation.tables import cell
from leed_jax.files import write_whole, writing
from leed_jax.report.progress import clock
from leed_jax.studies.settings import as_label
from leed_jax.studies.study import Point, Study

PAGE, SUMMARY_PICTURE = "README.md", "points.png"

# Distance between variants at one point, and height of the mark for "not reached", in shares of the axes.
_SHIFT, _TOP = 0.06, 0.97

Work = tuple[str, float, float]
"""A variant, the environment steps of all seeds together, and the seconds that they took."""


def say(console: Console, text: str) -> None:
    """Print a line as it is."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def time_left(done: Sequence[Work], rest: Sequence[Work]) -> str:
    """About how long the rest takes, in words; each variant at its own speed where it is known, else at that of all."""

    def pace(items: Sequence[Work]) -> float:
        return sum(seconds for *_, seconds in items) / sum(steps for _, steps, _ in items)

    if not done:
        return "time left not known yet"
    paces = {label: pace([item for item in done if item[0] == label]) for label, *_ in done}
    return f"about {clock(sum((steps * paces.get(label, pace(done)) for label, steps, _ in rest), 0.0))} left"


def write_page(study: Study, found: Sequence[tuple[Point, Comparison]], summaries: Sequence[Mapping[str, Any]]) -> Path:
    """Write the page of a study of kind=compare and the figure over its points; return the page.

    Args:
        study: the study.
        found: the comparison at each point.
        summaries: of all runs, for the devices and versions.

    Raises:
        RunDirectoryError: it cannot be written.
    """
    file, path = study.file, study.out / PAGE
    lines = [f"# {file.title}", "", *([file.description.strip(), ""] if file.description.strip() else [])]
    lines += ["```sh", study.command, "```", "", _settings(study), ""]
    lines += [machine_line([(summary["device"], summary["versions"]) for summary in summaries]), ""]
    if file.points.values:
        with writing(study.out / SUMMARY_PICTURE):
            draw_points(study.out / SUMMARY_PICTURE, study.points_label, found)
        lines += [f"![{cell(file.title)}]({SUMMARY_PICTURE})", ""]
    for point, comparison in found:
        lines += [f"## {study.points_label} = {as_label(point.value)}", ""] if point.name else []
        lines += [table(dataclasses.replace(comparison, title=""))]
        lines += [f"![Learning curves{f', {point.name}' if point.name else ''}]({Path(point.name) / PICTURE})", ""]
    with writing(path):
        write_whole(path, ("\n".join(lines).rstrip() + "\n").encode())
    return path


def _settings(study: Study) -> str:
    """Seeds, and what the command line changed."""
    seeds, first = study.file.seeds, study.file.seeds.first or 0
    which = f"seed {first}" if seeds.count == 1 else f"seeds {first} to {first + seeds.count - 1}"
    side_by_side = min(study.file.seeds_per_run or seeds.count, seeds.count)
    text = f"Experiment {study.file.experiment or '-'}, {which}, up to {side_by_side} of them side by side."
    if study.overrides:
        changes = " ".join(f"{key}={value}" for key, value in study.overrides.items())
        text += f" Changed on the command line, for every run: `{changes}`."
    if study.partial:
        points = [point.name for point in study.points if point.name]
        text += f" A part of the study alone: {', '.join([*study.variants, *points])}."
    return text


def machine_line(made_on: Iterable[tuple[Mapping[str, Any], Mapping[str, str]]]) -> str:
    """The hardware and software of results, from device and versions of each run, as in its summary."""
    devices: dict[str, None] = {}
    versions: dict[str, None] = {}
    for device, version in made_on:
        devices[f"{device.get('count', 1)} x {device.get('kind', '?')} ({device.get('platform', '?')})"] = None
        versions[", ".join(f"{name} {number}" for name, number in version.items())] = None
    return (
        f"Computed on {'; '.join(devices)}, with {'; '.join(versions)}. This page was written on {platform.system()} "
        f"{platform.machine()} with {os.cpu_count()} CPU cores, Python {platform.python_version()}."
    )


def draw_points(path: Path, label: str, found: Sequence[tuple[Point, Comparison]]) -> None:
    """Draw final returns and steps to the threshold at each point: interquartile means with 95 % intervals.

    Points are at equal distances, whatever their values are. Where too few seeds of a variant reach the threshold for
    a finite mean, the right panel has a cross at its top.
    """
    from matplotlib.ticker import EngFormatter  # noqa: PLC0415 - slow to import

    figure = new_figure(11.0, 4.8)
    final, steps = figure.subplots(1, 2)
    names = [variant.label for variant in found[0][1].variants]
    for index, (name, colour, style) in enumerate(zip(names, itertools.cycle(COLOURS), itertools.cycle(STYLES))):
        places = np.arange(len(found)) + _SHIFT * (index - (len(names) - 1) / 2)
        look = {"label": name, "color": colour, "linestyle": style}
        _draw(final, places, estimates(found, name, lambda variant: variant.iqm), look)
        _draw(steps, places, estimates(found, name, lambda variant: variant.steps_to_threshold.iqm), look)
    for axes in (final, steps):
        axes.set_xticks(range(len(found)), [as_label(point.value) for point, _ in found])
        axes.set_xlim(-0.5, len(found) - 0.5)
        axes.set_xlabel(label)
        axes.grid(alpha=0.25)
    final.set_ylabel("final return per agent, greedy\ninterquartile mean over seeds, 95 % interval")
    steps.set_ylabel("environment steps to each point's threshold\ninterquartile mean (cross: not reached)")
    steps.set_ylim(0, 1.1 * max(variant.env_steps for _, comparison in found for variant in comparison.variants))
    steps.yaxis.set_major_formatter(EngFormatter(sep=""))
    add_legend(figure, final.get_legend_handles_labels()[0])
    figure.savefig(path, dpi=130, format="png")


def estimates(
    found: Sequence[tuple[Point, Comparison]], name: str, choose: Callable[[VariantResult], Estimate]
) -> np.ndarray:
    """Value, lower and upper end of a variant's statistic at each point `[P, 3]`; NaN where it is not finite."""
    chosen = [choose(variant) for _, comparison in found for variant in comparison.variants if variant.label == name]
    rows = np.array([(estimate.value, estimate.low, estimate.high) for estimate in chosen])
    return np.where(np.isfinite(rows), rows, np.nan)


def _draw(axes: Any, places: np.ndarray, rows: np.ndarray, look: dict[str, Any]) -> None:
    value, low, high = rows.T
    # An end that is not finite is left out, and so is the half of the bar that leads there.
    ends = np.nan_to_num(np.abs(np.stack([value - low, high - value])))
    axes.errorbar(places, value, yerr=ends, marker="o", markersize=4, capsize=3, linewidth=1.9, **look)
    missing = places[np.isnan(value)]
    at_top = axes.get_xaxis_transform()
    axes.scatter(missing, np.full(len(missing), _TOP), marker="x", color=look["color"], transform=at_top)
