"""`llm=written`: a plan of one's own becomes a demonstration set like any other."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from probes import Line
from tiny_run import quick_compilation

from leed_jax.cli.generate import main
from leed_jax.demonstrations import load_demonstrations

TRIPLES = [["Walk", "mark_2", "agent_0"], ["Stay", "forever", "agent_1"]]


@pytest.fixture(scope="module", autouse=True)
def quickly() -> Iterator[None]:
    with quick_compilation():
        yield


def generate(out: Path, plan: Path, *more: str) -> int:
    sizes = ("rounds=1", "candidates=1", "selection_episodes=4", "report_episodes=4", "control_plans=5")
    fixed = ("env.name=probes:Line", "llm=written", f"llm.path={plan}", f"generate.out={out}")
    return main([*fixed, *(f"generate.{size}" for size in sizes), *more])


def test_a_written_plan_is_executed_and_recorded(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"idea": "Mine.", "instructions": TRIPLES}))
    assert generate(tmp_path / "set", plan, "generate.recorded_episodes=3") == 0
    loaded = load_demonstrations(str(tmp_path / "set"), Line())
    assert loaded.manifest["model"] == "written-instructions"
    assert loaded.manifest["plans"][0]["triples"] == TRIPLES
    # Two steps to mark 2, and six more there; the other one stays at mark 0.
    assert loaded.manifest["plans"][0]["report_returns"] == [1 + 7 * 2, 0]
    assert len(loaded.episodes().reward) == 3


def test_a_written_plan_that_is_none_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"idea": "", "instructions": [["Fly", "mark_2", "agent_0"]]}))
    generate(tmp_path / "set", plan)
    assert "Fly" in capsys.readouterr().out + (tmp_path / "set" / "transcript.jsonl").read_text()
    assert not json.loads((tmp_path / "set" / "manifest.json").read_text())["plans"]


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(tmp_path / "set", tmp_path / "none.json") == 2
    assert "none.json cannot be read" in capsys.readouterr().err
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    assert generate(tmp_path / "set", tmp_path / "bytes") == 2
    assert main(["env.name=probes:Line", "llm=written", f"generate.out={tmp_path / 'set'}"]) == 2
    assert "llm=written needs a file" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
