"""`python -m leed_jax.generate` against a loopback server, and what it leaves on disk."""

import asyncio
import dataclasses
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from loopback import closed_port, good, refusal, serving
from probes import Line, MeasuredLine
from rich.console import Console
from scripted import FAR, HALF, NEAR, RETURN, SMALL, text

from leed_jax.cli.generate import main
from leed_jax.config import RunConfig
from leed_jax.demonstrations import load_demonstrations, read_manifest
from leed_jax.errors import RunDirectoryError
from leed_jax.files import lock_folder
from leed_jax.generation.display import GenerationProgress, print_table
from leed_jax.generation.loop import GenerationResult, Round
from leed_jax.generation.record import output_folder
from leed_jax.generation.scoring import Control
from leed_jax.llm import Limits, Meter, Reply, Spending, Usage

SECRET = "sk-very-secret-0123456789"  # noqa: S105 - a made-up one
FOUR = [good(text(NEAR)), good(text(FAR)), good(text(HALF)), good("I cannot help with that.")]


def settings(out: Path | None, *more: str, environment: str = "Line") -> list[str]:
    left_out = ("out", "kind", "prompt", "episodes", "episodes_per_prompt")
    sizes = {name: value for name, value in dataclasses.asdict(SMALL).items() if name not in left_out}
    return [
        f"env.name=probes:{environment}",
        *(f"generate.{name}={value}" for name, value in sizes.items()),
        *([] if out is None else [f"generate.out={out}"]),
        *more,
    ]


def call(script: Any, out: Path, *more: str, environment: str = "Line") -> tuple[int, Any]:
    """Run the command line against a loopback server in this process, and return its status and the server."""

    async def serve() -> tuple[int, Any]:
        async with serving(*script) as server:
            endpoint = ("llm=openai", f"llm.base_url={server.base_url}", "llm.model=served/model")
            fixed = ("llm.concurrency=1", "llm.response_format=none", "llm.max_attempts=1")
            arguments = settings(out, *endpoint, *fixed, *more, environment=environment)
            return await asyncio.to_thread(main, arguments), server

    return asyncio.run(serve())


def abandoned(script: Any, out: Path, rounds: int, *more: str) -> Any:
    """The same, ended from outside after so many rounds; returns the server."""
    tell, seen = GenerationProgress.round, []

    def end(self: GenerationProgress, r: Round) -> None:
        tell(self, r)
        seen.append(r)
        if len(seen) == rounds:
            raise RunDirectoryError("ended from outside")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GenerationProgress, "round", end)
        status, server = call(script, out, *more)
    assert status == 2
    assert not (out / "manifest.json").exists()
    return server


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "transcript.jsonl").read_text().splitlines()]


def test_a_set_is_recorded_that_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", SECRET)
    out = tmp_path / "set"
    status, server = call(FOUR, out, "llm.api_key_env=SOME_KEY", "llm.completion_price=1e6")
    assert status == 0
    assert server.received[0].headers["authorization"] == f"Bearer {SECRET}"
    loaded = load_demonstrations(str(out), Line())
    manifest = loaded.manifest
    assert [plan["triples"][0][1] for plan in manifest["plans"]] == ["mark_3", "mark_2", "mark_1"]
    best = manifest["plans"][0]
    assert (best["round"], best["candidate"], best["episode"]) == (0, 1, None)
    assert best["selection_return_per_agent"] == best["report_return_per_agent"] == RETURN[3]
    assert best["report_returns"] == [RETURN[3]] * 2
    assert (manifest["provider"], manifest["model"], manifest["kind"]) == ("openai", "served/model", "relational")
    assert manifest["prompt"]["name"] == "plan_v2"
    assert manifest["usage"] == {"calls": 4, "prompt_tokens": 28, "completion_tokens": 12, "cost": 12.0}
    assert manifest["settings"]["candidates"] == 2
    assert len(manifest["rounds"]) == 2
    assert loaded.episodes().action.shape[0] == SMALL.recorded_episodes
    lines = lines_of(out)
    assert [(line["round"], line["candidate"], line["return_per_agent"]) for line in lines] == [
        (0, 0, RETURN[1]),
        (0, 1, RETURN[3]),
        (1, 0, RETURN[2]),
        (1, 1, None),
    ]
    assert all(line["prompt"] == manifest["prompt"] for line in lines)
    assert "no command" in lines[2]["problems"][0]
    assert json.loads(lines[0]["reply"]["text"])["instructions"] == NEAR
    assert sorted(file.name for file in out.iterdir()) == [
        "demonstrations.safetensors",
        "manifest.json",
        "rounds.png",
        "transcript.jsonl",
    ]
    printed = capsys.readouterr()
    assert "cost 12" in printed.out
    # 40 tokens for 5 recorded episodes of 8 steps.
    assert "1000 tokens per thousand demonstration steps (40 steps" in printed.out
    assert "agent_0 21.00, agent_1 21.00" in printed.out
    for file in out.iterdir():
        assert SECRET.encode() not in file.read_bytes()
    assert SECRET not in printed.out + printed.err


