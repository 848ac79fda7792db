"""VDN and QMIX on games whose values and best joint actions are known."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Choice, Masked, OneByOne, Steady, Traced, at_step

from leed_jax.environments import reset_env
from leed_jax.errors import ConfigurationError
from leed_jax.learning.q_learning import (
    QActors,
    QHyper,
    QSettings,
    Transition,
    _collect,
    _loss,
    _step,
    _targets,
    init_q_state,
    make_q_chunk,
    q_actor,
)
from leed_jax.learning.replay_buffer import add_round, empty_buffer, sample_items
from leed_jax.networks.values import Mixer, QNetwork, QParameters, explore, joint_values

HYPER = QHyper(
    learning_rate=1e-2,
    learning_rate_decay=1.0,
    total_updates=400.0,
    discount=0.5,
    epsilon_start=1.0,
    epsilon_end=1.0,
    epsilon_updates=1.0,
    target_rate=0.1,
    max_grad_norm=100.0,
    reward_scale=1.0,
)
SETTINGS = QSettings(
    num_envs=16,
    rollout_steps=4,
    updates_per_chunk=10,
    buffer_size=2048,
    batch_size=64,
    learning_steps=4,
    mixing_size=8,
)


@dataclasses.dataclass(frozen=True)
class Game(Steady):
    """Two agents earn 1 for each good action, and 8 more if both are good; agent_0's is action 1, agent_1's 2."""

    num_actions: int = 3

    def reward(self, action: Any) -> Any:
        good = (action == jnp.arange(1, 3)).astype(jnp.float32)
        return jnp.full(2, jnp.sum(good) + 8 * jnp.prod(good))


GAME = Traced(Game())
# A time limit ends every episode, but not the value: what is best earns 1 for ever.
CHOICE = Choice(num_agents=3, terminates=False)


@functools.cache
def learner(environment: Any, mixer: str) -> tuple[QNetwork, QSettings, Any, Any]:
    """The network, the settings, a compiled start and a compiled chunk, which uses up the state that it is given.

    The agents share one network in `CHOICE`.
    """
    groups = (0, 0, 0) if environment == CHOICE else ()
    network = QNetwork(
        num_actions=environment.num_actions,
        observation_size=environment.observation_size,
        num_agents=environment.num_agents,
        hidden_sizes=(16,),
        groups=groups,
        agent_id=bool(groups),
    )
    settings = dataclasses.replace(SETTINGS, mixer=mixer)
    start = jax.jit(functools.partial(init_q_state, environment, network, settings))
    return network, settings, start, jax.jit(make_q_chunk(environment, network, settings), donate_argnums=0)


@functools.cache
def learn(environment: Any, mixer: str) -> tuple[Any, Any]:
    _, _, start, chunk = learner(environment, mixer)
    state = start(jax.random.key(0))
    for _ in range(40):
        state, metrics = chunk(state, None, HYPER)
    return state, metrics


def team_values(environment: Any, mixer: str, action: Any) -> np.ndarray:
    """What the team's value of joint actions `[B, A]` was learnt to be, where one always sees the same."""
    network, settings, _, _ = learner(environment, mixer)
    parameters = learn(environment, mixer)[0].parameters
    observation = jnp.ones((*action.shape, 1))
    own = jnp.take_along_axis(network.values(parameters.agents, observation), action[..., None], axis=-1)[..., 0]
    everyone = jnp.ones(action.shape, bool)
    return np.asarray(joint_values(settings.mixer_of(network), parameters, observation, own, everyone))


def game_table(mixer: str) -> np.ndarray:
    actions = np.stack(np.meshgrid(np.arange(3), np.arange(3), indexing="ij"), axis=-1).reshape(9, 2)
    return team_values(GAME, mixer, actions).reshape(3, 3)


def drawn(init: Any) -> Any:
    """Parameters of the shapes that `init(key)` gives, drawn here without compiling it."""
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(random.normal(size=x.shape), jnp.float32), shapes)


def assert_close(left: Any, right: Any, tolerance: float = 1e-5) -> None:
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# --- what is learnt ---------------------------------------------------------------------------------------------


