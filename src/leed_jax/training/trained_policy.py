"""Trained policies in Python: loaded from a run, acted with, evaluated, animated, and exported."""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, PRNGKeyArray

from leed_jax.config import make_environment
from leed_jax.demonstrations import instructed
from leed_jax.environments import Environment, reset_env, step_env
from leed_jax.environments.actions import executable
from leed_jax.errors import ConfigurationError, RunDirectoryError
from leed_jax.files import write_whole, writing
from leed_jax.learning.algorithms import Algorithm
from leed_jax.learning.episodes import Actor, measured_play
from leed_jax.report.animation import draw_episodes
from leed_jax.report.checkpoints import leaf_name, read_parameters
from leed_jax.report.directory import read_config
from leed_jax.training.program import algorithm_of
from leed_jax.version import __version__

PARAMETERS = "parameters.safetensors"
MANIFEST = "manifest.json"
ARTEFACT = "act.jaxexport"


@dataclasses.dataclass(frozen=True)
class TrainedPolicy:
    """The policies of all agents, with trained parameters. All methods are pure and jittable.

    Attributes:
        algorithm: the algorithm that trained them.
        parameters: the networks of one seed, stacked over groups of agents.
        environment: the environment that they were trained in.
        name: the algorithm's name.
    """

    algorithm: Algorithm
    parameters: Any
    environment: Environment
    name: str

    def initial_carry(self, num_envs: int = 1) -> Any:
        """The carry of `act` at the start of an episode; None or () for policies that are not recurrent."""
        return self.actor().init(num_envs)

    def actor(self, greedy: bool = True) -> Actor:
        """The policy as `play` and `play_episodes` take it."""
        return self.algorithm.actor(self.parameters, greedy)

    def act(
        self,
        obs: Float[Array, "*E A O"],
        key: PRNGKeyArray | None = None,
        available: Bool[Array, "*E A N"] | None = None,
        carry: Any = None,
    ) -> tuple[Array, Any]:
        """Choose an action for every agent.

        Args:
            obs: each agent's observation, of one environment or of several.
            key: source of sampled actions, consumed; None for the most probable (or best) actions.
            available: which actions each agent may take; None for all.
            carry: what this method returned in the step before; None at the start of an episode.

        Returns:
            The actions, `[*E, A]`, or `[*E, A, N]` where they are continuous, and the carry.

        Raises:
            ConfigurationError: `obs` has another shape, or `key` is no key.
        """
        batch, single = self._batch(obs)
        _check_key(key)
        if available is None:
            available = jnp.ones((*batch.shape[:-1], self.environment.num_actions), bool)
        elif single:
            available = jnp.asarray(available)[None]
        actor = self.actor(greedy=key is None)
        carry = actor.init(batch.shape[0]) if carry is None else carry
        carry, action = actor.select_actions(carry, batch, available, jax.random.key(0) if key is None else key)
        action = executable(self.environment, action)
        return action[0] if single else action, carry

    def value(self, obs: Float[Array, "*E A O"], carry: Any = None) -> tuple[Float[Array, "*E A"], Any]:
        """Estimate each agent's return: by its critic, or by the value of its best action.

        Args:
            obs: each agent's observation, of one environment or of several.
            carry: what this method returned in the step before; None at the start of an episode.
        """
        batch, single = self._batch(obs)
        value, carry = self.algorithm.value(self.parameters, batch, carry)
        return value[0] if single else value, carry

    def _batch(self, obs: Any) -> tuple[Float[Array, "E A O"], bool]:
        """Observations with an axis of environments, and whether it was added."""
        obs = jnp.asarray(obs, jnp.float32)
        shape = (self.environment.num_agents, self.environment.observation_size)
        if obs.ndim not in (2, 3) or obs.shape[-2:] != shape:
            raise ConfigurationError(
                f"obs has the shape {obs.shape}; it must be {shape}, or (E, {shape[0]}, {shape[1]})."
            )
        single = obs.ndim == 2  # noqa: PLR2004 - agents and observations
        return obs[None] if single else obs, single

    def export(self, folder: str | Path, batch_size: int = 1) -> Path:
        """Write the parameters as safetensors with a manifest, and `act` as a `jax.export` artefact.

        The artefact is greedy and runs without leed_jax, with jax and flatbuffers, which jax.export needs:
        `jax.export.deserialize(file.read_bytes()).call(obs, available, *carry)` gives the actions and the next carry.

        Args:
            folder: where to write; created if it does not exist.
            batch_size: the number of environments of the artefact's inputs.

        Returns:
            The folder.

        Raises:
            ConfigurationError: `batch_size` is less than 1.
            RunDirectoryError: something cannot be written.
        """
        if batch_size < 1:
            raise ConfigurationError(f"batch_size={batch_size}: must be at least 1.")
        return _export(self, Path(folder), batch_size)


