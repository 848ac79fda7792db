"""All numbers of a comparison."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from leed_jax.errors import ConfigurationError
from leed_jax.evaluation.agreement import check_same_task, choose_metrics, notes
from leed_jax.evaluation.runs import Run
from leed_jax.evaluation.variants import Variant, pool
from leed_jax.report.metrics import mean_or_none
from leed_jax.report.statistics import (
    Estimate,
    bootstrap,
    bootstrap_band,
    extended_iqm,
    first_reached,
    interquartile_mean,
    last_level,
    median,
    probability_of_improvement,
)

GIVEN = "given"
OF_CURVE = "end of the reference's learning curve"


@dataclasses.dataclass(frozen=True)
class Reaching:
    """What it takes to reach the threshold; infinite for a seed that does not.

    Attributes:
        of_seeds: of each seed, in the order of the variant's seeds.
        iqm: their interquartile mean.
        median: their median.
    """

    of_seeds: tuple[float, ...]
    iqm: Estimate
    median: float


@dataclasses.dataclass(frozen=True)
class Curve:
    """The learning curve of a variant.

    Attributes:
        metric: the name of the return in `metrics.jsonl`.
        steps: environment steps of a seed.
        seconds: wall-clock of a seed, the mean over seeds.
        iqm: interquartile mean over seeds, NaN where there is no return.
        low: lower end of its 95 % interval at each point.
        high: upper end.
    """

    metric: str
    steps: Int[np.ndarray, " C"]
    seconds: Float[np.ndarray, " C"]
    iqm: Float[np.ndarray, " C"]
    low: Float[np.ndarray, " C"]
    high: Float[np.ndarray, " C"]


@dataclasses.dataclass(frozen=True)
class VariantResult:
    """A variant's numbers. Returns are per agent, and undiscounted.

    Attributes:
        label: its name.
        algorithm: what was trained.
        runs: its run directories.
        seeds: all seeds, run after run.
        final: greedy return of each seed after training; -inf where it is not finite.
        iqm: interquartile mean of them.
        median: their median.
        lowest: the lowest.
        highest: the highest.
        improvement: the probability that a seed is better than one of the reference; None for the reference.
        env_steps: environment steps of each seed.
        seconds_per_seed: wall-clock of training, divided by the number of seeds trained side by side.
        compile_s: seconds of compiling, the mean over runs.
        preparation_s: seconds of checking, and of loading and executing demonstrations, the mean over runs that tell.
        recording_s: seconds that the recording of the demonstrations took, likewise; None without demonstrations.
        reached: how many seeds reach the threshold.
        steps_to_threshold: environment steps until then.
        seconds_to_threshold: wall-clock until then, as in `seconds_per_seed`.
        everything_to_threshold: the same and the seconds of compiling, of preparing and of recording, all of them.
        random_return: return of random actions, the mean over runs.
        instructions_return: return of the instructions alone, the mean over runs; None without demonstrations.
        curve: the learning curve.
    """

    label: str
    algorithm: str
    runs: tuple[Path, ...]
    seeds: tuple[int, ...]
    final: tuple[float, ...]
    iqm: Estimate
    median: float
    lowest: float
    highest: float
    improvement: Estimate | None
    env_steps: int
    seconds_per_seed: float
    compile_s: float
    preparation_s: float | None
    recording_s: float | None
    reached: int
    steps_to_threshold: Reaching
    seconds_to_threshold: Reaching
    everything_to_threshold: Reaching
    random_return: float | None
    instructions_return: float | None
    curve: Curve


@dataclasses.dataclass(frozen=True)
class Passing:
    """How long each variant takes to where one of them ends.

    Attributes:
        label: the variant whose level it is.
        level: the return per agent at which its learning curves end.
        steps: environment steps until then, the median over seeds of each variant, in their order; infinite where half
            of them do not get there.
        seconds: wall-clock of training until then, likewise.
    """

    label: str
    level: float
    steps: tuple[float, ...]
    seconds: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What `python -m leed_jax.compare` finds.

    Attributes:
        title: the heading, which may be empty.
        reference: label of the variant that the others are compared with.
        threshold: the return per agent that is to be reached.
        threshold_source: where it is from, `GIVEN` or `OF_CURVE`.
        evaluation_episodes: fresh episodes behind each final return.
        num_agents: agents of the environment.
        variants: in the order in which they were given.
        passing: the same for the level of every variant that ends at a finite one, in that order.
        notes: what makes the runs less than alike, a sentence for each.
    """

    title: str
    reference: str
    threshold: float
    threshold_source: str
    evaluation_episodes: int
    num_agents: int
    variants: tuple[VariantResult, ...]
    passing: tuple[Passing, ...]
    notes: tuple[str, ...]


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
    variants = {label: pool(label, members) for label, members in groups.items()}
    chosen = next(iter(variants)) if reference is None else reference
    if chosen not in variants:
        raise ConfigurationError(
            f"reference {chosen}: there is no such variant. The labels are: {', '.join(variants)}."
        )
    metrics = choose_metrics(list(variants.values()))
    against = variants[chosen]
    ends = {label: _level_at_the_end(variant, metrics[label]) for label, variant in variants.items()}
    level = ends[chosen] if threshold is None else threshold
    if threshold is None and not math.isfinite(level):
        raise ConfigurationError(
            f"The learning curves of {chosen} have no finite end that could be the threshold. Give one by --threshold, "
            "or another reference."
        )
    if not math.isfinite(level):
        raise ConfigurationError(f"The threshold is {level}, which no curve can be compared with. Give a finite one.")
    return Comparison(
        title=title,
        reference=chosen,
        threshold=level,
        threshold_source=OF_CURVE if threshold is None else GIVEN,
        evaluation_episodes=int(runs[0].summary["evaluation_episodes"]),
        num_agents=int(runs[0].summary["num_agents"]),
        variants=tuple(_result(variant, against, level, metrics[variant.label]) for variant in variants.values()),
        passing=_passing(variants, metrics, ends),
        notes=tuple(notes(list(variants.values()))),
    )


