"""`list`, `get` and `create`: what they take; what they show is in `listing`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clerk_async.cli.app import Settings, command, pass_settings
from clerk_async.cli.exits import DONE

if TYPE_CHECKING:
    from clerk_async.models import Session


def _statuses(_: click.Context, __: click.Parameter, typed: str) -> list[str]:
    from clerk_async.models import SessionStatus  # noqa: PLC0415 - attrs, not for help

    return [status.value for status in SessionStatus if status.startswith(typed)]


@command("list")
@click.option("--user", "user_id", metavar="ID", help="The sessions of this user.")
@click.option(
    "--client", "client_id", metavar="ID", help="Those of this client (a browser or device)."
)
@click.option(
    "--status",
    metavar="S",
    shell_complete=_statuses,
    help="Those with this status, such as active; the service knows no filter for pending.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, 500),
    metavar="N",
    help="At most so many, 1 to 500; default: 10, the service's own.",
)
@click.option("--offset", type=click.IntRange(min=0), metavar="N", help="Skip so many.")
@click.option("--all", "is_all", is_flag=True, help="All pages.")
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
) -> int:
    """List the sessions of a user or a client, newest first.

    On a terminal as a table, in a pipe as lines with tabs, with --json as JSON lines. With --quiet
    the ids alone, one a line: what `revoke --from -` reads.
    """
    if user_id is None and client_id is None:
        raise click.UsageError("say whose sessions: --user ID or --client ID")
    if is_all and (limit is not None or offset is not None):
        raise click.UsageError("--all goes with neither --limit nor --offset")
    import asyncio  # noqa: PLC0415 - not for help

    from clerk_async.cli.listing import list_all, list_page  # noqa: PLC0415 - attrs, not for help

    filters = {"user_id": user_id, "client_id": client_id, "status": status}
    if is_all:
        return asyncio.run(list_all(settings, filters))
    return asyncio.run(list_page(settings, {**filters, "limit": limit, "offset": offset}))


@command("get")
@click.argument("session_id", metavar="ID")
@pass_settings
def get_command(settings: Settings, /, *, session_id: str) -> int:
    """Show one session."""
    from clerk_async.cli.client import call  # noqa: PLC0415 - not for help

    return _show(settings, call(settings, lambda sessions: sessions.get(session_id)))


@command("create")
@click.option("--user", "user_id", metavar="ID", required=True, help="Whose session.")
@click.option(
    "--organization", metavar="ID", help="The organization to make active in the session."
)
@pass_settings
def create_command(settings: Settings, /, *, user_id: str, organization: str | None) -> int:
    """Create a session, for tests: Clerk refuses it on production instances."""
    from clerk_async.cli.client import call  # noqa: PLC0415 - not for help

    made = call(
        settings, lambda sessions: sessions.create(user_id, active_organization_id=organization)
    )
    return _show(settings, made)


def _show(settings: Settings, session: Session) -> int:
    from clerk_async.cli.listing import show_one  # noqa: PLC0415 - attrs, not for help

    show_one(settings.out, session)
    return DONE