def load_policy(run: str | Path, seed: int = 0, which: str = "best") -> TrainedPolicy:
    """Load the policies of a run.

    Args:
        run: the run directory, of a run that has finished or not.
        seed: the index of the seed, from 0 on.
        which: the checkpoint: `best` (by the return while training), `last`, or a number.

    Raises:
        RunDirectoryError: there is no such run or checkpoint.
        ConfigurationError: there is no such seed, or the environment cannot be made.
    """
    path = Path(run).expanduser()
    config = read_config(path)
    if not 0 <= seed < config.num_seeds:
        raise ConfigurationError(f"seed={seed}: {path} has {config.num_seeds} seeds, with indices from 0 on.")
    _, named = read_parameters(path, which)
    environment = make_environment(config.env)
    if config.imitates and config.expert.source == "instructions":
        environment = instructed(environment)
    algorithm = algorithm_of(config, environment)
    parameters = stacked_parameters(algorithm, named, path)
    return TrainedPolicy(algorithm, jax.tree.map(lambda x: x[seed], parameters), environment, config.algorithm)


def stacked_parameters(algorithm: Algorithm, named: dict[str, np.ndarray], path: Path) -> Any:
    """Parameters of all seeds from their names.

    Args:
        algorithm: the algorithm that they belong to.
        named: arrays by name, with a leading axis of seeds.
        path: the run directory, for messages.

    Raises:
        RunDirectoryError: they are other parameters.
    """
    abstract = jax.eval_shape(algorithm.init, jax.random.key(0)).parameters
    paths, structure = jax.tree.flatten_with_path(abstract)
    names = [leaf_name(name) for name, _ in paths]
    if set(names) != set(named) or any(
        named[n].shape[1:] != leaf.shape for n, (_, leaf) in zip(names, paths, strict=True)
    ):
        raise RunDirectoryError(f"{path}: the checkpoint does not fit config.yaml, which was changed since.")
    return jax.tree.unflatten(structure, [jnp.asarray(named[name]) for name in names])


def _check_key(key: Any) -> None:
    if key is not None and not isinstance(key, jax.Array):
        raise ConfigurationError(f"key={key!r} is no key; write jax.random.key({key!r}).")


def _fitting(policy: TrainedPolicy, environment: Environment | None) -> Environment:
    """An environment that the policies can act in; None stands for their own."""
    if environment is None:
        return policy.environment
    sizes = ("num_agents", "observation_size", "num_actions")
    wanted, given = ({name: getattr(e, name, None) for name in sizes} for e in (policy.environment, environment))
    if wanted != given:
        raise ConfigurationError(f"The policies were trained with {wanted}, and the environment has {given}.")
    return environment


class Evaluation(NamedTuple):
    """Fresh episodes of a policy.

    Attributes:
        returns: the undiscounted return of each agent in each episode.
        measures: the environment's own measures of each episode.
    """

    returns: Float[np.ndarray, "E A"]
    measures: dict[str, Float[np.ndarray, "E"]]

    @property
    def return_of_agents(self) -> Float[np.ndarray, "A"]:
        """The mean return of each agent."""
        return self.returns.mean(axis=0, dtype=np.float64)

    @property
    def return_per_agent(self) -> float:
        """The mean return over episodes and agents."""
        return float(self.returns.mean(dtype=np.float64))

    @property
    def standard_error(self) -> float:
        """The standard error of `return_per_agent`."""
        means = self.returns.mean(axis=-1, dtype=np.float64)
        return float(means.std(ddof=1) / np.sqrt(len(means)))


def evaluate(
    policy: TrainedPolicy,
    environment: Environment | None = None,
    episodes: int = 1024,
    key: PRNGKeyArray | None = None,
    *,
    greedy: bool = True,
) -> Evaluation:
    """Play fresh episodes.

    Args:
        policy: the policies.
        environment: where to play; None for the environment that they were trained in.
        episodes: the number of episodes, `E`; at least 2.
        key: source of everything random, consumed; None for a fixed one.
        greedy: whether agents take their most probable actions; else they sample.

    Raises:
        ConfigurationError: the environment does not fit the policies, there are fewer than 2 episodes, or `key` is no
            key.
    """
    if episodes < 2:  # noqa: PLR2004 - a standard error needs two
        raise ConfigurationError(f"episodes={episodes}: must be at least 2.")
    environment, actor = _fitting(policy, environment), policy.actor(greedy)
    _check_key(key)
    key = jax.random.key(1_000_003) if key is None else key
    returns, measures = jax.jit(lambda key: measured_play(environment, actor, key, episodes))(key)
    return Evaluation(np.asarray(returns), {name: np.asarray(value) for name, value in measures.items()})


