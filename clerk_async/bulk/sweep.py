"""The work of `revoke_all`: list the live sessions of users, revoke them, look for stragglers.

All pages of a user are read before the first of his sessions is revoked: paging by offset over a
list that shrinks skips sessions. The list is asked for without a status filter, which doesn't know
`pending` and would make the list shrink; the live ones are picked here. Users come in as workers
have nothing else to do, so that memory doesn't grow with their number.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import attrs

from clerk_async.bulk.intake import Duplicates, Input
from clerk_async.bulk.work import Job, Owner
from clerk_async.errors import InvalidArgumentError
from clerk_async.http.operations import path_segment

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable
    from datetime import datetime

    from clerk_async.bulk.journal import OpenJournal
    from clerk_async.bulk.target import RevocationTarget
    from clerk_async.models import Session, SessionPage
    from clerk_async.pacing.window import Pacer

PAGE_SIZE: Final = 500
"""The most that the service gives at once."""


@attrs.frozen
class Selection:
    """Which of the live sessions are meant.

    A session whose time can't be read is meant: better one sign-in more than one thief left.

    Attributes:
        except_ids: Never these.
        created_before: Only those created before this time.
        last_active_before: Only those last active before this time.
        actor: Only those in which this user impersonates another; True: anybody, False: nobody.
    """

    except_ids: frozenset[str] = frozenset()
    created_before: datetime | None = None
    last_active_before: datetime | None = None
    actor: str | bool | None = None

    def has(self, session: Session) -> bool:
        """Whether this live session is to be revoked."""
        if not session.status.is_live or session.id in self.except_ids:
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


class Sweep:
    """The sessions of users, as `Work`.

    Args:
        target: What lists.
        user_ids: The users; None for all of the client's.
        client_id: Only sessions of this client (browser or device).
        selection: Which of the live sessions.
        dry_run: Whether nothing will be revoked, so that there are no stragglers to look for.
    """

    def __init__(
        self,
        target: RevocationTarget,
        user_ids: Iterable[str] | AsyncIterable[str] | None,
        client_id: str | None,
        selection: Selection,
        *,
        dry_run: bool,
    ) -> None:
        self._target = target
        self._users: Input[object] = Input([None] if user_ids is None else user_ids)
        self._is_client_sweep = user_ids is None
        self._client_id = client_id
        self._selection = selection
        self._dry_run = dry_run
        self._known_users = Duplicates()
        self._ready: deque[Job] = deque()
        self._again: deque[Job] = deque()
        self._unlisted = 0
        self._index = 0
        self._journal: OpenJournal | None = None
        self.resumed: int = 0

    @property
    def is_read(self) -> bool:
        """See `Work`."""
        return self._users.exhausted

    @property
    def exhausted(self) -> bool:
        """See `Work`."""
        return self._users.exhausted and not self._unlisted

    @property
    def total(self) -> int | None:
        """See `Work`."""
        return self._index + self.resumed if self.exhausted else None

    def use_journal(self, journal: OpenJournal | None) -> None:
        """See `Work`."""
        self._journal = journal

    async def take(self) -> Job | None:
        """See `Work`."""
        while not self._ready and not self._again:
            read = await self._users.read()
            if read is None:
                break
            job = self._user_job(read[0])
            if job is not None:
                return job
        if self._ready:
            return self._ready.popleft()
        return self._again.popleft() if self._again else None

    async def take_rest(self) -> Job | None:
        """See `Work`."""
        return self._ready.popleft() if self._ready else None

    def finished(self, job: Job) -> None:
        """See `Work`."""
        owner = job.owner
        if owner is None:
            return
        if job.is_listing:
            self._note_listed(owner)
            return
        owner.outstanding -= 1
        if not owner.outstanding and not self._dry_run:
            self._again.append(Job(0, None, owner=owner, is_listing=True))

    async def list_sessions(self, job: Job, pacer: Pacer) -> None:
        """See `Work`."""
        owner = job.owner
        if owner is None:
            return
        found: dict[str, None] = {}
        broken: list[Job] = []
        offset = 0
        while True:
            page = await self._target.list_page(
                user_id=owner.user_id,
                client_id=self._client_id,
                status=None,
                limit=PAGE_SIZE,
                offset=offset,
                pacer=pacer,
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
        for session_id in found:
            owner.handled.add(session_id)
            journal = self._journal
            if journal and (journal.is_done(session_id) or journal.was_done_earlier(session_id)):
                self.resumed += 1
                continue
            self._add(owner, Job(0, session_id, owner=owner))

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
            elif session_id not in self._selection.except_ids and session_id not in owner.handled:
                found[session_id] = None

    def _add(self, owner: Owner, job: Job) -> None:
        self._index += 1
        job.index = self._index
        owner.outstanding += 1
        self._ready.append(job)

    def _note_listed(self, owner: Owner) -> None:
        if not owner.is_listed:
            owner.is_listed = True
            self._unlisted -= 1

    def _user_job(self, value: object) -> Job | None:
        user_id = None
        if not self._is_client_sweep:
            try:
                path_segment("user_id", value)
            except InvalidArgumentError as error:
                self._index += 1
                error.__traceback__ = None
                return Job(self._index, None, error)
            user_id = str(value)
            if self._known_users.saw(user_id):
                return None
        self._unlisted += 1
        return Job(0, None, owner=Owner(user_id), is_listing=True)
