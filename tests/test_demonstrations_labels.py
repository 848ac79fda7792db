"""What is imitated: how much the demonstrations are disturbed, and which action stands for them."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from probes import Line
from set_folders import (
    ARRAYS,
    LINE,
    edit_manifest,
    refuse,
    refused,
    run,
    transcript_of,
    write_line_set,
    write_set,
    write_walk_set,
)
from tiny_run import Walk

from leed_jax.cli.generate import main
from leed_jax.demonstrations import DemonstrationSet, load_demonstrations, read_manifest
from leed_jax.demonstrations.loading import load_verified
from leed_jax.errors import DemonstrationError
from leed_jax.learning.experts import expert_samples

ACTIONS = Line().num_actions
RANDOM = {"noise": 1.0, "noise_from": 1.0, "label": "taken"}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> DemonstrationSet:
    """Two plans for `Line` and 64 recorded episodes of them, disturbed up to the half."""
    folder = write_line_set(tmp_path_factory.mktemp("sets") / "set", episodes=64, noise=0.5)
    return load_demonstrations(str(folder), Line())


def disturbed(episodes) -> np.ndarray:
    """For each episode the share of actions that are not the instructed ones."""
    return np.asarray(episodes.taken != episodes.action).mean(axis=(1, 2))


# --- noise ------------------------------------------------------------------------------------------------------


def test_noise_is_spread_evenly_between_two_shares(loaded: DemonstrationSet) -> None:
    # A random action is the instructed one with probability 1 / ACTIONS, so noise x disturbs x (1 - 1 / ACTIONS).
    count = 4096
    shares = disturbed(loaded.episodes(count, noise=0.9, noise_from=0.4)) / (1 - 1 / ACTIONS)
    by_quarter = shares.reshape(4, -1).mean(axis=1)
    np.testing.assert_allclose(by_quarter, [0.4625, 0.5875, 0.7125, 0.8375], atol=0.02)


def test_without_a_smallest_share_the_first_episode_is_as_planned(loaded: DemonstrationSet) -> None:
    whole, none = loaded.episodes(32, noise=1.0, seed=3), loaded.episodes(32, noise=1.0, noise_from=0.0, seed=3)
    jax.tree.map(np.testing.assert_array_equal, whole, none)
    assert disturbed(whole)[0] == 0
    assert disturbed(loaded.episodes(32, noise=1.0, noise_from=1.0, seed=3))[0] > 0


def test_recorded_episodes_tell_how_they_were_disturbed(tmp_path: Path, capsys: Any) -> None:
    out, again = tmp_path / "set", tmp_path / "again"
    sizes = {"rounds": 1, "candidates": 2, "selection_episodes": 2, "report_episodes": 2, "control_plans": 2}
    fixed = ["env.name=probes:Line", *(f"generate.{name}={value}" for name, value in sizes.items())]
    disturbed_so = ["demonstrations.noise=1.0", "demonstrations.noise_from=0.5", "generate.recorded_episodes=6"]
    assert main([*fixed, "llm=random", f"generate.out={out}", *disturbed_so]) == 0
    assert read_manifest(out)["recorded"] == {"episodes": 6, "noise": 1.0, "noise_from": 0.5, "seed": 0}
    assert main([*fixed, f"llm.path={out}", f"generate.out={again}"]) == 0
    assert (again / ARRAYS).read_bytes() == (out / ARRAYS).read_bytes()
    capsys.readouterr()
    assert run(capsys, "verify", LINE, out)[0] == 0
    edit_manifest(out, recorded={"episodes": 6, "noise": 1.0, "seed": 0})
    assert "does not hold what the plans give" in refused(capsys, "verify", LINE, out)


# --- labels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"episodes": 64, "noise": 1.0}, {"number": 3, "per_agent": True}])
def test_what_was_taken_stands_in_place_of_what_was_instructed(loaded: DemonstrationSet, how: dict) -> None:
    instructed, taken = loaded.episodes(**how), loaded.episodes(**how, label="taken")
    assert np.any(instructed.action != taken.action)
    np.testing.assert_array_equal(taken.action, instructed.taken)
    for name in ("observation", "taken", "reward", "active"):
        np.testing.assert_array_equal(getattr(taken, name), getattr(instructed, name))
    jax.tree.map(np.testing.assert_array_equal, loaded.samples(**how, label="taken"), expert_samples(taken))


def test_disturbed_throughout_the_demonstrations_are_random_actions(loaded: DemonstrationSet) -> None:
    action = np.asarray(loaded.episodes(4096, **RANDOM).action)
    for agent in range(2):
        counts = np.bincount(action[:, :, agent].ravel(), minlength=ACTIONS)
        expected = action[:, :, agent].size / ACTIONS
        # Five standard deviations of a binomial count.
        assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected * (1 - 1 / ACTIONS)))
    # They do not depend on each other, in time or among agents.
    same = [np.mean(action[:, 1:] == action[:, :-1]), np.mean(action[..., 0] == action[..., 1])]
    np.testing.assert_allclose(same, 1 / ACTIONS, atol=0.01)


def test_an_unknown_label_is_refused(loaded: DemonstrationSet) -> None:
    for use in (
        loaded.episodes,
        loaded.samples,
        lambda label: loaded.imitated_returns(jax.random.key(0), 4, label=label),
    ):
        with pytest.raises(DemonstrationError, match=r"demonstrations\.label=done: must be one of instructed, taken"):
            use(label="done")


# --- what the imitated behaviour earns ------------------------------------------------------------------------------


def test_instructions_earn_what_the_plans_earn_undisturbed(loaded: DemonstrationSet) -> None:
    key = jax.random.key(0)
    # The plans earn 21 and 8, and 15 and 0; noise is not what is imitated.
    np.testing.assert_array_equal(loaded.imitated_returns(key, 64, noise=1.0, noise_from=0.5), [18, 4])
    np.testing.assert_array_equal(loaded.imitated_returns(key, 64, plans=1, noise=1.0), [21, 8])
    episodes = loaded.trajectories(key, 64, noise=1.0)
    np.testing.assert_array_equal(episodes.episode_return(), [[21, 8], [15, 0]] * 32)
    np.testing.assert_array_equal(episodes.action, episodes.taken)


def test_what_is_taken_earns_what_the_disturbed_episodes_earn(loaded: DemonstrationSet) -> None:
    key = jax.random.key(5)
    how = {"plans": 1, "noise": 0.8, "noise_from": 0.2, "label": "taken"}
    episodes = loaded.trajectories(key, 64, **how)
    assert np.all(disturbed(episodes) == 0)
    earned = loaded.imitated_returns(key, 64, **how)
    np.testing.assert_allclose(earned, episodes.episode_return().mean(axis=0), rtol=1e-6)
    assert earned[0] < 21
    assert loaded.imitated_returns(key, 64, plans=1, **RANDOM)[0] < earned[0]


def test_plans_with_states_of_their_own_are_imitated_there(tmp_path: Path) -> None:
    walks = load_demonstrations(str(write_walk_set(tmp_path / "set")), Walk())
    expected = walks.episodes(6).episode_return()
    np.testing.assert_array_equal(walks.trajectories(jax.random.key(1), 6).episode_return(), expected)
    np.testing.assert_allclose(walks.imitated_returns(jax.random.key(1), 6), expected.mean(axis=0), rtol=1e-6)


def test_nothing_is_imitated_without_a_plan(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", Line(), [], 0, 0.0, transcript_of([]))
    assert "holds no plan" in refuse(folder)
    empty = load_verified(folder, read_manifest(folder), Line())
    for use in (empty.imitated_returns, empty.trajectories):
        with pytest.raises(DemonstrationError, match="holds no plan"):
            use(jax.random.key(0), 4)
