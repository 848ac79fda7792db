"""What is asked of a language model, what it answers, and the protocol of everything that can be asked."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from leed_jax.errors import ConfigurationError

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: "system", "user" or "assistant".
        content: The text.

    Raises:
        ConfigurationError: The role is none of the three.
    """

    role: str
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ConfigurationError(f"A message has the role {self.role!r}; use one of {', '.join(ROLES)}.")

    def to_dict(self) -> dict[str, Any]:
        """Return the message as plain JSON data."""
        return {"role": self.role, "content": self.content}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Message":
        """Build a message from what `to_dict` returned.

        Raises:
            ConfigurationError: The role is unknown, or a field is missing or not text.
        """
        role, content = data.get("role"), data.get("content")
        if not isinstance(role, str) or not isinstance(content, str):
            raise ConfigurationError("A message needs the two text fields `role` and `content`.")
        return cls(role, content)


@dataclass(frozen=True)
class ChatRequest:
    """One question to a model, with everything that decides its answer.

    Attributes:
        messages: The conversation so far, oldest first.
        temperature: Sampling temperature; 0 asks for the most likely text.
        seed: Seed of the sampling, or None to leave it to the endpoint. Requests that should get different answers
            must differ in their seed: equal requests are answered once.
        max_tokens: Upper bound of the answer's length.
        response_schema: JSON schema of the answer, or None for free text.

    Raises:
        ConfigurationError: No messages, or a number out of range.
    """

    messages: tuple[Message, ...]
    temperature: float = 0.0
    seed: int | None = None
    max_tokens: int = 1024
    response_schema: Mapping[str, Any] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if not self.messages:
            raise ConfigurationError("A chat request has no messages; give at least one.")
        if not math.isfinite(self.temperature) or self.temperature < 0:
            raise ConfigurationError(f"temperature is {self.temperature}; it must be a finite number, 0 or more.")
        if self.max_tokens < 1:
            raise ConfigurationError(f"max_tokens is {self.max_tokens}; it must be 1 or more.")

    def to_dict(self) -> dict[str, Any]:
        """Return the request as plain JSON data."""
        return {
            "messages": [message.to_dict() for message in self.messages],
            # abs() because -0.0 is the same temperature but another text, and so would have another key.
            "temperature": abs(float(self.temperature)),
            "seed": self.seed,
            "max_tokens": self.max_tokens,
            "response_schema": _plain(self.response_schema),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ChatRequest":
        """Build a request from what `to_dict` returned.

        Raises:
            ConfigurationError: A field is missing, of the wrong type or out of range.
        """
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
    """Tokens that an answer took, as the endpoint counted them; 0 where it did not say.

    Attributes:
        prompt_tokens: Tokens of the question.
        completion_tokens: Tokens of the answer.
    """

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
        """Return the counts as plain JSON data."""
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens}

    @classmethod
    def from_dict(cls, data: object) -> "Usage":
        """Build the counts from JSON data of any shape.

        Anything that is not a count is taken as 0: a usable answer is not thrown away because its bookkeeping is odd.
        """
        fields = data if isinstance(data, Mapping) else {}
        return cls(_count(fields.get("prompt_tokens")), _count(fields.get("completion_tokens")))


@dataclass(frozen=True)
class Reply:
    """One answer of a model.

    Attributes:
        text: What it wrote.
        usage: The tokens that it took.
        finish_reason: Why it stopped ("stop"; "length" when `max_tokens` cut it), or None when it is not said.
        model: The model that the endpoint says answered.
        response_format: How it was held to the request's schema ("json_schema", "json_object" or "none"), or None when
            that is not known or there was no schema.
    """

    text: str
    usage: Usage
    finish_reason: str | None
    model: str
    response_format: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the reply as plain JSON data."""
        return {
            "text": self.text,
            "usage": self.usage.to_dict(),
            "finish_reason": self.finish_reason,
            "model": self.model,
            **({} if self.response_format is None else {"response_format": self.response_format}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Reply":
        """Build a reply from what `to_dict` returned.

        Raises:
            ConfigurationError: A field is missing or of the wrong type.
        """
        text, model = data.get("text"), data.get("model")
        if not isinstance(text, str) or not isinstance(model, str):
            raise ConfigurationError("A stored reply needs the text fields `text` and `model`.")
        # Not there in transcripts from before it was noted.
        reason, form = data.get("finish_reason"), data.get("response_format")
        if not isinstance(reason, str | None) or not isinstance(form, str | None):
            raise ConfigurationError("A stored reply's `finish_reason` and `response_format` must be text or null.")
        return cls(text, Usage.from_dict(data.get("usage")), reason, model, form)


@runtime_checkable
class ChatModel(Protocol):
    """Anything that answers chat requests."""

    @property
    def identity(self) -> str:
        """What decides an answer besides the request: the model and its fixed settings, never a secret."""
        ...

    async def complete(self, request: ChatRequest) -> Reply:
        """Answer one request.

        Raises:
            LLMError: There is no usable answer.
        """
        ...


def request_key(model: str, request: ChatRequest) -> str:
    """Return the SHA-256 (64 hex digits) of a model and everything that a request asks of it.

    The address of the endpoint is left out, so that replies stay usable when the same model is served elsewhere.

    Args:
        model: The model's name, or a `ChatModel.identity`.
        request: The request.

    Raises:
        ConfigurationError: The response schema is not JSON data.
    """
    return hashlib.sha256(encoded({"model": model, **request.to_dict()}, sort_keys=True)).hexdigest()


def encoded(document: Mapping[str, Any], *, sort_keys: bool) -> bytes:
    """Return a request's document as JSON.

    Args:
        document: What to encode; of a request, only the response schema may be anything but JSON data.
        sort_keys: Whether equal documents should be equal bytes. Not for sending: some servers generate the fields of
            an answer in the order in which the schema has them.

    Raises:
        ConfigurationError: The response schema is not JSON data.
    """
    try:
        # ASCII escapes work even where a prompt holds half a surrogate pair.
        text = json.dumps(document, sort_keys=sort_keys, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"The response schema of a chat request is not JSON data: {error}.") from error
    return text.encode("ascii")


def _plain(value: object) -> Any:
    """Return JSON data with every mapping as a dict and every sequence as a list."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _count(value: object) -> int:
    # bool is an int, but `true` tokens are no count.
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