class Episode(NamedTuple):
    """One episode, `T` steps of it.

    Attributes:
        obs: observations before each step.
        action: actions, `[T, A]`, or `[T, A, N]` where they are continuous.
        reward: rewards.
        terminated: whether each agent has terminated after the step.
        truncated: whether the episode was cut off after the step.
        states: the environment's states, before the first step and after each one, with a leading axis `T + 1`.
    """

    obs: Float[Array, "T A O"]
    action: Array
    reward: Float[Array, "T A"]
    terminated: Bool[Array, "T A"]
    truncated: Bool[Array, "T"]
    states: Any


def rollout(
    policy: TrainedPolicy, environment: Environment | None, key: Key[Array, ""], *, greedy: bool = True
) -> Episode:
    """Play one episode and return all of it.

    Args:
        policy: the policies.
        environment: where to play; None for the environment that they were trained in.
        key: source of the initial state, of transitions and of sampled actions; consumed.
        greedy: whether agents take their most probable actions; else they sample.

    Raises:
        ConfigurationError: the environment does not fit the policies, or `key` is no key.
    """
    environment, actor = _fitting(policy, environment), policy.actor(greedy)
    _check_key(key)

    @jax.jit
    def play(key: PRNGKeyArray) -> tuple[Any, Any]:
        reset_key, play_key = jax.random.split(key)
        state, time_step = reset_env(environment, reset_key)

        def step(carry: Any, key: PRNGKeyArray) -> tuple[Any, Any]:
            state, time_step, actor_carry = carry
            action_key, step_key = jax.random.split(key)
            inputs = (time_step.observation[None], time_step.available_actions[None])
            actor_carry, action = actor.select_actions(actor_carry, *inputs, action_key)
            action = executable(environment, action[0])
            next_state, after = step_env(environment, state, action, step_key)
            fields = (time_step.observation, action, after.reward, after.terminated, after.truncated)
            return (next_state, after, actor_carry), (fields, next_state, after.done())

        carry = (state, time_step, actor.init(1))
        return state, jax.lax.scan(step, carry, jax.random.split(play_key, environment.max_steps))[1]

    first, (fields, after, done) = play(key)
    length = int(np.argmax(done)) + 1 if np.any(done) else environment.max_steps
    states = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b[:length]]), first, after)
    obs, action, reward, terminated, truncated = (x[:length] for x in fields)
    return Episode(obs, action, reward, terminated, truncated, states)


def animate(
    policy: TrainedPolicy,
    path: str | Path,
    environment: Environment | None = None,
    key: PRNGKeyArray | None = None,
) -> Path:
    """Write a few episodes as an animated GIF.

    Args:
        policy: the policies; agents take their most probable actions.
        path: the file to write.
        environment: where to play; None for the environment that they were trained in.
        key: source of everything random, consumed; None for a fixed one.

    Raises:
        ConfigurationError: the environment has no `draw`, or does not fit the policies.
    """
    environment = _fitting(policy, environment)
    key = jax.random.key(0) if key is None else key
    if not draw_episodes(Path(path), environment, policy.actor(), key):
        raise ConfigurationError(
            f"{type(environment).__name__} cannot be animated, as it has no draw(axes, state); see "
            "leed_jax.environments.Drawable."
        )
    return Path(path)


def _export(policy: TrainedPolicy, folder: Path, batch_size: int) -> Path:
    from jax import export  # noqa: PLC0415 - not loaded by `import jax`
    from safetensors.numpy import save  # noqa: PLC0415

    environment = policy.environment
    shape = (batch_size, environment.num_agents)
    leaves, structure = jax.tree.flatten(policy.initial_carry(batch_size))

    def act(obs: Array, available: Array, *carry: Array) -> tuple[Array, ...]:
        action, after = policy.act(obs, None, available, jax.tree.unflatten(structure, carry) if carry else None)
        return action, *jax.tree.leaves(after)

    inputs = (
        jax.ShapeDtypeStruct((*shape, environment.observation_size), jnp.float32),
        jax.ShapeDtypeStruct((*shape, environment.num_actions), jnp.bool_),
        *(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves),
    )
    artefact = export.export(jax.jit(act), platforms=["cpu", "cuda", "tpu"])(*inputs).serialize()
    named = {leaf_name(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(policy.parameters)}
    manifest = {
        "leed_jax": __version__,
        "algorithm": policy.name,
        "environment": f"{type(environment).__module__}:{type(environment).__qualname__}",
        "num_agents": environment.num_agents,
        "observation_size": environment.observation_size,
        "num_actions": environment.num_actions,
        "parameters": {name: {"shape": list(x.shape), "dtype": str(x.dtype)} for name, x in named.items()},
        "act": {
            "file": ARTEFACT,
            "inputs": ["obs", "available", *(f"carry{i}" for i in range(len(leaves)))],
            "shapes": [list(x.shape) for x in inputs],
            "initial_carry": "zeros",
        },
    }
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / PARAMETERS, save(named))
        write_whole(folder / ARTEFACT, bytes(artefact))
        write_whole(folder / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
    return folder
