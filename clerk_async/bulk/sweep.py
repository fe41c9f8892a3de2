"""The work of `revoke_all`: list the live sessions of users, revoke them, look for stragglers.

The list is asked for without a status filter, which doesn't know `pending`; the live ones are
picked here. What a look has found is revoked, then the user is looked at again, until a look finds
nobody. Only that last look has to be complete, and so it is (see `clerk_async.http.paging`): one
that found somebody is followed by another anyway. A session that is listed as live after its
revocation was confirmed is waited for a little, because a list may lag behind.

The list is the truth here: a session that it shows as live is sent, whatever a journal says.

Users come in as workers have nothing else to do, so that memory doesn't grow with their number.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import attrs
from attrs.validators import optional

from clerk_async.bulk.intake import check_input
from clerk_async.bulk.work import Job, Owner, RunEnded, Work
from clerk_async.config import check_integer
from clerk_async.errors import ClerkError, InvalidArgumentError
from clerk_async.http.operations import check_session_id, path_segment
from clerk_async.http.paging import Trust, Walk, check_where, is_meant
from clerk_async.models import Session, UnreadableItem

if TYPE_CHECKING:
    from clerk_async.bulk.target import RevocationTarget
    from clerk_async.models import SessionPage
    from clerk_async.pacing.gate import Lane

PAGE_SIZE: Final = 500
"""The most that the service gives at once."""
LINGER_PAUSES: Final = (0.25, 0.5, 1.0)
"""Seconds before each further look at sessions that are listed as live though they were revoked."""
LOOKS_AT_MOST: Final = 100
"""A user who is signed in anew at each look is looked at so often."""
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)


def _exceptions(session_ids: Iterable[str]) -> frozenset[str]:
    check_input("except_session_ids", session_ids)
    if isinstance(session_ids, AsyncIterable):
        raise InvalidArgumentError("except_session_ids must be a plain iterable of ids")
    exceptions = list(session_ids)
    for session_id in exceptions:
        check_session_id(session_id)  # one that can't be right would protect nothing
    return frozenset(exceptions)


def _aware(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidArgumentError(f"{attribute.name} must be an aware datetime: give it a zone")


def _actor(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, bool):
        path_segment(attribute.name, value)


def _ids(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    check_input(attribute.name, value)


def _where(_: object, __: attrs.Attribute[Any], value: object) -> None:
    check_where(value)


def _count(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    check_integer(attribute.name, value, low=0)


def _id(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    path_segment(attribute.name, value)


@attrs.frozen(kw_only=True)
class Selection:
    """Which live sessions `revoke_all` means: whose, and which of them.

    A session whose time can't be read is meant: better one sign-in more than one thief left.

    Attributes:
        user_id: Those of this user.
        user_ids: Those of each of these users; read as the run goes on.
        client_id: Only sessions of this client (browser or device); alone, of whatever user.
        except_session_ids: Never these.
        created_before: Only those created before this time.
        last_active_before: Only those last active before this time.
        actor: Only those in which this user impersonates another; True: anybody, False: nobody.
        where: Only those of which this is true; asked once for each session.
        keep_newest: Spare so many of each user's newest sessions, of those that are meant.
        run_where: What calls `where`, for some sessions at once; None if it is called as it is.

    Raises:
        InvalidArgumentError: If one of them can't be used, or neither a user nor a client is given.
    """

    user_id: str | None = attrs.field(default=None, validator=optional(_id))
    user_ids: Iterable[str] | AsyncIterable[str] | None = attrs.field(
        default=None, validator=optional(_ids)
    )
    client_id: str | None = attrs.field(default=None, validator=optional(_id))
    except_session_ids: frozenset[str] = attrs.field(
        default=frozenset[str](), converter=_exceptions
    )
    created_before: datetime | None = attrs.field(default=None, validator=optional(_aware))
    last_active_before: datetime | None = attrs.field(default=None, validator=optional(_aware))
    actor: str | bool | None = attrs.field(default=None, validator=optional(_actor))
    where: Callable[[Session], object] | None = attrs.field(default=None, validator=_where)
    keep_newest: int | None = attrs.field(default=None, validator=optional(_count))
    run_where: Callable[..., Awaitable[list[bool] | None]] | None = None

    def __attrs_post_init__(self) -> None:
        if self.user_id is None and self.user_ids is None and self.client_id is None:
            raise InvalidArgumentError(
                "pass user_id, user_ids or client_id: it never means everybody"
            )
        if self.user_id is not None and self.user_ids is not None:
            raise InvalidArgumentError("pass user_id or user_ids, not both")

    @property
    def is_of_a_client(self) -> bool:
        """Whether a client's sessions are meant, whoever's they are."""
        return self.user_id is None and self.user_ids is None

    async def judge(self, sessions: list[Session], judged: dict[str, bool]) -> None:
        """Ask `where` about each of these sessions, and note what it says.

        Raises:
            RunEnded: If it raised, or nobody is there any more to ask it.
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
        """Return the ids that go: all but each user's newest, of those that can be read."""
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
        """Whether this live session is meant, as far as the filters other than `where` go."""
        if not session.status.is_live or session.id in self.except_session_ids:
            return False
        if self.created_before is not None:
            created = session.created_at
            if created is not None and created >= self.created_before:
                return False
        if self.last_active_before is not None:
            active = session.last_active_at
            if active is not None and active >= self.last_active_before:
                return False
        if self.actor is None:
            return True
        if isinstance(self.actor, bool):
            return (session.actor is not None) is self.actor
        return session.actor is not None and session.actor.get("sub") == self.actor


