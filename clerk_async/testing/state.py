"""What the fake instance holds: users, sessions, JWT templates, refresh tokens."""

from __future__ import annotations

import random
import threading
from bisect import insort
from datetime import datetime
from typing import TYPE_CHECKING, Any

from attrs import define, field, setters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager

#: The statuses of a session that can still do something.
LIVE = frozenset({"active", "pending"})
#: The statuses that the list operation's filter knows; `pending` is not one of them.
FILTERS = frozenset({"abandoned", "active", "ended", "expired", "removed", "replaced", "revoked"})
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_DAY = 86_400_000
HASURA_CLAIMS: dict[str, Any] = {
    "https://hasura.io/jwt/claims": {
        "x-hasura-default-role": "user",
        "x-hasura-allowed-roles": ["user"],
        "x-hasura-user-id": "{{user.id}}",
    }
}


@define(eq=False)
class FakeSession:
    """A session as the service holds it: it shows what is now, and assigning to it changes that.

    Times are integer Unix times in milliseconds, as on the wire.

    Attributes:
        id: `sess_…`.
        authorized_party: The `azp` of its tokens, None for none.
        claims: Claims that its tokens carry over the standard ones; None removes one.
        token_lifetime: How long its tokens live where nobody asks otherwise, in seconds.
        refresh_token: What the browser's `__refresh` cookie would hold.
    """

    id: str = field(on_setattr=setters.frozen)
    user_id: str = field(on_setattr=setters.frozen)
    client_id: str = field(on_setattr=setters.frozen)
    created_at: int = field(on_setattr=setters.frozen)
    status: str
    updated_at: int
    last_active_at: int
    expire_at: int
    abandon_at: int
    last_active_organization_id: str | None = None
    actor: dict[str, Any] | None = None
    latest_activity: dict[str, Any] | None = None
    tasks: list[dict[str, Any]] | None = None
    authorized_party: str | None = field(default=None, repr=False)
    claims: dict[str, Any] = field(factory=dict[str, Any], repr=False)
    token_lifetime: int = field(default=60, repr=False)
    refresh_token: str = field(default="", repr=False)

    def as_json(self) -> dict[str, Any]:
        """The session as the service sends it."""
        return {
            "object": "session",
            "id": self.id,
            "user_id": self.user_id,
            "client_id": self.client_id,
            "actor": self.actor,
            "status": self.status,
            "last_active_organization_id": self.last_active_organization_id,
            "last_active_at": self.last_active_at,
            "latest_activity": self.latest_activity,
            "expire_at": self.expire_at,
            "abandon_at": self.abandon_at,
            "updated_at": self.updated_at,
            "created_at": self.created_at,
            "tasks": self.tasks,
        }


def plain(text: str) -> str:
    """The bare text of a str, also of an enum's member."""
    return str.__str__(text) if type(text) is not str else text


def milliseconds(time: datetime | int) -> int:
    """A time as Clerk writes it.

    Raises:
        ValueError: If a datetime has no time zone.
    """
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise ValueError("a time needs a time zone: datetime(…, tzinfo=UTC)")
        return round(time.timestamp() * 1000)
    return time


class State:
    """Everything the fake knows, guarded by one lock: tests and the server's thread share it."""

    def __init__(self, *, seed: int, clock: Callable[[], float]) -> None:
        self.lock: AbstractContextManager[Any] = threading.RLock()
        self.users: set[str] = set()
        self.templates: dict[str, tuple[dict[str, Any], int]] = {
            "custom_hasura": (dict(HASURA_CLAIMS), 60)
        }
        self.consumed: set[str] = set()
        self.sessions: dict[str, FakeSession] = {}
        self._clock = clock
        self._random = random.Random(f"ids {seed}")  # noqa: S311 - ids that a seed repeats
        self._order = 0
        # Oldest first by creation, ties in the order in which they were added.
        self._by_user: dict[str, list[tuple[int, int, FakeSession]]] = {}
        self._by_client: dict[str, list[tuple[int, int, FakeSession]]] = {}

    def now(self) -> int:
        """The present, in milliseconds."""
        return int(self._clock() * 1000)

    def new_id(self, prefix: str) -> str:
        """An id in the form of Clerk's own: a prefix and 27 letters and digits."""
        return f"{prefix}_" + "".join(self._random.choices(_ALPHABET, k=27))

    def add(
        self,
        *,
        user_id: str | None,
        client_id: str | None,
        session_id: str | None,
        status: str,
        created_at: datetime | int | None,
        times: Mapping[str, datetime | int | None],
        rest: Mapping[str, Any],
    ) -> FakeSession:
        """Put a session in.

        Raises:
            ValueError: If the id is taken.
        """
        with self.lock:
            created = self.now() if created_at is None else milliseconds(created_at)
            given = {name: milliseconds(time) for name, time in times.items() if time is not None}
            session = FakeSession(
                id=session_id or self.new_id("sess"),
                user_id=user_id or self.new_id("user"),
                client_id=client_id or self.new_id("client"),
                created_at=created,
                status=plain(status),
                updated_at=given.get("updated_at", created),
                last_active_at=given.get("last_active_at", created),
                expire_at=given.get("expire_at", max(created, self.now()) + 7 * _DAY),
                abandon_at=given.get("abandon_at", max(created, self.now()) + 30 * _DAY),
                refresh_token=self.new_id("rt"),
                **rest,
            )
            if session.id in self.sessions:
                raise ValueError(f"there is a session {session.id!r} already")
            self._order += 1
            entry = (session.created_at, self._order, session)
            self.users.add(session.user_id)
            self.sessions[session.id] = session
            for index, owner in (
                (self._by_user, session.user_id),
                (self._by_client, session.client_id),
            ):
                insort(index.setdefault(owner, []), entry, key=lambda e: e[:2])
            return session

    def remove(self, session_id: str) -> None:
        """Purge a session, as the service does with old ones; unknown ids are ignored."""
        with self.lock:
            session = self.sessions.pop(session_id, None)
            if session is None:
                return
            for index, owner in (
                (self._by_user, session.user_id),
                (self._by_client, session.client_id),
            ):
                left = [entry for entry in index.pop(owner) if entry[2] is not session]
                if left:
                    index[owner] = left

    def find(self, session_id: str) -> FakeSession | None:
        """The session of an id, its status brought up to the present."""
        session = self.sessions.get(session_id)
        if session is not None:
            self._age(session)
        return session

    def list(
        self, *, user_id: str | None, client_id: str | None, status: str | None
    ) -> list[FakeSession]:
        """The sessions that match, newest first."""
        with self.lock:
            entries: Iterable[tuple[int, int, FakeSession]]
            if user_id is not None:
                entries = self._by_user.get(user_id, ())
            else:
                entries = self._by_client.get(client_id or "", ())
            found: list[FakeSession] = []
            for _, _, session in entries:
                self._age(session)
                if (status is None or session.status == status) and (
                    client_id is None or session.client_id == client_id
                ):
                    found.append(session)
        found.reverse()
        return found

    def _age(self, session: FakeSession) -> None:
        if session.status in LIVE:
            now = self.now()
            if session.expire_at <= now:
                session.status = "expired"
            elif session.abandon_at <= now:
                session.status = "abandoned"
