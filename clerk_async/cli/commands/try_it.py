"""The arguments of `demo` and `fake-server`; the demo itself is in `story`."""

from __future__ import annotations

import contextlib
import errno
import signal
import threading
from typing import TYPE_CHECKING, Any, Final

import click

from clerk_async.cli.app import Settings, command, pass_settings
from clerk_async.cli.exits import DONE, Refused
from clerk_async.cli.rates import read_rate

if TYPE_CHECKING:
    from collections.abc import Callable

    from clerk_async.cli.progress import Mode

_NOT_OURS: Final = {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM}
"""The errors of a port that is in use or not allowed."""


def _later(reader: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Read an option with a function of `serving`, which help doesn't need to import."""

    def read(context: click.Context, option: click.Parameter, value: Any) -> Any:
        from clerk_async.cli import serving  # noqa: PLC0415 - see above

        return getattr(serving, reader)(context, option, value)

    return read


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
    "--seed",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="The same seed repeats a run exactly.",
)
@click.option(
    "--progress",
    type=click.Choice(["none", "bar", "text"]),
    help="How to show progress on stderr; default: bar on a terminal, otherwise text.",
)
@pass_settings
def demo_command(settings: Settings, /, sessions: int, seed: int, progress: Mode | None) -> int:
    """Watch a bulk revocation on this machine, without a Clerk account.

    It starts a fake Clerk service on a free port, with the rate limit of a production instance,
    about two thousand sessions, and trouble on purpose: errors, cut connections, 429s. Then it
    lists the sessions of leaked accounts, revokes them, and checks in the service's own state that
    all of them are gone and no other was touched. Finally it locks out a user whose token a second
    process verifies, through a Redis that it starts if redis-server is installed. Exits with 0 only
    if every check passes.
    """
    from clerk_async.cli.story import tell  # noqa: PLC0415 - not for help

    return tell(settings, count=sessions, seed=seed, progress=progress)


@command("fake-server")
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=0, metavar="N", help="Default: a free port."
)
@click.option(
    "--sessions",
    type=click.IntRange(0, 1_000_000),
    default=0,
    show_default=True,
    metavar="N",
    help="How many sessions it starts with, four per user.",
)
@click.option(
    "--seed-file",
    type=click.File(encoding="utf-8-sig"),
    metavar="FILE",
    help="Start with these sessions: JSON lines as printed by `list --json`; - is stdin.",
)
@click.option("--write-users", metavar="FILE", help="Write the users' ids, one per line.")
@click.option("--write-ids", metavar="FILE", help="Write the sessions' ids, one per line.")
@click.option(
    "--template",
    "templates",
    multiple=True,
    callback=_later("read_template"),
    metavar="NAME=FILE",
    help="A JWT template whose claims are in a JSON file; can be repeated.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    callback=_later("read_fault"),
    metavar="OPERATION:STATUS[:PROBABILITY]",
    help="Answer an operation (or any) with an error, always or with a probability, such as "
    "revoke:503:0.1; can be repeated.",
)
@click.option(
    "--latency",
    callback=_later("read_latency"),
    metavar="S[-S]",
    help="How many seconds each answer takes, such as 0.05 or 0.005-0.15.",
)
@click.option(
    "--rate",
    metavar="N/S",
    callback=read_rate,
    help="Its rate limit: N requests in S seconds, such as 1000/10.",
)
@click.option("--seed", type=int, default=0, metavar="N", help="The same seed makes the same ids.")
@click.option("--production", is_flag=True, help="Behave like a production instance.")
@pass_settings
def fake_server_command(
    settings: Settings,
    /,
    *,
    write_users: str | None,
    write_ids: str | None,
    port: int,
    **options: Any,
) -> int:
    """Run a fake Clerk Sessions service on this machine, to test against, until Ctrl-C.

    It prints the two variables that point this program, and any Clerk SDK, to it. Its sessions
    belong to a made-up company, with devices, places, organizations and impersonators; some have
    ended.
    """
    from clerk_async.cli import serving  # noqa: PLC0415 - not for help

    fake = serving.make_fake(port=port, **options)
    if write_users is not None:
        serving.write_lines(write_users, serving.users_of(fake))
    if write_ids is not None:
        serving.write_lines(write_ids, fake.sessions)
    before = signal.getsignal(signal.SIGTERM)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.suppress(KeyboardInterrupt), fake:
            print("\n".join(serving.how_to_reach(fake)), flush=True)  # noqa: T201 - a fake's key
            threading.Event().wait()
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise  # its output can't be written
        raise Refused(f"can't listen on port {port}: {error.strerror}") from None
    finally:
        signal.signal(signal.SIGTERM, before)
    settings.out.note("")
    return DONE
