"""Ranges and combinations of settings, checked before any time is spent."""

from typing import Any

from leed_jax.config.schema import Config, LLMConfig
from leed_jax.errors import ConfigurationError
from leed_jax.networks.modules import ACTIVATIONS
from leed_jax.objectives import SCHEDULES

ALGORITHMS = ("leed", "ippo", "mappo", "bc", "vdn", "qmix")
IMITATING = ("leed", "bc")
VALUE_BASED = ("vdn", "qmix")
MEMORIES = ("none", "gru")
SHARING = ("none", "all", "groups")
EXPERT_SOURCES = ("arrays", "instructions")
EXPERT_TERMS = ("likelihood", "advantage", "surrogate")
ADAPTATIONS = ("none", "return_gap", "dtw")
PROVIDERS = ("replay", "openai", "anthropic", "local", "random", "written")
RESPONSE_FORMATS = ("auto", "json_schema", "json_object", "none")
LABELS = ("instructed", "taken")
PLAN_KINDS = ("relational", "episodes")
MINIMUM_EVALUATION_EPISODES = 256
MAXIMUM_EVALUATION_EPISODES = 10**6


def check_config(config: Config) -> None:
    """Check ranges and combinations.

    Raises:
        ConfigurationError: the first setting that cannot work.
    """
    _one_of("algorithm", config.algorithm, ALGORITHMS)
    if config.settings_of is not None:
        _one_of("settings_of", config.settings_of, ALGORITHMS)
    _one_of("network.activation", config.network.activation, tuple(ACTIVATIONS))
    _one_of("network.memory", config.network.memory, MEMORIES)
    _one_of("network.sharing", config.network.sharing, SHARING)
    _one_of("expert.source", config.expert.source, EXPERT_SOURCES)
    _one_of("expert.term", config.expert.term, EXPERT_TERMS)
    _one_of("expert.adapt", config.expert.adapt, ADAPTATIONS)
    _one_of("demonstrations.label", config.demonstrations.label, LABELS)
    _one_of("expert.schedule", config.expert.schedule, tuple(SCHEDULES))
    _one_of("llm.provider", config.llm.provider, PROVIDERS)
    _one_of("llm.response_format", config.llm.response_format, RESPONSE_FORMATS)
    _one_of("generate.kind", config.generate.kind, PLAN_KINDS)
    for name in _POSITIVE:
        value = _lookup(config, name)
        _require(value >= 1, f"{name}={value}: must be at least 1.")
    for name in _POSITIVE_OR_NULL:
        value = _lookup(config, name)
        _require(value is None or value >= 1, f"{name}={value}: must be at least 1, or null.")
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
    _require(
        config.evaluation.episodes <= MAXIMUM_EVALUATION_EPISODES,
        f"evaluation.episodes={config.evaluation.episodes}: must be at most {MAXIMUM_EVALUATION_EPISODES:,}, as they "
        "are all played side by side.",
    )
    _check_networks(config)
    _check_expert(config)
    _check_batches(config)
    _check_llm(config.llm)
    _check_refinement(config)


def _check_networks(config: Config) -> None:
    network = config.network
    _require(
        (network.sharing == "groups") == bool(network.groups),
        f"network.groups={network.groups} with network.sharing={network.sharing}: sharing=groups needs the number of "
        "each agent's group, and nothing else does.",
    )
    _require(
        network.memory == "none" or config.algorithm not in VALUE_BASED,
        f"network.memory={network.memory}: algorithm={config.algorithm} has feed-forward networks; use memory=none.",
    )
    needed = max(config.q_learning.batch_size, config.steps_per_update)
    _require(
        config.algorithm not in VALUE_BASED or config.q_learning.buffer_size >= needed,
        f"q_learning.buffer_size={config.q_learning.buffer_size}: it has to hold at least an update's num_envs x "
        f"rollout_steps = {config.steps_per_update} transitions, and q_learning.batch_size="
        f"{config.q_learning.batch_size}.",
    )


def _check_expert(config: Config) -> None:
    expert, demonstrations = config.expert, config.demonstrations
    _require(
        expert.term == "likelihood" or expert.source == "arrays",
        f"expert.term={expert.term} needs the rewards that followed the expert's actions, and expert.source="
        f"{expert.source} has none; use expert.source=arrays, or expert.term=likelihood.",
    )
    _require(
        expert.adapt != "dtw" or config.num_envs > 1,
        "expert.adapt=dtw compares episodes side by side, and num_envs=1 leaves a single one; raise it, or use "
        "expert.adapt=return_gap.",
    )
    _require(
        demonstrations.noise_from <= demonstrations.noise,
        f"demonstrations.noise_from={demonstrations.noise_from} is more than demonstrations.noise="
        f"{demonstrations.noise}.",
    )


