"""From a configuration to a compiled program: everything is checked and built here, and nothing is written."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from leed_jax.config import Config, check_config
from leed_jax.demonstrations import DemonstrationSet, load_demonstrations
from leed_jax.environment import Environment
from leed_jax.environment_class import check_contract, make_environment
from leed_jax.errors import ConfigurationError, DemonstrationError
from leed_jax.evaluate import play, policy_chooser
from leed_jax.experts import Experts
from leed_jax.policy import Policy, PolicyParameters
from leed_jax.train import (
    Hyper,
    Metrics,
    TrainSettings,
    TrainState,
    init_state,
    make_train_chunk,
)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How a run is cut into chunks, all of one length so that one compiled program serves all.

    Attributes:
        chunks: the number of chunks.
        updates_per_chunk: updates in each.
        steps_per_chunk: environment steps in each, of one seed.
    """

    chunks: int
    updates_per_chunk: int
    steps_per_chunk: int

    @classmethod
    def of(cls, config: Config) -> "Schedule":
        """The schedule that comes nearest to the configured one without more than `total_steps`."""
        updates = config.total_steps // config.steps_per_update
        chunks = max(1, round(updates / config.updates_per_chunk))
        per_chunk = updates // chunks
        return cls(chunks, per_chunk, per_chunk * config.steps_per_update)


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run that has been checked.

    Attributes:
        config: its configuration.
        environment: where to learn.
        policy: the agents' networks.
        settings: shapes and numbers of loops.
        schedule: its chunks.
        demonstrations: the demonstration set; None where there is none.
        experts: what the expert term learns from, samples or plans; None for algorithm=ippo.
        remarks: what the user should know, and nothing to stop for.
    """

    config: Config
    environment: Environment
    policy: Policy
    settings: TrainSettings
    schedule: Schedule
    demonstrations: DemonstrationSet | None
    experts: Experts | None
    remarks: tuple[str, ...] = ()


def prepare(config: Config) -> Setup:
    """Check a configuration to the end and build what it describes.

    Raises:
        ConfigurationError: a setting cannot work.
        DemonstrationError: algorithm=leed has no usable demonstrations.
        EnvironmentContractError: the environment breaks its protocol.
    """
    check_config(config)
    environment = make_environment(config.env)
    demonstrations, remarks = _load(config, environment)
    check_contract(config.env["name"], environment)
    schedule = Schedule.of(config)
    settings = TrainSettings(
        num_envs=config.num_envs,
        rollout_steps=config.rollout_steps,
        updates_per_chunk=schedule.updates_per_chunk,
        epochs=config.ppo.epochs,
        minibatches=config.ppo.minibatches,
        expert_batch_size=config.expert.batch_size,
        expert_schedule=config.expert.schedule,
    )
    policy = Policy(
        num_actions=environment.num_actions,
        observation_size=environment.observation_size,
        hidden_sizes=tuple(config.network.hidden_sizes),
        activation=config.network.activation,
    )
    experts = None
    if config.algorithm == "leed" and demonstrations is not None:
        experts = make_experts(config, demonstrations)
        if config.expert.source == "instructions":
            environment = demonstrations.environment
    return Setup(config, environment, policy, settings, schedule, demonstrations, experts, remarks)


def make_experts(config: Config, demonstrations: DemonstrationSet) -> Experts:
    """What the expert term learns from, of one shape whatever the set holds, if the settings are the same.

    Args:
        config: which of the demonstrations, and in what form.
        demonstrations: the set.

    Raises:
        DemonstrationError: the set cannot serve that.
    """
    choice = dataclasses.asdict(config.demonstrations)
    del choice["path"]
    if config.expert.source == "arrays":
        return demonstrations.samples(**choice)
    if demonstrations.kind == "episodes":
        raise DemonstrationError(
            f"{demonstrations.path} holds plans for particular initial states, which say nothing about others; use "
            "expert.source=arrays."
        )
    return demonstrations.best(choice["plans"])


def _load(config: Config, environment: Environment) -> tuple[DemonstrationSet | None, tuple[str, ...]]:
    """The configured demonstration set; algorithm=ippo, which learns nothing from it, goes on without."""
    path = config.demonstrations.path
    if not path:
        if config.algorithm == "leed":
            raise ConfigurationError(
                "algorithm=leed needs demonstrations: set demonstrations.path to a folder or to the name of a recorded "
                "set, or train without by algorithm=ippo."
            )
        return None, ()
    try:
        return load_demonstrations(path, environment), ()
    except DemonstrationError as error:
        if config.algorithm == "leed":
            raise
        return None, (f"The instructions' own return will not be reported: {error}",)


def make_hyper(config: Config, schedule: Schedule) -> Hyper:
    """The numeric hyperparameters, as arrays."""
    ppo, total = config.ppo, schedule.chunks * schedule.updates_per_chunk
    values = Hyper(
        learning_rate=ppo.learning_rate,
        learning_rate_decay=ppo.learning_rate_decay,
        total_updates=float(total),
        discount=ppo.discount,
        gae_lambda=ppo.gae_lambda,
        clip_epsilon=ppo.clip_epsilon,
        entropy_coefficient=ppo.entropy_coefficient,
        value_coefficient=ppo.value_coefficient,
        max_grad_norm=ppo.max_grad_norm,
        expert_weight=config.expert.weight if config.algorithm == "leed" else 0.0,
        expert_decay_updates=config.expert.decay_fraction * total,
    )
    return jax.tree.map(jnp.float32, values)


def seed_keys(seed: int, num_seeds: int) -> Key[Array, "S"]:
    """One key per seed; seed i of a run has the key of a run with that seed alone."""
    return jax.vmap(jax.random.key)(seed + np.arange(num_seeds, dtype=np.uint32))


class Program:
    """A run's training, compiled ahead of time; states carry a leading axis of seeds.

    Attributes:
        abstract_state: shapes, dtypes and shardings of the state.
        compile_s: how long tracing and compiling took.
    """

    def __init__(self, setup: Setup) -> None:
        self._keys = seed_keys(setup.config.seed, setup.config.num_seeds)
        self._inputs: tuple[Experts | None, Hyper] = (setup.experts, make_hyper(setup.config, setup.schedule))
        start = jax.vmap(functools.partial(init_state, setup.environment, setup.policy, setup.settings))
        train = jax.vmap(make_train_chunk(setup.environment, setup.policy, setup.settings), in_axes=(0, None, None))
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        self.abstract_state: TrainState = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), jax.eval_shape(start, self._keys)
        )
        self._functions = (start, train)
        self.compile_s = 0.0

    def compile(self) -> None:
        """Compile all of it; to be called once, before anything below."""
        started = time.monotonic()
        start, train = self._functions
        with memory_errors():
            self._init = jax.jit(start).lower(self._keys).compile()
            self._step = jax.jit(train, donate_argnums=0).lower(self.abstract_state, *self._inputs).compile()
            self._copy = jax.jit(lambda s: jax.tree.map(jnp.copy, s)).lower(self.abstract_state).compile()
            first = jax.jit(lambda parameters: jax.tree.map(lambda x: x[0], parameters))
            self._first = first.lower(self.abstract_state.parameters).compile()
        self.compile_s = time.monotonic() - started

    def init(self) -> TrainState:
        """The state that training starts from."""
        return self._init(self._keys)

    def step(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """Dispatch one chunk; `state` is donated."""
        return self._step(state, *self._inputs)

    def copy(self, state: TrainState) -> TrainState:
        """A copy that outlives the donation of `state`."""
        return self._copy(state)

    def first_parameters(self, state: TrainState) -> PolicyParameters:
        """A copy of the first seed's networks."""
        return self._first(state.parameters)

    def check_experts(self, experts: Experts) -> None:
        """Make sure that other demonstrations can take the place of those that the program was compiled for.

        Raises:
            DemonstrationError: they are more, fewer, or of another shape.
        """
        there, given = (jax.tree.map(lambda x: (x.shape, x.dtype), e) for e in (self._inputs[0], experts))
        if there != given:
            raise DemonstrationError(
                f"New demonstrations have the shapes {given}, and the compiled program takes {there}; make as many."
            )

    def swap(self, experts: Experts) -> None:
        """Learn from other demonstrations from the next chunk on; nothing is compiled again.

        Raises:
            DemonstrationError: they do not fit, as by `check_experts`.
        """
        self.check_experts(experts)
        self._inputs = (experts, self._inputs[1])


