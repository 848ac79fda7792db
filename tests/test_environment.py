"""The environment seam: the contract, and automatic resets."""

import dataclasses
import importlib
import inspect
import itertools
import re
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from own_environment import Meeting
from probes import Choice, Line, Masked, Nothing, OneByOne, Steady

import leed_jax
from leed_jax.config.environments import check_contract, make_environment
from leed_jax.environments import AutoReset, Environment, TimeStep, fill_defaults, reset_env, step_env
from leed_jax.environments.contract import check_environment
from leed_jax.envs.mpe_spread import SimpleSpread
from leed_jax.errors import EnvironmentContractError
from leed_jax.files import cache_folder
from leed_jax.instructions import PrimitiveInstructions

KEPT = [
    SimpleSpread(),
    SimpleSpread(num_agents=1, num_landmarks=3, max_steps=3),
    SimpleSpread(num_agents=5, num_landmarks=2, observed_agents=2, observed_landmarks=1, max_steps=5),
    SimpleSpread(num_agents=3, observed_agents=0, observed_landmarks=0, max_steps=3),
    Steady(),
    Steady(max_steps=4, terminates=False, sees_time=True),
    Steady(max_steps=4, random_length=True),
    Choice(num_agents=3),
    Nothing(),
    Masked(),
    Line(),
    PrimitiveInstructions(Choice()),
]


@pytest.mark.parametrize("environment", KEPT, ids=str)
def test_the_contract_holds(environment: Any) -> None:
    check_environment(environment)
    assert isinstance(environment, Environment)


@dataclasses.dataclass(frozen=True)
class Altered(Steady):
    """`Steady` for three steps, with one field of a time step replaced from step `since` on."""

    max_steps: int = 3
    field: str = "reward"
    value: Any = None
    since: int = 1

    def __hash__(self) -> int:
        return 0

    def _time_step(self, state: Any, reward: Any) -> TimeStep:
        time_step = fill_defaults(self, super()._time_step(state, reward))
        if self.value is None:
            return time_step
        altered = jnp.asarray(self.value)
        kept = getattr(time_step, self.field)
        if altered.shape == kept.shape and altered.dtype == kept.dtype:
            altered = jnp.where(state[0] >= self.since, altered, kept)
        return time_step.replace(**{self.field: altered})


ALTERED = {
    "reset: reward must be float32(2,), and is int32(2,)": ("reward", np.zeros(2, np.int32), 0),
    "reset: reward must be float32(2,), and is float32()": ("reward", np.float32(0), 0),
    "reset: observation must be float32(2, 1), and is float32(2, 2)": ("observation", np.zeros((2, 2), np.float32), 0),
    "reset: final_observation must be float32(2, 1), and is float32(1,)": (
        "final_observation",
        np.ones(1, np.float32),
        0,
    ),
    "reset: terminated must be bool(2,), and is bool()": ("terminated", np.bool_(False), 0),
    "reset: truncated must be bool(), and is bool(2,)": ("truncated", np.zeros(2, bool), 0),
    "reset: available_actions must be bool(2, 2), and is float32(2, 2)": (
        "available_actions",
        np.ones((2, 2), np.float32),
        0,
    ),
    "reset: observation is not finite": ("observation", np.full((2, 1), np.nan, np.float32), 0),
    "step 2: reward is not finite": ("reward", np.full(2, np.inf, np.float32), 2),
    "step 2: an agent has no available action": ("available_actions", np.array([[True, True], [False, False]]), 2),
    "reset: an agent has no available action": ("available_actions", np.zeros((2, 2), bool), 0),
    "an episode is not over after max_steps=3 steps": ("terminated", np.array([False, False]), 1),
    "reset returns an episode that is over already": ("truncated", np.bool_(True), 0),
    "reset: reward must be zero": ("reward", np.ones(2, np.float32), 0),
    "reset: final_observation must equal observation": ("final_observation", np.zeros((2, 1), np.float32), 0),
    "step 2: final_available_actions must equal available_actions": (
        "final_available_actions",
        np.array([[True, False], [True, True]]),
        2,
    ),
    "step 3: final_observation must equal observation": ("observation", np.zeros((2, 1), np.float32), 3),
}


