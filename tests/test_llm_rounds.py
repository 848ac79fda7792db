"""Rounds that are closed, accounts of folders, and journals without locks."""

import asyncio
import errno
import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from leed_jax.errors import (
    BudgetError,
    ConfigurationError,
    EndpointRefusedError,
    LLMError,
    RememberedError,
    RunDirectoryError,
)
from leed_jax.llm import (
    OWN_ACCOUNT,
    ChatRequest,
    Journal,
    Journalled,
    Message,
    Reply,
    Usage,
    account_id,
    complete_all,
    spender_of,
)

ASKS = [ChatRequest((Message("user", str(number)),)) for number in range(4)]


def reply(text: str) -> Reply:
    return Reply(text, Usage(1, 2), "stop", "m")


class Model:
    """Answers by script: a reply for True, otherwise the error."""

    identity = "m"

    def __init__(self, *script: bool | LLMError) -> None:
        self.script = script
        self.asked: list[int] = []

    async def complete(self, request: ChatRequest) -> Reply:
        number = int(request.messages[0].content)
        self.asked.append(number)
        outcome = self.script[number]
        if isinstance(outcome, LLMError):
            raise outcome
        return reply(str(number))


def outcomes(model: Journalled) -> list[Reply | LLMError]:
    return asyncio.run(complete_all(model, ASKS, 1))


def names(found: Sequence[Reply | LLMError]) -> list[str]:
    return [type(outcome).__name__ for outcome in found]


MIXED = (True, EndpointRefusedError("é no"), BudgetError("cap"), True)


def test_a_closed_round_ends_the_same_way_again(tmp_path: Path) -> None:
    first = Journalled(Model(*MIXED), Journal(tmp_path / "j"), "me", remember_failures=True)
    first.close_round(ASKS, outcomes(first))
    model = Model(True, True, True, True)
    again = Journalled(model, Journal(tmp_path / "j"), "me", remember_failures=True)
    found = outcomes(again)
    assert names(found) == ["Reply", "RememberedError", "Reply", "Reply"]
    assert isinstance(found[1], RememberedError)
    assert str(found[1]) == "é no"
    # Only what a cap had kept back was sent.
    assert model.asked == [2]
    size = (tmp_path / "j").stat().st_size
    again.close_round(ASKS, found)
    assert (tmp_path / "j").stat().st_size == size
    again.forget_failures()
    assert names(outcomes(Journalled(model, Journal(tmp_path / "j"), "me", remember_failures=True))) == ["Reply"] * 4
    assert model.asked == [2, 1]


def test_somebody_elses_reply_does_not_change_a_closed_round(tmp_path: Path) -> None:
    mine = Journalled(Model(*MIXED), Journal(tmp_path / "j"), "me", remember_failures=True)
    mine.close_round(ASKS, outcomes(mine))
    other = Journalled(Model(True, True, True, True), Journal(tmp_path / "j"), "other", remember_failures=True)
    assert names(outcomes(other)) == ["Reply"] * 4
    assert names(outcomes(mine)) == ["Reply", "RememberedError", "Reply", "Reply"]


@pytest.mark.parametrize("case", ["nothing was answered", "not closed", "not asked for"])
def test_what_is_not_remembered_is_sent_again(tmp_path: Path, case: str) -> None:
    script = [EndpointRefusedError("no")] * 4 if case == "nothing was answered" else MIXED
    remember = case != "not asked for"
    first = Journalled(Model(*script), Journal(tmp_path / "j"), "me", remember_failures=remember)
    found = outcomes(first)
    if case != "not closed":
        first.close_round(ASKS, found)
    model = Model(True, True, True, True)
    again = Journalled(model, Journal(tmp_path / "j"), "me", remember_failures=True)
    assert names(outcomes(again)) == ["Reply"] * 4
    assert 1 in model.asked


def test_remembering_needs_a_spender(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="spender"):
        Journalled(Model(), Journal(tmp_path / "j"), remember_failures=True)


