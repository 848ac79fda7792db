"""The wheel: built, installed elsewhere, and trained from, with nothing of the checkout in reach."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import leed_jax

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("src", "envs", "demos", "experiments", "pyproject.toml", "README.md", "LICENSE")
IGNORED = shutil.ignore_patterns("__pycache__", "*.egg-info")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed wheel and nothing else."""
    work = tmp_path_factory.mktemp("wheel")
    source = work / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=IGNORED)
        else:
            shutil.copy(ROOT / name, source / name)
    build = ["build", "--wheel", "--no-isolation", "--outdir", str(work), str(source)]
    subprocess.run([sys.executable, "-m", *build], check=True, capture_output=True, text=True)
    (wheel,) = work.glob("*.whl")
    site = work / "site"
    install = ["pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run([sys.executable, "-m", *install], check=True, capture_output=True, text=True)
    return site


def python(site: Path, cwd: Path, *arguments: str) -> str:
    """Run Python with the installed wheel first on its path, from a folder that is not the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_package_comes_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = sorted(str(p.parent.relative_to(ROOT / "src")) for p in (ROOT / "src").rglob("__init__.py"))
    top = [f"leed_jax.{name}" for name in ("demos", "envs", "experiments")]
    assert sorted(declared) == sorted([name.replace("/", ".") for name in found] + top)
    code = "import importlib, sys; print(*[importlib.import_module(n).__file__ for n in sys.argv[1:]], sep='\\n')"
    for place in python(installed, tmp_path, "-c", code, *declared).split():
        assert Path(place).is_relative_to(installed)


def test_a_short_training_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    settings = [
        "num_envs=8",
        "total_steps=416",
        "updates_per_chunk=1",
        "network.hidden_sizes=[8]",
        "expert.batch_size=8",
    ]
    fewer = ["expert.batch_size=8", "demonstrations.episodes=16", "evaluation.episodes=256", f"out={tmp_path / 'run'}"]
    printed = python(installed, tmp_path, "-m", "leed_jax.run", "experiment=mpe_spread", *settings, *fewer)
    assert "return per agent" in printed
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["env_steps"] == 416
    assert summary["instructions_return_per_agent"] > summary["random_return_per_agent"]


def test_the_public_names_are_there() -> None:
    for name in leed_jax.__all__:
        assert getattr(leed_jax, name) is not None
    assert set(leed_jax.__all__) <= set(dir(leed_jax))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = leed_jax.nonsense
