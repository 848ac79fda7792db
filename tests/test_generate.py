"""The generation loop, with a model that replies by script, and once over a real loopback server."""

import asyncio
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from loopback import closed_port, good, refusal, serving
from probes import Choice, Line

from leed_jax.config import GenerateConfig, LLMConfig
from leed_jax.demonstrations import load_demonstrations
from leed_jax.envs.mpe_spread import SimpleSpread
from leed_jax.errors import EndpointUnreachableError
from leed_jax.generate import Outcome, generate
from leed_jax.generate.__main__ import main
from leed_jax.generate.candidates import Candidate, best_candidate, distinct_by_score
from leed_jax.generate.control import best_of
from leed_jax.generate.loop import round_requests
from leed_jax.generate.prompt import reply_schema, task_message
from leed_jax.instructions import PrimitiveInstructions
from leed_jax.llm import ChatRequest, Reply, Usage

FAR = [["Walk", "mark_3", "agent_0"], ["Walk", "mark_3", "agent_1"]]
NEAR = [["Walk", "mark_1", "agent_0"], ["Walk", "mark_1", "agent_1"]]
HALF = [["Walk", "mark_2", "agent_0"], ["Fly", "mark_2", "agent_0"], ["Walk", "mark_2", "agent_1"]]
SMALL = GenerateConfig(
    rounds=2,
    candidates=2,
    max_instructions=2,
    selection_episodes=3,
    report_episodes=4,
    recorded_episodes=5,
    control_plans=50,
)
# Walking to mark n earns 1 + 2 + ... + n and then n for the rest of the eight steps.
RETURN = {1: 8.0, 2: 15.0, 3: 21.0}


@dataclasses.dataclass
class Scripted:
    """Answers by script; the last entry repeats."""

    script: list[str | Exception]
    asked: list[ChatRequest] = dataclasses.field(default_factory=list)
    identity: str = "scripted"

    async def complete(self, request: ChatRequest) -> Reply:
        self.asked.append(request)
        entry = self.script[min(len(self.asked), len(self.script)) - 1]
        if isinstance(entry, Exception):
            raise entry
        return Reply(entry, Usage(10, 5), "stop", "scripted")


def text(triples: Any) -> str:
    return json.dumps({"idea": "go", "instructions": triples})


def run(*script: str | Exception, settings: GenerateConfig = SMALL) -> tuple[Outcome, Scripted]:
    model = Scripted(list(script))
    outcome = asyncio.run(generate(Line(), model, LLMConfig(model="m", concurrency=1), settings, 0))
    return outcome, model


def test_the_best_executable_plan_is_kept() -> None:
    outcome, _ = run(text(NEAR), text(FAR), text(HALF), "I cannot help with that.")
    assert [c.score for c in outcome.candidates] == [RETURN[1], RETURN[3], RETURN[2], None]
    assert outcome.best is not None
    assert outcome.best.triples == tuple(map(tuple, FAR))
    assert outcome.best_report_return == RETURN[3]


def test_rounds_report_validity_and_returns_as_they_were() -> None:
    outcome, _ = run(text(NEAR), text(FAR), text(HALF), "I cannot help with that.")
    first, second = outcome.rounds
    assert (first.replies, first.executable, first.validity) == (2, 2, 1.0)
    assert (first.mean_return, first.best_return, first.best_so_far) == (14.5, RETURN[3], RETURN[3])
    assert (second.replies, second.executable) == (2, 1)
    assert second.validity == pytest.approx((2 / 3 + 0) / 2)
    assert (second.mean_return, second.best_return, second.best_so_far) == (RETURN[2], RETURN[2], RETURN[3])
    assert (first.prompt_tokens, first.completion_tokens) == (20, 10)
    assert (first.control.candidates, second.control.candidates) == (2, 4)


def test_feedback_tells_returns_what_was_not_executable_and_where_the_time_went() -> None:
    _, model = run(text(HALF), text(FAR))
    assert len(model.asked[0].messages) == len(model.asked[2].messages)
    before, after = (model.asked[i].messages[-1].content for i in (0, 2))
    assert "Earlier plans" not in before
    assert "This plan earned 21.00 per agent" in after
    assert json.dumps(FAR) in after
    assert "there is no command Fly; the commands are Walk, Stay." in after
    assert "Walk mark_3 100%" in after
    assert after.index("21.00") < after.index("15.00")


