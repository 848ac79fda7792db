"""The chat completion API of OpenAI, which vLLM, Ollama, llama.cpp and many others speak as well."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from leed_jax.llm.excerpts import Secret, whole_characters
from leed_jax.llm.messages import ChatRequest, Reply, encoded
from leed_jax.llm.provider import RUNGS, Dialect
from leed_jax.llm.structured import with_gist
from leed_jax.llm.wire import model_name, read_object, usage_of

_OWN_HOST = "api.openai.com"
# Why an answer may rightly hold no text.
_EMPTY_REASONS = frozenset({"length", "content_filter"})


@dataclass(frozen=True)
class OpenAI:
    """Chat completions (see `Provider` for the attributes)."""

    name: str = "openai"
    default_url: str = f"https://{_OWN_HOST}/v1"
    path: str = "/chat/completions"
    key_env: str = "OPENAI_API_KEY"
    rungs: tuple[str, ...] = RUNGS
    max_temperature: float = 2.0

    def dialect(self, host: str) -> Dialect:
        """Return how a host is spoken to: OpenAI's own models want the newer field for the length."""
        return Dialect("max_completion_tokens" if host == _OWN_HOST else "max_tokens")

    def headers(self, secret: Secret) -> dict[str, str]:
        """Return the header with the key, if there is one."""
        return {"Authorization": f"Bearer {secret.reveal()}"} if secret else {}

    def schema_sent(self, schema: Mapping[str, Any], rung: str) -> Mapping[str, Any] | None:
        """Return what is enforced on a rung: the whole schema, or nothing of it."""
        return schema if rung == "json_schema" else None

    def body(self, model: str, request: ChatRequest, rung: str, dialect: Dialect) -> bytes:
        """Return the JSON body that asks for one completion.

        Args:
            model: The model's name at the endpoint.
            request: What to ask.
            rung: How the schema, if there is one, is passed on: one of `rungs`.
            dialect: How the endpoint wants it worded.

        Raises:
            ConfigurationError: The response schema is not JSON data.
        """
        data = request.to_dict()
        schema, length = data.pop("response_schema"), data.pop("max_tokens")
        if data["seed"] is None:
            del data["seed"]
        if schema is not None and rung != "json_schema":
            data["messages"] = [message.to_dict() for message in with_gist(request.messages, schema)]
        body: dict[str, Any] = {"model": model, **data, dialect.length_field: length, "stream": False}
        if schema is not None and rung == "json_schema":
            named = {"name": "answer", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        elif schema is not None and rung == "json_object":
            body["response_format"] = {"type": "json_object"}
        kept = {name: value for name, value in body.items() if name not in dialect.omitted}
        return encoded(kept, sort_keys=False)

    def read(self, body: bytes, model: str) -> Reply:
        """Read the body of a completion.

        Args:
            body: The answer, as it came.
            model: The name to note when the answer names no model.

        Raises:
            ValueError: It is not a completion; the message continues a sentence about the answer.
        """
        document = read_object(body)
        choices = document.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            raise ValueError("has no choices")
        reason = choice.get("finish_reason")
        reason = whole_characters(reason) if isinstance(reason, str) else None
        message = choice.get("message")
        text, refusal = _said(message if isinstance(message, dict) else {}, reason)
        if text is None:
            raise ValueError("has no text in choices[0].message.content")
        usage = document.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        return Reply(
            text=whole_characters(text),
            usage=usage_of(usage.get("prompt_tokens"), usage.get("completion_tokens")),
            finish_reason="refusal" if refusal else reason,
            model=model_name(document.get("model"), model),
        )


def _said(message: Mapping[str, Any], reason: str | None) -> tuple[str | None, bool]:
    """Return the text of a message, and whether it is a refusal to answer."""
    content, refusal = message.get("content"), message.get("refusal")
    if isinstance(content, str):
        return content, False
    if isinstance(refusal, str):
        return refusal, True
    # A model that thinks first may have used up the length before its answer began.
    return ("" if content is None and reason in _EMPTY_REASONS else None), False
