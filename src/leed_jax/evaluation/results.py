"""All numbers of a comparison."""

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from leed_jax.errors import ConfigurationError
from leed_jax.evaluation.runs import GREEDY, TRAINING, Run, Variant, check_same_task, pool
from leed_jax.report.metrics import mean_or_none
from leed_jax.report.statistics import (
    Estimate,
    bootstrap,
    bootstrap_band,
    first_passage,
    interquartile_mean,
    last_level,
    probability_of_improvement,
)

GIVEN = "given"
OF_CURVE = "end of the reference's learning curve"

# From this many seeds on, a bootstrap interval covers about as much as it says.
_ENOUGH_SEEDS = 5
# Agents differ clearly where their returns are further apart than this share of the largest one.
_CLEARLY = 0.25


@dataclasses.dataclass(frozen=True)
class FirstPassage:
    """What it takes each seed to reach the threshold, in the order of the variant's seeds; infinite if it does not."""

    of_seeds: tuple[float, ...]
    iqm: Estimate
    median: float


@dataclasses.dataclass(frozen=True)
class Curve:
    """The learning curve of a variant: the interquartile mean over seeds with its 95 % band, NaN where unknown."""

    metric: str  # the name of the return in metrics.jsonl
    steps: Int[np.ndarray, " C"]  # environment steps of a seed
    seconds: Float[np.ndarray, " C"]  # wall-clock of a seed, the mean over seeds
    iqm: Float[np.ndarray, " C"]
    low: Float[np.ndarray, " C"]
    high: Float[np.ndarray, " C"]


@dataclasses.dataclass(frozen=True)
class VariantResult:
    """A variant's numbers. Returns are per agent, and undiscounted."""

    label: str
    algorithm: str
    runs: tuple[Path, ...]
    seeds: tuple[int, ...]
    final: tuple[float, ...]  # greedy return of each seed after training; -inf where it is not finite
    iqm: Estimate  # of the final returns, like the next three
    median: float
    lowest: float
    highest: float
    agents: tuple[float, ...] | None  # interquartile mean over seeds for each agent; None if it was not recorded
    improvement: Estimate | None  # probability that a seed is better than one of the reference; None for the reference
    env_steps: int  # of each seed
    seconds_per_seed: float  # wall-clock of training, divided by the number of seeds trained side by side
    compile_s: float  # the mean over runs, like the next two
    preparation_s: float | None  # checking, and loading demonstrations
    recording_s: float | None  # recording the demonstrations
    reached: int  # seeds that reach the threshold
    steps_to_threshold: FirstPassage
    seconds_to_threshold: FirstPassage  # as in seconds_per_seed
    everything_to_threshold: FirstPassage  # the same plus compiling, preparing and recording
    random_return: float | None  # of random actions, the mean over runs
    instructions_return: float | None  # of the instructions alone, the mean over runs
    curve: Curve

    @property
    def agents_differ(self) -> bool:
        """Whether the mean over agents hides how they differ, as in games of opposed teams."""
        known = [value for value in self.agents or () if math.isfinite(value)]
        return bool(known) and max(known) - min(known) > _CLEARLY * max(map(abs, known))


