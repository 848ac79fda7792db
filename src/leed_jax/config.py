"""The configuration of a run: plain dataclasses, checked as a whole before any time is spent.

Build a `Config` in Python, or from a nested dictionary with `from_dictionary`; the command line builds the same thing.
What the docstrings below say about an attribute is what `--help` prints.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from leed_jax.environment_class import environment_identity, make_environment
from leed_jax.errors import ConfigurationError
from leed_jax.objectives import SCHEDULES
from leed_jax.options import nearest, one_sentence, options
from leed_jax.policy import ACTIVATIONS

__all__ = [
    "Config",
    "check_config",
    "environment_identity",
    "from_dictionary",
    "from_node",
    "make_environment",
    "to_dictionary",
]

ALGORITHMS = ("leed", "ippo")
RESPONSE_FORMATS = ("json_schema", "json_object", "none")
MINIMUM_EVALUATION_EPISODES = 256


@dataclasses.dataclass
class NetworkConfig:
    """Networks of each agent.

    Attributes:
        hidden_sizes: widths of the hidden layers of each agent's actor and critic.
        activation: tanh, relu, gelu or silu.
    """

    hidden_sizes: list[int] = dataclasses.field(default_factory=lambda: [64, 64])
    activation: str = "tanh"


@dataclasses.dataclass
class PPOConfig:
    """PPO's own settings; see `leed_jax.train.Hyper`.

    Attributes:
        learning_rate: Adam's step size at the start.
        learning_rate_decay: share of the learning rate that is gone, linearly, by the end of the run.
        discount: gamma.
        gae_lambda: lambda of generalised advantage estimation.
        clip_epsilon: clipping range of the surrogate objective.
        entropy_coefficient: weight of the entropy bonus.
        value_coefficient: weight of the critic's loss.
        max_grad_norm: norm at which each agent's gradient is clipped.
        epochs: passes over the samples of an update.
        minibatches: parts that each pass is cut into.
    """

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
    """The expert term of algorithm leed; ippo has none.

    Attributes:
        weight: its weight at the start.
        schedule: how the weight falls: constant, linear, cosine or exponential.
        decay_fraction: share of the run over which it falls to nothing.
        batch_size: expert samples per agent and minibatch.
    """

    weight: float = 1.0
    schedule: str = "linear"
    decay_fraction: float = 0.5
    batch_size: int = 256


@dataclasses.dataclass
class DemonstrationsConfig:
    """Where demonstrations come from.

    Attributes:
        path: a folder, or the name of a recorded set such as mpe_spread/qwen2.5-coder-1.5b.
        episodes: execute the set's plans again on this many fresh initial states; null for the recorded arrays.
        noise: largest share of disturbed actions in such an execution; episodes are spread evenly from none to that.
        seed: seed of such an execution.
    """

    path: str = ""
    episodes: int | None = None
    noise: float = 0.0
    seed: int = 0


@dataclasses.dataclass
class EvaluationConfig:
    """The fresh episodes that the summary is made from.

    Attributes:
        episodes: how many, at least 256.
        seed: their seed.
    """

    episodes: int = 1024
    seed: int = 1_000_003


@dataclasses.dataclass
class LLMConfig:
    """An OpenAI-compatible endpoint.

    Attributes:
        base_url: where its API starts.
        model: the model's name there.
        api_key_env: the environment variable that holds the key; empty for none.
        temperature: sampling temperature.
        max_tokens: longest reply.
        timeout_s: seconds until a request is given up.
        max_attempts: tries per request.
        concurrency: requests at a time.
        response_format: json_schema, json_object or none.
    """

    base_url: str = "http://127.0.0.1:8080/v1"
    model: str = ""
    api_key_env: str = ""
    temperature: float = 0.7
    max_tokens: int = 400
    timeout_s: float = 120.0
    max_attempts: int = 4
    concurrency: int = 4
    response_format: str = "json_schema"


@dataclasses.dataclass
class GenerateConfig:
    """The generation loop: how often the model is asked, and how its plans are scored.

    Attributes:
        rounds: rounds of asking and feeding back.
        candidates: plans asked for in a round.
        max_instructions: longest plan of an agent.
        selection_episodes: episodes by which plans are compared.
        report_episodes: other episodes by which the kept plans are reported.
        recorded_episodes: episodes to store.
        control_plans: random valid plans that serve as control.
        out: folder of the new set.
    """

    rounds: int = 4
    candidates: int = 8
    max_instructions: int = 4
    selection_episodes: int = 256
    report_episodes: int = 2048
    recorded_episodes: int = 256
    control_plans: int = 4000
    out: str | None = None


@dataclasses.dataclass
class Config:
    """Everything that a run depends on; the attributes that are not listed are the sections above.

    Attributes:
        env: env.name, as package.module:Class, and the fields of that class.
        experiment: the experiment that the settings start from.
        algorithm: leed, PPO with expert imitation; or ippo, the same without the expert term.
        seed: seed of the first training; the others count up from it.
        num_seeds: trainings side by side.
        total_steps: environment steps of each training, at most.
        num_envs: parallel environments of each training.
        rollout_steps: steps in each environment between two updates.
        updates_per_chunk: updates in one dispatch, about; metrics come once a chunk.
        checkpoint_every: chunks between two checkpoints.
        out: the run directory; null for runs/EXPERIMENT-ALGORITHM-seedSEED-TIME.
        resume: a run directory to go on with; stands alone.
    """

    env: dict[str, Any]
    experiment: str = ""
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
    near = nearest(key, [option.key for option in options(Config)])
    hint = f" Did you mean {near}?" if near else ""
    return f"{key} is not a key of the configuration.{hint} --help lists all keys."


def check_config(config: Config) -> None:
    """Check ranges and combinations.

    Raises:
        ConfigurationError: the first setting that cannot work.
    """
    _one_of("algorithm", config.algorithm, ALGORITHMS)
    _one_of("network.activation", config.network.activation, tuple(ACTIVATIONS))
    _one_of("expert.schedule", config.expert.schedule, tuple(SCHEDULES))
    _one_of("llm.response_format", config.llm.response_format, RESPONSE_FORMATS)
    for name in _POSITIVE:
        value = _lookup(config, name)
        _require(value >= 1, f"{name}={value}: must be at least 1.")
    for name, (low, high) in _RANGES.items():
        value = _lookup(config, name)
        _require(low <= value <= high, f"{name}={value}: must lie between {low:g} and {high:g}.")
    _require(
        bool(config.network.hidden_sizes), "network.hidden_sizes is empty: give at least one width, as in [64,64]."
    )
    _require(min(config.network.hidden_sizes) >= 1, "network.hidden_sizes: every width must be at least 1.")
    _require(
        config.evaluation.episodes >= MINIMUM_EVALUATION_EPISODES,
        f"evaluation.episodes={config.evaluation.episodes}: must be at least "
        f"{MINIMUM_EVALUATION_EPISODES}, as fewer episodes say too little about a policy.",
    )
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
    "generate.control_plans",
)
_RANGES = {
    "seed": (0, 2**31 - 1),
    "total_steps": (1, 10**15),
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
    "demonstrations.noise": (0.0, 1.0),
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
