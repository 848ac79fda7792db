"""`llm=written`: a plan of one's own becomes a demonstration set like any other."""

import json
import re
from pathlib import Path

import pytest
from probes import Line

from leed_jax.cli.generate import main
from leed_jax.demonstrations import load_demonstrations, read_manifest
from leed_jax.envs.mpe_spread import SimpleSpread
from leed_jax.generation.candidates import PlanRequest, read_attempt
from leed_jax.llm import ChatRequest, Message, Reply, Usage

TRIPLES = [["Walk", "mark_2", "agent_0"], ["Stay", "forever", "agent_1"]]


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


def write(path: Path, *triples: list[str]) -> Path:
    path.write_text(json.dumps({"instructions": triples}))
    return path


def test_a_written_plan_is_asked_for_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = write(tmp_path / "plan.json", *TRIPLES)
    assert generate(tmp_path / "set", plan, "generate.rounds=4", "generate.candidates=8") == 0
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert [(r["requests"], r["candidates"], r["control"]["candidates"]) for r in manifest["rounds"]] == [(1, 1, 1)]
    assert len((tmp_path / "set" / "transcript.jsonl").read_text().splitlines()) == 1
    assert "1 requests sent" in capsys.readouterr().out
    # The recorded reply can be used again with the default settings.
    assert main(["env.name=probes:Line", f"llm.path={tmp_path / 'set'}"]) == 0


def test_plans_for_several_states_are_asked_for_once(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"episodes": [{"episode": f"e{i}", "instructions": TRIPLES} for i in range(5)]}))
    more = ("generate.kind=episodes", "generate.episodes=5", "env.name=probes:MeasuredLine")
    assert generate(tmp_path / "set", plan, *more) == 0
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert sorted(plan["episode"] for plan in manifest["plans"]) == [0, 1, 2, 3, 4]
    assert manifest["rounds"][0]["requests"] == 1


def test_a_failed_attempt_says_what_is_wrong_and_the_corrected_file_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, out = write(tmp_path / "plan.json", ["Fly", "mark_2", "agent_0"]), tmp_path / "set"
    assert generate(out, plan) == 2
    error = capsys.readouterr().err
    assert "plan.json holds no executable plan" in error
    assert 'there is no command "Fly"' in error
    assert "agent_1" in error
    assert "larger model" not in error
    assert not out.exists()
    write(plan, *TRIPLES)
    assert generate(out, plan) == 0
    assert load_demonstrations(str(out), Line()).manifest["plans"][0]["triples"] == TRIPLES


def test_what_is_left_out_of_a_plan_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = write(tmp_path / "plan.json", *TRIPLES, ["Fly", "mark_2", "agent_0"])
    assert generate(tmp_path / "set", plan) == 0
    assert 'Left out: ["Fly", "mark_2", "agent_0"]: there is no command "Fly"' in capsys.readouterr().out


def test_the_help_and_the_documentation_show_the_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert '{"instructions": [["MoveTo", "nearest_landmark", "agent_0"]' in capsys.readouterr().out
    text = (Path(__file__).parents[1] / "docs" / "written_plans.md").read_text()
    one, *others = re.findall(r"```json\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "plan.json").write_text(one)
    sizes = ("selection_episodes=8", "report_episodes=8", "control_plans=5", "recorded_episodes=0")
    fixed = ["experiment=mpe_spread", "llm=written", *(f"generate.{size}" for size in sizes)]
    assert main([*fixed, f"llm.path={tmp_path / 'plan.json'}", f"generate.out={tmp_path / 'set'}"]) == 0
    assert read_manifest(tmp_path / "set")["rounds"][0]["validity"] == 1.0
    words = SimpleSpread().vocabulary
    for content, episodes in zip(others, [(), (0, 1)], strict=True):
        asked = PlanRequest(ChatRequest((Message("user", "-"),)), episodes)
        attempt = read_attempt(words, 4, 0, 0, asked, Reply(content, Usage(), "stop", "written"))
        assert all(candidate.plan is not None and not candidate.problems for candidate in attempt.candidates)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(tmp_path / "set", tmp_path / "none.json") == 2
    assert "none.json cannot be read" in capsys.readouterr().err
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    assert generate(tmp_path / "set", tmp_path / "bytes") == 2
    assert main(["env.name=probes:Line", "llm=written", f"generate.out={tmp_path / 'set'}"]) == 2
    assert "llm=written needs a file" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
