"""Whether to retry a failed attempt, and after how long. Pure: no I/O, no clock.

That depends on what a retry of the operation may do, and on what is known about the failure.
"Passing" means 409 `resource_locked`, 500, 502, 503, 504, 520 and 522 to 524; "unsent" means that
no connection could be made, "lost" that it broke or timed out after sending. The table::

    | operation | 429 | passing | unsent | lost |
    |---|---|---|---|---|
    | list, get, keys | yes | yes | yes | yes |
    | revoke, verify | yes | yes | yes | yes (the same effect twice) |
    | create_token, create_token_from_template | yes | yes | yes | yes (a second token) |
    | create | yes | only 409 `resource_locked` and 503 with Retry-After | yes | no |
    | refresh | yes | only 503 with Retry-After | yes | no (its token is used up) |

Waits back off exponentially with full jitter, and are never shorter than a `Retry-After`. If that
exceeds `max_retry_after` or the time left before the deadline, the error is raised at once, with
the value. A 429, or a 503 with Retry-After, pauses the whole client. A quota keeps retries from
tripling the load in an outage. Nothing else is retried: no other status, no redirect, no response
that can't be read.
"""

from __future__ import annotations

import math
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from clerk_async.errors import (
    ApiError,
    ConflictError,
    ConnectError,
    RateLimitedError,
    RequestTimeoutError,
    ServerError,
    TransportError,
)
from clerk_async.http.operations import RetryClass
from clerk_async.pacing.window import asks_to_wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from clerk_async.config import RetryPolicy
    from clerk_async.errors import ClerkError

PASSING_STATUSES: Final = frozenset({500, 502, 503, 504, 520, 522, 523, 524})
LOCKED_CODE: Final = "resource_locked"

JITTER_ABOVE_RETRY_AFTER: Final = 0.1
"""Waits are up to this fraction longer than Retry-After, so that clients don't return together."""

QUOTA_SIZE: Final = 500
QUOTA_PER_RETRY: Final = 5
QUOTA_PER_TIMEOUT: Final = 10
QUOTA_PER_SUCCESS: Final = 1


def is_retryable(retry: RetryClass, error: ClerkError) -> bool:
    """Whether an attempt that failed with `error` may be retried."""
    if isinstance(error, ApiError):
        return _is_retryable_answer(retry, error)
    if isinstance(error, ConnectError):
        return not error._is_final  # noqa: SLF001 - set if TLS failed
    if isinstance(error, RequestTimeoutError) and error.phase != "response":
        return error.phase == "connect"
    return isinstance(error, TransportError) and retry is RetryClass.SAFE


def _is_retryable_answer(retry: RetryClass, error: ApiError) -> bool:
    if pauses_client(error):
        return True
    if retry is RetryClass.SAFE:
        return _is_locked(error) or error.status in PASSING_STATUSES
    return retry is RetryClass.CREATES and _is_locked(error)


def pauses_client(error: ApiError) -> bool:
    """Whether a response makes the whole client wait: 429, or 503 with Retry-After."""
    return asks_to_wait(error.status, error.retry_after)


def is_passing(error: ClerkError | None) -> bool:
    """Whether the cause of a failure may pass soon."""
    return isinstance(error, TransportError | ServerError | RateLimitedError) or _is_locked(error)


def _is_locked(error: ClerkError | None) -> bool:
    return isinstance(error, ConflictError) and error.code == LOCKED_CODE


def backoff(
    policy: RetryPolicy, retry: int, retry_after: float | None, random: Callable[[], float]
) -> float:
    """Return the seconds to wait before retry number `retry`, counted from 1.

    Full jitter, as in https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
    Never less than `retry_after`.

    Args:
        policy: The bounds.
        retry: The number of the retry.
        retry_after: The seconds that the service asked to wait, or None.
        random: Returns a number from 0 to 1.
    """
    if retry_after is not None:
        return retry_after * (1 + JITTER_ABOVE_RETRY_AFTER * random())
    exponent = min(retry - 1, 64)  # far above any `max_delay`; a float overflows at 1024
    return min(policy.base_delay * 2.0**exponent, policy.max_delay) * random()


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Parse a Retry-After header as seconds from now; return None if it isn't valid.

    Args:
        value: Whole or decimal seconds, or an HTTP date in any of its three forms (RFC 9110,
            sections 10.2.3 and 5.6.7). A date in the past means 0.
        now: The current time, in seconds since the epoch.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():
        seconds = float(text)  # too many digits become infinity, longer than any policy allows
        return seconds if not math.isnan(seconds) else None
    if not text or text[0] in "+-." or not text[0].isalpha():
        return None
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:  # the asctime form has none; every HTTP date is in UTC
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, moment.timestamp() - now)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


class RetryQuota:
    """A client's quota for retries, so that retries don't triple the load in an outage.

    It works as in the standard mode of AWS's SDKs: the quota has 500 tokens. A retry takes 5, or 10
    after a timeout. A successful call returns what its last retry took, or 1.
    """

    __slots__ = ("tokens",)

    def __init__(self) -> None:
        self.tokens: int = QUOTA_SIZE

    def take(self, error: ClerkError) -> int:
        """Pay for one retry, and return its price; 0 means that the quota is used up."""
        price = QUOTA_PER_TIMEOUT if isinstance(error, TimeoutError) else QUOTA_PER_RETRY
        if self.tokens < price:
            return 0
        self.tokens -= price
        return price

    def give_back(self, paid: int) -> None:
        """Record a success whose last retry took `paid` tokens; 0 if it had none."""
        if self.tokens < QUOTA_SIZE:
            self.tokens = min(QUOTA_SIZE, self.tokens + (paid or QUOTA_PER_SUCCESS))
