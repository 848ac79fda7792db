"""Whether runs may be compared at all, and what a reader of the comparison should know."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from leed_jax.config import Config
from leed_jax.errors import RunDirectoryError
from leed_jax.evaluation.runs import GREEDY, TRAINING, Run, flat
from leed_jax.evaluation.variants import Variant

# Seeds from which on an interval covers about as much as it says.
_ENOUGH = 5
OF_EVERY_RUN = ("evaluation.episodes", "evaluation.seed")


def check_same_task(runs: Sequence[Run]) -> None:
    """Make sure that all runs are of one environment and were evaluated alike.

    An `env` key that only one of two runs has recorded cannot be told from its default; `notes` tells of it.

    Raises:
        RunDirectoryError: they are not.
    """
    first, defaults = runs[0], flat(dataclasses.asdict(Config(env={})))
    for run in runs[1:]:
        both = [key for key in first.settings if key.startswith("env.") and key in run.settings]
        pairs = {key: (first.settings[key], run.settings[key]) for key in both}
        for key in OF_EVERY_RUN:
            pairs[key] = (first.settings.get(key, defaults[key]), run.settings.get(key, defaults[key]))
        for name in ("num_agents", "evaluation_episodes"):
            pairs[name] = (first.summary[name], run.summary[name])
        _check_pairs(first, run, pairs)


def _check_pairs(first: Run, run: Run, pairs: Mapping[str, tuple[Any, Any]]) -> None:
    for key, (one, other) in pairs.items():
        if one != other:
            raise RunDirectoryError(
                f"{first.path} and {run.path} cannot be compared: {key} is {json.dumps(one)} in the one and "
                f"{json.dumps(other)} in the other. Compare runs of one environment that were evaluated alike."
            )


def choose_metrics(variants: Sequence[Variant]) -> dict[str, str]:
    """Which return each variant's learning curve shows: the greedy policy's if all have it, or else that of training.

    A variant that lacks the one that is chosen shows the other.
    """
    wanted, other = (GREEDY, TRAINING) if all(variant.has(GREEDY) for variant in variants) else (TRAINING, GREEDY)
    return {variant.label: other if variant.has(other) and not variant.has(wanted) else wanted for variant in variants}


def notes(variants: Sequence[Variant]) -> list[str]:
    """What makes runs less than alike, though it is no error; a sentence for each."""
    runs = [run for variant in variants for run in variant.runs]
    of_variants = (_single_seeds, _diverged, _curves, _versions, _few_seeds)
    of_runs = (_lone_keys, _points, _machines)
    found = [note for of in of_variants for note in of(variants)]
    return found + [note for of in of_runs for note in of(runs)]


def _single_seeds(variants: Sequence[Variant]) -> list[str]:
    single = [variant.label for variant in variants if len(variant.seeds) == 1]
    return [f"There is no interval for a single seed: {_list(single)}."] if single else []


def _few_seeds(variants: Sequence[Variant]) -> list[str]:
    if not any(1 < len(variant.seeds) < _ENOUGH for variant in variants):
        return []
    return [
        f"With fewer than {_ENOUGH} seeds a 95 % interval is too narrow: that of 3 seeds, were their returns normally "
        "distributed, would hold what it estimates in 75 % of cases, of 4 in 87 %."
    ]


def _diverged(variants: Sequence[Variant]) -> list[str]:
    found = {variant.label: sum(value == float("-inf") for value in variant.final) for variant in variants}
    return [
        f"{label}: {count} of the seeds ended without a finite return, which counts as lower than any number."
        for label, count in found.items()
        if count
    ]


def _curves(variants: Sequence[Variant]) -> list[str]:
    metrics = choose_metrics(variants)
    greedy = [label for label, metric in metrics.items() if metric == GREEDY]
    if len(greedy) == len(variants):
        return []
    if greedy:
        return [
            f"Learning curves of {_list(greedy)} are of the greedy policy, the others of returns while training: their "
            "steps and seconds to the threshold are not alike."
        ]
    return [
        "Learning curves are of returns while training, with the policy's own exploration, as not every run has "
        "recorded greedy ones; final returns are greedy."
    ]


def _lone_keys(runs: Sequence[Run]) -> list[str]:
    of_env: list[set[str]] = [{key for key in run.settings if key.startswith("env.")} for run in runs]
    lone = sorted(key for key in set().union(*of_env) if not all(key in keys for keys in of_env))
    return [f"Not every run has recorded {_list(lone)}; the values are taken to be the same."] if lone else []


def _versions(variants: Sequence[Variant]) -> list[str]:
    found = {variant.label: sorted({_version(run) for run in variant.runs}) for variant in variants}
    return [
        f"{label} pools runs of different versions of leed_jax: {_list(versions)}."
        for label, versions in found.items()
        if len(versions) > 1
    ]


def _version(run: Run) -> str:
    versions = run.summary.get("versions")
    return str(versions.get("leed_jax", "unknown")) if isinstance(versions, dict) else "unknown"


def _points(runs: Sequence[Run]) -> list[str]:
    """What makes the points of one learning curve other than those of another."""
    episodes = sorted({int(run.settings.get("evaluation.curve_episodes") or 0) for run in runs})
    chunks = sorted({int(run.steps[0]) for run in runs})
    found = []
    if len(episodes) > 1:
        found.append(
            f"Runs played different numbers of episodes after each chunk ({_list(episodes)}), which takes time, too: "
            "neither their seconds nor the noise of their learning curves are alike."
        )
    if len(chunks) > 1:
        found.append(
            f"Learning curves have points at different distances ({_list(f'{steps:,}' for steps in chunks)} "
            "environment steps): where points are closer, a level is found to be reached sooner."
        )
    return found


def _machines(runs: Sequence[Run]) -> list[str]:
    """What makes seconds of one run other than those of another."""
    side_by_side = sorted({len(run.seeds) for run in runs})
    devices = {json.dumps(run.summary.get("device"), sort_keys=True) for run in runs}
    found = []
    if len(side_by_side) > 1:
        found.append(
            f"Runs trained different numbers of seeds side by side ({_list(side_by_side)}): their seconds are not "
            "alike."
        )
    if len(devices) > 1:
        found.append("Runs were made on different devices: their seconds are not alike.")
    return found


def _list(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))
