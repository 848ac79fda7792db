"""Policy optimisation on probes whose values and best actions are known."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import HYPER, Choice, Masked, Nothing, Steady, Traced, at_step

from leed_jax.demonstrations.execution import execute_batch, plan_batch
from leed_jax.envs.mpe_spread import SimpleSpread
from leed_jax.errors import ConfigurationError
from leed_jax.instructions import PrimitiveInstructions, Trajectory, compile_triples, random_plan, stack_plans
from leed_jax.learning.experts import Experts, ExpertSamples, expert_samples, sample_experts
from leed_jax.learning.loss import agent_batches
from leed_jax.learning.ppo import (
    TrainSettings,
    init_state,
    make_train_chunk,
)
from leed_jax.learning.rollout import Rollout, act_all, value_all
from leed_jax.networks.policy import Policy

SETTINGS = TrainSettings(
    num_envs=8, rollout_steps=4, updates_per_chunk=100, epochs=2, minibatches=2, expert_batch_size=16
)
ONE = dataclasses.replace(SETTINGS, updates_per_chunk=1)


@functools.cache
def learner(environment: Any, settings: TrainSettings = SETTINGS) -> tuple[Policy, Any, Any]:
    """The policy, a compiled start and a compiled chunk."""
    policy = Policy.of(environment, hidden_sizes=(16,))
    start = jax.jit(functools.partial(init_state, environment, policy, settings))
    return policy, start, jax.jit(make_train_chunk(environment, policy, settings))


def learn(environment: Any, experts: Experts | None = None, chunks: int = 1, **changes: float) -> tuple[Any, Any]:
    _, start, chunk = learner(environment)
    state = start(jax.random.key(0))
    for _ in range(chunks):
        state, metrics = chunk(state, experts, HYPER.replace(**changes))
    return state, metrics


def constant_observation(environment: Any) -> Any:
    return jnp.ones((1, environment.num_agents, 1))


def values(environment: Any, state: Any, observation: Any = None) -> np.ndarray:
    observation = constant_observation(environment) if observation is None else observation
    nowhere = jnp.zeros(len(observation), bool)
    return np.asarray(value_all(learner(environment)[0], state.parameters, None, observation, nowhere)[1])


def probabilities(environment: Any, state: Any) -> np.ndarray:
    available = jnp.ones((1, environment.num_agents, environment.num_actions), bool)
    policy, observation = learner(environment)[0], constant_observation(environment)
    _, choice = act_all(policy, state.parameters, None, observation, available, jnp.zeros(1, bool))
    return np.asarray(jax.nn.softmax(choice.logits))[0]


def advice(actions: list[int], size: int = 5, num_actions: int = 3, **changes: Any) -> Experts:
    """Every agent's expert always takes one and the same action, in the probes that always look the same."""
    agents = len(actions)
    samples = ExpertSamples(
        observation=jnp.ones((1, size, agents, 1)),
        available_actions=jnp.ones((1, size, agents, num_actions), bool),
        action=jnp.tile(jnp.array(actions, jnp.int32), (1, size, 1)),
        usable=jnp.ones((1, size, agents), bool),
        rows=jnp.tile(jnp.arange(size, dtype=jnp.int32), (agents, 1)),
        count=jnp.full(agents, size, jnp.int32),
    )
    return Experts(samples=samples.replace(**changes))


# --- what is learnt ---------------------------------------------------------------------------------------------


def test_a_single_step_is_worth_its_reward() -> None:
    environment = Steady()
    state, metrics = learn(environment, chunks=2)
    np.testing.assert_allclose(values(environment, state)[0], [1, 2], atol=0.02)
    assert np.all(metrics["value_loss"] < 1e-2)


def test_a_time_limit_does_not_end_the_value() -> None:
    environment = Steady(max_steps=4, terminates=False)
    state, _ = learn(environment, chunks=4, discount=0.8)
    np.testing.assert_allclose(values(environment, state)[0], [1 / (1 - 0.8), 2 / (1 - 0.8)], rtol=0.02)


def test_a_termination_ends_the_value() -> None:
    environment = Steady(max_steps=3, sees_time=True)
    state, _ = learn(environment, chunks=3, discount=0.5)
    steps = jnp.tile(jnp.eye(4)[:3, None], (1, 2, 1))
    found = values(environment, state, steps)
    np.testing.assert_allclose(found, np.outer([1.75, 1.5, 1], [1, 2]), atol=0.05)


def test_the_action_that_earns_is_learnt() -> None:
    environment = Choice(num_agents=4)
    state, metrics = learn(environment)
    best = np.asarray(environment.best_action())
    np.testing.assert_array_equal(np.argmax(probabilities(environment, state), axis=1), best)
    assert np.all(probabilities(environment, state)[np.arange(4), best] > 0.9)
    assert np.all(metrics["return_per_agent"] > 0.5)


