"""What the APIs of language models have in common, and where each differs: one protocol, small values behind it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from leed_jax.llm.excerpts import Secret
from leed_jax.llm.messages import ChatRequest, Reply

RUNGS = ("json_schema", "json_object", "none")
_REFUSED_FIELD = re.compile(
    "unsupported|not support|deprecated|unknown|unrecogni[sz]ed|unexpected|not permitted|not allowed|extra|default val"
)
_DISPENSABLE = ("temperature", "seed")


@dataclass(frozen=True)
class Dialect:
    """How an endpoint wants its requests worded, as far as that has turned out.

    Attributes:
        length_field: The field that bounds the length of an answer.
        swapped: Whether `length_field` was changed after a refusal, which happens once.
        omitted: Fields that are not sent, because the model refuses them.
    """

    length_field: str = "max_tokens"
    swapped: bool = False
    omitted: frozenset[str] = frozenset()

    def after(self, status: int, text: str) -> "Dialect | None":
        """Return the dialect that a refusal asks for, or None when it asks for no other.

        Args:
            status: The error status.
            text: What the endpoint said.
        """
        text = text.lower()
        if status not in {400, 422} or is_about_length(text) or not _REFUSED_FIELD.search(text):
            return None
        if not self.swapped and ("max_tokens" in text or "max_completion_tokens" in text):
            other = "max_tokens" if self.length_field != "max_tokens" else "max_completion_tokens"
            return replace(self, length_field=other, swapped=True)
        for name in _DISPENSABLE:
            if name not in self.omitted and re.search(rf"\b{name}\b", text):
                return replace(self, omitted=self.omitted | {name})
        return None


@runtime_checkable
class Provider(Protocol):
    """The wire format of one API. A provider holds no state and no secret.

    Attributes:
        name: Its name, which is part of the identity of an answer.
        default_url: Its own address.
        path: What is added to the address to ask for an answer.
        key_env: The environment variable that usually holds its key; empty for none.
        rungs: The ways to ask for structured output that it knows, from `RUNGS`, the strictest first.
        max_temperature: The highest temperature that it takes.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - described above, as are the next ones
    @property
    def default_url(self) -> str: ...  # noqa: D102
    @property
    def path(self) -> str: ...  # noqa: D102
    @property
    def key_env(self) -> str: ...  # noqa: D102
    @property
    def rungs(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def max_temperature(self) -> float: ...  # noqa: D102

    def dialect(self, host: str) -> Dialect:
        """Return how the endpoint at a host is spoken to at first."""
        ...

    def headers(self, secret: Secret) -> dict[str, str]:
        """Return the headers of its own, with the key if there is one."""
        ...

    def schema_sent(self, schema: Mapping[str, Any], rung: str) -> Mapping[str, Any] | None:
        """Return as much of a schema as it enforces on a rung, or None for nothing of it."""
        ...

    def body(self, model: str, request: ChatRequest, rung: str, dialect: Dialect) -> bytes:
        """Return the body that asks for an answer.

        Raises:
            ConfigurationError: The response schema is not JSON data.
        """
        ...

    def read(self, body: bytes, model: str) -> Reply:
        """Read the body of an answer; `model` is the name to note when it names none.

        Raises:
            ValueError: It is no answer; the message continues a sentence about it.
        """
        ...


def is_about_length(text: str) -> bool:
    """Say whether a refusal complains that prompt and answer do not fit into the model's context."""
    text = text.lower()
    return any(word in text for word in _CONTEXT_WORDS)


_CONTEXT_WORDS = ("context length", "context size", "context window", "context_length", "context_size", "too long")
