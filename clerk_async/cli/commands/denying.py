"""`deny`, `allow` and `shared-status`: what all processes on a key refuse and share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import click

from clerk_async.cli.app import Settings, command, pass_settings
from clerk_async.cli.exits import DONE, FAILED, OUT_OF_REACH, Refused

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
        click.option(
            "--user", "user_ids", multiple=True, metavar="ID", help="Users instead of sessions."
        ),
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
    help="Refuse those who signed in before TIME (or `now`), until `allow`.",
)
@click.option("--yes", "-y", is_flag=True, help="Don't ask before denying everyone.")
@pass_settings
def deny_command(
    settings: Settings,
    /,
    *,
    session_ids: tuple[str, ...],
    user_ids: tuple[str, ...],
    everyone: bool,
    signed_in_before: datetime | None,
    yes: bool,
) -> int:
    """Refuse the tokens of sessions, of users or of everyone, in every process at once.

    Verifiers refuse them within milliseconds, because they share the Redis in
    CLERK_ASYNC_SHARED_STATE. The service isn't asked, and the sessions stay live there: a live
    session gets a new token each minute, so end it as well, with `revoke` or `revoke-all`.
    """
    _check(session_ids, user_ids, signed_in_before, everyone=everyone)
    if everyone and not yes:
        from clerk_async.cli.asking import confirm  # noqa: PLC0415 - not for help

        since = "" if signed_in_before is None else f" who signed in before {signed_in_before}"
        confirm(settings.out, f"Refuse the tokens of everyone{since}, in every process")
    return _change("deny", settings, session_ids, user_ids, signed_in_before)


@command("allow")
@_subjects
@click.option(
    "--signed-in-before",
    callback=_read_moment,
    metavar="TIME",
    help="As in `deny`; all denials of the users are taken back, whatever the time.",
)
@pass_settings
def allow_command(
    settings: Settings,
    /,
    *,
    session_ids: tuple[str, ...],
    user_ids: tuple[str, ...],
    everyone: bool,
    signed_in_before: datetime | None,
) -> int:
    """Take back denials of sessions, of users or of everyone, in every process.

    Revoked sessions stay revoked.
    """
    _check(session_ids, user_ids, signed_in_before, everyone=everyone)
    return _change("allow", settings, session_ids, user_ids, signed_in_before)


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


def _check(
    session_ids: tuple[str, ...],
    user_ids: tuple[str, ...],
    signed_in_before: datetime | None,
    *,
    everyone: bool,
) -> None:
    if bool(session_ids) + bool(user_ids) + everyone != 1:
        raise click.UsageError("pass exactly one of session ids, --user ID and --everyone")
    if session_ids and signed_in_before is not None:
        raise click.UsageError("--signed-in-before needs --user or --everyone")
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
    user_ids: tuple[str, ...],
    signed_in_before: datetime | None,
) -> int:
    from clerk_async.cli.client import call  # noqa: PLC0415 - not for help
    from clerk_async.cli.columns import SESSIONS, USERS  # noqa: PLC0415 - likewise
    from clerk_async.cli.lookalikes import Lookalikes  # noqa: PLC0415 - likewise
    from clerk_async.http.operations import path_segment  # noqa: PLC0415 - likewise

    wanted, name = (SESSIONS, "session_id") if session_ids else (USERS, "user_id")
    ids = session_ids or user_ids
    lookalikes = Lookalikes(wanted, command=what)
    for each in ids:
        path_segment(name, each)  # all of them, before anything is changed
        lookalikes.note(each)
    subjects: list[dict[str, Any]] = [{name: each} for each in ids] or [{"everyone": True}]
    if signed_in_before is not None:
        subjects = [{**each, "signed_in_before": signed_in_before} for each in subjects]

    async def change(sessions: Any) -> bool:
        await sessions._catch_up()  # noqa: SLF001 - ours
        for subject in subjects:
            await (sessions.deny if what == "deny" else sessions.allow)(**subject)
        return bool(sessions.shared_status().connected)

    if not call(settings, change):
        settings.out.error("Redis is unreachable: nothing has changed in other processes")
        return OUT_OF_REACH
    several = wanted.owner if len(ids) != 1 else wanted.owner.removesuffix("s")
    subject = f"{len(ids)} {several}" if ids else "everyone"
    done = "denied" if what == "deny" else "allowed again"
    warnings = lookalikes.warnings
    mark = "Not done" if warnings else "Done"  # nobody has such an id
    settings.out.note(f"{mark}: {subject} {done}, in every process that shares this key.")
    for warning in warnings:
        settings.out.error(warning)
    return FAILED if warnings else DONE
