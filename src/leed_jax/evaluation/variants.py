"""Variants: runs that differ in nothing but their seeds, pooled; and whether variants may be compared."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from leed_jax.config import Config, unread_sections
from leed_jax.config.options import options
from leed_jax.errors import ConfigurationError, RunDirectoryError
from leed_jax.evaluation.runs import Run

OF_THE_SEED = ("seed", "num_seeds")
OF_THE_MACHINE = ("experiment", "settings_of", "out", "resume", "checkpoint_every")
MAX_DIFFERENCES = 3


@dataclasses.dataclass(frozen=True)
class Variant:
    """Runs of one algorithm with the same settings.

    Attributes:
        label: its name in the comparison.
        runs: at least one, with the same chunks and different seeds.
    """

    label: str
    runs: Sequence[Run]

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds, run after run."""
        return tuple(seed for run in self.runs for seed in run.seeds)

    @property
    def final(self) -> Float[np.ndarray, " S"]:
        """Greedy returns per agent after training."""
        return np.concatenate([run.final for run in self.runs])

    @property
    def steps(self) -> Int[np.ndarray, " C"]:
        """Environment steps after each chunk."""
        return self.runs[0].steps

    @property
    def seconds(self) -> Float[np.ndarray, "C S"]:
        """Wall-clock after each chunk, divided by the number of seeds that were trained side by side."""
        return np.stack([run.seconds for run in self.runs for _ in run.seeds], axis=-1)

    def returns(self, metric: str) -> Float[np.ndarray, "C S"]:
        """A return per agent after each chunk."""
        return np.concatenate([run.returns[metric] for run in self.runs], axis=-1)

    def has(self, metric: str) -> bool:
        """Whether every seed has this return at least once."""
        return bool(np.all(np.any(np.isfinite(self.returns(metric)), axis=0)))


def pool(label: str, runs: Sequence[Run]) -> Variant:
    """Put runs together.

    Raises:
        ConfigurationError: there is no run, or no label.
        RunDirectoryError: they have a seed in common, or differ in more than their seeds.
    """
    if not label.strip():
        raise ConfigurationError("A variant's label is empty. Give it a name.")
    if not runs:
        raise ConfigurationError(f"{label}: there are no runs. Name at least one run directory.")
    owner: dict[int, Run] = {}
    for run in runs:
        _check_alike(label, runs[0], run)
        for seed in run.seeds:
            if seed in owner:
                raise RunDirectoryError(
                    f"{label}: seed {seed} is in {owner[seed].path} and in {run.path}; a seed counts once. Leave one "
                    "of the two out, or give them different labels."
                )
            owner[seed] = run
    return Variant(label, tuple(runs))


def _check_alike(label: str, first: Run, run: Run) -> None:
    different = differences([first, run])
    if different:
        listed = "; ".join(f"{key} is {_shown(first, key)} and {_shown(run, key)}" for key in different)
        raise RunDirectoryError(
            f"{label}: {first.path} and {run.path} differ in more than their seeds: {listed}. Give them different "
            "labels."
        )
    if not np.array_equal(first.steps, run.steps):
        raise RunDirectoryError(
            f"{label}: {first.path} and {run.path} have metrics at different environment steps. Give them different "
            "labels."
        )


def _shown(run: Run, key: str) -> str:
    return json.dumps(trained_with(run).get(key))


def trained_with(run: Run) -> dict[str, Any]:
    """Everything that what a run learnt depends on besides its seeds, with defaults for keys that it does not know."""
    known = {option.key: option.default for option in options(Config) if not option.section and option.key != "env"}
    refresh_every = run.settings.get("generate.refresh_every", known["generate.refresh_every"])
    # Whole sections, and keys that are in none.
    without = {"evaluation", *OF_THE_SEED, *OF_THE_MACHINE, *unread_sections(run.algorithm, refresh_every)}
    used = {key: default for key, default in known.items() if key.partition(".")[0] not in without}
    mine = {key: run.settings.get(key, default) for key, default in used.items()}
    return mine | {key: value for key, value in run.settings.items() if key.startswith("env.")}


def differences(runs: Sequence[Run]) -> list[str]:
    """The keys in which runs differ, other than their seeds."""
    settings = [trained_with(run) for run in runs]
    keys = dict.fromkeys(key for values in settings for key in values)
    return [key for key in keys if any(values.get(key) != settings[0].get(key) for values in settings)]


def group(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that differ in nothing but their seeds, under labels that tell them apart.

    The label is the algorithm; where that is not enough, with the settings that differ, or the first run's directory if
    those are many.
    """
    groups: list[list[Run]] = []
    for run in runs:
        home = next((members for members in groups if not differences([members[0], run])), None)
        if home is None:
            groups.append([run])
        else:
            home.append(run)
    return {_label(members, groups): members for members in groups}


def _label(members: Sequence[Run], groups: Sequence[Sequence[Run]]) -> str:
    first = members[0]
    rivals = [other[0] for other in groups if other[0].algorithm == first.algorithm]
    different = differences(rivals)
    if len(different) > MAX_DIFFERENCES:
        return f"{first.algorithm} {first.path}"
    return " ".join([first.algorithm, *(f"{key}={_shown(first, key).strip(chr(34))}" for key in different)])
