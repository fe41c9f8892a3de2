"""`fake-server`: FakeClerk in the foreground."""

from __future__ import annotations

import errno
import signal
from typing import TYPE_CHECKING, Final

import click

from clerk_async.cli.app import Settings, command, pass_settings
from clerk_async.cli.exits import DONE, Refused
from clerk_async.cli.rates import read_rate

if TYPE_CHECKING:
    from clerk_async.config import RateLimit

_NOT_OURS: Final = {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM}
"""How the system says that a port is somebody else's."""


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
    from clerk_async.testing import serve  # noqa: PLC0415 - not for help

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        serve(port, sessions, rate_limit=rate, seed=seed, production=production)
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise  # what it prints can't be written
        raise Refused(f"can't listen on port {port}: {error.strerror}") from None
    finally:
        signal.signal(signal.SIGTERM, before)
    settings.out.note("")
    return DONE
