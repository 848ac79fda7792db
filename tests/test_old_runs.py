"""Run directories that version 0.1 left are evaluated, loaded, and continued as they would have been then."""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from leed_jax.cli.evaluate import evaluate_run
from leed_jax.report.checkpoints import read_parameters
from leed_jax.report.directory import read_config
from leed_jax.training.runner import resume_run
from leed_jax.training.trained_policy import load_policy

OLD = Path(__file__).parent / "old_runs"
RUNS = ("leed", "qmix")


@pytest.fixture
def run(request, tmp_path):
    """A copy of a run, which a test may change."""
    return Path(shutil.copytree(OLD / request.param, tmp_path / request.param))


@pytest.mark.parametrize("run", RUNS, indirect=True)
def test_an_old_run_is_evaluated_as_it_was_then(run):
    summary = json.loads((run / "summary.json").read_text())
    found = evaluate_run(run, read_config(run))
    np.testing.assert_allclose(found["greedy"]["return_per_agent"], summary["return_per_agent"], rtol=1e-4)


@pytest.mark.parametrize("run", RUNS, indirect=True)
def test_an_old_policy_acts(run):
    policy = load_policy(run, which="last")
    obs = jnp.linspace(-1.0, 1.0, 3 * policy.environment.observation_size).reshape(3, -1)
    action, _ = policy.act(obs)
    assert action.shape == (3,)
    value, _ = policy.value(obs)
    assert np.all(np.isfinite(value))


@pytest.mark.parametrize("run", RUNS, indirect=True)
def test_an_old_run_is_continued_from_its_checkpoint(run):
    """The run is set back to its first checkpoint; the rest is trained anew, by the present code."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    _, recorded = read_parameters(run, "last")
    shutil.rmtree(run / "checkpoints" / "4")
    (run / "summary.json").unlink()
    resume_run(run)
    chunk, parameters = read_parameters(run, "last")
    assert chunk == 4
    for name, value in recorded.items():
        np.testing.assert_allclose(parameters[name], value, rtol=1e-3, atol=1e-4)
    after = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(row["chunk"], row["seed"]) for row in after] == [(row["chunk"], row["seed"]) for row in rows]
    for now, then in zip(after, rows, strict=True):
        np.testing.assert_allclose(now["return_per_agent"], then["return_per_agent"], rtol=1e-3)
