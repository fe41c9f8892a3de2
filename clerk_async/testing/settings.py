"""The behaviour of a fake instance, including its rate limit; a setting is checked when it is set.

https://clerk.com/docs/backend-requests/resources/rate-limits
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from attrs import define, field, fields

from .checks import must_be, number, of, one_of, validator, within

if TYPE_CHECKING:
    import random


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


Latency: TypeAlias = float | tuple[float, float]
"""Seconds that responses take: always the same, or drawn from a range."""


def _secret_key(name: str, value: str) -> None:
    if not must_be(name, value, str) or not value.isascii() or len(value.split()) != 1:
        raise ValueError(f"{name} must be one word, such as sk_test_…")


def _latency(value: Latency) -> Latency:
    if not isinstance(value, tuple | list):
        return number("latency", value, least=0.0)
    try:
        least, most = value
    except ValueError:
        raise ValueError("latency must be seconds, or a pair of them: least and most") from None
    number("the least latency", least, least=0.0)
    return least, number("the most latency", most, least=least)


def _issuer(name: str, value: str | None) -> None:
    if must_be(name, value, str, None) == "":
        raise ValueError(f"{name} must not be empty; None means the fake's own address")


@define
class Settings:
    """The settings of `FakeClerk`, which has properties for those that may change while it runs."""

    secret_key: str = field(validator=validator(_secret_key), repr=False)
    production: bool = field(validator=of(bool))
    latency: Latency = field(converter=_latency)
    rate_limit: LimitLike | None = field(validator=validator(lambda _, v: read_limit(v)))
    issuer: str | None = field(validator=validator(_issuer))
    revoke_inactive: str = field(
        validator=validator(lambda n, v: one_of(n, v, ("bad_request", "ok")))
    )
    refresh_max_age: float = field(validator=within(int, float))
    window: SlidingWindow | None = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.limit_to(self.rate_limit)

    def limit_to(self, limit: LimitLike | None) -> None:
        """Set the rate limit and start an empty window."""
        self.rate_limit = limit
        figures = read_limit(limit)
        self.window = None if figures is None else SlidingWindow(*figures)

    def become(self, other: Settings) -> None:
        """Take over the values of other settings."""
        for each in fields(Settings):
            if each.init:
                setattr(self, each.name, getattr(other, each.name))
        self.limit_to(other.rate_limit)

    def delay(self, random_: random.Random) -> float:
        """Return the seconds that the next response takes."""
        latency = self.latency
        return random_.uniform(*latency) if isinstance(latency, tuple) else latency
