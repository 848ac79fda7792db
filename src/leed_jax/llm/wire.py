"""The bodies of the chat completion API: what is sent, what comes back, and what a refusal asks for."""

import json
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from leed_jax.llm.excerpts import whole_characters
from leed_jax.llm.messages import ChatRequest, Reply, Usage, encoded

RESPONSE_FORMATS = ("json_schema", "json_object", "none")
_GRAMMAR_WORDS = ("response_format", "json_schema", "json_object", "grammar", "guided", "schema")
_CONTEXT_WORDS = ("context length", "context size", "context window", "context_length", "context_size", "too long")


def completion_body(model: str, request: ChatRequest, response_format: str) -> bytes:
    """Return the JSON body that asks for one completion.

    Args:
        model: The model's name at the endpoint.
        request: What to ask.
        response_format: How the schema, if there is one, is passed on: one of `RESPONSE_FORMATS`.

    Raises:
        ConfigurationError: The response schema is not JSON data.
    """
    data = request.to_dict()
    schema = data.pop("response_schema")
    body: dict[str, Any] = {"model": model, **data, "stream": False}
    if request.seed is None:
        del body["seed"]
    if schema is not None and response_format == "json_schema":
        named = {"name": "instructions", "strict": True, "schema": schema}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    elif schema is not None and response_format == "json_object":
        body["response_format"] = {"type": "json_object"}
    return encoded(body, sort_keys=False)


def read_completion(body: bytes, model: str) -> Reply:
    """Read the body of a completion.

    Args:
        body: The answer, as it came.
        model: The name to note when the answer names no model.

    Raises:
        ValueError: It is not a completion; the message continues a sentence about the answer.
    """
    try:
        document = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    except (ValueError, RecursionError):
        raise ValueError("is not JSON, or was cut short") from None
    choices = document.get("choices") if isinstance(document, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        raise ValueError("has no choices")
    message = choice.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, str):
        raise ValueError("has no text in choices[0].message.content")
    reason, name = choice.get("finish_reason"), document.get("model")
    return Reply(
        text=whole_characters(content),
        usage=Usage.from_dict(document.get("usage")),
        finish_reason=whole_characters(reason) if isinstance(reason, str) else None,
        model=_model_name(name) if isinstance(name, str) else model,
    )


def refusal_mend(status: int, body: bytes, key_env: str | None, *, has_key: bool, has_format: bool) -> str:
    """Return the sentence that says what to do about an error status.

    Args:
        status: The status, 300 or more.
        body: What came with it.
        key_env: The environment variable that holds the key, if there is one.
        has_key: Whether a key was sent.
        has_format: Whether a response format may have been sent.
    """
    if status in {401, 403}:
        return _key_mend(key_env, has_key)
    text = body.decode("utf-8", errors="replace").lower()
    if status in {400, 413, 422} and any(word in text for word in _CONTEXT_WORDS):
        return "Lower llm.max_tokens, or serve the model with a longer context."
    if has_format and status in {400, 422, 500, 501} and any(word in text for word in _GRAMMAR_WORDS):
        return "The endpoint may not support this response format; set llm.response_format=none."
    return _MENDS.get(status) or _class_mend(status)


_MENDS = {
    400: "The endpoint does not accept the request; its message says what, often an unknown llm.model.",
    402: "The account at the endpoint has no credit left.",
    404: "Check that llm.base_url ends where the API begins (usually in /v1) and that llm.model is served there.",
    405: "Check that llm.base_url ends where the API begins (usually in /v1).",
    407: "A proxy asks for a password; check the proxy variables of the environment.",
    413: "The prompt is too large for the endpoint; shorten it.",
    429: "Wait, lower llm.concurrency, or check the quota of the account.",
    502: "Something between here and the model answered; check that the model's server runs.",
    503: "The server may still be loading the model; try again when it is ready.",
}


def _class_mend(status: int) -> str:
    if status < 400:  # noqa: PLR2004 - the first status that is an error
        return "Redirects are not followed, so as not to hand the key on; set llm.base_url to the final address."
    if status < 500:  # noqa: PLR2004 - the first status that is the server's fault
        return "Check llm.base_url and llm.model against the documentation of the endpoint."
    return "The fault is on the endpoint's side; see its log, and try again later."


def _key_mend(key_env: str | None, has_key: bool) -> str:
    if key_env is None:
        return "No key was sent; set llm.api_key_env to the name of the environment variable that holds the key."
    if has_key:
        return f"It does not accept the key in the environment variable {key_env}; set that to a valid key."
    return f"No key was sent; set the environment variable {key_env} to your key."


def _model_name(name: str) -> str:
    """The name that the endpoint gives its model; of a path on its own disk, which some servers give, the last part."""
    for flavour in (PurePosixPath, PureWindowsPath):
        if flavour(name).is_absolute():
            name = flavour(name).name
    return whole_characters(name)
