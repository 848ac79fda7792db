"""A GGUF file served in this process. What needs a real one runs when LEED_JAX_TEST_GGUF names it."""

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from leed_jax.errors import ConfigurationError
from leed_jax.llm import ChatModel, ChatRequest, LocalModel, Message, Reply

REAL = os.environ.get("LEED_JAX_TEST_GGUF", "")
needs_model = pytest.mark.skipif(not REAL, reason="LEED_JAX_TEST_GGUF does not name a GGUF file")
needs_extra = pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with the right beginning, and nothing else that is right."""
    path = tmp_path / "tiny-1b.gguf"
    path.write_bytes(b"GGUF" + bytes(range(256)))
    return path


@pytest.fixture
def extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the extra seem installed."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


@pytest.mark.parametrize(
    ("name", "words"),
    [("no.gguf", "No such file"), (".", "Is a directory"), ("a\0b", "not a path"), ("text", "not a GGUF")],
)
def test_what_is_no_model_is_refused_before_anything_is_loaded(
    tmp_path: Path, extra: None, name: str, words: str
) -> None:
    (tmp_path / "text").write_text("GGUf but not quite")
    with pytest.raises(ConfigurationError, match=rf"llm\.path=.*{words}"):
        LocalModel(tmp_path / name)


def test_a_missing_extra_is_told_with_the_command_that_installs_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'leed-jax\[local\]'"):
        LocalModel(file)


@pytest.mark.parametrize("settings", [{"response_format": "xml"}, {"timeout_s": 0.0}])
def test_a_setting_that_cannot_work_is_told_at_once(file: Path, extra: None, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        LocalModel(file, **settings)


def test_the_identity_changes_with_the_file(file: Path, extra: None) -> None:
    first = LocalModel(file)
    assert isinstance(first, ChatModel)
    assert "tiny-1b" in first.identity
    assert str(file.parent) not in first.identity
    file.write_bytes(b"GGUF" + bytes(100))
    assert LocalModel(file).identity != first.identity
    assert LocalModel(file, response_format="none").identity != LocalModel(file).identity


@pytest.mark.parametrize("place", [10, 5 * 2**20 + 5, 10 * 2**20 - 1])
def test_a_model_of_the_same_name_and_size_is_another(file: Path, extra: None, place: int) -> None:
    content = bytearray(b"GGUF" + bytes(10 * 2**20 - 4))
    file.write_bytes(content)
    first = LocalModel(file).identity
    assert LocalModel(file).identity == first
    assert LocalModel(file, context=512).identity != first
    content[place] = 1
    file.write_bytes(content)
    assert LocalModel(file).identity != first


def test_it_must_be_entered(file: Path, extra: None) -> None:
    with pytest.raises(RuntimeError, match="async with"):
        asyncio.run(LocalModel(file).complete(ChatRequest((Message("user", "Hi"),))))


@needs_extra
def test_a_damaged_file_is_told_and_leaves_no_thread(file: Path) -> None:
    async def enter() -> None:
        async with LocalModel(file):
            pass

    with pytest.raises(ConfigurationError, match=r"llama\.cpp cannot load llm\.path=.*tiny-1b\.gguf"):
        asyncio.run(enter())
    for thread in threading.enumerate():
        if thread.name == "leed_jax local model":
            thread.join(5)
            assert not thread.is_alive()


@needs_extra
@needs_model
def test_a_real_model_answers_by_the_schema_and_goes_away_in_the_midst_of_work(
    capfd: pytest.CaptureFixture[str],
) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }

    async def run() -> list[Reply]:
        async with LocalModel(REAL, slots=2, context=512) as model:
            asked = [ChatRequest((Message("user", f"Write the number {n}."),), 0.7, n, 24, schema) for n in range(3)]
            replies = await asyncio.gather(*map(model.complete, asked))
            assert {reply.response_format for reply in replies} == {"json_schema"}
            long = ChatRequest((Message("user", "Tell a long story."),), 0.7, 1, 400)
            given_up = asyncio.create_task(model.complete(long))
            await asyncio.sleep(0.5)
            given_up.cancel()
            began.append(time.monotonic())
            return replies

    began: list[float] = []
    replies = asyncio.run(run())
    assert time.monotonic() - began[0] < 10
    assert [isinstance(json.loads(reply.text)["n"], int) for reply in replies] == [True] * 3
    assert {reply.model for reply in replies} == {Path(REAL).name}
    assert "".join(capfd.readouterr()) == ""


INTERRUPTED = """
import asyncio, sys
from leed_jax.cli.common import exit_on_error, leave
from leed_jax.llm import ChatRequest, LocalModel, Message
async def run():
    async with LocalModel(sys.argv[1], context=1024) as model:
        print("ready", flush=True)
        await model.complete(ChatRequest((Message("user", "Tell a long story."),), max_tokens=900))
leave(lambda: exit_on_error(lambda: asyncio.run(run())))
"""


@needs_extra
@needs_model
def test_an_interruption_ends_the_process_soon() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, REAL], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    time.sleep(1.0)
    began = time.monotonic()
    process.send_signal(2)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == b"Interrupted.\n"
    assert time.monotonic() - began < 10
