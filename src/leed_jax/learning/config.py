"""The settings of the learning algorithms.

The classes are pytrees: numbers annotated `float` are leaves, which `vmap` can sweep, and everything else is static
under jit. The command line shows these very classes; there is no other set of defaults.
"""

import dataclasses
import typing
from typing import TypeVar

import jax
import jax.numpy as jnp

from leed_jax.fields import at_least, between, choice
from leed_jax.objectives.schedules import SCHEDULES

Class = TypeVar("Class", bound=type)

ALGORITHMS = ("leed", "ippo", "mappo", "bc", "vdn", "qmix")
IMITATING = ("leed", "bc")
VALUE_BASED = ("vdn", "qmix")
EXPERT_SOURCES = ("arrays", "instructions")
EXPERT_TERMS = ("likelihood", "advantage", "surrogate")
ADAPTATIONS = ("none", "return_gap", "dtw")


def hyperparameters(cls: Class) -> Class:
    """Register a dataclass as a pytree, whose leaves are the fields annotated `float`, or with such a dataclass."""
    hints = typing.get_type_hints(cls)
    leaves = [name for name, hint in hints.items() if hint is float or dataclasses.is_dataclass(hint)]
    return jax.tree_util.register_dataclass(cls, leaves, [name for name in hints if name not in leaves])


@hyperparameters
@dataclasses.dataclass
class PPOConfig:
    """PPO's own settings.

    Attributes:
        learning_rate: Adam's step size at the start.
        learning_rate_decay: share of the learning rate that is gone, linearly, by the end of the run.
        discount: gamma.
        gae_lambda: lambda of generalised advantage estimation.
        clip_epsilon: clipping range of the surrogate objective.
        policy_coefficient: weight of the surrogate objective.
        entropy_coefficient: weight of the entropy bonus at the start.
        entropy_decay: share of that weight that is gone, linearly, by the end of the run.
        value_coefficient: weight of the critic's loss.
        max_grad_norm: global norm at which each agent's (or group's) gradient is clipped.
        epochs: passes over the samples of an update.
        minibatches: parts that each pass is cut into: of the samples, or of the environments where policies are
            recurrent.
    """

    learning_rate: float = between(1e-3, 0, 1)
    learning_rate_decay: float = between(1.0, 0, 1)
    discount: float = between(0.99, 0, 1)
    gae_lambda: float = between(0.95, 0, 1)
    clip_epsilon: float = between(0.2, 0, 10)
    policy_coefficient: float = between(1.0, 0, 1e6)
    entropy_coefficient: float = between(0.01, 0, 1e6)
    entropy_decay: float = between(0.0, 0, 1)
    value_coefficient: float = between(0.5, 0, 1e6)
    max_grad_norm: float = between(0.5, 1e-12, 1e12)
    epochs: int = at_least(4)
    minibatches: int = at_least(4)


@hyperparameters
@dataclasses.dataclass
class QLearningConfig:
    """Settings of algorithms vdn and qmix.

    Attributes:
        learning_rate: Adam's step size at the start.
        learning_rate_decay: share of the learning rate that is gone, linearly, by the end of the run.
        discount: gamma.
        epsilon_start: share of random actions at the start.
        epsilon_end: share of random actions in the end.
        epsilon_fraction: share of the run over which it falls, linearly.
        target_rate: rate of the target networks' moving average, per gradient step.
        max_grad_norm: global norm at which the gradient is clipped.
        reward_scale: factor of the rewards in learning.
        buffer_size: transitions in the replay buffer, at most; whole rollouts are kept, as many as fit.
        batch_size: transitions of a gradient step.
        learning_steps: gradient steps after each rollout.
        mixing_size: width of qmix's mixing network.
    """

    learning_rate: float = between(3e-3, 0, 1)
    learning_rate_decay: float = between(1.0, 0, 1)
    discount: float = between(0.9, 0, 1)
    epsilon_start: float = between(1.0, 0, 1)
    epsilon_end: float = between(0.05, 0, 1)
    epsilon_fraction: float = between(0.2, 0, 1)
    target_rate: float = between(0.01, 0, 1)
    max_grad_norm: float = between(10.0, 1e-12, 1e12)
    reward_scale: float = between(1.0, 1e-12, 1e12)
    buffer_size: int = at_least(100_000)
    batch_size: int = at_least(256)
    learning_steps: int = at_least(64)
    mixing_size: int = at_least(32)


