"""The settings of the commands `run` and `generate`, as plain dataclasses.

The sections are the very classes that the engine takes. What the docstrings say about an attribute is what `--help`
prints.
"""

import dataclasses
from typing import Any

from leed_jax.fields import at_least, between, choice, more_than_zero
from leed_jax.learning.config import (
    ALGORITHMS,
    IMITATING,
    VALUE_BASED,
    ExpertConfig,
    Hparams,
    PPOConfig,
    QLearningConfig,
)
from leed_jax.networks.config import NetworkConfig

LABELS = ("instructed", "taken")
PROVIDERS = ("replay", "openai", "anthropic", "local", "random", "written")
RESPONSE_FORMATS = ("auto", "json_schema", "json_object", "none")
PLAN_KINDS = ("relational", "episodes")
LOGGERS = ("jsonl", "tensorboard", "wandb", "mlflow")
SEEDS = (0, 2**31 - 1)


@dataclasses.dataclass
class DemonstrationsConfig:
    """Where demonstrations come from, and which of them are used.

    Attributes:
        path: a folder, or the name of a recorded set; python -m leed_jax.demonstrations list shows those.
        plans: use only this many of the set's plans, the best ones; null for all.
        episodes: execute the set's plans again on this many fresh initial states; null for the recorded arrays.
        noise: largest share of disturbed actions in such an execution; episodes are spread evenly up to that.
        noise_from: smallest share of disturbed actions in such an execution.
        label: what is imitated: instructed, the action that the plan wanted; or taken, the one that noise made of it.
        seed: seed of such an execution.
        quantile: leave out episodes whose return is below this quantile of all.
        per_agent: compare each agent's own returns, so that every agent learns from the episodes good for itself.
        number: of the episodes that are left, use at most this many, the best ones; null for all.
    """

    path: str = ""
    plans: int | None = at_least(None)
    episodes: int | None = at_least(None)
    noise: float = between(0.0, 0, 1)
    noise_from: float = between(0.0, 0, 1)
    label: str = choice("instructed", LABELS)
    seed: int = between(0, *SEEDS)
    quantile: float = between(0.0, 0, 1)
    per_agent: bool = False
    number: int | None = at_least(None)


@dataclasses.dataclass
class EvaluationConfig:
    """The fresh episodes that the summary is made from.

    Attributes:
        episodes: how many, at least 256: fewer say too little about a policy.
        curve_episodes: how many after each chunk, for the learning curve of the greedy policy; 0 for none.
        seed: their seed.
    """

    episodes: int = between(1024, 256, 10**6)
    curve_episodes: int = between(256, 0, 10**6)
    seed: int = between(1_000_003, *SEEDS)


@dataclasses.dataclass
class LLMConfig:
    """The language model that is asked; llm=NAME is short for llm.provider=NAME.

    Attributes:
        provider: replay (recorded replies, no network), openai (any compatible endpoint), anthropic, local, random
            (random valid instructions, as a control), or written (instructions that stand in a file).
        base_url: where the API starts; empty for the provider's own.
        model: the model's name there.
        path: for local, a GGUF file; for written, a file with what a model would have answered; for replay, a
            demonstration set or a transcript, empty for demonstrations.path.
        api_key_env: the environment variable that holds the key; empty for no key; null for the provider's own one,
            and only at the provider's own address.
        temperature: sampling temperature.
        max_tokens: longest reply, for each plan that is asked for in it.
        timeout_s: seconds until an attempt is given up.
        max_attempts: attempts per request.
        concurrency: requests at a time.
        response_format: json_schema, json_object or none; auto tries them in this order and keeps what works.
        requests_per_minute: attempts per minute, at most; null for no limit.
        tokens_per_minute: tokens read and written per minute, at most; null for no limit.
        max_calls: attempts in all, at most; null for no limit.
        max_total_tokens: tokens read and written in all, at most; null for no limit.
        max_cost: money in all, at most, in the unit of the prices; null for no limit.
        prompt_price: price of a million tokens read.
        completion_price: price of a million tokens written.
        cache: a file of replies to share between runs and processes; null for one in the output folder.
        context: for local, tokens of context for each request.
        threads: for local, threads to compute with; null for one per core.
    """

    provider: str = choice("replay", PROVIDERS)
    base_url: str = ""
    model: str = ""
    path: str = ""
    api_key_env: str | None = None
    temperature: float = between(0.7, 0, 2)
    max_tokens: int = at_least(400)
    timeout_s: float = between(120.0, 0.1, 3600)
    max_attempts: int = at_least(6)
    concurrency: int = at_least(4)
    response_format: str = choice("auto", RESPONSE_FORMATS)
    requests_per_minute: float | None = more_than_zero(None)
    tokens_per_minute: float | None = more_than_zero(None)
    max_calls: int | None = at_least(None)
    max_total_tokens: int | None = at_least(None)
    max_cost: float | None = more_than_zero(None)
    prompt_price: float = between(0.0, 0, 1e6)
    completion_price: float = between(0.0, 0, 1e6)
    cache: str | None = None
    context: int = at_least(4096)
    threads: int | None = at_least(None)


