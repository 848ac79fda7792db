"""Requests, replies, the protocol of everything that answers, and many requests at once."""

import asyncio
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

from leed_jax.errors import ConfigurationError, LLMError

_ROLES = ("system", "user", "assistant")
# More than any answer takes, and small enough to be multiplied by a price.
_MOST_TOKENS = 10**12


@dataclass(frozen=True)
class Message:
    """One message of a conversation; its role is "system", "user" or "assistant"."""

    role: str
    content: str

    def __post_init__(self) -> None:
        if self.role not in _ROLES:
            raise ConfigurationError(f"A message has the role {self.role!r}; use one of {', '.join(_ROLES)}.")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Message":
        """Build a message from what `to_dict` returned, or raise `ConfigurationError`."""
        if not isinstance(data.get("role"), str) or not isinstance(data.get("content"), str):
            raise ConfigurationError("A message needs the two text fields `role` and `content`.")
        return cls(data["role"], data["content"])


@dataclass(frozen=True)
class ChatRequest:
    """One question to a model, with everything that decides its answer.

    Equal requests are answered once, so requests that should get different answers need different seeds.
    """

    messages: tuple[Message, ...]  # the conversation so far, oldest first
    temperature: float = 0.0  # 0 asks for the most likely text
    seed: int | None = None  # None leaves it to the endpoint
    max_tokens: int = 1024  # the longest answer
    response_schema: Mapping[str, Any] | None = field(default=None, hash=False)  # JSON schema; None for free text

    def __post_init__(self) -> None:
        if not self.messages:
            raise ConfigurationError("A chat request has no messages; give at least one.")
        if not math.isfinite(self.temperature) or self.temperature < 0:
            raise ConfigurationError(f"temperature is {self.temperature}; it must be a finite number, 0 or more.")
        if self.max_tokens < 1:
            raise ConfigurationError(f"max_tokens is {self.max_tokens}; it must be 1 or more.")

    def to_dict(self) -> dict[str, Any]:
        """Return the request as JSON data."""
        return {
            "messages": [asdict(message) for message in self.messages],
            # -0.0 is the same temperature, but would give another key.
            "temperature": abs(float(self.temperature)),
            "seed": self.seed,
            "max_tokens": self.max_tokens,
            "response_schema": self.response_schema,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ChatRequest":
        """Build a request from what `to_dict` returned, or raise `ConfigurationError`."""
        try:
            return cls(
                messages=tuple(Message.from_dict(message) for message in data["messages"]),
                temperature=float(data["temperature"]),
                seed=None if data["seed"] is None else int(data["seed"]),
                max_tokens=int(data["max_tokens"]),
                response_schema=data["response_schema"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(f"A stored chat request is incomplete or of the wrong type: {error}.") from error


@dataclass(frozen=True)
class Usage:
    """Tokens of a prompt and of its answer, as the endpoint counted them; 0 where it did not."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(self.prompt_tokens - other.prompt_tokens, self.completion_tokens - other.completion_tokens)

    @property
    def total(self) -> int:
        """Tokens read and written."""
        return self.prompt_tokens + self.completion_tokens

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as JSON data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: object) -> "Usage":
        """Build the counts from JSON data of any shape; what is not a count becomes 0."""
        fields = data if isinstance(data, Mapping) else {}
        return cls(token_count(fields.get("prompt_tokens")), token_count(fields.get("completion_tokens")))


@dataclass(frozen=True)
class Reply:
    """One answer of a model."""

    text: str
    usage: Usage
    finish_reason: str | None  # "stop"; "length" when `max_tokens` cut it; or as the endpoint says
    model: str  # as the endpoint names it
    response_format: str | None = None  # how the schema was enforced; None if unknown or if there was no schema

    def to_dict(self) -> dict[str, Any]:
        """Return the reply as JSON data."""
        data = asdict(self)
        if self.response_format is None:
            del data["response_format"]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Reply":
        """Build a reply from what `to_dict` returned, or raise `ConfigurationError`."""
        text, model = data.get("text"), data.get("model")
        # Older transcripts do not have these.
        reason, response_format = data.get("finish_reason"), data.get("response_format")
        if not (isinstance(text, str) and isinstance(model, str)):
            raise ConfigurationError("A stored reply needs the text fields `text` and `model`.")
        if not (isinstance(reason, str | None) and isinstance(response_format, str | None)):
            raise ConfigurationError("A stored reply's `finish_reason` and `response_format` must be text or null.")
        return cls(text, Usage.from_dict(data.get("usage")), reason, model, response_format)


@runtime_checkable
class ChatModel(Protocol):
    """Anything that answers chat requests."""

    @property
    def identity(self) -> str:
        """What decides an answer besides the request: the model and its fixed settings, never a secret."""
        ...

    async def complete(self, request: ChatRequest) -> Reply:
        """Answer one request, or raise `LLMError`."""
        ...


async def complete_all(
    model: ChatModel,
    requests: Sequence[ChatRequest],
    concurrency: int,
    on_done: Callable[[int, Reply | LLMError], None] | None = None,
) -> list[Reply | LLMError]:
    """Answer many requests, at most `concurrency` of them at the same time.

    A failed request does not stop the others. Cancelling this call cancels those that are running and waits for them.

    `on_done` is called with the index and the outcome of each request; an exception that it raises stops the rest.

    Returns:
        For each request, in order, its reply or the `LLMError` that it ended in. Other errors end them all.
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
    except BaseExceptionGroup as failures:  # the first one ended the others
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def request_key(model: str, request: ChatRequest) -> str:
    """Return the SHA-256 (64 hex digits) of a model and a request.

    The model is a name or a `ChatModel.identity`. The endpoint's address is left out: replies stay usable when the same
    model is served elsewhere.
    """
    return hashlib.sha256(to_json({"model": model, **request.to_dict()}, sort_keys=True)).hexdigest()


def to_json(document: Mapping[str, Any], *, sort_keys: bool = False) -> bytes:
    """Encode a document with a request's data, or raise `ConfigurationError` if its schema is not JSON data.

    With `sort_keys`, equal documents give equal bytes. Not for sending: some servers write the fields of an answer in
    the order of the schema.
    """
    try:
        # ASCII escapes can encode half a surrogate pair, too; `dict` encodes other mappings.
        text = json.dumps(document, sort_keys=sort_keys, separators=(",", ":"), allow_nan=False, default=dict)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"The response schema of a chat request is not JSON data: {error}.") from error
    return text.encode("ascii")


def token_count(value: object) -> int:
    """Return a number of tokens, or 0 for anything that is not one: a usable answer outweighs odd bookkeeping."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS
    return int(value) if is_count else 0  # type: ignore[call-overload]
