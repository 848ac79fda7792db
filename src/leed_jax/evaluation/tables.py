"""A comparison as Markdown tables."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from leed_jax.evaluation.results import GIVEN, Comparison, FirstPassage
from leed_jax.report.statistics import CONFIDENCE, RESAMPLES, WINDOW, Estimate

PERCENT = f"{CONFIDENCE:.0%}".replace("%", " %")
NOT_FINITE, NOT_REACHED = "not finite", "not reached"
# Some Markdown readers want three hyphens under a heading.
_MIN_WIDTH = 3
# With more agents than that, the table shows the lowest and the highest one alone.
_MAX_AGENTS = 8

_ABOUT = (
    "- Return: undiscounted, per episode and agent ({agents} agents), of each seed's greedy policy over {episodes:,} "
    "fresh episodes. IQM: interquartile mean over seeds. In brackets: {percent} interval by stratified bootstrap, "
    "{resamples:,} resamples of each variant's seeds (Agarwal et al. 2021, arXiv 2108.13264). All are evaluated in the "
    "same episodes, which makes differences sharper; no interval covers how typical these episodes are "
    "(`python -m leed_jax.evaluate` gives the standard error). P: probability that a random seed is better than one of "
    "{reference}; ties count half.\n"
    "- Seconds: wall-clock of training divided by the number of seeds, as the seeds of a run are trained side by side "
    "in one program. They leave out what comes before: compiling and preparing (checking the configuration, loading or "
    "executing demonstrations), each once per run, and recording demonstrations (asking the model, testing and "
    "selecting what it wrote), once for all runs. All counted: with all of these, for a single seed whose "
    "demonstrations had to be recorded first.\n"
    "- Reached: at the first point of a seed's learning curve where the mean of the last {window} points is at or "
    "above the threshold, without interpolation. A seed that does not get there counts as infinitely late."
)


def table(comparison: Comparison) -> str:
    """The tables of a comparison, how to read them, and notes."""
    reference = cell(comparison.reference)
    source = f"the level at which the learning curves of {reference} end (IQM of the last {WINDOW} points' means)"
    if comparison.threshold_source == GIVEN:
        source = "as asked for"
    parts = [f"# {cell(comparison.title)}"] if comparison.title else []
    parts += [_final(comparison), *_agents(comparison)]
    parts += [f"Up to a return per agent of {comparison.threshold:.2f}, {source}:", _to_threshold(comparison)]
    if len(comparison.variants) > 1:
        parts += ["Environment steps of each (median) up to where another's learning curves end:", _levels(comparison)]
    values: dict[str, Any] = {"agents": comparison.num_agents, "episodes": comparison.evaluation_episodes}
    parts += [_ABOUT.format(**values, percent=PERCENT, resamples=RESAMPLES, reference=reference, window=WINDOW)]
    if comparison.notes:
        parts.append("\n".join(["Note:", "", *(f"- {cell(note)}" for note in comparison.notes)]))
    return "\n\n".join(parts) + "\n"


def _final(comparison: Comparison) -> str:
    """Final returns and costs, a row per variant."""
    head = ["variant", "seeds", f"return: IQM ({PERCENT})", "median", "lowest", "highest"]
    head += [f"P(better than {cell(comparison.reference)}) ({PERCENT})", "env steps", "s per seed", "compile s"]
    seconds = lambda value: "-" if value is None else f"{value:,.1f}"  # noqa: E731
    rows = [
        [
            cell(variant.label),
            str(len(variant.seeds)),
            _estimate(variant.iqm, ".2f", NOT_FINITE),
            *(_number(value, ".2f", NOT_FINITE) for value in (variant.median, variant.lowest, variant.highest)),
            "-" if variant.improvement is None else _estimate(variant.improvement, ".2f", NOT_FINITE),
            f"{variant.env_steps:,}",
            *map(seconds, (variant.seconds_per_seed, variant.compile_s, variant.preparation_s, variant.recording_s)),
        ]
        for variant in comparison.variants
    ]
    return grid([*head, "preparing s", "recording s"], rows)


def _agents(comparison: Comparison) -> list[str]:
    """The return of each agent, if they differ clearly in some variant; of many agents the lowest and the highest."""
    if not any(variant.agents_differ for variant in comparison.variants):
        return []
    known = [(cell(variant.label), np.array(variant.agents)) for variant in comparison.variants if variant.agents]
    shown = lambda value: _number(value, ".2f", NOT_FINITE)  # noqa: E731
    if comparison.num_agents <= _MAX_AGENTS:
        head = [f"agent {index}" for index in range(comparison.num_agents)]
        rows = [[label, *map(shown, agents)] for label, agents in known]
        return ["Return of each agent, IQM over seeds, as they differ:", grid(["variant", *head], rows)]
    rows = [
        [label, *(text for index in (agents.argmin(), agents.argmax()) for text in (f"{index}", shown(agents[index])))]
        for label, agents in known
    ]
    text = f"Of {comparison.num_agents} agents those with the lowest and the highest return, IQM over seeds:"
    return [text, grid(["variant", "lowest agent", "return", "highest agent", "return"], rows)]


def _to_threshold(comparison: Comparison) -> str:
    """Steps and seconds to the threshold, a row per variant."""
    head = ["variant", "reached by", f"env steps: IQM ({PERCENT})", "median", f"seconds: IQM ({PERCENT})", "median"]

    def passage(values: FirstPassage, form: str) -> list[str]:
        return [_estimate(values.iqm, form, NOT_REACHED), _number(values.median, form, NOT_REACHED)]

    rows = [
        [
            cell(variant.label),
            f"{variant.reached} of {len(variant.seeds)}",
            *passage(variant.steps_to_threshold, ",.0f"),
            *passage(variant.seconds_to_threshold, ",.1f"),
            _number(variant.everything_to_threshold.median, ",.1f", NOT_REACHED),
        ]
        for variant in comparison.variants
    ]
    return grid([*head, "all counted: median"], rows)


def _levels(comparison: Comparison) -> str:
    """Steps to where each variant ends, a row per level, from the lowest up."""
    rows = [
        [cell(passing.label), f"{passing.level:.2f}", *(_number(steps, ",.0f", "-") for steps in passing.steps)]
        for passing in sorted(comparison.passing, key=lambda passing: passing.level)
    ]
    return grid(["the end of", "return", *(cell(variant.label) for variant in comparison.variants)], rows)


def _estimate(estimate: Estimate, form: str, infinite: str) -> str:
    """A statistic with its interval, which a single seed has not."""
    value = _number(estimate.value, form, infinite)
    if math.isnan(estimate.low) or estimate.low == math.inf:
        return value
    return f"{value} ({_number(estimate.low, form, infinite)}, {_number(estimate.high, form, infinite)})"


def _number(value: float, form: str, infinite: str) -> str:
    return format(value, form) if math.isfinite(value) else infinite


def cell(text: Any) -> str:
    """Text that cannot break a table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up in plain text, too; the first one to the left, the others to the right."""
    widths = [max(_MIN_WIDTH, *map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [f"{row[0]:<{widths[0]}}", *(f"{text:>{width}}" for text, width in zip(row[1:], widths[1:], strict=True))]
        for row in (head, rule, *rows)
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