def test_what_was_recorded_can_be_gone_through_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, again = tmp_path / "set", tmp_path / "again"
    # The third request of round 2 is not sent.
    call(FOUR, out, "generate.rounds=9", "llm.max_calls=4", "llm.temperature=0.25", "seed=5")
    first = capsys.readouterr().out
    assert main(settings(None, f"demonstrations.path={out}", "generate.rounds=7", "generate.candidates=3")) == 0
    second = capsys.readouterr().out
    rows = [line for line in first.splitlines() if line.split()[:1] in (["1"], ["2"])]
    assert len(rows) == 2
    assert [line for line in second.splitlines() if line.split()[:1] in (["1"], ["2"])] == rows
    assert "Recorded in" not in second
    assert main(settings(again, f"llm.path={out}")) == 0
    old, new = read_manifest(out), read_manifest(again)
    assert (new["provider"], new["model"], new["settings"]["seed"]) == ("replay", "served/model", 5)
    for name in ("plans", "usage", "random_return_per_agent", "prompt", "recorded"):
        assert old[name] == new[name]
    assert (again / "demonstrations.safetensors").read_bytes() == (out / "demonstrations.safetensors").read_bytes()


def test_plans_alone_can_be_recorded(tmp_path: Path) -> None:
    assert call(FOUR, tmp_path, "generate.recorded_episodes=0")[0] == 0
    loaded = load_demonstrations(str(tmp_path), Line())
    assert (loaded.recorded, loaded.manifest["recorded"]) == (None, None)
    assert loaded.episodes(3).action.shape[0] == 3


def test_plans_for_initial_states_are_recorded_with_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = [["Walk", "mark_4", "agent_0"], ["Stay", "forever", "agent_1"]]
    reply = {"episodes": [{"episode": f"e{i}", "facts": "", "instructions": entry} for i in range(3)]}
    out, sizes = tmp_path / "set", ("generate.kind=episodes", "generate.episodes=3", "generate.recorded_episodes=6")
    status, server = call([good(json.dumps(reply))], out, *sizes, environment="MeasuredLine")
    assert status == 0
    assert len(server.received) == 4
    assert "in that very state" in capsys.readouterr().out
    loaded = load_demonstrations(str(out), MeasuredLine())
    manifest = loaded.manifest
    assert (manifest["kind"], manifest["states_seed"]) == ("episodes", 0)
    assert sorted(plan["episode"] for plan in manifest["plans"]) == [0, 1, 2]
    # The recorded episodes start where the plans were written for, and so earn what the plans did.
    returns = loaded.episodes().episode_return().mean(axis=-1)
    assert returns.tolist() == [plan["selection_return_per_agent"] for plan in manifest["plans"]] * 2
    assert [plan["episode"] for plan in lines_of(out)[0]["plans"]] == [0, 1, 2]
    assert main(settings(None, f"llm.path={out}", environment="MeasuredLine")) == 0


def test_an_attempt_without_any_plan_is_recorded_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _ = call([good("I would rather not.")], tmp_path / "set")
    error = capsys.readouterr().err
    assert status == 2
    assert "None of the 4 replies of served/model could be executed" in error
    assert "holds no instruction" in error
    assert len(error.strip().splitlines()) == 1
    manifest = read_manifest(tmp_path / "set")
    assert (manifest["plans"], manifest["recorded"], manifest["usage"]["calls"]) == ([], None, 4)
    assert len(lines_of(tmp_path / "set")) == 4


