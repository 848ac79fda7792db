"""Weights & Biases and MLflow, each offline, with the packages themselves."""

import sys

import pytest

from leed_jax.errors import ConfigurationError
from leed_jax.report.loggers import check_loggers, make_loggers

CONFIG = {"algorithm": "ippo", "ppo": {"learning_rate": 0.1}}


def rows(chunk, seeds=2):
    common = {"chunk": chunk, "env_steps": 10 * chunk, "return_of_agents": [1.0, 3.0]}
    return [{**common, "seed": seed, "return_per_agent": 2.0 * chunk + seed} for seed in range(seeds)]


def write(name, folder, chunks):
    logger = make_loggers((name,), folder, 0, CONFIG)
    for chunk in chunks:
        logger.write(rows(chunk))
    logger.sync()
    logger.close()


# MLflow itself uses names that SQLAlchemy is about to remove.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_mlflow_holds_every_point_after_a_resume(tmp_path, monkeypatch):
    pytest.importorskip("sqlalchemy")
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write("mlflow", tmp_path, (1, 2))
    write("mlflow", tmp_path, (3,))
    client = tracking.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("leed_jax").experiment_id])
    assert len(runs) == 1
    assert runs[0].data.params == {"algorithm": "ippo", "ppo.learning_rate": "0.1"}
    history = client.get_metric_history(runs[0].info.run_id, "return_per_agent/seed1")
    assert [(point.step, point.value) for point in history] == [(10, 3.0), (20, 5.0), (30, 7.0)]
    assert runs[0].data.metrics["return_of_agents/agent_1/seed0"] == 3.0


def test_wandb_writes_its_offline_run_to_the_run_directory(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    write("wandb", tmp_path, (1, 2))
    wandb.teardown()  # as at the end of a process
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    # A log of protocol buffers, whose texts stand in it as they are.
    assert file.read_bytes().count(b"return_per_agent/seed1") >= 2


@pytest.mark.parametrize(("name", "module"), [("wandb", "wandb"), ("mlflow", "mlflow.tracking")])
def test_a_package_that_is_not_installed_is_named_before_time_is_spent(name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=rf"leed-jax\[{name}\]"):
        check_loggers(("jsonl", name))
