"""When a failed attempt is repeated, and after what wait."""

import asyncio
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

from leed_jax.errors import ConfigurationError, LLMError

FailureKind = Literal["connect", "transient", "final"]
_TRANSIENT_STATUS = frozenset({408, 409, 429})
_FIRST_SERVER_ERROR = 500


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how patiently one request is tried.

    Attributes:
        attempts: Attempts in all, the first one included.
        wait_initial_s: Wait before the second attempt; it doubles from attempt to attempt.
        wait_max_s: Longest of those waits.
        wait_jitter_s: Upper bound of the random time added to each wait, also to those that an endpoint asks for, so
            that requests that failed together do not come back together.
        connect_attempts: Attempts, of the above, that may end without a connection; few, so that an endpoint that is
            down is reported soon.
        connect_wait_s: Wait after the first attempt without a connection; it doubles too.
        retry_after_max_s: Longest wait that an endpoint may ask for; a request that would have to wait longer fails.
        total_s: Longest time for the whole request, without the waits for the rate limits.

    Raises:
        ConfigurationError: A number is out of range.
    """

    attempts: int = 4
    wait_initial_s: float = 0.5
    wait_max_s: float = 8.0
    wait_jitter_s: float = 1.0
    connect_attempts: int = 3
    connect_wait_s: float = 0.25
    retry_after_max_s: float = 60.0
    total_s: float = 600.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.connect_attempts < 1:
            raise ConfigurationError("A request needs at least one attempt; set attempts and connect_attempts to 1+.")
        waits = (self.wait_initial_s, self.wait_max_s, self.wait_jitter_s, self.connect_wait_s, self.retry_after_max_s)
        if not all(math.isfinite(wait) and wait >= 0 for wait in waits):
            raise ConfigurationError("The waits between attempts must be finite numbers of seconds, 0 or more.")
        if not math.isfinite(self.total_s) or self.total_s <= 0:
            raise ConfigurationError(f"total_s is {self.total_s}; it must be a finite number of seconds above 0.")


@dataclass(eq=False, repr=False)
class AttemptError(Exception):
    """One attempt failed; callers of the client get `last` instead.

    Attributes:
        error_type: The type of the error if this was the last attempt.
        problem: What went wrong, without a full stop.
        advice: What to do about it, as a sentence.
        kind: "connect" (no connection), "transient" or "final" (asking again would not help).
        wait_s: The wait that the endpoint asked for.
        status: The error status, or 0 if there was none.
        body: The text that came with the error status.
    """

    error_type: type[LLMError]
    problem: str
    advice: str
    kind: FailureKind
    wait_s: float | None = None
    status: int = 0
    body: str = ""

    def __post_init__(self) -> None:
        super().__init__(self.problem)  # all that is logged: the body may hold the key

    def last(self, attempts: int) -> LLMError:
        """Return the error for the caller after this many attempts."""
        count = f" (attempt {attempts}, the last)" if attempts > 1 else ""
        return self.error_type(f"{self.problem}{count}. {self.advice}")


@dataclass
class Attempts:
    """The attempts at one request so far, and the time that is left for more; call it as a backoff hook of stamina.

    Attributes:
        policy: How often to try, and with what waits.
        failures: The attempts that failed.
        bound: The time limit of the whole request.
    """

    policy: RetryPolicy
    failures: list[AttemptError] = field(default_factory=list)
    bound: asyncio.Timeout | None = None

    def __call__(self, error: BaseException) -> bool | float:
        """Return False to give up, True for the policy's own wait, or the seconds to wait."""
        policy, left = self.policy, self.time_left()
        if not isinstance(error, AttemptError) or error.kind == "final":
            return False
        wait = error.wait_s
        if error.kind == "connect":
            count = sum(failure.kind == "connect" for failure in self.failures)
            if count >= policy.connect_attempts:
                return False
            wait = policy.connect_wait_s * 2.0 ** (count - 1)
        if wait is None:
            return True
        # A wait that ends only when the time is over would hide the endpoint's own message.
        if wait > min(policy.retry_after_max_s, left):
            return False
        # stamina adds jitter to its own waits only. Some time is left for the attempt itself.
        return wait + random.uniform(0.0, max(0.0, min(policy.wait_jitter_s, (left - wait) / 2)))  # noqa: S311

    def time_left(self) -> float:
        """Return the seconds until the end of the time for the whole request."""
        end = None if self.bound is None else self.bound.when()
        return math.inf if end is None else end - asyncio.get_running_loop().time()

    def set_time_left(self, seconds: float) -> None:
        """Set the seconds until then; infinity for no limit."""
        if self.bound is not None:
            end = None if seconds == math.inf else asyncio.get_running_loop().time() + seconds
            self.bound.reschedule(end)


def is_transient(status: int) -> bool:
    """Return whether an error status may go away by itself."""
    return status in _TRANSIENT_STATUS or status >= _FIRST_SERVER_ERROR


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that an answer asks to wait, or None if it does not say or cannot be understood.

    Args:
        headers: The answer's headers, by lower-case name: `retry-after-ms` in milliseconds, or `retry-after` in seconds
            or as an HTTP date.
    """
    milliseconds, text = _number(headers.get("retry-after-ms")), headers.get("retry-after")
    if milliseconds is not None:
        return milliseconds / 1000
    seconds = _number(text)
    return _until(text) if seconds is None else seconds


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _until(text: str | None) -> float | None:
    try:
        moment = parsedate_to_datetime(text or "")
    except (ValueError, TypeError, OverflowError):
        return None
    # The parser leaves out the zone for "-0000"; an HTTP date is always in UTC.
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())
