"""No request is sent twice, and many requests at once."""

import asyncio
import json
from pathlib import Path

import loopback
import pytest

from leed_jax.errors import (
    BudgetError,
    ConfigurationError,
    EndpointRefusedError,
    EndpointUnreachableError,
    LLMError,
    RunDirectoryError,
)
from leed_jax.llm import (
    ChatModel,
    ChatRequest,
    Journal,
    Journalled,
    Message,
    Reply,
    RetryPolicy,
    Usage,
    complete_all,
    request_key,
)

QUICK = RetryPolicy(wait_initial_s=0.01, wait_max_s=0.02, wait_jitter_s=0.0, connect_wait_s=0.01)


def request(text: str) -> ChatRequest:
    return ChatRequest((Message("user", text),))


class Echo:
    """A model that answers with the question, after a while, or fails when told to."""

    identity = "echo"

    def __init__(self, wait: float = 0.0) -> None:
        self.wait = wait
        self.asked: list[str] = []
        self.now = self.most = self.cancelled = 0

    async def complete(self, request: ChatRequest) -> Reply:
        text = request.messages[-1].content
        self.asked.append(text)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.wait)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.now -= 1
        if text == "fail":
            raise EndpointRefusedError("refused")
        return Reply(text, Usage(10, 1), "stop", "echo")


def test_a_known_reply_is_not_asked_for(tmp_path: Path) -> None:
    async def run() -> None:
        model, again = Echo(), Echo()
        first = Journalled(model, Journal(tmp_path / "j"))
        assert isinstance(first, ChatModel)
        assert first.identity == "echo"
        for text in "aba":
            assert (await first.complete(request(text))).text == text
        assert model.asked == ["a", "b"]
        assert (first.sent, first.reused) == (2, 1)
        second = Journalled(again, Journal(tmp_path / "j"))
        for text in "bca":
            assert (await second.complete(request(text))).text == text
        assert again.asked == ["c"]
        assert (second.sent, second.reused) == (1, 2)

    asyncio.run(run())


def test_a_reply_is_on_disk_before_it_is_used(tmp_path: Path) -> None:
    async def run() -> None:
        journalled = Journalled(Echo(), Journal(tmp_path / "j"))
        await journalled.complete(request("a"))
        [line] = (tmp_path / "j").read_text().splitlines()
        assert json.loads(line)["key"] == request_key("echo", request("a"))
        (tmp_path / "j").unlink()
        (tmp_path / "j").mkdir()
        with pytest.raises(RunDirectoryError):
            await journalled.complete(request("b"))

    asyncio.run(run())


def test_equal_requests_at_the_same_time_are_sent_once(tmp_path: Path) -> None:
    async def run() -> None:
        model = Echo(0.05)
        journalled = Journalled(model, Journal(tmp_path / "j"))
        replies = await complete_all(journalled, [request("a")] * 5, 5)
        assert [reply.text for reply in replies if isinstance(reply, Reply)] == ["a"] * 5
        assert model.asked == ["a"]
        assert (journalled.sent, journalled.reused) == (1, 4)

    asyncio.run(run())


def test_a_failure_is_not_kept(tmp_path: Path) -> None:
    async def run() -> None:
        model = Echo(0.01)
        journalled = Journalled(model, Journal(tmp_path / "j"))
        outcomes = await complete_all(journalled, [request("fail")] * 2, 2)
        assert all(isinstance(outcome, EndpointRefusedError) for outcome in outcomes)
        assert model.asked == ["fail"] * 2
        assert (journalled.sent, journalled.reused) == (2, 0)
        assert not (tmp_path / "j").exists()

    asyncio.run(run())


def test_cancelling_the_callers_cancels_the_request(tmp_path: Path) -> None:
    async def run() -> None:
        model = Echo(30.0)
        journalled = Journalled(model, Journal(tmp_path / "j"))
        callers = [asyncio.create_task(journalled.complete(request("a"))) for _ in range(2)]
        await asyncio.sleep(0.02)
        for caller in callers:
            caller.cancel()
        await asyncio.wait(callers)
        assert model.cancelled == 1
        assert model.now == 0
        model.wait = 0.0
        assert (await journalled.complete(request("a"))).text == "a"

    asyncio.run(run())


