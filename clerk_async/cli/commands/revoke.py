"""The arguments of `revoke` and `revoke-all`; `revoking` does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from clerk_async.cli.app import Settings, command, pass_settings
from clerk_async.cli.filters import age_options, filters_of, read_age, read_time
from clerk_async.cli.rates import ASK_ABOVE, RunOptions, read_rate, read_share

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta

F = TypeVar("F", bound="Callable[..., Any]")

_RUN_OPTIONS = (
    click.option(
        "--dry-run", is_flag=True, help="Revoke nothing; print the sessions that would be revoked."
    ),
    click.option(
        "--yes",
        "-y",
        is_flag=True,
        help=f"Don't ask before revoking more than {ASK_ABOVE} sessions.",
    ),
    click.option(
        "--journal",
        type=click.Path(),
        metavar="FILE",
        help="Record each finished session in FILE, and skip those that it already has. "
        f"Default: a new file for each run of more than {ASK_ABOVE} sessions.",
    ),
    click.option("--no-journal", is_flag=True, help="Keep no journal."),
    click.option(
        "--rotated-key",
        is_flag=True,
        help="Accept a --journal from before the secret key was rotated.",
    ),
    click.option(
        "--rate",
        callback=read_rate,
        metavar="N/S",
        help="Send at most N requests in any S seconds, such as 800/10; default: see --share.",
    ),
    click.option(
        "--share",
        type=float,
        callback=read_share,
        metavar="F",
        help="Use this share of --rate, or of the key's own limit, 0 to 1; default: 0.8 of the "
        "key's limit, so that the live product keeps the rest.",
    ),
    click.option(
        "--max-failures",
        type=click.IntRange(min=1),
        metavar="N",
        help="Stop when N sessions have failed.",
    ),
    click.option(
        "--deadline",
        callback=read_age,
        metavar="TIME",
        help="Stop after this time, such as 90s, 10m or 1h.",
    ),
    click.option(
        "--progress",
        type=click.Choice(["none", "bar", "text"]),
        help="How to show progress on stderr; default: bar on a terminal, else text.",
    ),
)


def _run_options(function: F) -> F:
    for option in reversed(_RUN_OPTIONS):
        function = option(function)
    return function


@command("revoke", options_metavar="[OPTIONS]")
@click.argument("session_ids", metavar="[ID]...", nargs=-1)
@click.option(
    "--from",
    "source",
    type=click.Path(),
    metavar="FILE",
    help="Read ids from FILE, one per line; - is stdin.",
)
@click.option(
    "--column",
    metavar="NAME",
    help="FILE is CSV with a header, or JSON lines; the ids are in this column.",
)
@_run_options
@pass_settings
def revoke_command(
    settings: Settings,
    /,
    *,
    session_ids: tuple[str, ...],
    source: str | None,
    column: str | None,
    **options: Any,
) -> int:
    """Revoke sessions by their ids.

    Each is reported as revoked, already inactive, not found or failed. Before it revokes more than
    25 sessions it asks; if nobody can answer, it needs --yes. The first Ctrl-C lets requests in
    flight finish and prints the command that resumes; the second stops at once.

    \b
      clerk-async revoke sess_1 sess_2
      clerk-async revoke --from leaked.txt --dry-run
      clerk-async revoke --from leaked.csv --column session_id
    """  # noqa: D301 - a control character of click, not a backslash
    from clerk_async.cli.revoking import revoke  # noqa: PLC0415 - not for help

    return revoke(settings, session_ids, source, column, RunOptions(**options))


@command("revoke-all", greedy=("--user", "--except"))
@click.option("--user", "user_ids", metavar="ID...", multiple=True, help="One or more users.")
@click.option(
    "--users-from",
    "source",
    type=click.Path(),
    metavar="FILE",
    help="Read users from FILE, one per line; - is stdin.",
)
@click.option(
    "--column",
    metavar="NAME",
    help="FILE is CSV with a header, or JSON lines; the users are in this column.",
)
@click.option(
    "--except",
    "except_ids",
    metavar="ID...",
    multiple=True,
    help="Sessions to spare, such as your own.",
)
@click.option(
    "--keep-newest",
    type=click.IntRange(min=1),
    metavar="N",
    help="Spare each user's N newest sessions, of those that the other options select.",
)
@click.option(
    "--client",
    "client_id",
    metavar="ID",
    help="Only sessions of this client (a browser or device).",
)
@click.option(
    "--created-before",
    callback=read_time,
    metavar="TIME",
    help="Only sessions created before TIME, such as 2026-03-01T12:00Z.",
)
@click.option(
    "--last-active-before",
    callback=read_time,
    metavar="TIME",
    help="Only sessions last active before TIME.",
)
@age_options
@_run_options
@pass_settings
def revoke_all_command(
    settings: Settings,
    /,
    *,
    user_ids: tuple[str, ...],
    source: str | None,
    column: str | None,
    except_ids: tuple[str, ...],
    keep_newest: int | None,
    client_id: str | None,
    created_before: datetime | None,
    last_active_before: datetime | None,
    older_than: timedelta | None,
    idle: timedelta | None,
    actor: str | None,
    **options: Any,
) -> int:
    """Revoke every live session of users: active ones and pending ones.

    A user's sessions are listed, revoked, and listed again until none is left. Before it revokes
    more than 25 sessions it asks; if nobody can answer, it needs --yes.

    \b
      clerk-async revoke-all --user user_1 --except sess_mine
      clerk-async revoke-all --users-from leaked.txt --dry-run
      clerk-async revoke-all --users-from leaked.txt --idle 7d
    """  # noqa: D301 - a control character of click, not a backslash
    from clerk_async.cli.revoking import revoke_all  # noqa: PLC0415 - not for help

    filters = filters_of(
        older_than,
        idle,
        actor,
        created_before=created_before,
        last_active_before=last_active_before,
    )
    return revoke_all(
        settings,
        user_ids,
        source,
        column,
        client_id=client_id,
        except_ids=except_ids,
        keep_newest=keep_newest,
        filters=filters,
        options=RunOptions(**options),
    )
