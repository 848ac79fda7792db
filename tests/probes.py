"""Tiny environments whose returns and values are known, and small helpers around them."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from leed_jax.environments import TimeStep, Wrapper
from leed_jax.instructions import Command, Measure, Parameter, Vocabulary
from leed_jax.learning.config import ExpertConfig, Hparams, PPOConfig
from leed_jax.learning.ppo import init_state, make_train_chunk
from leed_jax.networks.config import NetworkConfig
from leed_jax.networks.policy import Policy, distributions_of_agents, values_of_agents


@dataclasses.dataclass(frozen=True)
class Steady:
    """Agent i earns `i + 1` at every step, whatever it does, in episodes of `max_steps` steps.

    Attributes:
        terminates: episodes end by termination; otherwise by a time limit.
        sees_time: agents observe the number of the step, one-hot; otherwise always the same number.
        random_length: an episode is over after one to `max_steps` steps, drawn at its start.
    """

    num_agents: int = 2
    max_steps: int = 1
    terminates: bool = True
    sees_time: bool = False
    random_length: bool = False
    num_actions: int = 2

    @property
    def observation_size(self) -> int:
        return self.max_steps + 1 if self.sees_time else 1

    def reset(self, key: Any) -> tuple[Any, TimeStep]:
        shortest = 1 if self.random_length else self.max_steps
        length = jax.random.randint(key, (), shortest, self.max_steps + 1)
        state = (jnp.zeros((), jnp.int32), length)
        return state, self._time_step(state, jnp.zeros(self.num_agents))

    def step(self, state: Any, action: Any, key: Any) -> tuple[Any, TimeStep]:
        state = (state[0] + 1, state[1])
        return state, self._time_step(state, self.reward(action))

    def reward(self, action: Any) -> Any:
        return jnp.arange(1.0, self.num_agents + 1)

    def available(self, step: Any) -> Any:
        return jnp.ones((self.num_agents, self.num_actions), bool)

    def _time_step(self, state: Any, reward: Any) -> TimeStep:
        step, length = state
        row = jax.nn.one_hot(step, self.max_steps + 1) if self.sees_time else jnp.ones(1)
        observation = jnp.tile(row, (self.num_agents, 1))
        over = step >= length
        return TimeStep(
            observation=observation,
            reward=reward,
            terminated=jnp.full(self.num_agents, over & self.terminates),
            truncated=over & (not self.terminates),
            available_actions=self.available(step),
        )


@dataclasses.dataclass(frozen=True)
class OneByOne(Steady):
    """Agent i terminates in step `i + 1`, while the others go on; all keep being given what `Steady` gives."""

    num_agents: int = 3
    max_steps: int = 5

    def _time_step(self, state: Any, reward: Any) -> TimeStep:
        ended = jnp.arange(1, self.num_agents + 1) <= state[0]
        return super()._time_step(state, reward).replace(terminated=ended, truncated=state[0] >= self.max_steps)


@dataclasses.dataclass(frozen=True)
class Choice(Steady):
    """Agent i earns 1 for action `(i + 1) % num_actions` and nothing for any other."""

    num_actions: int = 3

    def reward(self, action: Any) -> Any:
        return (action == self.best_action()).astype(jnp.float32)

    def best_action(self) -> Any:
        return (jnp.arange(self.num_agents) + 1) % self.num_actions


@dataclasses.dataclass(frozen=True)
class Nothing(Steady):
    """No action earns anything."""

    num_actions: int = 3

    def reward(self, action: Any) -> Any:
        return jnp.zeros(self.num_agents)


@dataclasses.dataclass(frozen=True)
class Masked(Steady):
    """Only action `step % num_actions` is available at each step."""

    num_actions: int = 3
    max_steps: int = 4

    def available(self, step: Any) -> Any:
        return jnp.tile(jnp.arange(self.num_actions) == step % self.num_actions, (self.num_agents, 1))


@dataclasses.dataclass(frozen=True)
class Preferred(Choice):
    """The same, but agent i has only `i + 2` of the actions, and the best one earns nothing to who cannot take it.

    Of what is left, the action with the higher number earns more.
    """

    num_agents: int = 3
    num_actions: int = 4

    def available(self, step: Any) -> Any:
        return jnp.arange(self.num_actions) < jnp.arange(2, self.num_agents + 2)[:, None]

    def reward(self, action: Any) -> Any:
        return jnp.where(self.available(0)[jnp.arange(self.num_agents), action], 0.1 * action, 100.0)


@dataclasses.dataclass(frozen=True)
class Recall:
    """Each agent sees a cue, 1 or 2, in the first step and nothing later; naming it in the last step earns 1.

    An agent that remembers nothing earns 0.5 on average, whatever it does.
    """

    num_agents: int = 2
    max_steps: int = 3
    observation_size: int = 2
    num_actions: int = 2

    def reset(self, key: Any) -> tuple[Any, TimeStep]:
        cue = jax.random.bernoulli(key, 0.5, (self.num_agents,)).astype(jnp.int32)
        state = (cue, jnp.zeros((), jnp.int32))
        return state, self._time_step(state, jnp.zeros(self.num_agents))

    def step(self, state: Any, action: Any, key: Any) -> tuple[Any, TimeStep]:
        state = (state[0], state[1] + 1)
        return state, self._time_step(state, ((action == state[0]) & (state[1] == self.max_steps)).astype(jnp.float32))

    def _time_step(self, state: Any, reward: Any) -> TimeStep:
        cue, step = state
        return TimeStep(
            observation=jnp.where(step == 0, jax.nn.one_hot(cue, 2), 0.0),
            reward=reward,
            terminated=jnp.full(self.num_agents, step >= self.max_steps),
        )


@dataclasses.dataclass(frozen=True)
class Aim(Steady):
    """Continuous actions of two components, of which agent 0 has one only: each earns less, the further from its aim.

    Agent 1 aims at more than 1 in its second component, and can reach only 1.
    """

    num_actions: int = 2
    continuous: bool = True

    def available(self, step: Any) -> Any:
        return jnp.array([[True, False], [True, True]])

    def reward(self, action: Any) -> Any:
        return -jnp.sum(self.available(0) * (action - self.aim()) ** 2, axis=-1)

    def aim(self) -> Any:
        return jnp.array([[0.5, 9.0], [-0.4, 1.5]])


@dataclasses.dataclass(frozen=True)
class InstructedAim(Aim):
    """The same with an instruction to go for a quarter of the aim, or for all of what can be reached of it."""

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        names = ("quarter", "whole")
        parameters = tuple(Parameter(name, "A share of the aim.") for name in names)
        return Vocabulary((Command("Go", "Go for it.", names),), parameters, ("agent_0", "agent_1"))

    def describe(self) -> str:
        return "An aim."

    def act(self, state: Any, command: Any, parameter: Any) -> Any:
        share = jnp.where(parameter == 0, 0.25, 1.0)[:, None]
        return jnp.clip(self.available(0) * self.aim() * share, -1.0, 1.0)

    def achieved(self, state: Any, command: Any, parameter: Any) -> Any:
        return jnp.zeros(2, bool)


@dataclasses.dataclass(frozen=True)
class Coin(Steady):
    """Agent 0 sees whether a coin shows 0 or 1, agent 1 does not; they earn what it shows, and twice that."""

    def reset(self, key: Any) -> tuple[Any, TimeStep]:
        state = jax.random.bernoulli(key, 0.5).astype(jnp.float32)
        return state, self._shown(state, state < 0, jnp.zeros(2))

    def step(self, state: Any, action: Any, key: Any) -> tuple[Any, TimeStep]:
        return state, self._shown(state, state >= 0, state * jnp.arange(1.0, 3.0))

    def _shown(self, coin: Any, over: Any, reward: Any) -> TimeStep:
        return TimeStep(
            observation=jnp.array([[1.0], [0.0]]) * coin,
            reward=reward,
            terminated=jnp.full(2, over),
            available_actions=self.available(0),
        )


@struct.dataclass
class LineState:
    """Where the agents are on the line, and the time."""

    position: Any
    step: Any


@dataclasses.dataclass(frozen=True)
class Line:
    """Agents walk on a line of marks, one mark a step, and earn the number of the mark that they reach.

    All start at mark 0. Every action is one (command, parameter) pair, `command * len(parameters) + parameter`, so that
    the recorded actions of an executed plan show which instruction was in force. `Walk` takes as many steps as the mark
    is away (at least one), `Stay` is never done, and agent_1 may not go to mark_4.
    """

    num_agents: int = 2
    max_steps: int = 8
    marks: int = 5

    @property
    def observation_size(self) -> int:
        return 1

    @property
    def num_actions(self) -> int:
        return 2 * (self.marks + 1)

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        last = self.marks - 1
        names = tuple(f"mark_{i}" for i in range(self.marks))
        barred = [frozenset({"agent_1"}) if i == last else frozenset() for i in range(self.marks)]
        parameters = (*map(Parameter, names, ["A mark."] * self.marks, barred), Parameter("forever", "To the end."))
        commands = (Command("Walk", "Go there.", names), Command("Stay", "Stand still.", ("forever",)))
        return Vocabulary(commands, parameters, tuple(f"agent_{i}" for i in range(self.num_agents)))

    def describe(self) -> str:
        return "A line."

    def reset(self, key: Any) -> tuple[LineState, TimeStep]:
        state = LineState(jnp.zeros(self.num_agents, jnp.int32), jnp.zeros((), jnp.int32))
        return state, self._time_step(state, jnp.zeros(self.num_agents))

    def step(self, state: LineState, action: Any, key: Any) -> tuple[LineState, TimeStep]:
        command, parameter = action // (self.marks + 1), action % (self.marks + 1)
        walks = (command == 0) & (parameter < self.marks)
        move = jnp.where(walks, jnp.sign(parameter - state.position), 0)
        state = LineState(state.position + move, state.step + 1)
        return state, self._time_step(state, state.position.astype(jnp.float32))

    def act(self, state: LineState, command: Any, parameter: Any) -> Any:
        return command * (self.marks + 1) + parameter

    def achieved(self, state: LineState, command: Any, parameter: Any) -> Any:
        return (command == 0) & (state.position == parameter)

    def _time_step(self, state: LineState, reward: Any) -> TimeStep:
        return TimeStep(
            observation=state.position[:, None].astype(jnp.float32),
            reward=reward,
            truncated=state.step >= self.max_steps,
        )


@dataclasses.dataclass(frozen=True)
class MeasuredLine(Line):
    """The same with measures of every kind, and a description of states; agents start at marks drawn at random.

    Attributes:
        scattered: whether they do; else at mark 0.
    """

    scattered: bool = True

    @property
    def measures(self) -> tuple[Measure, ...]:
        return (
            Measure("way", "marks passed by agent_0", "sum"),
            Measure("height", "mean mark of agent_0", "mean"),
            Measure("end", "last mark of agent_0", "last"),
            Measure("arrival", "steps until agent_0 is at mark_2", "first"),
        )

    def measure(self, state: LineState) -> dict[str, Any]:
        here = state.position[0].astype(jnp.float32)
        return {"way": here, "height": here, "end": here, "arrival": (here == 2).astype(jnp.float32)}

    def describe_state(self, state: LineState) -> str:
        return " ".join(f"agent_{i} is at mark_{mark}." for i, mark in enumerate(state.position))

    def reset(self, key: Any) -> tuple[LineState, TimeStep]:
        state, time_step = super().reset(key)
        if not self.scattered:
            return state, time_step
        state = state.replace(position=jax.random.randint(key, (self.num_agents,), 0, self.marks))
        return state, self._time_step(state, jnp.zeros(self.num_agents))


@dataclasses.dataclass(frozen=True)
class Named(Line):
    """A line whose agents and marks have names that no prompt should have to deal with."""

    def _odd(self, name: str) -> str:
        return f'../{name}\x1b[2J\n"{{agents}}"\u202e]'

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        plain = Line(self.num_agents, self.max_steps, self.marks).vocabulary
        parameters = [
            Parameter(self._odd(p.name), p.meaning, frozenset(map(self._odd, p.except_for))) for p in plain.parameters
        ]
        commands = [Command(self._odd(c.name), "{form}", tuple(map(self._odd, c.parameters))) for c in plain.commands]
        return Vocabulary(tuple(commands), tuple(parameters), tuple(map(self._odd, plain.agents)))


@dataclasses.dataclass(frozen=True)
class Traced(Wrapper):
    """Any environment, with a list that grows whenever its step is traced."""

    traces: list[str] = dataclasses.field(default_factory=list, compare=False)

    def step(self, state: Any, action: Any, key: Any) -> Any:
        self.traces.append("step")
        return self.environment.step(state, action, key)


@dataclasses.dataclass(frozen=True)
class TracedInstructed(Traced):
    """The same for an environment with instructions."""

    @property
    def vocabulary(self) -> Vocabulary:
        return self.environment.vocabulary

    def describe(self) -> str:
        return self.environment.describe()

    def act(self, state: Any, command: Any, parameter: Any) -> Any:
        return self.environment.act(state, command, parameter)

    def achieved(self, state: Any, command: Any, parameter: Any) -> Any:
        return self.environment.achieved(state, command, parameter)


HPARAMS = Hparams(
    total_updates=1000.0,
    ppo=PPOConfig(
        learning_rate=1e-2,
        learning_rate_decay=0.0,
        discount=0.9,
        entropy_coefficient=0.0,
        max_grad_norm=10.0,
        epochs=2,
        minibatches=2,
    ),
    expert=ExpertConfig(weight=1.0, decay_fraction=1.0, batch_size=16),
)
"""Settings with which a probe is learnt in some hundred updates."""

SMALL = NetworkConfig(hidden_sizes=(16,))


def hparams(**changes: Any) -> Hparams:
    """`HPARAMS` with changes: fields of `PPOConfig`, and those of `ExpertConfig` with `expert_` before their names."""
    ppo, expert = HPARAMS.ppo, HPARAMS.expert
    for name, value in changes.items():
        if name.startswith("expert_"):
            expert = dataclasses.replace(expert, **{name.removeprefix("expert_"): value})
        else:
            ppo = dataclasses.replace(ppo, **{name: value})
    return dataclasses.replace(HPARAMS, ppo=ppo, expert=expert).as_arrays()


class Learner:
    """PPO on a probe, compiled once for each environment and network, with one update in a chunk.

    Attributes:
        policy: the policy.
        init: a compiled `init_state`, from a key.
        chunk: a compiled `train_chunk`.
    """

    def __init__(
        self,
        environment: Any,
        network: NetworkConfig = SMALL,
        *,
        central_critic: bool = False,
        num_envs: int = 8,
        rollout_steps: int = 4,
    ) -> None:
        self.environment, self._rollout_steps = environment, rollout_steps
        self.policy = Policy.of(environment, network, central_critic=central_critic)
        self.init = jax.jit(functools.partial(init_state, environment, self.policy, num_envs))
        self.train_chunk = make_train_chunk(environment, self.policy, rollout_steps, 1)
        self.chunk = jax.jit(self.train_chunk)
        self._distribution = jax.jit(self._distribution_of)
        self._value = jax.jit(self._value_of)

    def learn(self, updates: int, experts: Any = None, **changes: Any) -> tuple[Any, dict[str, np.ndarray]]:
        """Train from the beginning; the state, and the means of the metrics over the updates."""
        state, rows, settings = self.init(jax.random.key(0)), [], hparams(**changes)
        for _ in range(updates):
            state, metrics = self.chunk(state, experts, settings)
            rows.append(metrics)
        means = {name: np.nanmean([np.asarray(row[name]) for row in rows], axis=0) for name in rows[0]}
        return state, means

    def distribution(self, parameters: Any, obs: Any = None) -> Any:
        """Distributions for observations `[E, A, O]`, of one environment with nothing but ones if None."""
        return self._distribution(parameters, self._ones() if obs is None else obs)

    def probabilities(self, parameters: Any) -> np.ndarray:
        """Each agent's probabilities of its actions, where there is nothing but ones to observe."""
        return np.asarray(jax.nn.softmax(self.distribution(parameters).logits))[0]

    def values(self, parameters: Any, obs: Any = None) -> np.ndarray:
        """The critics' values of observations `[E, A, O]`, of one environment with nothing but ones if None."""
        return np.asarray(self._value(parameters, self._ones() if obs is None else obs))

    def _ones(self) -> Any:
        return jnp.ones((1, self.environment.num_agents, self.environment.observation_size))

    def _distribution_of(self, parameters: Any, obs: Any) -> Any:
        policy, is_first = self.policy, jnp.ones(obs.shape[0], bool)
        available = jnp.ones((*obs.shape[:2], policy.num_actions), bool)
        if policy.continuous:
            available = jnp.broadcast_to(self.environment.available(0), available.shape)
        own, inputs = policy.of_agents(parameters), policy.actor_input(obs)
        return distributions_of_agents(policy, own, None, inputs, available, is_first)[1]

    def _value_of(self, parameters: Any, obs: Any) -> Any:
        own, is_first = self.policy.of_agents(parameters), jnp.ones(obs.shape[0], bool)
        return values_of_agents(self.policy, own, None, obs, is_first)[1]


learner = functools.cache(Learner)


def actions_of(line: Line, *instructions: tuple[str, str]) -> list[int]:
    """The actions by which `Line` shows that these instructions were in force, one a step."""
    words = line.vocabulary
    return [words.command_index[c] * len(words.parameters) + words.parameter_index[p] for c, p in instructions]


def at_step(tree: Any, *index: int) -> Any:
    """One entry of each array of a tree."""
    return jax.tree.map(lambda x: x[index], tree)
