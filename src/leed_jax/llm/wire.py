"""What the wire formats share: reading JSON from a stranger, and what an error status asks for."""

import json
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from leed_jax.llm.excerpts import whole_characters
from leed_jax.llm.messages import Usage
from leed_jax.llm.provider import is_about_length

GRAMMAR_WORDS = ("response_format", "output_config", "json_schema", "json_object", "grammar", "guided", "schema")
# More than any answer takes, and small enough to be multiplied by a price.
_MOST_TOKENS = 10**12


def read_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object that a body is.

    Raises:
        ValueError: It is none; the message continues a sentence about the answer.
    """
    try:
        document = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    except (ValueError, RecursionError):
        raise ValueError("is not JSON, or was cut short") from None
    return document if isinstance(document, dict) else {}


def usage_of(prompt: object, completion: object) -> Usage:
    """Return token counts; what is no count is 0, as a usable answer is not thrown away for its odd bookkeeping."""
    return Usage(count(prompt), count(completion))


def count(value: object) -> int:
    """Return a number of tokens, or 0 for anything that cannot be one (1e999, NaN, true, text)."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS
    return int(value) if is_count else 0  # type: ignore[call-overload]


def model_name(name: object, otherwise: str) -> str:
    """Return the name that the endpoint gives its model; of a path on its own disk, which some give, the last part."""
    if not isinstance(name, str):
        return otherwise
    for flavour in (PurePosixPath, PureWindowsPath):
        if flavour(name).is_absolute():
            name = flavour(name).name
    return whole_characters(name)


def speaks_of_format(text: str) -> bool:
    """Say whether an error is about the response format."""
    text = text.lower()
    return any(word in text for word in GRAMMAR_WORDS)


def refusal_mend(status: int, text: str, key_env: str, *, has_key: bool, has_format: bool) -> str:
    """Return the sentence that says what to do about an error status.

    Args:
        status: The status, 300 or more.
        text: What came with it.
        key_env: The environment variable that holds the key; empty if there is none.
        has_key: Whether a key was sent.
        has_format: Whether a response format was sent.
    """
    if status in {401, 403}:
        return _key_mend(key_env, has_key)
    if status in {400, 413, 422} and is_about_length(text):
        return "Lower llm.max_tokens, or serve the model with a longer context (with llm=local, raise llm.context)."
    if status == 400 and "credit balance" in text.lower():  # noqa: PLR2004
        return _MENDS[402]
    if has_format and status in {400, 422, 500, 501} and speaks_of_format(text):
        return "The endpoint may not support this response format; set llm.response_format=auto."
    return _MENDS.get(status) or _class_mend(status)


_MENDS = {
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


def _class_mend(status: int) -> str:
    if status < 400:  # noqa: PLR2004 - the first status that is an error
        return "Redirects are not followed, so as not to hand the key on; set llm.base_url to the final address."
    if status < 500:  # noqa: PLR2004 - the first status that is the server's fault
        return "Check llm.base_url and llm.model against the documentation of the endpoint."
    return "The fault is on the endpoint's side; see its log, and try again later."


def _key_mend(key_env: str, has_key: bool) -> str:
    if not key_env:
        return "No key was sent; set llm.api_key_env to the name of the environment variable that holds the key."
    if has_key:
        return f"It does not accept the key in the environment variable {key_env}; set that to a valid key."
    return f"No key was sent; set the environment variable {key_env} to your key."
