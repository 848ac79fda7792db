"""The settings of a run, as plain dataclasses.

What the docstrings say about an attribute is what `--help` prints.
"""

import dataclasses
from typing import Any


@dataclasses.dataclass
class NetworkConfig:
    """Networks of each agent.

    Attributes:
        hidden_sizes: widths of the hidden layers of each agent's actor and critic.
        activation: tanh, relu, gelu or silu.
        memory: none, feed-forward; or gru, with a recurrent layer after the hidden ones.
        memory_size: width of that layer.
        sharing: none, each agent has networks of its own; all, they share them; groups, those of a group do.
        groups: with sharing=groups, the number of each agent's group, as in [0,0,1].
        agent_id: tell the networks which agent they act for; null for where they are shared.
    """

    hidden_sizes: list[int] = dataclasses.field(default_factory=lambda: [64, 64])
    activation: str = "tanh"
    memory: str = "none"
    memory_size: int = 64
    sharing: str = "none"
    groups: list[int] = dataclasses.field(default_factory=list)
    agent_id: bool | None = None


@dataclasses.dataclass
class PPOConfig:
    """PPO's own settings; see `leed_jax.learning.ppo.Hyper`.

    Attributes:
        learning_rate: Adam's step size at the start.
        learning_rate_decay: share of the learning rate that is gone, linearly, by the end of the run.
        discount: gamma.
        gae_lambda: lambda of generalised advantage estimation.
        clip_epsilon: clipping range of the surrogate objective.
        entropy_coefficient: weight of the entropy bonus at the start.
        entropy_decay: share of that weight that is gone, linearly, by the end of the run.
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
    entropy_decay: float = 0.0
    value_coefficient: float = 0.5
    max_grad_norm: float = 0.5
    epochs: int = 4
    minibatches: int = 4


@dataclasses.dataclass
class QLearningConfig:
    """Settings of algorithms vdn and qmix; see `leed_jax.learning.q_learning.QHyper`.

    Attributes:
        learning_rate: Adam's step size at the start.
        learning_rate_decay: share of the learning rate that is gone, linearly, by the end of the run.
        discount: gamma.
        epsilon_start: share of random actions at the start.
        epsilon_end: share of random actions in the end.
        epsilon_fraction: share of the run over which it falls, linearly.
        target_rate: share of the networks that the target networks take over after each step of learning.
        max_grad_norm: norm at which the gradient is clipped.
        reward_scale: factor of the rewards in learning.
        buffer_size: transitions that are remembered, at most.
        batch_size: transitions of a step of learning.
        learning_steps: steps of learning after each rollout.
        mixing_size: width of qmix's mixing network.
    """

    learning_rate: float = 3e-3
    learning_rate_decay: float = 1.0
    discount: float = 0.9
    epsilon_start: float = 1.0
    epsilon_end: float = 0.05
    epsilon_fraction: float = 0.2
    target_rate: float = 0.01
    max_grad_norm: float = 10.0
    reward_scale: float = 1.0
    buffer_size: int = 100_000
    batch_size: int = 256
    learning_steps: int = 64
    mixing_size: int = 32


@dataclasses.dataclass
class ExpertConfig:
    """The expert term of algorithms leed and bc; the others have none. Of bc it is all, with a constant weight.

    Attributes:
        source: arrays, samples of demonstrations; or instructions, what the plans say in the learners' own states.
        term: likelihood, of the expert's actions; advantage, the same weighted by how well the expert did; or
            surrogate, PPO's own on the expert's episodes.
        weight: its weight at the start.
        schedule: how the weight falls: constant, linear, cosine or exponential.
        decay_fraction: share of the run over which it falls to nothing.
        adapt: a factor of each agent's own: none; return_gap, by the share of the way to the expert's return that is
            left; or dtw, the same for the distance of their episodes, with rollouts at least as long as those.
        adapt_below: the factor is 1 until this share of the way is left, and falls to 0 from there.
        entropy: weight of an entropy bonus, in units of the term's own weight, with which it falls. An agent that
            follows its expert keeps trying other actions. Less than 1 with continuous actions, whose standard
            deviation it makes 1 / sqrt(1 - entropy) times as large; without effect on bc.
        batch_size: expert samples per agent and minibatch.
        temperature: with term=advantage, the advantage that multiplies a sample's weight by e.
        max_sample_weight: with term=advantage, the largest weight of a sample.
    """

    source: str = "arrays"
    term: str = "likelihood"
    weight: float = 1.0
    schedule: str = "linear"
    decay_fraction: float = 0.5
    adapt: str = "none"
    adapt_below: float = 0.1
    entropy: float = 0.0
    batch_size: int = 256
    temperature: float = 1.0
    max_sample_weight: float = 20.0


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
    plans: int | None = None
    episodes: int | None = None
    noise: float = 0.0
    noise_from: float = 0.0
    label: str = "instructed"
    seed: int = 0
    quantile: float = 0.0
    per_agent: bool = False
    number: int | None = None


@dataclasses.dataclass
class EvaluationConfig:
    """The fresh episodes that the summary is made from.

    Attributes:
        episodes: how many, at least 256 and at most 1000000.
        curve_episodes: how many after each chunk, for the learning curve of the greedy policy; 0 for none.
        seed: their seed.
    """

    episodes: int = 1024
    curve_episodes: int = 256
    seed: int = 1_000_003


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

    provider: str = "replay"
    base_url: str = ""
    model: str = ""
    path: str = ""
    api_key_env: str | None = None
    temperature: float = 0.7
    max_tokens: int = 400
    timeout_s: float = 120.0
    max_attempts: int = 6
    concurrency: int = 4
    response_format: str = "auto"
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_calls: int | None = None
    max_total_tokens: int | None = None
    max_cost: float | None = None
    prompt_price: float = 0.0
    completion_price: float = 0.0
    cache: str | None = None
    context: int = 4096
    threads: int | None = None


@dataclasses.dataclass
class GenerateConfig:
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

    kind: str = "relational"
    rounds: int = 4
    candidates: int = 8
    patience: int = 2
    keep: int = 3
    max_instructions: int = 4
    episodes: int = 16
    episodes_per_prompt: int = 4
    constrained: bool = False
    prompt: str = ""
    selection_episodes: int = 256
    report_episodes: int = 2048
    recorded_episodes: int = 256
    control_plans: int = 4000
    refresh_every: int = 0
    out: str | None = None


@dataclasses.dataclass
class Config:
    """Everything that a run depends on; the attributes that are not listed are the sections above.

    Attributes:
        env: env.name, as package.module:Class, and the fields of that class.
        experiment: the experiment that the settings start from.
        algorithm: leed, PPO with expert imitation; ippo, the same without the expert term; mappo, ippo with a central
            critic; bc, imitation alone; vdn or qmix, Q-learning of a team value.
        settings_of: the algorithm whose own settings are taken from the experiment, if it holds some; null for the
            one that is trained.
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
    settings_of: str | None = None
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
    q_learning: QLearningConfig = dataclasses.field(default_factory=QLearningConfig)
    expert: ExpertConfig = dataclasses.field(default_factory=ExpertConfig)
    demonstrations: DemonstrationsConfig = dataclasses.field(default_factory=DemonstrationsConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    llm: LLMConfig = dataclasses.field(default_factory=LLMConfig)
    generate: GenerateConfig = dataclasses.field(default_factory=GenerateConfig)

    @property
    def steps_per_update(self) -> int:
        """Environment steps in one update."""
        return self.num_envs * self.rollout_steps
