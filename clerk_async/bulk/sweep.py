"""The work of `revoke_all`: list the live sessions of users, revoke them, look for stragglers.

All pages of a user are read before the first session is revoked: paging by offset over a
list that shrinks skips sessions. The list is asked for without a status filter, which doesn't know
`pending` and would make the list shrink; the live ones are picked here. Users come in as workers
have nothing else to do, so that memory doesn't grow with their number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import attrs
from attrs.validators import optional

from clerk_async.bulk.intake import check_input
from clerk_async.bulk.work import Job, Owner, Work
from clerk_async.errors import InvalidArgumentError
from clerk_async.http.operations import check_session_id, path_segment

if TYPE_CHECKING:
    from clerk_async.bulk.target import RevocationTarget
    from clerk_async.models import Session, SessionPage
    from clerk_async.pacing.gate import Lane

PAGE_SIZE: Final = 500
"""The most that the service gives at once."""


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

    def has(self, session: Session) -> bool:
        """Whether this live session is to be revoked."""
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

    @property
    def exhausted(self) -> bool:
        """Whether every user was listed."""
        return self._input.exhausted and not self._unlisted

    async def take(self) -> Job | None:
        """Return a session that was found, else a user to list, else one to look at again."""
        while not self._ready and not self._again:
            read = await self._input.read()
            if read is None:
                break
            job = self._user_job(read[0])
            if job is not None:
                return job
        if self._ready:
            return self._ready.popleft()
        return self._again.popleft() if self._again else None

    async def take_rest(self) -> Job | None:
        """Return the next session that was found and not sent."""
        return self._ready.popleft() if self._ready else None

    def finished(self, job: Job) -> None:
        """Look at a user again once all that was found there has its outcome."""
        owner = job.owner
        if owner is None:
            return
        if job.is_listing:
            self._note_listed(owner)
            return
        owner.outstanding -= 1
        if not owner.outstanding and not self._dry_run:
            self._again.append(Job(0, None, owner=owner, is_listing=True))

    async def list_sessions(self, job: Job, lane: Lane) -> None:
        """Read all pages of a user, and pick what is meant and was not picked before."""
        owner = job.owner
        if owner is None:
            return
        found: dict[str, None] = {}
        broken: list[Job] = []
        offset = 0
        while True:
            page = await self._target.list_page(
                lane,
                user_id=owner.user_id,
                client_id=self._selection.client_id,
                limit=PAGE_SIZE,
                offset=offset,
            )
            self._pick(page, owner, found, broken)
            size = len(page.data) + len(page.unreadable)
            offset += size
            more = size == PAGE_SIZE if page.total_count is None else offset < page.total_count
            if not size or not more:
                break
        if not owner.is_listed:
            for unnamed in broken:
                self._add(owner, unnamed)
        self._note_listed(owner)
        meant: list[str] = []
        for session_id in found:
            owner.handled.add(session_id)
            journal = self.journal
            if journal and (journal.is_done(session_id) or journal.was_done_earlier(session_id)):
                self.resumed += 1
                continue
            meant.append(session_id)
            self._add(owner, Job(0, session_id, owner=owner))
        if self.lockout is not None:
            self.lockout.deny(meant)

    def _pick(
        self, page: SessionPage, owner: Owner, found: dict[str, None], broken: list[Job]
    ) -> None:
        for session in page.data:
            if self._selection.has(session) and session.id not in owner.handled:
                found[session.id] = None
        for item in page.unreadable:
            session_id = item.session_id
            if session_id is None:
                broken.append(Job(0, None, item.error, owner=owner))
            elif (
                session_id not in self._selection.except_session_ids
                and session_id not in owner.handled
            ):
                found[session_id] = None

    def _add(self, owner: Owner, job: Job) -> None:
        self.index += 1
        job.index = self.index
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
        return Job(0, None, owner=Owner(user_id), is_listing=True)