def test_a_finished_set_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    status, server = call(FOUR, tmp_path)
    assert status == 2
    assert server.received == []
    assert "generate.out=" in capsys.readouterr().err
    assert (tmp_path / "manifest.json").read_text() == "{}"


def test_two_at_once_do_not_write_into_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = lock_folder(tmp_path)
    assert lock is not None
    status, server = call(FOUR, tmp_path)
    os.close(lock)
    assert status == 2
    assert server.received == []
    assert "is in use by another process" in capsys.readouterr().err
    assert call(FOUR, tmp_path)[0] == 0


def test_replies_outlive_a_failure_and_are_not_asked_for_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    abandoned(FOUR, out, 1)
    assert sorted(file.name for file in out.iterdir() if not file.name.endswith(".lock")) == ["replies.jsonl"]
    status, second = call([good(text(FAR))], out)
    assert status == 0
    assert len(second.received) == 2
    assert "2 answered from the journal" in capsys.readouterr().out
    # What was spent before counts.
    usage = read_manifest(out)["usage"]
    assert (usage["calls"], usage["prompt_tokens"]) == (4, 28)


def test_a_failure_of_a_closed_round_is_not_asked_about_again(tmp_path: Path) -> None:
    out, sizes = tmp_path / "set", ("generate.rounds=3", "generate.patience=0")
    assert len(abandoned([FOUR[0], refusal(500), *FOUR[1:]], out, 2, *sizes).received) == 4
    status, second = call([good(text(FAR))], out, *sizes)
    assert status == 0
    assert len(second.received) == 2
    failed = lines_of(out)[1]
    assert (failed["reply"], failed["sent"]) == (None, True)
    assert "status 500" in failed["error"]
    assert read_manifest(out)["usage"]["calls"] == 6


def test_a_key_that_is_revoked_in_mid_generation_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    assert call([*FOUR[:2], refusal(401)], out, "generate.rounds=4")[0] == 0
    assert "It ended in round 2, no request of which got a reply: http" in capsys.readouterr().out
    manifest = read_manifest(out)
    assert "status 401" in manifest["stopped"]
    assert (len(manifest["rounds"]), manifest["usage"]["calls"]) == (1, 4)
    assert [line["reply"] is None for line in lines_of(out)] == [False, False, True, True]
    assert load_demonstrations(str(out), Line()).manifest["plans"][0]["triples"] == FAR


def test_what_was_spent_moves_with_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    abandoned(FOUR, tmp_path / "set", 1)
    (tmp_path / "set").rename(tmp_path / "moved")
    assert call(FOUR, tmp_path / "moved", "llm.max_calls=3")[0] == 0
    assert read_manifest(tmp_path / "moved")["usage"]["calls"] == 3
    assert "llm.max_calls=3 leaves no room" in capsys.readouterr().out


