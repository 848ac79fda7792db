"""Policy optimisation on probes whose values and best actions are known."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import HPARAMS, Choice, Learner, Preferred, Traced, at_step, hparams, learner

from leed_jax.demonstrations.execution import execute_batch, plan_batch
from leed_jax.envs.mpe_spread import SimpleSpread
from leed_jax.errors import ConfigurationError
from leed_jax.instructions import PrimitiveInstructions, Trajectory, compile_triples, random_plan, stack_plans
from leed_jax.learning.experts import Experts, ExpertSamples, expert_samples, sample_experts
from leed_jax.learning.loss import PolicyOutput, agent_batches
from leed_jax.learning.ppo import make_train_chunk
from leed_jax.learning.rollout import Rollout
from leed_jax.networks.config import NetworkConfig
from leed_jax.networks.policy import Policy

# Nothing but ones to observe; agent i earns 1 for action i + 1, modulo 3. An episode lasts for two rollouts.
CHOICE = Choice(num_agents=3, max_steps=8, terminates=False)


def advice(actions: list[int], size: int = 5, num_actions: int = 3, **changes: Any) -> Experts:
    """Every agent's expert always takes one and the same action, in probes with nothing but ones to observe."""
    agents = len(actions)
    samples = ExpertSamples(
        obs=jnp.ones((1, size, agents, 1)),
        available_actions=jnp.ones((1, size, agents, num_actions), bool),
        action=jnp.tile(jnp.array(actions, jnp.int32), (1, size, 1)),
        valid=jnp.ones((1, size, agents), bool),
        rows=jnp.tile(jnp.arange(size, dtype=jnp.int32), (agents, 1)),
        count=jnp.full(agents, size, jnp.int32),
    )
    return Experts(samples=samples.replace(**changes))


# --- what is learnt ---------------------------------------------------------------------------------------------


def test_the_action_that_earns_is_learnt_and_a_time_limit_does_not_end_the_value() -> None:
    probe = learner(CHOICE)
    state, metrics = probe.learn(300, discount=0.8)
    assert np.all(probe.probabilities(state.parameters)[np.arange(3), CHOICE.best_action()] > 0.95)
    assert np.all(metrics["return_of_agents"] > 0.5 * 8)
    np.testing.assert_allclose(probe.values(state.parameters)[0], np.full(3, 1 / (1 - 0.8)), rtol=0.05)


def test_each_agent_imitates_its_own_expert() -> None:
    probe = learner(CHOICE)
    state, metrics = probe.learn(100, advice([2, 0, 1]), policy_coefficient=0.0)
    assert np.all(probe.probabilities(state.parameters)[[0, 1, 2], [2, 0, 1]] > 0.95)
    assert np.all(metrics["expert_loss"] < 0.5)
    np.testing.assert_allclose(metrics["expert_weight"], np.full(3, 1 - 49.5 / 1000), rtol=1e-5)


def test_invalid_rows_are_not_imitated() -> None:
    probe = learner(CHOICE)
    actions = jnp.tile(jnp.array([2, 0, 1], jnp.int32), (1, 5, 1))
    padding = jnp.arange(5) < 3
    padded = advice(
        [2, 0, 1],
        action=jnp.where(padding[:, None], (actions + 1) % 3, actions),
        rows=jnp.array([[3, 4, 0, 0, 0]] * 3, jnp.int32),
        count=jnp.full(3, 2, jnp.int32),
    )
    state, _ = probe.learn(100, padded, policy_coefficient=0.0)
    assert np.all(probe.probabilities(state.parameters)[[0, 1, 2], [2, 0, 1]] > 0.95)


