"""A fake to talk to by hand: `clerk-async fake-server`."""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import TYPE_CHECKING

from .fake import FakeClerk

if TYPE_CHECKING:
    from typing import TextIO

    from .limits import LimitLike


def serve(
    port: int = 0,
    sessions: int = 0,
    *,
    rate_limit: LimitLike | None = None,
    seed: int = 0,
    production: bool = False,
    output: TextIO | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Run a fake in the foreground until Ctrl-C, having printed how to reach it.

    Args:
        port: The port to listen on; 0 for a free one.
        sessions: How many sessions it starts with.
        rate_limit: See `FakeClerk`.
        seed: See `FakeClerk`.
        production: See `FakeClerk`.
        output: Where the lines go; the standard output by default.
        stop: An event that ends it too.

    Raises:
        OSError: If the port is taken.
    """
    # The key is printed on purpose: it opens nothing but this fake.
    out = sys.stdout if output is None else output
    ended = threading.Event() if stop is None else stop
    fake = FakeClerk(
        port=port,
        sessions=sessions,
        rate_limit=rate_limit,
        seed=seed,
        production=production,
        keep_requests=0,  # nobody can look at them, and it may run for days
    )
    with contextlib.suppress(KeyboardInterrupt), fake:
        lines = [
            f"export CLERK_API_URL={fake.base_url.removesuffix('/v1')}",
            f"export CLERK_SECRET_KEY={fake.secret_key}",
        ]
        users = sorted({session.user_id for session in fake.sessions.values()})
        if users:
            lines.append(f"# {sessions} sessions of {len(users)} users, from {users[0]}")
        lines.append("# Ctrl-C ends it")
        print("\n".join(lines), file=out, flush=True)
        ended.wait()