def _level_at_the_end(variant: Variant, metric: str) -> float:
    """The interquartile mean over seeds of the last running means of a variant's learning curves.

    It is measured as reaching it is. The final returns come from other episodes, which may be easier, and then the
    variant itself would hardly reach its own level. A seed that diverged counts as the lowest.
    """
    ends = np.array([last_level(curve) for curve in variant.returns(metric).T])
    return float(extended_iqm(np.where(np.isfinite(variant.final), ends, -np.inf)))


def _result(variant: Variant, against: Variant, threshold: float, metric: str) -> VariantResult:
    final, first = variant.final, variant.runs[0]
    steps, seconds = _reaching(variant, threshold, metric)
    compile_s = float(np.mean([run.summary["compile_s"] for run in variant.runs]))
    preparation_s, recording_s = _mean(variant, "preparation_s"), _mean(variant, "recording_s")
    before = compile_s + (preparation_s or 0.0) + (recording_s or 0.0)
    better = None if variant is against else bootstrap([final, against.final], probability_of_improvement)
    return VariantResult(
        label=variant.label,
        algorithm=first.algorithm,
        runs=tuple(run.path for run in variant.runs),
        seeds=variant.seeds,
        final=tuple(final.tolist()),
        iqm=bootstrap([final], extended_iqm),
        median=median(final),
        lowest=float(np.min(final)),
        highest=float(np.max(final)),
        improvement=better,
        env_steps=int(first.summary["env_steps"]),
        seconds_per_seed=float(sum(run.summary["wall_s"] for run in variant.runs) / len(variant.seeds)),
        compile_s=compile_s,
        preparation_s=preparation_s,
        recording_s=recording_s,
        reached=int(np.sum(np.isfinite(steps.of_seeds))),
        steps_to_threshold=steps,
        seconds_to_threshold=seconds,
        everything_to_threshold=_reaching_of(np.array(seconds.of_seeds) + before),
        random_return=_mean(variant, "random_return_per_agent"),
        instructions_return=_mean(variant, "instructions_return_per_agent"),
        curve=_curve(variant, metric),
    )


def _passing(
    variants: Mapping[str, Variant], metrics: Mapping[str, str], ends: Mapping[str, float]
) -> tuple[Passing, ...]:
    """How long each variant takes to where each curve ends."""
    found = []
    for label, level in ends.items():
        if math.isfinite(level):
            taken = [_times(variant, level, metrics[other]) for other, variant in variants.items()]
            found.append(Passing(label, level, *zip(*[map(median, pair) for pair in taken], strict=True)))
    return tuple(found)


def _mean(variant: Variant, name: str) -> float | None:
    """The mean over runs of what some summaries hold."""
    return mean_or_none([run.summary.get(name) for run in variant.runs])


def _reaching(variant: Variant, threshold: float, metric: str) -> tuple[Reaching, Reaching]:
    """Environment steps and seconds to the threshold."""
    steps, seconds = _times(variant, threshold, metric)
    return _reaching_of(steps), _reaching_of(seconds)


def _times(variant: Variant, threshold: float, metric: str) -> tuple[Float[np.ndarray, " S"], Float[np.ndarray, " S"]]:
    """Environment steps and seconds of each seed to the threshold."""
    at = [first_reached(curve, threshold) for curve in variant.returns(metric).T]
    steps = [math.inf if index is None else float(variant.steps[index]) for index in at]
    seconds = [math.inf if i is None else float(variant.seconds[i, seed]) for seed, i in enumerate(at)]
    return np.array(steps), np.array(seconds)


def _reaching_of(values: Float[np.ndarray, " S"]) -> Reaching:
    return Reaching(tuple(values.tolist()), bootstrap([values], extended_iqm), median(values))


def _curve(variant: Variant, metric: str) -> Curve:
    returns = variant.returns(metric)
    low, high = bootstrap_band(returns)
    seconds = np.mean(variant.seconds, axis=-1)
    return Curve(metric, variant.steps, seconds, interquartile_mean(returns), low, high)


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain values; null stands for numbers that are infinite or not there."""
    plain: dict[str, Any] = _plain(dataclasses.asdict(comparison))
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.integer, np.floating)):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
