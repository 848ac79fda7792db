"""Asking for JSON of a certain form: the strictest way that an endpoint takes, and how to tell that it does not."""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema
import referencing
import referencing.exceptions

from leed_jax.errors import ConfigurationError
from leed_jax.llm.messages import Message, Reply
from leed_jax.llm.provider import RUNGS, is_about_length
from leed_jax.llm.wire import speaks_of_format

RESPONSE_FORMATS = ("auto", *RUNGS)
# Why an answer ended that was not ended by the model: its form then says nothing. Endpoints agree on few of these.
_NOT_ENDED = ("length", "max_tokens", "context", "filter", "refusal", "safety", "abort", "cancel", "error", "pause")
_log = logging.getLogger(__name__)


class Ladder:
    """The ways to pass on a schema, from the strictest to none, and the one in use.

    It goes down only: when the endpoint refused a rung and accepted the next one, and when it accepted a rung and took
    no notice of it. A fixed response format has one rung.

    Args:
        response_format: "auto", or the one rung.
        rungs: The rungs that the provider knows, the strictest first.
        where: The endpoint, for the log.

    Raises:
        ConfigurationError: There is no such response format.
    """

    def __init__(self, response_format: str, rungs: Sequence[str], where: str) -> None:
        if response_format not in ("auto", *rungs):
            choices = ", ".join(("auto", *rungs))
            raise ConfigurationError(f"llm.response_format is {response_format!r}; use one of {choices}.")
        self._rungs = tuple(rungs) if response_format == "auto" else (response_format,)
        self._where = where
        self._index = 0

    @property
    def now(self) -> str:
        """The rung that the next request begins on."""
        return self._rungs[self._index]

    def below(self, rung: str) -> str | None:
        """Return the next rung below one, or None when that was the last."""
        index = self._rungs.index(rung) + 1
        return self._rungs[index] if index < len(self._rungs) else None

    def accepted(self, rung: str) -> None:
        """Note that the endpoint answered on a rung, perhaps after it had refused stricter ones."""
        if rung != self.now:
            self._go(rung, "refuses")

    def ignored(self, rung: str) -> None:
        """Note that an answer does not keep to what was asked for on a rung."""
        lower = self.below(rung)
        if lower is not None:
            self._go(lower, "takes no notice of")

    def _go(self, rung: str, verb: str) -> None:
        # Requests that were on their way at the same time come to the same conclusion, or to an older one.
        if self._rungs.index(rung) > self._index:
            _log.warning("%s %s response_format=%s; from now on %s is used.", self._where, verb, self.now, rung)
            self._index = self._rungs.index(rung)


def refuses_rung(status: int, text: str) -> bool:
    """Say whether an error status may be due to the response format alone."""
    if is_about_length(text):
        return False
    return status in {400, 422} or (status in {500, 501} and speaks_of_format(text))


def with_gist(messages: Sequence[Message], schema: Mapping[str, Any]) -> tuple[Message, ...]:
    """Return the messages with the schema said in words, for an endpoint that does not enforce it.

    It goes to the end, so that the head of the conversation stays the same from request to request.

    Raises:
        ConfigurationError: The schema is not JSON data.
    """
    try:
        said = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"The response schema of a chat request is not JSON data: {error}.") from error
    gist = f"Answer with JSON that keeps to this JSON schema, and with nothing else:\n{said}"
    *head, last = messages
    if last.role != "user":
        return (*messages, Message("user", gist))
    return (*head, Message("user", f"{last.content}\n\n{gist}"))


def is_cut(reply: Reply, max_tokens: int) -> bool:
    """Say whether an answer was ended by something else than the model, such as its length or a filter.

    Any other reason counts as the model's own end, as many endpoints have names of their own for it, or say none.

    Args:
        reply: The answer.
        max_tokens: The upper bound of its length.
    """
    reason = (reply.finish_reason or "").lower()
    return any(word in reason for word in _NOT_ENDED) or reply.usage.completion_tokens >= max_tokens


def keeps_to(text: str, rung: str, schema: Mapping[str, Any] | None) -> bool:
    """Say whether an answer is what its rung promises.

    Args:
        text: The answer.
        rung: The rung that it was got on.
        schema: What the endpoint enforces there; None for nothing in particular.
    """
    if rung == "none":
        return True
    try:
        document = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) if schema is None else _is_valid(document, schema)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _is_valid(document: object, schema: Mapping[str, Any]) -> bool:
    # An empty registry, so that a reference to another address is not followed.
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
        return kind(schema, registry=referencing.Registry()).is_valid(document)
    except (jsonschema.exceptions.SchemaError, referencing.exceptions.Unresolvable, RecursionError):
        # A schema that cannot be applied says nothing about the answer.
        return True