def test_each_agent_imitates_its_own_plan_where_it_can() -> None:
    environment = PrimitiveInstructions(Preferred())
    probe = learner(environment)
    # Agent 0 has actions 0 and 1 only.
    triples = [("Act", f"action_{action}", f"agent_{agent}") for agent, action in enumerate([3, 0, 1])]
    plans = stack_plans([compile_triples(environment.vocabulary, triples, 2)])
    state, metrics = probe.learn(100, Experts(plans=plans), policy_coefficient=0.0)
    assert np.all(probe.probabilities(state.parameters)[[1, 2], [0, 1]] > 0.95)
    assert np.all(metrics["expert_loss"] < 0.5)
    np.testing.assert_array_equal(metrics["expert_loss"][0], 0.0)
    np.testing.assert_allclose(metrics["expert_weight"], np.full(3, 1 - 49.5 / 1000), rtol=1e-5)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state.parameters))


# --- one update -------------------------------------------------------------------------------------------------


def step(experts: Experts | None = None, state: Any = None, seed: int = 0, **changes: float) -> Any:
    probe = learner(CHOICE)
    return probe.chunk(probe.init(jax.random.key(seed)) if state is None else state, experts, hparams(**changes))[0]


def initial(update: int = 0) -> Any:
    return learner(CHOICE).init(jax.random.key(0)).replace(update=jnp.int32(update))


def same(left: Any, right: Any, agent: int) -> bool:
    pairs = zip(jax.tree.leaves(left.parameters), jax.tree.leaves(right.parameters), strict=True)
    return all(np.array_equal(a[agent], b[agent]) for a, b in pairs)


def assert_close(left: Any, right: Any, tolerance: float = 1e-5) -> None:
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_an_agent_does_not_depend_on_the_expert_of_another() -> None:
    left, right = step(advice([0, 1, 2])), step(advice([0, 2, 2]))
    assert [same(left, right, agent) for agent in range(3)] == [True, False, True]


def test_an_agent_does_not_depend_on_the_parameters_of_another() -> None:
    state = initial()
    changed = jax.tree.map(lambda x: x.at[1].multiply(2.0), state.parameters)
    left, right = step(state=state), step(state=state.replace(parameters=changed))
    assert [same(left, right, agent) for agent in range(3)] == [True, False, True]


def test_experts_without_weight_or_valid_rows_are_as_none() -> None:
    experts = advice([0, 1, 2])
    alone = step(None)
    assert_close(alone.parameters, step(experts, expert_weight=0.0).parameters)
    assert_close(alone.parameters, step(advice([0, 1, 2], count=jnp.zeros(3, jnp.int32))).parameters)
    assert not same(alone, step(experts), 0)


def test_an_expert_that_has_faded_is_as_none() -> None:
    late = initial(10)
    faded = step(advice([0, 1, 2]), late, expert_decay_fraction=0.01)
    assert_close(step(None, late).parameters, faded.parameters)


def test_the_learning_rate_falls_to_nothing() -> None:
    half = step(state=initial(500), learning_rate_decay=1.0)
    assert_close(half.parameters, step(state=initial(500), learning_rate=HPARAMS.ppo.learning_rate / 2).parameters)
    stopped = step(state=initial(1000), learning_rate_decay=1.0)
    assert all(same(initial(), stopped, agent) for agent in range(3))
    assert not same(initial(), step(state=initial(1000)), 0)


def test_schedules_start_at_the_first_update_that_they_are_given() -> None:
    probe, settings = learner(CHOICE), hparams(learning_rate_decay=1.0, entropy_coefficient=0.5, entropy_decay=1.0)
    settings.first_update = jnp.float32(400)
    experts = advice([0, 1, 2])
    later, metrics = probe.chunk(initial(900), experts, settings)
    settings.first_update = jnp.float32(0)
    earlier, expected = probe.chunk(initial(500), experts, settings)
    assert_close(later.parameters, earlier.parameters)
    np.testing.assert_allclose(metrics["expert_weight"], np.full(3, 0.5), rtol=1e-6)
    np.testing.assert_array_equal(metrics["expert_weight"], expected["expert_weight"])


def test_the_entropy_bonus_falls_to_nothing() -> None:
    half = step(state=initial(500), entropy_coefficient=0.5, entropy_decay=1.0)
    assert_close(half.parameters, step(state=initial(500), entropy_coefficient=0.25).parameters)
    assert not same(half, step(state=initial(500), entropy_coefficient=0.5), 0)
    gone = step(state=initial(1000), entropy_coefficient=0.5, entropy_decay=1.0)
    assert_close(gone.parameters, step(state=initial(1000), entropy_coefficient=0.0).parameters)


