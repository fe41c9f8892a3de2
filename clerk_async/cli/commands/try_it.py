"""`demo`: what it takes; what happens is in `story`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clerk_async.cli.app import Settings, command, pass_settings

if TYPE_CHECKING:
    from clerk_async.cli.progress import Mode


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
