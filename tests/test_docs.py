"""The README and the documentation: examples run, commands are accepted, links lead somewhere, and the site builds."""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import leed_jax
from leed_jax.cli import compare as compare_runs
from leed_jax.cli import demonstrations, evaluate, run
from leed_jax.cli.run import _resume_settings
from leed_jax.config import GenerateConfig, to_dictionary
from leed_jax.config.compose import compose_config
from leed_jax.studies.study import read_study

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
# Pages below docs/results, but for two, are written by studies.
PAGES = [
    *(README, ROOT / "CONTRIBUTING.md"),
    *sorted(p for p in (ROOT / "docs").rglob("*.md") if p.parent.parent.name != "results"),
]
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
# As small as those of the test of the wheel, so that both compile the same programs.
SMALL = (
    *("num_envs=8", "total_steps=416", "updates_per_chunk=1", "network.hidden_sizes=[8]"),
    *("expert.batch_size=8", "demonstrations.episodes=16", "evaluation.episodes=256"),
)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return [code for kind, title, code in FENCE.findall(page.read_text()) if kind == language and not title]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory, whose modules can be imported until the test is over."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def write_files(where: Path) -> None:
    """Write the files that the pages show; a file that two of them show is the same in both."""
    for page in PAGES:
        for _, title, content in FENCE.findall(page.read_text()):
            if title and (where / title).exists():
                assert (where / title).read_text() == content, f"{title} in {page}"
            elif title:
                (where / title).write_text(content)
    importlib.invalidate_caches()


# --- examples ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_the_python_examples_run(page: Path, folder: Path) -> None:
    write_files(folder)
    namespace = {"__name__": "example"}
    for number, code in enumerate(blocks(page, "python"), start=1):
        exec(compile(code, f"{page.name}, block {number}", "exec"), namespace)  # noqa: S102 - the project's own pages


def test_the_first_run_works_as_written(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first commands, with fewer steps, and animations of a single episode."""
    monkeypatch.setattr("leed_jax.report.animation.BUDGET_S", 0.1)
    mains = {"run": run.main, "evaluate": evaluate.main, "compare": compare_runs.main}
    page = (ROOT / "docs" / "tutorials" / "first_run.md").read_text().partition("With one seed each")[0]
    for arguments in commands("\n".join(code for kind, _, code in FENCE.findall(page) if kind == "sh"), folder):
        module, *rest = arguments
        small = SMALL if module == "run" and "--help" not in rest else ()
        assert mains[module]([*rest, *small]) == 0, arguments
    assert "P(better than" in capsys.readouterr().out
    table = page.partition("| file | content |")[2].partition("[Reading")[0]
    for name in re.findall(r"^\| `([\w./]+)` \|", table, flags=re.MULTILINE):
        assert (folder / "runs" / "leed" / name).exists(), name
    assert (folder / "runs" / "comparison").is_dir()


# --- commands ---------------------------------------------------------------------------------------------------


def commands(script: str, where: Path) -> list[list[str]]:
    """The commands `python -m leed_jax.NAME ...` of a script, as a shell expands them; no program is started."""
    script = script.replace(".venv/bin/python ", "python ")
    show = r"""python() { printf '%s\037' "$@"; printf '\n'; }"""
    done = subprocess.run(
        ["/bin/bash", "-c", f"{show}\n{script}"],
        env={"PATH": "/nowhere", "HOME": str(where)},
        cwd=where,
        check=False,
        capture_output=True,
        text=True,
    )
    assert "syntax error" not in done.stderr, done.stderr
    lines = [line.split("\037")[:-1] for line in done.stdout.splitlines()]
    started = [words[1:] for words in lines if words[1:] and words[1].startswith("leed_jax.")]
    return [[name.removeprefix("leed_jax."), *rest] for name, *rest in started]


def accept(name: str, arguments: list[str]) -> None:
    """Check the arguments of a command as the command does, short of doing anything."""
    if "--help" in arguments or arguments == ["list"]:
        return
    if name == "run":
        if _resume_settings(arguments) is None:
            compose_config(arguments)
    elif name == "generate":
        compose_config(arguments, GenerateConfig)
    elif name == "study":
        read_study(arguments[0], arguments[1:])
    else:
        parsers = {"evaluate": evaluate, "compare": compare_runs, "demonstrations": demonstrations}
        parsers[name]._parser().parse_args(arguments)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sh")], ids=name_of)
def test_commands_are_accepted(page: Path, folder: Path) -> None:
    write_files(folder)
    # What the recipes use as an experiment: the configuration that a run has recorded.
    config = folder / "runs" / "leed" / "config.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(yaml.safe_dump(to_dictionary(compose_config(["experiment=mpe_spread"]))))
    for name, *arguments in commands("\n".join(blocks(page, "sh")), folder):
        accept(name, arguments)


def test_an_experiment_file_may_start_from_another_one(folder: Path) -> None:
    write_files(folder)
    leed, ippo = (compose_config(["experiment=my_experiment.yaml", f"algorithm={name}"]) for name in ("leed", "ippo"))
    assert (leed.env["num_agents"], leed.total_steps, leed.num_envs) == (5, 2_000_000, 256)
    assert (leed.ppo.learning_rate, ippo.ppo.learning_rate) == (0.002, 0.0005)


# --- the README and the site ------------------------------------------------------------------------------------


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("https://")]
    assert [link for link in links if not (ROOT / link).exists()] == []
    # What .ci/run executes.
    assert re.search(r"^.*pytest$", text, flags=re.MULTILINE)[0].endswith(".venv/bin/python -m pytest")


def test_the_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "reference" / "api.md").read_text()
    named = re.findall(r"^::: leed_jax\.(\w+)$", page, flags=re.MULTILINE)
    assert sorted(named) == sorted(name for name in leed_jax.__all__ if name != "__version__")


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="MkDocs is not installed: pip install '.[docs]'")
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    settings = (tmp_path / "reference" / "configuration" / "index.html").read_text()
    assert "ppo.clip_epsilon" in settings
    assert "<!--" not in re.sub(r"<!--\[if.*?-->", "", settings)
    # No page fetches anything from the network.
    fetched = r'<(?:script|img|iframe|link rel="(?:stylesheet|preconnect)")[^>]*(?:src|href)="(https?:[^"]+)"'
    for page in tmp_path.rglob("*.html"):
        assert re.findall(fetched, page.read_text()) == [], page