def _check_llm(llm: LLMConfig) -> None:
    _require(
        not (llm.provider == "replay" and llm.base_url),
        f"llm.base_url={llm.base_url}: llm=replay asks nobody; add llm=openai to ask an OpenAI-compatible endpoint.",
    )
    _require(
        llm.max_cost is None or llm.prompt_price + llm.completion_price > 0,
        f"llm.max_cost={llm.max_cost}: the cost is not known; set llm.prompt_price and llm.completion_price, too.",
    )
    for name in ("requests_per_minute", "tokens_per_minute", "max_cost"):
        value = getattr(llm, name)
        _require(value is None or 0 < value < float("inf"), f"llm.{name}={value}: must be more than 0, or null.")


def _check_refinement(config: Config) -> None:
    every = config.generate.refresh_every
    _require(
        not every or config.algorithm in IMITATING,
        f"generate.refresh_every={every}: algorithm={config.algorithm} learns from no demonstrations; leave it out.",
    )
    _require(
        not every or config.llm.provider not in ("replay", "random", "written"),
        f"generate.refresh_every={every}: llm={config.llm.provider} knows no answers to new questions; name a model, "
        "as in llm=openai llm.base_url=URL llm.model=NAME.",
    )


def _check_batches(config: Config) -> None:
    samples, parts = config.steps_per_update, config.ppo.minibatches
    _require(
        config.total_steps >= samples,
        f"total_steps={config.total_steps} is less than one update takes: num_envs x rollout_steps = {samples}.",
    )
    if config.algorithm in VALUE_BASED:
        return
    if config.network.memory != "none":
        _require(
            config.num_envs % parts == 0,
            f"ppo.minibatches={parts}: with network.memory={config.network.memory} the {config.num_envs} environments "
            f"are shared out among the minibatches; choose a divisor of num_envs={config.num_envs}.",
        )
    _require(
        samples % parts == 0,
        f"ppo.minibatches={parts}: the {samples} samples of an update (num_envs x rollout_steps = {config.num_envs} x "
        f"{config.rollout_steps}) cannot be cut into {parts} equal parts; choose a divisor of {samples}.",
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
    "network.memory_size",
    "q_learning.buffer_size",
    "q_learning.batch_size",
    "q_learning.learning_steps",
    "q_learning.mixing_size",
    "expert.batch_size",
    "llm.max_tokens",
    "llm.max_attempts",
    "llm.concurrency",
    "generate.rounds",
    "generate.candidates",
    "generate.max_instructions",
    "generate.selection_episodes",
    "generate.report_episodes",
    "llm.context",
    "generate.keep",
    "generate.episodes",
    "generate.episodes_per_prompt",
    "generate.control_plans",
)
_POSITIVE_OR_NULL = (
    "demonstrations.plans",
    "demonstrations.episodes",
    "demonstrations.number",
    "llm.max_calls",
    "llm.max_total_tokens",
    "llm.threads",
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
    "ppo.entropy_decay": (0.0, 1.0),
    "ppo.value_coefficient": (0.0, 1e6),
    "ppo.max_grad_norm": (1e-12, 1e12),
    "q_learning.learning_rate": (0.0, 1.0),
    "q_learning.learning_rate_decay": (0.0, 1.0),
    "q_learning.discount": (0.0, 1.0),
    "q_learning.epsilon_start": (0.0, 1.0),
    "q_learning.epsilon_end": (0.0, 1.0),
    "q_learning.epsilon_fraction": (0.0, 1.0),
    "q_learning.target_rate": (0.0, 1.0),
    "q_learning.max_grad_norm": (1e-12, 1e12),
    "q_learning.reward_scale": (1e-12, 1e12),
    "evaluation.curve_episodes": (0, 10**6),
    "expert.adapt_below": (1e-6, 1.0),
    "expert.entropy": (0.0, 1e6),
    "expert.temperature": (1e-6, 1e6),
    "expert.max_sample_weight": (1e-6, 1e6),
    "demonstrations.noise": (0.0, 1.0),
    "demonstrations.noise_from": (0.0, 1.0),
    "demonstrations.quantile": (0.0, 1.0),
    "expert.weight": (0.0, 1e6),
    "expert.decay_fraction": (0.0, 1.0),
    "llm.temperature": (0.0, 2.0),
    "llm.timeout_s": (0.1, 3600.0),
    "llm.prompt_price": (0.0, 1e6),
    "llm.completion_price": (0.0, 1e6),
    "generate.patience": (0, 10**6),
    "generate.recorded_episodes": (0, 10**6),
    "generate.refresh_every": (0, 10**9),
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