def test_a_sum_comes_as_near_as_a_sum_can() -> None:
    # The least squares fit of r = x + y + 8 x y by a sum, where x and y are 1 in a third of the cases.
    expected = np.full((3, 3), -8 / 9)
    expected[1] += 11 / 3
    expected[:, 2] += 11 / 3
    np.testing.assert_allclose(game_table("vdn"), expected, atol=0.6)


def test_a_monotonic_function_tells_what_no_sum_can() -> None:
    expected = np.zeros((3, 3))
    expected[1], expected[:, 2], expected[1, 2] = 1, 1, 10
    np.testing.assert_allclose(game_table("qmix"), expected, atol=0.3)


@pytest.mark.parametrize("mixer", ["vdn", "qmix"])
def test_agents_find_the_best_joint_action_each_on_its_own(mixer: str) -> None:
    network, _, _, _ = learner(GAME, mixer)
    actor = q_actor(network, learn(GAME, mixer)[0].parameters)
    available = jnp.ones((5, 2, 3), bool)
    memory, action = actor.choose(jax.random.key(0), actor.start(5), jnp.ones((5, 2, 1)), available)
    assert memory == ()
    np.testing.assert_array_equal(action, [[1, 2]] * 5)
    _, second = actor.choose(jax.random.key(0), (), jnp.ones((5, 2, 1)), available.at[:, 1, 2].set(False))
    assert np.all(np.asarray(second)[:, 1] < 2)


def test_agents_that_share_a_network_learn_what_is_their_own() -> None:
    network, _, _, _ = learner(CHOICE, "vdn")
    state, metrics = learn(CHOICE, "vdn")
    _, action = q_actor(network, state.parameters).choose(
        jax.random.key(0), (), jnp.ones((1, 3, 1)), jnp.ones((1, 3, 3), bool)
    )
    np.testing.assert_array_equal(action[0], CHOICE.best_action())
    # Where all actions are random, a third of them earns.
    np.testing.assert_allclose(metrics["return_per_agent"], np.full(3, 1 / 3), atol=0.08)


def test_a_time_limit_does_not_end_the_value() -> None:
    found = team_values(CHOICE, "vdn", np.array([[1, 2, 0], [0, 2, 0], [2, 0, 1]]))
    np.testing.assert_allclose(found, [1 / (1 - 0.5), 2 / 3 + 1, 0 + 1], atol=0.05)


# --- acting -----------------------------------------------------------------------------------------------------


def test_exploration_takes_any_action_that_is_available() -> None:
    values = jnp.tile(jnp.array([3.0, 2.0, 1.0, 9.0]), (4000, 2, 1))
    available = jnp.ones(values.shape, bool).at[..., 3].set(False)
    for epsilon in (0.0, 0.3, 1.0):
        action = np.asarray(explore(values, available, epsilon, jax.random.key(0)))
        for agent in range(2):
            shares = np.bincount(action[:, agent], minlength=4) / 4000
            np.testing.assert_allclose(shares, [1 - 2 * epsilon / 3, epsilon / 3, epsilon / 3, 0], atol=0.03)
    # The agents explore independently of each other.
    assert np.mean(action[:, 0] == action[:, 1]) < 0.4


def test_a_chooser_that_is_not_greedy_explores() -> None:
    network = QNetwork(num_actions=4, observation_size=1, num_agents=2, hidden_sizes=())
    parameters = QParameters(drawn(network.init), {})
    seen = (jnp.ones((4000, 2, 1)), jnp.ones((4000, 2, 4), bool))
    _, greedy = q_actor(network, parameters).choose(jax.random.key(1), (), *seen)
    _, sampled = q_actor(network, parameters, False, 0.4).choose(jax.random.key(1), (), *seen)
    assert len(np.unique(greedy, axis=0)) == 1
    np.testing.assert_allclose(np.mean(greedy != sampled), 0.4 * 3 / 4, atol=0.03)


