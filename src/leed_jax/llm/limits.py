"""How fast and how much an endpoint may be asked."""

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from leed_jax.errors import BudgetError, ConfigurationError
from leed_jax.llm.messages import ChatRequest, Usage, encoded

_MINUTE_S = 60.0
_POLL_S = 0.05
_BYTES_PER_TOKEN = 3.0
# In a shorter prompt, the tokens that an endpoint adds around it count for too much.
_TELLING_BYTES = 300
_PRICE_UNIT = 1_000_000


@dataclass(frozen=True)
class Limits:
    """Rates that are waited for, and caps that end the asking; None is no limit.

    An attempt is one request sent once: a request that is tried three times takes three of them.
    Rates are kept by each process for itself, and anew after a restart; caps hold over both with a `resumed_meter`.

    Attributes:
        requests_per_minute: Attempts in any minute, at most.
        tokens_per_minute: Tokens read and written in any minute, at most.
        max_calls: Attempts in all, at most.
        max_total_tokens: Tokens read and written in all, at most.
        max_cost: Money in all, at most, in the unit of the prices.
        prompt_price: Price of a million tokens read.
        completion_price: Price of a million tokens written.

    Raises:
        ConfigurationError: A number is out of range, or there is a `max_cost` without prices.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_calls: int | None = None
    max_total_tokens: int | None = None
    max_cost: float | None = None
    prompt_price: float = 0.0
    completion_price: float = 0.0

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute", "max_cost"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigurationError(f"llm.{name} is {value}; it must be a finite number above 0, or null.")
        for name in ("max_calls", "max_total_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigurationError(f"llm.{name} is {value}; it must be 1 or more, or null.")
        for name in ("prompt_price", "completion_price"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigurationError(f"llm.{name} is {value}; it must be a finite number, 0 or more.")
        if self.max_cost is not None and self.prompt_price + self.completion_price == 0:
            raise ConfigurationError(
                f"llm.max_cost is {self.max_cost}, but the cost is not known; set llm.prompt_price and "
                "llm.completion_price, too."
            )

    def cost(self, usage: Usage) -> float:
        """Return what so many tokens cost."""
        return (usage.prompt_tokens * self.prompt_price + usage.completion_tokens * self.completion_price) / _PRICE_UNIT


@dataclass(frozen=True)
class Spending:
    """What was spent.

    Attributes:
        calls: Attempts that were sent.
        usage: Tokens that they took, or may have taken where no answer said so.
        cost: The money, in the unit of the prices.
    """

    calls: int = 0
    usage: Usage = field(default_factory=Usage)
    cost: float = 0.0

    def __add__(self, other: "Spending") -> "Spending":
        return Spending(self.calls + other.calls, self.usage + other.usage, self.cost + other.cost)


def estimated_usage(request: ChatRequest, bytes_per_token: float = _BYTES_PER_TOKEN) -> Usage:
    """Return the tokens that a request takes at most, more or less, before any tokenizer has seen it.

    The schema counts as part of the prompt, as endpoints put it there, and the answer is taken to be as long as it may
    be.

    Args:
        request: The request.
        bytes_per_token: Bytes of the prompt that make a token. Three are on the safe side for English and code and
            about right for scripts with more bytes to a character; where there are many figures it may be fewer.
    """
    return Usage(math.ceil(_prompt_bytes(request) / bytes_per_token), request.max_tokens)


def _prompt_bytes(request: ChatRequest) -> int:
    size = sum(len(message.content.encode("utf-8", "surrogatepass")) for message in request.messages)
    if request.response_schema is not None:
        size += len(encoded(request.to_dict()["response_schema"], sort_keys=False))
    return size


class Ticket:
    """The right to send one attempt. Exactly one of the two methods is called, or none; a second call is an error."""

    def __init__(self, close: Callable[[Usage], None], reserved: Usage, learn: Callable[[int], None]) -> None:
        self._close = close
        self._learn = learn
        self._reserved = reserved
        self._open = True

    def settle(self, usage: Usage) -> None:
        """Replace the reservation by the tokens that an answer took.

        Args:
            usage: The endpoint's own count. No tokens read, or none written, means that it does not count those; what
                was reserved for them stands then.
        """
        prompt = usage.prompt_tokens or self._reserved.prompt_tokens
        completion = usage.completion_tokens or self._reserved.completion_tokens
        self._end(Usage(prompt, completion))
        self._learn(usage.prompt_tokens)

    def refused(self) -> None:
        """Give the reservation back: there was no connection, or an error status, and nothing was read or written."""
        self._end(Usage())

    def leave(self) -> None:
        """Charge the reservation, unless the ticket was used up: an answer may have been paid for unseen."""
        if self._open:
            self._end(self._reserved)

    def _end(self, usage: Usage) -> None:
        if not self._open:
            raise RuntimeError("This ticket is used up; every attempt needs its own.")
        self._open = False
        self._close(usage)


class Meter:
    """Lets attempts through as the limits allow, and counts what they take.

    One meter belongs to one event loop at a time, and knows only the attempts that go through it: rates are kept by
    each process for itself, and anew after a restart. Requests are let through in the order in which they came.

    What is reserved for a prompt is computed from its bytes. Where the endpoint counts more tokens to the same bytes,
    the meter takes that for all requests after it.

    Args:
        limits: The limits.
        spent: What was spent before, by an attempt to do the same that was interrupted. Its cost is computed again
            from its tokens, at the prices of `limits`.
        ledger: Is told each change of the spending, before the attempt is sent and after it has ended, so that a
            count on disk survives the process. What is reserved counts as spent until the attempt has ended.
        clock: Seconds from any start; for tests.
        sleep: Waits so many seconds; for tests.
    """

    def __init__(
        self,
        limits: Limits,
        spent: Spending | None = None,
        *,
        ledger: Callable[[int, Usage], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.limits = limits
        before = spent or Spending()
        self._calls, self._usage, self._reserved = before.calls, before.usage, Usage()
        self._bytes_per_token = _BYTES_PER_TOKEN
        self._ledger = ledger
        self._clock, self._sleep = clock, sleep
        self._requests = _Window.per_minute(limits.requests_per_minute)
        self._tokens = _Window(limits.tokens_per_minute, _MINUTE_S)
        self._queue: deque[object] = deque()

    @property
    def spent(self) -> Spending:
        """Attempts let through so far, and the tokens and the cost of those that have ended."""
        return Spending(self._calls, self._usage, self.limits.cost(self._usage))

    @property
    def reserved(self) -> Usage:
        """Tokens that the attempts on their way may take."""
        return self._reserved

    @contextlib.asynccontextmanager
    async def admit(self, request: ChatRequest) -> AsyncIterator[Ticket]:
        """Wait until one attempt of a request may be sent, and hold its place for the length of the context.

        Leaving the context with the ticket unused charges the whole reservation.

        Args:
            request: What is to be sent.

        Yields:
            The ticket, on which to report how the attempt ended.

        Raises:
            BudgetError: A cap leaves no room for it, or it alone is more than `tokens_per_minute`.
            RunDirectoryError: The ledger cannot be written.
        """
        estimate = estimated_usage(request, self._bytes_per_token)
        self._check(estimate)
        # Taken before the wait: whoever comes later must see that this room is gone.
        self._calls += 1
        self._reserved += estimate
        try:
            slot = await self._turn(estimate.total)
            self._note(1, estimate)
        except BaseException:
            self._calls -= 1
            self._reserved -= estimate
            raise

        def close(usage: Usage) -> None:
            self._reserved -= estimate
            self._usage += usage
            self._tokens.correct(slot, usage.total)
            self._note(0, usage - estimate)

        ticket = Ticket(close, estimate, partial(self._learn, _prompt_bytes(request)))
        try:
            yield ticket
        finally:
            ticket.leave()

    def _learn(self, size: int, tokens: int) -> None:
        """Take over an endpoint's count of a prompt's tokens where it is more than was expected."""
        if size >= _TELLING_BYTES and tokens:
            self._bytes_per_token = max(1.0, min(self._bytes_per_token, size / tokens))

    def _check(self, estimate: Usage) -> None:
        limits, tokens = self.limits, estimate.total
        if limits.tokens_per_minute is not None and tokens > limits.tokens_per_minute:
            raise BudgetError(
                f"A request may take {tokens} tokens, which is more than llm.tokens_per_minute="
                f"{limits.tokens_per_minute:.12g} in one go; raise that, lower llm.max_tokens, or shorten the prompt."
            )
        if limits.max_calls is not None and self._calls + 1 > limits.max_calls:
            raise _over("max_calls", limits.max_calls, f"{self._calls} attempts were sent")
        counted = self._usage + self._reserved
        if limits.max_total_tokens is not None and counted.total + tokens > limits.max_total_tokens:
            known = (
                f"{self._usage.total} tokens are spent, {self._reserved.total} are reserved by attempts on their way"
            )
            raise _over("max_total_tokens", limits.max_total_tokens, f"{known}, and it may take {tokens}")
        if limits.max_cost is not None and limits.cost(counted + estimate) > limits.max_cost:
            spent, reserved, more = (f"{limits.cost(usage):.6g}" for usage in (self._usage, self._reserved, estimate))
            known = f"{spent} is spent, {reserved} is reserved by attempts on their way"
            raise _over("max_cost", limits.max_cost, f"{known}, and it may cost {more}")

    def _note(self, calls: int, usage: Usage) -> None:
        if self._ledger is not None and (calls, usage) != (0, Usage()):
            self._ledger(calls, usage)

    async def _turn(self, tokens: int) -> "_Slot":
        """Wait for the rates, first come, first served, and take the place."""
        me = object()
        self._queue.append(me)
        try:
            while (pause := self._pause(me, tokens)) > 0:
                # Short, because an attempt that ends with fewer tokens than reserved opens the way early.
                await self._sleep(min(pause, _POLL_S))
        finally:
            self._queue.remove(me)
        now = self._clock()
        self._requests.take(now, 1)
        return self._tokens.take(now, tokens)

    def _pause(self, me: object, tokens: int) -> float:
        if self._queue[0] is not me:
            return _POLL_S
        now = self._clock()
        return max(self._requests.wait(now, 1), self._tokens.wait(now, tokens))


@dataclass
class _Slot:
    """An amount that was taken at some moment."""

    at: float
    amount: int
    counted: bool = True


class _Window:
    """At most `limit` in any stretch of `period` seconds, with amounts that may turn out to be others later on."""

    def __init__(self, limit: float | None, period: float) -> None:
        self._limit = math.inf if limit is None else limit
        self._period = period
        self._slots: deque[_Slot] = deque()
        self._sum = 0

    @classmethod
    def per_minute(cls, rate: float | None) -> "_Window":
        """Return a window for things that cannot be divided: 1.5 a minute are 2 in 80 seconds."""
        return cls(None, _MINUTE_S) if rate is None else cls(float(math.ceil(rate)), _MINUTE_S * math.ceil(rate) / rate)

    def wait(self, now: float, amount: int) -> float:
        """Return the seconds until so much may be taken; 0 for at once."""
        while self._slots and self._slots[0].at + self._period <= now:
            self._drop(self._slots.popleft())
        excess, seconds = self._sum + amount - self._limit, 0.0
        for slot in self._slots:
            if excess <= 0:
                break
            excess -= slot.amount
            seconds = slot.at + self._period - now
        return seconds

    def take(self, now: float, amount: int) -> _Slot:
        """Take so much now."""
        slot = _Slot(now, amount, counted=self._limit != math.inf)
        if slot.counted:
            self._slots.append(slot)
            self._sum += amount
        return slot

    def correct(self, slot: _Slot, amount: int) -> None:
        """Replace what was taken by what it turned out to be."""
        if slot.counted:
            self._sum += amount - slot.amount
        slot.amount = amount

    def _drop(self, slot: _Slot) -> None:
        slot.counted = False
        self._sum -= slot.amount


def _over(name: str, cap: float | int, count: str) -> BudgetError:
    return BudgetError(f"llm.{name}={cap:.12g} leaves no room for another attempt: {count}. Raise llm.{name} to go on.")
