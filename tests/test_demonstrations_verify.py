"""`python -m leed_jax.demonstrations verify`: sound sets pass, broken ones and wrong figures do not."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from probes import Line
from safetensors.numpy import load, save
from set_folders import (
    ARRAYS,
    LINE,
    TRANSCRIPT,
    WALK,
    edit_manifest,
    put_file,
    read_json,
    refused,
    run,
    write_line_set,
    write_walk_set,
)

from leed_jax.cli.generate import main as generate
from leed_jax.config.environments import make_environment
from leed_jax.demonstrations import find_set, load_demonstrations, load_verified, read_manifest
from leed_jax.generation import verify

RECORDED, ATTEMPT = "mpe_spread/qwen2.5-coder-1.5b", "mpe_spread/qwen2.5-coder-0.5b"


def built_environment(identity: dict[str, Any]) -> Any:
    return make_environment({"name": identity["name"], **identity["config"]})


@pytest.fixture
def line_set(tmp_path: Path) -> Path:
    return write_line_set(tmp_path / "set")


# --- verify -----------------------------------------------------------------------------------------------------


def test_the_recording_took_as_long_as_its_rounds() -> None:
    manifest = read_manifest(find_set(RECORDED))
    loaded = load_verified(find_set(RECORDED), manifest, built_environment(manifest["environment"]))
    assert loaded.recording_s == pytest.approx(172.7 + 152.3 + 202.2 + 203.9, abs=0.1)


def test_recorded_sets_are_what_they_say(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_QUICK_CONTROL", 64)
    status, output, errors = run(capsys, "verify", "--quick", RECORDED, ATTEMPT)
    assert (status, errors) == (0, "")
    assert output.count("The sha256 of manifest.json and of each file") == 2


def change_return(manifest: dict[str, Any]) -> None:
    manifest["plans"][0] |= {"report_return_per_agent": 99.0, "report_returns": [99.0] * 2}


def change_control(manifest: dict[str, Any]) -> None:
    manifest["rounds"][0]["control"] |= {"mean": -60.0, "low": -70.0, "high": -50.0}


def change_random(manifest: dict[str, Any]) -> None:
    manifest["random_return_per_agent"] = -99.0


def remove_setting(manifest: dict[str, Any]) -> None:
    del manifest["settings"]["control_plans"]


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set of random plans with recorded settings, a control and a report."""
    out = tmp_path_factory.mktemp("generated") / "set"
    sizes = {"rounds": 1, "candidates": 3, "selection_episodes": 4, "report_episodes": 8, "control_plans": 20}
    settings = [f"generate.{name}={value}" for name, value in sizes.items()]
    assert generate(["env.name=probes:Line", "llm=random", f"generate.out={out}", *settings]) == 0
    return out


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (change_return, "reported return of plans[0]"),
        (change_control, "mean of the control of round 0"),
        (change_random, "random_return_per_agent"),
        (remove_setting, "settings.control_plans=None"),
    ],
)
def test_a_wrong_figure_is_found_though_all_hashes_are_right(
    capsys: Any, tmp_path: Path, generated: Path, change: Callable[[dict[str, Any]], None], what: str
) -> None:
    folder = Path(shutil.copytree(generated, tmp_path / "set"))
    manifest = read_json(folder)
    change(manifest)
    names = ("plans", "rounds", "settings", "random_return_per_agent")
    edit_manifest(folder, **{name: manifest[name] for name in names})
    assert what in refused(capsys, "verify", "--quick", folder, LINE)


def edit_transcript(folder: Path, **changes: Any) -> None:
    lines = [{**json.loads(line), **changes} for line in (folder / TRANSCRIPT).read_text().splitlines()]
    put_file(folder, TRANSCRIPT, "".join(json.dumps(line) + "\n" for line in lines).encode())


def test_wrong_replies_are_found_though_all_hashes_are_right(capsys: Any, tmp_path: Path, generated: Path) -> None:
    folder = Path(shutil.copytree(generated, tmp_path / "set"))
    reply = json.loads((folder / TRANSCRIPT).read_text().splitlines()[0])["reply"]
    for changes, what in (
        ({"reply": {**reply, "text": "I have no idea."}}, "has other triples than its reply"),
        ({"reply": None}, "has a plan without a reply"),
        ({"reply": {"text": 3}}, "cannot be parsed again"),
    ):
        edit_transcript(folder, **changes)
        assert what in refused(capsys, "verify", "--quick", folder, LINE)


