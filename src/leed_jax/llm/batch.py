"""Many requests at once."""

import asyncio
from collections.abc import Sequence

from leed_jax.errors import ConfigurationError, LLMError
from leed_jax.llm.messages import ChatModel, ChatRequest, Reply


async def complete_all(model: ChatModel, requests: Sequence[ChatRequest], concurrency: int) -> list[Reply | LLMError]:
    """Answer many requests, so many at a time.

    A request that fails is no reason to lose the others: its error stands in its place. Cancelling this call cancels
    the requests that are on their way, and waits until they have ended.

    Args:
        model: The model to ask.
        requests: What to ask.
        concurrency: Requests on their way at the same time, at most.

    Returns:
        For each request, in order, the reply or the `LLMError` that it ended in.

    Raises:
        ConfigurationError: `concurrency` is below 1.
        LeedError: Something that concerns all requests, such as a journal that cannot be written (RunDirectoryError).
    """
    if concurrency < 1:
        raise ConfigurationError(f"llm.concurrency is {concurrency}; it must be 1 or more.")
    slots = asyncio.Semaphore(concurrency)

    async def answer(request: ChatRequest) -> Reply | LLMError:
        async with slots:
            try:
                return await model.complete(request)
            except LLMError as error:
                return error

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(answer(request)) for request in requests]
    except BaseExceptionGroup as failures:
        # The first is why the others ended, and callers expect one of this library's errors rather than a group.
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