def actors_of(environment: Any, num_envs: int = 1) -> QActors:
    state, first = jax.vmap(lambda key: reset_env(environment, key))(jax.random.split(jax.random.key(0), num_envs))
    active = jnp.ones((num_envs, environment.num_agents), bool)
    return QActors(state, first.observation, first.available_actions, active, jnp.zeros(active.shape))


def test_what_was_available_at_a_time_limit_is_not_what_is_in_the_next_episode() -> None:
    environment = Masked(terminates=False, sees_time=True)
    actors = at_step(actors_of(environment), 0)
    for _ in range(4):
        actors, (transition, ended) = _step(environment, actors, jnp.zeros(2, jnp.int32), jax.random.key(0))
    assert bool(ended.episode_over)
    np.testing.assert_array_equal(transition.next_available, [[False, True, False]] * 2)
    np.testing.assert_array_equal(transition.next_observation, [[0, 0, 0, 0, 1]] * 2)
    np.testing.assert_array_equal(transition.next_active, [True, True])
    np.testing.assert_array_equal(ended.episode_return, [4, 8])
    np.testing.assert_array_equal(actors.available_actions, [[True, False, False]] * 2)
    np.testing.assert_array_equal(actors.observation, [[1, 0, 0, 0, 0]] * 2)
    np.testing.assert_array_equal(actors.running_return, [0, 0])


def test_only_actions_that_are_available_are_taken_and_only_agents_that_take_part_earn() -> None:
    masked = Masked(terminates=False)
    network = QNetwork(num_actions=3, observation_size=1, num_agents=2, hidden_sizes=())
    settings = dataclasses.replace(SETTINGS, num_envs=2, rollout_steps=5, mixer="vdn")
    parameters = QParameters(drawn(network.init), {})
    _, steps, _ = _collect(masked, network, settings, parameters, actors_of(masked, 2), 0.5, jax.random.key(1))
    np.testing.assert_array_equal(steps.action.reshape(5, 4), np.tile([[0], [1], [2], [0], [0]], 4))

    staged = OneByOne(num_agents=2, num_actions=3)
    actors, steps, ended = _collect(staged, network, settings, parameters, actors_of(staged, 2), 1.0, jax.random.key(1))
    np.testing.assert_array_equal(steps.reward.reshape(5, 2)[:, 0], [1.5, 1, 1.5, 1, 1.5])
    np.testing.assert_array_equal(steps.active[:6:2], [[True, True], [False, True], [True, True]])
    np.testing.assert_array_equal(steps.next_active[:6:2], [[False, True], [False, False], [False, True]])
    np.testing.assert_array_equal(ended.episode_over[:, 0], [False, True, False, True, False])
    np.testing.assert_array_equal(ended.episode_return[1, 0], [1, 4])
    np.testing.assert_array_equal(actors.running_return, [[1, 2]] * 2)


# --- targets ----------------------------------------------------------------------------------------------------


def biased(network: QNetwork, biases: Any) -> QParameters:
    """Networks without hidden layers that always tell the same values."""
    zeros = jax.tree.map(jnp.zeros_like, drawn(network.init))
    return QParameters(jax.tree.map(lambda x: jnp.asarray(biases) if x.ndim == 2 else x, zeros), {})


def test_targets_are_what_they_are_by_hand() -> None:
    network = QNetwork(num_actions=2, observation_size=1, num_agents=2, hidden_sizes=())
    online = biased(network, [[1.0, 3.0], [5.0, 2.0]])
    trailing = biased(network, [[10.0, 20.0], [30.0, 40.0]])
    active = jnp.array([[True, True], [True, False], [False, False], [True, True]])
    batch = Transition(
        observation=jnp.ones((4, 2, 1)),
        action=jnp.zeros((4, 2), jnp.int32),
        reward=jnp.array([1.0, 2.0, 3.0, 4.0]),
        active=jnp.ones((4, 2), bool),
        next_observation=jnp.ones((4, 2, 1)),
        next_available=jnp.ones((4, 2, 2), bool).at[3, 0, 1].set(False),
        next_active=active,
    )
    hyper = HYPER.replace(discount=0.1, reward_scale=100.0)
    settings = dataclasses.replace(SETTINGS, mixer="vdn")
    found = _targets(network, settings, online, trailing, batch, hyper)
    np.testing.assert_allclose(found, [100 + 2 + 3, 200 + 2, 300, 400 + 1 + 3], rtol=1e-6)

    # The actions taken are worth 1 and 5, and in the last transition agent_0 takes no part any more.
    batch = batch.replace(active=batch.active.at[3, 0].set(False))
    loss, metrics = _loss(network, settings, online, batch, jnp.array([6.0, 8.0, 6.0, 5.0 - 4.0]))
    np.testing.assert_allclose(loss, 0.5 * (2**2 + 4**2) / 4, rtol=1e-6)
    np.testing.assert_allclose(metrics["q_value"], [1, 5], rtol=1e-6)