def test_an_account_moves_with_its_folder(tmp_path: Path) -> None:
    one = account_id(tmp_path / "new" / "one")
    assert account_id(tmp_path / "two") != one
    (tmp_path / "new" / "one").rename(tmp_path / "moved")
    assert account_id(tmp_path / "moved") == one
    assert [path.name for path in (tmp_path / "moved").iterdir()] == ["account"]
    assert spender_of(tmp_path / "moved", shared=True) == one
    assert spender_of(tmp_path / "third", shared=False) == OWN_ACCOUNT
    assert not (tmp_path / "third").exists()


def test_an_account_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", none)
    one = account_id(tmp_path)
    assert account_id(tmp_path) == one


def test_an_account_that_is_damaged_or_impossible(tmp_path: Path) -> None:
    (tmp_path / "account").write_text("me")
    with pytest.raises(RunDirectoryError, match="32 hex digits"):
        account_id(tmp_path)
    with pytest.raises(RunDirectoryError, match="cannot be read or made"):
        account_id(tmp_path / "account" / "below")


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", none)


def test_without_locks_half_a_line_is_ended_and_nothing_is_cut_off(tmp_path: Path, no_locks: None) -> None:
    Journal(tmp_path / "j").record("k1", reply("one"))
    start = (tmp_path / "j").stat().st_size
    Journal(tmp_path / "j").record("k2", reply("two"))
    whole = (tmp_path / "j").read_bytes()
    for length in range(start, len(whole)):
        (tmp_path / "j").write_bytes(whole[:length])
        Journal(tmp_path / "j").record("k3", reply("three"))
        journal = Journal(tmp_path / "j")
        assert (tmp_path / "j").read_bytes().startswith(whole[:length])
        assert [journal.get(key) for key in ("k1", "k3")] == [reply("one"), reply("three")]
        # Only the end of the line was missing.
        assert (journal.get("k2") is None) == (length < len(whole) - 1)
        assert journal.record("k2", reply("two")) == reply("two")
        assert len(Journal(tmp_path / "j")) == 3


def test_without_locks_a_line_that_comes_meanwhile_stays(
    tmp_path: Path, no_locks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, write = Journal(tmp_path / "j"), Journal(tmp_path / "j"), os.write

    def interrupted(descriptor: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", write)
        two.record("k2", reply("two"))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", interrupted)
    one.record("k1", reply("one"))
    assert [Journal(tmp_path / "j").get(key) for key in ("k1", "k2")] == [reply("one"), reply("two")]


def test_without_locks_a_write_cut_short_is_an_error_that_harms_nobody(
    tmp_path: Path, no_locks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, write = Journal(tmp_path / "j"), os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:9]))
        with pytest.raises(RunDirectoryError, match="No space left"):
            journal.record("k1", reply("one"))
    journal.record("k2", reply("two"))
    journal.record("k1", reply("one"))
    again = Journal(tmp_path / "j")
    assert [again.get(key) for key in ("k1", "k2")] == [reply("one"), reply("two")]


def test_a_broken_line_is_passed_over_before_the_mark_alone(tmp_path: Path) -> None:
    path = tmp_path / "j"
    Journal(path).record("k1", reply("one"))
    whole = path.read_bytes()
    for damage in (b"{\n" + whole, b'{\n{\n{"cut":true}\n', b'{"cut":true}\n{\n'):
        path.write_bytes(whole + damage)
        with pytest.raises(RunDirectoryError, match="damaged"):
            Journal(path)
    path.write_bytes(whole + b'{\n{"cut":true}\n{"cut":true}\n' + whole)
    assert len(Journal(path)) == 1
    Journal(path).record("k2", reply("two"))
    assert json.loads(path.read_bytes().splitlines()[-1])["key"] == "k2"


@pytest.mark.parametrize("closed", ['"x"', '{"k":1}', "[1]", "3"])
def test_a_damaged_closed_round(tmp_path: Path, closed: str) -> None:
    (tmp_path / "j").write_text(f'{{"spender":"s","closed":{closed}}}\n')
    with pytest.raises(RunDirectoryError, match="Line 1"):
        Journal(tmp_path / "j")