class Sweep(Work):
    """The sessions of users.

    Args:
        target: What lists.
        selection: Whose sessions, and which of them.
        dry_run: Whether nothing will be revoked, so that there are no stragglers to look for.
    """

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

    @property
    def _is_held_back(self) -> bool:
        """Whether nothing may be revoked yet, because `where` may still raise."""
        return self._selection.where is not None and not self.exhausted

    @property
    def exhausted(self) -> bool:
        """Whether every user was listed."""
        return self._input.exhausted and not self._unlisted

    async def take(self) -> Job | None:
        """Return a session that was found, else a user to list, else one to look at again."""
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
        """Return the next session that was found and not sent."""
        return self._ready.popleft() if self._ready else None

    def finished(self, job: Job, *, is_done: bool) -> None:
        """Look at a user again once all that was found there has its outcome."""
        owner = job.owner
        if owner is None:
            return
        if job.is_listing:  # it can't be listed: what was found till then goes all the same
            owner.is_given_up = True
            self._note_listed(owner)
            if self._selection.keep_newest is not None:
                owner.found.clear()  # the newest may be among those that were not read
            self._pick(owner)
            return
        if job.session_id is not None:
            owner.handled[job.session_id] = is_done
        owner.outstanding -= 1
        if not owner.outstanding and not owner.is_given_up and not self._dry_run:
            self._again.append(Job(0, None, owner=owner, is_listing=True))

    async def list_sessions(self, job: Job, lane: Lane) -> None:
        """Look at all sessions of a user, and pick what is meant and was not picked before."""
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
            self._note_user(has_any=has_any)
        self._note_listed(owner)
        owner.looks += 1
        if self._pick(owner):
            owner.lingering = 0
            if owner.looks >= LOOKS_AT_MOST:
                self._give_up(owner, f"{owner.looks} looks have each found another session")
        elif lingering:
            await self._wait_for(owner, lingering, lane)

    def _comes_back(self, owner: Owner) -> bool:
        """Whether this look is not the last one, which alone has to be complete."""
        if owner.walk.end is None or self._dry_run:
            return False
        return bool(self._selection.without_newest(owner.found))

    async def _find(self, page: SessionPage, owner: Owner) -> set[str]:
        """Add what is meant on a page; returns those that should be gone by now."""
        selection = self._selection
        live = [session for session in page.data if selection.has(session)]
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
            else:  # nobody can say whether it is meant
                owner.handled[session_id] = False
                owner.broken.append((session_id, item.error))
        return lingering

    def _pick(self, owner: Owner) -> bool:
        """Make jobs of what a look has found; returns whether there are any."""
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
        """Look once more for sessions that are listed as live after they were revoked."""
        if owner.lingering == len(LINGER_PAUSES):
            some = ", ".join(sorted(lingering)[:3])
            self._give_up(
                owner, f"{len(lingering)} are still listed as live after they were revoked: {some}"
            )
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