@pytest.mark.parametrize("kind", ["vdn", "qmix"])
def test_who_takes_no_part_does_not_count(kind: str) -> None:
    mixer = Mixer(kind, num_agents=2, state_size=4, size=3)
    parameters = QParameters({}, drawn(mixer.init))
    observation = jax.random.normal(jax.random.key(1), (5, 2, 2))
    total = functools.partial(joint_values, mixer, parameters, observation)
    everyone, first = jnp.ones((5, 2), bool), jnp.array([[True, False]] * 5)
    alone = total(jnp.array([[1.0, 7.0]] * 5), first)
    np.testing.assert_array_equal(alone, total(jnp.array([[1.0, -3.0]] * 5), first))
    np.testing.assert_array_equal(alone, total(jnp.array([[1.0, 0.0]] * 5), everyone))
    assert np.all(alone < total(jnp.array([[1.0, 7.0]] * 5), everyone))


# --- sharing ----------------------------------------------------------------------------------------------------


def test_agents_of_a_group_share_a_network_and_their_names_tell_them_apart() -> None:
    shape = {"num_actions": 3, "observation_size": 2, "num_agents": 3, "hidden_sizes": (4,)}
    observation = jnp.tile(jnp.array([0.5, -1.0]), (6, 3, 1))
    for agent_id in (False, True):
        network = QNetwork(**shape, groups=(0, 1, 0), agent_id=agent_id)
        parameters = drawn(network.init)
        assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(parameters))
        found = np.asarray(network.values(parameters, observation))
        assert found.shape == (6, 3, 3)
        assert np.allclose(found[:, 0], found[:, 2]) != agent_id
        assert not np.allclose(found[:, 0], found[:, 1])


def test_one_network_for_all_is_that_of_each() -> None:
    shape = {"num_actions": 3, "observation_size": 2, "num_agents": 3, "hidden_sizes": (4,), "agent_id": True}
    shared, single = QNetwork(**shape, groups=(0, 0, 0)), QNetwork(**shape)
    parameters = drawn(shared.init)
    observation = jax.random.normal(jax.random.key(1), (6, 3, 2))
    copies = jax.tree.map(lambda x: jnp.repeat(x, 3, axis=0), parameters)
    assert_close(shared.values(parameters, observation), single.values(copies, observation))


@pytest.mark.parametrize("groups", [(0, 0), (0, 2, 2), (1, 1, 1), (0, 0, -1)])
def test_groups_that_do_not_fit_are_refused(groups: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError, match="groups="):
        QNetwork(num_actions=2, observation_size=1, num_agents=3, groups=groups)


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="buffer_size=100 has no room"):
        QSettings(num_envs=16, rollout_steps=8, buffer_size=100)
    with pytest.raises(ConfigurationError, match="'iql'"):
        Mixer("iql", 2, 4, 8)


# --- memory -----------------------------------------------------------------------------------------------------


def test_new_rounds_take_the_place_of_the_oldest() -> None:
    buffer = empty_buffer({"x": jnp.zeros(2, jnp.int32)}, 3)
    for number in range(5):
        buffer = add_round(buffer, {"x": jnp.array([10 * number, 10 * number + 1], jnp.int32)})
    np.testing.assert_array_equal(buffer.content["x"], [[30, 31], [40, 41], [20, 21]])
    assert int(buffer.added) == 5


