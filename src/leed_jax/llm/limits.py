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
_BYTES_PER_TOKEN = 3.0
# In shorter prompts, the tokens that an endpoint adds around them count for too much.
_LEAST_BYTES_TO_LEARN_FROM = 300
_PRICE_UNIT = 1_000_000


@dataclass(frozen=True)
class Limits:
    """Rates that are waited for, and caps that end the asking; None is no limit.

    An attempt is one request sent once: a request that is tried three times takes three of them. Each process has its
    own rates, which begin anew with it; caps hold over restarts with a `resumed_meter`.

    Attributes:
        requests_per_minute: Most attempts in any minute. They are spaced evenly.
        tokens_per_minute: Most tokens read and written in any minute.
        max_calls: Most attempts in all.
        max_total_tokens: Most tokens read and written in all.
        max_cost: Most money in all, in the unit of the prices.
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
        """Return what these tokens cost."""
        return (usage.prompt_tokens * self.prompt_price + usage.completion_tokens * self.completion_price) / _PRICE_UNIT


@dataclass(frozen=True)
class Spending:
    """What was spent.

    Attributes:
        calls: Attempts that were sent.
        usage: Tokens that they took, or may have taken where no answer says so.
        cost: The money, in the unit of the prices.
    """

    calls: int = 0
    usage: Usage = field(default_factory=Usage)
    cost: float = 0.0

    def __add__(self, other: "Spending") -> "Spending":
        return Spending(self.calls + other.calls, self.usage + other.usage, self.cost + other.cost)


def estimated_usage(request: ChatRequest, bytes_per_token: float = _BYTES_PER_TOKEN) -> Usage:
    """Estimate, without a tokenizer, the most tokens that a request takes.

    The schema counts as part of the prompt, as endpoints put it there, and the answer is taken to be as long as it may
    be.

    Args:
        request: The request.
        bytes_per_token: Bytes of the prompt per token. Three are on the safe side for English and code and about right
            for scripts with more bytes to a character; digits may take fewer.
    """
    return Usage(math.ceil(_prompt_bytes(request) / bytes_per_token), request.max_tokens)


def _prompt_bytes(request: ChatRequest) -> int:
    size = sum(len(message.content.encode("utf-8", "surrogatepass")) for message in request.messages)
    if request.response_schema is not None:
        size += len(to_json(request.to_dict()["response_schema"]))
    return size


@dataclass
class Ticket:
    """The right to send one attempt.

    Attributes:
        usage: The tokens that the attempt is charged with: the reservation, until its end is reported.
        counted: Tokens of the prompt as the endpoint counted them; 0 if it did not.
    """

    usage: Usage
    counted: int = 0

    def settle(self, usage: Usage) -> None:
        """Charge the tokens that an answer took, as the endpoint counted them; a count of 0 keeps the reservation."""
        self.counted = usage.prompt_tokens
        self.usage = Usage(
            usage.prompt_tokens or self.usage.prompt_tokens, usage.completion_tokens or self.usage.completion_tokens
        )

    def refused(self) -> None:
        """Charge no tokens: there was no connection, or an error status."""
        self.usage = Usage()


@dataclass
class _Slot:
    """Tokens that were taken at some moment."""

    at: float
    tokens: int


class Meter:
    """Lets attempts through as the limits allow, in order, and counts what they take.

    A meter belongs to one event loop. It reserves tokens for a prompt by its bytes; where an endpoint counts more
    tokens per byte than expected, it does so too from then on.

    Args:
        limits: The limits.
        spent: What was spent before, by an attempt to do the same that was interrupted. Its cost is computed again
            from its tokens, at the prices of `limits`.
        ledger: Called with each change of the spending (attempts and tokens), before an attempt is sent and after it
            has ended, so that a count on disk survives the process. Reservations count as spent.

    Attributes:
        limits: The limits.
        reserved: Tokens that the attempts on their way may take.
    """

    def __init__(
        self, limits: Limits, spent: Spending | None = None, *, ledger: Callable[[int, Usage], None] | None = None
    ) -> None:
        self.limits = limits
        self.reserved = Usage()
        before = spent or Spending()
        self._calls, self._usage = before.calls, before.usage
        self._ledger = ledger
        self._bytes_per_token = _BYTES_PER_TOKEN
        rate = limits.requests_per_minute
        # A larger burst would let up to twice the rate through in the first minute.
        self._requests = None if rate is None else AsyncLimiter(1, _MINUTE_S / rate)
        self._tokens: deque[_Slot] = deque()
        self._turn = asyncio.Lock()

    @property
    def spent(self) -> Spending:
        """Attempts let through so far, and the tokens and the cost of those that have ended."""
        return Spending(self._calls, self._usage, self.limits.cost(self._usage))

    @contextlib.asynccontextmanager
    async def admit(self, request: ChatRequest) -> AsyncIterator[Ticket]:
        """Wait until one attempt of a request may be sent, and hold its reservation while the context lasts.

        Args:
            request: What is to be sent.

        Yields:
            The ticket, on which to report how the attempt ended; otherwise the reservation is charged.

        Raises:
            BudgetError: A cap leaves no room for it, or it alone is more than `tokens_per_minute`.
            RunDirectoryError: The ledger cannot be written.
        """
        estimate = estimated_usage(request, self._bytes_per_token)
        self._check(estimate)
        # Reserved before the wait, so that later requests see that this room is taken.
        self._calls += 1
        self.reserved += estimate
        try:
            slot = await self._wait(estimate.total)
            self._note(1, estimate)
        except BaseException:
            self._calls -= 1
            self.reserved -= estimate
            raise
        ticket = Ticket(estimate)
        try:
            yield ticket
        finally:
            self.reserved -= estimate
            self._usage += ticket.usage
            slot.tokens = ticket.usage.total
            self._learn(_prompt_bytes(request), ticket.counted)
            self._note(0, ticket.usage - estimate)

    async def _wait(self, tokens: int) -> _Slot:
        """Wait for the rates, first come, first served."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            if self._requests is not None:
                await self._requests.acquire()
            # Polled, because an attempt that ends with fewer tokens than reserved makes room early.
            while not self._has_room(loop.time(), tokens):
                await asyncio.sleep(_POLL_S)
            slot = _Slot(loop.time(), tokens)
            if self.limits.tokens_per_minute is not None:
                self._tokens.append(slot)
            return slot

    def _has_room(self, now: float, tokens: int) -> bool:
        while self._tokens and self._tokens[0].at + _MINUTE_S <= now:
            self._tokens.popleft()
        limit = self.limits.tokens_per_minute
        return limit is None or sum(slot.tokens for slot in self._tokens) + tokens <= limit

    def _learn(self, size: int, tokens: int) -> None:
        if size >= _LEAST_BYTES_TO_LEARN_FROM and tokens:
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
        counted = self._usage + self.reserved
        if limits.max_total_tokens is not None and counted.total + tokens > limits.max_total_tokens:
            count = f"{self._usage.total} tokens are spent, {self.reserved.total} are reserved by attempts on their way"
            raise _over("max_total_tokens", limits.max_total_tokens, f"{count}, and it may take {tokens}")
        if limits.max_cost is not None and limits.cost(counted + estimate) > limits.max_cost:
            spent, reserved, more = (f"{limits.cost(usage):.6g}" for usage in (self._usage, self.reserved, estimate))
            count = f"{spent} is spent, {reserved} is reserved by attempts on their way"
            raise _over("max_cost", limits.max_cost, f"{count}, and it may cost {more}")

    def _note(self, calls: int, usage: Usage) -> None:
        if self._ledger is not None and (calls, usage) != (0, Usage()):
            self._ledger(calls, usage)


def _over(name: str, cap: float | int, count: str) -> BudgetError:
    return BudgetError(f"llm.{name}={cap:.12g} leaves no room for another attempt: {count}. Raise llm.{name} to go on.")