@pytest.mark.parametrize("rule", ALTERED)
def test_the_contract_names_the_rule_that_a_time_step_breaks(rule: str) -> None:
    field, value, since = ALTERED[rule]
    with pytest.raises(EnvironmentContractError, match=re.escape(rule)):
        check_environment(Altered(field=field, value=value, since=since))


class Reviving(OneByOne):
    def _time_step(self, state: Any, reward: Any) -> TimeStep:
        ended = jnp.arange(1, self.num_agents + 1) == state[0]
        return super()._time_step(state, reward).replace(terminated=ended)


def test_an_agent_that_has_terminated_stays_so() -> None:
    with pytest.raises(EnvironmentContractError, match="step 2: an agent that was terminated takes part again"):
        check_environment(Reviving())


@pytest.mark.parametrize("name", ["num_agents", "observation_size", "num_actions", "max_steps"])
@pytest.mark.parametrize("value", [0, -1, 2.0, None])
def test_sizes_are_positive_integers(name: str, value: Any) -> None:
    changed = type("Changed", (Steady,), {name: property(lambda self: value)})
    with pytest.raises(EnvironmentContractError, match=f"{name} must be a positive int, and is {value!r}"):
        check_environment(object.__new__(changed))


class Unhashable(Steady):
    __hash__ = None  # type: ignore[assignment]


class NoTimeStep(Steady):
    def reset(self, key: Any) -> Any:
        return super().reset(key)[1]


class Branching(Steady):
    def step(self, state: Any, action: Any, key: Any) -> Any:
        return super().step(state, action + 1 if action[0] > 0 else action, key)


class Growing(Steady):
    def step(self, state: Any, action: Any, key: Any) -> Any:
        state, time_step = super().step(state[:2], action, key)
        return (*state, action), time_step


_COUNTER = itertools.count()


class Counting(Steady):
    """Not pure: what a call returns depends on how often it was called."""

    def reset(self, key: Any) -> Any:
        state, time_step = super().reset(key)
        return (state[0] + next(_COUNTER), state[1]), time_step


class CountingSteps(Steady):
    def reward(self, action: Any) -> Any:
        return jnp.full(self.num_agents, float(next(_COUNTER)))


class Host(Steady):
    """Not pure even once it is compiled."""

    def reset(self, key: Any) -> Any:
        count = jax.experimental.io_callback(lambda: np.int32(next(_COUNTER)), jax.ShapeDtypeStruct((), jnp.int32))
        state, time_step = super().reset(key)
        return (state[0] + count, state[1]), time_step


class HostSteps(Steady):
    """Not pure from the second step on."""

    def step(self, state: Any, action: Any, key: Any) -> Any:
        new, time_step = super().step(state, action, key)
        count = jax.experimental.io_callback(lambda: np.float32(next(_COUNTER)), jax.ShapeDtypeStruct((), jnp.float32))
        return new, time_step.replace(reward=time_step.reward + jnp.where(state[0] > 0, count, 0.0))


@jax.custom_batching.custom_vmap
def unlike_alone(x: Any) -> Any:
    return x


@unlike_alone.def_vmap
def _batched(axis_size: int, in_batched: Any, x: Any) -> Any:
    return x + 1.0, in_batched[0]


class Batching(Steady):
    """Gives other observations in a batch."""

    def _time_step(self, state: Any, reward: Any) -> TimeStep:
        time_step = super()._time_step(state, reward)
        return time_step.replace(observation=unlike_alone(time_step.observation + 0.0 * state[1]))


class BatchingSteps(Steady):
    """Gives other rewards in a batch."""

    def step(self, state: Any, action: Any, key: Any) -> Any:
        state, time_step = super().step(state, action, key)
        return state, time_step.replace(reward=unlike_alone(time_step.reward + 0.0 * action))


BROKEN = [
    ("is not hashable", Unhashable()),
    ("reset must return a state and a TimeStep", NoTimeStep()),
    ("step cannot be jitted: Attempted boolean conversion", Branching()),
    ("step changes the shapes or dtypes of the state", Growing(max_steps=2)),
    ("reset is not a pure function", Counting()),
    ("step is not a pure function", CountingSteps()),
    ("reset is not a pure function", Host()),
    ("step 2: step is not a pure function", HostSteps(max_steps=3)),
    ("reset gives another result under vmap", Batching()),
    ("step gives another result under vmap", BatchingSteps()),
]