def test_verification_says_what_it_checked(capsys: Any, line_set: Path, tmp_path: Path) -> None:
    walk = write_walk_set(tmp_path / "walk")
    status, output, _ = run(capsys, "verify", line_set, LINE)
    assert status == 0
    assert "that are in the transcript, too: 2." in output
    assert "give the recorded episodes: 100.00% of the steps agree" in output
    assert "Plans with the recorded return on 1,024 other episodes: 2." in output
    assert output.splitlines()[-1].startswith("  Not verified: that tiny wrote the replies")
    status, output, _ = run(capsys, "verify", walk, WALK)
    assert status == 0
    assert "give the recorded episodes: 100.00%" in output
    assert "other episodes: 0." in output


def test_the_first_broken_set_ends_verification(capsys: Any, line_set: Path, tmp_path: Path) -> None:
    broken = write_line_set(tmp_path / "broken")
    os.truncate(broken / TRANSCRIPT, 3)
    status, output, errors = run(capsys, "verify", line_set, broken, line_set, LINE)
    assert status == 2
    assert "broken/transcript.jsonl is truncated" in errors
    assert output.count("100.00%") == 1


@pytest.mark.parametrize("name", ["observation", "action", "taken", "reward"])
def test_arrays_that_the_plans_do_not_give_are_found(capsys: Any, line_set: Path, name: str) -> None:
    arrays = load((line_set / ARRAYS).read_bytes())
    changed = arrays[name].copy()
    changed[1, 2:4] = (changed[1, 2:4] + 1) % 12
    put_file(line_set, ARRAYS, save({**arrays, name: changed}))
    load_demonstrations(str(line_set), Line())
    assert "does not hold what the plans give with seed 3 and noise 0: 96.88%" in refused(
        capsys, "verify", line_set, LINE
    )


def test_another_seed_or_other_states_are_found(capsys: Any, tmp_path: Path) -> None:
    walk = write_walk_set(tmp_path / "walk")
    edit_manifest(walk, states_seed=12)
    assert "does not hold what the plans give" in refused(capsys, "verify", walk, WALK)
    noisy = write_line_set(tmp_path / "noisy", noise=1.0)
    edit_manifest(noisy, recorded={"episodes": 8, "noise": 1.0, "seed": 4})
    assert "with seed 4 and noise 1" in refused(capsys, "verify", noisy, LINE)


@pytest.mark.parametrize(
    "changes", [{"report_return_per_agent": 15.0, "report_returns": None}, {"report_returns": [20.0, 9.0]}]
)
def test_a_return_that_a_plan_does_not_earn_is_found(capsys: Any, line_set: Path, changes: dict[str, Any]) -> None:
    plans = read_json(line_set)["plans"]
    edit_manifest(line_set, plans=[{**plans[0], **changes}, plans[1]])
    message = refused(capsys, "verify", line_set, LINE)
    assert "as the reported return of plans[0], and executed again it is" in message


# --- which code a manifest may run ------------------------------------------------------------------------------


def test_a_manifest_does_not_choose_what_is_imported(
    capsys: Any, line_set: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    config = {"num_agents": 2, "max_steps": 8, "marks": 5}
    for name in ("trap:Line", "leed_jax.envs.trap:../x", "leed_jax.envs:os", "leed_jax.envs.a.b:C", "", ":"):
        edit_manifest(line_set, environment={"name": name, "config": config})
        assert "does not come with leed_jax" in refused(capsys, "verify", line_set)
        assert "name that class" in refused(capsys, "verify", line_set, LINE)
    edit_manifest(line_set, environment={"name": "leed_jax.envs.trap:Line", "config": config})
    assert "cannot be built" in refused(capsys, "verify", line_set)
    spread = "leed_jax.envs.mpe_spread:SimpleSpread"
    edit_manifest(line_set, environment={"name": spread, "config": {"name": "trap:Line"}})
    assert "was made for another environment" in refused(capsys, "verify", line_set)
    edit_manifest(line_set, environment={"name": spread, "config": {"x\x1b": 1}})
    assert "cannot be built" in refused(capsys, "verify", line_set)


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"num_agents": 10**9}, "has num_agents=1000000000"),
        ({"max_steps": -(10**9)}, "has max_steps=-1000000000"),
        ({"num_agents": 1001}, "1001 agents, more than 1000"),
        ({"num_agents": 0}, "cannot be built"),
        ({"num_landmarks": "many"}, "cannot be built"),
    ],
)
def test_an_environment_without_measure_is_refused(
    capsys: Any, line_set: Path, config: dict[str, Any], what: str
) -> None:
    edit_manifest(line_set, environment={"name": "leed_jax.envs.mpe_spread:SimpleSpread", "config": config})
    assert what in refused(capsys, "verify", line_set)