def test_replies_come_in_order_and_failures_as_values() -> None:
    async def run() -> None:
        model = Echo(0.01)
        outcomes = await complete_all(model, [request(text) for text in ("a", "fail", "b", "c", "d")], 2)
        assert [getattr(outcome, "text", str(outcome)) for outcome in outcomes] == ["a", "refused", "b", "c", "d"]
        assert model.most == 2

    asyncio.run(run())


def test_only_what_failed_is_sent_again(tmp_path: Path) -> None:
    class Recovering(Echo):
        down = True

        async def complete(self, request: ChatRequest) -> Reply:
            reply = await super().complete(request)
            if self.down and reply.text in "bd":
                raise EndpointUnreachableError("down")
            return reply

    async def run() -> None:
        model, batch = Recovering(0.01), [request(text) for text in "abcde"]
        journalled = Journalled(model, Journal(tmp_path / "j"))
        outcomes = await complete_all(journalled, batch, 2)
        assert [isinstance(outcome, Reply) for outcome in outcomes] == [True, False, True, False, True]
        model.down, model.asked = False, []
        outcomes = await complete_all(journalled, batch, 2)
        assert [outcome.text for outcome in outcomes if isinstance(outcome, Reply)] == list("abcde")
        assert model.asked == ["b", "d"]

    asyncio.run(run())


def test_progress_is_told_as_it_is_made() -> None:
    done: list[tuple[int, str]] = []

    async def run() -> None:
        batch = [request(text) for text in ("a", "fail", "b")]
        await complete_all(Echo(0.01), batch, 1, lambda index, outcome: done.append((index, type(outcome).__name__)))

    asyncio.run(run())
    assert done == [(0, "Reply"), (1, "EndpointRefusedError"), (2, "Reply")]


def test_progress_that_cannot_be_told_stops_the_rest() -> None:
    def broken(index: int, outcome: Reply | LLMError) -> None:
        raise RunDirectoryError(f"no room for {index}")

    async def run() -> None:
        model = Echo(0.01)
        with pytest.raises(RunDirectoryError, match="no room for 0"):
            await complete_all(model, [request(str(number)) for number in range(9)], 1, broken)
        assert len(model.asked) <= 2

    asyncio.run(run())


def test_two_journals_of_one_file_do_not_ask_at_the_same_time(tmp_path: Path) -> None:
    async def run() -> None:
        model, batch = Echo(0.05), [request(text) for text in "abc"]
        one, two = (Journalled(model, Journal(tmp_path / "j")) for _ in range(2))
        replies = await asyncio.gather(complete_all(one, batch, 3), complete_all(two, batch[::-1], 3))
        assert replies[0] == replies[1][::-1]
        assert sorted(model.asked) == ["a", "b", "c"]
        assert one.sent + two.sent == one.reused + two.reused == 3

    asyncio.run(run())


def test_a_failure_elsewhere_lets_the_next_one_ask(tmp_path: Path) -> None:
    async def run() -> None:
        first, second = Echo(0.1), Echo()
        one, two = (Journalled(model, Journal(tmp_path / "j")) for model in (first, second))
        failing = asyncio.create_task(one.complete(request("fail")))
        await asyncio.sleep(0.02)
        with pytest.raises(EndpointRefusedError):
            await two.complete(request("fail"))
        assert failing.done()
        assert isinstance(failing.exception(), EndpointRefusedError)
        assert (first.asked, second.asked) == (["fail"], ["fail"])

    asyncio.run(run())


def test_cancelling_one_who_waits_for_another_journal(tmp_path: Path) -> None:
    async def run() -> None:
        first, second = Echo(0.2), Echo()
        one, two = (Journalled(model, Journal(tmp_path / "j")) for model in (first, second))
        asked = asyncio.create_task(one.complete(request("a")))
        await asyncio.sleep(0.02)
        waiting = asyncio.create_task(two.complete(request("a")))
        await asyncio.sleep(0.02)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await asked).text == "a"
        assert (await two.complete(request("a"))).text == "a"
        assert (second.asked, two.sent, two.reused) == ([], 0, 1)

    asyncio.run(run())


def test_nothing_to_ask_and_no_slots() -> None:
    assert asyncio.run(complete_all(Echo(), [], 1)) == []
    with pytest.raises(ConfigurationError, match=r"llm\.concurrency"):
        asyncio.run(complete_all(Echo(), [request("a")], 0))


