"""Replies that were recorded, given again in place of a model."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from leed_jax.errors import BudgetError, ConfigurationError, ReplayError
from leed_jax.llm.messages import ChatRequest, Reply, request_key

_MEND = "Ask a model for it with llm=openai, llm=anthropic or llm=local, or replay the settings that were recorded."
_LARGEST = 2**30
_KEPT_BACK = "The recorded request was not sent, because a limit of calls, tokens or money was reached."
_log = logging.getLogger(__name__)


# A reply; None for a request that failed; what the cap said of one that it kept back.
_Recorded = Reply | str | None


class Replay:
    """A `ChatModel` that answers from a transcript, and never sends anything.

    A request is answered by its like in the transcript: the same one, or else the one that was recorded with the same
    seed, temperature and length and another prompt. Prompts hold computed figures, which may be rounded differently on
    another machine.

    Args:
        transcript: A file of JSON lines, each with a `request` and a `reply` (null where there was none), such as the
            `transcript.jsonl` of a demonstration set. A line without a reply that says `"sent": false` is a request
            that a cap kept back.

    Raises:
        ConfigurationError: The file cannot be read, or holds anything else.

    Attributes:
        replayed: Requests answered.
        inexact: Requests, of those, whose recorded prompt is another one.
    """

    def __init__(self, transcript: Path | str) -> None:
        self.path = Path(transcript)
        self.replayed = 0
        self.inexact = 0
        content = _content(self.path)
        self._hash = hashlib.sha256(content).hexdigest()
        self._exact: dict[str, _Recorded] = {}
        self._similar: dict[tuple[Any, ...], list[_Recorded]] = {}
        for number, line in enumerate(content.splitlines(), start=1):
            recorded = self._recorded(number, line) if line.strip() else None
            if recorded is not None:
                self._add(*recorded)

    def __len__(self) -> int:
        return len(self._exact)

    @property
    def identity(self) -> str:
        """The transcript's content."""
        return f"replay {self._hash}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.inexact:
            _log.warning(
                "%d of %d replies from %s were recorded for a prompt that differs from the present one.",
                *(self.inexact, self.replayed, self.path),
            )

    async def complete(self, request: ChatRequest) -> Reply:
        """Answer a request from the transcript.

        Args:
            request: What to ask.

        Raises:
            BudgetError: A cap kept it back when it was recorded. It is told again, so that whoever stopped there then
                stops there now.
            ReplayError: No such request was recorded, or it got no reply then.
        """
        key = _key(request)
        exact = key in self._exact
        reply = self._exact[key] if exact else self._only_similar(request)
        if isinstance(reply, str):
            raise BudgetError(reply)
        if reply is None:
            raise ReplayError(f"A request (seed {request.seed}) got no reply when {self.path} was recorded. {_MEND}")
        self.replayed += 1
        self.inexact += not exact
        return reply

    def _only_similar(self, request: ChatRequest) -> _Recorded:
        found = self._similar.get(_sampling(request), [])
        if len(found) == 1:
            return found[0]
        what = f"{len(found)} of them" if found else "none"
        raise ReplayError(
            f"{self.path} does not have this request; of those with seed {request.seed}, temperature "
            f"{request.temperature:g} and max_tokens {request.max_tokens}, which could stand for it if there were one, "
            f"there is {what}. {_MEND}"
        )

    def _add(self, request: ChatRequest, reply: _Recorded) -> None:
        key = _key(request)
        if key not in self._exact:
            self._exact[key] = reply
            self._similar.setdefault(_sampling(request), []).append(reply)
        elif not isinstance(earlier := self._exact[key], Reply) and isinstance(reply, Reply):
            # Asked again after a failure.
            self._exact[key] = reply
            similar = self._similar[_sampling(request)]
            similar[similar.index(earlier)] = reply

    def _recorded(self, number: int, line: bytes) -> tuple[ChatRequest, _Recorded] | None:
        """The request and the reply of a line; None if it tells of a plan that nobody was asked for."""
        try:
            data = json.loads(line)
            if not isinstance(data, Mapping) or not isinstance(data["request"], Mapping | None):
                raise TypeError("not an object")
            if data["request"] is None:
                return None
            request = ChatRequest.from_dict(data["request"])
            reply = data["reply"]
            if reply is not None and not isinstance(reply, Mapping):
                raise TypeError("reply")
            if reply is not None:
                return request, Reply.from_dict(reply)
            # Not there in transcripts from before it was noted.
            return request, None if data.get("sent", True) else _told(data.get("error"))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            reason = error if isinstance(error, ConfigurationError) else f"{type(error).__name__}."
            raise ConfigurationError(
                f"Line {number} of {self.path} is not a recorded request with its reply: {reason} Set llm.path to a "
                "demonstration set, or to the transcript of one."
            ) from None


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LARGEST:
            raise ConfigurationError(f"{path} is larger than {_LARGEST} bytes, and so no transcript.")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigurationError):
            raise
        reason = getattr(error, "strerror", None) or "not a path"
        raise ConfigurationError(
            f"The transcript {path} cannot be read ({reason}); set llm.path to a demonstration set, or to the "
            "transcript of one."
        ) from None


def _told(error: object) -> str:
    return error if isinstance(error, str) and error else _KEPT_BACK


def _key(request: ChatRequest) -> str:
    return request_key("", request)


def _sampling(request: ChatRequest) -> tuple[Any, ...]:
    return request.seed, abs(request.temperature), request.max_tokens
