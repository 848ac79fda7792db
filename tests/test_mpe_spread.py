"""Cooperative navigation: the same as JaxMARL's, and what its instructions do."""

import contextlib
import dataclasses
import io
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import at_step

from leed_jax.envs.mpe_spread import (
    AGENT_RADIUS,
    ARRIVED,
    CLEAR,
    HOLD,
    KEEP_AWAY,
    MOVE_TO,
    SLOW,
    TOUCHING,
    SimpleSpread,
    SpreadState,
)
from leed_jax.errors import ConfigurationError
from leed_jax.instructions import compile_triples, execute

EPISODES = 8
STEPS = 26

# Largest absolute deviations over whole episodes. Contact forces are stiff: they multiply a difference of rounding at
# every step in contact, so that many agents drift apart faster: 2e-6 and 2e-3 were measured. One step from equal
# states stays within `STEP_BOUND`: 5e-7 was measured.
STEP_BOUND = 2e-6
EPISODE_BOUND = {3: 1e-5, 10: 5e-3}


def jaxmarl_spread(num_agents: int) -> Any:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from jaxmarl.environments.mpe.simple_spread import SimpleSpreadMPE  # noqa: PLC0415 - slow, and it prints

    return SimpleSpreadMPE(num_agents=num_agents, num_landmarks=num_agents)


def as_arrays(reference: Any, observations: dict, state: Any, rewards: dict, done: Any) -> dict[str, Any]:
    agents, count = reference.agents, reference.num_agents
    observation = jnp.stack([observations[a] for a in agents])
    return {
        "position": state.p_pos[:count],
        "velocity": state.p_vel[:count],
        "landmark": state.p_pos[count:],
        "observation": observation[:, : observation.shape[1] - 2 * (count - 1)],
        "communication": observation[:, observation.shape[1] - 2 * (count - 1) :],
        "reward": jnp.stack([rewards[a] for a in agents]),
        "done": done,
    }


def own_arrays(state: SpreadState, time_step: Any) -> dict[str, Any]:
    return {
        "position": state.position,
        "velocity": state.velocity,
        "landmark": state.landmark,
        "observation": time_step.observation,
        "reward": time_step.reward,
        "done": time_step.truncated,
    }


def crowded_actions(state: SpreadState, key: Any) -> Any:
    """Mostly towards the centre, so that agents meet, and otherwise at random."""
    towards_key, mix_key, random_key = jax.random.split(key, 3)
    count = len(state.position)
    axis = jax.random.bernoulli(towards_key, shape=(count,)).astype(jnp.int32)
    coordinate = jnp.take_along_axis(state.position, axis[:, None], axis=1)[:, 0]
    inwards = 1 + 2 * axis + (coordinate < 0)
    other = jax.random.randint(random_key, (count,), 0, 5)
    return jnp.where(jax.random.bernoulli(mix_key, 0.7, (count,)), inwards, other).astype(jnp.int32)


def both_ways(num_agents: int) -> Any:
    """Episodes of both environments side by side, and each of JaxMARL's steps again from our state."""
    own, reference = SimpleSpread(num_agents=num_agents), jaxmarl_spread(num_agents)
    template = jax.eval_shape(reference.reset, jax.random.key(0))[1]

    def reference_state(state: SpreadState) -> Any:
        landmarks = jnp.zeros_like(state.landmark)
        return template.replace(
            p_pos=jnp.concatenate([state.position, state.landmark]),
            p_vel=jnp.concatenate([state.velocity, landmarks]),
            c=jnp.zeros((num_agents, 2)),
            done=jnp.array(False),
            step=state.step,
        )

    def reference_step(state: Any, action: Any) -> Any:
        actions = {agent: action[i] for i, agent in enumerate(reference.agents)}
        observations, state, rewards, done, _ = reference.step_env(jax.random.key(0), state, actions)
        return state, as_arrays(reference, observations, state, rewards, done["__all__"])

    def advance(carry: Any, key: Any) -> Any:
        mine, theirs = carry
        action = crowded_actions(mine, key)
        # One call for both states, as each call of JaxMARL's step is another one to compile.
        pair = jax.tree.map(lambda *leaves: jnp.stack(leaves), theirs, reference_state(mine))
        stepped, arrays = jax.vmap(reference_step, in_axes=(0, None))(pair, action)
        mine, time_step = own.step(mine, action, key)
        return (mine, at_step(stepped, 0)), (own_arrays(mine, time_step), at_step(arrays, 0), at_step(arrays, 1))

    def episode(key: Any) -> Any:
        reset_key, play_key = jax.random.split(key)
        state, _ = own.reset(reset_key)
        return jax.lax.scan(advance, (state, reference_state(state)), jax.random.split(play_key, STEPS))[1]

    return jax.device_get(jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(1), EPISODES)))


