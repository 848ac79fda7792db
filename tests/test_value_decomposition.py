"""VDN and QMIX on games whose values and best joint actions are known."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Choice, Masked, OneByOne, Steady, Traced, at_step

from leed_jax.environments import AutoReset
from leed_jax.errors import ConfigurationError
from leed_jax.learning.config import Hparams, QLearningConfig
from leed_jax.learning.q_learning import (
    Transition,
    _loss,
    _targets,
    _transitions,
    act_fn,
    init_q_state,
    make_mixer,
    make_q_chunk,
    q_actor,
)
from leed_jax.learning.replay_buffer import add_rollout, empty_buffer, sample_transitions
from leed_jax.learning.rollout import collect, init_rollout
from leed_jax.networks.config import NetworkConfig
from leed_jax.networks.values import Mixer, QNetwork, QParameters, explore, joint_values

SETTINGS = QLearningConfig(
    learning_rate=1e-2,
    discount=0.5,
    epsilon_end=1.0,
    epsilon_fraction=1 / 400,
    target_rate=0.1,
    max_grad_norm=100.0,
    buffer_size=2048,
    batch_size=64,
    learning_steps=4,
    mixing_size=8,
)
NUM_ENVS, ROLLOUT_STEPS, UPDATES = 16, 4, 10


def hparams(**changes: float) -> Hparams:
    return Hparams(400.0, q_learning=dataclasses.replace(SETTINGS, **changes)).as_arrays()


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


@dataclasses.dataclass
class Learner:
    """Q-learning, compiled: a function that starts it, and a chunk, which uses up the state that it is given."""

    network: QNetwork
    mixer: Mixer
    init: Any
    train_chunk: Any
    chunk: Any


@functools.cache
def learner(environment: Any, kind: str) -> Learner:
    """Agents share one network in `CHOICE`."""
    shared = NetworkConfig(hidden_sizes=(16,), sharing="all" if environment == CHOICE else "none")
    network = QNetwork.of(environment, shared)
    mixer = make_mixer(kind, network, SETTINGS)
    init = jax.jit(functools.partial(init_q_state, environment, network, mixer, NUM_ENVS, ROLLOUT_STEPS, SETTINGS))
    train_chunk = make_q_chunk(environment, network, mixer, ROLLOUT_STEPS, UPDATES)
    return Learner(network, mixer, init, train_chunk, jax.jit(train_chunk, donate_argnums=0))


@functools.cache
def learn(environment: Any, kind: str) -> tuple[Any, Any]:
    own = learner(environment, kind)
    state = own.init(jax.random.key(0))
    for _ in range(40):
        state, metrics = own.chunk(state, None, hparams())
    return state, metrics


def team_values(environment: Any, kind: str, action: Any) -> np.ndarray:
    """The learnt team value of joint actions `[B, A]`, where there is nothing but ones to observe."""
    own = learner(environment, kind)
    parameters = learn(environment, kind)[0].parameters
    obs = jnp.ones((*action.shape, 1))
    value = jnp.take_along_axis(own.network.values(parameters.agents, obs), action[..., None], axis=-1)[..., 0]
    return np.asarray(joint_values(own.mixer, parameters, obs, value, jnp.ones(action.shape, bool)))


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


def test_a_monotonic_function_represents_what_no_sum_can() -> None:
    expected = np.zeros((3, 3))
    expected[1], expected[:, 2], expected[1, 2] = 1, 1, 10
    np.testing.assert_allclose(game_table("qmix"), expected, atol=0.3)


@pytest.mark.parametrize("kind", ["vdn", "qmix"])
def test_agents_find_the_best_joint_action_each_on_its_own(kind: str) -> None:
    actor = q_actor(learner(GAME, kind).network, learn(GAME, kind)[0].parameters)
    available = jnp.ones((5, 2, 3), bool)
    carry, action = actor.select_actions(actor.init(5), jnp.ones((5, 2, 1)), available, jax.random.key(0))
    assert carry == ()
    np.testing.assert_array_equal(action, [[1, 2]] * 5)
    _, second = actor.select_actions((), jnp.ones((5, 2, 1)), available.at[:, 1, 2].set(False), jax.random.key(0))
    assert np.all(np.asarray(second)[:, 1] < 2)


def test_agents_that_share_a_network_learn_what_is_their_own() -> None:
    state, metrics = learn(CHOICE, "vdn")
    actor = q_actor(learner(CHOICE, "vdn").network, state.parameters)
    _, action = actor.select_actions((), jnp.ones((1, 3, 1)), jnp.ones((1, 3, 3), bool), jax.random.key(0))
    np.testing.assert_array_equal(action[0], CHOICE.best_action())
    # Where all actions are random, a third of them earns.
    np.testing.assert_allclose(metrics["return_of_agents"], np.full(3, 1 / 3), atol=0.08)


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


def linear_network(num_actions: int, num_agents: int = 2) -> QNetwork:
    return QNetwork(num_actions, 1, num_agents, NetworkConfig(hidden_sizes=()))


def test_an_actor_that_is_not_greedy_explores() -> None:
    network = linear_network(4)
    parameters = QParameters(drawn(network.init), {})
    inputs = (jnp.ones((4000, 2, 1)), jnp.ones((4000, 2, 4), bool), jax.random.key(1))
    _, greedy = q_actor(network, parameters).select_actions((), *inputs)
    _, sampled = q_actor(network, parameters, False, 0.4).select_actions((), *inputs)
    assert len(np.unique(greedy, axis=0)) == 1
    np.testing.assert_allclose(np.mean(greedy != sampled), 0.4 * 3 / 4, atol=0.03)


def gather(environment: Any, epsilon: float) -> tuple[Any, Any, Any]:
    """Transitions of five steps in two environments, the rollout, and the state after it."""
    network = linear_network(environment.num_actions)
    act = act_fn(network, QParameters(drawn(network.init), {}), epsilon)

    @jax.jit
    def run(key: Any) -> Any:
        wrapped = AutoReset(environment)
        state, rollout = collect(wrapped, act, init_rollout(wrapped, key, 2), key, 5)
        return _transitions(rollout), rollout, state

    return run(jax.random.key(1))


def test_what_was_available_at_a_time_limit_is_not_what_is_in_the_next_episode() -> None:
    transitions, rollout, state = gather(Masked(terminates=False), 0.5)
    by_step = jax.tree.map(lambda x: np.asarray(x).reshape(5, 2, *x.shape[1:]), transitions)
    # Steps come in episodes of four, of which the action with the number of the step, modulo 3, is available.
    np.testing.assert_array_equal(by_step.action[:, 0, 0], [0, 1, 2, 0, 0])
    np.testing.assert_array_equal(by_step.next_available[3, 0], [[False, True, False]] * 2)
    np.testing.assert_array_equal(by_step.next_active, np.ones((5, 2, 2), bool))
    np.testing.assert_array_equal(rollout.done[:, 0], [False, False, False, True, False])
    np.testing.assert_array_equal(rollout.available_actions[4, 0], [[True, False, False]] * 2)
    np.testing.assert_array_equal(rollout.episode_return[3, 0], [4, 8])
    np.testing.assert_array_equal(state.episode_return, [[1, 2]] * 2)


def test_an_agent_that_has_terminated_earns_nothing_for_the_team() -> None:
    transitions, rollout, state = gather(OneByOne(num_agents=2, num_actions=3), 1.0)
    np.testing.assert_array_equal(transitions.reward.reshape(5, 2)[:, 0], [1.5, 1, 1.5, 1, 1.5])
    np.testing.assert_array_equal(transitions.active[:6:2], [[True, True], [False, True], [True, True]])
    np.testing.assert_array_equal(transitions.next_active[:6:2], [[False, True], [False, False], [False, True]])
    np.testing.assert_array_equal(rollout.done[:, 0], [False, True, False, True, False])
    np.testing.assert_array_equal(rollout.episode_return[1, 0], [1, 4])
    np.testing.assert_array_equal(state.episode_return, [[1, 2]] * 2)


# --- targets ----------------------------------------------------------------------------------------------------


def biased(network: QNetwork, biases: Any) -> QParameters:
    """Networks without hidden layers whose values are always the same."""
    zeros = jax.tree.map(jnp.zeros_like, drawn(network.init))
    return QParameters(jax.tree.map(lambda x: jnp.asarray(biases) if x.ndim == 2 else x, zeros), {})


def test_targets_are_what_they_are_by_hand() -> None:
    network, mixer = linear_network(2), Mixer("vdn", 2, 2, 1)
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
    settings = dataclasses.replace(SETTINGS, discount=0.1, reward_scale=100.0)
    found = _targets(network, mixer, online, trailing, batch, settings)
    np.testing.assert_allclose(found, [100 + 2 + 3, 200 + 2, 300, 400 + 1 + 3], rtol=1e-6)

    # The actions taken are worth 1 and 5, and in the last transition agent_0 takes no part any more.
    batch = batch.replace(active=batch.active.at[3, 0].set(False))
    loss, metrics = _loss(network, mixer, online, batch, jnp.array([6.0, 8.0, 6.0, 5.0 - 4.0]))
    np.testing.assert_allclose(loss, 0.5 * (2**2 + 4**2) / 4, rtol=1e-6)
    np.testing.assert_allclose(metrics["q_value"], [1, 5], rtol=1e-6)


@pytest.mark.parametrize("kind", ["vdn", "qmix"])
def test_an_inactive_agent_does_not_count(kind: str) -> None:
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


def test_agents_of_a_group_share_a_network_and_their_index_tells_them_apart() -> None:
    obs = jnp.tile(jnp.array([0.5, -1.0]), (6, 3, 1))
    for agent_id in (False, True):
        shared = NetworkConfig(hidden_sizes=(4,), sharing="groups", groups=(0, 1, 0), agent_id=agent_id)
        network = QNetwork(3, 2, 3, shared)
        parameters = drawn(network.init)
        assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(parameters))
        found = np.asarray(network.values(parameters, obs))
        assert found.shape == (6, 3, 3)
        assert np.allclose(found[:, 0], found[:, 2]) != agent_id
        assert not np.allclose(found[:, 0], found[:, 1])


def test_one_network_for_all_is_that_of_each() -> None:
    shared, single = (
        QNetwork(3, 2, 3, NetworkConfig(hidden_sizes=(4,), sharing=sharing, agent_id=True))
        for sharing in ("all", "none")
    )
    parameters = drawn(shared.init)
    obs = jax.random.normal(jax.random.key(1), (6, 3, 2))
    copies = jax.tree.map(lambda x: jnp.repeat(x, 3, axis=0), parameters)
    assert_close(shared.values(parameters, obs), single.values(copies, obs))


def test_settings_that_cannot_work_are_refused() -> None:
    network, settings = linear_network(3), dataclasses.replace(SETTINGS, buffer_size=100)
    with pytest.raises(ConfigurationError, match="buffer_size=100 has no room"):
        init_q_state(GAME, network, Mixer("vdn", 2, 2, 8), 16, 8, settings, jax.random.key(0))
    with pytest.raises(ConfigurationError, match="'iql'"):
        Mixer("iql", 2, 4, 8)


# --- buffer -----------------------------------------------------------------------------------------------------


def test_new_rounds_take_the_place_of_the_oldest() -> None:
    buffer = empty_buffer({"x": jnp.zeros(2, jnp.int32)}, 3)
    for number in range(5):
        buffer = add_rollout(buffer, {"x": jnp.array([10 * number, 10 * number + 1], jnp.int32)})
    np.testing.assert_array_equal(buffer.content["x"], [[30, 31], [40, 41], [20, 21]])
    assert int(buffer.added) == 5


def test_everything_in_the_buffer_is_sampled_and_nothing_else() -> None:
    buffer = empty_buffer(jnp.zeros(2, jnp.int32), 3)
    for number, expected in enumerate([{1, 2}, {1, 2, 3, 4}, {1, 2, 3, 4, 5, 6}, {3, 4, 5, 6, 7, 8}]):
        buffer = add_rollout(buffer, jnp.array([2 * number + 1, 2 * number + 2], jnp.int32))
        drawn = np.asarray(sample_transitions(buffer, jax.random.key(number), 600)).tolist()
        assert set(drawn) == expected
        assert max(np.bincount(drawn)) < 2 * 600 / len(expected)


# --- the chunk --------------------------------------------------------------------------------------------------


def test_seeds_and_hyperparameters_side_by_side_are_single_runs() -> None:
    own = learner(GAME, "vdn")
    rates, epsilons = [1e-2, 1e-3], [1.0, 0.2]
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(own.init(jax.random.key(seed)) for seed in range(2)))
    swept = jax.tree.map(lambda x: jnp.full(2, x), hparams())
    swept.q_learning.learning_rate, swept.q_learning.epsilon_end = jnp.array(rates), jnp.array(epsilons)
    result, metrics = jax.jit(jax.vmap(own.train_chunk, in_axes=(0, None, 0)))(states, None, swept)
    for index in range(2):
        changed = hparams(learning_rate=rates[index], epsilon_end=epsilons[index])
        alone, _ = own.chunk(own.init(jax.random.key(index)), None, changed)
        assert_close(at_step(result.parameters, index), alone.parameters, 1e-2)
        np.testing.assert_array_equal(result.buffer.content.action[index], alone.buffer.content.action)
    np.testing.assert_allclose(metrics["epsilon"][1], np.full(2, 0.2 + 0.8 / 10), rtol=1e-5)


def test_chunks_are_traced_once_and_donate_their_state() -> None:
    own = learner(GAME, "qmix")
    state, traces = own.init(jax.random.key(0)), []
    for rate in (0.1, 0.2, 0.3):
        given = state
        state, _ = own.chunk(given, None, hparams(target_rate=rate))
        traces.append(len(GAME.traces))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves((given.parameters, given.buffer)))
    assert traces[0] > 0
    assert traces == [traces[0]] * 3
    assert int(state.update) == 30


def test_target_networks_trail_behind() -> None:
    own = learner(GAME, "qmix")
    first = jax.tree.map(np.asarray, own.init(jax.random.key(0)).parameters)
    still, _ = own.chunk(own.init(jax.random.key(0)), None, hparams(target_rate=0.0))
    assert_close(still.target_parameters, first)
    at_once, _ = own.chunk(own.init(jax.random.key(0)), None, hparams(target_rate=1.0))
    assert_close(at_once.target_parameters, at_once.parameters)
    assert not np.allclose(jax.tree.leaves(first.agents)[-1], jax.tree.leaves(at_once.parameters.agents)[-1])


def test_the_learning_rate_falls_to_nothing() -> None:
    own = learner(GAME, "qmix")
    late = own.init(jax.random.key(0)).replace(update=jnp.int32(400))
    before = jax.tree.map(np.asarray, late.parameters)
    assert_close(own.chunk(late, None, hparams())[0].parameters, before)


def test_metrics_are_per_agent() -> None:
    metrics = learn(GAME, "qmix")[1]
    assert set(metrics) == {"return_of_agents", "expert_weight", "td_loss", "epsilon", "q_value"}
    assert all(value.shape == (2,) and np.all(np.isfinite(value)) for value in metrics.values())
    np.testing.assert_array_equal(metrics["expert_weight"], [0, 0])
    np.testing.assert_array_equal(metrics["epsilon"], [1, 1])
    assert metrics["td_loss"][0] == metrics["td_loss"][1]
