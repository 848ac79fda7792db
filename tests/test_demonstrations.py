"""Demonstration sets: written, read back, and executed."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Choice, Line, OneByOne, Steady
from set_folders import (
    BEST,
    CAPACITY,
    entry,
    read_json,
    refuse,
    transcript_of,
    write_line_set,
    write_set,
    write_walk_set,
)
from tiny_run import Walk

from leed_jax.config.environments import make_environment
from leed_jax.demonstrations import (
    find_set,
    initial_state_keys,
    instructed,
    load_demonstrations,
    read_manifest,
    recorded_sets,
    save_demonstrations,
)
from leed_jax.demonstrations.loading import load_verified
from leed_jax.envs.mpe_spread import SimpleSpread
from leed_jax.errors import DemonstrationError
from leed_jax.instructions import PrimitiveInstructions
from leed_jax.learning.experts import expert_samples

# --- reading back and executing ---------------------------------------------------------------------------------


def test_a_set_reads_back_as_it_was_written(tmp_path: Path) -> None:
    loaded = load_demonstrations(str(write_line_set(tmp_path / "set")), Line())
    recorded = loaded.episodes()
    # Two steps to walk and one for the last reward; the plans go in turn.
    np.testing.assert_array_equal(recorded.reward[0, :, 0], [1, 2, 3, 3, 3, 3, 3, 3])
    np.testing.assert_array_equal(recorded.reward[1, :, 0], [1, 2, 2, 2, 2, 2, 2, 2])
    np.testing.assert_array_equal(recorded.reward[0, :, 1], np.ones(8))
    np.testing.assert_array_equal(loaded.plans.length, [[1, 2], [1, 1]])
    np.testing.assert_array_equal(loaded.returns(jax.random.key(0), 3), [[21, 8]] * 3)
    assert loaded.kind == "relational"


def test_plans_are_executed_again_on_as_many_episodes_as_asked_for(tmp_path: Path) -> None:
    loaded = load_demonstrations(str(write_line_set(tmp_path / "set")), Line())
    np.testing.assert_array_equal(loaded.episodes(8).episode_return(), [[21, 8], [15, 0]] * 4)


def test_noise_disturbs_what_is_done_and_not_what_is_recorded(tmp_path: Path) -> None:
    loaded = load_demonstrations(str(write_line_set(tmp_path / "set")), Line())
    noisy, plain = loaded.episodes(64, noise=1.0, seed=1), loaded.episodes(64, seed=1)
    assert float(noisy.reward.mean()) < float(plain.reward.mean())
    np.testing.assert_array_equal(noisy.reward[0], plain.reward[0])
    np.testing.assert_array_equal(noisy.action[:, 0], plain.action[:, 0])


def test_a_set_of_plans_alone_needs_a_number_of_episodes(tmp_path: Path) -> None:
    loaded = load_demonstrations(str(write_line_set(tmp_path / "set", episodes=0)), Line())
    assert loaded.episodes(8).action.shape == (8, Line().max_steps, 2)
    with pytest.raises(DemonstrationError, match=r"set demonstrations\.episodes"):
        loaded.episodes()


def test_plans_with_initial_states_of_their_own_start_there(tmp_path: Path) -> None:
    loaded = load_demonstrations(str(write_walk_set(tmp_path / "set")), Walk())
    assert loaded.kind == "episodes"
    starts = jax.vmap(lambda key: Walk().reset(key)[1].observation)(initial_state_keys(11, 5))
    again = loaded.episodes(6, noise=1.0, seed=4)
    wanted = np.array([0, 4, 2, 0, 4, 2])
    # Executed best first by their scores, -1 - state.
    ranked = np.array([0, 2, 4, 0, 2, 4])
    np.testing.assert_array_equal(loaded.episodes().observation[:, 0], starts[wanted])
    np.testing.assert_array_equal(again.observation[:, 0], starts[ranked])
    assert np.any(again.taken[2] != again.taken[5])
    np.testing.assert_array_equal(again.action[2], again.action[5])


def test_what_plans_for_their_own_states_earn_is_their_mean_there(tmp_path: Path) -> None:
    loaded = load_demonstrations(str(write_walk_set(tmp_path / "set")), Walk())
    returns = np.asarray(loaded.returns(jax.random.key(9), 8))
    assert returns.shape == (6, 2)
    np.testing.assert_array_equal(returns, np.asarray(loaded.episodes(6).episode_return()))
    assert loaded.returns(jax.random.key(9), 1).shape == (3, 2)


def test_keys_of_initial_states_do_not_depend_on_their_number() -> None:
    few, many = (jax.random.key_data(initial_state_keys(3, count)) for count in (2, 5))
    np.testing.assert_array_equal(few, many[:2])
    assert len(np.unique(many, axis=0)) == 5
    assert np.any(many != jax.random.key_data(initial_state_keys(4, 5)))


def test_filters_choose_among_recorded_and_among_executed_episodes(tmp_path: Path) -> None:
    loaded = load_demonstrations(str(write_line_set(tmp_path / "set", episodes=8, noise=1.0)), Line())
    for how in ({}, {"episodes": 64, "noise": 1.0, "seed": 5}):
        plain = loaded.episodes(**how)
        returns = np.asarray(plain.episode_return())
        mean = returns.mean(axis=1)
        half = loaded.episodes(**how, quantile=0.5)
        kept = np.sort(np.argsort(-mean, kind="stable")[: len(half.reward)])
        assert len(kept) == len(mean) // 2
        jax.tree.map(lambda x, y, rows=kept: np.testing.assert_array_equal(x, y[rows]), half, plain)
        own = loaded.episodes(**how, per_agent=True, number=3)
        for agent in range(2):
            rows = np.sort(np.argsort(-returns[:, agent], kind="stable")[:3])
            np.testing.assert_array_equal(own.observation[:, :, agent], plain.observation[rows, :, agent])
            np.testing.assert_array_equal(own.episode_return()[:, agent], returns[rows, agent])


def test_the_best_plans_are_those_with_the_best_scores(tmp_path: Path) -> None:
    plans = [entry(BEST, 0, None), entry(BEST[:2], 1, 3.0), entry([*BEST[1:], BEST[0]], 2, 4.0)]
    folder = write_set(tmp_path / "set", Line(), plans, 9, 0.0, transcript_of(plans))
    loaded = load_demonstrations(str(folder), Line())
    # The second plan has no `Stay` for agent_1, so that its last action is to walk on.
    walks = loaded.plans.length[:, 1] == 1
    np.testing.assert_array_equal(walks, [False, True, False])
    last = np.asarray(loaded.episodes(8, plans=2).action[:, -1, 1])
    assert len(set(last[::2])) == len(set(last[1::2])) == 1
    assert last[0] != last[1]
    np.testing.assert_array_equal(loaded.episodes(plans=1).action, loaded.recorded.action[2::3])
    np.testing.assert_array_equal(loaded.episodes(plans=2).reward, loaded.recorded.reward[np.array([1, 2, 4, 5, 7, 8])])


def test_recorded_episodes_may_lack_the_best_plan(tmp_path: Path) -> None:
    plans = [entry(BEST, 0, 1.0), entry(BEST, 1, 2.0)]
    folder = write_set(tmp_path / "set", Line(), plans, 1, 0.0, transcript_of(plans))
    with pytest.raises(DemonstrationError, match="no recorded episode of its best 1 of 2 plans"):
        load_demonstrations(str(folder), Line()).episodes(plans=1)


def test_samples_are_the_arranged_episodes(tmp_path: Path) -> None:
    loaded = load_demonstrations(str(write_line_set(tmp_path / "set")), Line())
    for how in ({}, {"episodes": 8, "noise": 0.5}, {"number": 2, "per_agent": True}):
        expected = expert_samples(loaded.episodes(**how))
        jax.tree.map(np.testing.assert_array_equal, loaded.samples(**how), expected)


def test_an_agent_that_ends_early_is_stored_so(tmp_path: Path) -> None:
    target = PrimitiveInstructions(OneByOne())
    plans = [entry([("Act", "action_0", f"agent_{i}") for i in range(3)], 0, None)]
    write_set(tmp_path / "set", OneByOne(), plans, 2, 0.0, transcript_of(plans))
    loaded = load_demonstrations(str(tmp_path / "set"), OneByOne())
    np.testing.assert_array_equal(loaded.episodes().active.sum(axis=1), [[1, 2, 3]] * 2)
    np.testing.assert_array_equal(loaded.samples().count, [2, 4, 6])
    assert loaded.environment == target


def test_an_attempt_without_a_plan_is_kept_and_not_learnt_from(tmp_path: Path) -> None:
    write_set(tmp_path / "set", Line(), [], 0, 0.0, transcript_of([]))
    assert "nothing that tiny wrote could be executed" in refuse(tmp_path / "set")
    loaded = load_verified(tmp_path / "set", read_manifest(tmp_path / "set"), Line())
    for use in (loaded.episodes, lambda: loaded.samples(4), lambda: loaded.returns(jax.random.key(0), 4)):
        with pytest.raises(DemonstrationError, match="holds no plan"):
            use()


# --- finding ----------------------------------------------------------------------------------------------------


def test_a_missing_set_is_named_with_those_there_are() -> None:
    with pytest.raises(DemonstrationError, match=r"demonstrations\.path=no/such.*mpe_spread/"):
        find_set("no/such")
    with pytest.raises(DemonstrationError, match=r"demonstrations\.path is empty"):
        find_set("")


@pytest.mark.parametrize("path", ["x" * 300, "~nobody-of-this-name/x", "nul\0byte", "\x1b[2J"])
def test_a_path_that_no_system_takes_is_told(path: str) -> None:
    with pytest.raises(DemonstrationError, match=r"demonstrations\.path=") as caught:
        find_set(path)
    assert "\x1b" not in str(caught.value)


# --- the rest ---------------------------------------------------------------------------------------------------


def test_what_could_not_be_loaded_is_not_written(tmp_path: Path) -> None:
    plans = [entry(BEST, 0, 1.0)]
    manifest = {"max_instructions": CAPACITY, "plans": plans}
    for wrong, transcript in (
        ({**manifest, "kind": "episodes"}, transcript_of(plans)),
        (manifest, b""),
        ({**manifest, "recorded": {"episodes": 1, "noise": 0, "seed": 0}}, transcript_of(plans)),
    ):
        with pytest.raises(DemonstrationError):
            save_demonstrations(tmp_path / "set", wrong, Line(), transcript, None)
        assert not (tmp_path / "set").exists()


def test_an_environment_without_instructions_gets_its_primitive_actions() -> None:
    assert isinstance(instructed(Choice()), PrimitiveInstructions)
    assert instructed(Line()) == Line()


def test_every_recorded_set_loads_for_the_environment_it_names() -> None:
    names = recorded_sets()
    assert names
    for name in names:
        manifest = read_manifest(find_set(name))
        identity = manifest["environment"]
        loaded = load_verified(
            find_set(name), manifest, make_environment({**identity["config"], "name": identity["name"]})
        )
        assert manifest["provider"] in ("local", "random", "written")
        assert manifest["rounds"]
        assert loaded.recording_s > 30
        # Larger teams take long to compile.
        if manifest["plans"] and loaded.environment == SimpleSpread():
            assert jnp.all(jnp.isfinite(loaded.episodes(4).observation))


def test_fields_of_the_manifest_environment_are_those_of_the_class(tmp_path: Path) -> None:
    manifest = read_json(write_line_set(tmp_path / "set"))
    assert manifest["environment"] == {"name": "probes:Line", "config": dataclasses.asdict(Line())}


def test_episodes_of_different_lengths_keep_their_lengths(tmp_path: Path) -> None:
    environment = Steady(max_steps=6, random_length=True)
    plans = [entry([("Act", "action_0", "agent_0"), ("Act", "action_1", "agent_1")], 0, None)]
    write_set(tmp_path / "set", environment, plans, 32, 0.0, transcript_of(plans))
    recorded = load_demonstrations(str(tmp_path / "set"), environment).episodes()
    lengths = np.asarray(recorded.active[..., 0].sum(axis=1))
    assert set(lengths.tolist()) == {1, 2, 3, 4, 5, 6}
    np.testing.assert_array_equal(recorded.episode_return(), np.outer(lengths, [1, 2]))
