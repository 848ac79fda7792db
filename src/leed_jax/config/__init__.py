"""The configuration of a command: dataclasses, checked as a whole before any time is spent.

Build a `RunConfig` in Python, or from a nested dictionary with `from_dictionary`; the command line does the same.
"""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from leed_jax.config.check import check_config
from leed_jax.config.environments import environment_identity, make_environment
from leed_jax.config.options import nearest, one_sentence, options
from leed_jax.config.schema import (
    LABELS,
    PROVIDERS,
    RESPONSE_FORMATS,
    DemonstrationsConfig,
    EvaluationConfig,
    GenerateConfig,
    GenerationConfig,
    LLMConfig,
    RunConfig,
    Settings,
    unread_sections,
)
from leed_jax.errors import ConfigurationError

__all__ = [
    "LABELS",
    "PROVIDERS",
    "RESPONSE_FORMATS",
    "DemonstrationsConfig",
    "EvaluationConfig",
    "GenerateConfig",
    "GenerationConfig",
    "LLMConfig",
    "RunConfig",
    "Settings",
    "check_config",
    "environment_identity",
    "from_dictionary",
    "from_node",
    "make_environment",
    "to_dictionary",
    "unread_sections",
]

AnyConfig = TypeVar("AnyConfig", RunConfig, GenerateConfig)


def from_dictionary(values: Mapping[str, Any], kind: type[AnyConfig] = RunConfig) -> AnyConfig:  # type: ignore[assignment]
    """Build a configuration from nested plain values, with type checks.

    Args:
        values: the values; what is left out has its default.
        kind: the command's class.

    Raises:
        ConfigurationError: a key is unknown, or a value has the wrong type or is out of range.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(kind), OmegaConf.create(dict(values)))
    except OmegaConfBaseException as error:
        raise ConfigurationError(explain(error, kind)) from None
    return from_node(merged, kind)


def from_node(node: Any, kind: type[AnyConfig] = RunConfig) -> AnyConfig:  # type: ignore[assignment]
    """Turn OmegaConf's typed node into the dataclass, and check it.

    Raises:
        ConfigurationError: a value is missing or out of range.
    """
    try:
        values: Any = OmegaConf.to_container(node, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigurationError(explain(error, kind)) from None
    config = _build(kind, values)
    check_config(config)
    return config


def _build(cls: Any, values: Mapping[str, Any]) -> Any:
    """A dataclass from plain values; OmegaConf has lists for tuples."""
    hints = typing.get_type_hints(cls)
    given = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            given[name] = _build(hints[name], value)
        else:
            given[name] = tuple(value) if typing.get_origin(hints[name]) is tuple else value
    return cls(**given)


def to_dictionary(config: Settings) -> dict[str, Any]:
    """The configuration as nested plain values; the inverse of `from_dictionary`."""
    return _plain(dataclasses.asdict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def explain(error: Exception, kind: type = RunConfig) -> str:
    """One sentence for an OmegaConf error, with the nearest known key where a key is unknown."""
    if isinstance(error, (ConfigKeyError, ConfigAttributeError)):
        return unknown_key(str(error.full_key), kind)
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} has no value, and needs one."
    return one_sentence(error)


def unknown_key(key: str, kind: type = RunConfig) -> str:
    """Say that there is no such key, and which one is most like it."""
    for other in {RunConfig, GenerateConfig} - {kind}:
        if key in [option.key for option in options(other)]:
            command = "run" if other is RunConfig else "generate"
            return f"{key} is a key of python -m leed_jax.{command}, and of no use here; leave it out."
    # Who asks for a key of a section does not want the section.
    near = nearest(key, [option.key for option in options(kind) if not (option.section and "." in key)])
    hint = f" Did you mean {near}?" if near else ""
    return f"{key} is not a key of the configuration.{hint} --help lists all keys."
