"""Experience from parallel environments."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Choice, Learner, Line, Masked, Steady

from leed_jax.environments import AutoReset
from leed_jax.errors import ConfigurationError
from leed_jax.instructions import compile_triples, stack_plans
from leed_jax.learning.ppo import act_fn
from leed_jax.learning.rollout import collect, init_rollout
from leed_jax.networks.config import NetworkConfig

TINY = NetworkConfig(hidden_sizes=(4,))


@functools.cache
def learner_of(environment: Any) -> tuple[Learner, Any]:
    probe = Learner(environment, TINY)
    return probe, probe.init(jax.random.key(0)).parameters


def gather(
    environment: Any, steps: int, rollouts: int = 1, num_envs: int = 3, plans: Any = None
) -> tuple[list[Any], list[Any]]:
    """Some rollouts in a row, and the states after each."""
    probe, parameters = learner_of(environment)
    act = act_fn(probe.policy, parameters)
    run = jax.jit(lambda state, key: collect(AutoReset(environment), act, state, key, steps, plans))
    state = jax.jit(lambda key: init_rollout(AutoReset(environment), key, num_envs))(jax.random.key(1))
    states, found = [], []
    for index in range(rollouts):
        state, rollout = run(state, jax.random.key(index))
        states.append(state)
        found.append(rollout)
    return found, states


def test_a_rollout_continues_where_the_last_one_ended() -> None:
    (first, second), _ = gather(Steady(max_steps=3, sees_time=True), 2, rollouts=2)
    done = np.concatenate([first.done, second.done])
    np.testing.assert_array_equal(done, np.tile([[False], [False], [True], [False]], 3))
    is_first = np.concatenate([first.is_first, second.is_first])
    np.testing.assert_array_equal(is_first, np.tile([[True], [False], [False], [True]], 3))
    returns = np.concatenate([first.episode_return, second.episode_return])
    np.testing.assert_array_equal(returns[:, 0], [[1, 2], [2, 4], [3, 6], [1, 2]])
    steps = np.argmax(np.concatenate([first.obs, second.obs]), axis=-1)
    np.testing.assert_array_equal(steps[:, 0, 0], [0, 1, 2, 0])
    final = np.argmax(np.concatenate([first.final_obs, second.final_obs]), axis=-1)
    np.testing.assert_array_equal(final[:, 0, 0], [1, 2, 3, 1])
    np.testing.assert_array_equal(second.finished_returns()[0], 3)
    np.testing.assert_array_equal(second.finished_returns()[1], [9, 18])


def test_values_and_likelihoods_are_those_of_the_acting_policy() -> None:
    environment = Choice(num_agents=2, max_steps=2, sees_time=True)
    (rollout,), _ = gather(environment, 4)
    probe, parameters = learner_of(environment)
    logits = jax.vmap(lambda obs: probe.distribution(parameters, obs).logits)(rollout.obs)
    expected = jnp.take_along_axis(jax.nn.log_softmax(logits), rollout.action[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(rollout.extras.log_prob, expected, rtol=1e-5)
    # The next value is that of the old episode's end.
    by_step = probe.values(parameters, jnp.tile(jnp.eye(3)[:, None], (1, 2, 1)))
    steps = np.array([0, 1, 0, 1])
    np.testing.assert_allclose(rollout.extras.value[:, 0], by_step[steps], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rollout.extras.next_value[:, 0], by_step[steps + 1], rtol=1e-5, atol=1e-6)
    # The reward shows which action was taken.
    np.testing.assert_array_equal(rollout.reward, rollout.action == jnp.array([1, 2]))


def test_each_agent_acts_on_its_own_parameters() -> None:
    probe, parameters = learner_of(Steady())
    obs, available, is_first = jnp.ones((3, 2, 1)), jnp.ones((3, 2, 2), bool), jnp.ones((1, 3), bool)
    logits, values = probe.distribution(parameters, obs).logits, probe.values(parameters, obs)
    for i in range(2):
        own = jax.tree.map(lambda x, i=i: x[i], parameters)
        _, distribution = probe.policy.distribution(own, None, obs[None, :, i], available[None, :, i], is_first)
        _, value = probe.policy.value(own, None, obs[None, :, i], is_first, jnp.int32(i))
        np.testing.assert_allclose(logits[:, i], distribution.logits[0], rtol=1e-5)
        np.testing.assert_allclose(values[:, i], value[0], rtol=1e-5)


def test_only_available_actions_are_taken() -> None:
    (rollout,), _ = gather(Masked(), 9)
    expected = np.array([0, 1, 2, 0, 0, 1, 2, 0, 0])
    np.testing.assert_array_equal(rollout.action, np.broadcast_to(expected[:, None, None], (9, 3, 2)))
    np.testing.assert_allclose(rollout.extras.log_prob, 0.0, atol=1e-6)
    # Step 4 ends an episode; what was available then is not what is at the start of the next one.
    np.testing.assert_array_equal(rollout.final_available_actions[3, 0], [[False, True, False]] * 2)


@pytest.mark.parametrize("terminates", [True, False])
def test_termination_and_time_limit_are_different(terminates: bool) -> None:
    (rollout,), _ = gather(Steady(terminates=terminates), 2)
    assert np.all(rollout.done)
    assert np.all(np.asarray(rollout.terminated) == terminates)


PLANS = (
    [[("Walk", 3), ("Walk", 1)], [("Walk", 2), ("Stay", 5)]],
    [[("Stay", 5)], [("Walk", 1), ("Walk", 3), ("Walk", 0)]],
)


def instructed_by_hand(rollout: Any, marks: int) -> np.ndarray:
    """What the plans say, step by step and agent by agent, from the observations."""
    position = np.asarray(rollout.obs[..., 0], int)
    steps, envs, agents = position.shape
    counter = np.zeros((envs, agents), int)
    found = np.zeros(position.shape, int)
    for t in range(steps):
        for e in range(envs):
            for a in range(agents):
                plan = PLANS[e % len(PLANS)][a]
                command, parameter = plan[counter[e, a]]
                found[t, e, a] = ("Walk", "Stay").index(command) * (marks + 1) + parameter
                if rollout.done[t, e]:
                    counter[e, a] = 0
                elif t + 1 < steps and command == "Walk" and position[t + 1, e, a] == parameter:
                    counter[e, a] = min(counter[e, a] + 1, len(plan) - 1)
    return found


def test_plans_are_executed_in_the_learners_own_states() -> None:
    environment = Line()
    words = environment.vocabulary
    plans = stack_plans(
        [
            compile_triples(
                words, [(c, words.parameters[p].name, f"agent_{a}") for a in range(2) for c, p in plan[a]], 3
            )
            for plan in PLANS
        ]
    )
    # The positions in the plans outlast a rollout; an episode has 8 steps.
    rollouts, states = gather(environment, 6, rollouts=4, num_envs=16, plans=plans)
    whole = jax.tree.map(lambda *parts: jnp.concatenate(parts), *rollouts)
    expected = instructed_by_hand(whole, environment.marks)
    # Learners that act at random reach the marks that end an instruction, and pass them.
    assert set(np.unique(expected)) == {0, 1, 2, 3, 11}
    np.testing.assert_array_equal(whole.expert_action, expected)
    assert np.max(states[0].instruction) > 0
    # The last rollout ends with an episode.
    np.testing.assert_array_equal(states[3].instruction, np.zeros((16, 2)))


def test_without_plans_there_are_no_expert_actions() -> None:
    (rollout,), _ = gather(Choice(), 1)
    assert rollout.expert_action is None


def test_plans_need_an_environment_that_offers_instructions() -> None:
    plans = stack_plans([compile_triples(Line().vocabulary, [("Walk", "mark_1", f"agent_{a}") for a in range(2)], 1)])
    with pytest.raises(ConfigurationError, match="Choice offers no instructions"):
        gather(Choice(), 1, plans=plans)