@dataclasses.dataclass
class GenerationConfig:
    """The generation loop: how often the model is asked, and how its plans are scored.

    Attributes:
        kind: relational, one plan for all initial states; or episodes, a plan for each of some concrete ones.
        rounds: rounds of asking and feeding back, at most.
        candidates: requests in a round; with kind=episodes, for each group of initial states.
        patience: stop after this many rounds in a row without a better plan; 0 to go on to the end.
        keep: plans to keep, the best ones that behave differently.
        max_instructions: longest plan of an agent.
        episodes: with kind=episodes, the number of initial states to plan for.
        episodes_per_prompt: with kind=episodes, the initial states shown in one prompt.
        constrained: list the words in the schema of the answer, so that a model that is kept to it writes no others.
        prompt: a prompt template that comes with leed_jax, or a file; empty for the newest of this kind.
        selection_episodes: episodes by which plans are compared.
        report_episodes: other episodes by which the kept plans are reported.
        recorded_episodes: episodes to store; 0 to store the plans alone.
        control_plans: random valid plans that serve as control.
        refresh_every: while training, ask for better plans every so many updates; 0 for never.
        out: folder of the new set.
    """

    kind: str = choice("relational", PLAN_KINDS)
    rounds: int = at_least(4)
    candidates: int = at_least(8)
    patience: int = between(2, 0, 10**6)
    keep: int = at_least(3)
    max_instructions: int = at_least(4)
    episodes: int = at_least(16)
    episodes_per_prompt: int = at_least(4)
    constrained: bool = False
    prompt: str = ""
    selection_episodes: int = at_least(256)
    report_episodes: int = at_least(2048)
    recorded_episodes: int = between(256, 0, 10**6)
    control_plans: int = at_least(4000)
    refresh_every: int = between(0, 0, 10**9)
    out: str | None = None


@dataclasses.dataclass
class GenerateConfig:
    """Everything that `python -m leed_jax.generate` depends on.

    Attributes:
        env: env.name, as package.module:Class, and the fields of that class.
        experiment: the experiment that the settings start from.
        seed: seed of everything random.
        demonstrations: the set whose recorded replies llm=replay uses; and how recorded episodes are executed.
        llm: the language model.
        generate: the generation loop.
    """

    env: dict[str, Any] = dataclasses.field(default_factory=dict)
    experiment: str = ""
    seed: int = between(0, *SEEDS)
    demonstrations: DemonstrationsConfig = dataclasses.field(default_factory=DemonstrationsConfig)
    llm: LLMConfig = dataclasses.field(default_factory=LLMConfig)
    generate: GenerationConfig = dataclasses.field(default_factory=GenerationConfig)