def test_everything_is_stacked_by_agent() -> None:
    state = step()
    leaves = jax.tree.leaves((state.parameters, state.optimiser_state))
    assert all(leaf.shape[0] == 3 for leaf in leaves)
    assert int(state.update) == 1


def test_seeds_and_hyperparameters_side_by_side_are_single_runs() -> None:
    probe = learner(CHOICE)
    experts, rates, weights = advice([0, 1, 2]), [1e-3, 1e-2], [0.5, 0.0]
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(probe.init(jax.random.key(seed)) for seed in range(2)))
    swept = jax.tree.map(lambda x: jnp.full(2, x), hparams())
    swept.ppo.learning_rate, swept.expert.weight = jnp.array(rates), jnp.array(weights)
    result, metrics = jax.jit(jax.vmap(probe.train_chunk, in_axes=(0, None, 0)))(states, experts, swept)
    np.testing.assert_allclose(metrics["expert_weight"], np.tile(np.array(weights)[:, None], 3))
    for index in range(2):
        alone = step(experts, seed=index, learning_rate=rates[index], expert_weight=weights[index])
        assert_close(at_step(result.parameters, index), alone.parameters)
        assert not np.allclose(jax.tree.leaves(alone.parameters)[1], jax.tree.leaves(states.parameters)[1][1 - index])


def test_chunks_are_traced_once_donate_their_state_and_are_as_many_single_updates() -> None:
    environment, probe = Traced(CHOICE), learner(CHOICE)
    donating = jax.jit(make_train_chunk(environment, probe.policy, 4, 2), donate_argnums=0)
    state = expected = probe.init(jax.random.key(0))
    state, traces = jax.tree.map(jnp.copy, state), []
    for rate in (0.01, 0.02):
        given = state
        state, metrics = donating(given, None, hparams(learning_rate=rate))
        rows = []
        for _ in range(2):
            expected, row = probe.chunk(expected, None, hparams(learning_rate=rate))
            rows.append(row)
        traces.append(len(environment.traces))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given.parameters))
        assert_close(metrics.pop("return_of_agents"), rows[1].pop("return_of_agents"))
        del rows[0]["return_of_agents"]  # no episode ended
        assert_close(metrics, jax.tree.map(lambda a, b: (a + b) / 2, *rows))
    assert traces[0] == traces[1] > 0
    assert int(state.update) == 4
    assert_close(state.parameters, expected.parameters)


# --- metrics ----------------------------------------------------------------------------------------------------


def test_metrics_are_per_agent() -> None:
    probe = learner(CHOICE)
    names = {"surrogate_loss", "value_loss", "entropy", "approximate_kl", "expert_weight", "return_of_agents"}
    for experts, more, weight in ((None, set(), 0.0), (advice([0, 1, 2]), {"expert_loss"}, 1.0)):
        state, first = probe.chunk(probe.init(jax.random.key(0)), experts, hparams())
        assert set(first) == names | more
        np.testing.assert_allclose(first["expert_weight"], np.full(3, weight))
        np.testing.assert_allclose(first["entropy"], np.log(3), rtol=0.02)
        # An episode ends in every second update.
        np.testing.assert_array_equal(first.pop("return_of_agents"), np.full(3, np.nan))
        assert all(value.shape == (3,) and np.all(np.isfinite(value)) for value in first.values())
        state, second = probe.chunk(state, experts, hparams())
        assert np.all((second["return_of_agents"] > 0) & (second["return_of_agents"] < 8))
        assert np.all(np.isnan(probe.chunk(state, experts, hparams())[1]["return_of_agents"]))


# --- arrangement ------------------------------------------------------------------------------------------------


