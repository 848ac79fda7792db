"""When a failed attempt is worth another one, and after what wait."""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
        wait_jitter_s: Upper bound of the random time added to each wait, also to those below, so that requests that
            failed at one moment do not all come back at one moment.
        connect_attempts: Attempts, of the above, that may end without a connection. Few, because an endpoint that is
            down should be reported at once.
        connect_wait_s: Wait after the first such attempt; it doubles too.
        retry_after_max_s: Longest wait that an endpoint may ask for; a request that would have to wait longer fails.
        total_s: Bound of the whole request, with all waits but those for its turn under a limit of rates.

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


class AttemptError(Exception):
    """One attempt failed; it never leaves this package.

    Attributes:
        error_type: What the caller gets if this was the last attempt.
        problem: What went wrong, without a full stop.
        mend: What to do about it, as a sentence.
        kind: "connect" (no connection), "transient" or "final" (asking again would not help).
        wait_s: The wait that the endpoint asked for.
        status: The error status, or 0 if there was none.
        said: What came with the error status.
    """

    def __init__(
        self,
        error_type: type[LLMError],
        problem: str,
        mend: str,
        kind: FailureKind,
        wait_s: float | None = None,
        status: int = 0,
        said: str = "",
    ) -> None:
        super().__init__(problem)
        self.error_type = error_type
        self.problem = problem
        self.mend = mend
        self.kind = kind
        self.wait_s = wait_s
        self.status = status
        self.said = said

    def last(self, attempts: int) -> LLMError:
        """Return the error for the caller after so many attempts."""
        tries = f" (attempt {attempts}, the last)" if attempts > 1 else ""
        return self.error_type(f"{self.problem}{tries}. {self.mend}")


class Backoff:
    """Decides, for one request, about another attempt (a backoff hook of stamina).

    Args:
        policy: How often, and with what waits.
        time_left: Tells the seconds until the bound of the whole request.
        jitter: Draws a number from an interval; for tests.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        time_left: Callable[[], float],
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._policy = policy
        self._connect_failures = 0
        self._time_left = time_left
        self._jitter = jitter

    def __call__(self, error: BaseException) -> bool | float:
        """Return False to give up, True for the policy's own wait, or the seconds to wait."""
        if not isinstance(error, AttemptError) or error.kind == "final":
            return False
        wait = self._connect_wait() if error.kind == "connect" else error.wait_s
        if wait is None:
            return True
        # Waiting only to run into the end of the time would hide the endpoint's own message.
        if wait > self._longest_wait():
            return False
        # stamina adds its jitter to its own waits alone. It comes on top of what was asked for, and leaves some time.
        spare = (self._time_left() - wait) / 2
        return wait + self._jitter(0.0, max(0.0, min(self._policy.wait_jitter_s, spare)))

    def _connect_wait(self) -> float:
        self._connect_failures += 1
        if self._connect_failures >= self._policy.connect_attempts:
            return math.inf
        return self._policy.connect_wait_s * 2.0 ** (self._connect_failures - 1)

    def _longest_wait(self) -> float:
        return min(self._policy.retry_after_max_s, self._time_left())


def is_transient(status: int) -> bool:
    """Say whether an error status may go away by itself."""
    return status in _TRANSIENT_STATUS or status >= _FIRST_SERVER_ERROR


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that an answer asks to wait, or None when it does not say so intelligibly.

    Args:
        headers: The answer's headers, by lower-case name: `retry-after-ms` in milliseconds, or `retry-after` in seconds
            or as an HTTP date.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after")
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