@dataclasses.dataclass
class RunConfig:
    """Everything that `python -m leed_jax.run` depends on; the attributes that are not listed are the sections above.

    Attributes:
        env: env.name, as package.module:Class, and the fields of that class.
        experiment: the experiment that the settings start from.
        algorithm: leed, PPO with expert imitation; ippo, the same without the expert term; mappo, ippo with a central
            critic; bc, imitation alone; vdn or qmix, Q-learning of a team value.
        settings_of: the algorithm whose own settings are taken from the experiment, if it holds some; null for the
            one that is trained.
        seed: seed of the first training; the others count up from it.
        num_seeds: trainings in one program.
        total_steps: environment steps of each training, at most.
        num_envs: parallel environments of each training.
        rollout_steps: steps in each environment between two updates.
        updates_per_chunk: updates in one dispatch, about; metrics come once a chunk.
        checkpoint_every: chunks between two checkpoints.
        out: the run directory; null for runs/EXPERIMENT-ALGORITHM-seedSEED-TIME.
        resume: a run directory to continue; with total_steps, a finished one that is trained further.
        schedule: with resume and total_steps, what schedules do in the added steps: restart, they run anew over them;
            or hold, they stay at their final values.
        schedule_from: environment steps after which schedules start; set by resume.
        schedule_steps: environment steps that schedules take; null for the rest of the run; set by resume.
        init_from: a run directory whose last parameters training starts from.
        log: where metrics go: jsonl (metrics.jsonl, always), tensorboard, wandb, mlflow.
    """

    env: dict[str, Any] = dataclasses.field(default_factory=dict)
    experiment: str = ""
    algorithm: str = choice("leed", ALGORITHMS)
    settings_of: str | None = choice(None, ALGORITHMS)
    seed: int = between(0, *SEEDS)
    num_seeds: int = at_least(1)
    total_steps: int = between(1_000_000, 1, 10**15)
    num_envs: int = at_least(128)
    rollout_steps: int = at_least(26)
    updates_per_chunk: int = at_least(10)
    checkpoint_every: int = at_least(5)
    out: str | None = None
    resume: str | None = None
    schedule: str = choice("restart", ("restart", "hold"))
    schedule_from: int = between(0, 0, 10**15)
    schedule_steps: int | None = at_least(None)
    init_from: str | None = None
    log: tuple[str, ...] = ("jsonl", "tensorboard")
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    ppo: PPOConfig = dataclasses.field(default_factory=PPOConfig)
    q_learning: QLearningConfig = dataclasses.field(default_factory=QLearningConfig)
    expert: ExpertConfig = dataclasses.field(default_factory=ExpertConfig)
    demonstrations: DemonstrationsConfig = dataclasses.field(default_factory=DemonstrationsConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    llm: LLMConfig = dataclasses.field(default_factory=LLMConfig)
    generate: GenerationConfig = dataclasses.field(default_factory=GenerationConfig)

    @property
    def steps_per_update(self) -> int:
        """Environment steps in one update."""
        return self.num_envs * self.rollout_steps

    @property
    def imitates(self) -> bool:
        """Whether the algorithm learns from demonstrations."""
        return self.algorithm in IMITATING

    def hparams(self, total_updates: int) -> Hparams:
        """The settings of the algorithm.

        Args:
            total_updates: the number of updates of the whole run.
        """
        first = self.schedule_from // self.steps_per_update
        updates = total_updates - first
        if self.schedule_steps is not None:
            updates = self.schedule_steps // self.steps_per_update
        return Hparams(float(updates), float(first), self.ppo, self.expert, self.q_learning)


def unread_sections(algorithm: str, refresh_every: int) -> frozenset[str]:
    """The sections that an algorithm does not learn from: runs that differ in them alone are alike.

    Demonstrations are among them where nothing is imitated, though such a run reports their return.

    Args:
        algorithm: one of `ALGORITHMS`.
        refresh_every: updates after which a model is asked for better plans; 0 for never.
    """
    unread = {"ppo"} if algorithm in VALUE_BASED else {"q_learning"}
    if algorithm not in IMITATING:
        unread |= {"expert", "demonstrations"}
    if not refresh_every:
        unread |= {"llm", "generate"}
    return frozenset(unread)


Settings = RunConfig | GenerateConfig
"""The configuration of either command; both hold what generation needs."""
