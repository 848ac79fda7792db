"""A model whose replies are kept, so that no request is sent twice."""

import asyncio
from dataclasses import dataclass

from leed_jax.errors import LLMError
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

    Args:
        model: The model to ask.
        journal: Where the replies are kept.
        spender: On whose account the journal books the replies; empty for nobody's.

    Attributes:
        sent: Requests passed on to the model, failed ones included.
        failed: Requests, of those, that ended in an `LLMError`.
        reused: Requests answered without passing them on.
        usage: Tokens of the replies that were passed on for.
    """

    def __init__(self, model: ChatModel, journal: Journal, spender: str = "") -> None:
        self._model = model
        self._journal = journal
        self._spender = spender
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
            LLMError: The model gave no usable answer; the journal keeps replies only, so the request may be repeated.
            RunDirectoryError: The journal cannot be read or written.
        """
        key = request_key(self.identity, request)
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
