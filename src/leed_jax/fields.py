"""Fields of settings that say which values they take: one source for checks and for help texts."""

import dataclasses
import math
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from leed_jax.errors import ConfigurationError


def choice(default: str | None, choices: Iterable[str]) -> Any:
    """A field that takes one of some words."""
    return dataclasses.field(default=default, metadata={"choices": tuple(choices)})


def between(default: float | int, low: float | int, high: float | int) -> Any:
    """A field that takes numbers from `low` to `high`, both included."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high})


def at_least(default: float | int | None, low: float | int = 1) -> Any:
    """A field that takes numbers from `low` on."""
    return dataclasses.field(default=default, metadata={"low": low, "high": math.inf})


def more_than_zero(default: float | None) -> Any:
    """A field that takes finite numbers above zero."""
    return dataclasses.field(default=default, metadata={"above": 0.0})


def check_fields(settings: Any, prefix: str = "") -> None:
    """Check every field of a dataclass, and of the dataclasses in it, against the values that it takes.

    Args:
        settings: the dataclass.
        prefix: what stands before its keys in messages, as in `ppo.`.

    Raises:
        ConfigurationError: the first value that is out of range.
    """
    hints = typing.get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            check_fields(value, f"{prefix}{field.name}.")
        elif problem := _problem(value, field.metadata, type(None) in typing.get_args(hints[field.name])):
            raise ConfigurationError(f"{prefix}{field.name}={value}: must {problem}.")


def _problem(value: Any, limits: Mapping[str, Any], nullable: bool) -> str | None:
    """What a value must do that it does not do; None if it is right."""
    or_null = ", or null" if nullable else ""
    if value is None and nullable:
        return None
    if "choices" in limits and value not in limits["choices"]:
        return f"be one of {', '.join(limits['choices'])}{or_null}"
    if "above" in limits and not limits["above"] < value < math.inf:
        return f"be more than {limits['above']:g}{or_null}"
    if "low" in limits and not limits["low"] <= value <= limits["high"]:
        if limits["high"] == math.inf:
            return f"be at least {limits['low']:g}{or_null}"
        return f"lie between {limits['low']:g} and {limits['high']:g}"
    return None
