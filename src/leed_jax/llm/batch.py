"""Many requests at once."""

import asyncio
from collections.abc import Callable, Sequence

from leed_jax.errors import ConfigurationError, LLMError
from leed_jax.llm.messages import ChatModel, ChatRequest, Reply


async def complete_all(
    model: ChatModel,
    requests: Sequence[ChatRequest],
    concurrency: int,
    on_done: Callable[[int, Reply | LLMError], None] | None = None,
) -> list[Reply | LLMError]:
    """Answer many requests, so many at a time.

    A request that fails is no reason to lose the others: its error stands in its place. Where a cap is reached, the
    requests on their way are waited for, those that a journal answers are answered, and the rest end in `BudgetError`
    at once. Cancelling this call cancels the requests that are on their way, and waits until they have ended.

    Args:
        model: The model to ask.
        requests: What to ask.
        concurrency: Requests on their way at the same time, at most.
        on_done: Is told the index and the outcome of each request when it has ended; what it raises stops the rest.

    Returns:
        For each request, in order, the reply or the `LLMError` that it ended in.

    Raises:
        ConfigurationError: `concurrency` is below 1.
        LeedError: Something that concerns all requests, such as a journal that cannot be written (RunDirectoryError).
    """
    if concurrency < 1:
        raise ConfigurationError(f"llm.concurrency is {concurrency}; it must be 1 or more.")
    slots = asyncio.Semaphore(concurrency)

    async def answer(index: int, request: ChatRequest) -> Reply | LLMError:
        outcome: Reply | LLMError
        async with slots:
            try:
                outcome = await model.complete(request)
            except LLMError as error:
                outcome = error
        if on_done is not None:
            on_done(index, outcome)
        return outcome

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(answer(*item)) for item in enumerate(requests)]
    except BaseExceptionGroup as failures:
        # The first is why the others ended, and callers expect one of this library's errors rather than a group.
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
