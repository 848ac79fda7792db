"""What happened in an episode: the same figures for plans and for policies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Choice, Line, MeasuredLine, Steady

from leed_jax.envs.mpe_spread import SimpleSpread, SpreadState
from leed_jax.instructions import (
    DescribesStates,
    Measure,
    Measured,
    PrimitiveInstructions,
    compile_triples,
    episode_measures,
    measure_lines,
    measured_execution,
    measures_of,
    offering,
)
from leed_jax.learning.episodes import measured_play, play, random_actor, stateless_actor

STILL = MeasuredLine(scattered=False)
NEVER = STILL.max_steps


def execution_of(environment, *triples):
    plan = compile_triples(environment.vocabulary, triples, 3)
    return measured_execution(environment, plan, jax.random.key(0))


@pytest.mark.parametrize(
    ("mark", "expected"),
    [
        (3, {"way": 1 + 2 + 6 * 3, "height": 21 / 8, "end": 3, "arrival": 2}),
        (1, {"way": 8, "height": 1, "end": 1, "arrival": NEVER}),
    ],
)
def test_each_summary_is_what_it_says(mark, expected) -> None:
    done = execution_of(STILL, ("Walk", f"mark_{mark}", "agent_0"), ("Stay", "forever", "agent_1"))
    assert {name: float(value) for name, value in done.measures.items()} == pytest.approx(expected)
    np.testing.assert_array_equal(done.returns, [expected["way"], 0])


def test_a_policy_that_does_the_same_has_the_same_figures() -> None:
    def choose(obs, available, key):
        return jnp.broadcast_to(jnp.array([3, 11]), available.shape[:2]).astype(jnp.int32)

    returns, measures = measured_play(STILL, stateless_actor(choose), jax.random.key(0), 2)
    done = execution_of(STILL, ("Walk", "mark_3", "agent_0"), ("Stay", "forever", "agent_1"))
    np.testing.assert_array_equal(returns, [done.returns] * 2)
    for name, values in measures.items():
        np.testing.assert_allclose(values, [done.measures[name]] * 2)


def test_each_instruction_has_its_share_of_its_agents_time() -> None:
    done = execution_of(
        STILL, ("Walk", "mark_2", "agent_0"), ("Stay", "forever", "agent_0"), ("Stay", "forever", "agent_1")
    )
    np.testing.assert_allclose(done.shares, [[2 / 8, 6 / 8, 0], [1, 0, 0]])


@pytest.mark.parametrize(("summary", "expected"), [("sum", 6), ("mean", 2), ("last", 3), ("first", 2)])
def test_nothing_counts_after_the_end(summary, expected) -> None:
    class Counting(Steady):
        measures = (Measure("m", "a figure", summary),)

        def measure(self, state):
            return {"m": jnp.where(summary == "first", state >= 2, state)}

    states = jnp.array([1, 2, 3, 100, 200])
    figures = episode_measures(Counting(max_steps=5), states, jnp.arange(5) < 3)
    assert float(figures["m"]) == expected


def test_what_is_first_met_after_the_end_is_never_met() -> None:
    states = MeasuredLine().reset(jax.random.key(0))[0].replace(position=jnp.array([[0, 0], [2, 2]]))
    states = states.replace(step=jnp.arange(2))
    assert float(episode_measures(STILL, states, jnp.array([True, False]))["arrival"]) == len([1, 2])


def test_without_measures_there_are_none() -> None:
    assert measures_of(Line()) == ()
    assert execution_of(Line(), ("Stay", "forever", "agent_0"), ("Stay", "forever", "agent_1")).measures == {}
    environment = Choice(max_steps=3)
    actor = random_actor(environment)
    returns, measures = measured_play(environment, actor, jax.random.key(0), 4)
    assert measures == {}
    np.testing.assert_array_equal(returns, play(environment, actor, jax.random.key(0), 4)[0])
    assert measure_lines(Line(), {}) == []


def test_what_is_wrapped_is_asked() -> None:
    wrapped = PrimitiveInstructions(STILL)
    assert offering(wrapped, Measured) is STILL
    assert offering(wrapped, DescribesStates) is STILL
    assert offering(PrimitiveInstructions(Line()), Measured) is None
    assert measure_lines(wrapped, {"way": 1.0, "height": 2.0, "end": 3.0, "arrival": 4.5})[3] == (
        "steps until agent_0 is at mark_2: 4.50"
    )


def test_given_initial_states_are_used() -> None:
    keys = jax.vmap(jax.random.key)(jnp.arange(6))
    environment = MeasuredLine(max_steps=1)
    plan = compile_triples(environment.vocabulary, [("Stay", "forever", f"agent_{i}") for i in range(2)], 1)
    for reset_key in keys:
        start = environment.reset(reset_key)[0].position
        done = measured_execution(environment, plan, jax.random.key(9), reset_key)
        np.testing.assert_array_equal(done.returns, start)

    def stand(obs, available, key):
        return jnp.full(available.shape[:2], 11, jnp.int32)

    returns, measures = measured_play(environment, stateless_actor(stand), jax.random.key(9), 6, keys)
    starts = jax.vmap(environment.reset)(keys)[0].position
    assert len({tuple(start) for start in starts.tolist()}) > 2
    np.testing.assert_array_equal(returns, starts)
    np.testing.assert_array_equal(measures["end"], starts[:, 0])


# --- simple_spread ------------------------------------------------------------------------------------------------


def spread(agents, landmarks) -> SpreadState:
    position = jnp.array(agents, jnp.float32)
    return SpreadState(position, jnp.zeros_like(position), jnp.array(landmarks, jnp.float32), jnp.zeros((), jnp.int32))


def test_spread_counts_collisions_and_landmarks_left_over() -> None:
    environment = SimpleSpread()
    apart = spread([[-1, 0], [0, 0], [1, 0]], [[-1, 0.05], [0, 0.05], [1, 0.2]])
    figures = environment.measure(apart)
    assert (float(figures["collisions"]), float(figures["uncovered_landmarks"]), float(figures["arrival"])) == (0, 1, 0)
    heap = spread([[0, 0], [0.1, 0], [0.2, 0]], [[0, 0], [0.1, 0], [0.2, 0.05]])
    figures = environment.measure(heap)
    assert (float(figures["collisions"]), float(figures["uncovered_landmarks"]), float(figures["arrival"])) == (3, 0, 1)
    assert {m.name for m in environment.measures} == set(figures)


def test_spread_tells_distances_nearest_first_and_what_is_contested() -> None:
    state = spread([[0, 0], [0.5, 0]], [[0.3, 0], [0, 1]])
    told = SimpleSpread(2).describe_state(jax.tree.map(np.asarray, state))
    assert "agent_0 is 0.30 from landmark_0, 1.00 from landmark_1." in told
    assert "agent_1 is 0.20 from landmark_0, 1.12 from landmark_1." in told
    assert "landmark_0 is contested: it is the nearest one to agent_0 and agent_1." in told
    assert "landmark_1 is contested" not in told
    assert "MoveTo" not in told
    many = SimpleSpread(30)
    assert len(many.describe_state(many.reset(jax.random.key(0))[0])) < 12_000
