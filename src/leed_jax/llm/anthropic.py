"""The Messages API of Anthropic."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from leed_jax.llm.excerpts import Secret, whole_characters
from leed_jax.llm.messages import ChatRequest, Reply, Usage, encoded
from leed_jax.llm.provider import RUNGS, Dialect
from leed_jax.llm.structured import with_gist
from leed_jax.llm.wire import count, model_name, read_object, usage_of

_VERSION = "2023-06-01"
_TOOL = "answer"
_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
}
# Why an answer may rightly hold no text.
_EMPTY_REASONS = frozenset({"length", "refusal"})
# What its schemas cannot say; such bounds are told in the prompt instead.
_UNKNOWN_KEYWORDS = frozenset(
    {
        *("minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("maxItems", "uniqueItems", "minContains", "maxContains", "minProperties", "maxProperties", "prefixItems"),
    }
)
_NAMED_SCHEMAS = frozenset({"properties", "$defs", "definitions"})


@dataclass(frozen=True)
class Anthropic:
    """Messages (see `Provider` for the attributes).

    There is no mode for JSON without a schema; in its place stands a tool that the model must call, whose input is the
    answer. The seed of a request is not sent, as the API has none.
    """

    name: str = "anthropic"
    default_url: str = "https://api.anthropic.com/v1"
    path: str = "/messages"
    key_env: str = "ANTHROPIC_API_KEY"
    rungs: tuple[str, ...] = RUNGS
    max_temperature: float = 1.0

    def dialect(self, host: str) -> Dialect:  # noqa: ARG002 - as the protocol has it
        """Return how a host is spoken to: all alike, and the field for the length has one name only."""
        return Dialect(swapped=True, omitted=frozenset({"seed"}))

    def headers(self, secret: Secret) -> dict[str, str]:
        """Return the version of the API, and the key if there is one."""
        return {"anthropic-version": _VERSION} | ({"x-api-key": secret.reveal()} if secret else {})

    def schema_sent(self, schema: Mapping[str, Any], rung: str) -> Mapping[str, Any] | None:
        """Return what is enforced on a rung: on the strict one, the schema without the bounds that it cannot say."""
        return _sayable(schema) if rung == "json_schema" else None

    def body(self, model: str, request: ChatRequest, rung: str, dialect: Dialect) -> bytes:
        """Return the JSON body that asks for one message.

        Args:
            model: The model's name.
            request: What to ask.
            rung: How the schema, if there is one, is passed on: one of `rungs`.
            dialect: How the endpoint wants it worded.

        Raises:
            ConfigurationError: The response schema is not JSON data.
        """
        data = request.to_dict()
        schema, messages = data["response_schema"], request.messages
        encoded({"schema": schema}, sort_keys=False)  # so that the following can rely on its being JSON data
        sent = None if schema is None else self.schema_sent(schema, rung)
        if schema is not None and sent != schema:
            messages = with_gist(messages, schema)
        body: dict[str, Any] = {"model": model, dialect.length_field: request.max_tokens}
        if system := "\n\n".join(m.content for m in messages if m.role == "system"):
            body["system"] = system
        body["messages"] = [m.to_dict() for m in messages if m.role != "system"]
        if "temperature" not in dialect.omitted:
            body["temperature"] = data["temperature"]
        if sent is not None:
            body["output_config"] = {"format": {"type": "json_schema", "schema": sent}}
        elif schema is not None and rung == "json_object":
            tool = {"name": _TOOL, "description": "Give your answer.", "input_schema": _sayable(schema)}
            body |= {"tools": [tool], "tool_choice": {"type": "tool", "name": _TOOL}}
        return encoded(body, sort_keys=False)

    def read(self, body: bytes, model: str) -> Reply:
        """Read the body of a message.

        Args:
            body: The answer, as it came.
            model: The name to note when the answer names no model.

        Raises:
            ValueError: It is not a message; the message continues a sentence about the answer.
        """
        document = read_object(body)
        blocks = document.get("content")
        if not isinstance(blocks, list):
            raise ValueError("has no content")
        reason = document.get("stop_reason")
        reason = _REASONS.get(reason, whole_characters(reason)) if isinstance(reason, str) else None
        parts = [text for block in blocks if isinstance(block, dict) and (text := _said(block)) is not None]
        if not parts and reason not in _EMPTY_REASONS:
            raise ValueError("has no text in its content")
        return Reply(
            text=whole_characters("".join(parts)),
            usage=_usage(document.get("usage")),
            finish_reason=reason,
            model=model_name(document.get("model"), model),
        )


def _said(block: Mapping[str, Any]) -> str | None:
    """Return the text of a block of content; None for thoughts and the like."""
    if block.get("type") == "text" and isinstance(block.get("text"), str):
        return block["text"]
    if block.get("type") == "tool_use" and isinstance(block.get("input"), dict):
        try:
            return json.dumps(block["input"], ensure_ascii=False)
        except RecursionError:
            raise ValueError("is nested too deeply") from None
    return None


def _usage(data: object) -> Usage:
    fields = data if isinstance(data, dict) else {}
    # What comes from or goes to a cache is not in input_tokens, but was read all the same.
    cached = (count(fields.get(name)) for name in ("cache_creation_input_tokens", "cache_read_input_tokens"))
    return usage_of(count(fields.get("input_tokens")) + sum(cached), fields.get("output_tokens"))


def _sayable(schema: Any) -> Any:
    """Return a schema without the bounds that the API refuses, and with every object closed, as it demands."""
    if isinstance(schema, list | tuple):
        return [_sayable(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    kept: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in _NAMED_SCHEMAS and isinstance(value, Mapping):
            kept[keyword] = {name: _sayable(item) for name, item in value.items()}
        elif keyword == "minItems":
            kept |= {keyword: min(value, 1)} if isinstance(value, int) else {}
        elif keyword not in _UNKNOWN_KEYWORDS:
            kept[keyword] = value if keyword in {"enum", "const", "default", "required"} else _sayable(value)
    if kept.get("type") == "object":
        kept["additionalProperties"] = False
    return kept
