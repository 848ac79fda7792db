"""Checks that an environment keeps the protocol of `leed_jax.environments.protocol`."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray, UInt32

from leed_jax.environments.protocol import (
    Action,
    Environment,
    TimeStep,
    fill_defaults,
    has_continuous_actions,
    reset_env,
    step_env,
)
from leed_jax.errors import EnvironmentContractError

_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
_ACTION_PERIOD = 97

# Rules for one time step and the one before it, which is the same one after a reset. Functions say whether it is kept.
_RULES: dict[str, Callable[[TimeStep, TimeStep], Bool[Array, ""]]] = {
    "observation is not finite": lambda _, now: jnp.all(jnp.isfinite(now.observation)),
    "final_observation is not finite": lambda _, now: jnp.all(jnp.isfinite(now.final_observation)),
    "reward is not finite": lambda _, now: jnp.all(jnp.isfinite(now.reward)),
    "an agent has no available action": lambda _, now: jnp.all(jnp.any(now.available_actions, axis=-1)),
    "final_observation must equal observation; AutoReset does the resetting": lambda _, now: jnp.all(
        now.observation == now.final_observation
    ),
    "final_available_actions must equal available_actions; AutoReset does the resetting": lambda _, now: jnp.all(
        now.available_actions == now.final_available_actions
    ),
    "an agent that was terminated takes part again; only a reset may do that": lambda before, now: jnp.all(
        now.terminated | ~before.terminated
    ),
}


def check_environment(environment: Environment, seed: int = 0, episodes: int = 2) -> None:
    """Check an environment against the contract that the engine relies on.

    The rules: it is hashable; `reset` and `step` can be jitted, are pure, give the same results under vmap, keep shapes
    and dtypes, and return finite numbers; every agent always has an available action; every episode is over within
    `max_steps` steps.

    Args:
        environment: the environment to check.
        seed: seed of the initial states, the transitions and the actions.
        episodes: how many whole episodes to play with random available actions; at least two are played.

    Raises:
        EnvironmentContractError: a rule is broken; the message names the first one.
    """
    _check_static(environment)
    _check_types(environment)
    episodes, steps = max(episodes, 2), environment.max_steps
    random = np.random.default_rng(seed)
    seeds = random.integers(2**31, size=(episodes, steps + 1), dtype=np.int32)
    # Actions repeat after a while, so that long episodes of many agents take little memory.
    shape = (episodes, min(steps, _ACTION_PERIOD), environment.num_agents, environment.num_actions)
    noise = random.uniform(-1.0, 1.0, shape).astype(np.float32)
    # One program that is run twice and hardly optimised, as compiling takes most of the time.
    run = jax.jit(functools.partial(_run, environment), compiler_options=_QUICK)
    record, repeated = jax.device_get((run(seeds, noise), run(seeds, noise)))
    _check_reset(record, repeated)
    _check_steps(record, repeated)


class _Record(NamedTuple):
    """What the checks need of the first calls and of `E` episodes of `T` steps.

    Attributes:
        resets: one reset: as the first of a batch, alone, and traced a second time.
        steps: the first step after it, likewise.
        fresh: the time steps after the resets, `[E, ...]`.
        kept_at_reset: which of `_RULES` they keep, `[E, R]`.
        kept: which of `_RULES` each step keeps, `[E, T, R]`.
        done: whether each episode is over after each step, `[E, T]`.
        fingerprints: of all that each step returned, `[E, T]`.
    """

    resets: Any
    steps: Any
    fresh: TimeStep
    kept_at_reset: Any
    kept: Any
    done: Any
    fingerprints: Any


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise EnvironmentContractError(message)


def _check_static(environment: Environment) -> None:
    for name in ("num_agents", "observation_size", "num_actions", "max_steps"):
        value = getattr(environment, name, None)
        _require(isinstance(value, int) and value > 0, f"{name} must be a positive int, and is {value!r}")
    try:
        hash(environment)
    except TypeError as error:
        raise EnvironmentContractError(
            f"{type(environment).__name__} is not hashable ({error}); make it a frozen dataclass of plain values"
        ) from None
    _require(isinstance(environment, Environment), f"{type(environment).__name__} lacks reset or step")


def _check_types(environment: Environment) -> None:
    """Trace `reset` and `step` and check shapes and dtypes."""
    key = jax.eval_shape(jax.random.key, 0)
    state, time_step = _traced(environment, "reset", key)
    _check_shapes(environment, time_step, "reset")
    noise = jax.ShapeDtypeStruct(time_step.available_actions.shape, jnp.float32)
    action = jax.eval_shape(functools.partial(_action, environment), time_step.available_actions, noise)
    after = _traced(environment, "step", state, action, key)
    _check_shapes(environment, after[1], "step")
    _require(_avals(after) == _avals((state, time_step)), "step changes the shapes or dtypes of the state")


def _traced(environment: Environment, name: str, *arguments: Any) -> tuple[Any, TimeStep]:
    """Shapes and dtypes of what `reset` or `step` returns."""
    try:
        result = jax.eval_shape(getattr(environment, name), *arguments)
    except (TypeError, IndexError) as error:
        reason = str(error).strip().splitlines()[0]
        raise EnvironmentContractError(f"{name} cannot be jitted: {reason}") from error
    is_pair = isinstance(result, tuple) and len(result) == 2  # noqa: PLR2004
    _require(is_pair and isinstance(result[1], TimeStep), f"{name} must return a state and a TimeStep")
    return result[0], jax.eval_shape(lambda time_step: fill_defaults(environment, time_step), result[1])


def _check_shapes(environment: Environment, time_step: TimeStep, where: str) -> None:
    agents, size, actions = environment.num_agents, environment.observation_size, environment.num_actions
    expected: dict[str, tuple[tuple[int, ...], Any]] = {
        "observation": ((agents, size), jnp.float32),
        "final_observation": ((agents, size), jnp.float32),
        "reward": ((agents,), jnp.float32),
        "terminated": ((agents,), jnp.bool_),
        "truncated": ((), jnp.bool_),
        "available_actions": ((agents, actions), jnp.bool_),
        "final_available_actions": ((agents, actions), jnp.bool_),
    }
    for name, (shape, dtype) in expected.items():
        value = getattr(time_step, name)
        wanted, given = f"{dtype.__name__}{shape}", f"{value.dtype}{value.shape}"
        _require((value.shape, value.dtype) == (shape, dtype), f"{where}: {name} must be {wanted}, and is {given}")


def _run(environment: Environment, seeds: Int[Array, "E S"], noise: Float[Array, "E P A N"]) -> _Record:
    """Play episodes side by side with random actions, and repeat the first reset and step alone. Jittable."""
    keys = jax.vmap(jax.vmap(jax.random.key))(seeds)

    def act(state: Any, time_step: TimeStep, key: PRNGKeyArray, noise: Array) -> tuple[Any, TimeStep]:
        return step_env(environment, state, _action(environment, time_step.available_actions, noise), key)

    def play(keys: Key[Array, "S"], noise: Array) -> Any:
        def advance(carry: Any, inputs: Any) -> Any:
            (state, before), first = carry
            key, index = inputs
            state, now = act(state, before, key, noise[index % len(noise)])
            first = jax.tree.map(lambda new, old: jnp.where(index == 0, new, old), (state, now), first)
            return ((state, now), first), (_kept(before, now), now.done(), _fingerprint((state, now)))

        start = reset_env(environment, keys[0])
        (_, first), record = jax.lax.scan(advance, (start, start), (keys[1:], jnp.arange(len(keys) - 1)))
        return start, first, _kept(start[1], start[1]), record

    def alone() -> Any:
        start = reset_env(environment, keys[0, 0])
        return start, act(*start, keys[0, 1], noise[0, 0])

    start, first, kept_at_reset, (kept, done, fingerprints) = jax.vmap(play)(keys, noise)
    batched = jax.tree.map(lambda x: x[0], (start, first))
    resets, steps = zip(*([_numbers(result) for result in pair] for pair in (batched, alone(), alone())), strict=True)
    return _Record(resets, steps, start[1], kept_at_reset, kept, done, fingerprints)


def _action(environment: Environment, available: Bool[Array, "A N"], noise: Float[Array, "A N"]) -> Action:
    """A random available action per agent, from noise in [-1, 1]."""
    if has_continuous_actions(environment):
        return jnp.where(available, noise, 0.0)
    return jnp.argmax(jnp.where(available, noise, -2.0), axis=-1).astype(jnp.int32)


def _kept(before: TimeStep, now: TimeStep) -> Bool[Array, "R"]:
    return jnp.stack([rule(before, now) for rule in _RULES.values()])


def _fingerprint(tree: Any) -> UInt32[Array, ""]:
    """A number that two different trees of arrays hardly ever share: the sum of their bytes, weighted by position."""
    data = [jnp.atleast_1d(leaf).view(jnp.uint8).ravel() for leaf in _numbers(tree)]
    together = jnp.concatenate(data).astype(jnp.uint32)
    return jnp.sum(together * jnp.arange(1, 2 * len(together), 2, dtype=jnp.uint32), dtype=jnp.uint32)


def _numbers(tree: Any) -> list[Array]:
    """Leaves as arrays of numbers; of typed keys, their data."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    leaves = map(jnp.asarray, jax.tree.leaves(tree))
    return [jax.random.key_data(leaf) if is_key(leaf) else leaf for leaf in leaves]