def deviation(mine: dict, theirs: dict) -> float:
    names = ("position", "velocity", "landmark", "observation", "reward")
    return max(float(np.max(np.abs(mine[name] - theirs[name]))) for name in names)


@pytest.mark.parametrize("num_agents", [3, 10])
def test_it_is_jaxmarls_simple_spread(num_agents: int) -> None:
    mine, theirs, from_mine = both_ways(num_agents)
    distance = np.linalg.norm(mine["position"][..., :, None, :] - mine["position"][..., None, :, :], axis=-1)
    touching = np.sum(distance < 2 * AGENT_RADIUS, axis=(-2, -1)) > num_agents
    assert np.all(np.any(touching, axis=1))
    assert mine["observation"].shape == theirs["observation"].shape
    assert not np.any(theirs["communication"])
    assert deviation(mine, from_mine) < STEP_BOUND
    assert deviation(mine, theirs) < EPISODE_BOUND[num_agents]
    ends = np.arange(1, STEPS + 1) == STEPS
    np.testing.assert_array_equal(mine["done"], np.tile(ends, (EPISODES, 1)))
    np.testing.assert_array_equal(theirs["done"], mine["done"])


def spread_state(position: Any, landmark: Any, velocity: Any = None) -> SpreadState:
    position = jnp.asarray(position, jnp.float32)
    velocity = jnp.zeros_like(position) if velocity is None else jnp.asarray(velocity, jnp.float32)
    return SpreadState(position, velocity, jnp.asarray(landmark, jnp.float32), jnp.zeros((), jnp.int32))


def random_state(seed: int, num_agents: int, num_landmarks: int) -> SpreadState:
    generator = np.random.default_rng(seed)
    position, landmark = (generator.uniform(-1, 1, (n, 2)) for n in (num_agents, num_landmarks))
    return spread_state(position, landmark, generator.normal(size=(num_agents, 2)))


@pytest.mark.parametrize(("seen_agents", "seen_landmarks"), [(2, 3), (0, 1), (4, 0), (None, 2), (1, None)])
def test_the_nearest_are_observed_nearest_first(seen_agents: int | None, seen_landmarks: int | None) -> None:
    environment = SimpleSpread(5, 4, observed_agents=seen_agents, observed_landmarks=seen_landmarks)
    observe = jax.jit(environment.observe)
    for seed in range(5):
        state = random_state(seed, 5, 4)
        observation = observe(state)
        position = np.asarray(state.position)
        for i in range(5):
            others = [position[j] - position[i] for j in range(5) if j != i]
            landmarks = [landmark - position[i] for landmark in np.asarray(state.landmark)]
            if seen_agents is not None:
                others = sorted(others, key=np.linalg.norm)[:seen_agents]
            if seen_landmarks is not None:
                landmarks = sorted(landmarks, key=np.linalg.norm)[:seen_landmarks]
            expected = np.concatenate([state.velocity[i], position[i], *landmarks, *others])
            np.testing.assert_allclose(observation[i], expected, rtol=1e-6, atol=1e-6)


