"""`revoke` and `revoke-all`: what they take, what they ask, and how they start a run."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from clerk_async.bulk.journal import Journal
from clerk_async.cli.app import Settings, command, pass_settings
from clerk_async.cli.asking import ASK_ABOVE, confirm
from clerk_async.cli.bulk_run import BulkRun
from clerk_async.cli.connection import endpoint, make_client
from clerk_async.cli.inputs import ids_from
from clerk_async.cli.progress import number
from clerk_async.cli.rates import SHARE, rate_limit_of, read_rate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from clerk_async.bulk.report import RevocationReport
    from clerk_async.cli.inputs import Ids
    from clerk_async.cli.interrupts import Interrupts
    from clerk_async.sessions import AsyncSessionsApi

F = TypeVar("F", bound="Callable[..., Any]")

_RUN_OPTIONS = (
    click.option(
        "--dry-run", is_flag=True, help="Revoke nothing; print which sessions would be revoked."
    ),
    click.option("--yes", is_flag=True, help=f"Don't ask above {ASK_ABOVE} sessions."),
    click.option(
        "--journal",
        metavar="FILE",
        help="Note each session that is done in FILE, and skip what it says is done: "
        "starts or resumes.",
    ),
    click.option(
        "--rotated-key",
        is_flag=True,
        help="Go on with a --journal from before the secret key was rotated.",
    ),
    click.option(
        "--rate",
        callback=read_rate,
        metavar="N/S",
        help="At most N requests in any S seconds, such as 800/10; default: by the key's kind.",
    ),
    click.option(
        "--share",
        type=SHARE,
        metavar="F",
        help="Use this part of the rate, 0 to 1; default: 0.8 of the key's own limit, so that "
        "the live product keeps the rest.",
    ),
    click.option(
        "--max-failures",
        type=click.IntRange(min=1),
        metavar="N",
        help="Stop when N sessions have failed.",
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
    "--from", "source", metavar="FILE", help="Read ids from FILE, one a line; - is stdin."
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
    r"""Revoke sessions by their ids.

    Each is told as revoked, already inactive, not found or failed. Above 25 sessions it asks
    first, and where nobody can be asked it wants --yes. The first Ctrl-C lets what is in flight
    finish and prints how to go on; the second ends it at once.

    \b
      clerk-async revoke sess_1 sess_2
      clerk-async revoke --from leaked.txt --dry-run
      clerk-async revoke --from leaked.csv --column session_id --journal job.jsonl
    """
    ids = ids_from(session_ids, source, column, what="session ids", option="--from")
    where = endpoint(settings)
    if not (options["yes"] or options["dry_run"]) and ids.has_more_than(ASK_ABOVE):
        count = f"more than {ASK_ABOVE}" if ids.total is None else number(ids.total)
        what = f"Revoke {count} sessions from {ids.source} at {where.base_url}"
        confirm(settings.out, what, is_stdin_taken=ids.is_stdin)

    async def start(
        sessions: AsyncSessionsApi, interrupts: Interrupts, **hooks: Any
    ) -> RevocationReport:
        values = session_ids or ids.read(interrupts.wait)
        return await sessions.revoke_many(values, **hooks)

    total = len(session_ids) or ids.total
    return asyncio.run(_run(settings, ids, start, options, total=total))


@command("revoke-all", greedy=("--user", "--except"))
@click.option("--user", "user_ids", metavar="ID...", multiple=True, help="A user, or several.")
@click.option(
    "--users-from", "source", metavar="FILE", help="Read users from FILE, one a line; - is stdin."
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
    help="Sessions to leave alone, such as your own.",
)
@click.option(
    "--client",
    "client_id",
    metavar="ID",
    help="Only sessions of this client (a browser or device).",
)
@click.option(
    "--created-before",
    metavar="TIME",
    help="Only sessions created before TIME, such as 2026-03-01T12:00Z.",
)
@click.option("--last-active-before", metavar="TIME", help="Only sessions last active before TIME.")
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
    client_id: str | None,
    created_before: str | None,
    last_active_before: str | None,
    **options: Any,
) -> int:
    r"""Revoke every live session of users: active ones and pending ones.

    A user's sessions are listed, revoked, and listed again until none is left. Above 25 sessions
    it asks first, and where nobody can be asked it wants --yes.

    \b
      clerk-async revoke-all --user user_1 --except sess_mine
      clerk-async revoke-all --users-from leaked.txt --dry-run
      clerk-async revoke-all --users-from leaked.txt --journal job.jsonl
    """
    selection: dict[str, Any] = {
        "except_session_ids": except_ids,
        "client_id": client_id,
        "created_before": _time("--created-before", created_before),
        "last_active_before": _time("--last-active-before", last_active_before),
    }
    ids = None
    if user_ids or source is not None or client_id is None:
        ids = ids_from(user_ids, source, column, what="users (--user)", option="--users-from")
    elif column is not None:
        raise click.UsageError("--column goes with --users-from")
    where = endpoint(settings)
    must_ask = not (options["yes"] or options["dry_run"])
    if must_ask and ids is not None and ids.has_more_than(ASK_ABOVE):
        count = f"more than {ASK_ABOVE}" if ids.total is None else number(ids.total)
        what = f"Revoke every live session of {count} users from {ids.source} at {where.base_url}"
        confirm(settings.out, what, is_stdin_taken=ids.is_stdin)
        must_ask = False

    async def start(
        sessions: AsyncSessionsApi, interrupts: Interrupts, **hooks: Any
    ) -> RevocationReport:
        users: Any = None
        if ids is not None:
            users = user_ids or ids.read(interrupts.wait)
        return await sessions.revoke_all(user_ids=users, **selection, **hooks)

    async def ask(sessions: AsyncSessionsApi) -> None:
        """Ask if there are many; the users are few, so that listing them first is cheap."""
        users = None if ids is None else ids.all()
        count = await _count(sessions, users, selection)
        if count > ASK_ABOVE:
            whose = f"client {client_id}" if users is None else f"{len(users)} users"
            what = f"Revoke the {number(count)} live sessions of {whose} at {where.base_url}"
            confirm(settings.out, what, is_stdin_taken=ids is not None and ids.is_stdin)

    return asyncio.run(_run(settings, ids, start, options, ask=ask if must_ask else None))


async def _run(
    settings: Settings,
    ids: Ids | None,
    start: Callable[..., Awaitable[RevocationReport]],
    options: Mapping[str, Any],
    *,
    total: int | None = None,
    ask: Callable[[AsyncSessionsApi], Awaitable[None]] | None = None,
) -> int:
    journal = None
    if options["journal"] is not None:
        journal = Journal(options["journal"], accept_other_key=options["rotated_key"])
    elif options["rotated_key"]:
        raise click.UsageError("--rotated-key goes with --journal")
    limit = rate_limit_of(options["rate"], options["share"], endpoint(settings))
    async with make_client(settings, rate_limit=limit) as sessions:
        if ask is not None:
            await ask(sessions)

        def begin(interrupts: Interrupts, **hooks: Any) -> Awaitable[RevocationReport]:
            return start(
                sessions,
                interrupts,
                journal=journal,
                dry_run=options["dry_run"],
                max_failures=options["max_failures"],
                **hooks,
            )

        run = BulkRun(
            out=settings.out,
            arguments=settings.arguments,
            journal=options["journal"],
            total=total,
            progress=options["progress"],
            is_dry=options["dry_run"],
            ids=ids,
        )
        return await run.run(begin)


async def _count(
    sessions: AsyncSessionsApi, users: list[str] | None, selection: Mapping[str, Any]
) -> int:
    """Count what `revoke-all` would revoke.

    Raises:
        ClerkError: If it can't be told, as the sessions of a user can't be listed.
    """
    report = await sessions.revoke_all(user_ids=users, dry_run=True, **selection)
    for failure in report.failures:
        if failure.error is not None:
            raise failure.error
    return report.planned


def _time(option: str, text: str | None) -> datetime | None:
    """Read a time; one without a zone would mean another moment on another machine."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(f"{option} isn't a time such as 2026-03-01T12:00Z") from None
    if time.utcoffset() is None:
        raise click.UsageError(f"{option} needs a time zone, such as Z at the end for UTC")
    return time.astimezone(UTC)
