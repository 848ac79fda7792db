"""Recorded replies in place of a model."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from leed_jax.errors import BudgetError, ConfigurationError, ReplayError
from leed_jax.llm.messages import ChatRequest, Reply, request_key

_ADVICE = "Ask a model for it with llm=openai, llm=anthropic or llm=local, or replay the settings that were recorded."
_USE = "set llm.path to a demonstration set, or to the transcript of one"
_NOT_SENT = "The recorded request was not sent, because a limit of calls, tokens or money was reached."
_log = logging.getLogger(__name__)

# A reply; None for a request that failed; the error text of one that a cap kept from being sent.
_Recorded = Reply | str | None


class Replay:
    """A `ChatModel` that answers from a transcript, and never sends anything.

    A request gets the reply of the same request in the transcript, or else of the one with the same seed, temperature
    and length and another prompt: prompts hold computed figures, which may be rounded differently on another machine.

    Args:
        transcript: A file of JSON lines, each with a `request` and a `reply` (null where there was none; with
            `"sent": false` where a cap kept it from being sent), such as the `transcript.jsonl` of a demonstration set.

    Attributes:
        replayed: Requests answered.
        inexact: Requests, of those, whose recorded prompt is another one.
    """

    def __init__(self, transcript: Path | str) -> None:
        self.path = Path(transcript)
        self.replayed = 0
        self.inexact = 0
        content = _read(self.path)
        self._hash = hashlib.sha256(content).hexdigest()
        self._exact: dict[str, _Recorded] = {}
        self._similar: dict[tuple[Any, ...], dict[str, _Recorded]] = {}
        for number, line in enumerate(content.splitlines(), start=1):
            if line.strip():
                self._add(number, line)

    @property
    def identity(self) -> str:
        """The transcript's content."""
        return f"replay {self._hash}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.inexact:
            text = "%d of %d replies from %s were recorded for a prompt that differs from the present one."
            _log.warning(text, self.inexact, self.replayed, self.path)

    async def complete(self, request: ChatRequest) -> Reply:
        """Answer a request from the transcript.

        Raises:
            BudgetError: A cap kept it from being sent when it was recorded.
            ReplayError: No such request was recorded, or it got no reply then.
        """
        key = request_key("", request)
        exact = key in self._exact
        reply = self._exact[key] if exact else self._only_similar(request)
        if isinstance(reply, str):
            raise BudgetError(reply)
        if reply is None:
            raise ReplayError(f"A request (seed {request.seed}) got no reply when {self.path} was recorded. {_ADVICE}")
        self.replayed += 1
        self.inexact += not exact
        return reply

    def _only_similar(self, request: ChatRequest) -> _Recorded:
        found = list(self._similar.get(_sampling(request), {}).values())
        if len(found) == 1:
            return found[0]
        raise ReplayError(
            f"{self.path} does not have this request; of those with seed {request.seed}, temperature "
            f"{request.temperature:g} and max_tokens {request.max_tokens}, of which a single one could stand for it, "
            f"there are {len(found)}. {_ADVICE}"
        )

    def _add(self, number: int, line: bytes) -> None:
        try:
            data = json.loads(line)
            if data["request"] is None:  # a plan that nobody was asked for
                return
            request, reply = ChatRequest.from_dict(data["request"]), _recorded(data)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            reason = error if isinstance(error, ConfigurationError) else f"{type(error).__name__}."
            raise ConfigurationError(
                f"Line {number} of {self.path} is not a recorded request with its reply: {reason} To replay, {_USE}."
            ) from None
        key = request_key("", request)
        # The first reply counts; a request may have been asked again after a failure.
        if key not in self._exact or (isinstance(reply, Reply) and not isinstance(self._exact[key], Reply)):
            self._exact[key] = self._similar.setdefault(_sampling(request), {})[key] = reply


def _recorded(data: Mapping[str, Any]) -> _Recorded:
    if data["reply"] is not None:
        return Reply.from_dict(data["reply"])
    # Older transcripts do not say whether a request was sent.
    if data.get("sent", True):
        return None
    return data["error"] if isinstance(data.get("error"), str) and data["error"] else _NOT_SENT


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise ConfigurationError(f"The transcript {path} cannot be read ({reason}); {_USE}.") from None


def _sampling(request: ChatRequest) -> tuple[Any, ...]:
    return request.seed, abs(request.temperature), request.max_tokens