def test_candidates_of_a_round_differ_in_seed_and_length_and_share_the_head() -> None:
    requests = round_requests(Line(), LLMConfig(model="m"), SMALL, 1, ["- A fact."], seed=100)
    assert [r.seed for r in requests] == [102, 103]
    assert "exactly one instruction" in requests[0].messages[-1].content
    assert "1 to 2 instructions for each agent" in requests[1].messages[-1].content
    assert requests[0].messages[:-1] == requests[1].messages[:-1]


def test_the_prompt_is_built_from_the_environment_and_holds_no_plan_for_it() -> None:
    for environment in (Line(), SimpleSpread(4), PrimitiveInstructions(Choice())):
        words = environment.vocabulary
        content = task_message(environment, 3).content
        assert environment.describe() in content
        for name in (*words.command_index, *words.parameter_index, *words.agents):
            assert name in content
        own = [f'["{command}", "{p}"' for command in words.command_index for p in words.parameter_index]
        assert not any(triple in content for triple in own)


def test_the_schema_bounds_the_shape_and_leaves_words_to_validation() -> None:
    schema = reply_schema(Line().vocabulary, 3)
    assert schema["properties"]["instructions"]["maxItems"] == 6
    assert "enum" not in json.dumps(schema)


def test_some_failed_requests_do_no_harm_and_all_failed_ones_end_it() -> None:
    down = EndpointUnreachableError("nobody answers")
    outcome, _ = run(down, text(FAR))
    assert outcome.candidates[0].problems == ("nobody answers",)
    assert outcome.rounds[0].replies == 1
    with pytest.raises(EndpointUnreachableError, match="nobody answers"):
        run(down)


def test_nothing_executable_is_told_and_not_hidden() -> None:
    outcome, _ = run("no")
    assert outcome.best is None
    assert outcome.best_report_return is None
    assert [r.best_so_far for r in outcome.rounds] == [None, None]


def test_a_generation_is_the_same_each_time() -> None:
    first, second = (run(text(NEAR), text(FAR))[0] for _ in range(2))
    assert first.rounds == second.rounds
    assert first.random_return == second.random_return


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_control_is_the_distribution_of_the_best(count: int) -> None:
    scores = np.array([3.0, 1.0, 2.0, 2.0, 5.0])
    grid = np.stack(np.meshgrid(*[scores] * count)) if count < 3 else None
    control = best_of(scores, count)
    if grid is not None:
        assert control.mean == pytest.approx(grid.max(axis=0).mean())
    else:
        draws = jax.random.choice(jax.random.key(0), scores, (20_000, count))
        assert control.mean == pytest.approx(float(draws.max(axis=1).mean()), abs=0.02)
    assert 1.0 <= control.low <= control.mean <= control.high <= 5.0


def arguments(base_url: str, out: Path, *more: str) -> list[str]:
    sizes = {name: value for name, value in dataclasses.asdict(SMALL).items() if name != "out"}
    return [
        "experiment=mpe_spread",
        f"llm.base_url={base_url}",
        "llm.model=served/model",
        *(f"generate.{name}={value}" for name, value in sizes.items()),
        f"generate.out={out}",
        *more,
    ]


def call(script: Any, out: Path, *more: str) -> tuple[int, Any]:
    """Run the command line against a loopback server in this process, and return its status and the server."""

    async def serve() -> tuple[int, Any]:
        async with serving(*script) as server:
            status = await asyncio.to_thread(main, arguments(server.base_url, out, *more))
            return status, server

    return asyncio.run(serve())


SPREAD = [["MoveTo", f"landmark_{i}", f"agent_{i}"] for i in range(3)]


