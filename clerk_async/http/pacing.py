"""When a request of a bulk run may leave: the window, the ramp, and the gate that uses both.

`SendWindow` and `Ramp` are pure: the time is handed in. `KeyPacing` is the gate in front of the wire,
one for a client and a limit, shared by all runs that use them. `RunPacer` is what one run hands to
the transport, which calls it so, for every physical send, repeats included:

    ticket = await pacer.acquire()      # before the pool's slot is taken; may raise SendRefused
    try:
        ...                             # take the pool's slot, wait for the client's brake
        pacer.sent(ticket)              # just before the request leaves
        ...
    finally:
        pacer.answered(ticket, status, retry_after)     # exactly once; status None: no answer
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from clerk_async.config import RateLimit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["KeyPacing", "Pacer", "Pacings", "Ramp", "RunPacer", "SendRefused", "SendWindow", "Ticket"]

START_CONCURRENCY: Final = 16
CONCURRENCY_AFTER_REFUSAL: Final = 4
BACK_OFF: Final = 0.9
"""What is left of the allowance that was refused."""
WINDOWS_TO_RECOVER: Final = 6
"""How many windows without a refusal bring the allowance back to where it was refused."""
REFUSAL_PAUSE: Final = 1.0
"""Seconds to wait on a 429 that doesn't say how long."""


class SendRefused(Exception):  # noqa: N818 - no error of its own: the caller turns it into an outcome
    """The run takes no further sends: it was stopped. Nothing was sent.

    The transport raises the last attempt's error where there was one, else lets this through.
    """


class Ticket:
    """The right to send one request."""

    __slots__ = ("era", "is_open", "sent_at")

    def __init__(self, era: int) -> None:
        self.era = era
        self.is_open = True
        self.sent_at = math.nan


class Pacer(Protocol):
    """What the transport calls around each physical send of a paced call."""

    async def acquire(self) -> Ticket:
        """Wait until a request may leave.

        Raises:
            SendRefused: If the run was stopped; nothing may be sent.
        """
        ...

    def sent(self, ticket: Ticket) -> None:
        """Note that the request leaves now; a ticket that never gets here costs nothing."""
        ...

    def answered(self, ticket: Ticket, status: int | None, retry_after: float | None) -> None:
        """Note the end of the send: its status, or None for an error or a cancellation."""
        ...

    async def pause(self, seconds: float) -> None:
        """Wait before a repeat, or for the client's brake.

        Raises:
            SendRefused: As soon as the run is stopped.
        """
        ...
