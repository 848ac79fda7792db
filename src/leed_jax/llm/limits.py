"""How fast and how much an endpoint may be asked."""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from aiolimiter import AsyncLimiter

from leed_jax.errors import BudgetError, ConfigurationError
from leed_jax.llm.messages import ChatRequest, Usage, to_json

_MINUTE_S = 60.0
_POLL_S = 0.05
# On the safe side for English and code, about right for scripts with more bytes to a character; digits may take fewer.
_BYTES_PER_TOKEN = 3.0
_PRICE_UNIT = 1_000_000


@dataclass(frozen=True)
class Limits:
    """Rates that are waited for, and caps that end the asking; None is no limit.

    An attempt is one request sent once: a request that is tried three times takes three of them. Each process has its
    own rates, which begin anew with it; caps hold over restarts with a `resumed_meter`.
    """

    requests_per_minute: float | None = None  # attempts in any minute, spaced evenly
    tokens_per_minute: float | None = None  # tokens read and written in any minute
    max_calls: int | None = None  # attempts in all
    max_total_tokens: int | None = None  # tokens read and written in all
    max_cost: float | None = None  # money in all, in the unit of the prices
    prompt_price: float = 0.0  # of a million tokens read
    completion_price: float = 0.0  # of a million tokens written

    def __post_init__(self) -> None:
        positive = ("requests_per_minute", "tokens_per_minute", "max_cost")
        for name, value in vars(self).items():
            least = 0 if name.endswith("price") else math.ulp(0.0) if name in positive else 1
            if value is not None and not least <= value < math.inf:
                wording = "0 or more" if least == 0 else "above 0, or null" if least < 1 else "1 or more, or null"
                raise ConfigurationError(f"llm.{name} is {value}; it must be a finite number, {wording}.")
        if self.max_cost is not None and self.prompt_price + self.completion_price == 0:
            raise ConfigurationError(
                f"llm.max_cost is {self.max_cost}, but the cost is not known; set llm.prompt_price and "
                "llm.completion_price, too."
            )

    def cost(self, usage: Usage) -> float:
        """Return what these tokens cost."""
        return (usage.prompt_tokens * self.prompt_price + usage.completion_tokens * self.completion_price) / _PRICE_UNIT


@dataclass(frozen=True)
class Spending:
    """Attempts that were sent, the tokens that they took (or may have taken), and the money, as the prices are."""

    calls: int = 0
    usage: Usage = field(default_factory=Usage)
    cost: float = 0.0

    def __add__(self, other: "Spending") -> "Spending":
        return Spending(self.calls + other.calls, self.usage + other.usage, self.cost + other.cost)


def estimated_usage(request: ChatRequest) -> Usage:
    """Estimate, without a tokenizer, the most tokens that a request takes; the schema counts as part of the prompt."""
    size = sum(len(message.content.encode("utf-8", "surrogatepass")) for message in request.messages)
    if request.response_schema is not None:
        size += len(to_json(request.to_dict()["response_schema"]))
    return Usage(math.ceil(size / _BYTES_PER_TOKEN), request.max_tokens)


@dataclass
class Ticket:
    """The right to send one attempt."""

    at: float  # when it was given, in the event loop's time
    usage: Usage  # what the attempt is charged with: the reservation, until its end is reported

    def settle(self, usage: Usage) -> None:
        """Charge the tokens that an answer took, as the endpoint counted them; a count of 0 keeps the reservation."""
        prompt = usage.prompt_tokens or self.usage.prompt_tokens
        self.usage = Usage(prompt, usage.completion_tokens or self.usage.completion_tokens)

    def refused(self) -> None:
        """Charge no tokens: there was no connection, or an error status."""
        self.usage = Usage()


