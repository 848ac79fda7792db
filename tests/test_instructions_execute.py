"""Plans as arrays, and their execution."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probes import Choice, Line, OneByOne, Steady, TracedInstructed, actions_of

from leed_jax.envs.mpe_spread import SimpleSpread
from leed_jax.errors import InstructionError
from leed_jax.instructions import (
    InstructedEnvironment,
    Plan,
    PrimitiveInstructions,
    Triple,
    compile_plan,
    compile_triples,
    decompile,
    execute,
    execute_many,
    observe_execution,
    random_plan,
    stack_plans,
    validate,
)

LINE = Line()
CAPACITY = 5


@functools.cache
def executor(environment: Any) -> Any:
    return jax.jit(lambda plan, key, noise: execute(environment, plan, key, noise))


def run(environment: Any, triples: list[Triple], noise: float = 0.0) -> Any:
    plan = compile_triples(environment.vocabulary, triples, CAPACITY)
    return executor(environment)(plan, jax.random.key(0), noise)


def valid_triples(environment: Any) -> st.SearchStrategy[list[Triple]]:
    """Every agent has between one and `CAPACITY` valid instructions, in any order."""
    vocabulary = environment.vocabulary
    each = []
    for agent in vocabulary.agents:
        pairs = [
            (command.name, parameter, agent)
            for command in vocabulary.commands
            for parameter in vocabulary.allowed_parameters(command.name, agent)
        ]
        each.append(st.lists(st.sampled_from(pairs), min_size=1, max_size=CAPACITY))
    return st.tuples(*each).flatmap(lambda lists: st.permutations([triple for own in lists for triple in own]))


# --- plans ------------------------------------------------------------------------------------------------------


def test_a_plan_is_written_by_agent_in_the_order_of_the_text() -> None:
    triples = [("Walk", "mark_2", "agent_1"), ("Stay", "forever", "agent_0"), ("Walk", "mark_0", "agent_1")]
    plan = compile_triples(LINE.vocabulary, triples, 3)
    np.testing.assert_array_equal(plan.command, [[1, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(plan.parameter, [[5, 0, 0], [2, 0, 0]])
    np.testing.assert_array_equal(plan.length, [1, 2])
    assert {leaf.dtype for leaf in jax.tree.leaves(plan)} == {jnp.dtype("int32")}


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(valid_triples(SimpleSpread()))
def test_a_plan_reads_back_as_it_was_written(triples: list[Triple]) -> None:
    vocabulary = SimpleSpread().vocabulary
    plan = compile_triples(vocabulary, triples, CAPACITY)
    assert decompile(vocabulary, plan) == sorted(triples, key=lambda triple: triple[2])


def test_a_plan_for_others_is_not_read() -> None:
    plan = Plan(command=jnp.zeros((2, 1), int), parameter=jnp.zeros((2, 1), int), length=jnp.ones(2, int))
    with pytest.raises(InstructionError, match="The plan is for 2 agents, and there are 3"):
        decompile(SimpleSpread().vocabulary, plan)
    for change in ({"command": plan.command + 2}, {"parameter": plan.parameter - 1}, {"parameter": plan.parameter + 6}):
        with pytest.raises(InstructionError, match="which the environment lacks"):
            decompile(LINE.vocabulary, plan.replace(**change))


def test_random_plans_are_valid_and_use_every_valid_pair() -> None:
    vocabulary = SimpleSpread().vocabulary
    draw = jax.jit(jax.vmap(lambda key: random_plan(vocabulary, key, 3)))
    plans = jax.device_get(draw(jax.random.split(jax.random.key(0), 1000)))
    np.testing.assert_array_equal(np.unique(plans.length), [1, 2, 3])
    used = np.zeros_like(vocabulary.allowed, dtype=int)
    agents = np.broadcast_to(np.arange(3)[None, :, None], plans.command.shape)
    np.add.at(used, (agents, plans.command, plans.parameter), 1)
    np.testing.assert_array_equal(used > 0, vocabulary.allowed)
    for agent in range(3):
        share = used[agent][vocabulary.allowed[agent]] / used[agent].sum()
        np.testing.assert_allclose(share, 1 / len(share), atol=0.02)


# --- execution --------------------------------------------------------------------------------------------------


def test_probes_can_be_instructed() -> None:
    assert isinstance(LINE, InstructedEnvironment)
    assert isinstance(SimpleSpread(), InstructedEnvironment)
    assert isinstance(PrimitiveInstructions(Choice()), InstructedEnvironment)
    assert not isinstance(Choice(), InstructedEnvironment)


def test_each_agent_goes_through_its_own_instructions() -> None:
    trajectory = run(
        LINE,
        [
            ("Walk", "mark_2", "agent_0"),
            ("Walk", "mark_1", "agent_1"),
            ("Walk", "mark_1", "agent_0"),
            ("Walk", "mark_3", "agent_1"),
            ("Walk", "mark_4", "agent_0"),
            ("Stay", "forever", "agent_1"),
        ],
    )
    first = [("Walk", "mark_2")] * 2 + [("Walk", "mark_1")] + [("Walk", "mark_4")] * 5
    second = [("Walk", "mark_1")] + [("Walk", "mark_3")] * 2 + [("Stay", "forever")] * 5
    expected = np.array([actions_of(LINE, *first), actions_of(LINE, *second)]).T
    np.testing.assert_array_equal(trajectory.action, expected)
    reached = np.array([[1, 2, 1, 2, 3, 4, 4, 4], [1, 2, 3, 3, 3, 3, 3, 3]]).T
    np.testing.assert_array_equal(trajectory.reward, reached)
    np.testing.assert_array_equal(trajectory.observation[:, :, 0], np.vstack([[0, 0], reached[:-1]]))
    np.testing.assert_array_equal(trajectory.episode_return(), [21, 21])
    assert np.all(trajectory.active)


def test_an_instruction_that_is_never_done_stays_in_force() -> None:
    trajectory = run(
        LINE, [("Stay", "forever", "agent_0"), ("Walk", "mark_4", "agent_0"), ("Walk", "mark_0", "agent_1")]
    )
    np.testing.assert_array_equal(trajectory.action[:, 0], actions_of(LINE, *[("Stay", "forever")] * 8))
    np.testing.assert_array_equal(trajectory.action[:, 1], actions_of(LINE, *[("Walk", "mark_0")] * 8))


def test_an_instruction_takes_at_least_one_step() -> None:
    trajectory = run(
        LINE,
        [("Walk", "mark_0", "agent_0")] * 2
        + [("Walk", f"mark_{i}", "agent_1") for i in (0, 1, 1, 2)]
        + [("Walk", "mark_1", "agent_0")],
    )
    first = [("Walk", "mark_0")] * 2 + [("Walk", "mark_1")] * 6
    second = [("Walk", f"mark_{i}") for i in (0, 1, 1, 2, 2, 2, 2, 2)]
    np.testing.assert_array_equal(trajectory.action.T, [actions_of(LINE, *first), actions_of(LINE, *second)])


WALK = [("Walk", "mark_3", "agent_0"), ("Walk", "mark_3", "agent_1")]


def test_no_noise_changes_nothing() -> None:
    plan = compile_triples(LINE.vocabulary, WALK, CAPACITY)
    quiet = jax.jit(lambda plan, key: execute(LINE, plan, key))(plan, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, quiet, run(LINE, WALK, 0.0))


def test_noise_replaces_what_is_done_but_not_what_is_recorded() -> None:
    quiet, noisy = run(LINE, WALK, 0.0), run(LINE, WALK, 1.0)
    np.testing.assert_array_equal(noisy.action, actions_of(LINE, *[("Walk", "mark_3")] * 8)[0] * np.ones((8, 2)))
    np.testing.assert_array_equal(quiet.taken, quiet.action)
    assert np.mean(noisy.taken != noisy.action) > 0.5
    moved = np.diff(noisy.observation[:, :, 0], axis=0)
    walks = np.asarray(noisy.taken[:-1]) < LINE.marks
    goal = np.where(walks, noisy.taken[:-1], noisy.observation[:-1, :, 0])
    np.testing.assert_array_equal(moved, np.sign(goal - noisy.observation[:-1, :, 0]))
    assert np.any(np.asarray(noisy.reward) != np.asarray(quiet.reward))
    np.testing.assert_array_equal(noisy.observation[1:, :, 0], noisy.reward[:-1])


def test_noise_disturbs_as_often_as_it_says() -> None:
    keys = jax.random.split(jax.random.key(3), 2000)
    plan = compile_triples(LINE.vocabulary, [("Stay", "forever", f"agent_{i}") for i in range(2)], CAPACITY)
    noisy = jax.vmap(executor(LINE), in_axes=(None, 0, None))(plan, keys, 0.3)
    # From mark 0 the four marks ahead are four of the twelve actions that may take the place of `Stay`.
    assert float(jnp.mean(noisy.reward[:, 0] > 0)) == pytest.approx(0.3 * 4 / 12, abs=0.02)


def test_what_comes_after_an_episodes_end_is_not_active() -> None:
    environment = PrimitiveInstructions(Steady(max_steps=6, random_length=True))
    plan = compile_triples(environment.vocabulary, [("Act", "action_0", f"agent_{i}") for i in range(2)], 1)
    many = jax.jit(functools.partial(execute_many, environment))
    trajectory = many(stack_plans([plan]), jax.random.split(jax.random.key(0), 64))
    active = np.asarray(trajectory.active[0])
    lengths = np.sum(active[..., 0], axis=1)
    assert set(lengths.tolist()) == {1, 2, 3, 4, 5, 6}
    np.testing.assert_array_equal(active[..., 0], np.arange(6) < lengths[:, None])
    np.testing.assert_array_equal(active[..., 1], active[..., 0])
    np.testing.assert_array_equal(trajectory.terminated[0, ..., 0], np.arange(6) == lengths[:, None] - 1)
    np.testing.assert_array_equal(trajectory.episode_return()[0], np.outer(lengths, [1, 2]))


def test_an_agent_that_has_terminated_is_inactive_while_the_others_go_on() -> None:
    environment = PrimitiveInstructions(OneByOne())
    plan = compile_triples(environment.vocabulary, [("Act", "action_0", f"agent_{i}") for i in range(3)], 1)
    trajectory = executor(environment)(plan, jax.random.key(0), 0.0)
    last = np.arange(1, 4)
    np.testing.assert_array_equal(trajectory.active, np.arange(5)[:, None] < last)
    np.testing.assert_array_equal(trajectory.terminated, np.arange(5)[:, None] == last - 1)
    # What an agent is given after its end is not its own.
    np.testing.assert_array_equal(trajectory.reward[:, 0], [1, 1, 1, 1, 1])
    np.testing.assert_array_equal(trajectory.episode_return(), [1, 2 * 2, 3 * 3])


def test_an_initial_state_may_be_given() -> None:
    environment = SimpleSpread()
    plan = random_plan(environment.vocabulary, jax.random.key(3), 2)
    run = jax.jit(lambda key, reset_key: execute(environment, plan, key, 0.0, reset_key))
    one, other, another = (run(jax.random.key(seed), jax.random.key(reset)) for seed, reset in ((0, 7), (1, 7), (0, 8)))
    start = jax.jit(environment.reset)(jax.random.key(7))[1].observation
    np.testing.assert_allclose(one.observation[0], start, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(one.observation, other.observation)
    assert np.any(one.observation[0] != another.observation[0])


def test_what_is_observed_is_each_step_with_the_state_before_and_after() -> None:
    plan = compile_triples(LINE.vocabulary, WALK, CAPACITY)
    before, after, action, counter = jax.jit(
        lambda key: observe_execution(
            LINE, plan, key, lambda state, following, step, counter: (state, following, step.action, counter)
        )
    )(jax.random.key(0))
    np.testing.assert_array_equal(before.position[:, 0], [0, 1, 2, 3, 3, 3, 3, 3])
    np.testing.assert_array_equal(after.position[:-1], before.position[1:])
    np.testing.assert_array_equal(action, run(LINE, WALK).action)
    np.testing.assert_array_equal(counter, np.zeros((8, 2)))


def test_primitive_actions_are_instructions() -> None:
    environment = PrimitiveInstructions(Choice(num_agents=2, max_steps=4))
    assert [p.name for p in environment.vocabulary.parameters] == ["action_0", "action_1", "action_2"]
    assert "2 agents act for at most 4 steps" in environment.describe()
    plan = [("Act", f"action_{a}", "agent_0") for a in (0, 1, 2)] + [("Act", "action_2", "agent_1")]
    trajectory = run(environment, plan)
    np.testing.assert_array_equal(trajectory.action, [[0, 2], [1, 2], [2, 2], [2, 2]])
    np.testing.assert_array_equal(trajectory.episode_return(), [1, 4])


def test_primitive_actions_keep_the_environments_names_and_description() -> None:
    environment = PrimitiveInstructions(SimpleSpread())
    assert [p.name for p in environment.vocabulary.parameters] == ["stay", "left", "right", "down", "up"]
    assert environment.describe() == SimpleSpread().describe()


def test_ten_thousand_episodes_are_one_call() -> None:
    environment = TracedInstructed(LINE)
    still = [("Stay", "forever", f"agent_{i}") for i in range(2)]
    walks = [[("Walk", f"mark_{m}", f"agent_{i}") for i in range(2)] for m in (1, 2, 3)]
    plans = stack_plans([compile_triples(LINE.vocabulary, triples, CAPACITY) for triples in (still, *walks)])
    many = jax.jit(lambda plans, keys: execute_many(environment, plans, keys).episode_return())
    returns = many(plans, jax.random.split(jax.random.key(0), 2500))
    assert returns.shape == (4, 2500, 2)
    many(plans, jax.random.split(jax.random.key(1), 2500))
    assert len(environment.traces) == 1
    # Eight steps at mark m, less the way there.
    np.testing.assert_array_equal(returns, np.broadcast_to(np.array([0, 8, 15, 21])[:, None, None], returns.shape))


@pytest.mark.parametrize("environment", [SimpleSpread(max_steps=6), LINE], ids=["spread", "line"])
def test_whatever_is_valid_can_be_executed(environment: Any) -> None:
    vocabulary = environment.vocabulary

    @settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @given(valid_triples(environment), st.integers(0, 2**31 - 1), st.sampled_from([0.0, 0.5, 1.0]))
    def check(triples: list[Triple], seed: int, noise: float) -> None:
        outcome = validate(vocabulary, triples)
        assert not outcome.errors
        plan = compile_plan(vocabulary, outcome.instructions, CAPACITY)
        for array, size in ((plan.command, len(vocabulary.commands)), (plan.parameter, len(vocabulary.parameters))):
            assert np.all((np.asarray(array) >= 0) & (np.asarray(array) < size))
        trajectory = executor(environment)(plan, jax.random.key(seed), noise)
        assert np.all(np.isfinite(trajectory.episode_return()))
        assert np.all((trajectory.action >= 0) & (trajectory.action < environment.num_actions))

    check()
