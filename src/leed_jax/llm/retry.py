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


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how patiently one request is tried."""

    attempts: int = 4  # in all, the first one included
    wait_initial_s: float = 0.5  # before the second attempt; it doubles from attempt to attempt
    wait_max_s: float = 8.0  # the longest of those waits
    wait_jitter_s: float = 1.0  # the most random time added to each wait, to spread requests that failed together
    connect_attempts: int = 3  # attempts, of these, that may end without a connection; few, to report it soon
    connect_wait_s: float = 0.25  # after the first such attempt; it doubles too
    retry_after_max_s: float = 60.0  # the longest wait that an endpoint may ask for; otherwise the request fails
    total_s: float = 600.0  # for the whole request, without the waits for the rate limits

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 1 if name.endswith("attempts") else 0
            if not least <= value < math.inf or (name == "total_s" and value == 0):
                raise ConfigurationError(f"{name} is {value}; it must be a finite number, {least} or more.")


@dataclass(eq=False, repr=False)
class AttemptError(Exception):
    """One attempt failed; callers of the client get `last` instead."""

    error_type: type[LLMError]  # of the error for the caller
    problem: str  # what went wrong, without a full stop
    advice: str  # what to do about it, a sentence
    kind: FailureKind  # final if asking again would not help
    wait_s: float | None = None  # what the endpoint asked for
    status: int = 0
    body: str = ""  # what came with the error status

    def __post_init__(self) -> None:
        super().__init__(self.problem)  # all that is logged: the body may hold the key

    def last(self, attempts: int) -> LLMError:
        """Return the error for the caller after this many attempts."""
        count = f" (attempt {attempts}, the last)" if attempts > 1 else ""
        return self.error_type(f"{self.problem}{count}. {self.advice}")


@dataclass
class Attempts:
    """The failed attempts at one request, and the time that is left for more; a backoff hook of stamina."""

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


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that an answer's headers, by lower-case name, ask to wait, or None if they cannot be read.

    They are `retry-after-ms` in milliseconds, or `retry-after` in seconds or as an HTTP date.
    """
    milliseconds, text = _number(headers.get("retry-after-ms", "")), headers.get("retry-after", "")
    if milliseconds is not None:
        return milliseconds / 1000
    if (seconds := _number(text)) is not None:
        return seconds
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    # The parser leaves out the zone for "-0000"; an HTTP date is always in UTC.
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
