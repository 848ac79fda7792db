"""The configuration of a run: plain dataclasses, checked as a whole before any time is spent.

Build a `Config` in Python, or from a nested dictionary with `from_dictionary`; the command line builds the same thing.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from leed_jax.config.check import ALGORITHMS, IMITATING, PROVIDERS, RESPONSE_FORMATS, VALUE_BASED, check_config
from leed_jax.config.effect import idle_sections
from leed_jax.config.environments import environment_identity, make_environment
from leed_jax.config.options import nearest, one_sentence, options
from leed_jax.config.schema import (
    Config,
    DemonstrationsConfig,
    EvaluationConfig,
    ExpertConfig,
    GenerateConfig,
    LLMConfig,
    NetworkConfig,
    PPOConfig,
    QLearningConfig,
)
from leed_jax.errors import ConfigurationError

__all__ = [
    "ALGORITHMS",
    "IMITATING",
    "PROVIDERS",
    "RESPONSE_FORMATS",
    "VALUE_BASED",
    "Config",
    "DemonstrationsConfig",
    "EvaluationConfig",
    "ExpertConfig",
    "GenerateConfig",
    "LLMConfig",
    "NetworkConfig",
    "PPOConfig",
    "QLearningConfig",
    "check_config",
    "environment_identity",
    "from_dictionary",
    "from_node",
    "idle_sections",
    "make_environment",
    "to_dictionary",
]


def from_dictionary(values: Mapping[str, Any]) -> Config:
    """Build a configuration from nested plain values, with type checks.

    Raises:
        ConfigurationError: a key is unknown, or a value has the wrong type or is out of range.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(dict(values)))
    except OmegaConfBaseException as error:
        raise ConfigurationError(explain(error)) from None
    return from_node(merged)


def from_node(node: Any) -> Config:
    """Turn OmegaConf's typed node into the dataclass, and check it.

    Raises:
        ConfigurationError: a value is missing or out of range.
    """
    try:
        config: Any = OmegaConf.to_object(node)
    except OmegaConfBaseException as error:
        raise ConfigurationError(explain(error)) from None
    check_config(config)
    return config


def to_dictionary(config: Config) -> dict[str, Any]:
    """The configuration as nested plain values; the inverse of `from_dictionary`."""
    return dataclasses.asdict(config)


def explain(error: Exception) -> str:
    """One sentence for an OmegaConf error, with the nearest known key where a key is unknown."""
    if isinstance(error, (ConfigKeyError, ConfigAttributeError)):
        return unknown_key(str(error.full_key))
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} has no value, and needs one."
    return one_sentence(error)


def unknown_key(key: str) -> str:
    """Say that there is no such key, and which one is most like it."""
    # Who asks for a key of a section does not want the section.
    near = nearest(key, [option.key for option in options(Config) if not (option.section and "." in key)])
    hint = f" Did you mean {near}?" if near else ""
    return f"{key} is not a key of the configuration.{hint} --help lists all keys."