def test_each_agent_imitates_its_own_expert() -> None:
    environment = Nothing(num_agents=3)
    state, metrics = learn(environment, advice([2, 0, 1]))
    found = probabilities(environment, state)
    assert np.all(found[[0, 1, 2], [2, 0, 1]] > 0.95)
    assert np.all(metrics["expert_loss"] < 0.5)
    np.testing.assert_allclose(metrics["expert_weight"], np.full(3, 1 - 49.5 / 1000), rtol=1e-5)


def test_each_agent_imitates_what_its_own_plan_says() -> None:
    environment = PrimitiveInstructions(Nothing(num_agents=3))
    triples = [("Act", f"action_{action}", f"agent_{agent}") for agent, action in enumerate([2, 0, 1])]
    plans = stack_plans([compile_triples(environment.vocabulary, triples, 2)])
    state, metrics = learn(environment, Experts(plans=plans))
    found = probabilities(environment, state)
    assert np.all(found[[0, 1, 2], [2, 0, 1]] > 0.95)
    assert np.all(metrics["expert_loss"] < 0.5)
    np.testing.assert_allclose(metrics["expert_weight"], np.full(3, 1 - 49.5 / 1000), rtol=1e-5)


def test_what_a_plan_says_and_nobody_could_do_says_nothing() -> None:
    environment = PrimitiveInstructions(Masked())
    triples = [("Act", "action_0", f"agent_{agent}") for agent in range(2)]
    plans = stack_plans([compile_triples(environment.vocabulary, triples, 1)])
    _policy, start, chunk = learner(environment, ONE)
    state, metrics = chunk(start(jax.random.key(0)), Experts(plans=plans), HYPER.replace(expert_weight=1e3))
    # Only one action at a time is available there: where it is the plan's, it is certain, and elsewhere it is no error.
    np.testing.assert_allclose(metrics["expert_loss"], 0.0, atol=1e-5)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state.parameters))


def test_rows_that_are_not_usable_say_nothing() -> None:
    environment = Nothing(num_agents=3)
    actions = jnp.tile(jnp.array([2, 0, 1], jnp.int32), (1, 5, 1))
    padding = jnp.arange(5) < 3
    padded = advice(
        [2, 0, 1],
        action=jnp.where(padding[:, None], (actions + 1) % 3, actions),
        rows=jnp.array([[3, 4, 0, 0, 0]] * 3, jnp.int32),
        count=jnp.full(3, 2, jnp.int32),
    )
    state, _ = learn(environment, padded)
    assert np.all(probabilities(environment, state)[[0, 1, 2], [2, 0, 1]] > 0.95)


# --- one update -------------------------------------------------------------------------------------------------

CHOICE = Choice(num_agents=3)


def step(experts: Experts | None = None, start: Any = None, seed: int = 0, **changes: float) -> Any:
    _, begin, chunk = learner(CHOICE, ONE)
    return chunk(begin(jax.random.key(seed)) if start is None else start, experts, HYPER.replace(**changes))[0]


def same(left: Any, right: Any, agent: int) -> bool:
    pairs = zip(jax.tree.leaves(left.parameters), jax.tree.leaves(right.parameters), strict=True)
    return all(np.array_equal(a[agent], b[agent]) for a, b in pairs)


def assert_close(left: Any, right: Any, tolerance: float = 1e-5) -> None:
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_another_agents_expert_is_none_of_ones_business() -> None:
    left, right = step(advice([0, 1, 2])), step(advice([0, 2, 2]))
    assert [same(left, right, agent) for agent in range(3)] == [True, False, True]


def test_another_agents_parameters_are_none_of_ones_business() -> None:
    state = learner(CHOICE, ONE)[1](jax.random.key(0))
    changed = jax.tree.map(lambda x: x.at[1].multiply(2.0), state.parameters)
    left, right = step(start=state), step(start=state.replace(parameters=changed))
    assert [same(left, right, agent) for agent in range(3)] == [True, False, True]


def test_experts_without_weight_or_usable_rows_are_as_none() -> None:
    experts = advice([0, 1, 2])
    alone = step(None)
    assert_close(alone.parameters, step(experts, expert_weight=0.0).parameters)
    assert_close(alone.parameters, step(advice([0, 1, 2], count=jnp.zeros(3, jnp.int32))).parameters)
    assert not same(alone, step(experts), 0)


def test_an_expert_that_has_faded_is_as_none() -> None:
    late = learner(CHOICE, ONE)[1](jax.random.key(0)).replace(update=jnp.int32(10))
    faded = step(advice([0, 1, 2]), late, expert_decay_updates=10.0)
    assert_close(step(None, late).parameters, faded.parameters)


