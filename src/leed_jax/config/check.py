"""Checks of a whole configuration, before any time is spent."""

from leed_jax.config.schema import LOGGERS, LLMConfig, RunConfig, Settings
from leed_jax.errors import ConfigurationError
from leed_jax.fields import check_fields
from leed_jax.learning.config import VALUE_BASED


def check_config(config: Settings) -> None:
    """Check the ranges of all settings, and their combinations.

    Raises:
        ConfigurationError: the first setting that cannot work.
    """
    check_fields(config)
    _check_llm(config.llm)
    _require(
        config.demonstrations.noise_from <= config.demonstrations.noise,
        f"demonstrations.noise_from={config.demonstrations.noise_from} is more than demonstrations.noise="
        f"{config.demonstrations.noise}.",
    )
    if isinstance(config, RunConfig):
        unknown = [name for name in config.log if name not in LOGGERS]
        _require(not unknown, f"log={unknown[:1]}: must be among {', '.join(LOGGERS)}.")
        _require("jsonl" in config.log, "log has to name jsonl: metrics.jsonl is what a run is resumed from.")
        _check_networks(config)
        _check_expert(config)
        _check_batches(config)
        _check_refinement(config)


def _check_networks(config: RunConfig) -> None:
    network, value_based = config.network, config.algorithm in VALUE_BASED
    _require(bool(network.hidden_sizes), "network.hidden_sizes is empty: give at least one width, as in [64,64].")
    _require(min(network.hidden_sizes) >= 1, "network.hidden_sizes: every width must be at least 1.")
    _require(
        (network.sharing == "groups") == bool(network.groups),
        f"network.groups={list(network.groups)} with network.sharing={network.sharing}: sharing=groups needs the "
        "number of each agent's group, and nothing else does.",
    )
    _require(
        network.memory == "none" or not value_based,
        f"network.memory={network.memory}: algorithm={config.algorithm} has feed-forward networks; use memory=none.",
    )
    _require(
        not value_based or config.q_learning.buffer_size >= max(config.q_learning.batch_size, config.steps_per_update),
        f"q_learning.buffer_size={config.q_learning.buffer_size}: it has to hold at least an update's num_envs x "
        f"rollout_steps = {config.steps_per_update} transitions, and q_learning.batch_size="
        f"{config.q_learning.batch_size}.",
    )


def _check_expert(config: RunConfig) -> None:
    expert = config.expert
    _require(
        expert.term == "likelihood" or expert.source == "arrays",
        f"expert.term={expert.term} needs the rewards that followed the expert's actions, and expert.source="
        f"{expert.source} has none; use expert.source=arrays, or expert.term=likelihood.",
    )
    _require(
        expert.adapt != "dtw" or config.num_envs > 1,
        "expert.adapt=dtw compares several episodes, and num_envs=1 leaves a single one; raise it, or use "
        "expert.adapt=return_gap.",
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


def _check_refinement(config: RunConfig) -> None:
    every = config.generate.refresh_every
    _require(
        not every or config.imitates,
        f"generate.refresh_every={every}: algorithm={config.algorithm} learns from no demonstrations; leave it out.",
    )
    _require(
        not every or config.llm.provider not in ("replay", "random", "written"),
        f"generate.refresh_every={every}: llm={config.llm.provider} knows no answers to new questions; name a model, "
        "as in llm=openai llm.base_url=URL llm.model=NAME.",
    )


def _check_batches(config: RunConfig) -> None:
    samples, parts = config.steps_per_update, config.ppo.minibatches
    _require(
        config.total_steps >= samples,
        f"total_steps={config.total_steps} is less than one update takes: num_envs x rollout_steps = {samples}.",
    )
    if config.algorithm in VALUE_BASED:
        return
    _require(
        config.network.memory == "none" or config.num_envs % parts == 0,
        f"ppo.minibatches={parts}: with network.memory={config.network.memory} the {config.num_envs} environments are "
        f"shared out among the minibatches; choose a divisor of num_envs={config.num_envs}.",
    )
    _require(
        samples % parts == 0,
        f"ppo.minibatches={parts}: the {samples} samples of an update (num_envs x rollout_steps = {config.num_envs} x "
        f"{config.rollout_steps}) cannot be cut into {parts} equal parts; choose a divisor of {samples}.",
    )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigurationError(message)