def test_agents_at_one_point_give_finite_numbers() -> None:
    environment = SimpleSpread()
    act, step = jax.jit(environment.act), jax.jit(environment.step)
    state = spread_state(np.zeros((3, 2)), np.zeros((3, 2)))
    for command, parameter in ((MOVE_TO, "nearest_agent"), (KEEP_AWAY, "nearest_agent"), (MOVE_TO, "origin")):
        words = jnp.full(3, command), jnp.full(3, environment.vocabulary.parameter_index[parameter])
        moved, time_step = step(state, act(state, *words), jax.random.key(0))
        assert np.all(np.isfinite(time_step.observation))
        np.testing.assert_array_equal(time_step.reward, [-1.0, -1.0, -1.0])
        assert np.all(np.isfinite(moved.velocity))


@pytest.mark.parametrize(
    "change",
    [
        {"num_agents": 0},
        {"num_landmarks": 0},
        {"max_steps": 0},
        {"local_ratio": 1.5},
        {"local_ratio": -0.1},
        {"observed_agents": 3},
        {"observed_landmarks": 4},
        {"observed_agents": -1},
    ],
)
def test_settings_out_of_range_are_named(change: dict) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(change))):
        SimpleSpread(**change)


# --- instructions -----------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Instructed:
    """`SimpleSpread` with instructions given by name."""

    environment: SimpleSpread

    def __post_init__(self) -> None:
        self._target = jax.jit(self.environment._target)
        self._act = jax.jit(self.environment.act)
        self._achieved = jax.jit(self.environment.achieved)
        self._step = jax.jit(self.environment.step)

    def words(self, *instructions: tuple[str, str]) -> tuple[Any, Any]:
        vocabulary = self.environment.vocabulary
        command = [vocabulary.command_index[c] for c, _ in instructions]
        parameter = [vocabulary.parameter_index[p] for _, p in instructions]
        return jnp.array(command, jnp.int32), jnp.array(parameter, jnp.int32)

    def target(self, state: SpreadState, *instructions: tuple[str, str]) -> np.ndarray:
        return np.asarray(self._target(state, *self.words(*instructions)))

    def achieved(self, state: SpreadState, *instructions: tuple[str, str]) -> list[bool]:
        return np.asarray(self._achieved(state, *self.words(*instructions))).tolist()

    def follow(self, state: SpreadState, steps: int, *instructions: tuple[str, str]) -> SpreadState:
        for _ in range(steps):
            action = self._act(state, *self.words(*instructions))
            state, _ = self._step(state, action, jax.random.key(0))
        return state


THREE = Instructed(SimpleSpread())
FOUR = Instructed(SimpleSpread(num_agents=4, num_landmarks=4))


def test_the_commands_stand_where_the_constants_say() -> None:
    names = [command.name for command in THREE.environment.vocabulary.commands]
    assert (names[MOVE_TO], names[HOLD], names[KEEP_AWAY]) == ("MoveTo", "Hold", "KeepAway")


def test_a_lone_agent_has_no_agents_to_speak_of() -> None:
    vocabulary = SimpleSpread(num_agents=1).vocabulary
    assert [command.name for command in vocabulary.commands] == ["MoveTo", "Hold"]
    assert vocabulary.allowed_parameters("MoveTo", "agent_0") == (
        "landmark_0",
        "nearest_landmark",
        "nearest_unclaimed_landmark",
        "origin",
    )


def test_an_agent_cannot_be_told_to_go_to_itself() -> None:
    vocabulary = THREE.environment.vocabulary
    for command in ("MoveTo", "KeepAway"):
        allowed = vocabulary.allowed_parameters(command, "agent_1")
        assert "agent_1" not in allowed
        assert {"agent_0", "agent_2", "nearest_agent"} <= set(allowed)


