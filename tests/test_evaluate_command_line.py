"""`python -m leed_jax.evaluate`: figures of a finished run, and what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import Walk, record_walk, settings

from leed_jax.cli import evaluate as command
from leed_jax.cli.evaluate import main
from leed_jax.config.compose import compose_config
from leed_jax.instructions import Measure
from leed_jax.learning.episodes import play
from leed_jax.training.program import prepare
from leed_jax.training.runner import start_run


@dataclasses.dataclass(frozen=True)
class MeasuredWalk(Walk):
    """With a measure: how many walkers are right of the origin in the end."""

    @property
    def measures(self) -> tuple[Measure, ...]:
        return (Measure("right", "walkers on the right in the end", "last"),)

    def measure(self, state: Any) -> dict[str, Any]:
        return {"right": jnp.sum(state.position > 0)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("evaluated")
    record_walk(folder / "set", MeasuredWalk())
    arguments = settings(folder / "run", algorithm="leed", num_seeds=2, seed=3, demonstrations__path=folder / "set")
    config = compose_config([f"env.name={__name__}:MeasuredWalk", *arguments[1:]])
    return start_run(config)


def evaluated(finished: Any, tmp_path: Path, *arguments: str) -> dict[str, Any]:
    out = tmp_path / "evaluation.json"
    assert main([str(finished.directory), "--out", str(out), *arguments]) == 0
    return json.loads(out.read_text())


def test_the_runs_own_episodes_give_the_figures_of_its_summary(
    finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluated(finished, tmp_path)
    summary = finished.summary
    for name, key in (("greedy", "return_per_agent"), ("stochastic", "stochastic_return_per_agent")):
        np.testing.assert_allclose(found[name]["return_per_agent"], summary[key], rtol=1e-5)
    np.testing.assert_allclose(found["greedy"]["return_of_agents"], summary["return_of_agents"], rtol=1e-5)
    np.testing.assert_allclose(found["random"]["return_per_agent"], [summary["random_return_per_agent"]], rtol=1e-5)
    instructions = found["instructions"]["return_per_agent"]
    np.testing.assert_allclose(instructions, [summary["instructions_return_per_agent"]], rtol=1e-5)
    assert (found["seeds"], found["checkpoint"], found["env_steps"], found["episodes"]) == ([3, 4], 4, 256, 256)
    printed = " ".join(capsys.readouterr().out.split())
    for words in ("policies, greedy", "policies, sampled", "instructions alone", "random actions", "right", "2 seeds"):
        assert words in printed


def test_other_episodes_give_what_those_episodes_hold(finished: Any, tmp_path: Path) -> None:
    found = evaluated(finished, tmp_path, "--episodes", "300", "--seed", "11")
    setup = prepare(finished_config(finished))
    first = jax.tree.map(lambda x: x[0], finished.state.parameters)
    returns, _ = play(setup.environment, setup.algorithm.actor(first, True), jax.random.key(11), 300)
    np.testing.assert_allclose(found["greedy"]["return_of_agents"][0], np.mean(returns, axis=0), rtol=1e-4)
    teams = np.mean(returns, axis=1)
    error = np.std(teams, ddof=1) / np.sqrt(300)
    np.testing.assert_allclose(found["greedy"]["standard_error"][0], error, rtol=1e-3)
    assert found["greedy"]["return_per_agent"] != finished.summary["return_per_agent"]
    assert 0 <= found["random"]["measures"]["right"][0] <= 2


def finished_config(finished: Any) -> Any:
    from leed_jax.report.directory import read_config  # noqa: PLC0415

    return read_config(finished.directory)


def test_a_checkpoint_that_is_being_written_is_left_alone(finished: Any, tmp_path: Path) -> None:
    copied = shutil.copytree(finished.directory, tmp_path / "copied")
    writing = copied / "checkpoints" / "6.orbax-checkpoint-tmp"
    (writing / "part").mkdir(parents=True)
    (copied / "checkpoints" / "discarded" / "2").mkdir(parents=True)
    assert main([str(copied)]) == 0
    assert (writing / "part").is_dir()
    assert (copied / "checkpoints" / "discarded" / "2").is_dir()


def test_a_run_without_a_checkpoint_says_so(finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copied = shutil.copytree(finished.directory, tmp_path / "copied")
    shutil.rmtree(copied / "checkpoints")
    assert main([str(copied)]) == 2
    assert "has no checkpoint yet" in capsys.readouterr().err
    assert not (copied / "checkpoints").exists()


def test_the_best_checkpoint_can_be_evaluated(finished: Any, tmp_path: Path) -> None:
    found = evaluated(finished, tmp_path, "--checkpoint", "best")
    assert found["checkpoint"] in (2, 4)
    assert found["env_steps"] == 64 * found["checkpoint"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "77"], "has no checkpoint 77"),
        (["--checkpoint", "first"], "give last, best, or the number"),
        (["--episodes", "3"], "evaluation.episodes=3"),
        (["--out", "/"], "--out /: it is a folder"),
        (["--out", "nowhere/found.json"], "nowhere is not a writable folder"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    finished: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([str(finished.directory), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_damaged_metrics_are_refused_before_anything_is_compiled(
    finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = shutil.copytree(finished.directory, tmp_path / "copied")
    path = copied / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:4], lines[4][:20], "\n", *lines[5:]]))
    monkeypatch.setattr(command, "prepare", None)
    assert main([str(copied)]) == 2
    assert f"{path} is damaged: line 5 is not valid JSON" in capsys.readouterr().err


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "no run directory" in capsys.readouterr().err
