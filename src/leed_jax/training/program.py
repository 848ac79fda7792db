"""From a configuration to a compiled program. Everything is checked and built here, and nothing is written."""

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

from leed_jax.config import RunConfig, check_config
from leed_jax.config.environments import check_contract, make_environment
from leed_jax.demonstrations import DemonstrationSet, load_demonstrations
from leed_jax.environments import Environment
from leed_jax.errors import ConfigurationError, DemonstrationError
from leed_jax.learning.algorithms import Algorithm, make_algorithm
from leed_jax.learning.episodes import play
from leed_jax.learning.expert_weight import reference_episodes
from leed_jax.learning.experts import ExpertReference, Experts, expert_episodes
from leed_jax.learning.loss import Metrics

# Episodes of the expert acting alone: those whose mean return is compared, and those whose trajectories are.
_RETURN_EPISODES = 1024
_COMPARED_EPISODES = 8


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

    @property
    def updates(self) -> int:
        """The number of updates of the whole run."""
        return self.chunks * self.updates_per_chunk

    @property
    def steps(self) -> int:
        """Environment steps of the whole run, of one seed."""
        return self.chunks * self.steps_per_chunk

    @classmethod
    def of(cls, config: RunConfig) -> "Schedule":
        """The schedule with chunks of about the configured length, and not much less than `total_steps`.

        Chunks are as near to that length as leaves out at most a hundredth of the updates, or as few as can be.
        """
        updates, wanted = config.total_steps // config.steps_per_update, config.updates_per_chunk

        def cost(per_chunk: int) -> tuple[int, int]:
            return max(updates % per_chunk, updates // 100), abs(per_chunk - wanted)

        lengths = range(max(1, min(updates, wanted) // 2), max(1, min(updates, 2 * wanted)) + 1)
        per_chunk = min(lengths, key=cost)
        return cls(updates // per_chunk, per_chunk, per_chunk * config.steps_per_update)


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run that has been checked.

    Attributes:
        config: its configuration.
        environment: where to learn.
        algorithm: the algorithm.
        schedule: its chunks.
        demonstrations: the demonstration set; None where there is none.
        experts: the data of the expert term; None for algorithms without one.
        preparation_s: seconds that checking, loading and executing demonstrations took.
        notes: what the user should know.
    """

    config: RunConfig
    environment: Environment
    algorithm: Algorithm
    schedule: Schedule
    demonstrations: DemonstrationSet | None
    experts: Experts | None
    preparation_s: float
    notes: tuple[str, ...] = ()


def prepare(config: RunConfig, environment: Environment | None = None) -> Setup:
    """Check a configuration to the end and build what it describes.

    Args:
        config: the configuration.
        environment: where to learn; None for the one that the configuration names.

    Raises:
        ConfigurationError: a setting cannot work.
        DemonstrationError: an algorithm that imitates has no usable demonstrations.
        EnvironmentContractError: the environment breaks its protocol.
    """
    started = time.monotonic()
    check_config(config)
    if environment is None:
        environment = make_environment(config.env)
    demonstrations, notes = _load(config, environment)
    check_contract(config.env.get("name", type(environment).__name__), environment)
    schedule, experts = Schedule.of(config), None
    if config.imitates and demonstrations is not None:
        experts = make_experts(config, demonstrations)
        if config.expert.source == "instructions":
            environment = demonstrations.environment
    algorithm = algorithm_of(config, environment)
    jax.block_until_ready(experts)
    spent = time.monotonic() - started
    return Setup(config, environment, algorithm, schedule, demonstrations, experts, spent, notes)


def algorithm_of(config: RunConfig, environment: Environment) -> Algorithm:
    """The algorithm of a configuration, for one environment."""
    schedule = Schedule.of(config)
    return make_algorithm(
        config.algorithm,
        environment,
        config.network,
        config.hparams(schedule.updates),
        num_envs=config.num_envs,
        rollout_steps=config.rollout_steps,
        updates_per_chunk=schedule.updates_per_chunk,
    )


def make_experts(config: RunConfig, demonstrations: DemonstrationSet) -> Experts:
    """The data of the expert term. Equal settings give equal shapes, whatever the set holds.

    Args:
        config: which of the demonstrations, and in what form.
        demonstrations: the set.

    Raises:
        DemonstrationError: the set cannot serve that.
    """
    selection = dataclasses.asdict(config.demonstrations)
    del selection["path"]
    reference = _reference(config, demonstrations)
    if config.expert.source == "arrays":
        whole = config.network.memory != "none" or config.expert.term != "likelihood"
        samples = (
            expert_episodes(demonstrations.episodes(**selection)) if whole else demonstrations.samples(**selection)
        )
        return Experts(samples=samples, reference=reference)
    if demonstrations.kind == "episodes":
        raise DemonstrationError(
            f"{demonstrations.path} holds plans for particular initial states, which say nothing about others; use "
            "expert.source=arrays."
        )
    return Experts(plans=demonstrations.best(selection["plans"]), reference=reference)


def _reference(config: RunConfig, demonstrations: DemonstrationSet) -> ExpertReference | None:
    """What the expert achieves alone, if the weight of its term is adaptive."""
    if config.expert.adapt == "none" or config.algorithm == "bc":
        return None
    wanted = config.demonstrations
    how: dict[str, Any] = {"plans": wanted.plans}
    if config.expert.source == "arrays":
        # Recorded arrays have the noise that they were recorded with.
        noise, least = wanted.noise, wanted.noise_from
        if wanted.episodes is None:
            recorded = demonstrations.manifest["recorded"]
            noise, least = recorded["noise"], recorded.get("noise_from", 0.0)
        how |= {"noise": noise, "noise_from": least, "label": wanted.label}
    returns_key, episodes_key = jax.random.split(jax.random.fold_in(jax.random.key(wanted.seed), 0x9A9))
    returns = demonstrations.imitated_returns(returns_key, _RETURN_EPISODES, **how)
    if config.expert.adapt == "return_gap":
        return ExpertReference(returns)
    count = min(_COMPARED_EPISODES, config.num_envs)
    return ExpertReference(returns, reference_episodes(demonstrations.trajectories(episodes_key, count, **how)))


def _load(config: RunConfig, environment: Environment) -> tuple[DemonstrationSet | None, tuple[str, ...]]:
    """The configured demonstration set; algorithms that learn nothing from it go on without."""
    path = config.demonstrations.path
    if not path:
        if config.imitates:
            raise ConfigurationError(
                f"algorithm={config.algorithm} needs demonstrations: set demonstrations.path to a folder or to the "
                "name of a recorded set, or train without by algorithm=ippo."
            )
        return None, ()
    try:
        return load_demonstrations(path, environment), ()
    except DemonstrationError as error:
        if config.imitates:
            raise
        return None, (f"The instructions' own return will not be reported: {error}",)


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
        self._inputs: tuple[Experts | None, Any] = (setup.experts, setup.algorithm.hparams)
        start = jax.vmap(setup.algorithm.init)
        train = jax.vmap(functools.partial(_chunk_with_evaluation, setup), in_axes=(0, None, None))
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        self.abstract_state: Any = jax.tree.map(
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

    def init(self) -> Any:
        """The state that training starts from."""
        return self._init(self._keys)

    def step(self, state: Any) -> tuple[Any, Metrics]:
        """Dispatch one chunk; `state` is donated."""
        return self._step(state, *self._inputs)

    def copy(self, state: Any) -> Any:
        """A copy that outlives the donation of `state`."""
        return self._copy(state)

    def first_parameters(self, state: Any) -> Any:
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


def _chunk_with_evaluation(setup: Setup, state: Any, experts: Experts | None, hparams: Any) -> tuple[Any, Metrics]:
    """A chunk, and the greedy policy's return after it, in the same episodes each time."""
    state, metrics = setup.algorithm.train_chunk(state, experts, hparams)
    evaluation = setup.config.evaluation
    if evaluation.curve_episodes:
        key = jax.random.fold_in(jax.random.key(evaluation.seed), 3)
        actor = setup.algorithm.actor(state.parameters, True)
        returns = play(setup.environment, actor, key, evaluation.curve_episodes)[0]
        metrics["greedy_return_of_agents"] = jnp.mean(returns, axis=0)
    return state, metrics


def final_returns(setup: Setup, parameters: Any, *, greedy: bool = True) -> Float[Array, "S A"]:
    """Each seed's mean return on fresh episodes, for each agent.

    Args:
        setup: the run.
        parameters: with a leading axis of seeds.
        greedy: whether every agent takes its most probable action; else it samples.
    """
    evaluation = setup.config.evaluation

    @jax.jit
    def score(parameters: Any) -> Array:
        # One seed at a time, so that memory does not grow with their number.
        def one(parameters: Any) -> Array:
            actor = setup.algorithm.actor(parameters, greedy)
            returns = play(setup.environment, actor, jax.random.key(evaluation.seed), evaluation.episodes)[0]
            return jnp.mean(returns, axis=0)

        return jax.lax.map(one, parameters)

    return score(parameters)


def greedy_returns(setup: Setup, parameters: Any) -> Float[Array, "S"]:
    """Each seed's greedy return per agent, the mean over agents; see `final_returns`."""
    return jnp.mean(final_returns(setup, parameters), axis=-1)


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
