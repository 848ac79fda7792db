"""Rates and caps, in an event loop whose time passes only while everybody waits."""

import asyncio
import contextlib
import itertools
import math
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leed_jax.errors import BudgetError, ConfigurationError, EndpointRefusedError, LLMError
from leed_jax.llm import ChatRequest, Limits, Message, Meter, Reply, Spending, Usage, complete_all

TOKENS = st.integers(1, 900)


class Loop(asyncio.SelectorEventLoop):
    """An event loop that goes to the next timer at once."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self.now = max(self.now + 1e-6, self._scheduled[0].when())
        super()._run_once()


def now() -> float:
    return asyncio.get_running_loop().time()


def request(tokens: int) -> ChatRequest:
    """A request that is estimated at so many tokens, at least 1."""
    return ChatRequest((Message("user", ""),), max_tokens=tokens)


async def use(meter: Meter, tokens: int, usage: Usage | None = None) -> None:
    async with meter.admit(request(tokens)) as ticket:
        if usage is not None:
            ticket.settle(usage)


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(coroutine)


@given(st.floats(0.2, 30.0), st.lists(st.floats(0.0, 40.0), min_size=1, max_size=40))
@settings(max_examples=40, deadline=None)
def test_no_minute_holds_more_requests_than_allowed(rate: float, pauses: list[float]) -> None:
    admitted = list[float]()

    async def main() -> None:
        meter = Meter(Limits(requests_per_minute=rate))
        for pause in pauses:
            await asyncio.sleep(pause)
            await use(meter, 1)
            admitted.append(now())

    run(main())
    for first, last in itertools.pairwise(admitted):
        assert last - first >= 60 / rate - 1e-3
    assert admitted[0] == pytest.approx(pauses[0], abs=1e-3)


def test_requests_that_wait_go_at_the_full_rate() -> None:
    async def main() -> None:
        meter = Meter(Limits(requests_per_minute=30.0))
        await asyncio.gather(*(use(meter, 1) for _ in range(31)))
        assert now() == pytest.approx(60.0, abs=0.1)

    run(main())


@given(st.lists(st.tuples(TOKENS, st.floats(0, 1), st.floats(0, 30)), min_size=1, max_size=20))
@settings(max_examples=25, deadline=None)
def test_no_minute_holds_more_tokens_than_allowed(items: list[tuple[int, float, float]]) -> None:
    used = list[tuple[float, int]]()

    async def one(meter: Meter, tokens: int, share: float) -> None:
        async with meter.admit(request(tokens)) as ticket:
            amount = max(1, int(tokens * share))
            used.append((now(), amount))
            await asyncio.sleep(1.0)
            ticket.settle(Usage(0, amount))

    async def main() -> None:
        meter = Meter(Limits(tokens_per_minute=1000.0))
        async with asyncio.TaskGroup() as group:
            for tokens, share, pause in items:
                group.create_task(one(meter, tokens, share))
                await asyncio.sleep(pause)

    run(main())
    assert len(used) == len(items)
    for at, _ in used:
        assert sum(amount for when, amount in used if at <= when < at + 60) <= 1000


def test_what_was_reserved_and_not_used_is_free_at_once() -> None:
    async def main() -> None:
        meter = Meter(Limits(tokens_per_minute=1000.0))
        await use(meter, 900, Usage(50, 50))
        await use(meter, 900, Usage(50, 50))
        assert now() == pytest.approx(0, abs=1e-3)
        await use(meter, 800)  # an answer that never came is counted whole
        await use(meter, 100)
        assert 60 <= now() < 61

    run(main())


def test_what_was_used_beyond_the_estimate_is_waited_for() -> None:
    async def main() -> None:
        meter = Meter(Limits(tokens_per_minute=1000.0))
        await use(meter, 100, Usage(4000, 1000))
        await use(meter, 100, Usage(1, 1))
        assert 60 <= now() < 61

    run(main())


def test_a_count_that_comes_after_its_minute_changes_nothing() -> None:
    async def main() -> None:
        meter = Meter(Limits(tokens_per_minute=1000.0))
        async with meter.admit(request(500)) as slow:
            await asyncio.sleep(61)
            await use(meter, 1, Usage(0, 1))
            slow.settle(Usage(0, 1))
        await use(meter, 500)
        await use(meter, 499)
        assert now() == pytest.approx(61, abs=0.1)
        await use(meter, 1)
        assert now() >= 121

    run(main())


def test_a_waiting_request_goes_when_the_one_before_it_turns_out_short() -> None:
    async def main() -> None:
        meter = Meter(Limits(tokens_per_minute=1000.0))
        async with meter.admit(request(900)) as ticket:
            waiting = asyncio.create_task(use(meter, 500))
            await asyncio.sleep(10)
            ticket.settle(Usage(1, 1))
        await waiting
        assert 10 <= now() < 11

    run(main())


def test_a_large_request_is_not_overtaken_by_small_ones() -> None:
    async def main() -> None:
        order = list[int]()
        meter = Meter(Limits(tokens_per_minute=1000.0))

        async def one(tokens: int) -> None:
            await use(meter, tokens)
            order.append(tokens)

        async with asyncio.TaskGroup() as group:
            for tokens in (600, 900, 50, 40):
                group.create_task(one(tokens))
        assert order == [600, 900, 50, 40]

    run(main())


def test_who_is_cancelled_while_waiting_gives_all_back() -> None:
    async def main() -> None:
        meter = Meter(Limits(requests_per_minute=1.0, max_calls=2, max_total_tokens=100))
        await use(meter, 40, Usage(10, 10))
        waiting = asyncio.create_task(use(meter, 80))
        await asyncio.sleep(0.01)
        with pytest.raises(BudgetError, match="max_calls"):
            await use(meter, 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (meter.spent, meter.reserved) == (Spending(1, Usage(10, 10)), Usage())

    run(main())


def test_the_cap_on_calls_counts_every_attempt() -> None:
    async def main() -> None:
        meter = Meter(Limits(max_calls=3), Spending(1, Usage(5, 5)))
        await use(meter, 10, Usage(1, 1))
        async with meter.admit(request(10)) as ticket:
            ticket.refused()
        with pytest.raises(BudgetError, match=r"llm\.max_calls=3 .* 3 is spent .* Raise llm\.max_calls"):
            await use(meter, 10)
        assert meter.spent == Spending(3, Usage(6, 6))

    run(main())


def test_the_cap_on_tokens_counts_what_is_on_its_way() -> None:
    async def main() -> None:
        meter = Meter(Limits(max_total_tokens=1000))
        async with meter.admit(request(700)) as first:
            assert meter.reserved == Usage(0, 700)
            with pytest.raises(BudgetError, match=r"max_total_tokens=1000 .*: 700 is spent or reserved .* take 400"):
                await use(meter, 400)
            await use(meter, 300, Usage(100, 100))
            first.settle(Usage(60, 40))
        assert (meter.spent, meter.reserved) == (Spending(2, Usage(160, 140)), Usage())
        await use(meter, 700)
        with pytest.raises(BudgetError):
            await use(meter, 1)

    run(main())


def test_the_cap_on_money() -> None:
    async def main() -> None:
        limits = Limits(max_cost=0.01, prompt_price=1.0, completion_price=10.0)
        meter = Meter(limits, Spending(9, Usage(1000, 500), cost=77.0))
        assert meter.spent == Spending(9, Usage(1000, 500), 0.006)
        await use(meter, 400, Usage(0, 100))
        assert meter.spent.cost == pytest.approx(0.007)
        with pytest.raises(BudgetError, match=r"max_cost=0\.01 .* 0\.007 is spent .* take 0\.004"):
            await use(meter, 400)
        await use(meter, 300)

    run(main())


@pytest.mark.parametrize("end", ["left", "failed", "uncounted"])
def test_an_attempt_without_a_count_is_charged_whole(end: str) -> None:
    async def main() -> None:
        meter = Meter(Limits())
        with contextlib.suppress(EndpointRefusedError):
            async with meter.admit(ChatRequest((Message("user", "é" * 30),), max_tokens=7)) as ticket:
                if end == "uncounted":
                    ticket.settle(Usage())
                if end == "failed":
                    raise EndpointRefusedError("no")
        assert (meter.spent, meter.reserved) == (Spending(1, Usage(20, 7)), Usage())

    run(main())


def test_a_refused_attempt_takes_no_tokens() -> None:
    async def main() -> None:
        meter = Meter(Limits(tokens_per_minute=1000.0))
        for _ in range(5):
            async with meter.admit(request(900)) as ticket:
                ticket.refused()
        assert now() == pytest.approx(0, abs=1e-3)
        assert meter.spent == Spending(5, Usage())

    run(main())


def test_a_request_that_can_never_go_is_refused_at_once() -> None:
    async def main() -> None:
        meter = Meter(Limits(tokens_per_minute=1000.0))
        with pytest.raises(BudgetError, match=r"1001 tokens.* llm\.tokens_per_minute=1000 .*llm\.max_tokens"):
            await use(meter, 1001)
        await use(meter, 1000)
        assert meter.spent.calls == 1

    run(main())


@given(
    st.lists(st.tuples(TOKENS, st.sampled_from(["settle", "refuse", "leave"]), TOKENS), max_size=20),
    st.integers(1, 5000),
    st.integers(1, 15),
)
@settings(max_examples=60, deadline=None)
def test_caps_hold_and_the_ledger_knows_all(
    items: Sequence[tuple[int, str, int]], tokens_cap: int, calls_cap: int
) -> None:
    noted, seen = Spending(), list[Spending]()

    def note(calls: int, usage: Usage) -> None:
        nonlocal noted
        noted += Spending(calls, usage)

    async def one(meter: Meter, tokens: int, end: str, actual: int) -> None:
        async with meter.admit(request(tokens)) as ticket:
            seen.append(noted)
            await asyncio.sleep(0)
            if end == "settle":
                ticket.settle(Usage(0, min(actual, tokens)))
            elif end == "refuse":
                ticket.refused()
        assert noted == Spending(meter.spent.calls, meter.spent.usage + meter.reserved)

    async def main() -> None:
        meter = Meter(Limits(max_total_tokens=tokens_cap, max_calls=calls_cap), ledger=note)
        outcomes = await asyncio.gather(*(one(meter, *item) for item in items), return_exceptions=True)
        assert all(outcome is None or isinstance(outcome, BudgetError) for outcome in outcomes)
        assert noted == meter.spent
        assert meter.reserved == Usage()

    run(main())
    # At no time may more be out than allowed, whatever comes back later.
    assert all(spending.calls <= calls_cap and spending.usage.total <= tokens_cap for spending in seen)


def test_a_cap_in_the_middle_of_a_batch_ends_the_rest_and_loses_nothing() -> None:
    class Metered:
        identity = "metered"

        def __init__(self) -> None:
            self.meter = Meter(Limits(max_calls=4))
            self.cancelled = 0

        async def complete(self, request: ChatRequest) -> Reply:
            async with self.meter.admit(request) as ticket:
                try:
                    await asyncio.sleep(0.1)
                except asyncio.CancelledError:
                    self.cancelled += 1
                    raise
                ticket.settle(Usage(1, 1))
                return Reply("yes", Usage(1, 1), "stop", "m")

    async def main() -> None:
        model, done = Metered(), list[tuple[int, type]]()

        def note(index: int, outcome: Reply | LLMError) -> None:
            done.append((index, type(outcome)))

        outcomes = await complete_all(model, [request(5)] * 30, 6, note)
        assert [type(outcome) for outcome in outcomes] == [Reply] * 4 + [BudgetError] * 26
        assert model.cancelled == 0
        assert sorted(done) == [(index, type(outcome)) for index, outcome in enumerate(outcomes)]
        # The 26 did not wait for the 4.
        assert sorted(index for index, _ in done[-4:]) == [0, 1, 2, 3]

    run(main())


@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute", "max_cost"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_unusable_rates_and_sums(name: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=rf"llm\.{name}"):
        Limits(**{name: value, "prompt_price": 1.0})


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_calls", 0), ("max_total_tokens", -1), ("prompt_price", -1.0), ("completion_price", math.nan)],
)
def test_unusable_numbers(name: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=rf"llm\.{name}"):
        Limits(**{name: value})


def test_a_cap_on_money_needs_prices() -> None:
    with pytest.raises(ConfigurationError, match=r"llm\.prompt_price"):
        Limits(max_cost=1.0)


@pytest.mark.parametrize(("counted", "charged"), [(Usage(0, 4), Usage(20, 4)), (Usage(11, 0), Usage(11, 7))])
def test_a_count_that_is_missing_is_what_was_reserved(counted: Usage, charged: Usage) -> None:
    async def main() -> None:
        meter = Meter(Limits())
        async with meter.admit(ChatRequest((Message("user", "é" * 30),), max_tokens=7)) as ticket:
            ticket.settle(counted)
        assert (meter.spent.usage, meter.reserved) == (charged, Usage())

    run(main())
