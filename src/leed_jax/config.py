"""The configuration of a run: plain dataclasses, checked as a whole before any time is spent.

Build a `Config` in Python, or from a nested dictionary with `from_dictionary`; the command line builds the same thing.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from leed_jax.environment import Environment
from leed_jax.errors import ConfigurationError
from leed_jax.objectives import SCHEDULES
from leed_jax.policy import ACTIVATIONS

ALGORITHMS = ("leed", "ippo")


@dataclasses.dataclass
class NetworkConfig:
    """Networks of each agent."""

    hidden_sizes: list[int] = dataclasses.field(default_factory=lambda: [64, 64])
    activation: str = "tanh"


@dataclasses.dataclass
class PPOConfig:
    """PPO's own settings; see `leed_jax.train.Hyper`."""

    learning_rate: float = 1e-3
    learning_rate_decay: float = 1.0
    discount: float = 0.99
    gae_lambda: float = 0.95
    clip_epsilon: float = 0.2
    entropy_coefficient: float = 0.01
    value_coefficient: float = 0.5
    max_grad_norm: float = 0.5
    epochs: int = 4
    minibatches: int = 4


@dataclasses.dataclass
class ExpertConfig:
    """The expert term: its weight at the start, and over which share of the run it falls to nothing."""

    weight: float = 1.0
    schedule: str = "linear"
    decay_fraction: float = 0.5
    batch_size: int = 256


@dataclasses.dataclass
class DemonstrationsConfig:
    """Where demonstrations come from.

    `path` is a folder, or the name of a recorded set such as `mpe_spread/qwen2.5-coder-1.5b`. With `episodes` the set's
    plans are executed again on that many fresh initial states; without, the recorded arrays are used.
    """

    path: str = ""
    episodes: int | None = None
    seed: int = 0


@dataclasses.dataclass
class EvaluationConfig:
    """How many fresh episodes the summary is made from, and their seed."""

    episodes: int = 1024
    seed: int = 1_000_003


@dataclasses.dataclass
class LLMConfig:
    """An OpenAI-compatible endpoint; the key is read from the environment variable that `api_key_env` names."""

    base_url: str = "http://127.0.0.1:8080/v1"
    model: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    temperature: float = 0.4
    max_tokens: int = 400
    timeout_s: float = 120.0
    max_attempts: int = 4
    concurrency: int = 4
    response_format: str = "json_schema"


@dataclasses.dataclass
class GenerateConfig:
    """The generation loop: how often the model is asked, and how its plans are scored."""

    rounds: int = 4
    candidates: int = 8
    max_instructions: int = 4
    selection_episodes: int = 256
    report_episodes: int = 2048
    recorded_episodes: int = 256
    control_repeats: int = 200
    out: str | None = None