def _check_reset(record: _Record, repeated: _Record) -> None:
    _check_rules(record.kept_at_reset, "reset")
    _require(not np.any(record.fresh.reward), "reset: reward must be zero, as nothing has been done yet")
    done = record.fresh.truncated | np.all(record.fresh.terminated, axis=-1)
    _require(not np.any(done), "reset returns an episode that is over already")
    _check_repeated("reset", record.resets, repeated.resets)


def _check_repeated(name: str, results: Any, repeated: Any) -> None:
    """Compare one call as it is batched, alone, traced again, and run again."""
    batched, alone, traced_again = results
    pure = _close(alone, traced_again) and _close(alone, repeated[1], tolerance=0.0)
    _require(pure, f"{name} is not a pure function: the same arguments gave two results")
    _require(_close(batched, alone), f"{name} gives another result under vmap")


def _check_steps(record: _Record, repeated: _Record) -> None:
    _check_repeated("step", record.steps, repeated.steps)
    done = record.done
    counts = np.cumsum(done, axis=1) - done == 0  # the step belongs to the episode
    for step in range(done.shape[1]):
        where, now = f"step {step + 1}", counts[:, step]
        _check_rules(record.kept[now, step], where)
        same = record.fingerprints[now, step] == repeated.fingerprints[now, step]
        _require(bool(np.all(same)), f"{where}: step is not a pure function: the same arguments gave two results")
    ended = bool(np.all(np.any(done, axis=1)))
    _require(ended, f"an episode is not over after max_steps={done.shape[1]} steps")


def _check_rules(kept: Any, where: str) -> None:
    for rule, holds in zip(_RULES, np.all(kept, axis=0), strict=True):
        _require(bool(holds), f"{where}: {rule}")


def _avals(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


def _close(left: list[np.ndarray], right: list[np.ndarray], tolerance: float = 1e-6) -> bool:
    return all(
        np.allclose(a, b, rtol=10 * tolerance, atol=tolerance, equal_nan=True) for a, b in zip(left, right, strict=True)
    )
