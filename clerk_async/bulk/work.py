"""The jobs of a bulk run, and where they come from."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import attrs

from clerk_async.bulk.intake import Duplicates, Input, check_input
from clerk_async.errors import InvalidArgumentError
from clerk_async.http.operations import check_session_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable

    from clerk_async.bulk.journal import OpenJournal
    from clerk_async.bulk.journal_file import RunKind
    from clerk_async.bulk.lockout import Lockout
    from clerk_async.errors import ClerkError
    from clerk_async.http.paging import Walk
    from clerk_async.models import Session
    from clerk_async.pacing.gate import Lane


class RunEnded(Exception):  # noqa: N818 - not an error itself: the run raises the one it carries
    """Ends the run with an error that doesn't belong to one session.

    Attributes:
        error: What the run raises once everything in flight has finished.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


@attrs.define(eq=False)
class Owner:
    """A user (or a client) whose sessions the run revokes.

    Attributes:
        user_id: The user; None if a client's sessions are revoked, whatever their user.
        walk: The walk through the list of sessions, which each look repeats.
        found: The selected sessions of this look by id; None for a session that can't be read.
        judged: What `where` returned for each session.
        handled: The ids picked so far, and whether each is done.
        broken: The id and error of each entry that can't be read or judged, not yet reported.
        outstanding: How many picked sessions have no outcome yet.
        looks: How many looks there were.
        lingering: How many looks in a row found only sessions that were revoked already.
        is_listed: Whether the sessions were listed once.
        is_given_up: Whether no other look follows.
    """

    user_id: str | None
    walk: Walk
    found: dict[str, Session | None] = attrs.field(factory=dict[str, "Session | None"])
    judged: dict[str, bool] = attrs.field(factory=dict[str, bool])
    handled: dict[str, bool] = attrs.field(factory=dict[str, bool])
    broken: list[tuple[str | None, ClerkError]] = attrs.field(
        factory=list[tuple["str | None", "ClerkError"]]
    )
    outstanding: int = 0
    looks: int = 0
    lingering: int = 0
    is_listed: bool = False
    is_given_up: bool = False


@attrs.define(eq=False)
class Job:
    """One session to revoke, or to report as malformed.

    Attributes:
        index: Its place in the input.
        session_id: The id; None if something other than a string was given.
        error: Why it can't be sent, or why its last round failed.
        attempts: How often it was sent in earlier rounds.
        may_have_arrived: Whether one of these sends may have taken effect.
        rounds: How many rounds it has had.
        owner: The user whose session `revoke_all` found it to be.
        is_listing: Whether this job lists the sessions of its owner instead.
    """

    index: int
    session_id: str | None
    error: ClerkError | None = None
    attempts: int = 0
    may_have_arrived: bool = False
    rounds: int = 0
    owner: Owner | None = None
    is_listing: bool = False


class Work:
    """The source of the engine's jobs: `IdWork` for ids, `Sweep` for the sessions of users.

    Attributes:
        journal: The journal; sessions that it lists as done are skipped.
        lockout: Where the sessions that are found are denied.
        resumed: How many sessions an earlier run of the journal did.
        index: How many jobs have a place in the order of the report.
        users: How many users were listed.
        users_without_sessions: How many of these users have no session of any status.
        kind: The kind of run, for the journal.
    """

    kind: RunKind = "revoke_many"

    def __init__(self, items: Iterable[object] | AsyncIterable[object]) -> None:
        self._input = Input(items)
        self._known = Duplicates()
        self.journal: OpenJournal | None = None
        self.lockout: Lockout | None = None
        self.resumed: int = 0
        self.index: int = 0
        self.users: int = 0
        self.users_without_sessions: int = 0

    @property
    def is_read(self) -> bool:
        """Whether the input was read to its end."""
        return self._input.exhausted

    @property
    def exhausted(self) -> bool:
        """Whether all sessions of the input are known."""
        return self._input.exhausted

    @property
    def total(self) -> int | None:
        """How many sessions there are; None while unknown."""
        return self.index + self.resumed if self.exhausted else None

    async def deny_input(self) -> None:
        """Deny the sessions that are known before the first job is taken."""

    async def take(self) -> Job | None:
        """Return the next job; None if there is none now (busy jobs may add more)."""
        raise NotImplementedError

    async def take_rest(self) -> Job | None:
        """Return the next job that a stopped run has to report; None at the end."""
        raise NotImplementedError

    def finished(self, job: Job, *, is_done: bool) -> None:
        """Note that a job has its outcome, and whether the session is done."""

    async def list_sessions(self, job: Job, lane: Lane) -> None:
        """Do a listing job; the next calls of `take` return what it finds.

        Raises:
            ClerkError: If the sessions can't be listed.
            RunEnded: If `where` raised.
            SendRefused: If the run was stopped.
        """

    def malformed(self, session_id: str | None, error: InvalidArgumentError) -> Job:
        """Return a job for an item that can't be sent."""
        error.__traceback__ = None
        return Job(self._next_place(), session_id, error)

    def _next_place(self) -> int:
        """Return the next place in the order of the report."""
        self.index += 1
        return self.index


class IdWork(Work):
    """The ids of `revoke_many`.

    Raises:
        InvalidArgumentError: If they are not iterable.
    """

    resumed: int

    def __init__(self, session_ids: Iterable[str] | AsyncIterable[str]) -> None:
        check_input("session_ids", session_ids)
        super().__init__(session_ids)
        self._ids = session_ids if isinstance(session_ids, Collection) else None
        self._dropped = 0

    @property
    def total(self) -> int | None:
        """How many ids there are: known at once for a collection, else at the end of the input."""
        if self.exhausted or self._input.size is None:
            return super().total
        return self._input.size - self._dropped

    async def deny_input(self) -> None:
        """Deny all ids of a collection; ids of other inputs are denied as they are read."""
        if self._ids is not None and self.lockout is not None:
            await self.lockout.deny_all(self._ids)

    async def take(self) -> Job | None:
        """Return a job for the next id that is not a duplicate and not done."""
        while True:
            read = await self._input.read()
            if read is None:
                return None
            job = self._job(read[0])
            if job is not None:
                return job

    async def take_rest(self) -> Job | None:
        """Return the next id of a collection; of any other input, read nothing more."""
        return None if self._input.size is None else await self.take()

    def _job(self, value: object) -> Job | None:
        try:
            check_session_id(value)
        except InvalidArgumentError as error:
            return self.malformed(str(value) if isinstance(value, str) else None, error)
        session_id = str(value)
        journal = self.journal
        if self._known.saw(session_id) or (journal and journal.is_done(session_id)):
            self._dropped += 1
            return None
        if journal and journal.was_done_earlier(session_id):
            self.resumed += 1
            if self.lockout is not None:
                self.lockout.tried(session_id, 1)
            return None
        if self._ids is None and self.lockout is not None:
            self.lockout.deny((session_id,))
        return Job(self._next_place(), session_id)
