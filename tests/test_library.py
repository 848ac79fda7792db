"""Training, policies and their export, in Python."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_run import DrawnWalk, Walk

import leed_jax
from leed_jax.errors import ConfigurationError, RunDirectoryError
from leed_jax.learning.episodes import measured_play
from leed_jax.report.metrics import read_metrics
from leed_jax.training.runner import resume_run
from leed_jax.training.trained_policy import _check_key

SETTINGS = {
    "num_envs": 4,
    "rollout_steps": 4,
    "updates_per_chunk": 2,
    "total_steps": 3 * 2 * 16,
    "evaluation": {"episodes": 256, "curve_episodes": 4},
    "ppo": {"epochs": 1, "minibatches": 2},
}


@pytest.fixture(scope="module")
def result():
    return leed_jax.train(DrawnWalk(), "ippo", num_seeds=2, network={"hidden_sizes": [8]}, progress=False, **SETTINGS)


@pytest.fixture(scope="module")
def recurrent():
    network = leed_jax.NetworkConfig(hidden_sizes=(8,), memory="gru", memory_size=4)
    return leed_jax.train(Walk(), "ippo", network=network, progress=False, **SETTINGS)


@pytest.fixture(scope="module")
def saved(result, tmp_path_factory):
    return result.save(tmp_path_factory.mktemp("library") / "run")


# --- training ---------------------------------------------------------------------------------------------------


def test_metrics_are_a_table(result):
    assert list(result.metrics["chunk"]) == [1, 1, 2, 2, 3, 3]
    assert list(result.metrics["seed"]) == [0, 1, 0, 1, 0, 1]


def test_metrics_are_arrays_without_pandas(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert result.metrics["return_of_agents"].shape == (6, 2)


def test_callbacks_see_metrics_and_state_and_may_stop():
    seen = []

    class Watch(leed_jax.Callback):
        def on_iteration(self, metrics, state):
            seen.append((metrics.chunk, metrics.return_per_agent, int(state.update[0])))

    stopped = leed_jax.train(
        Walk(), "ippo", callbacks=[Watch(), lambda metrics, state: metrics.chunk == 1], progress=False, **SETTINGS
    )
    # A chunk is dispatched before the metrics of the one before it are known.
    assert [(chunk, updates) for chunk, _, updates in seen] == [(1, 2), (2, 4)]
    assert [row["chunk"] for row in stopped.rows] == [1, 2]
    assert all(np.isfinite(value) for _, value, _ in seen)


def test_early_stopping_waits_for_its_patience():
    never_better = leed_jax.EarlyStopping(patience=1, min_delta=1e9)
    stopped = leed_jax.train(Walk(), "ippo", callbacks=[never_better], progress=False, **SETTINGS)
    assert [row["chunk"] for row in stopped.rows] == [1, 2, 3][: len(stopped.rows)]
    assert len(stopped.rows) == 3  # the first is better than nothing, the second is not, the third was on its way


def test_training_starts_from_an_experiment():
    result = leed_jax.train(
        experiment="mpe_spread",
        algorithm="ippo",
        progress=False,
        **{**SETTINGS, "rollout_steps": 26, "total_steps": 4 * 26 * 2},
    )
    assert result.config.ppo.discount == 0.9
    assert result.config.env["num_agents"] == 3


def test_without_environment_and_experiment_nothing_is_trained():
    with pytest.raises(ConfigurationError, match="experiment=NAME"):
        leed_jax.train()


# --- policies ---------------------------------------------------------------------------------------------------


def test_one_observation_and_a_batch_give_the_same_actions(result):
    obs = jnp.array([[[-2.0], [2.0]], [[1.0], [-1.0]]])
    batch, _ = result.policy.act(obs)
    one, _ = result.policy.act(obs[1])
    jitted, _ = jax.jit(result.policy.act)(obs)
    assert batch.shape == (2, 2)
    np.testing.assert_array_equal(batch[1], one)
    np.testing.assert_array_equal(batch, jitted)
    assert result.policy.value(obs)[0].shape == (2, 2)
    assert result.policy.value(obs[0])[0].shape == (2,)


def test_sampled_actions_differ_and_unavailable_ones_are_not_taken(result):
    obs = jnp.zeros((64, 2, 1))
    sampled, _ = result.policy.act(obs, jax.random.key(0))
    assert len(np.unique(sampled)) == 3
    only_last = jnp.zeros((64, 2, 3), bool).at[..., 2].set(True)
    assert np.all(result.policy.act(obs, jax.random.key(0), only_last)[0] == 2)


def test_a_recurrent_policy_carries_its_hidden_state(recurrent):
    obs = jnp.ones((2, 1))
    _, carry = recurrent.policy.act(obs)
    assert np.any(carry != recurrent.policy.initial_carry())
    value, after = recurrent.policy.value(obs)
    again, _ = recurrent.policy.value(obs, after)
    assert np.any(value != again)


def test_evaluation_is_that_of_the_summary(saved):
    summary = json.loads((saved / "summary.json").read_text())
    policy = leed_jax.load_policy(saved, seed=1, which="last")
    found = leed_jax.evaluate(policy, episodes=256, key=jax.random.key(1_000_003))
    np.testing.assert_allclose(found.return_of_agents, summary["return_of_agents"][1], rtol=1e-5)
    assert found.standard_error > 0


def test_a_rollout_is_an_episode_of_the_policy(result):
    episode = leed_jax.rollout(result.policy, None, jax.random.key(3))
    assert episode.obs.shape == (4, 2, 1)
    assert episode.states.position.shape == (5, 2)
    np.testing.assert_allclose(episode.obs[..., 0], episode.states.position[:-1])
    np.testing.assert_allclose(episode.reward, -jnp.abs(episode.states.position[1:]))
    assert list(episode.truncated) == [False, False, False, True]


def test_a_rollout_acts_as_whole_episodes_do(recurrent):
    """The same initial state and greedy actions: the returns agree, hidden states included."""
    key = jax.random.key(5)
    reset_key = jax.random.split(key)[0]
    episode = leed_jax.rollout(recurrent.policy, None, key)
    returns, _ = measured_play(Walk(), recurrent.policy.actor(), key, 1, reset_key[None])
    np.testing.assert_allclose(episode.reward.sum(axis=0), returns[0], rtol=1e-5)


def test_an_animation_is_written_where_the_environment_draws(result, recurrent, tmp_path):
    assert leed_jax.animate(result.policy, tmp_path / "walk.gif").stat().st_size > 0
    with pytest.raises(ConfigurationError, match="draw"):
        leed_jax.animate(recurrent.policy, tmp_path / "none.gif")


def test_a_policy_that_is_not_there_is_an_error(saved, tmp_path):
    with pytest.raises(ConfigurationError, match="seed=2"):
        leed_jax.load_policy(saved, seed=2)
    with pytest.raises(RunDirectoryError, match="no run directory"):
        leed_jax.load_policy(tmp_path)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: p.act(jnp.zeros((3, 1))), "it must be"),
        (lambda p: p.value(jnp.zeros((2, 3))), "it must be"),
        (lambda p: leed_jax.evaluate(p, Walk(num_agents=5)), "trained with"),
        (lambda p: leed_jax.evaluate(p, episodes=1), "at least 2"),
        (lambda p: _check_key(3), r"write jax\.random\.key\(3\)"),
        (lambda p: p.export("nowhere", batch_size=0), "at least 1"),
        (lambda p: leed_jax.train(Walk, "ippo"), "is no environment"),
        (lambda p: leed_jax.train(Walk(), "ippo", resume="runs/x"), "takes no resume"),
        (lambda p: leed_jax.train(Walk(), "ippo", out="runs/x"), "takes no out"),
        (lambda p: leed_jax.train(Walk(), "ippo", env={"name": "x"}), "not both"),
        (lambda p: leed_jax.train(Walk(), "ippo", **{"ppo.epochs": 1}), "as ppo={'epochs'"),
    ],
)
def test_wrong_input_is_a_sentence(call, words, result):
    with pytest.raises(ConfigurationError, match=words):
        call(result.policy)


# --- export -----------------------------------------------------------------------------------------------------

ALONE = """
import sys
from importlib.abc import MetaPathFinder