class Meter:
    """Lets attempts through as the limits allow, in order, and counts what they take.

    A meter belongs to one event loop. It reserves tokens by the bytes of a prompt, until the endpoint has counted them.

    Args:
        limits: The limits.
        spent: What was spent before an interruption; its cost is computed again from its tokens.
        ledger: Called with each change of the spending (attempts and tokens), reservations included, before an attempt
            is sent and after it has ended.
    """

    def __init__(
        self, limits: Limits, spent: Spending | None = None, *, ledger: Callable[[int, Usage], None] | None = None
    ) -> None:
        self.limits = limits
        self.reserved = Usage()  # tokens that the attempts on their way may take
        before = spent or Spending()
        self._calls, self._usage = before.calls, before.usage
        self._ledger = ledger or (lambda *_: None)
        rate = limits.requests_per_minute
        # A larger burst would let up to twice the rate through in the first minute.
        self._requests = None if rate is None else AsyncLimiter(1, _MINUTE_S / rate)
        self._last_minute: deque[Ticket] = deque()
        self._turn = asyncio.Lock()

    @property
    def spent(self) -> Spending:
        """Attempts let through so far, and the tokens and the cost of those that have ended."""
        return Spending(self._calls, self._usage, self.limits.cost(self._usage))

    @contextlib.asynccontextmanager
    async def admit(self, request: ChatRequest) -> AsyncIterator[Ticket]:
        """Wait until one attempt of a request may be sent, and hold its reservation while the context lasts.

        Yields:
            The ticket, on which to report how the attempt ended; otherwise the reservation is charged.

        Raises:
            BudgetError: A cap leaves no room for it, or it alone is more than `tokens_per_minute`.
        """
        estimate = estimated_usage(request)
        self._check(estimate)
        # Reserved before the wait, so that later requests see that this room is taken.
        self._calls += 1
        self.reserved += estimate
        try:
            ticket = await self._wait(estimate)
            self._ledger(1, estimate)
        except BaseException:
            self._calls -= 1
            self.reserved -= estimate
            raise
        try:
            yield ticket
        finally:
            self.reserved -= estimate
            self._usage += ticket.usage
            self._ledger(0, ticket.usage - estimate)

    async def _wait(self, estimate: Usage) -> Ticket:
        """Wait for the rates, first come, first served."""
        loop, limit = asyncio.get_running_loop(), self.limits.tokens_per_minute
        async with self._turn:
            if self._requests is not None:
                await self._requests.acquire()
            # Polled, because an attempt that ends with fewer tokens than reserved makes room early.
            while limit is not None and self._tokens_since(loop.time() - _MINUTE_S) + estimate.total > limit:
                await asyncio.sleep(_POLL_S)
            ticket = Ticket(loop.time(), estimate)
            if limit is not None:
                self._last_minute.append(ticket)
            return ticket

    def _tokens_since(self, start: float) -> int:
        while self._last_minute and self._last_minute[0].at <= start:
            self._last_minute.popleft()
        return sum(ticket.usage.total for ticket in self._last_minute)

    def _check(self, estimate: Usage) -> None:
        limits, tokens = self.limits, estimate.total
        if limits.tokens_per_minute is not None and tokens > limits.tokens_per_minute:
            raise BudgetError(
                f"A request may take {tokens} tokens, which is more than llm.tokens_per_minute="
                f"{limits.tokens_per_minute:.12g} in one go; raise that, lower llm.max_tokens, or shorten the prompt."
            )
        used = self._usage + self.reserved
        for name, spent, more in (
            ("max_calls", self._calls, 1),
            ("max_total_tokens", used.total, tokens),
            ("max_cost", limits.cost(used), limits.cost(used + estimate) - limits.cost(used)),
        ):
            cap = getattr(limits, name)
            if cap is not None and spent + more > cap:
                raise BudgetError(
                    f"llm.{name}={cap:.12g} leaves no room for another attempt: {spent:.6g} is spent or reserved by "
                    f"attempts on their way, and it may take {more:.6g}. Raise llm.{name} to go on."
                )
