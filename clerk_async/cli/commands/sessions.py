"""The arguments of `list`, `get` and `create`; `listing` has their output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from clerk_async.cli.app import Settings, command, pass_settings
from clerk_async.cli.exits import DONE
from clerk_async.cli.filters import age_options, filters_of

if TYPE_CHECKING:
    from datetime import timedelta


def _statuses(_: click.Context, __: click.Parameter, typed: str) -> list[str]:
    from clerk_async.models import SessionStatus  # noqa: PLC0415 - attrs, not for help

    return [status.value for status in SessionStatus if status.startswith(typed)]


@command("list")
@click.option("--user", "user_id", metavar="ID", help="Only sessions of this user.")
@click.option(
    "--client",
    "client_id",
    metavar="ID",
    help="Only sessions of this client (a browser or device).",
)
@click.option(
    "--status",
    metavar="S",
    shell_complete=_statuses,
    help="Only sessions with this status, such as active.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, 500),
    metavar="N",
    help="List at most N, 1 to 500; default: 10, as the service does.",
)
@click.option("--offset", type=click.IntRange(min=0), metavar="N", help="Skip the first N.")
@click.option(
    "--all", "is_all", is_flag=True, help="List all pages; this is the default in a pipe."
)
@age_options
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv", "ids"]),
    help="The output format; json prints one object per line. `revoke` reads all of them.",
)
@pass_settings
def list_command(
    settings: Settings,
    /,
    *,
    user_id: str | None,
    client_id: str | None,
    status: str | None,
    limit: int | None,
    offset: int | None,
    is_all: bool,
    older_than: timedelta | None,
    idle: timedelta | None,
    actor: str | None,
    form: Literal["table", "json", "csv", "ids"] | None,
) -> int:
    """List the sessions of a user or a client, newest first.

    On a terminal it prints one page, as a table. In a pipe or with --format it prints all sessions:
    in a pipe as tab-separated lines, with --json as JSON lines, with --quiet only the ids. The
    output can be piped into `revoke --from -`.

    \b
      clerk-async list --user user_1
      clerk-async list --user user_1 --idle 30d | clerk-async revoke --from - --dry-run
      clerk-async list --user user_1 --format csv > sessions.csv
    """  # noqa: D301 - a control character of click, not a backslash
    if user_id is None and client_id is None:
        raise click.UsageError("whose sessions? Pass --user ID or --client ID")
    if is_all and (limit is not None or offset is not None):
        raise click.UsageError("--all can't be combined with --limit or --offset")
    if form is not None and form != "json" and settings.is_json:
        raise click.UsageError(f"--json can't be combined with --format {form}")
    import asyncio  # noqa: PLC0415 - not for help

    from clerk_async.cli.listing import Query, list_sessions  # noqa: PLC0415 - not for help

    query = Query(
        user_id=user_id,
        client_id=client_id,
        status=status,
        limit=limit,
        offset=offset,
        is_all=is_all,
        filters=filters_of(older_than, idle, actor),
        form=form,
    )
    return asyncio.run(list_sessions(settings, query))


@command("get")
@click.argument("session_ids", metavar="ID...", nargs=-1, required=True)
@pass_settings
def get_command(settings: Settings, /, *, session_ids: tuple[str, ...]) -> int:
    """Show sessions by their ids."""
    import asyncio  # noqa: PLC0415 - not for help

    from clerk_async.cli.listing import get_sessions  # noqa: PLC0415 - not for help

    return asyncio.run(get_sessions(settings, session_ids))


@command("create")
@click.option("--user", "user_id", metavar="ID", required=True, help="The user.")
@click.option(
    "--organization", metavar="ID", help="The organization that is active in the session."
)
@pass_settings
def create_command(settings: Settings, /, *, user_id: str, organization: str | None) -> int:
    """Create a session, for tests: Clerk refuses it on production instances."""
    from clerk_async.cli.client import call  # noqa: PLC0415 - not for help
    from clerk_async.cli.listing import show_one  # noqa: PLC0415 - not for help

    made = call(
        settings, lambda sessions: sessions.create(user_id, active_organization_id=organization)
    )
    show_one(settings.out, made)
    return DONE