def greedy_returns(setup: Setup, parameters: PolicyParameters) -> Float[Array, "S"]:
    """Each seed's return per agent on fresh episodes, every agent taking its most probable action.

    Args:
        setup: the run.
        parameters: with a leading axis of seeds.
    """
    evaluation = setup.config.evaluation

    @jax.jit
    def score(parameters: PolicyParameters) -> Array:
        # One seed after the other: memory does not grow with their number.
        def one(parameters: PolicyParameters) -> Array:
            choose = policy_chooser(setup.policy, parameters)
            return jnp.mean(play(setup.environment, choose, jax.random.key(evaluation.seed), evaluation.episodes)[0])

        return jax.lax.map(one, parameters)

    return score(parameters)


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Turn an accelerator that is out of memory into an error in what was asked for.

    Raises:
        ConfigurationError: there was not enough memory.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ConfigurationError(
            f"Out of memory on {jax.local_devices()[0].device_kind}: {str(error).splitlines()[0]} Lower num_envs, "
            "num_seeds, rollout_steps or demonstrations.episodes."
        ) from error


def describe_device() -> dict[str, Any]:
    """What the run was computed on."""
    device = jax.local_devices()[0]
    return {"platform": device.platform, "kind": device.device_kind, "count": jax.local_device_count()}