@dataclasses.dataclass(frozen=True)
class LevelPassage:
    """How long each variant takes to reach the level at which the learning curves of one of them end."""

    label: str  # whose level it is
    level: float  # return per agent
    steps: tuple[float, ...]  # median over seeds of each variant; infinite where half of them do not get there
    seconds: tuple[float, ...]  # wall-clock of training, likewise


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The result of `python -m leed_jax.compare`."""

    title: str  # the heading, which may be empty
    reference: str  # label of the variant that the others are compared with
    threshold: float  # the return per agent that is to be reached
    threshold_source: str  # GIVEN or OF_CURVE
    evaluation_episodes: int  # fresh episodes behind each final return
    num_agents: int
    variants: tuple[VariantResult, ...]  # in the order in which they were given
    passing: tuple[LevelPassage, ...]  # for each variant whose learning curves end at a finite level
    notes: tuple[str, ...]  # in what the runs are not alike, a sentence for each


def compare_runs(
    groups: Mapping[str, Sequence[Run]],
    *,
    threshold: float | None = None,
    reference: str | None = None,
    title: str = "",
) -> Comparison:
    """Compare variants.

    Args:
        groups: the runs of each variant, by its label.
        threshold: the return per agent that is to be reached; None for the level that the reference ends at.
        reference: the label to compare with; None for the first.
        title: a heading.

    Raises:
        ConfigurationError: there is no run or no such reference, or the threshold is not finite.
        RunDirectoryError: runs do not go together.
    """
    if not groups:
        raise ConfigurationError("There is nothing to compare. Name at least one run directory.")
    runs = [run for members in groups.values() for run in members]
    if runs:
        check_same_task(runs)
    variants = _with_metrics([pool(label, members) for label, members in groups.items()])
    chosen = variants[0].label if reference is None else reference
    against = next((variant for variant in variants if variant.label == chosen), None)
    if against is None:
        raise ConfigurationError(f"reference {chosen}: there is no such variant. The labels are: {', '.join(groups)}.")
    level = _final_level(against) if threshold is None else threshold
    if not math.isfinite(level):
        raise ConfigurationError(
            f"The learning curves of {chosen} have no finite end that could be the threshold. Give one by --threshold, "
            "or another reference."
            if threshold is None
            else f"The threshold is {level}, which no curve can be compared with. Give a finite one."
        )
    ends = [(variant.label, _final_level(variant)) for variant in variants]
    return Comparison(
        title=title,
        reference=chosen,
        threshold=level,
        threshold_source=OF_CURVE if threshold is None else GIVEN,
        evaluation_episodes=int(runs[0].summary["evaluation_episodes"]),
        num_agents=int(runs[0].summary["num_agents"]),
        variants=tuple(_result(variant, against, level) for variant in variants),
        passing=tuple(_level_passage(label, end, variants) for label, end in ends if math.isfinite(end)),
        notes=(*_notes(variants), *_run_notes(runs)),
    )


def _with_metrics(variants: Sequence[Variant]) -> list[Variant]:
    """Choose the return of the learning curves: the greedy policy's if all variants have it, else that of training.

    A variant that lacks the chosen one shows the other.
    """
    wanted, other = (GREEDY, TRAINING) if all(variant.has(GREEDY) for variant in variants) else (TRAINING, GREEDY)
    return [
        dataclasses.replace(variant, metric=other if variant.has(other) and not variant.has(wanted) else wanted)
        for variant in variants
    ]


def _final_level(variant: Variant) -> float:
    """The interquartile mean over seeds of the last running means of a variant's learning curves.

    It is computed from the curve, as first passage is. Final returns come from other episodes, which may be easier, and
    then the variant itself would hardly reach its own level. A seed that diverged counts as the lowest.
    """
    ends = np.array([last_level(curve) for curve in variant.curve.T])
    return float(interquartile_mean(np.where(np.isfinite(variant.final), ends, -np.inf)))


def _result(variant: Variant, against: Variant, threshold: float) -> VariantResult:
    final, first, returns = variant.final, variant.runs[0], variant.curve
    mean_of = lambda name: mean_or_none([run.summary.get(name) for run in variant.runs])  # noqa: E731
    costs = {name: mean_of(name) for name in ("preparation_s", "recording_s")}
    compile_s = float(np.mean([run.summary["compile_s"] for run in variant.runs]))
    before = compile_s + sum(seconds or 0.0 for seconds in costs.values())
    steps, seconds = _passage_times(variant, threshold)
    curve = (variant.steps, np.mean(variant.seconds, axis=-1), interquartile_mean(returns), *bootstrap_band(returns))
    return VariantResult(
        label=variant.label,
        algorithm=first.algorithm,
        runs=tuple(run.path for run in variant.runs),
        seeds=variant.seeds,
        final=tuple(final.tolist()),
        iqm=bootstrap([final], interquartile_mean),
        median=float(np.median(final)),
        lowest=float(np.min(final)),
        highest=float(np.max(final)),
        agents=None if variant.agents is None else tuple(interquartile_mean(variant.agents.T).tolist()),
        improvement=None if variant is against else bootstrap([final, against.final], probability_of_improvement),
        env_steps=int(first.summary["env_steps"]),
        seconds_per_seed=float(sum(run.summary["wall_s"] for run in variant.runs) / len(variant.seeds)),
        compile_s=compile_s,
        **costs,
        reached=int(np.sum(np.isfinite(steps))),
        steps_to_threshold=_first_passage(steps),
        seconds_to_threshold=_first_passage(seconds),
        everything_to_threshold=_first_passage(seconds + before),
        random_return=mean_of("random_return_per_agent"),
        instructions_return=mean_of("instructions_return_per_agent"),
        curve=Curve(variant.metric, *curve),
    )


def _passage_times(variant: Variant, threshold: float) -> Float[np.ndarray, "2 S"]:
    """Environment steps and seconds of each seed to the threshold."""
    times = np.full((2, len(variant.seeds)), np.inf)
    for seed, curve in enumerate(variant.curve.T):
        if (index := first_passage(curve, threshold)) is not None:
            times[:, seed] = variant.steps[index], variant.seconds[index, seed]
    return times


def _first_passage(values: Float[np.ndarray, " S"]) -> FirstPassage:
    return FirstPassage(tuple(values.tolist()), bootstrap([values], interquartile_mean), float(np.median(values)))


def _level_passage(label: str, level: float, variants: Sequence[Variant]) -> LevelPassage:
    steps, seconds = np.stack([np.median(_passage_times(variant, level), axis=-1) for variant in variants], axis=1)
    return LevelPassage(label, level, tuple(steps.tolist()), tuple(seconds.tolist()))


# --- in what runs are not alike ---------------------------------------------------------------------------------


def _notes(variants: Sequence[Variant]) -> Iterator[str]:
    single = [variant.label for variant in variants if len(variant.seeds) == 1]
    if single:
        yield f"There is no interval for a single seed: {_list(single)}."
    for variant in variants:
        if diverged := int(np.sum(np.isinf(variant.final))):
            yield f"{variant.label}: {diverged} of the seeds ended without a finite return, which counts as the lowest."
        versions = sorted({str(run.summary["versions"].get("leed_jax", "unknown")) for run in variant.runs})
        if len(versions) > 1:
            yield f"{variant.label} pools runs of different versions of leed_jax: {_list(versions)}."
    greedy = [variant.label for variant in variants if variant.metric == GREEDY]
    if not greedy:
        yield (
            "Learning curves are of returns while training, with the policy's own exploration, as not every run has "
            "recorded greedy ones; final returns are greedy."
        )
    elif len(greedy) < len(variants):
        yield (
            f"Learning curves of {_list(greedy)} are of the greedy policy, the others of returns while training: their "
            "steps and seconds to the threshold are not comparable."
        )
    if any(1 < len(variant.seeds) < _ENOUGH_SEEDS for variant in variants):
        yield (
            f"With fewer than {_ENOUGH_SEEDS} seeds a 95 % interval is too narrow: for normally distributed returns, "
            "that of 3 seeds covers the true value in 75 % of cases, that of 4 in 87 %."
        )


def _run_notes(runs: Sequence[Run]) -> Iterator[str]:
    of_env: list[set[str]] = [{key for key in run.settings if key.startswith("env.")} for run in runs]
    if lone := sorted(set().union(*of_env) - of_env[0].intersection(*of_env)):
        yield f"Not every run has recorded {_list(lone)}; the values are taken to be the same."
    episodes = {int(run.settings.get("evaluation.curve_episodes") or 0) for run in runs}
    if len(episodes) > 1:
        yield (
            f"Runs played different numbers of episodes after each chunk ({_list(sorted(episodes))}): neither their "
            "seconds nor the noise of their learning curves are comparable."
        )
    chunks = {int(run.steps[0]) for run in runs}
    if len(chunks) > 1:
        yield (
            f"Learning curves have points at different distances ({_list(f'{steps:,}' for steps in sorted(chunks))} "
            "environment steps): where points are closer, a level is found to be reached sooner."
        )
    seeds = {len(run.seeds) for run in runs}
    if len(seeds) > 1:
        yield (
            f"Runs trained different numbers of seeds side by side ({_list(sorted(seeds))}): their seconds are not "
            "comparable."
        )
    if len({json.dumps(run.summary["device"], sort_keys=True) for run in runs}) > 1:
        yield "Runs were made on different devices: their seconds are not comparable."


def _list(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain values; null stands for numbers that are infinite or not there."""
    plain: dict[str, Any] = _plain(dataclasses.asdict(comparison))
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
