"""The options that both revoke commands share; `--rate N/S` and `--share F` as a rate limit."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from clerk_async.cli.messages import as_typed

if TYPE_CHECKING:
    from datetime import timedelta

    from clerk_async.cli.progress import Mode
    from clerk_async.config import Endpoint, RateLimit

ASK_ABOVE: Final = 25
"""Runs of more sessions than this need a yes and keep a journal."""
_FORM: Final = re.compile(r"(\d+)\s*/\s*(\d*\.?\d+)?\s*s?")


def read_rate(
    context: click.Context, option: click.Parameter, value: str | None
) -> RateLimit | None:
    """Read `N/S`: N requests in S seconds.

    Raises:
        click.BadParameter: If it has another form.
    """
    if value is None:
        return None
    from clerk_async.config import RateLimit  # noqa: PLC0415 - not for help

    match = _FORM.fullmatch(value.strip())
    if match is None:
        told = f"{value!r} isn't a rate such as 800/10 or 50/s"
        raise click.BadParameter(told, context, option)
    try:
        return RateLimit(int(match[1]), per=float(match[2] or 1))
    except ValueError as error:
        raise click.BadParameter(as_typed(str(error)), context, option) from None


def read_share(
    context: click.Context, option: click.Parameter, value: float | None
) -> float | None:
    """Check a share of a limit.

    Raises:
        click.BadParameter: If it isn't greater than 0 and at most 1.
    """
    if value is not None and not 0 < value <= 1:  # which a NaN isn't either
        told = f"{value:g} isn't a share: it must be above 0 and at most 1"
        raise click.BadParameter(told, context, option)
    return value


class RunOptions(NamedTuple):
    """The options of a bulk run; see the help of each."""

    dry_run: bool
    yes: bool
    journal: str | None
    no_journal: bool
    rotated_key: bool
    rate: RateLimit | None
    share: float | None
    max_failures: int | None
    deadline: timedelta | None
    progress: Mode | None

    @property
    def seconds(self) -> float | None:
        """The deadline in seconds, as the library takes it."""
        return None if self.deadline is None else self.deadline.total_seconds()


def rate_limit_of(
    rate: RateLimit | None, share: float | None, endpoint: Endpoint
) -> RateLimit | None:
    """Combine both options into one limit; None leaves it to the library.

    `--share` is a share of `--rate` if that is given, else of the limit for the key's kind.
    """
    if share is None:
        return rate
    return (rate or endpoint.key_limit).share(share)


def default_rate_limit(endpoint: Endpoint) -> RateLimit:
    """Return the library's default limit for bulk runs."""
    from clerk_async import config  # noqa: PLC0415 - not for help

    is_shared = bool(os.environ.get(config.SHARED_STATE_VARIABLE))
    return endpoint.key_limit.share(config.SHARE_TOGETHER if is_shared else config.SHARE_ALONE)
