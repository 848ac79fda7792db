"""A comparison as Markdown tables."""

import math
from collections.abc import Sequence

from leed_jax.evaluation.results import GIVEN, OF_CURVE, Comparison, Reaching, VariantResult
from leed_jax.report.statistics import CONFIDENCE, RESAMPLES, WINDOW, Estimate

SOURCE = "Agarwal et al. 2021, arXiv 2108.13264"
DIVERGED = "not finite"
NOT_REACHED = "not reached"
# A rule under a heading has a hyphen, and some readers want three.
_NARROWEST = 3


def table(comparison: Comparison) -> str:
    """The tables of a comparison, what they mean, and what a reader should know."""
    parts = [f"# {_cell(comparison.title)}"] if comparison.title else []
    parts += [_final(comparison), f"Up to a return per agent of {comparison.threshold:.2f}, {_threshold(comparison)}:"]
    parts += [_to_threshold(comparison)]
    if len(comparison.variants) > 1:
        parts += ["Environment steps of each (median) up to where another's learning curves end:", _passing(comparison)]
    parts += ["\n".join(f"- {line}" for line in _meaning(comparison))]
    if comparison.notes:
        parts.append("\n".join(["Note:", "", *(f"- {_cell(note)}" for note in comparison.notes)]))
    return "\n\n".join(parts) + "\n"


def _final(comparison: Comparison) -> str:
    """Final returns and costs, a row per variant."""
    head = ["variant", "seeds", f"return: IQM ({_percent()})", "median", "lowest", "highest"]
    head += [f"P(better than {_cell(comparison.reference)}) ({_percent()})", "env steps", "s per seed", "compile s"]
    head += ["preparing s", "recording s"]
    return _grid(head, [_final_row(variant) for variant in comparison.variants])


def _final_row(variant: VariantResult) -> list[str]:
    level = lambda value: f"{value:.2f}" if math.isfinite(value) else DIVERGED  # noqa: E731
    better = variant.improvement
    seconds = lambda value: "-" if value is None else f"{value:,.1f}"  # noqa: E731
    return [
        _cell(variant.label),
        str(len(variant.seeds)),
        _estimate(variant.iqm, ".2f", DIVERGED),
        *map(level, (variant.median, variant.lowest, variant.highest)),
        "-" if better is None else _estimate(better, ".2f", DIVERGED),
        f"{variant.env_steps:,}",
        *map(seconds, (variant.seconds_per_seed, variant.compile_s, variant.preparation_s, variant.recording_s)),
    ]


def _to_threshold(comparison: Comparison) -> str:
    """Steps and seconds to the threshold, a row per variant."""
    head = [
        "variant",
        "reached by",
        f"env steps: IQM ({_percent()})",
        "median",
        f"seconds: IQM ({_percent()})",
        "median",
        "all counted: median",
    ]
    rows = [
        [
            _cell(variant.label),
            f"{variant.reached} of {len(variant.seeds)}",
            *_reaching(variant.steps_to_threshold, ",.0f"),
            *_reaching(variant.seconds_to_threshold, ",.1f"),
            _number(variant.everything_to_threshold.median, ",.1f", NOT_REACHED),
        ]
        for variant in comparison.variants
    ]
    return _grid(head, rows)


def _passing(comparison: Comparison) -> str:
    """Steps to where each variant ends, a row per level, from the lowest up."""
    rows = [
        [_cell(passing.label), f"{passing.level:.2f}", *(_number(steps, ",.0f", "-") for steps in passing.steps)]
        for passing in sorted(comparison.passing, key=lambda passing: passing.level)
    ]
    return _grid(["the end of", "return", *(_cell(variant.label) for variant in comparison.variants)], rows)


def _reaching(reaching: Reaching, form: str) -> list[str]:
    return [_estimate(reaching.iqm, form, NOT_REACHED), _number(reaching.median, form, NOT_REACHED)]


def _estimate(estimate: Estimate, form: str, infinite: str) -> str:
    """A statistic with its interval, which a single seed has not."""
    value = _number(estimate.value, form, infinite)
    if math.isnan(estimate.low) or estimate.low == math.inf:
        return value
    return f"{value} ({_number(estimate.low, form, infinite)}, {_number(estimate.high, form, infinite)})"


def _number(value: float, form: str, infinite: str) -> str:
    return format(value, form) if math.isfinite(value) else infinite


def _threshold(comparison: Comparison) -> str:
    reference = _cell(comparison.reference)
    return {
        GIVEN: "as asked for",
        OF_CURVE: f"the level at which the learning curves of {reference} end (IQM of the last {WINDOW} points' means)",
    }[comparison.threshold_source]


def _meaning(comparison: Comparison) -> list[str]:
    return [
        f"Return: undiscounted, per episode and agent ({comparison.num_agents} agents), of each seed's greedy policy "
        f"over {comparison.evaluation_episodes:,} fresh episodes. IQM: interquartile mean over seeds. In brackets: "
        f"{_percent()} interval by stratified bootstrap, {RESAMPLES:,} resamples of each variant's seeds ({SOURCE}). "
        "All are evaluated in the same episodes: differences are sharper for it, and how far these episodes are from "
        "typical ones is in no interval (`python -m leed_jax.evaluate` gives its standard error). P: probability that "
        f"a random seed is better than one of {_cell(comparison.reference)}; ties count half.",
        "Seconds: wall-clock of training divided by the number of seeds, as the seeds of a run are trained side by "
        "side in one program. What comes before it is apart: compiling, once per run; preparing, once per run, that is "
        "checking the configuration and loading or executing demonstrations; and recording them, once for all runs, "
        "which is asking the model, and trying out and selecting what it wrote. All counted: with all of these, for a "
        "single seed whose demonstrations nobody recorded before.",
        f"Reached: at the first point of a seed's learning curve where the mean of the last {WINDOW} points is at or "
        "above the threshold; nothing is interpolated. A seed that does not get there counts as infinitely late.",
    ]


def _percent() -> str:
    return f"{CONFIDENCE:.0%}".replace("%", " %")


def _cell(text: str) -> str:
    """Text that cannot break a table."""
    return " ".join(text.split()).replace("|", "\\|")


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, in columns that line up in plain text, too; numbers to the right."""
    widths = [max(_NARROWEST, *(len(row[i]) for row in (head, *rows))) for i in range(len(head))]
    left = [f"{head[0]:<{widths[0]}}", *(f"{cell:>{width}}" for cell, width in zip(head[1:], widths[1:], strict=True))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    body = [
        [f"{row[0]:<{widths[0]}}", *(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))]
        for row in rows
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (left, rule, *body))