class OnlyJax(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {"leed_jax", "flax", "optax", "distrax", "chex", "orbax", "jaxtyping", "tiny_run"}:
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, OnlyJax())
from pathlib import Path
import jax.numpy as jnp
from jax import export
act = export.deserialize(bytearray(Path(sys.argv[1]).read_bytes()))
shapes = [a.shape for a in act.in_avals]
carry = [jnp.zeros(s, a.dtype) for s, a in zip(shapes[2:], act.in_avals[2:])]
for _ in range(3):
    action, *carry = act.call(jnp.full(shapes[0], -2.0), jnp.ones(shapes[1], bool), *carry)
    print(action.tolist())
"""


@pytest.mark.parametrize("which", ["feed-forward", "recurrent"])
def test_an_exported_policy_acts_without_leed_jax(which, request, tmp_path):
    result = request.getfixturevalue("result" if which == "feed-forward" else "recurrent")
    folder = result.policy.export(tmp_path / "export", batch_size=2)
    command = [sys.executable, "-c", ALONE, str(folder / "act.jaxexport")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    carry, expected = None, []
    for _ in range(3):
        action, carry = result.policy.act(jnp.full((2, 2, 1), -2.0), carry=carry)
        expected.append(str(action.tolist()))
    assert printed.splitlines() == expected


def test_exported_parameters_are_those_of_the_policy(result, tmp_path):
    folder = result.policy.export(tmp_path)
    arrays = load_file(folder / "parameters.safetensors")
    manifest = json.loads((folder / "manifest.json").read_text())
    leaves = jax.tree.leaves(result.policy.parameters)
    assert len(arrays) == len(leaves) == len(manifest["parameters"])
    assert sorted(x.tobytes() for x in arrays.values()) == sorted(np.asarray(x).tobytes() for x in leaves)


# --- saved runs, trained further and started from ---------------------------------------------------------------


def test_a_saved_run_is_trained_further(saved, tmp_path):
    run = Path(shutil.copytree(saved, tmp_path / "run"))
    outcome = resume_run(run, total_steps=5 * 32)
    rows = read_metrics(run)
    assert [row["chunk"] for row in rows if row["seed"] == 0] == [1, 2, 3, 4, 5]
    assert int(outcome.state.update[0]) == 10
    assert outcome.summary["env_steps"] == 160
    assert (run / "summary-96.json").is_file()
    with pytest.raises(ConfigurationError, match="give at least 192"):
        resume_run(run, total_steps=160)


def test_a_run_whose_extension_was_cut_short_is_whole_again(saved, tmp_path):
    """Killed after the summary was put aside, and before the configuration was written."""
    run = Path(shutil.copytree(saved, tmp_path / "run"))
    (run / "summary.json").rename(run / "summary-96.json")
    resume_run(run)
    assert json.loads((run / "summary.json").read_text())["env_steps"] == 96
    assert resume_run(run, total_steps=128).summary["env_steps"] == 128


def test_schedules_restart_or_hold(saved, tmp_path):
    """With schedules that run anew the added steps learn; with those that hold at a rate of 0 they do not."""
    before = leed_jax.load_policy(saved, which="last").parameters
    moved = {}
    for schedule in ("restart", "hold"):
        run = Path(shutil.copytree(saved, tmp_path / schedule))
        resume_run(run, total_steps=128, schedule=schedule)
        after = leed_jax.load_policy(run, which="last").parameters
        difference = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), before, after)
        moved[schedule] = max(jax.tree.leaves(difference))
    assert moved["restart"] > 1e-4
    assert moved["hold"] == 0.0


def test_training_starts_from_another_runs_parameters(saved):
    started = leed_jax.train(
        Walk(),
        "ippo",
        network={"hidden_sizes": [8]},
        num_seeds=2,
        init_from=str(saved),
        progress=False,
        **{**SETTINGS, "ppo": {"epochs": 1, "minibatches": 2, "learning_rate": 0.0}},
    )
    given = leed_jax.load_policy(saved, seed=1, which="last").parameters
    for a, b in zip(jax.tree.leaves(started.policy_of(1).parameters), jax.tree.leaves(given), strict=True):
        np.testing.assert_array_equal(a, b)


def test_shared_networks_serve_another_number_of_agents(tmp_path):
    shared = {"hidden_sizes": [8], "sharing": "all", "agent_id": False}
    few = leed_jax.train(Walk(), "ippo", network=shared, progress=False, **SETTINGS).save(tmp_path / "few")
    many = leed_jax.train(Walk(num_agents=4), "ippo", network=shared, init_from=str(few), progress=False, **SETTINGS)
    assert many.policy.act(jnp.zeros((4, 1)))[0].shape == (4,)
    with pytest.raises(ConfigurationError, match="init_from"):
        leed_jax.train(Walk(), "ippo", network={"hidden_sizes": [4]}, init_from=str(few), progress=False, **SETTINGS)
    with pytest.raises(ConfigurationError, match="algorithm"):
        leed_jax.train(Walk(), "vdn", network=shared, init_from=str(few), progress=False, **SETTINGS)
