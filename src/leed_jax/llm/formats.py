"""Structured output: the strictest response format that an endpoint takes, and signs that it ignores one."""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema
import referencing
import referencing.exceptions

from leed_jax.errors import ConfigurationError
from leed_jax.llm.messages import Message, Reply
from leed_jax.llm.provider import is_about_format, is_about_length

# Reasons for which an answer ended that say nothing about its form. Endpoints agree on few of the names.
_NOT_ENDED = ("length", "max_tokens", "context", "filter", "refusal", "safety", "abort", "cancel", "error", "pause")
_log = logging.getLogger(__name__)


class FallbackFormat:
    """The response formats from the strictest to none, and the one in use.

    It only falls back: when the endpoint refused a format and accepted the next one, and when it accepted a format and
    ignored it. A fixed response format stays.

    Args:
        response_format: "auto", or the one to use.
        formats: The response formats that the provider knows, the strictest first.
        endpoint: The endpoint's address, for the log.

    Raises:
        ConfigurationError: There is no such response format.
    """

    def __init__(self, response_format: str, formats: Sequence[str], endpoint: str) -> None:
        if response_format not in ("auto", *formats):
            choices = ", ".join(("auto", *formats))
            raise ConfigurationError(f"llm.response_format is {response_format!r}; use one of {choices}.")
        self._formats = tuple(formats) if response_format == "auto" else (response_format,)
        self._endpoint = endpoint
        self.now = self._formats[0]

    def after(self, response_format: str) -> str | None:
        """Return the fallback of a response format, or None if there is none."""
        index = self._formats.index(response_format) + 1
        return self._formats[index] if index < len(self._formats) else None

    def accepted(self, response_format: str) -> None:
        """Note that the endpoint answered with this format, perhaps after it had refused stricter ones."""
        self._fall_back(response_format, "refuses")

    def ignored(self, response_format: str) -> None:
        """Note that an answer does not keep to this format."""
        self._fall_back(self.after(response_format) or response_format, "ignores")

    def _fall_back(self, response_format: str, verb: str) -> None:
        # Concurrent requests may come to the same conclusion, or to an older one.
        if self._formats.index(response_format) > self._formats.index(self.now):
            text = "%s %s response_format=%s; from now on %s is used."
            _log.warning(text, self._endpoint, verb, self.now, response_format)
            self.now = response_format


def refuses_format(status: int, text: str) -> bool:
    """Return whether an error status may be due to the response format alone."""
    if is_about_length(text):
        return False
    return status in {400, 422} or (status in {500, 501} and is_about_format(text))


def with_schema_text(messages: Sequence[Message], schema: Mapping[str, Any]) -> tuple[Message, ...]:
    """Return the messages with the schema added as text, for an endpoint that does not enforce it.

    It is added at the end, so that the beginning stays the same from request to request and can be cached.

    Raises:
        ConfigurationError: The schema is not JSON data.
    """
    try:
        text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"The response schema of a chat request is not JSON data: {error}.") from error
    text = f"Answer with JSON that keeps to this JSON schema, and with nothing else:\n{text}"
    *head, last = messages
    if last.role != "user":
        return (*messages, Message("user", text))
    return (*head, Message("user", f"{last.content}\n\n{text}"))


def is_cut(reply: Reply, max_tokens: int) -> bool:
    """Return whether an answer was ended by its length, a filter or the like, rather than by the model."""
    reason = (reply.finish_reason or "").lower()
    return any(word in reason for word in _NOT_ENDED) or reply.usage.completion_tokens >= max_tokens


def keeps_to(text: str, response_format: str, schema: Mapping[str, Any] | None) -> bool:
    """Return whether an answer is what its response format promises.

    Args:
        text: The answer.
        response_format: The response format.
        schema: What the endpoint enforces with it; None for nothing but JSON.
    """
    if response_format == "none":
        return True
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) if schema is None else _is_valid(document, schema)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _is_valid(document: object, schema: Mapping[str, Any]) -> bool:
    # The empty registry keeps references to other addresses from being followed.
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
        return kind(schema, registry=referencing.Registry()).is_valid(document)
    except (jsonschema.exceptions.SchemaError, referencing.exceptions.Unresolvable, RecursionError):
        return True  # a schema that cannot be applied says nothing about the answer