@hyperparameters
@dataclasses.dataclass
class ExpertConfig:
    """The expert term of algorithms leed and bc; the others have none. For bc it is the whole loss, at constant weight.

    Attributes:
        source: arrays, samples of demonstrations; or instructions, what the plans say in the learners' own states.
        term: likelihood, of the expert's actions; advantage, the same weighted by how well the expert did; or
            surrogate, PPO's own on the expert's episodes.
        weight: its weight at the start.
        schedule: how the weight falls: constant, linear, cosine or exponential.
        decay_fraction: share of the run over which it falls to nothing.
        adapt: a factor for each agent: none; return_gap, by the remaining gap to the expert's return; or dtw, by the
            remaining distance to its episodes, with rollouts at least as long as those.
        adapt_below: the factor is 1 until this share of the gap is left, and falls to 0 from there.
        entropy: weight of an entropy bonus, in units of the term's own weight, with which it falls. An agent that
            follows its expert keeps trying other actions. Less than 1 with continuous actions, whose standard
            deviation it makes 1 / sqrt(1 - entropy) times as large; without effect on bc.
        batch_size: expert samples per agent and minibatch.
        temperature: with term=advantage, the advantage that multiplies a sample's weight by e.
        max_sample_weight: with term=advantage, the largest weight of a sample.
    """

    source: str = choice("arrays", EXPERT_SOURCES)
    term: str = choice("likelihood", EXPERT_TERMS)
    weight: float = between(1.0, 0, 1e6)
    schedule: str = choice("linear", SCHEDULES)
    decay_fraction: float = between(0.5, 0, 1)
    adapt: str = choice("none", ADAPTATIONS)
    adapt_below: float = between(0.1, 1e-6, 1)
    entropy: float = between(0.0, 0, 1e6)
    batch_size: int = at_least(256)
    temperature: float = between(1.0, 1e-6, 1e6)
    max_sample_weight: float = between(20.0, 1e-6, 1e6)


@hyperparameters
@dataclasses.dataclass
class Hparams:
    """The settings of an algorithm in training, as the third argument of `train_chunk`.

    Attributes:
        total_updates: the number of updates that schedules take.
        first_update: the number of updates before them.
        ppo: PPO's settings; vdn and qmix leave them out.
        expert: the expert term's settings, likewise.
        q_learning: the settings of vdn and qmix.
    """

    total_updates: float
    first_update: float = 0.0
    ppo: PPOConfig = dataclasses.field(default_factory=PPOConfig)
    expert: ExpertConfig = dataclasses.field(default_factory=ExpertConfig)
    q_learning: QLearningConfig = dataclasses.field(default_factory=QLearningConfig)

    def as_arrays(self) -> "Hparams":
        """The same with every number as a float32 array, so that other values do not compile again."""
        return jax.tree.map(jnp.float32, self)


def imitation_alone(ppo: PPOConfig, expert: ExpertConfig) -> tuple[PPOConfig, ExpertConfig]:
    """The settings of behaviour cloning: no PPO, and an expert term of constant weight."""
    # A critic that is not used would only take its share of the clipped gradient.
    value_coefficient = 0.0 if expert.term == "likelihood" else ppo.value_coefficient
    ppo = dataclasses.replace(ppo, policy_coefficient=0.0, entropy_coefficient=0.0, value_coefficient=value_coefficient)
    return ppo, dataclasses.replace(expert, schedule="constant", adapt="none", entropy=0.0)