def test_what_was_paid_is_told_apart_from_what_a_cache_had(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = f"llm.cache={tmp_path / 'cache.jsonl'}"
    call(FOUR, tmp_path / "first", cache)
    assert "what was paid" not in capsys.readouterr().out
    status, server = call(FOUR, tmp_path / "second", cache)
    assert (status, server.received) == (0, [])
    out = capsys.readouterr().out
    assert "0 calls, 0 tokens read and 0 written" in out
    assert "what was paid. The replies, wherever they came from, took 28 tokens read and 12 written." in out
    assert "1000 tokens per thousand demonstration steps" in out
    usage = {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0, "cost": 0.0}
    assert read_manifest(tmp_path / "second")["usage"] == usage


def test_a_cap_holds_over_restarts_and_what_was_found_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    abandoned(FOUR, out, 1)
    status, second = call([good(text(FAR))], out, "llm.max_calls=3")
    assert status == 0
    assert len(second.received) == 1
    assert "llm.max_calls=3 leaves no room" in capsys.readouterr().out
    manifest = read_manifest(out)
    assert manifest["usage"]["calls"] == 3
    assert "llm.max_calls=3" in manifest["stopped"]
    assert [line["sent"] for line in lines_of(out)] == [True, True, True, False]


def test_an_endpoint_that_refuses_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _ = call([refusal(404, "no such model")], tmp_path / "set")
    error = capsys.readouterr().err
    assert status == 2
    assert "llm.model" in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "set" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["llm.model="], "llm.model"),
        (["generate.rounds=0"], "generate.rounds"),
        (["generate.candidate=3"], "generate.candidates"),
        (["generate.kind=both"], "generate.kind"),
        (["generate.prompt=nowhere"], "generate.prompt"),
        (["generate.kind=episodes"], "describe_state"),
        (["env.num_agents=x"], "num_agents"),
        (["llm.provider=replay", "llm.base_url="], "llm.path"),
    ],
)
def test_bad_settings_are_told_before_anything_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], told: str
) -> None:
    status, server = call(FOUR, tmp_path / "set", *more)
    assert status == 2
    assert server.received == []
    assert told in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_an_endpoint_that_is_down_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{closed_port()}/v1"
    started = time.monotonic()
    status = main(settings(tmp_path / "set", "llm=openai", f"llm.base_url={url}", "llm.model=m"))
    assert time.monotonic() - started < 15
    assert status == 2
    assert "127.0.0.1" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    status, server = call(FOUR, tmp_path / "file" / "set")
    assert status == 2
    assert server.received == []
    assert "generate.out=" in capsys.readouterr().err


def test_a_models_name_leads_to_no_other_folder() -> None:
    config = RunConfig(env={"name": "somewhere.else.my_environment:Class"})
    config.llm.provider, config.llm.model = "openai", "../../etc/$a b\n.."
    assert output_folder(config) == Path("demos/my_environment/etc-a-b")
    config.generate.kind = "episodes"
    assert output_folder(config) == Path("demos/my_environment/etc-a-b-episodes")


# --- progress -----------------------------------------------------------------------------------------------------


def shown(terminal: bool) -> str:
    """What is shown while two of four replies come, one of them a failure."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120, legacy_windows=False, _environ={"TERM": "xterm"})
    config = RunConfig(env={})
    config.generate = dataclasses.replace(SMALL)
    meter = Meter(Limits(prompt_price=1e6), Spending(3, Usage(20, 1030)))
    row = Round(0, 2, 2, 2, 1, 0.5, 1.0, 2.0, 2.0, None, 20, 10, 1.5)
    with GenerationProgress(console, config, meter) as progress:
        progress.reply(Reply("", Usage(), None, "m"))
        progress.reply(Reply("", Usage(), None, "m"))
        progress.round(row)
    return out.getvalue()


def test_the_time_left_is_that_of_replies_that_were_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig(env={})
    config.generate = dataclasses.replace(SMALL)
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = GenerationProgress(Console(file=io.StringIO()), config, Meter(Limits()))
    reply = Reply("", Usage(), None, "m")
    progress.reply(reply, 1)
    progress.reply(reply, 2)
    assert progress.line() == "2/4 replies"
    now = 130.0
    progress.reply(reply, 2)
    assert progress.line() == "3/4 replies, 0:30 left"


def test_the_table_fits_into_80_columns() -> None:
    control = Control(8, -1234.56, 1.0, 1.0, 1.0)
    row = Round(99, 128, 128, 128, 128, 1.0, -1234.56, -1234.56, -1234.56, control, 600_000, 345_678, 1.0)
    console = Console(file=(out := io.StringIO()), width=80)
    print_table(console, GenerationResult("relational", None, {"name": "a"}, (row,), (), (), 0.0, "x"))
    assert "control  tokens" in out.getvalue()
    assert out.getvalue().count("-1234.56") == 4
    assert "946k" in out.getvalue()
    assert all(len(line) <= 80 for line in out.getvalue().splitlines())


@pytest.mark.parametrize("terminal", [True, False])
def test_a_running_count_is_shown(terminal: bool) -> None:
    seen = shown(terminal)
    assert "2/4 replies, 3 calls, 1.05k tokens, cost 20, 0:00 left" in seen
    assert "round 1/2: 1 of 2 plans executable, best so far 2.00 per agent" in seen
    assert ("\x1b" in seen) == terminal
