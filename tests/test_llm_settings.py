"""What the client accepts as settings, keys and waits; nothing here needs a server."""

import asyncio
import email.utils
import math
import random
import time
from typing import Literal

import loopback
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leed_jax.errors import ConfigurationError, EndpointRefusedError
from leed_jax.llm import ChatModel, ChatRequest, Message, RetryPolicy
from leed_jax.llm.keys import Secret, check_variable_name, excerpt
from leed_jax.llm.retry import AttemptError, Attempts, retry_after

KEY = "sk-very-secret-0123456789abcdef"
ASK = ChatRequest((Message("user", "Hi"),))


def test_a_wait_until_a_date_is_understood() -> None:
    wait = retry_after({"retry-after": email.utils.formatdate(time.time() + 30, usegmt=True)})
    assert wait is not None
    assert 28 < wait <= 30
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 -0000"}) == 0.0


@pytest.mark.parametrize("text", ["", "soon", "nan", "inf", "-1", "99 Foo 2000 25:61:61 GMT"])
def test_an_unintelligible_wait_is_none(text: str) -> None:
    assert retry_after({"retry-after": text, "retry-after-ms": text}) is None


def test_a_key_in_place_of_its_name_is_refused_unseen() -> None:
    with pytest.raises(ConfigurationError, match="api_key_env") as caught:
        loopback.client("http://127.0.0.1:1/v1", api_key_env=KEY)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "key",
    ["gsk_AbCdEfGhIjKl", "hf_abcdEFGH", "r8_0123456789", "sk_live_4eC39HqLyjWD", "AIzaSyD", "abcdefghijklmnopqrs7"],
)
def test_a_key_that_could_be_a_name_is_refused_unseen(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="api_key_env") as caught:
        check_variable_name(key)
    assert key not in str(caught.value)
    monkeypatch.setenv(key, "x")
    check_variable_name(key)


@pytest.mark.parametrize("name", ["HF_TOKEN_2", "gpt4_key", "hf_api_token", "OPENAI_API_KEY_NUMBER_2", "_", "", None])
def test_names_that_are_no_keys(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(name or "x", raising=False)
    check_variable_name(name)


@pytest.mark.parametrize(
    ("kind", "asked", "left", "expected"),
    [
        *[("transient", 5.0, math.inf, 6.0), ("connect", None, math.inf, 1.25), ("transient", 5.0, 5.5, 5.25)],
        *[("transient", 5.0, 5.0, 5.0), ("transient", 5.0, 4.0, False), ("transient", None, 9.0, True)],
    ],
)
def test_waits_are_spread_but_not_beyond_the_end(
    kind: Literal["connect", "transient"],
    asked: float | None,
    left: float,
    expected: float | bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The longest draw of each interval.
    monkeypatch.setattr(random, "uniform", lambda _, most: most)
    error = AttemptError(EndpointRefusedError, "p", "a", kind, asked)
    attempts = Attempts(RetryPolicy(), [error])
    monkeypatch.setattr(attempts, "time_left", lambda: left)
    assert attempts(error) == expected


def test_a_wait_is_never_shorter_than_asked_for() -> None:
    attempts = Attempts(RetryPolicy())
    waits = [attempts(AttemptError(EndpointRefusedError, "p", "a", "transient", 5.0)) for _ in range(50)]
    assert all(5.0 <= wait <= 6.0 for wait in waits)
    assert len(set(waits)) > 1


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@127.0.0.1/v1",
        "http://127.0.0.1/v1?token=hunter2",
        "http://127.0.0.1/v1#hunter2",
        "ftp://hunter2/v1",
        "hunter2",
        "http://",
        "http://127.0.0.1:hunter2/v1",
        "http://127.0.0.1:70000/v1",
        f"http://{'a' * 64}.test/v1",
        "http://127.0.0.1/v1/chat/completions",
    ],
)
def test_an_unusable_address_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"llm\.base_url") as caught:
        loopback.client(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://h.test/v1", "http://h.test/v1/", " http://h.test/v1 "])
def test_slashes_and_spaces_around_the_address_do_not_matter(url: str) -> None:
    assert loopback.client(url).url == "http://h.test/v1/chat/completions"


@pytest.mark.parametrize(
    "settings",
    [{"response_format": "xml"}, {"timeout_s": 0.0}, {"connect_timeout_s": float("nan")}, {"max_reply_bytes": 0}],
)
def test_unusable_settings(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        loopback.client("http://h.test/v1", **settings)


def test_unusable_policies() -> None:
    for settings in ({"attempts": 0}, {"wait_max_s": -1.0}, {"total_s": float("inf")}):
        with pytest.raises(ConfigurationError):
            RetryPolicy(**settings)


def test_a_broken_proxy_variable_is_reported_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "gopher://user:hunter2@h.test")

    async def run() -> None:
        async with loopback.client("http://h.test/v1"):
            pass

    with pytest.raises(ConfigurationError, match="ALL_PROXY") as caught:
        asyncio.run(run())
    assert "hunter2" not in str(caught.value)


def test_the_client_must_be_entered_once() -> None:
    async def run() -> None:
        model = loopback.client("http://127.0.0.1:1/v1", api_key_env=None)
        assert isinstance(model, ChatModel)
        with pytest.raises(RuntimeError, match="async with"):
            await model.complete(ASK)
        async with model:
            with pytest.raises(RuntimeError, match="in use"):
                await model.__aenter__()

    asyncio.run(run())


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_excerpt_is_one_printable_line(text: bytes) -> None:
    shown = excerpt(text, Secret(KEY))
    assert shown.isprintable()
    shown.encode("utf-8")
