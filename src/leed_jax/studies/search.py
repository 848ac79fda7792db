"""The settings that a tuning study tries: listed, all of a grid, or drawn from ranges."""

import dataclasses
import itertools
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from leed_jax.config.options import nearest
from leed_jax.errors import ConfigurationError
from leed_jax.studies.schema import flatten

DIGITS = 4
_PARTS = ("settings", "list", "grid", "sample")
_SCALES = ("linear", "log", "choices")


@dataclasses.dataclass(frozen=True)
class Range:
    """What one key is drawn from.

    Attributes:
        scale: linear or log, evenly over the numbers or over their logarithms; or choices.
        values: the two ends; or the choices.
    """

    scale: str
    values: Sequence[Any]

    def at(self, share: float) -> Any:
        """The value that a share in [0, 1) of all lies below, in four digits so that one can copy it."""
        if self.scale == "choices":
            return self.values[int(share * len(self.values))]
        low, high = (float(value) for value in self.values)
        number = low * (high / low) ** share if self.scale == "log" else low + (high - low) * share
        return float(f"{number:.{DIGITS}g}")


@dataclasses.dataclass(frozen=True)
class Search:
    """What is tried of one variant.

    Attributes:
        settings: what all of its settings have in common.
        tried: what each of them sets beside that.
        ranges: where those that were drawn come from, by key.
    """

    settings: Mapping[str, Any]
    tried: tuple[Mapping[str, Any], ...]
    ranges: Mapping[str, Range]


def read_search(values: Any, where: str, label: str, budget: int, seed: int) -> Search:
    """Enumerate the settings of a variant: first those listed, then the grid, then as many as are missing drawn.

    Args:
        values: what the study file says about it: settings, list, grid, sample.
        where: where it says so, for messages.
        label: the variant's label; variants draw independently.
        budget: how many settings there have to be.
        seed: of the draws.

    Raises:
        ConfigurationError: the file says something else, there are more or fewer settings, or one is there twice.
    """
    if not isinstance(values, Mapping) or not values:
        raise ConfigurationError(f"{where} must hold some of {', '.join(_PARTS)}, as kind=tune tries several settings.")
    for part in values:
        if part not in _PARTS:
            near = nearest(str(part), _PARTS)
            raise ConfigurationError(
                f"{where}.{part}: there is no such part{f' (did you mean {near}?)' if near else ''}; "
                f"use {', '.join(_PARTS)}."
            )
    listed = values.get("list") or []
    if not isinstance(listed, list):
        raise ConfigurationError(f"{where}.list must be a list of settings, as in [{{ppo.learning_rate: 0.001}}].")
    tried = [flatten(entry, f"{where}.list[{index}]") for index, entry in enumerate(listed)]
    tried += _grid(flatten(values.get("grid"), f"{where}.grid"), f"{where}.grid")
    ranges = _ranges(values.get("sample"), f"{where}.sample")
    if ranges:
        tried += draw(ranges, max(0, budget - len(tried)), [seed, zlib.crc32(label.encode())])
    if len(tried) != budget:
        raise ConfigurationError(
            f"{where} has {len(tried)} settings, and the budget of every variant is {budget}; list more or fewer, "
            "or add sample, from which those that are missing are drawn."
        )
    for index, entry in enumerate(tried):
        if entry in tried[:index]:
            raise ConfigurationError(f"{where} has the setting {entry} twice; use a grid, or draw from wider ranges.")
    return Search(flatten(values.get("settings"), f"{where}.settings"), tuple(tried), ranges)


def draw(ranges: Mapping[str, Range], number: int, seed: Sequence[int]) -> list[dict[str, Any]]:
    """Draw settings by Latin hypercube sampling: of each key's range, every n-th part is drawn from exactly once.

        x_ij = F_j^-1((pi_j(i) + u_ij) / n),   pi_j a random permutation of 0..n-1, u_ij uniform in [0, 1)

    Source: McKay, Beckman and Conover 1979, "A comparison of three methods for selecting values of input variables".

    Args:
        ranges: by key; F_j is the distribution that a range stands for.
        number: n, how many.
        seed: of the draws.
    """
    rng = np.random.default_rng(list(seed))
    shares = {key: (rng.permutation(number) + rng.random(number)) / max(number, 1) for key in ranges}
    return [{key: item.at(float(shares[key][i])) for key, item in ranges.items()} for i in range(number)]


def _grid(values: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """All combinations."""
    for key, choices in values.items():
        if not isinstance(choices, list) or not choices:
            raise ConfigurationError(
                f"{where}.{key} must be a list of values, as in [0.001, 0.002]; it is {choices!r}."
            )
    return [
        dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values()) if values
    ]


def _ranges(values: Any, where: str) -> dict[str, Range]:
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{where} must hold a range for each key; it is {values!r}.")
    # The last level of the mapping is the range itself, {SCALE: VALUES}.
    flat: dict[str, Range] = {}
    for path, choices in flatten(values, where).items():
        key, _, scale = path.rpartition(".")
        if scale not in _SCALES or not key:
            raise ConfigurationError(
                f"{where}.{path}: write a range as {{linear: [LOW, HIGH]}}, {{log: [LOW, HIGH]}} or {{choices: [...]}}."
            )
        if key in flat:
            raise ConfigurationError(f"{where}.{key} has two ranges; leave one of them out.")
        flat[key] = _range(scale, choices, f"{where}.{key}")
    return flat


def _range(scale: str, values: Any, where: str) -> Range:
    if scale == "choices":
        if not isinstance(values, list) or not values:
            raise ConfigurationError(f"{where}.choices must be a list with at least one value; it is {values!r}.")
        return Range(scale, tuple(values))
    ends = values if isinstance(values, list) else []
    numbers = [end for end in ends if isinstance(end, (int, float)) and not isinstance(end, bool)]
    two = len(ends) == len(numbers) == 2  # noqa: PLR2004 - the two ends
    if not two or not (numbers[0] > 0 or scale == "linear") or not numbers[0] < numbers[1] or math.isinf(numbers[1]):
        more = ", the lower one more than 0" if scale == "log" else ""
        raise ConfigurationError(f"{where}.{scale} must be two numbers, the lower one first{more}; it is {values!r}.")
    return Range(scale, tuple(numbers))