@pytest.mark.parametrize(("rule", "environment"), BROKEN)
def test_the_contract_names_the_rule_that_an_environment_breaks(rule: str, environment: Any) -> None:
    with pytest.raises(EnvironmentContractError, match=rule):
        check_environment(environment)


class Uninitialised(Steady):
    """Keeps something that is no number yet in its state, which is its own affair."""

    def reset(self, key: Any) -> Any:
        state, time_step = super().reset(key)
        return (*state, jnp.array(jnp.nan), key), time_step

    def step(self, state: Any, action: Any, key: Any) -> Any:
        new, time_step = super().step(state[:2], action, key)
        return (*new, *state[2:]), time_step


class PlainNumbers(Steady):
    """Keeps a Python number in its state."""

    def reset(self, key: Any) -> Any:
        state, time_step = super().reset(key)
        return (*state, 3), time_step

    def step(self, state: Any, action: Any, key: Any) -> Any:
        new, time_step = super().step(state[:2], action, key)
        return (*new, state[2]), time_step


@pytest.mark.parametrize("environment", [Altered(), OneByOne(), Uninitialised(), PlainNumbers()])
def test_the_state_is_the_environments_own(environment: Any) -> None:
    check_environment(environment)


@pytest.mark.parametrize("terminates", [True, False])
def test_auto_reset_keeps_the_end_and_shows_the_start(terminates: bool) -> None:
    plain = Steady(max_steps=2, terminates=terminates, sees_time=True)
    wrapped = AutoReset(plain)
    key, action = jax.random.key(0), jnp.zeros(2, jnp.int32)
    state, start = wrapped.reset(key)
    state, middle = wrapped.step(state, action, key)
    state, end = wrapped.step(state, action, key)
    np.testing.assert_array_equal(middle.observation, [[0, 1, 0]] * 2)
    np.testing.assert_array_equal(middle.final_observation, middle.observation)
    assert not middle.done()
    np.testing.assert_array_equal(end.observation, start.observation)
    np.testing.assert_array_equal(end.final_observation, [[0, 0, 1]] * 2)
    np.testing.assert_array_equal(end.reward, [1, 2])
    np.testing.assert_array_equal(end.terminated, [terminates] * 2)
    assert bool(end.truncated) is not terminates
    assert state[0] == 0


def test_auto_reset_shows_the_actions_of_the_new_episode() -> None:
    wrapped = AutoReset(Masked(max_steps=1))
    state, start = wrapped.reset(jax.random.key(0))
    _, end = wrapped.step(state, jnp.zeros(2, jnp.int32), jax.random.key(1))
    np.testing.assert_array_equal(end.available_actions, start.available_actions)
    np.testing.assert_array_equal(start.final_available_actions, start.available_actions)
    np.testing.assert_array_equal(end.final_available_actions, [[False, True, False]] * 2)


def test_fields_that_an_environment_leaves_out_are_filled_in() -> None:
    environment = Meeting()
    state, bare = environment.reset(jax.random.key(0))
    assert bare.terminated is bare.final_available_actions is None
    assert not bare.done()
    filled = fill_defaults(environment, bare)
    np.testing.assert_array_equal(filled.terminated, [False] * 2)
    np.testing.assert_array_equal(filled.truncated, False)
    np.testing.assert_array_equal(filled.available_actions, np.ones((2, 3), bool))
    np.testing.assert_array_equal(filled.final_observation, bare.observation)
    np.testing.assert_array_equal(filled.final_available_actions, filled.available_actions)
    structure = jax.tree.structure(filled)
    assert jax.tree.structure(reset_env(environment, jax.random.key(0))[1]) == structure
    assert jax.tree.structure(step_env(environment, state, jnp.zeros(2, jnp.int32), jax.random.key(0))[1]) == structure