def test_the_learning_rate_falls_to_nothing() -> None:
    late = learner(CHOICE, ONE)[1](jax.random.key(0)).replace(update=jnp.int32(500))
    half = step(start=late, learning_rate_decay=1.0)
    assert_close(half.parameters, step(start=late, learning_rate=HYPER.learning_rate / 2).parameters)
    last = late.replace(update=jnp.int32(1000))
    stopped = step(start=last, learning_rate_decay=1.0)
    assert all(same(last, stopped, agent) for agent in range(3))
    assert not same(last, step(start=last), 0)


def test_the_entropy_bonus_falls_to_nothing() -> None:
    late = learner(CHOICE, ONE)[1](jax.random.key(0)).replace(update=jnp.int32(500))
    half = step(start=late, entropy_coefficient=0.5, entropy_decay=1.0)
    assert_close(half.parameters, step(start=late, entropy_coefficient=0.25).parameters)
    assert not same(half, step(start=late, entropy_coefficient=0.5), 0)
    last = late.replace(update=jnp.int32(1000))
    gone = step(start=last, entropy_coefficient=0.5, entropy_decay=1.0)
    assert_close(gone.parameters, step(start=last, entropy_coefficient=0.0).parameters)


def test_everything_is_stacked_by_agent() -> None:
    state = step()
    leaves = jax.tree.leaves((state.parameters, state.optimiser_state))
    assert all(leaf.shape[0] == 3 for leaf in leaves)
    assert int(state.update) == 1


def test_seeds_and_hyperparameters_side_by_side_are_single_runs() -> None:
    _, begin, chunk = learner(CHOICE, ONE)
    experts, rates, weights = advice([0, 1, 2]), [1e-3, 1e-2], [0.5, 0.0]
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(begin(jax.random.key(seed)) for seed in range(2)))
    hyper = jax.tree.map(lambda x: jnp.full(2, x), HYPER)
    hyper = hyper.replace(learning_rate=jnp.array(rates), expert_weight=jnp.array(weights))
    swept, metrics = jax.jit(jax.vmap(chunk, in_axes=(0, None, 0)))(states, experts, hyper)
    np.testing.assert_allclose(metrics["expert_weight"], np.tile(np.array(weights)[:, None], 3))
    for index in range(2):
        alone = step(experts, seed=index, learning_rate=rates[index], expert_weight=weights[index])
        assert_close(at_step(swept.parameters, index), alone.parameters)
        assert not np.allclose(jax.tree.leaves(alone.parameters)[1], jax.tree.leaves(states.parameters)[1][1 - index])


def test_chunks_are_traced_once_and_give_their_buffers_away() -> None:
    environment = Traced(CHOICE)
    policy, begin, chunk = learner(CHOICE, ONE)
    donating = jax.jit(make_train_chunk(environment, policy, ONE), donate_argnums=0)
    state, expected = begin(jax.random.key(0)), begin(jax.random.key(0))
    traces = []
    for _ in range(3):
        given = state
        state, _ = donating(given, None, HYPER)
        expected, _ = chunk(expected, None, HYPER)
        traces.append(len(environment.traces))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given.parameters))
    assert traces[0] > 0
    assert traces == [traces[0]] * 3
    assert_close(state.parameters, expected.parameters)


# --- metrics ----------------------------------------------------------------------------------------------------


def test_metrics_are_per_agent() -> None:
    _, begin, chunk = learner(CHOICE, ONE)
    losses = {"surrogate_loss", "value_loss", "entropy", "approximate_kl", "expert_weight", "return_per_agent"}
    _, alone = chunk(begin(jax.random.key(0)), None, HYPER)
    _, taught = chunk(begin(jax.random.key(0)), advice([0, 1, 2]), HYPER)
    assert set(alone) == losses
    assert set(taught) == losses | {"expert_loss"}
    for metrics in (alone, taught):
        assert all(value.shape == (3,) and np.all(np.isfinite(value)) for value in metrics.values())
    np.testing.assert_array_equal(alone["expert_weight"], np.zeros(3))
    np.testing.assert_allclose(taught["expert_weight"], np.ones(3))
    np.testing.assert_allclose(alone["entropy"], np.log(3), rtol=0.02)


def test_the_return_is_that_of_the_episodes_that_ended() -> None:
    _, begin, chunk = learner(Steady(max_steps=8, terminates=False), ONE)
    state = begin(jax.random.key(0))
    # An update is half an episode long.
    for expected in ([np.nan] * 2, [8, 16], [np.nan] * 2, [8, 16]):
        state, metrics = chunk(state, None, HYPER)
        np.testing.assert_allclose(metrics["return_per_agent"], expected, rtol=1e-6)


# --- arrangement ------------------------------------------------------------------------------------------------


