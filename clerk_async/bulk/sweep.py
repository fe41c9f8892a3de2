"""The work of `revoke_all`: list the live sessions of users, revoke them, look for stragglers.

The request for the list has no status filter, because the filter doesn't know `pending`; the live
sessions are selected here. One pass over a user's list is a look. The sessions that a look finds
are revoked, then another look follows, until one finds nothing to revoke. Only that last look has
to be complete, and `clerk_async.http.paging` makes sure that it is. If a session is still listed as
live after its revocation was confirmed, the run waits a little, because the list may lag behind.

The list is authoritative: a session that it shows as live is sent, whatever a journal says. A
session is live if it is active or pending. The service may add another status, live or not: such
sessions are not sent, and a warning says so.

Workers read the next user only when they have nothing else to do, so that memory use doesn't grow
with the number of users.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import attrs
from attrs.validators import optional

from clerk_async.bulk.intake import check_input
from clerk_async.bulk.work import Job, Owner, RunEnded, Work
from clerk_async.config import check_integer, checked
from clerk_async.errors import ClerkError, InvalidArgumentError
from clerk_async.http.operations import check_session_id, path_segment
from clerk_async.http.paging import Trust, Walk, check_where, is_meant
from clerk_async.models import Session, SessionStatus, UnreadableItem
from clerk_async.redaction import redact

if TYPE_CHECKING:
    from clerk_async.bulk.journal_file import RunKind
    from clerk_async.bulk.verdict import RevocationTarget
    from clerk_async.models import SessionPage
    from clerk_async.pacing.gate import Lane

PAGE_SIZE: Final = 500
"""The largest page that the service returns."""
LINGER_PAUSES: Final = (0.25, 0.5, 1.0)
"""Seconds before each new look at revoked sessions that are still listed as live."""
LOOKS_AT_MOST: Final = 100
"""How many looks the run takes at a user who has a new session each time."""
_KNOWN: Final = frozenset(SessionStatus)
_SHOWN: Final = 100
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)

_log = logging.getLogger("clerk_async")


def _exceptions(session_ids: Iterable[str]) -> frozenset[str]:
    check_input("except_session_ids", session_ids)
    if isinstance(session_ids, AsyncIterable):
        raise InvalidArgumentError("except_session_ids must be a plain iterable of ids")
    exceptions = list(session_ids)
    for session_id in exceptions:
        check_session_id(session_id)  # a malformed one would protect nothing
    return frozenset(exceptions)


def _check_aware(name: str, value: object) -> None:
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidArgumentError(f"{name} must be an aware datetime, with a time zone")


def _check_actor(name: str, value: object) -> None:
    if not isinstance(value, bool):
        path_segment(name, value)


_ID = optional(checked(path_segment))
_AWARE = optional(checked(_check_aware))


@attrs.frozen(kw_only=True)
class Selection:
    """Which live sessions `revoke_all` selects.

    A session whose time can't be read is selected: one sign-in too many is better than one thief
    left.

    Attributes:
        user_id: The sessions of this user.
        user_ids: The sessions of each of these users; read during the run.
        client_id: Only sessions of this client (browser or device); without a user, of all users.
        except_session_ids: Never these.
        created_before: Only sessions created before this time.
        last_active_before: Only sessions last active before this time.
        actor: Only sessions that this user impersonates; True: any user does, False: none does.
        where: Only sessions for which this returns true; called once for each session.
        keep_newest: Spare this many of each user's newest sessions, counted among the selected.
        run_where: Calls `where` for several sessions at once; None to call it directly.

    Raises:
        InvalidArgumentError: If one of them is invalid, or neither a user nor a client is given.
    """

    user_id: str | None = attrs.field(default=None, validator=_ID)
    user_ids: Iterable[str] | AsyncIterable[str] | None = attrs.field(
        default=None, validator=optional(checked(check_input))
    )
    client_id: str | None = attrs.field(default=None, validator=_ID)
    except_session_ids: frozenset[str] = attrs.field(
        default=frozenset[str](), converter=_exceptions
    )
    created_before: datetime | None = attrs.field(default=None, validator=_AWARE)
    last_active_before: datetime | None = attrs.field(default=None, validator=_AWARE)
    actor: str | bool | None = attrs.field(default=None, validator=optional(checked(_check_actor)))
    where: Callable[[Session], object] | None = attrs.field(
        default=None, validator=checked(check_where)
    )
    keep_newest: int | None = attrs.field(
        default=None, validator=optional(checked(check_integer, low=0))
    )
    run_where: Callable[..., Awaitable[list[bool] | None]] | None = None

    def __attrs_post_init__(self) -> None:
        if self.user_id is None and self.user_ids is None and self.client_id is None:
            raise InvalidArgumentError(
                "pass user_id, user_ids or client_id: revoke_all never means everybody"
            )
        if self.user_id is not None and self.user_ids is not None:
            raise InvalidArgumentError("pass user_id or user_ids, not both")

    @property
    def is_of_a_client(self) -> bool:
        """Whether a client's sessions are selected, whatever their user."""
        return self.user_id is None and self.user_ids is None

    async def judge(self, sessions: list[Session], judged: dict[str, bool]) -> None:
        """Call `where` with each of these sessions, and note the results.

        Raises:
            RunEnded: If it raised, or if the caller that would run it is gone.
        """
        if self.where is None or not sessions:
            return
        verdicts: list[bool] | None
        try:
            if self.run_where is None:
                verdicts = self._ask(sessions)
            else:
                verdicts = await self.run_where(self._ask, sessions)
        except Exception as error:  # noqa: BLE001 - the user's own: the run raises it
            raise RunEnded(error) from None
        if verdicts is None:
            raise RunEnded(asyncio.CancelledError())
        judged.update((each.id, verdict) for each, verdict in zip(sessions, verdicts, strict=True))

    def _ask(self, sessions: list[Session]) -> list[bool]:
        return [is_meant(self.where, session) for session in sessions]

    def without_newest(self, found: dict[str, Session | None]) -> list[str]:
        """Return the ids to revoke: all but each user's newest readable sessions."""
        keep = self.keep_newest
        if keep is None:
            return list(found)
        readable = [session for session in found.values() if session is not None]
        readable.sort(key=lambda session: session.created_at or _LONG_AGO, reverse=True)
        kept: set[str] = set()
        counts = Counter[str | None]()
        for session in readable:
            counts[session.user_id] += 1
            if counts[session.user_id] <= keep:
                kept.add(session.id)
        return [session_id for session_id in found if session_id not in kept]

    def has(self, session: Session) -> bool:
        """Return whether a session is live and passes the filters other than `where`."""
        if not session.status.is_live or session.id in self.except_session_ids:
            return False
        return is_within(session, self.created_before, self.last_active_before, self.actor)