def test_a_small_environment_of_ones_own_is_trained() -> None:
    environment = Meeting()
    source = Path(inspect.getfile(Meeting)).read_text().splitlines()
    assert len(source) < 40
    check_environment(environment)
    result = leed_jax.train(
        environment, "ippo", progress=False, num_envs=4, rollout_steps=5, updates_per_chunk=1, total_steps=40
    )
    assert np.all(np.isfinite(result.metrics["return_per_agent"]))


def test_auto_reset_is_stepping_by_hand() -> None:
    plain = SimpleSpread(num_agents=2, max_steps=3)
    wrapped = AutoReset(plain)
    step, plain_step, plain_reset = jax.jit(wrapped.step), jax.jit(plain.step), jax.jit(plain.reset)
    state = by_hand = wrapped.reset(jax.random.key(0))[0]
    for index in range(7):
        key = jax.random.key(index)
        action = jnp.array([index % 5, (3 * index) % 5], jnp.int32)
        state, time_step = step(state, action, key)
        step_key, reset_key = jax.random.split(key)
        by_hand, expected = plain_step(by_hand, action, step_key)
        np.testing.assert_allclose(time_step.final_observation, expected.observation, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(time_step.reward, expected.reward, rtol=1e-6, atol=1e-6)
        assert bool(time_step.truncated) == (index % 3 == 2)
        if index % 3 == 2:
            by_hand, expected = plain_reset(reset_key)
        np.testing.assert_allclose(time_step.observation, expected.observation, rtol=1e-6, atol=1e-6)


def test_an_episode_is_over_when_all_have_terminated_or_it_is_cut_off() -> None:
    _, time_step = Steady().reset(jax.random.key(0))
    cases = [([True, False], False, False), ([True, True], False, True), ([False, False], True, True)]
    for terminated, truncated, over in cases:
        changed = time_step.replace(terminated=jnp.array(terminated), truncated=jnp.array(truncated))
        assert bool(changed.done()) is over


OWN = """
import dataclasses
from own_environment import Meeting

@dataclasses.dataclass(frozen=True)
class Own(Meeting):
    size: int = 1
"""


@pytest.fixture
def checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that checks `own:Own` as the command lines do and tells whether the contract was really checked."""
    checked: list[Any] = []
    monkeypatch.setattr("leed_jax.config.environments.check_environment", lambda env, **_: checked.append(env))
    monkeypatch.setenv("LEED_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "own.py"

    def check(text: str = OWN, **fields: Any) -> bool:
        source.write_text(text)
        checked.clear()
        sys.modules.pop("own", None)
        importlib.invalidate_caches()
        check_contract("own:Own", make_environment({"name": "own:Own", **fields}))
        return bool(checked)

    yield check
    sys.modules.pop("own", None)


def test_an_environment_that_has_passed_is_not_checked_again_until_it_changes(checks: Any) -> None:
    assert checks()
    assert not checks()
    assert checks(size=2)
    assert not checks(size=2)
    assert checks(OWN + "# changed")
    assert not checks()


def test_a_version_checks_again(checks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks()
    with monkeypatch.context() as patch:
        patch.setattr("jax.__version__", "99")
        assert checks()
    monkeypatch.setattr("leed_jax.config.environments.__version__", "99")
    assert checks()


def test_a_failed_check_is_not_remembered(checks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise EnvironmentContractError("broken")

    with monkeypatch.context() as patch:
        patch.setattr("leed_jax.config.environments.check_environment", fail)
        with pytest.raises(EnvironmentContractError, match="own:Own breaks the environment protocol: broken"):
            checks()
    assert checks()


def test_a_cache_that_is_of_no_use_is_ignored(checks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks()
    (file,) = (tmp_path / "cache" / "contract").iterdir()
    file.write_bytes(b"\x00{")
    assert checks()
    assert not checks()
    file.unlink()
    file.mkdir()
    assert checks()
    monkeypatch.setenv("LEED_JAX_CACHE", str(tmp_path / "own.py"))
    assert checks()
    monkeypatch.setenv("LEED_JAX_CACHE", "off")
    assert checks()


def test_the_cache_stands_where_caches_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEED_JAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_folder() == tmp_path / "leed_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / "home" / ".cache" / "leed_jax"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder() == tmp_path / "home" / "Library" / "Caches" / "leed_jax"
