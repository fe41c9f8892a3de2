"""`deny`, `allow` and `shared-status`: what all processes on a key refuse and share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import click

from clerk_async.cli.app import Settings, command, pass_settings
from clerk_async.cli.exits import DONE, OUT_OF_REACH, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

_NEEDED = (
    "set CLERK_ASYNC_SHARED_STATE to the Redis that your processes share, such as "
    "redis://cache:6379/0: without it, no other process would hear of this"
)


def _read_moment(
    context: click.Context, option: click.Parameter, value: str | None
) -> datetime | None:
    from clerk_async.cli.filters import read_time  # noqa: PLC0415 - not for help

    return datetime.now(UTC) if value == "now" else read_time(context, option, value)


def _subjects(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.argument("session_ids", nargs=-1, metavar="[ID]..."),
        click.option("--user", "user_id", metavar="ID", help="A user instead of sessions."),
        click.option("--everyone", is_flag=True, help="All users instead of sessions."),
    ):
        function = option(function)
    return function


@command("deny")
@_subjects
@click.option(
    "--signed-in-before",
    callback=_read_moment,
    metavar="TIME",
    help="Refuse everyone who signed in before TIME (or `now`), until `allow`.",
)
@click.option("--yes", "-y", is_flag=True, help="Don't ask before denying everyone.")
@pass_settings
def deny_command(
    settings: Settings,
    /,
    *,
    session_ids: tuple[str, ...],
    user_id: str | None,
    everyone: bool,
    signed_in_before: datetime | None,
    yes: bool,
) -> int:
    """Refuse the tokens of sessions, of a user or of everyone, in every process at once.

    Verifiers refuse them within milliseconds, because they share the Redis in
    CLERK_ASYNC_SHARED_STATE. The service isn't asked, and the sessions stay live there: a live
    session gets a new token each minute, so end it as well, with `revoke` or `revoke-all`.
    """
    _check(session_ids, user_id, everyone=everyone)
    if session_ids and signed_in_before is not None:
        raise click.UsageError("--signed-in-before needs --user or --everyone")
    if everyone and not yes:
        from clerk_async.cli.asking import confirm  # noqa: PLC0415 - not for help

        since = "" if signed_in_before is None else f" who signed in before {signed_in_before}"
        confirm(settings.out, f"Refuse the tokens of everyone{since}, in every process")
    return _change("deny", settings, session_ids, user_id, signed_in_before)


@command("allow")
@_subjects
@pass_settings
def allow_command(
    settings: Settings, /, *, session_ids: tuple[str, ...], user_id: str | None, everyone: bool
) -> int:
    """Take back denials of sessions, of a user or of everyone, in every process.

    Revoked sessions stay revoked.
    """
    _check(session_ids, user_id, everyone=everyone)
    return _change("allow", settings, session_ids, user_id, None)


@command("shared-status")
@pass_settings
def shared_status_command(settings: Settings, /) -> int:
    """Show how many processes share the key's rate limit, and how much of it is used.

    Exits with 4 if Redis is unreachable.
    """
    import attrs  # noqa: PLC0415 - not for help

    from clerk_async.cli.client import call  # noqa: PLC0415 - not for help
    from clerk_async.cli.output import json_line  # noqa: PLC0415 - not for help

    _require_shared_state()

    async def ask(sessions: Any) -> Any:
        await sessions._catch_up()  # noqa: SLF001 - ours
        return sessions.shared_status()

    status = attrs.asdict(call(settings, ask))
    status["processes"] = max(0, status["processes"] - 1)  # don't count this command
    if settings.is_json:
        settings.out.result(json_line(status, settings.out.out).rstrip("\n"))
    else:
        for name, value in status.items():
            told = "unknown" if value is None else f"{value:g}" if type(value) is float else value
            settings.out.result(f"{name.replace('_', ' ')}: {told}")
    return DONE if status["connected"] else OUT_OF_REACH


def _check(session_ids: tuple[str, ...], user_id: str | None, *, everyone: bool) -> None:
    if bool(session_ids) + (user_id is not None) + everyone != 1:
        raise click.UsageError("pass exactly one of session ids, --user ID and --everyone")
    _require_shared_state()


def _require_shared_state() -> None:
    import os  # noqa: PLC0415 - with config, not for help

    from clerk_async.config import SHARED_STATE_VARIABLE  # noqa: PLC0415 - not for help

    if not os.environ.get(SHARED_STATE_VARIABLE, "").strip():
        raise Refused(_NEEDED)


def _change(
    what: Literal["deny", "allow"],
    settings: Settings,
    session_ids: tuple[str, ...],
    user_id: str | None,
    signed_in_before: datetime | None,
) -> int:
    from clerk_async.cli.client import call  # noqa: PLC0415 - not for help

    async def change(sessions: Any) -> bool:
        await sessions._catch_up()  # noqa: SLF001 - ours
        act = sessions.deny if what == "deny" else sessions.allow
        for session_id in session_ids:
            await act(session_id=session_id)
        if not session_ids:
            whom = {"everyone": True} if user_id is None else {"user_id": user_id}
            await act(**whom, signed_in_before=signed_in_before)
        return bool(sessions.shared_status().connected)

    if not call(settings, change):
        settings.out.error("Redis is unreachable: nothing has changed in other processes")
        return OUT_OF_REACH
    count = len(session_ids)
    subject = f"{count} session{'s' * (count != 1)}" if count else user_id or "everyone"
    done = "denied" if what == "deny" else "allowed again"
    settings.out.note(f"Done: {subject} {done}, in every process that shares this key.")
    return DONE
