"""A model whose replies are kept, so that no request is sent twice."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from leed_jax.errors import BudgetError, ConfigurationError, LLMError, RememberedError
from leed_jax.llm.journal import Journal
from leed_jax.llm.messages import ChatModel, ChatRequest, Reply, Usage, request_key


@dataclass
class _Pending:
    """A request on its way, and how many callers wait for it."""

    task: asyncio.Task[Reply]
    waiting: int = 0


class Journalled:
    """A `ChatModel` that answers from a journal what the journal holds, and asks another model for the rest.

    Equal requests that overlap in time are sent once; if that one fails, all of them fail, and the next one is sent
    anew. A request that another process with the same journal has on its way is waited for. One instance belongs to
    one event loop.

    Whoever makes new requests of the outcomes of old ones, failures included, wants to see the same failures after an
    interruption; otherwise the new requests differ, and are paid for again. For them there is `remember_failures`, with
    which each round is closed (`close_round`) before its outcomes are used. A failure of a round that was not closed is
    not remembered.

    Args:
        model: The model to ask.
        journal: Where the replies are kept.
        spender: On whose account the journal books the replies; empty for nobody's.
        remember_failures: Whether a request that failed in one of the spender's closed rounds fails again, unsent, even
            where somebody else has got a reply to it since.

    Raises:
        ConfigurationError: Failures are to be remembered, but there is no spender.

    Attributes:
        sent: Requests passed on to the model, failed ones included.
        failed: Requests, of those, that ended in an `LLMError`.
        reused: Requests answered without passing them on.
        usage: Tokens of the replies that were passed on for.
    """

    def __init__(
        self, model: ChatModel, journal: Journal, spender: str = "", *, remember_failures: bool = False
    ) -> None:
        if remember_failures and not spender:
            raise ConfigurationError("Failures are remembered for a spender; give the journalled model one.")
        self._model = model
        self._journal = journal
        self._spender = spender
        self._remember_failures = remember_failures
        self._pending: dict[str, _Pending] = {}
        self.sent = 0
        self.failed = 0
        self.reused = 0
        self.usage = Usage()

    @property
    def identity(self) -> str:
        """The identity of the model behind it: the journal changes no answer."""
        return self._model.identity

    async def complete(self, request: ChatRequest) -> Reply:
        """Answer a request from the journal, or ask the model and keep its reply.

        Args:
            request: What to ask.

        Returns:
            The reply that the journal holds for this request from now on.

        Raises:
            RememberedError: It failed in a round that is closed.
            LLMError: The model gave no usable answer. The request may be repeated, as long as its round is not closed.
            RunDirectoryError: The journal cannot be read or written.
        """
        key = request_key(self.identity, request)
        failure = self._journal.failure(key, self._spender) if self._remember_failures else None
        if failure is not None:
            raise RememberedError(failure)
        pending = self._pending.get(key)
        if pending is None:
            known = self._journal.get(key)
            if known is not None:
                self.reused += 1
                return known
            pending = self._pending[key] = _Pending(asyncio.create_task(self._ask(key, request)))
            return await self._wait(key, pending)
        reply = await self._wait(key, pending)
        self.reused += 1
        return reply

    def close_round(self, requests: Sequence[ChatRequest], outcomes: Sequence[Reply | LLMError]) -> None:
        """Remember which requests of a round failed for good, before anything is made of its outcomes.

        Nothing is remembered of a round without any reply, which is worth another try, nor a `BudgetError`, as a cap
        may be raised. Without `remember_failures` this does nothing.

        Args:
            requests: What was asked.
            outcomes: What came of each, such as `complete_all` returns it.

        Raises:
            RunDirectoryError: The journal cannot be written.
        """
        if not self._remember_failures or not any(isinstance(outcome, Reply) for outcome in outcomes):
            return
        failures = {
            request_key(self.identity, request): str(outcome)
            for request, outcome in zip(requests, outcomes, strict=True)
            if isinstance(outcome, LLMError) and not isinstance(outcome, BudgetError)
        }
        if failures:
            self._journal.close_round(self._spender, failures)

    def forget_failures(self) -> None:
        """Send what failed in the rounds so far again, when it is asked for.

        Raises:
            RunDirectoryError: The journal cannot be written.
        """
        if self._remember_failures:
            self._journal.forget_failures(self._spender)

    async def _ask(self, key: str, request: ChatRequest) -> Reply:
        async with self._journal.claim(key):
            known = self._journal.get(key)
            if known is not None:
                self.reused += 1
                return known
            self.sent += 1
            try:
                reply = await self._model.complete(request)
            except LLMError:
                self.failed += 1
                raise
            self.usage += reply.usage
            return self._journal.record(key, reply, self._spender)

    async def _wait(self, key: str, pending: _Pending) -> Reply:
        """Wait for a request on its way; whoever leaves last takes it away, done or not."""
        pending.waiting += 1
        try:
            # Shielded, because one caller's cancellation is no reason for the others to go without an answer.
            return await asyncio.shield(pending.task)
        finally:
            pending.waiting -= 1
            if pending.waiting == 0:
                del self._pending[key]
                await _ended(pending.task)


async def _ended(task: asyncio.Task[Reply]) -> None:
    """Cancel a task unless it is done, and wait until it is, so that nothing runs on unseen."""
    task.cancel()
    await asyncio.wait([task])
