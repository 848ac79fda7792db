"""The chat completion API of OpenAI, which vLLM, Ollama, llama.cpp and many others offer as well."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from leed_jax.llm.keys import Secret
from leed_jax.llm.messages import ChatRequest, Reply, Usage, to_json
from leed_jax.llm.provider import Dialect, Provider, read_model, read_object, valid_unicode, with_schema_text

_OWN_HOST = "api.openai.com"
# Reasons for which an answer may have no text: a model that thinks first may use up the length before it answers.
_EMPTY_REASONS = frozenset({"length", "content_filter"})


@dataclass(frozen=True)
class OpenAI(Provider):
    """Chat completions (see `Provider` for the attributes)."""

    name: str = "openai"
    default_url: str = f"https://{_OWN_HOST}/v1"
    path: str = "/chat/completions"
    key_env: str = "OPENAI_API_KEY"
    max_temperature: float = 2.0

    def dialect(self, host: str) -> Dialect:
        """Return how requests to a host are worded at first: OpenAI's own models want the newer length field."""
        return Dialect("max_completion_tokens" if host == _OWN_HOST else "max_tokens")

    def headers(self, secret: Secret) -> dict[str, str]:
        """Return the header with the key, if there is one."""
        return {"Authorization": f"Bearer {secret.reveal()}"} if secret else {}

    def schema_sent(self, schema: Mapping[str, Any], response_format: str) -> Mapping[str, Any] | None:
        """Return what is enforced: the whole schema, or nothing of it."""
        return schema if response_format == "json_schema" else None

    def body(self, model: str, request: ChatRequest, response_format: str, dialect: Dialect) -> bytes:
        """Write the request for one completion (see `Provider.body`)."""
        data = request.to_dict()
        schema, length = data.pop("response_schema"), data.pop("max_tokens")
        if data["seed"] is None:
            del data["seed"]
        if schema is not None and response_format != "json_schema":
            data["messages"] = [asdict(message) for message in with_schema_text(request.messages, schema)]
        body: dict[str, Any] = {"model": model, **data, dialect.length_field: length, "stream": False}
        if schema is not None and response_format == "json_schema":
            named = {"name": "answer", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        elif schema is not None and response_format == "json_object":
            body["response_format"] = {"type": "json_object"}
        return to_json({name: value for name, value in body.items() if name not in dialect.omitted})

    def read(self, body: bytes, model: str) -> Reply:
        """Read a completion (see `Provider.read`)."""
        document = read_object(body)
        choices = document.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            raise ValueError("has no choices")
        reason = choice.get("finish_reason")
        reason = valid_unicode(reason) if isinstance(reason, str) else None
        message = choice.get("message")
        message = message if isinstance(message, dict) else {}
        content, refusal = message.get("content"), message.get("refusal")
        if not isinstance(content, str) and isinstance(refusal, str):
            content, reason = refusal, "refusal"
        elif content is None and reason in _EMPTY_REASONS:
            content = ""
        if not isinstance(content, str):
            raise ValueError("has no text in choices[0].message.content")
        usage = Usage.from_dict(document.get("usage"))
        return Reply(valid_unicode(content), usage, reason, read_model(document.get("model"), model))
