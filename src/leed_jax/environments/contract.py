"""The contract of `leed_jax.environments.protocol.Environment`, to be run on any environment, a user's own included."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from leed_jax.environments.actions import random_actions
from leed_jax.environments.protocol import (
    Environment,
    TimeStep,
    fill_defaults,
    has_continuous_actions,
    reset_env,
    step_env,
)
from leed_jax.errors import EnvironmentContractError


def check_environment(environment: Environment, seed: int = 0, episodes: int = 2) -> None:
    """Put an environment through the contract that the engine relies on.

    Checks that it is hashable, that `reset` and `step` are pure, give the same under jit and vmap, keep shapes and
    dtypes, give finite numbers, always leave an action available, and end every episode within `max_steps`.

    Args:
        environment: the environment to check.
        seed: seed of the initial states and of the random actions.
        episodes: the number of whole episodes to play with random available actions.

    Raises:
        EnvironmentContractError: the first rule that is broken, by name.
    """
    _check_static(environment)
    key = jax.random.key(seed)
    reset, step = _compiled(environment, "reset"), _compiled(environment, "step")
    state, time_step = reset(key)
    _check_shapes(environment, time_step, "reset")
    _require(not bool(time_step.episode_over()), "reset returns an episode that is over already")
    _require(not np.any(time_step.reward), "reset: reward must be zero, as nothing has been done yet")
    _check_final_observation(time_step, "reset")
    again = reset(key)
    _require(_same((state, time_step), again), "reset is not a pure function: one key gave two results")
    _check_transformed(environment, reset, step, key)
    for episode in range(episodes):
        _play(environment, reset, step, jax.random.fold_in(key, episode))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise EnvironmentContractError(message)


def _compiled(environment: Environment, name: str) -> Callable[..., tuple[Any, TimeStep]]:
    """Jit `reset` or `step`, with an error of the contract where that cannot be done."""
    jitted = jax.jit(getattr(environment, name))

    def call(*arguments: Any) -> tuple[Any, TimeStep]:
        try:
            result = jitted(*arguments)
        except (TypeError, IndexError) as error:
            reason = str(error).strip().splitlines()[0]
            raise EnvironmentContractError(f"{name} cannot be jitted: {reason}") from error
        is_pair = isinstance(result, tuple) and len(result) == 2  # noqa: PLR2004
        _require(is_pair and isinstance(result[1], TimeStep), f"{name} must return a state and a TimeStep")
        return result[0], fill_defaults(environment, result[1])

    return call


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
        found = (tuple(value.shape), value.dtype)
        wanted, given = f"{dtype.__name__}{shape}", f"{value.dtype}{found[0]}"
        _require(found == (shape, dtype), f"{where}: {name} must be {wanted}, and is {given}")
        _require(bool(np.all(np.isfinite(value))), f"{where}: {name} is not finite")
    _require(bool(np.all(np.any(time_step.available_actions, axis=-1))), f"{where}: an agent has no available action")


def _check_transformed(environment: Environment, reset: Any, step: Any, key: Any) -> None:
    """Compare one reset and one step, as compiled, with the same ones run eagerly and as the first of a batch."""
    keys = jax.random.split(key, 2)
    first = lambda tree: jax.tree.map(lambda x: x[0], tree)  # noqa: E731
    state, time_step = reset(keys[0])
    _require(_close((state, time_step), reset_env(environment, keys[0])), "reset gives another result under jit")
    states, time_steps = jax.jit(jax.vmap(lambda key: reset_env(environment, key)))(keys)
    _require(_close((state, time_step), first((states, time_steps))), "reset gives another result under vmap")
    actions = _first_available(environment, time_steps.available_actions)
    result = step(state, actions[0], key)
    _require(_close(result, step_env(environment, state, actions[0], key)), "step gives another result under jit")
    batch = jax.jit(jax.vmap(functools.partial(step_env, environment), in_axes=(0, 0, None)))(states, actions, key)
    _require(_close(result, first(batch)), "step gives another result under vmap")


def _first_available(environment: Environment, available: Any) -> Any:
    if has_continuous_actions(environment):
        return 0.5 * available.astype(jnp.float32)
    return jnp.argmax(available, axis=-1).astype(jnp.int32)


def _check_final_observation(time_step: TimeStep, where: str) -> None:
    for name in ("observation", "available_actions"):
        _require(
            _same(getattr(time_step, name), getattr(time_step, f"final_{name}")),
            f"{where}: final_{name} must equal {name}; AutoReset does the resetting",
        )


def _play(environment: Environment, reset: Any, step: Any, key: Any) -> None:
    state, time_step = reset(key)
    structure = _avals((state, time_step))
    for index in range(environment.max_steps):
        action_key, step_key = jax.random.split(jax.random.fold_in(key, index))
        action = random_actions(environment, time_step.available_actions[None], action_key)[0]
        previous, terminated = state, time_step.terminated
        state, time_step = step(previous, action, step_key)
        where = f"step {index + 1}"
        _check_shapes(environment, time_step, where)
        _require(_avals((state, time_step)) == structure, f"{where}: step changes the shapes or dtypes of the state")
        _require(
            _same((state, time_step), step(previous, action, step_key)),
            f"{where}: step is not a pure function: the same arguments gave two results",
        )
        _check_final_observation(time_step, where)
        again = bool(np.any(terminated & ~time_step.terminated))
        _require(not again, f"{where}: an agent that was terminated takes part again; only a reset may do that")
        if bool(time_step.episode_over()):
            return
    raise EnvironmentContractError(f"an episode is not over after max_steps={environment.max_steps} steps")


def _avals(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


def _same(left: Any, right: Any) -> bool:
    pairs = zip(_leaves(left), _leaves(right), strict=True)
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)


def _close(left: Any, right: Any) -> bool:
    pairs = zip(_leaves(left), _leaves(right), strict=True)
    return all(np.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True) for a, b in pairs)


def _leaves(tree: Any) -> list[Any]:
    """Leaves as NumPy arrays; typed keys, which NumPy cannot hold, as their data."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return [np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf) for leaf in leaves]
