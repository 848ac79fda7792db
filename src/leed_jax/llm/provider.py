"""What the APIs of language models have in common: how a request is written and an answer is read."""

import abc
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import jsonschema
import referencing
import referencing.exceptions

from leed_jax.errors import ConfigurationError
from leed_jax.llm.keys import Secret
from leed_jax.llm.messages import ChatRequest, Message, Reply, to_json

# The ways to ask for structured output, the strictest first.
RESPONSE_FORMATS = ("json_schema", "json_object", "none")
_REFUSED_FIELD = re.compile(
    "unsupported|not support|deprecated|unknown|unrecogni[sz]ed|unexpected|not permitted|not allowed|extra|default val"
)
_OPTIONAL_FIELDS = ("temperature", "seed")
_CONTEXT_WORDS = ("context length", "context size", "context window", "context_length", "context_size", "too long")
# Reasons for which an answer ended that say nothing about its form. Endpoints agree on few of the names.
_NOT_ENDED = ("length", "max_tokens", "context", "filter", "refusal", "safety", "abort", "cancel", "error", "pause")
_FORMAT_WORDS = ("response_format", "output_config", "json_schema", "json_object", "grammar", "guided", "schema")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dialect:
    """How an endpoint wants its requests worded, as far as its refusals have shown."""

    length_field: str = "max_tokens"  # bounds the length of an answer
    swapped: bool = False  # whether that was changed after a refusal, which happens once
    omitted: frozenset[str] = frozenset()  # fields that are not sent

    def after(self, status: int, text: str) -> "Dialect | None":
        """Return the dialect that a refusal, an error status with its text, asks for; None if it asks for no other."""
        text = text.lower()
        if status not in {400, 422} or is_about_length(text) or not _REFUSED_FIELD.search(text):
            return None
        if not self.swapped and ("max_tokens" in text or "max_completion_tokens" in text):
            other = "max_tokens" if self.length_field != "max_tokens" else "max_completion_tokens"
            return replace(self, length_field=other, swapped=True)
        for name in _OPTIONAL_FIELDS:
            if name not in self.omitted and re.search(rf"\b{name}\b", text):
                return replace(self, omitted=self.omitted | {name})
        return None


@dataclass(frozen=True)
class Provider(abc.ABC):
    """One API. A provider holds no state and no secret."""

    name: str  # part of the identity of an answer
    default_url: str  # its own address
    path: str  # added to the address to ask for an answer
    key_env: str  # the environment variable that usually holds its key; empty for none
    max_temperature: float
    formats: tuple[str, ...] = RESPONSE_FORMATS  # those that it knows, the strictest first

    @abc.abstractmethod
    def dialect(self, host: str) -> Dialect:
        """Return how requests to a host are worded at first."""

    @abc.abstractmethod
    def headers(self, secret: Secret) -> dict[str, str]:
        """Return the API's own headers, with the key if there is one."""

    @abc.abstractmethod
    def schema_sent(self, schema: Mapping[str, Any], response_format: str) -> Mapping[str, Any] | None:
        """Return the part of a schema that the endpoint enforces with a response format, or None for nothing of it."""

    @abc.abstractmethod
    def body(self, model: str, request: ChatRequest, response_format: str, dialect: Dialect) -> bytes:
        """Write a request as a JSON body, with its schema, if there is one, as the response format says."""

    @abc.abstractmethod
    def read(self, body: bytes, model: str) -> Reply:
        """Read the body of an answer; `model` is the model's name, if the answer does not have one.

        Raises:
            ValueError: It is not an answer; the message continues a sentence that begins with "The answer".
        """


class FallbackFormat:
    """The response format in use: with "auto" the strictest first, and a fallback where the endpoint fails with it.

    It falls back when the endpoint refused a format and accepted the next one, and when it accepted a format and
    ignored it. `endpoint` is its address, for the log.
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
    """Return the messages with the schema added as text, at the end, so that endpoints can cache the beginning."""
    to_json({"schema": schema})  # raises unless it is JSON data
    text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"), default=dict)
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
    """Return whether an answer is what its response format promises: JSON, by the schema if there is one."""
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


def read_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body, other JSON data as an empty one; errors are like those of `Provider.read`."""
    try:
        document = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise ValueError("is not JSON in UTF-8, or was cut short") from None
    return document if isinstance(document, dict) else {}


def read_model(name: object, otherwise: str) -> str:
    """Return the model's name in an answer; of a path on the server's disk, which some give, the last part."""
    if not isinstance(name, str):
        return otherwise
    for flavour in (PurePosixPath, PureWindowsPath):
        if flavour(name).is_absolute():
            name = flavour(name).name
    return valid_unicode(name)


def valid_unicode(text: str) -> str:
    """Return a text that can be encoded: half a surrogate pair, which JSON allows, becomes U+FFFD."""
    return text.encode("utf-16-le", errors="surrogatepass").decode("utf-16-le", errors="replace")


def is_about_length(text: str) -> bool:
    """Return whether a refusal says that prompt and answer do not fit into the model's context."""
    return any(word in text.lower() for word in _CONTEXT_WORDS)


def is_about_format(text: str) -> bool:
    """Return whether a refusal is about the response format."""
    return any(word in text.lower() for word in _FORMAT_WORDS)


def advice(status: int, text: str, key_env: str, *, has_key: bool, has_format: bool) -> str:
    """Return a sentence that says what to do about an error status, 300 or more, that came with a text."""
    if status in {401, 403}:
        wrong = f"It does not accept the key in the environment variable {key_env}; set that to a valid key."
        missing = f"set the environment variable {key_env} to your key"
        unnamed = "set llm.api_key_env to the name of the environment variable that holds the key"
        return wrong if has_key else f"No key was sent; {missing if key_env else unnamed}."
    if status in {400, 413, 422} and is_about_length(text):
        return "Lower llm.max_tokens, or serve the model with a longer context (with llm=local, raise llm.context)."
    if status == 400 and "credit balance" in text.lower():  # noqa: PLR2004
        return _ADVICE[402]
    if has_format and status in {400, 422, 500, 501} and is_about_format(text):
        return "The endpoint may not support this response format; set llm.response_format=auto."
    return _ADVICE.get(status) or _CLASS_ADVICE[min(status // 100, 5)]


_ADVICE = {
    400: "The endpoint does not accept the request; its message says what, often an unknown llm.model.",
    402: "The account at the endpoint has no credit left.",
    404: "Check that llm.base_url ends where the API begins (usually in /v1) and that llm.model is served there.",
    429: "Wait, lower llm.concurrency or llm.requests_per_minute, or check the quota of the account.",
    503: "The server may still be loading the model; try again when it is ready.",
}
_CLASS_ADVICE = {
    3: "Redirects are not followed, so as not to hand the key on; set llm.base_url to the final address.",
    4: "Check llm.base_url and llm.model against the documentation of the endpoint.",
    5: "The fault is on the endpoint's side; see its log, and try again later.",
}
