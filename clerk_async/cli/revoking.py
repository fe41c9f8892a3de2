"""What `revoke` and `revoke-all` do: where the ids come from, what is asked, how the run starts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from clerk_async.bulk.journal import Journal
from clerk_async.cli.asking import ASK_ABOVE, confirm
from clerk_async.cli.bulk_run import BulkRun
from clerk_async.cli.client import endpoint, make_client
from clerk_async.cli.inputs import ids_from
from clerk_async.cli.progress import number
from clerk_async.cli.rates import rate_limit_of
from clerk_async.cli.reach import check_reach

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from clerk_async.bulk.report import RevocationReport
    from clerk_async.cli.app import Settings
    from clerk_async.cli.inputs import Ids
    from clerk_async.cli.interrupts import Interrupts
    from clerk_async.cli.rates import RunOptions
    from clerk_async.sessions import AsyncSessionsApi


def revoke(
    settings: Settings,
    session_ids: Sequence[str],
    path: str | None,
    column: str | None,
    options: RunOptions,
) -> int:
    """Revoke sessions by their ids, and give the exit code.

    Raises:
        click.ClickException: If the input can't be used, or nobody confirmed.
        ClerkError: If the run could not begin.
    """
    ids = ids_from(session_ids, path, column, what="session ids as arguments", option="--from")
    where = endpoint(settings)
    if not (options.yes or options.dry_run) and ids.has_more_than(ASK_ABOVE):
        what = f"Revoke {_count_of(ids)} sessions from {ids.source} at {where.base_url}"
        confirm(settings.out, what, is_stdin_taken=ids.is_stdin)

    async def start(
        sessions: AsyncSessionsApi, interrupts: Interrupts, **hooks: Any
    ) -> RevocationReport:
        if _may_be_many(ids) and not options.dry_run:
            await check_reach(where.base_url)
        return await sessions.revoke_many(session_ids or ids.read(interrupts.wait), **hooks)

    return asyncio.run(_run(settings, ids, start, options, total=ids.total))


def revoke_all(
    settings: Settings,
    user_ids: Sequence[str],
    path: str | None,
    column: str | None,
    *,
    selection: Mapping[str, Any],
    options: RunOptions,
) -> int:
    """Revoke the live sessions of users, or of a client, and give the exit code.

    Raises:
        click.ClickException: If the input can't be used, or nobody confirmed.
        ClerkError: If the run could not begin.
    """
    ids = None
    if user_ids or path is not None or selection["client_id"] is None:
        ids = ids_from(user_ids, path, column, what="users with --user", option="--users-from")
    elif column is not None:
        raise click.UsageError("--column goes with --users-from")
    where = endpoint(settings)
    must_ask = not (options.yes or options.dry_run)
    if must_ask and ids is not None and ids.has_more_than(ASK_ABOVE):
        what = f"Revoke every live session of {_count_of(ids)} users from {ids.source}"
        confirm(settings.out, f"{what} at {where.base_url}", is_stdin_taken=ids.is_stdin)
        must_ask = False

    async def start(
        sessions: AsyncSessionsApi, interrupts: Interrupts, **hooks: Any
    ) -> RevocationReport:
        if ids is not None and _may_be_many(ids):
            await check_reach(where.base_url)
        users: Any = user_ids or (None if ids is None else ids.read(interrupts.wait))
        return await sessions.revoke_all(user_ids=users, **selection, **hooks)

    async def ask(sessions: AsyncSessionsApi) -> None:
        # The users are few, so that listing their sessions first is cheap.
        users = None if ids is None else ids.all()
        count = await _count_sessions(sessions, users, selection)
        if count > ASK_ABOVE:
            whose = f"client {selection['client_id']}"
            if users is not None:
                whose = f"{len(users)} users" if len(users) > 1 else f"user {users[0]}"
            what = f"Revoke the {number(count)} live sessions of {whose} at {where.base_url}"
            confirm(settings.out, what, is_stdin_taken=ids is not None and ids.is_stdin)

    return asyncio.run(_run(settings, ids, start, options, ask=ask if must_ask else None))


async def _run(
    settings: Settings,
    ids: Ids | None,
    start: Callable[..., Awaitable[RevocationReport]],
    options: RunOptions,
    *,
    total: int | None = None,
    ask: Callable[[AsyncSessionsApi], Awaitable[None]] | None = None,
) -> int:
    journal = None
    if options.journal is not None:
        journal = Journal(options.journal, accept_other_key=options.rotated_key)
    elif options.rotated_key:
        raise click.UsageError("--rotated-key goes with --journal")
    limit = rate_limit_of(options.rate, options.share, endpoint(settings))
    async with make_client(settings, rate_limit=limit) as sessions:
        if ask is not None:
            await ask(sessions)

        def begin(interrupts: Interrupts, **hooks: Any) -> Awaitable[RevocationReport]:
            return start(
                sessions,
                interrupts,
                journal=journal,
                dry_run=options.dry_run,
                max_failures=options.max_failures,
                **hooks,
            )

        run = BulkRun(
            out=settings.out,
            arguments=settings.arguments,
            journal=options.journal,
            total=total,
            progress=options.progress,
            is_dry=options.dry_run,
            ids=ids,
        )
        return await run.run(begin)


def _may_be_many(ids: Ids) -> bool:
    return ids.total is None or ids.total > ASK_ABOVE


def _count_of(ids: Ids) -> str:
    return f"more than {ASK_ABOVE}" if ids.total is None else number(ids.total)


async def _count_sessions(
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
