"""The Messages API of Anthropic."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from leed_jax.llm.keys import Secret
from leed_jax.llm.messages import ChatRequest, Reply, Usage, to_json, token_count
from leed_jax.llm.provider import Dialect, Provider, read_model, read_object, valid_unicode, with_schema_text

_VERSION = "2023-06-01"
_TOOL = "answer"
_REASONS = {"end_turn": "stop", "stop_sequence": "stop", "tool_use": "stop", "max_tokens": "length"}
_REASONS |= {"model_context_window_exceeded": "length"}
# Reasons for which an answer may have no text.
_EMPTY_REASONS = frozenset({"length", "refusal"})
# What its schemas cannot express; such bounds are given in the prompt instead.
_UNKNOWN_KEYWORDS = frozenset(
    {
        *("minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("maxItems", "uniqueItems", "minContains", "maxContains", "minProperties", "maxProperties", "prefixItems"),
    }
)
_NAMED_SCHEMAS = frozenset({"properties", "$defs", "definitions"})


@dataclass(frozen=True)
class Anthropic(Provider):
    """Messages (see `Provider` for the attributes).

    The API has no mode for JSON without a schema; "json_object" sends a tool that the model must call, whose input is
    the answer. The seed of a request is not sent, as the API has none.
    """

    name: str = "anthropic"
    default_url: str = "https://api.anthropic.com/v1"
    path: str = "/messages"
    key_env: str = "ANTHROPIC_API_KEY"
    max_temperature: float = 1.0

    def dialect(self, host: str) -> Dialect:  # noqa: ARG002 - as in the base class
        """Return how requests are worded at first; the length field has one name only."""
        return Dialect(swapped=True, omitted=frozenset({"seed"}))

    def headers(self, secret: Secret) -> dict[str, str]:
        """Return the version of the API, and the key if there is one."""
        return {"anthropic-version": _VERSION} | ({"x-api-key": secret.reveal()} if secret else {})

    def schema_sent(self, schema: Mapping[str, Any], response_format: str) -> Mapping[str, Any] | None:
        """Return what is enforced: the schema without the bounds that the API cannot express, or nothing."""
        return _supported(schema) if response_format == "json_schema" else None

    def body(self, model: str, request: ChatRequest, response_format: str, dialect: Dialect) -> bytes:
        """Write the request for one message (see `Provider.body`)."""
        data = request.to_dict()
        schema, messages = data["response_schema"], request.messages
        to_json({"schema": schema})  # raises unless it is JSON data, which the following needs
        sent = None if schema is None else self.schema_sent(schema, response_format)
        if schema is not None and sent != schema:
            messages = with_schema_text(messages, schema)
        body: dict[str, Any] = {"model": model, dialect.length_field: request.max_tokens}
        if system := "\n\n".join(m.content for m in messages if m.role == "system"):
            body["system"] = system
        body["messages"] = [asdict(m) for m in messages if m.role != "system"]
        if "temperature" not in dialect.omitted:
            body["temperature"] = data["temperature"]
        if sent is not None:
            body["output_config"] = {"format": {"type": "json_schema", "schema": sent}}
        elif schema is not None and response_format == "json_object":
            tool = {"name": _TOOL, "description": "Give your answer.", "input_schema": _supported(schema)}
            body |= {"tools": [tool], "tool_choice": {"type": "tool", "name": _TOOL}}
        return to_json(body)

    def read(self, body: bytes, model: str) -> Reply:
        """Read a message (see `Provider.read`)."""
        document = read_object(body)
        blocks = document.get("content")
        if not isinstance(blocks, list):
            raise ValueError("has no content")
        reason = document.get("stop_reason")
        reason = _REASONS.get(reason, valid_unicode(reason)) if isinstance(reason, str) else None
        parts = [text for block in blocks if isinstance(block, dict) and (text := _text(block)) is not None]
        if not parts and reason not in _EMPTY_REASONS:
            raise ValueError("has no text in its content")
        usage = _usage(document.get("usage"))
        return Reply(valid_unicode("".join(parts)), usage, reason, read_model(document.get("model"), model))


def _text(block: Mapping[str, Any]) -> str | None:
    """Return the text of a content block; None for a thinking block and the like."""
    if block.get("type") == "text" and isinstance(block.get("text"), str):
        return block["text"]
    if block.get("type") == "tool_use" and isinstance(block.get("input"), dict):
        return json.dumps(block["input"], ensure_ascii=False)
    return None


def _usage(data: object) -> Usage:
    fields = data if isinstance(data, dict) else {}
    # input_tokens leaves out what is written to or read from a cache.
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    return Usage(sum(token_count(fields.get(name)) for name in names), token_count(fields.get("output_tokens")))


def _supported(schema: Any) -> Any:
    """Return a schema without the bounds that the API refuses, and with every object closed, as it demands."""
    if isinstance(schema, list | tuple):
        return [_supported(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    kept: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in _NAMED_SCHEMAS and isinstance(value, Mapping):
            kept[keyword] = {name: _supported(item) for name, item in value.items()}
        elif keyword == "minItems":
            kept |= {keyword: min(value, 1)} if isinstance(value, int) else {}
        elif keyword not in _UNKNOWN_KEYWORDS:
            kept[keyword] = value if keyword in {"enum", "const", "default", "required"} else _supported(value)
    if kept.get("type") == "object":
        kept["additionalProperties"] = False
    return kept
