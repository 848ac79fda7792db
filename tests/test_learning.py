"""Learning on the real task with the default settings; minutes, so CI leaves it out (python -m pytest -m slow)."""

from pathlib import Path

import pytest

from leed_jax.config.compose import compose_config
from leed_jax.training.runner import start_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def trained(out: Path, *settings: str) -> dict:
    summary = start_run(compose_config(["experiment=mpe_spread", f"out={out}", *settings])).summary
    assert summary is not None
    return dict(summary)


def test_the_main_job_reaches_its_target(tmp_path: Path) -> None:
    leed = trained(tmp_path / "leed", "seed=17")
    assert leed["env_steps"] <= 1_000_000
    assert leed["return_per_agent"][0] >= -12.0
    ippo = trained(tmp_path / "ippo", "seed=17", "algorithm=ippo")
    assert leed["return_per_agent"][0] >= ippo["return_per_agent"][0] + 0.5


def test_a_fifth_of_the_steps_is_enough_to_be_far_ahead(tmp_path: Path) -> None:
    leed, ippo = (
        trained(tmp_path / name, "seed=23", "total_steps=200_000", f"algorithm={name}") for name in ("leed", "ippo")
    )
    assert leed["return_per_agent"][0] >= ippo["return_per_agent"][0] + 2.0