def test_parameters_stand_for_points() -> None:
    state = spread_state([[0, 0], [0.5, 0], [0.5, 0.6]], [[-1, -1], [0.1, 0], [0.5, 0.5]])
    move = lambda *names: THREE.target(state, *(("MoveTo", name) for name in names))  # noqa: E731
    np.testing.assert_array_equal(move("landmark_0", "landmark_2", "landmark_1"), state.landmark[jnp.array([0, 2, 1])])
    np.testing.assert_array_equal(move(*["nearest_landmark"] * 3), state.landmark[jnp.array([1, 1, 2])])
    np.testing.assert_array_equal(move(*["origin"] * 3), np.zeros((3, 2)))
    np.testing.assert_array_equal(move("agent_1", "agent_2", "agent_0"), state.position[jnp.array([1, 2, 0])])
    np.testing.assert_array_equal(move(*["nearest_agent"] * 3), state.position[jnp.array([1, 0, 1])])
    hold = THREE.target(state, ("Hold", "until_end"), ("Hold", "until_clear"), ("Hold", "until_slow"))
    np.testing.assert_array_equal(hold, state.position)


def greedy_matching(state: SpreadState, seekers: list[int], claimed: set[int]) -> dict[int, int]:
    """The shortest pair of a seeker and a free landmark first, in plain Python."""
    choice: dict[int, int] = {}
    position, landmark = np.asarray(state.position), np.asarray(state.landmark)
    pairs = [(np.linalg.norm(position[a] - landmark[m]), a, m) for a in seekers for m in range(len(landmark))]
    for _, agent, mark in sorted(pairs):
        if agent not in choice and mark not in choice.values() and mark not in claimed:
            choice[agent] = mark
    return choice


@pytest.mark.parametrize("named", [{}, {0: 2}, {1: 0, 3: 3}, {0: 1, 1: 1}])
def test_unclaimed_landmarks_are_shared_out_greedily(named: dict[int, int]) -> None:
    seekers = [agent for agent in range(4) if agent not in named]
    instructions = [
        ("MoveTo", f"landmark_{named[a]}" if a in named else "nearest_unclaimed_landmark") for a in range(4)
    ]
    for seed in range(20):
        state = random_state(seed, 4, 4)
        expected = greedy_matching(state, seekers, set(named.values())) | named
        target = FOUR.target(state, *instructions)
        np.testing.assert_array_equal(target, np.asarray(state.landmark)[[expected[a] for a in range(4)]])


def test_of_equally_long_ways_the_first_counts() -> None:
    many = Instructed(SimpleSpread(num_agents=12))
    for seed in range(20):
        # Places on a grid, where many distances are equal, and exact.
        draw = np.random.default_rng(seed)
        state = spread_state(draw.integers(-2, 3, (12, 2)) / 2, draw.integers(-2, 3, (12, 2)) / 2)
        expected = greedy_matching(state, list(range(12)), set())
        target = many.target(state, *[("MoveTo", "nearest_unclaimed_landmark")] * 12)
        np.testing.assert_array_equal(target, np.asarray(state.landmark)[[expected[a] for a in range(12)]])


def test_an_agent_that_holds_on_a_landmark_claims_it() -> None:
    marks = [[0, 0], [1, 0], [-1, -1]]
    state = spread_state([[0.1, 0], [0.2, 0], [-0.8, -1]], marks)
    seek = ("MoveTo", "nearest_unclaimed_landmark")
    held = THREE.target(state, ("Hold", "until_end"), seek, seek)
    np.testing.assert_array_equal(held[1:], [[1, 0], [-1, -1]])
    passing = THREE.target(state, ("MoveTo", "landmark_2"), seek, seek)
    np.testing.assert_array_equal(passing, [[-1, -1], [0, 0], [1, 0]])


def test_an_agent_that_would_drift_off_a_place_has_not_arrived() -> None:
    # At speed v an agent drifts 0.4 v before it comes to rest.
    state = spread_state(np.zeros((3, 2)), np.zeros((3, 2)), [[0.2, 0], [0.3, 0], [0, -0.3]])
    assert THREE.achieved(state, *[("MoveTo", "landmark_1")] * 3) == [True, False, False]


def test_where_no_landmark_is_left_the_nearest_one_has_to_do() -> None:
    state = random_state(0, 4, 4)
    target = FOUR.target(state, *(("MoveTo", f"landmark_{i}") for i in range(3)), ("MoveTo", "landmark_3"))
    np.testing.assert_array_equal(target, state.landmark)
    few = Instructed(SimpleSpread(num_agents=3, num_landmarks=1))
    state = random_state(0, 3, 1)
    target = few.target(state, ("MoveTo", "landmark_0"), *[("MoveTo", "nearest_unclaimed_landmark")] * 2)
    np.testing.assert_array_equal(target, np.tile(state.landmark, (3, 1)))


