"""Which sessions are selected: by age, idle time and impersonation; the same for all commands."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clerk_async.models import Session

F = TypeVar("F", bound="Callable[..., Any]")

_UNITS: Final = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_AGE: Final = re.compile(r"(?:\d+[smhdw])+", re.ASCII)
_PART: Final = re.compile(r"(\d+)([smhdw])", re.ASCII)
ANY: Final = "any"
NONE: Final = "none"


def read_age(
    context: click.Context, option: click.Parameter, value: str | None
) -> timedelta | None:
    """Read a time span such as `30d`, `12h` or `1w2d`."""
    if value is None:
        return None
    text = value.strip().lower()
    try:
        if not _AGE.fullmatch(text):
            raise ValueError  # noqa: TRY301 - reported below, like an overflow
        age = sum((int(n) * _UNITS[unit] for n, unit in _PART.findall(text)), timedelta())
        _ = datetime.now(UTC) - age  # fails if that lies before the year 1
    except (ValueError, OverflowError):
        told = f"{value!r} isn't a time span such as 30d, 12h, 90m or 2w"
        raise click.BadParameter(told, context, option) from None
    if not age:
        raise click.BadParameter("it must be more than 0", context, option)
    return age


def read_time(_: click.Context, option: click.Parameter, value: str | None) -> datetime | None:
    """Read a time; without a time zone it would mean another moment on another machine."""
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(value.strip())
    except ValueError:
        told = f"{value!r} isn't a time such as 2026-03-01T12:00Z"
        raise click.BadParameter(told, param=option) from None
    if time.utcoffset() is None:
        told = f"{value!r} needs a time zone, such as Z at the end for UTC"
        raise click.BadParameter(told, param=option)
    return time.astimezone(UTC)


def age_options(function: F) -> F:
    """Add `--older-than`, `--idle` and `--actor` to a command."""
    options = (
        click.option(
            "--older-than",
            callback=read_age,
            metavar="AGE",
            help="Only sessions created more than AGE ago, such as 30d, 12h or 2w.",
        ),
        click.option(
            "--idle",
            callback=read_age,
            metavar="AGE",
            help="Only sessions last active more than AGE ago.",
        ),
        click.option(
            "--actor",
            is_flag=False,
            flag_value=ANY,
            metavar="[USER]",
            help="Only sessions in which anybody, or USER, impersonates the user; `none` selects "
            "the others.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


class Filters(NamedTuple):
    """Which sessions are selected; a session whose time can't be read is selected too.

    Attributes:
        created_before: Only those created before this time.
        last_active_before: Only those last active before this time.
        actor: Only those in which this user impersonates another; True: any user, False: none.
    """

    created_before: datetime | None = None
    last_active_before: datetime | None = None
    actor: str | bool | None = None

    def has(self, session: Session) -> bool:
        """Return whether a session is selected."""
        from clerk_async.bulk.sweep import is_within  # noqa: PLC0415 - not for help

        return is_within(session, *self)

    def __bool__(self) -> bool:
        return any(value is not None for value in self)

    def in_words(self) -> list[str]:
        """Describe each filter that is set."""
        words: list[str] = []
        if self.created_before is not None:
            words.append(f"created before {self.created_before:%Y-%m-%d %H:%M:%S} UTC")
        if self.last_active_before is not None:
            words.append(f"last active before {self.last_active_before:%Y-%m-%d %H:%M:%S} UTC")
        if self.actor is not None:
            who = self.actor
            if isinstance(who, bool):
                who = "anybody" if who else "nobody"
            words.append(f"impersonated by {who}")
        return words


def filters_of(
    older_than: timedelta | None,
    idle: timedelta | None,
    actor: str | None,
    *,
    created_before: datetime | None = None,
    last_active_before: datetime | None = None,
) -> Filters:
    """Build the filters from the options.

    Raises:
        click.UsageError: If two options say the same.
    """
    if older_than is not None and created_before is not None:
        raise click.UsageError("--older-than and --created-before mean the same: pass one of them")
    if idle is not None and last_active_before is not None:
        raise click.UsageError("--idle and --last-active-before mean the same: pass one of them")
    now = datetime.now(UTC)
    return Filters(
        created_before if older_than is None else now - older_than,
        last_active_before if idle is None else now - idle,
        {ANY: True, NONE: False, None: None}.get(actor, actor),
    )


def with_fixed_times(arguments: Sequence[str], filters: Filters) -> list[str]:
    """Replace time spans by times, so that the same command means the same later."""
    fixed = list(arguments)
    for option, absolute, time in (
        ("--older-than", "--created-before", filters.created_before),
        ("--idle", "--last-active-before", filters.last_active_before),
    ):
        for place, word in enumerate(fixed):
            told = "" if time is None else time.isoformat().replace("+00:00", "Z")
            if word == "--":
                break
            if word == option:
                fixed[place : place + 2] = [absolute, told]
            elif word.startswith(f"{option}="):
                fixed[place : place + 1] = [absolute, told]
    return fixed