def test_an_error_that_concerns_all_requests_stops_them(tmp_path: Path) -> None:
    (tmp_path / "j").mkdir()

    class Unwritable(Echo):
        async def complete(self, request: ChatRequest) -> Reply:
            reply = await super().complete(request)
            if reply.text == "a":
                raise RunDirectoryError("full")
            await asyncio.sleep(30)
            return reply

    model = Unwritable()
    with pytest.raises(RunDirectoryError, match="full"):
        asyncio.run(complete_all(model, [request("b"), request("a"), request("c")], 2))


def test_cancelling_the_batch_cancels_its_requests() -> None:
    async def run() -> None:
        model = Echo(30.0)
        batch = asyncio.create_task(complete_all(model, [request(str(number)) for number in range(9)], 3))
        await asyncio.sleep(0.05)
        batch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await batch
        assert model.cancelled == 3
        assert len(model.asked) == 3

    asyncio.run(run())


def test_a_batch_against_a_server_keeps_to_its_concurrency(tmp_path: Path) -> None:
    async def run() -> None:
        act = loopback.after(0.05, loopback.good("x"))
        async with loopback.serving(act) as server, loopback.client(server.base_url, retry=QUICK) as model:
            requests = [request(str(number)) for number in range(12)]
            journalled = Journalled(model, Journal(tmp_path / "j"))
            replies = await complete_all(journalled, requests, 4)
            assert all(isinstance(reply, Reply) for reply in replies)
            assert server.open_most == 4
            assert await complete_all(journalled, requests, 4) == replies
            assert len(server.received) == 12

    asyncio.run(run())


def test_an_endpoint_that_is_down_gives_values() -> None:
    async def run() -> list[Reply | LLMError]:
        url = f"http://127.0.0.1:{loopback.closed_port()}/v1"
        async with loopback.client(url, retry=QUICK) as model:
            return await complete_all(model, [request("a"), request("b")], 2)

    assert [type(outcome) for outcome in asyncio.run(run())] == [EndpointUnreachableError] * 2


class Script(Echo):
    """Answers number n with a reply for True in its script, otherwise with that error."""

    def __init__(self, *script: bool | LLMError) -> None:
        super().__init__()
        self.script = script

    async def complete(self, request: ChatRequest) -> Reply:
        reply = await super().complete(request)
        outcome = self.script[int(reply.text)]
        if isinstance(outcome, LLMError):
            raise outcome
        return reply


ASKS = [request(str(number)) for number in range(4)]
MIXED = (True, EndpointRefusedError("é no"), BudgetError("cap"), True)
FINE = (True, True, True, True)


def outcomes(model: Journalled) -> list[Reply | LLMError]:
    return asyncio.run(complete_all(model, ASKS, 1))


def shown(found: list[Reply | LLMError]) -> list[str]:
    return [getattr(outcome, "text", str(outcome)) for outcome in found]


def test_a_closed_round_ends_the_same_way_again(tmp_path: Path) -> None:
    # The replies are in a cache that is shared, the failures in a journal of one's own.
    cache, own = tmp_path / "cache", tmp_path / "own"
    first = Journalled(Script(*MIXED), Journal(cache), Journal(own))
    first.close_round(ASKS, outcomes(first))
    # A reply that somebody else got since does not matter.
    other = Journalled(Script(*FINE), Journal(cache), Journal(tmp_path / "other"))
    assert shown(outcomes(other)) == ["0", "1", "2", "3"]
    again = Journalled(Script(*FINE), Journal(cache), Journal(own))
    found = outcomes(again)
    assert shown(found) == ["0", "é no", "2", "3"]
    assert (again.sent, again.reused) == (0, 3)
    size = own.stat().st_size
    again.close_round(ASKS, found)
    assert own.stat().st_size == size


@pytest.mark.parametrize("case", ["nothing was answered", "not closed", "not asked for"])
def test_what_is_not_noted_is_sent_again(tmp_path: Path, case: str) -> None:
    script = [EndpointRefusedError("no")] * 4 if case == "nothing was answered" else MIXED
    journal = Journal(tmp_path / "j")
    first = Journalled(Script(*script), journal, None if case == "not asked for" else journal)
    found = outcomes(first)
    if case != "not closed":
        first.close_round(ASKS, found)
    model = Script(*FINE)
    assert shown(outcomes(Journalled(model, Journal(tmp_path / "j"), journal))) == ["0", "1", "2", "3"]
    assert "1" in model.asked
