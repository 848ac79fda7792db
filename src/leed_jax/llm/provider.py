"""What the APIs of language models have in common: how a request is written and an answer is read."""

import abc
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from leed_jax.llm.keys import Secret
from leed_jax.llm.messages import ChatRequest, Reply

# The ways to ask for structured output, the strictest first.
RESPONSE_FORMATS = ("json_schema", "json_object", "none")
_REFUSED_FIELD = re.compile(
    "unsupported|not support|deprecated|unknown|unrecogni[sz]ed|unexpected|not permitted|not allowed|extra|default val"
)
_OPTIONAL_FIELDS = ("temperature", "seed")
_CONTEXT_WORDS = ("context length", "context size", "context window", "context_length", "context_size", "too long")
_FORMAT_WORDS = ("response_format", "output_config", "json_schema", "json_object", "grammar", "guided", "schema")


@dataclass(frozen=True)
class Dialect:
    """How an endpoint wants its requests worded, as far as its refusals have shown.

    Attributes:
        length_field: The field that bounds the length of an answer.
        swapped: Whether `length_field` was changed after a refusal, which happens once.
        omitted: Fields that are not sent, because the model refuses them.
    """

    length_field: str = "max_tokens"
    swapped: bool = False
    omitted: frozenset[str] = frozenset()

    def after(self, status: int, text: str) -> "Dialect | None":
        """Return the dialect that a refusal asks for, or None if it asks for no other.

        Args:
            status: The error status.
            text: What came with it.
        """
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
    """One API. A provider holds no state and no secret.

    Attributes:
        name: Its name, which is part of the identity of an answer.
        default_url: Its own address.
        path: What is added to the address to ask for an answer.
        key_env: The environment variable that usually holds its key; empty for none.
        max_temperature: The highest temperature that it takes.
        formats: The ways to ask for structured output that it knows, from `RESPONSE_FORMATS`, the strictest first.
    """

    name: str
    default_url: str
    path: str
    key_env: str
    max_temperature: float
    formats: tuple[str, ...] = RESPONSE_FORMATS

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
        """Write a request.

        Args:
            model: The model's name at the endpoint.
            request: What to ask.
            response_format: How the request's schema, if there is one, is passed on: one of `formats`.
            dialect: How the endpoint wants it worded.

        Returns:
            The JSON body.

        Raises:
            ConfigurationError: The response schema is not JSON data.
        """

    @abc.abstractmethod
    def read(self, body: bytes, model: str) -> Reply:
        """Read an answer.

        Args:
            body: The answer's body.
            model: The model's name, if the answer does not have one.

        Raises:
            ValueError: It is not an answer; the message continues a sentence that begins with "The answer".
        """


def read_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body; other JSON data counts as an empty one.

    Raises:
        ValueError: It is not JSON; the message continues a sentence that begins with "The answer".
    """
    try:
        document = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    except (ValueError, RecursionError):
        raise ValueError("is not JSON, or was cut short") from None
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
    text = text.lower()
    return any(word in text for word in _CONTEXT_WORDS)


def is_about_format(text: str) -> bool:
    """Return whether a refusal is about the response format."""
    text = text.lower()
    return any(word in text for word in _FORMAT_WORDS)


def advice(status: int, text: str, key_env: str, *, has_key: bool, has_format: bool) -> str:
    """Return a sentence that says what to do about an error status.

    Args:
        status: The status, 300 or more.
        text: What came with it.
        key_env: The environment variable that holds the key; empty if there is none.
        has_key: Whether a key was sent.
        has_format: Whether a response format was sent.
    """
    if status in {401, 403}:
        return _key_advice(key_env, has_key)
    if status in {400, 413, 422} and is_about_length(text):
        return "Lower llm.max_tokens, or serve the model with a longer context (with llm=local, raise llm.context)."
    if status == 400 and "credit balance" in text.lower():  # noqa: PLR2004
        return _ADVICE[402]
    if has_format and status in {400, 422, 500, 501} and is_about_format(text):
        return "The endpoint may not support this response format; set llm.response_format=auto."
    return _ADVICE.get(status) or _CLASS_ADVICE[min(status // 100, 5)]


def _key_advice(key_env: str, has_key: bool) -> str:
    if not key_env:
        return "No key was sent; set llm.api_key_env to the name of the environment variable that holds the key."
    if has_key:
        return f"It does not accept the key in the environment variable {key_env}; set that to a valid key."
    return f"No key was sent; set the environment variable {key_env} to your key."


_ADVICE = {
    400: "The endpoint does not accept the request; its message says what, often an unknown llm.model.",
    402: "The account at the endpoint has no credit left.",
    404: "Check that llm.base_url ends where the API begins (usually in /v1) and that llm.model is served there.",
    405: "Check that llm.base_url ends where the API begins (usually in /v1).",
    407: "A proxy asks for a password; check the proxy variables of the environment.",
    413: "The prompt is too large for the endpoint; shorten it.",
    429: "Wait, lower llm.concurrency or llm.requests_per_minute, or check the quota of the account.",
    502: "Something between here and the model answered; check that the model's server runs.",
    503: "The server may still be loading the model; try again when it is ready.",
    529: "The endpoint is overloaded; try again later.",
}
_CLASS_ADVICE = {
    3: "Redirects are not followed, so as not to hand the key on; set llm.base_url to the final address.",
    4: "Check llm.base_url and llm.model against the documentation of the endpoint.",
    5: "The fault is on the endpoint's side; see its log, and try again later.",
}