def demonstrations(active: Any, possible: Any) -> Trajectory:
    """Two episodes of three steps of two agents, with all actions different."""
    shape = (2, 3, 2)
    count = jnp.arange(12).reshape(shape)
    return Trajectory(
        observation=count[..., None].astype(jnp.float32),
        action=count,
        taken=count,
        reward=jnp.zeros(shape),
        available_actions=jnp.broadcast_to(possible[..., None], (*shape, 12)),
        active=active,
        terminated=jnp.zeros(shape, bool),
    )


def test_demonstrations_become_a_row_for_each_step() -> None:
    samples = expert_samples(demonstrations(jnp.ones((2, 3, 2), bool), jnp.ones((2, 3, 2), bool)))
    np.testing.assert_array_equal(samples.action, [[[0, 1], [6, 7], [2, 3], [8, 9], [4, 5], [10, 11]]])
    np.testing.assert_array_equal(samples.observation[..., 0], samples.action)
    np.testing.assert_array_equal(samples.rows, [np.arange(6)] * 2)
    np.testing.assert_array_equal(samples.count, [6, 6])
    assert samples.available_actions.shape == (1, 6, 2, 12)


def test_padding_and_actions_that_were_not_available_are_never_drawn() -> None:
    # Agent 0 acts for two steps of the first episode and one of the second; agent 1 for one and three, but the last of
    # these is not possible.
    active = jnp.array([[[1, 1], [1, 0], [0, 0]], [[1, 1], [0, 1], [0, 1]]], bool)
    possible = jnp.ones((2, 3, 2), bool).at[1, 2, 1].set(False)
    samples = expert_samples(demonstrations(active, possible))
    np.testing.assert_array_equal(samples.count, [3, 3])
    drawn = sample_experts(samples, jax.random.key(0), 200)
    assert set(np.asarray(drawn.action[0, 0]).tolist()) == {0, 2, 6}
    assert set(np.asarray(drawn.action[1, 0]).tolist()) == {1, 7, 9}
    np.testing.assert_array_equal(drawn.observation[..., 0], drawn.action)
    np.testing.assert_array_equal(drawn.weight, np.ones((2, 1, 200)))


def test_agents_with_the_same_usable_rows_learn_from_the_same_steps() -> None:
    every = jnp.ones((2, 3, 2), bool)
    drawn = sample_experts(expert_samples(demonstrations(every, every)), jax.random.key(0), 64)
    np.testing.assert_array_equal(drawn.action[1], drawn.action[0] + 1)
    assert len(np.unique(drawn.action[0])) == 6


def test_an_agent_without_a_usable_row_learns_nothing() -> None:
    active = jnp.ones((2, 3, 2), bool).at[..., 1].set(False)
    drawn = sample_experts(expert_samples(demonstrations(active, active | True)), jax.random.key(0), 4)
    np.testing.assert_array_equal(drawn.weight, [[[1] * 4], [[0] * 4]])


def test_executing_and_arranging_needs_room_for_the_tables_alone() -> None:
    environment = SimpleSpread()
    plan = random_plan(environment.vocabulary, jax.random.key(0), 2)
    batch = plan_batch(stack_plans([plan]), jax.random.key(0), 512)
    needed = execute_batch.lower(environment, batch, expert_samples).compile().memory_analysis()
    assert needed.temp_size_in_bytes < 0.5 * needed.output_size_in_bytes


def test_minibatches_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="minibatches=4"):
        TrainSettings(num_envs=3, rollout_steps=5, minibatches=4)


def test_for_an_agent_that_has_terminated_the_episode_is_over() -> None:
    shape = (3, 1, 2)

    def batches(last_reward: float) -> Any:
        zeros = jnp.zeros(shape)
        rollout = Rollout(
            seen=zeros[..., None],
            seen_by_all=None,
            available_actions=jnp.ones((*shape, 2), bool),
            action=zeros.astype(jnp.int32),
            log_prob=zeros,
            value=zeros,
            next_value=jnp.ones(shape),
            reward=zeros.at[2].set(last_reward),
            terminated=jnp.array([[[True, False]], [[True, False]], [[True, False]]]),
            episode_over=jnp.array([[False], [False], [True]]),
            episode_return=zeros,
            start=jnp.array([[True], [False], [False]]),
            active=jnp.array([[[True, True]], [[False, True]], [[False, True]]]),
        )
        return agent_batches(rollout, None, HYPER)[0]

    quiet, loud = batches(0.0), batches(100.0)
    np.testing.assert_array_equal(quiet.advantage[0, 0, :2], [0, 0])
    np.testing.assert_array_equal(loud.advantage[0, 0, :2], [0, 0])
    assert np.all(loud.advantage[1] > quiet.advantage[1])
    np.testing.assert_array_equal(loud.target, loud.advantage)
    np.testing.assert_array_equal(loud.weight, [[[1, 0, 0]], [[1, 1, 1]]])
