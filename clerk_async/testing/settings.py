"""The behaviour of a fake instance; each setting is checked when it is set."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from attrs import define, field, fields

from .checks import must_be, number, of, one_of, validator, within
from .limits import LimitLike, SlidingWindow, read_limit

if TYPE_CHECKING:
    import random

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
