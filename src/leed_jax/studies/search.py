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
from leed_jax.studies.settings import flat_settings

_PARTS = ("settings", "list", "grid", "sample")
_SCALES = ("linear", "log", "choices")


@dataclasses.dataclass(frozen=True)
class Range:
    """What one key is drawn from: evenly between two numbers or their logarithms, or one of several choices."""

    scale: str  # linear, log or choices
    values: Sequence[Any]  # the two ends, or the choices

    def at(self, quantile: float) -> Any:
        """The value at a quantile in [0, 1), in four digits so that one can copy it."""
        if self.scale == "choices":
            return self.values[int(quantile * len(self.values))]
        low, high = (float(value) for value in self.values)
        number = low * (high / low) ** quantile if self.scale == "log" else low + (high - low) * quantile
        return float(f"{number:.4g}")


@dataclasses.dataclass(frozen=True)
class Search:
    """What is tried of one variant."""

    settings: Mapping[str, Any]  # common to all that is tried
    tried: tuple[Mapping[str, Any], ...]  # what each setting changes in that
    ranges: Mapping[str, Range]  # of the drawn ones, by key


def read_search(values: Any, where: str, label: str, budget: int, seed: int) -> Search:
    """Enumerate the settings of a variant: first those listed, then the grid, then as many drawn as are missing.

    Args:
        values: the variant in the study file, with the keys settings, list, grid and sample.
        where: its place, for messages.
        label: the variant's label; variants draw independently.
        budget: how many settings there have to be.
        seed: of the draws.

    Raises:
        ConfigurationError: a key is unknown, there are more or fewer settings, or one is there twice.
    """
    if not isinstance(values, Mapping) or not values:
        raise ConfigurationError(f"{where} must hold some of {', '.join(_PARTS)}, as kind=tune tries several settings.")
    for part in values:
        if part not in _PARTS:
            near = nearest(str(part), _PARTS)
            hint = f" (did you mean {near}?)" if near else ""
            raise ConfigurationError(f"{where}.{part}: there is no such part{hint}; use {', '.join(_PARTS)}.")
    listed = values.get("list") or []
    if not isinstance(listed, list):
        raise ConfigurationError(f"{where}.list must be a list of settings, as in [{{ppo.learning_rate: 0.001}}].")
    tried = [flat_settings(entry, f"{where}.list[{index}]") for index, entry in enumerate(listed)]
    tried += _grid(flat_settings(values.get("grid"), f"{where}.grid"), f"{where}.grid")
    ranges = _ranges(values.get("sample"), f"{where}.sample")
    if ranges:
        tried += draw(ranges, max(0, budget - len(tried)), [seed, zlib.crc32(label.encode())])
    if len(tried) != budget:
        raise ConfigurationError(
            f"{where} has {len(tried)} settings, and the budget of every variant is {budget}; list more or fewer, "
            "or add sample, from which missing ones are drawn."
        )
    for index, entry in enumerate(tried):
        if entry in tried[:index]:
            raise ConfigurationError(f"{where} has the setting {entry} twice; use a grid, or draw from wider ranges.")
    return Search(flat_settings(values.get("settings"), f"{where}.settings"), tuple(tried), ranges)


def draw(ranges: Mapping[str, Range], number: int, seed: Sequence[int]) -> list[dict[str, Any]]:
    """Draw settings by Latin hypercube sampling: of each key's range, every n-th part is drawn from exactly once.

        x_ij = F_j^-1((pi_j(i) + u_ij) / n),   pi_j a random permutation of 0..n-1, u_ij uniform in [0, 1)

    Source: McKay, Beckman and Conover 1979, "A comparison of three methods for selecting values of input variables".

    Args:
        ranges: by key; F_j is the distribution function of a range.
        number: n, how many.
        seed: of the draws.
    """
    rng = np.random.default_rng(list(seed))
    quantiles = {key: (rng.permutation(number) + rng.random(number)) / max(number, 1) for key in ranges}
    return [{key: item.at(float(quantiles[key][i])) for key, item in ranges.items()} for i in range(number)]


def _grid(values: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """All combinations."""
    for key, choices in values.items():
        if not isinstance(choices, list) or not choices:
            raise ConfigurationError(
                f"{where}.{key} must be a list of values, as in [0.001, 0.002]; it is {choices!r}."
            )
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values()) if values]


def _ranges(values: Any, where: str) -> dict[str, Range]:
    if values is not None and not isinstance(values, Mapping):
        raise ConfigurationError(f"{where} must hold a range for each key; it is {values!r}.")
    # The last level of the mapping is the range itself, {SCALE: VALUES}.
    found: dict[str, Range] = {}
    for path, choices in flat_settings(values, where).items():
        key, _, scale = path.rpartition(".")
        if scale not in _SCALES or not key:
            raise ConfigurationError(
                f"{where}.{path}: write a range as {{linear: [LOW, HIGH]}}, {{log: [LOW, HIGH]}} or {{choices: [...]}}."
            )
        if key in found:
            raise ConfigurationError(f"{where}.{key} has two ranges; leave one of them out.")
        if fault := _fault(scale, choices):
            raise ConfigurationError(f"{where}.{key}.{scale} must be {fault}; it is {choices!r}.")
        found[key] = Range(scale, tuple(choices))
    return found


def _fault(scale: str, values: Any) -> str:
    """What the values of a range should be, if they are not."""
    if scale == "choices":
        return "" if isinstance(values, list) and values else "a list with at least one value"
    ends = values if isinstance(values, list) and all(type(end) in (int, float) for end in values) else []
    two = len(ends) == 2 and ends[0] < ends[1] < math.inf  # noqa: PLR2004 - the two ends
    if two and (scale == "linear" or ends[0] > 0):
        return ""
    return f"two numbers, the lower one first{', the lower one more than 0' if scale == 'log' else ''}"