@dataclasses.dataclass
class Config:
    """Everything that a run depends on."""

    env: dict[str, Any]
    algorithm: str = "leed"
    seed: int = 0
    num_seeds: int = 1
    total_steps: int = 1_000_000
    num_envs: int = 128
    rollout_steps: int = 26
    updates_per_chunk: int = 10
    checkpoint_every: int = 5
    out: str | None = None
    resume: str | None = None
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    ppo: PPOConfig = dataclasses.field(default_factory=PPOConfig)
    expert: ExpertConfig = dataclasses.field(default_factory=ExpertConfig)
    demonstrations: DemonstrationsConfig = dataclasses.field(default_factory=DemonstrationsConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    llm: LLMConfig = dataclasses.field(default_factory=LLMConfig)
    generate: GenerateConfig = dataclasses.field(default_factory=GenerateConfig)

    @property
    def steps_per_update(self) -> int:
        """Environment steps in one update."""
        return self.num_envs * self.rollout_steps


def from_dictionary(values: Mapping[str, Any]) -> Config:
    """Build a configuration from nested plain values, with type checks.

    Raises:
        ConfigurationError: a key is unknown, or a value has the wrong type or is out of range.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(dict(values)))
        config: Any = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigurationError(one_line(error)) from None
    check_config(config)
    return config


def to_dictionary(config: Config) -> dict[str, Any]:
    """The configuration as nested plain values; the inverse of `from_dictionary`."""
    return dataclasses.asdict(config)


def one_line(error: Exception) -> str:
    """The first line of an OmegaConf error, without the trail of internal names under it."""
    message = str(error).strip().splitlines()
    where = getattr(error, "full_key", None)
    prefix = f"{where}: " if where and (not message or where not in message[0]) else ""
    return prefix + (message[0] if message else type(error).__name__)


def check_config(config: Config) -> None:
    """Check ranges and combinations.

    Raises:
        ConfigurationError: the first setting that cannot work.
    """
    _one_of("algorithm", config.algorithm, ALGORITHMS)
    _one_of("network.activation", config.network.activation, tuple(ACTIVATIONS))
    _one_of("expert.schedule", config.expert.schedule, tuple(SCHEDULES))
    _one_of("llm.response_format", config.llm.response_format, ("json_schema", "json_object", "none"))
    for name in _POSITIVE:
        value = _lookup(config, name)
        _require(value >= 1, f"{name}={value}: must be at least 1.")
    for name, (low, high) in _RANGES.items():
        value = _lookup(config, name)
        _require(low <= value <= high, f"{name}={value}: must lie between {low:g} and {high:g}.")
    _require(bool(config.network.hidden_sizes), "network.hidden_sizes is empty: give at least one width, as in [64,64].")
    _require(min(config.network.hidden_sizes) >= 1, "network.hidden_sizes: every width must be at least 1.")
    _require(config.evaluation.episodes >= 1, "evaluation.episodes must be at least 1.")
    episodes = config.demonstrations.episodes
    _require(episodes is None or episodes >= 1, f"demonstrations.episodes={episodes}: must be at least 1, or null.")
    _check_batches(config)


def _check_batches(config: Config) -> None:
    samples, parts = config.steps_per_update, config.ppo.minibatches
    _require(
        samples % parts == 0,
        f"ppo.minibatches={parts}: the {samples} samples of an update (num_envs x rollout_steps = {config.num_envs} x "
        f"{config.rollout_steps}) cannot be cut into {parts} equal parts; choose a divisor of {samples}.",
    )
    _require(
        config.total_steps >= samples,
        f"total_steps={config.total_steps} is less than one update takes: num_envs x rollout_steps = {samples}.",
    )


_POSITIVE = (
    "num_seeds",
    "total_steps",
    "num_envs",
    "rollout_steps",
    "updates_per_chunk",
    "checkpoint_every",
    "ppo.epochs",
    "ppo.minibatches",
    "expert.batch_size",
    "llm.max_tokens",
    "llm.max_attempts",
    "llm.concurrency",
    "generate.rounds",
    "generate.candidates",
    "generate.max_instructions",
    "generate.selection_episodes",
    "generate.report_episodes",
    "generate.recorded_episodes",
    "generate.control_repeats",
)
_RANGES = {
    "seed": (0, 2**31 - 1),
    "demonstrations.seed": (0, 2**31 - 1),
    "evaluation.seed": (0, 2**31 - 1),
    "ppo.learning_rate": (0.0, 1.0),
    "ppo.learning_rate_decay": (0.0, 1.0),
    "ppo.discount": (0.0, 1.0),
    "ppo.gae_lambda": (0.0, 1.0),
    "ppo.clip_epsilon": (0.0, 10.0),
    "ppo.entropy_coefficient": (0.0, 1e6),
    "ppo.value_coefficient": (0.0, 1e6),
    "ppo.max_grad_norm": (1e-12, 1e12),
    "expert.weight": (0.0, 1e6),
    "expert.decay_fraction": (0.0, 1.0),
    "llm.temperature": (0.0, 2.0),
    "llm.timeout_s": (0.1, 3600.0),
}


def _lookup(config: Config, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigurationError(message)


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    _require(value in choices, f"{name}={value}: must be one of {', '.join(choices)}.")


def make_environment(values: Mapping[str, Any]) -> Environment:
    """Build the environment that a configuration's `env` section describes.

    Args:
        values: `name`, as `package.module:Class` with a dataclass that keeps the environment protocol, and its fields.

    Raises:
        ConfigurationError: there is no such class, or a field is unknown, of the wrong type, or out of range.
    """
    fields = dict(values)
    name = str(fields.pop("name", ""))
    cls = _environment_class(name)
    try:
        settings = OmegaConf.merge(OmegaConf.structured(cls), OmegaConf.create(fields))
        return cls(**{field.name: settings[field.name] for field in dataclasses.fields(cls)})
    except OmegaConfBaseException as error:
        known = ", ".join(field.name for field in dataclasses.fields(cls))
        raise ConfigurationError(f"env: {one_line(error)} ({cls.__name__} takes: {known}.)") from None


def _environment_class(name: str) -> Any:
    module_name, separator, class_name = name.partition(":")
    if not separator:
        raise ConfigurationError(f"env.name={name!r}: write it as package.module:Class, where the class can be imported.")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except ImportError as error:
        raise ConfigurationError(f"env.name={name}: {error}; is its package installed?") from None
    except AttributeError:
        raise ConfigurationError(f"env.name={name}: the module {module_name} has no {class_name}.") from None
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise ConfigurationError(f"env.name={name}: {class_name} must be a dataclass; its fields are the env keys.")
    return cls


def environment_identity(environment: Environment) -> dict[str, Any]:
    """What tells environments apart: the class's import path and the values of its fields."""
    cls = type(environment)
    return {"name": f"{cls.__module__}:{cls.__qualname__}", "config": dataclasses.asdict(environment)}  # type: ignore[call-overload]