def test_all_that_is_remembered_is_drawn_and_nothing_else() -> None:
    buffer = empty_buffer(jnp.zeros(2, jnp.int32), 3)
    for number, expected in enumerate([{1, 2}, {1, 2, 3, 4}, {1, 2, 3, 4, 5, 6}, {3, 4, 5, 6, 7, 8}]):
        buffer = add_round(buffer, jnp.array([2 * number + 1, 2 * number + 2], jnp.int32))
        drawn = np.asarray(sample_items(buffer, jax.random.key(number), 600)).tolist()
        assert set(drawn) == expected
        assert max(np.bincount(drawn)) < 2 * 600 / len(expected)


# --- the chunk --------------------------------------------------------------------------------------------------


def test_seeds_and_hyperparameters_side_by_side_are_single_runs() -> None:
    network, settings, start, chunk = learner(GAME, "vdn")
    rates, epsilons = [1e-2, 1e-3], [1.0, 0.2]
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(start(jax.random.key(seed)) for seed in range(2)))
    hyper = jax.tree.map(lambda x: jnp.full(2, x), HYPER)
    hyper = hyper.replace(learning_rate=jnp.array(rates), epsilon_end=jnp.array(epsilons))
    swept, metrics = jax.jit(jax.vmap(make_q_chunk(GAME, network, settings), in_axes=(0, None, 0)))(states, None, hyper)
    for index in range(2):
        changed = HYPER.replace(learning_rate=rates[index], epsilon_end=epsilons[index])
        alone, _ = chunk(start(jax.random.key(index)), None, changed)
        assert_close(at_step(swept.parameters, index), alone.parameters, 1e-2)
        np.testing.assert_array_equal(swept.buffer.content.action[index], alone.buffer.content.action)
    np.testing.assert_allclose(metrics["epsilon"][1], np.full(2, 0.2 + 0.8 / 10), rtol=1e-5)


def test_chunks_are_traced_once_and_give_their_buffers_away() -> None:
    _, _, start, chunk = learner(GAME, "qmix")
    state, traces = start(jax.random.key(0)), []
    for _ in range(3):
        given = state
        state, _ = chunk(given, None, HYPER)
        traces.append(len(GAME.traces))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves((given.parameters, given.buffer)))
    assert traces[0] > 0
    assert traces == [traces[0]] * 3
    assert int(state.update) == 30


def test_target_networks_trail_behind() -> None:
    _, _, start, chunk = learner(GAME, "qmix")
    first = jax.tree.map(np.asarray, start(jax.random.key(0)).parameters)
    still, _ = chunk(start(jax.random.key(0)), None, HYPER.replace(target_rate=0.0))
    assert_close(still.target_parameters, first)
    at_once, _ = chunk(start(jax.random.key(0)), None, HYPER.replace(target_rate=1.0))
    assert_close(at_once.target_parameters, at_once.parameters)
    assert not np.allclose(jax.tree.leaves(first.agents)[-1], jax.tree.leaves(at_once.parameters.agents)[-1])


def test_the_learning_rate_falls_to_nothing() -> None:
    _, _, start, chunk = learner(GAME, "qmix")
    late = start(jax.random.key(0)).replace(update=jnp.int32(400))
    before = jax.tree.map(np.asarray, late.parameters)
    assert_close(chunk(late, None, HYPER)[0].parameters, before)


def test_metrics_are_per_agent() -> None:
    metrics = learn(GAME, "qmix")[1]
    assert set(metrics) == {"return_per_agent", "expert_weight", "td_loss", "epsilon", "q_value"}
    assert all(value.shape == (2,) and np.all(np.isfinite(value)) for value in metrics.values())
    np.testing.assert_array_equal(metrics["expert_weight"], [0, 0])
    np.testing.assert_array_equal(metrics["epsilon"], [1, 1])
    assert metrics["td_loss"][0] == metrics["td_loss"][1]
