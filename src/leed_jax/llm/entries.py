"""The lines of a journal."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from leed_jax.errors import ConfigurationError
from leed_jax.llm.limits import Spending
from leed_jax.llm.messages import Reply, Usage

# What a line that is not one raises.
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigurationError)


@dataclass(frozen=True)
class Entry:
    """What one line says.

    Attributes:
        key: The request that a reply is for; empty where there is none.
        reply: The reply.
        spender: On whose account; empty for nobody's.
        spending: What the reply took, or what the account changes by.
        failures: Errors of a closed round, by the keys of their requests.
        forgets: Whether the spender's failures so far are forgotten.
    """

    key: str = ""
    reply: Reply | None = None
    spender: str = ""
    spending: Spending = field(default_factory=Spending)
    failures: Mapping[str, str] = field(default_factory=dict)
    forgets: bool = False


def written(data: Mapping[str, Any]) -> bytes:
    """Return a document as one line."""
    return json.dumps(data, separators=(",", ":")).encode("ascii") + b"\n"


def read_entry(line: bytes) -> Entry | None:
    """Return what a line says, or None where it is not a line of a journal."""
    try:
        data = json.loads(line)
        if "key" in data:
            reply = Reply.from_dict(data["reply"])
            return Entry(_text(data["key"]), reply, _text(data.get("spender", "")), Spending(1, reply.usage))
        if "closed" in data:
            closed = data["closed"]
            failures = {} if closed is None else {_text(key): _text(error) for key, error in closed.items()}
            return Entry(spender=_text(data["spender"]), failures=failures, forgets=closed is None)
        usage = Usage(_integer(data["prompt_tokens"]), _integer(data["completion_tokens"]))
        return Entry(spender=_text(data["spender"]), spending=Spending(_integer(data["calls"]), usage))
    except _UNREADABLE:
        return None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    return value


def _integer(value: object) -> int:
    # Below 0 too, where a reservation is given back.
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("not a whole number")
    return value