def is_within(
    session: Session,
    created_before: datetime | None,
    last_active_before: datetime | None,
    actor: str | bool | None,
) -> bool:
    """Return whether a session passes these filters of `Selection`."""
    for before, time in (
        (created_before, session.created_at),
        (last_active_before, session.last_active_at),
    ):
        if before is not None and time is not None and time >= before:
            return False
    if actor is None:
        return True
    if isinstance(actor, bool):
        return (session.actor is not None) is actor
    return session.actor is not None and session.actor.get("sub") == actor


class Sweep(Work):
    """The sessions of users, as the work of a run.

    Args:
        target: What lists the sessions.
        selection: Which sessions to revoke.
        dry_run: Whether nothing is revoked, so that there are no stragglers to look for.
    """

    kind: RunKind = "revoke_all"
    users: int
    users_without_sessions: int

    def __init__(self, target: RevocationTarget, selection: Selection, *, dry_run: bool) -> None:
        super().__init__([selection.user_id] if selection.user_ids is None else selection.user_ids)
        self._target = target
        self._selection = selection
        self._dry_run = dry_run
        self._ready: deque[Job] = deque()
        self._again: deque[Job] = deque()
        self._unlisted = 0
        self._trust = Trust()
        self._undenied: list[str] = []
        self._unknown: set[SessionStatus] = set()

    @property
    def _is_held_back(self) -> bool:
        """Whether nothing may be revoked yet, because `where` may still raise."""
        return self._selection.where is not None and not self.exhausted

    @property
    def exhausted(self) -> bool:
        """Whether every user was listed."""
        return self._input.exhausted and not self._unlisted

    async def take(self) -> Job | None:
        """Return a session that was found, else a user to list, else a user to look at again."""
        while self._is_held_back or not (self._ready or self._again):
            read = await self._input.read()
            if read is None:
                break
            job = self._user_job(read[0])
            if job is not None:
                return job
        if self._is_held_back:
            return None
        self._deny([])
        if self._ready:
            return self._ready.popleft()
        return self._again.popleft() if self._again else None

    async def take_rest(self) -> Job | None:
        """Return the next session that was found but not sent."""
        return self._ready.popleft() if self._ready else None

    def finished(self, job: Job, *, is_done: bool) -> None:
        """Schedule another look at a user once all their found sessions have outcomes."""
        owner = job.owner
        if owner is None:
            return
        if job.is_listing:  # listing failed: revoke what it found all the same
            owner.is_given_up = True
            self._note_listed(owner)
            if self._selection.keep_newest is not None:
                owner.found.clear()  # the newest may be among those it didn't read
            self._pick(owner)
            return
        if job.session_id is not None:
            owner.handled[job.session_id] = is_done
        owner.outstanding -= 1
        if not owner.outstanding and not owner.is_given_up and not self._dry_run:
            self._again.append(Job(0, None, owner=owner, is_listing=True))

    async def list_sessions(self, job: Job, lane: Lane) -> None:
        """Look at all sessions of a user, and pick the selected ones that are new."""
        owner = job.owner
        if owner is None:
            return
        walk = owner.walk
        walk.begin_again()
        has_any = False
        lingering: set[str] = set()
        while not walk.is_over and not self._comes_back(owner):
            page = await self._target.list_page(
                lane,
                user_id=owner.user_id,
                client_id=self._selection.client_id,
                limit=walk.limit,
                offset=walk.offset,
            )
            has_any |= bool(page.data or page.unreadable)
            for entry in walk.take(page):
                if isinstance(entry, UnreadableItem) and entry.id is None:
                    owner.broken.append((None, entry.error))
            lingering |= await self._find(page, owner)
            if self._trust.believes(walk):
                break
        if not owner.looks:
            self._trust.learn(walk)
            self.users += 1
            self.users_without_sessions += not has_any
        self._note_listed(owner)
        owner.looks += 1
        if self._pick(owner):
            owner.lingering = 0
            if owner.looks >= LOOKS_AT_MOST:
                self._give_up(owner, f"{owner.looks} looks each found another session")
        elif lingering:
            await self._wait_for(owner, lingering, lane)

    def _comes_back(self, owner: Owner) -> bool:
        """Return whether another look follows, so that this one need not be complete."""
        if owner.walk.end is None or self._dry_run:
            return False
        return bool(self._selection.without_newest(owner.found))

    async def _find(self, page: SessionPage, owner: Owner) -> set[str]:
        """Add the selected sessions of a page; return those that should be gone by now."""
        selection = self._selection
        live = [session for session in page.data if selection.has(session)]
        self._warn_of_unknown({session.status for session in page.data} - _KNOWN)
        lingering = {session.id for session in live if owner.handled.get(session.id)}
        await selection.judge([each for each in live if each.id not in owner.judged], owner.judged)
        for session in live:
            if session.id not in owner.handled and owner.judged.get(session.id, True):
                owner.found[session.id] = session
        for item in page.unreadable:
            session_id = item.session_id
            if session_id is None or session_id in selection.except_session_ids:
                continue
            if session_id in owner.handled:
                continue
            if selection.where is None:
                owner.found[session_id] = None
            else:  # `where` can't judge it
                owner.handled[session_id] = False
                owner.broken.append((session_id, item.error))
        return lingering

    def _warn_of_unknown(self, statuses: set[SessionStatus]) -> None:
        """Log each status that may or may not be live once, because its sessions are spared."""
        for status in statuses - self._unknown:
            _log.warning(
                "sessions with the unknown status %s are not revoked: check whether they are live",
                redact(status.value)[:_SHOWN],
            )
        self._unknown |= statuses

    def _pick(self, owner: Owner) -> bool:
        """Create jobs for what a look has found; return whether there are any."""
        meant = self._selection.without_newest(owner.found)
        for session_id, error in owner.broken:
            self._add(owner, Job(0, session_id, error, owner=owner))
        for session_id in meant:
            owner.handled[session_id] = False
            self._add(owner, Job(0, session_id, owner=owner))
        self._deny(meant)
        has_found = bool(owner.broken or meant)
        owner.broken, owner.found = [], {}
        return has_found

    def _deny(self, session_ids: list[str]) -> None:
        self._undenied += session_ids
        if self._undenied and not self._is_held_back:
            if self.lockout is not None:
                self.lockout.deny(self._undenied)
            self._undenied = []

    async def _wait_for(self, owner: Owner, lingering: set[str], lane: Lane) -> None:
        """Schedule another look for revoked sessions that are still listed as live."""
        if owner.lingering == len(LINGER_PAUSES):
            some = ", ".join(sorted(lingering)[:3])
            count = f"{len(lingering)} are" if len(lingering) > 1 else "one is"
            self._give_up(owner, f"{count} still listed as live after the revocation: {some}")
            return
        await lane.pause(LINGER_PAUSES[owner.lingering])
        owner.lingering += 1
        self._again.append(Job(0, None, owner=owner, is_listing=True))

    def _give_up(self, owner: Owner, problem: str) -> None:
        owner.is_given_up = True
        whose = "this client" if owner.user_id is None else owner.user_id
        error = ClerkError(f"sessions of {whose} may be live: {problem}")
        self._add(owner, Job(0, None, error, owner=owner))

    def _add(self, owner: Owner, job: Job) -> None:
        job.index = self._next_place()
        owner.outstanding += 1
        self._ready.append(job)

    def _note_listed(self, owner: Owner) -> None:
        if not owner.is_listed:
            owner.is_listed = True
            self._unlisted -= 1

    def _user_job(self, value: object) -> Job | None:
        user_id = None
        if not self._selection.is_of_a_client:
            try:
                path_segment("user_id", value)
            except InvalidArgumentError as error:
                return self.malformed(None, error)
            user_id = str(value)
            if self._known.saw(user_id):
                return None
        self._unlisted += 1
        return Job(0, None, owner=Owner(user_id, Walk(PAGE_SIZE)), is_listing=True)