def test_the_command_line_records_a_set_that_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-very-secret-0123456789")
    status, server = call([good(text(SPREAD))], tmp_path / "set", "llm.api_key_env=SOME_KEY")
    assert status == 0
    assert server.received[0].headers["authorization"] == "Bearer sk-very-secret-0123456789"
    assert len(server.received) == SMALL.rounds * SMALL.candidates
    loaded = load_demonstrations(str(tmp_path / "set"), SimpleSpread())
    assert loaded.manifest["plans"][0]["triples"] == SPREAD
    assert loaded.manifest["model"] == "served/model"
    lines = [json.loads(line) for line in (tmp_path / "set" / "transcript.jsonl").read_text().splitlines()]
    assert [(line["round"], line["candidate"]) for line in lines] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert json.loads(lines[0]["reply"]["text"])["instructions"] == SPREAD
    assert lines[0]["request"]["messages"][1]["content"] == task_message(SimpleSpread(), 2).content
    assert (tmp_path / "set" / "rounds.png").stat().st_size > 1000
    assert loaded.episodes().action.shape[0] == SMALL.recorded_episodes
    printed = capsys.readouterr()
    assert "Recorded in" in printed.out
    for file in (tmp_path / "set").iterdir():
        assert b"sk-very-secret" not in file.read_bytes()
    assert "sk-very-secret" not in printed.out + printed.err


def test_a_finished_set_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    status, server = call([good(text(SPREAD))], tmp_path)
    assert status == 2
    assert server.received == []
    assert "generate.out=" in capsys.readouterr().err
    assert (tmp_path / "manifest.json").read_text() == "{}"


def test_replies_outlive_a_failure_and_are_not_asked_for_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    settings = ("llm.max_attempts=1", "llm.concurrency=1")
    status, _ = call([good(text(SPREAD)), good(text(SPREAD)), refusal(401)], out, *settings)
    assert status == 2
    assert "401" in capsys.readouterr().err
    status, second = call([good(text(SPREAD))], out, *settings)
    assert status == 0
    assert len(second.received) == 2
    assert "2 answered from the journal" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ([good("I would rather not.")], "None of the 4 replies"),
        ([refusal(400, "response_format json_schema is not supported")], "llm.response_format=none"),
        ([refusal(404, "no such model")], "llm.model"),
    ],
)
def test_an_endpoint_that_answers_nonsense_is_told_in_one_paragraph(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], script: Any, told: str
) -> None:
    status, _ = call(script, tmp_path / "set", "llm.max_attempts=1")
    error = capsys.readouterr().err
    assert status == 2
    assert told in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "set" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["llm.model="], "llm.model"),
        (["generate.rounds=0"], "generate.rounds"),
        (["generate.candidate=3"], "generate.candidates"),
        (["env.num_agents=0"], "num_agents"),
    ],
)
def test_bad_settings_are_told_before_anything_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], told: str
) -> None:
    status, server = call([good(text(SPREAD))], tmp_path / "set", *more)
    assert status == 2
    assert server.received == []
    assert told in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_an_endpoint_that_is_down_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{closed_port()}/v1"
    started = time.monotonic()
    status = main(["experiment=mpe_spread", f"llm.base_url={url}", "llm.model=m", f"generate.out={tmp_path / 'set'}"])
    assert time.monotonic() - started < 10
    assert status == 2
    assert "127.0.0.1" in capsys.readouterr().err


def test_no_key_is_sent_unless_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-0123456789")
    _, server = call([refusal(401)], tmp_path / "set")
    assert server.received
    assert all("authorization" not in request.headers for request in server.received)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    status, server = call([good(text(SPREAD))], tmp_path / "file" / "set")
    assert status == 2
    assert server.received == []
    assert "generate.out=" in capsys.readouterr().err


def test_a_return_of_zero_is_a_return() -> None:
    scored = [Candidate(0, i, None, (), 1.0, score=s) for i, s in enumerate([-5.0, None, 0.0])]
    assert best_candidate(scored) == scored[2]
    named = [dataclasses.replace(c, triples=((str(c.index),) * 3,)) for c in scored]
    assert [c.index for c in distinct_by_score(named)] == [2, 0]


def test_progress_is_reported_after_each_round() -> None:
    seen: list[int] = []
    on_round: Callable[..., None] = lambda r: seen.append(r.index)  # noqa: E731
    asyncio.run(generate(Line(), Scripted([text(FAR)]), LLMConfig(model="m"), SMALL, 0, on_round))
    assert seen == [0, 1]
