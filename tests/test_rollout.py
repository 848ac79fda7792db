"""Experience from parallel environments."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Choice, Line, Masked, Steady

from leed_jax.environments import AutoReset
from leed_jax.errors import ConfigurationError
from leed_jax.instructions import compile_triples, stack_plans
from leed_jax.learning.rollout import act_all, collect, start_actors, value_all
from leed_jax.networks.policy import Policy


def agents_of(environment: Any) -> tuple[Policy, Any]:
    policy = Policy.of(environment, hidden_sizes=(4,))
    return policy, policy.init_agents(jax.random.key(0))


def logits_of(policy: Policy, parameters: Any, observation: Any, available: Any) -> Any:
    nowhere = jnp.zeros(observation.shape[0], bool)
    return act_all(policy, policy.of_agents(parameters), None, observation, available, nowhere)[1].logits


def values_of(policy: Policy, parameters: Any, observation: Any) -> Any:
    nowhere = jnp.zeros(observation.shape[0], bool)
    return value_all(policy, policy.of_agents(parameters), None, observation, nowhere)[1]


def gather(environment: Any, steps: int, rollouts: int = 1) -> tuple[Policy, Any, list[Any]]:
    policy, parameters = agents_of(environment)
    actors = start_actors(environment, jax.random.key(1), 3)
    run = jax.jit(lambda actors, key: collect(AutoReset(environment), policy, parameters, actors, key, steps))
    found = []
    for index in range(rollouts):
        actors, rollout = run(actors, jax.random.key(index))
        found.append(rollout)
    return policy, parameters, found


def test_a_rollout_goes_on_where_the_last_one_ended() -> None:
    _, _, (first, second) = gather(Steady(max_steps=3, sees_time=True), 2, rollouts=2)
    over = np.concatenate([first.episode_over, second.episode_over])
    np.testing.assert_array_equal(over, np.tile([[False], [False], [True], [False]], 3))
    returns = np.concatenate([first.episode_return, second.episode_return])
    np.testing.assert_array_equal(returns[:, 0], [[1, 2], [2, 4], [3, 6], [1, 2]])
    seen = np.argmax(np.concatenate([first.seen, second.seen]), axis=-1)
    np.testing.assert_array_equal(seen[:, 0, 0], [0, 1, 2, 0])


def test_values_and_likelihoods_are_those_of_the_acting_policy() -> None:
    policy, parameters, (rollout,) = gather(Choice(num_agents=2, max_steps=2, sees_time=True), 4)
    logits = jax.vmap(lambda o, a: logits_of(policy, parameters, o, a))(rollout.seen, rollout.available_actions)
    log_probs = jax.nn.log_softmax(logits)
    expected = jnp.take_along_axis(log_probs, rollout.action[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(rollout.log_prob, expected, rtol=1e-5)
    values = jax.vmap(lambda o: values_of(policy, parameters, o))(rollout.seen)
    np.testing.assert_allclose(rollout.value, values, rtol=1e-5, atol=1e-6)
    # The reward tells which action was taken.
    np.testing.assert_array_equal(rollout.reward, rollout.action == jnp.array([1, 2]))


def test_the_next_value_is_that_of_the_old_episodes_end() -> None:
    environment = Steady(max_steps=2, sees_time=True)
    policy, parameters, (rollout,) = gather(environment, 4)
    by_step = values_of(policy, parameters, jnp.tile(jnp.eye(3)[:, None], (1, 2, 1)))
    np.testing.assert_allclose(rollout.value[:, 0], by_step[jnp.array([0, 1, 0, 1])], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rollout.next_value[:, 0], by_step[jnp.array([1, 2, 1, 2])], rtol=1e-5, atol=1e-6)


def test_each_agent_acts_on_its_own_parameters() -> None:
    policy, parameters = agents_of(Steady())
    observation, available = jnp.ones((3, 2, 1)), jnp.ones((3, 2, 2), bool)
    for i in range(2):
        own, start = jax.tree.map(lambda x, i=i: x[i], parameters), jnp.ones((1, 3), bool)
        _, choice = policy.act(own, None, observation[None, :, i], available[None, :, i], start)
        _, value = policy.value(own, None, observation[None, :, i], start, jnp.int32(i))
        found = logits_of(policy, parameters, observation, available), values_of(policy, parameters, observation)
        np.testing.assert_allclose(found[0][:, i], choice.logits[0], rtol=1e-5)
        np.testing.assert_allclose(found[1][:, i], value[0], rtol=1e-5)


def test_only_available_actions_are_taken() -> None:
    _, _, (rollout,) = gather(Masked(), 9)
    expected = np.array([0, 1, 2, 0, 0, 1, 2, 0, 0])
    np.testing.assert_array_equal(rollout.action, np.broadcast_to(expected[:, None, None], (9, 3, 2)))
    np.testing.assert_allclose(rollout.log_prob, 0.0, atol=1e-6)


def test_termination_and_time_limit_are_told_apart() -> None:
    for terminates in (True, False):
        _, _, (rollout,) = gather(Steady(terminates=terminates), 2)
        assert np.all(rollout.episode_over)
        assert np.all(np.asarray(rollout.terminated) == terminates)


PLANS = (
    [[("Walk", 3), ("Walk", 1)], [("Walk", 2), ("Stay", 5)]],
    [[("Stay", 5)], [("Walk", 1), ("Walk", 3), ("Walk", 0)]],
)


def instructed_by_hand(rollout: Any, marks: int) -> np.ndarray:
    """What the plans say, step by step and agent by agent, from what was seen."""
    position = np.asarray(rollout.seen[..., 0], int)
    steps, envs, agents = position.shape
    counter = np.zeros((envs, agents), int)
    found = np.zeros(position.shape, int)
    for t in range(steps):
        for e in range(envs):
            for a in range(agents):
                plan = PLANS[e % len(PLANS)][a]
                command, parameter = plan[counter[e, a]]
                found[t, e, a] = ("Walk", "Stay").index(command) * (marks + 1) + parameter
                if rollout.episode_over[t, e]:
                    counter[e, a] = 0
                elif t + 1 < steps and command == "Walk" and position[t + 1, e, a] == parameter:
                    counter[e, a] = min(counter[e, a] + 1, len(plan) - 1)
    return found


def test_plans_are_asked_in_the_learners_own_states() -> None:
    environment = Line()
    policy, parameters = agents_of(environment)
    words = environment.vocabulary
    plans = stack_plans(
        [
            compile_triples(
                words, [(c, words.parameters[p].name, f"agent_{a}") for a in range(2) for c, p in plan[a]], 3
            )
            for plan in PLANS
        ]
    )
    actors = start_actors(environment, jax.random.key(1), 5)
    run = jax.jit(lambda actors, key: collect(AutoReset(environment), policy, parameters, actors, key, 24, plans))
    _, whole = run(actors, jax.random.key(3))
    expected = instructed_by_hand(whole, environment.marks)
    # Learners that act at random come by the marks that end an instruction, and pass them.
    assert set(np.unique(expected)) == {0, 1, 2, 3, 11}
    np.testing.assert_array_equal(whole.instructed_action, expected)


def test_the_program_counters_outlast_a_rollout() -> None:
    environment = Line()
    policy, parameters = agents_of(environment)
    triples = [("Walk", f"mark_{m}", f"agent_{a}") for a in range(2) for m in (0, 1, 2)]
    plans = stack_plans([compile_triples(environment.vocabulary, triples, 3)])
    actors = start_actors(environment, jax.random.key(1), 4)
    run = jax.jit(lambda actors, key: collect(AutoReset(environment), policy, parameters, actors, key, 1, plans))
    counters = []
    for index in range(8):
        actors, rollout = run(actors, jax.random.key(index))
        counters.append(np.asarray(actors.counter))
    assert np.max(counters) == 2
    # The eighth step ends the episode.
    assert np.all(counters[-1] == 0)
    assert np.all(rollout.episode_over)


def test_without_plans_nothing_is_asked() -> None:
    _, _, (rollout,) = gather(Line(), 2)
    assert rollout.instructed_action is None


def test_plans_need_an_environment_that_offers_instructions() -> None:
    environment = Choice()
    policy, parameters = agents_of(environment)
    plans = stack_plans([compile_triples(Line().vocabulary, [("Walk", "mark_1", f"agent_{a}") for a in range(2)], 1)])
    actors = start_actors(environment, jax.random.key(1), 2)
    with pytest.raises(ConfigurationError, match="Choice offers no instructions"):
        collect(AutoReset(environment), policy, parameters, actors, jax.random.key(0), 1, plans)
