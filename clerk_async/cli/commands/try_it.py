"""`demo` and `fake-server`: what they take; the demo itself is in `story`."""

from __future__ import annotations

import contextlib
import errno
import signal
import threading
from typing import TYPE_CHECKING, Final

import click

from clerk_async.cli.app import Settings, command, pass_settings
from clerk_async.cli.exits import DONE, Refused
from clerk_async.cli.rates import read_rate

if TYPE_CHECKING:
    from clerk_async.cli.progress import Mode
    from clerk_async.config import RateLimit
    from clerk_async.testing import FakeClerk

_NOT_OURS: Final = {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM}
"""How the system says that a port is somebody else's."""


@command("demo")
@click.option(
    "--sessions",
    type=click.IntRange(1, 100_000),
    default=2000,
    show_default=True,
    metavar="N",
    help="How many sessions the made-up company has.",
)
@click.option(
    "--seed", type=int, default=1, show_default=True, metavar="N", help="Repeats a run exactly."
)
@click.option(
    "--progress",
    type=click.Choice(["none", "bar", "text"]),
    help="How to show progress on stderr; default: bar on a terminal, text elsewhere.",
)
@pass_settings
def demo_command(settings: Settings, /, sessions: int, seed: int, progress: Mode | None) -> int:
    """See the main job done, on this machine, without a Clerk account.

    Starts a Clerk Sessions service on a free port, with the rate limit of a production instance,
    about two thousand sessions, and trouble on purpose: errors, cut connections, 429s. Then it
    lists the sessions of leaked accounts, revokes them, and checks with the service's own books
    that all of them are gone and no other was touched. Exits with 0 only if so.
    """
    from clerk_async.cli.story import tell  # noqa: PLC0415 - not for help

    return tell(settings, count=sessions, seed=seed, progress=progress)


@command("fake-server")
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=0, metavar="N", help="Default: a free one."
)
@click.option(
    "--sessions",
    type=click.IntRange(0, 1_000_000),
    default=0,
    show_default=True,
    metavar="N",
    help="How many sessions it starts with, four to a user.",
)
@click.option("--rate", metavar="N/S", callback=read_rate, help="Its rate limit, such as 1000/10.")
@click.option("--seed", type=int, default=0, metavar="N", help="Makes the same ids each time.")
@click.option("--production", is_flag=True, help="Behave as a production instance does.")
@pass_settings
def fake_server_command(
    settings: Settings,
    /,
    *,
    port: int,
    sessions: int,
    rate: RateLimit | None,
    seed: int,
    production: bool,
) -> int:
    """Run a Clerk Sessions service on this machine, to test against, until Ctrl-C.

    It prints the two lines that point this program, and any Clerk SDK, at it.
    """
    from clerk_async.testing import FakeClerk  # noqa: PLC0415 - not for help

    fake = FakeClerk(
        port=port,
        sessions=sessions,
        rate_limit=rate,
        seed=seed,
        production=production,
        keep_requests=0,  # nobody can look at them, and it may run for days
    )
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.suppress(KeyboardInterrupt), fake:
            print(_how_to_reach(fake), flush=True)  # noqa: T201 - the key opens this fake alone
            threading.Event().wait()
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise  # what it prints can't be written
        raise Refused(f"can't listen on port {port}: {error.strerror}") from None
    finally:
        signal.signal(signal.SIGTERM, before)
    settings.out.note("")
    return DONE


def _how_to_reach(fake: FakeClerk) -> str:
    """Lines for a shell, and what there is, as its comment."""
    lines = [
        f"export CLERK_API_URL={fake.base_url.removesuffix('/v1')}",
        f"export CLERK_SECRET_KEY={fake.secret_key}",
    ]
    users = sorted({session.user_id for session in fake.sessions.values()})
    if users:
        lines.append(f"# {len(fake.sessions)} sessions of {len(users)} users, from {users[0]}")
    return "\n".join([*lines, "# Ctrl-C ends it"])