sample = jax.jit(sample_experts, static_argnums=2)


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
    np.testing.assert_array_equal(samples.obs[..., 0], samples.action)
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
    drawn = sample(samples, jax.random.key(0), 200)
    assert set(np.asarray(drawn.action[0, 0]).tolist()) == {0, 2, 6}
    assert set(np.asarray(drawn.action[1, 0]).tolist()) == {1, 7, 9}
    np.testing.assert_array_equal(drawn.obs[..., 0], drawn.action)
    np.testing.assert_array_equal(drawn.weight, np.ones((2, 1, 200)))


def test_agents_with_the_same_valid_rows_learn_from_the_same_steps() -> None:
    every = jnp.ones((2, 3, 2), bool)
    drawn = sample(expert_samples(demonstrations(every, every)), jax.random.key(0), 64)
    np.testing.assert_array_equal(drawn.action[1], drawn.action[0] + 1)
    assert len(np.unique(drawn.action[0])) == 6


def test_an_agent_without_a_valid_row_learns_nothing() -> None:
    active = jnp.ones((2, 3, 2), bool).at[..., 1].set(False)
    drawn = sample(expert_samples(demonstrations(active, active | True)), jax.random.key(0), 4)
    np.testing.assert_array_equal(drawn.weight, [[[1] * 4], [[0] * 4]])


def test_executing_and_arranging_needs_memory_for_the_result_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = SimpleSpread()
    plan = random_plan(environment.vocabulary, jax.random.key(0), 2)
    batch = plan_batch(stack_plans([plan]), jax.random.key(0), 512)
    monkeypatch.setitem(jax.config.values, "jax_disable_most_optimizations", False)
    needed = execute_batch.lower(environment, batch, expert_samples).compile().memory_analysis()
    assert needed.temp_size_in_bytes < 0.5 * needed.output_size_in_bytes


@pytest.mark.parametrize(("memory", "message"), [("none", "the 32 samples"), ("gru", "the 8 environments")])
def test_minibatches_that_do_not_fit_are_refused(memory: str, message: str) -> None:
    policy = Policy.of(CHOICE, NetworkConfig(hidden_sizes=(2,), memory=memory, memory_size=2))
    probe = Learner(CHOICE, policy.network)
    state = jax.eval_shape(probe.init, jax.random.key(0))
    with pytest.raises(ConfigurationError, match=rf"ppo\.minibatches=5: {message}"):
        jax.eval_shape(functools.partial(probe.train_chunk, experts=None, hparams=hparams(minibatches=5)), state)


def test_for_an_agent_that_has_terminated_the_episode_is_over() -> None:
    shape = (3, 1, 2)
    policy = Policy.of(Choice(num_actions=2), NetworkConfig())

    def batches(last_reward: float) -> Any:
        zeros = jnp.zeros(shape)
        rollout = Rollout(
            obs=zeros[..., None],
            available_actions=jnp.ones((*shape, 2), bool),
            action=zeros.astype(jnp.int32),
            reward=zeros.at[2].set(last_reward),
            terminated=jnp.array([[[True, False]], [[True, False]], [[True, False]]]),
            done=jnp.array([[False], [False], [True]]),
            is_first=jnp.array([[True], [False], [False]]),
            active=jnp.array([[[True, True]], [[False, True]], [[False, True]]]),
            episode_return=zeros,
            final_obs=zeros[..., None],
            final_available_actions=jnp.ones((*shape, 2), bool),
            extras=PolicyOutput(log_prob=zeros, value=zeros, next_value=jnp.ones(shape)),
        )
        return jax.jit(lambda rollout: agent_batches(policy, rollout, None, HPARAMS.ppo)[0])(rollout)

    quiet, loud = batches(0.0), batches(100.0)
    np.testing.assert_array_equal(quiet.advantage[0, 0, :2], [0, 0])
    np.testing.assert_array_equal(loud.advantage[0, 0, :2], [0, 0])
    assert np.all(loud.advantage[1] > quiet.advantage[1])
    np.testing.assert_array_equal(loud.target, loud.advantage)
    np.testing.assert_array_equal(loud.weight, [[[1, 0, 0]], [[1, 1, 1]]])