def test_move_to_arrives_from_anywhere() -> None:
    environment = SimpleSpread(num_agents=1, num_landmarks=1)
    plan = compile_triples(environment.vocabulary, [("MoveTo", "landmark_0", "agent_0")], 1)
    run = jax.jit(jax.vmap(lambda key: execute(environment, plan, key)))
    trajectory = run(jax.random.split(jax.random.key(0), 1000))
    distance = np.linalg.norm(trajectory.observation[:, :, 0, 4:6], axis=-1)
    assert np.sum(np.min(distance, axis=1) <= ARRIVED) == 1000
    # It also stays: an oscillation of half a thrust about the goal is all that is left.
    assert np.sum(distance[:, -1] <= ARRIVED) == 1000


def test_hold_comes_to_rest_from_any_speed() -> None:
    hold = [("Hold", "until_slow")] * 3
    for speed in np.linspace(0.05, 2.0, 40):
        velocity = [[speed, 0], [0, -speed], [-speed / 2, speed / 3]]
        state = spread_state([[-5, 0], [0, 0], [5, 0]], np.zeros((3, 2)), velocity)
        assert THREE.achieved(THREE.follow(state, 14, *hold), *hold) == [True] * 3


def test_keep_away_makes_room_and_stops() -> None:
    keep = [("KeepAway", "agent_1"), ("Hold", "until_end"), ("KeepAway", "nearest_agent")]
    near = spread_state([[-0.35, 0.1], [0, 0], [0.1, 0.4]], np.zeros((3, 2)))
    after = THREE.follow(near, 8, *keep)
    start, end = (np.linalg.norm(s.position - s.position[1], axis=-1) for s in (near, after))
    assert np.all(end[[0, 2]] > start[[0, 2]])
    assert THREE.achieved(after, *keep) == [True, False, True]
    far = spread_state([[-1, 0], [0, 0], [0, 1]], np.zeros((3, 2)))
    np.testing.assert_array_equal(THREE._act(far, *THREE.words(*keep)), [0, 0, 0])


def test_instructions_are_achieved_where_their_meanings_say() -> None:
    landmarks = [[0, 0], [1, 1], [-1, 1]]
    inside, outside = ARRIVED - 0.01, ARRIVED + 0.01
    state = spread_state([[inside, 0], [1 - outside, 1], [-1, 1]], landmarks)
    named = [("MoveTo", f"landmark_{i}") for i in range(3)]
    assert THREE.achieved(state, *named) == [True, False, True]
    assert THREE.achieved(state, *[("MoveTo", "origin")] * 3) == [True, False, False]
    close = spread_state(
        [[0, 0], [TOUCHING - 0.01, 0], [CLEAR + 0.01, 0]], landmarks, [[0, 0], [SLOW + 0.01, 0], [0, 0]]
    )
    assert THREE.achieved(close, *[("MoveTo", "nearest_agent")] * 3) == [True, True, True]
    assert THREE.achieved(close, ("MoveTo", "agent_2"), ("MoveTo", "agent_0"), ("MoveTo", "agent_0")) == [
        False,
        True,
        False,
    ]
    assert THREE.achieved(close, ("KeepAway", "agent_2"), ("KeepAway", "agent_0"), ("KeepAway", "agent_1")) == [
        True,
        False,
        False,
    ]
    assert THREE.achieved(close, *[("Hold", "until_slow")] * 3) == [True, False, True]
    assert THREE.achieved(close, *[("Hold", "until_end")] * 3) == [False, False, False]
    assert THREE.achieved(close, *[("Hold", "until_clear")] * 3) == [False, False, False]
    apart = spread_state([[0, 0], [CLEAR + 0.01, 0], [-1, -1]], landmarks)
    assert THREE.achieved(apart, *[("Hold", "until_clear")] * 3) == [True, True, True]
