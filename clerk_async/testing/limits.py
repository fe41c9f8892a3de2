"""The service's rate limit: a true sliding window, and a block after each rejection.

https://clerk.com/docs/backend-requests/resources/rate-limits
"""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol, TypeAlias, runtime_checkable

from .checks import must_be


@runtime_checkable
class Limit(Protocol):
    """Any object with a number of requests and a number of seconds."""

    @property
    def count(self) -> int:
        """The number of requests."""
        ...

    @property
    def per(self) -> float:
        """The number of seconds."""
        ...


# Sums of times have rounding errors, which must not cost a caller a second.
_ROUNDING = 1e-9

LimitLike: TypeAlias = Limit | tuple[int, float]


def read_limit(limit: LimitLike | None) -> tuple[int, float] | None:
    """Return a limit as a plain pair.

    Raises:
        TypeError: If it is not a limit.
        ValueError: If a number is not positive.
    """
    if limit is None:
        return None
    try:
        count, per = limit if isinstance(limit, tuple) else (limit.count, limit.per)
        must_be("a rate limit's count", count, int)
        must_be("a rate limit's time", per, int, float)
    except (AttributeError, ValueError):
        raise TypeError("a rate limit is a RateLimit or a pair, such as (1000, 10.0)") from None
    if not (count >= 1 and 0 < per < math.inf):
        raise ValueError(f"a rate limit needs a positive count and time, not {count} per {per}")
    return count, float(per)


class SlidingWindow:
    """Counts the accepted requests of the last `per` seconds, exactly.

    A request over the limit is rejected with the whole number of seconds until the oldest request
    leaves the window, and all requests are rejected until then.
    """

    def __init__(self, count: int, per: float) -> None:
        self._count = count
        self._per = per
        self._accepted: deque[float] = deque()
        self._blocked_until = -math.inf

    def admit(self, now: float) -> int | None:
        """Return None if the request may pass, else the whole seconds for its Retry-After."""
        if now < self._blocked_until:
            return _whole(self._blocked_until - now)
        accepted = self._accepted
        horizon = now - self._per + _ROUNDING
        while accepted and accepted[0] <= horizon:
            accepted.popleft()
        if len(accepted) < self._count:
            accepted.append(now)
            return None
        wait = _whole(accepted[0] + self._per - now)
        self._blocked_until = now + wait
        return wait


def _whole(seconds: float) -> int:
    return max(1, math.ceil(seconds - _ROUNDING))
