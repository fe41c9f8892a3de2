"""What the engine of a bulk run works through: jobs, and where they come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from clerk_async.bulk.journal import OpenJournal
    from clerk_async.errors import ClerkError
    from clerk_async.pacing.window import Pacer


@attrs.define(eq=False)
class Owner:
    """A user (or a client) whose sessions are to go.

    Attributes:
        user_id: The user; None where a client is swept whatever the user.
        handled: The ids that were picked for him so far.
        outstanding: How many of these have no outcome yet.
        is_listed: Whether his sessions were listed once.
    """

    user_id: str | None
    handled: set[str] = attrs.field(factory=set[str])
    outstanding: int = 0
    is_listed: bool = False


@attrs.define(eq=False)
class Job:
    """One session to revoke, or to report as malformed.

    Attributes:
        index: Its place in the input.
        session_id: None where something else was given.
        error: Why it can't be sent, or why its first round failed.
        attempts: Sends in earlier rounds.
        may_have_arrived: Whether one of these may have taken effect.
        rounds: How many rounds it has had.
        owner: The user that `revoke_all` found it at.
        is_listing: Whether the sessions of its owner are to be listed instead.
    """

    index: int
    session_id: str | None
    error: ClerkError | None = None
    attempts: int = 0
    may_have_arrived: bool = False
    rounds: int = 0
    owner: Owner | None = None
    is_listing: bool = False


class Work(Protocol):
    """Where the engine gets its jobs from."""

    @property
    def is_read(self) -> bool:
        """Whether the input was read to its end."""
        ...

    @property
    def exhausted(self) -> bool:
        """Whether all that the input stands for is known."""
        ...

    @property
    def resumed(self) -> int:
        """How many an earlier run of the journal had done."""
        ...

    @property
    def total(self) -> int | None:
        """How many sessions there are, as far as that is known."""
        ...

    def use_journal(self, journal: OpenJournal | None) -> None:
        """Skip what is done in there."""
        ...

    async def take(self) -> Job | None:
        """Give the next job; None if there is none now (more may come while others are busy)."""
        ...

    async def take_rest(self) -> Job | None:
        """Give the next that a stopped run has to report; None at the end."""
        ...

    def finished(self, job: Job) -> None:
        """Note that a job has its outcome."""
        ...

    async def list_sessions(self, job: Job, pacer: Pacer) -> None:
        """Do a listing job; what it finds comes with the next `take`.

        Raises:
            ClerkError: If the sessions can't be listed.
            SendRefused: If the run was stopped.
        """
        ...
