"""The state of a fake instance: users, sessions, JWT templates, refresh tokens."""

from __future__ import annotations

import random
import threading
from bisect import insort
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from attrs import define, field, setters

from .checks import (
    check_entitlement,
    check_permission,
    json_object,
    milliseconds,
    must_be,
    of,
    validator,
    within,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

ORIGIN = "http://localhost:3000"
#: The statuses of a session that is still alive.
LIVE = frozenset({"active", "pending"})
#: The statuses that the list operation can filter by; `pending` is not one of them.
FILTERS = frozenset({"abandoned", "active", "ended", "expired", "removed", "replaced", "revoked"})
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_DAY = 86_400_000
ACTIVITY = frozenset(
    "object id is_mobile device_type browser_name browser_version ip_address city country".split()  # noqa: SIM905
)
HASURA_CLAIMS: dict[str, Any] = {
    "https://hasura.io/jwt/claims": {
        "x-hasura-default-role": "user",
        "x-hasura-allowed-roles": ["user"],
        "x-hasura-user-id": "{{user.id}}",
    }
}


def wall_clock() -> float:
    """Return Unix time as tests freeze it; freezegun leaves `time.time` real in some threads."""
    return datetime.now(UTC).timestamp()


def _plain(text: Any) -> Any:
    """Return the plain str of an enum member."""
    return str.__str__(text) if isinstance(text, str) else text


def _id(name: str, value: object) -> None:
    if not must_be(name, value, str):
        raise ValueError(f"{name} must not be empty")


def _object(name: str, value: Mapping[str, Any] | None) -> None:
    if value is not None:
        json_object(name, value)


def _claims(claims: Mapping[str, Any]) -> dict[str, Any]:
    return json_object("claims", claims)


def _names(names: Iterable[str] | None) -> tuple[str, ...] | None:
    if isinstance(names, str):
        raise TypeError(f"permissions and features are lists of names, not {names!r}")
    return None if names is None else tuple(names)


def _permissions(_: str, names: tuple[str, ...] | None) -> None:
    for name in names or ():
        check_permission(name)


def _features(_: str, names: tuple[str, ...] | None) -> None:
    for name in names or ():
        check_entitlement(name)


def _plan(name: str, plan: str | None) -> None:
    if must_be(name, plan, str, None) is not None:
        _features(name, tuple((plan or "").split(",")))


def _tell(session: FakeSession, _: Any, status: str) -> str:
    """Set a session's status, and then notify the listener if it has changed."""
    if status != session.status:
        object.__setattr__(session, "status", status)
        if session._on_status is not None:  # noqa: SLF001 - of this file
            session._on_status(session)  # noqa: SLF001 - likewise
    return status


def _tasks(name: str, value: list[dict[str, Any]] | None) -> None:
    for task in must_be(name, value, list, None) or ():
        json_object(name, task)


@define(eq=False)
class FakeSession:
    """A session in the fake's state: it shows the current values, and assigning changes them.

    Times are integer Unix times in milliseconds, as on the wire; you may assign aware datetimes.

    Attributes:
        id: The session's id, `sess_…`.
        role: The user's role in the active organization, for its tokens.
        permissions: The user's permissions there, likewise.
        features: The features that a plan grants, likewise.
        plan: The plan, likewise.
        authorized_party: The `azp` of its browser's tokens, or None.
        claims: Claims that override the standard ones in its tokens; None removes one.
        token_lifetime: The default lifetime of its tokens, in seconds.
        refresh_token: The value of the browser's `__refresh` cookie.

    Raises:
        TypeError: If an assigned value has the wrong type.
        ValueError: If a time has no time zone.
    """

    id: str = field(on_setattr=setters.frozen, validator=validator(_id))
    user_id: str = field(on_setattr=setters.frozen, validator=validator(_id))
    client_id: str = field(on_setattr=setters.frozen, validator=validator(_id))
    created_at: int = field(on_setattr=setters.frozen, converter=milliseconds)
    status: str = field(
        converter=_plain,
        validator=validator(_id),
        on_setattr=[setters.convert, setters.validate, _tell],
    )
    updated_at: int = field(converter=milliseconds)
    last_active_at: int = field(converter=milliseconds)
    expire_at: int = field(converter=milliseconds)
    abandon_at: int = field(converter=milliseconds)
    last_active_organization_id: str | None = field(default=None, validator=of(str, None))
    actor: dict[str, Any] | None = field(default=None, validator=validator(_object))
    latest_activity: dict[str, Any] | None = field(default=None, validator=validator(_object))
    tasks: list[dict[str, Any]] | None = field(default=None, validator=validator(_tasks))
    role: str | None = field(default=None, repr=False, validator=of(str, None))
    permissions: tuple[str, ...] | None = field(
        default=None, repr=False, converter=_names, validator=validator(_permissions)
    )
    features: tuple[str, ...] | None = field(
        default=None, repr=False, converter=_names, validator=validator(_features)
    )
    plan: str | None = field(default=None, repr=False, validator=validator(_plan))
    authorized_party: str | None = field(default=None, repr=False, validator=of(str, None))
    claims: dict[str, Any] = field(factory=dict[str, Any], repr=False, converter=_claims)
    token_lifetime: int = field(default=60, repr=False, validator=within(int, least=1))
    refresh_token: str = field(default="", repr=False, validator=of(str))
    _on_status: Callable[[FakeSession], None] | None = field(default=None, init=False, repr=False)

    def as_json(self) -> dict[str, Any]:
        """Return the session as the service sends it."""
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


class State:
    """All state of the fake, guarded by one lock that tests and the server's thread share."""

    def __init__(self, *, seed: int, clock: Callable[[], float]) -> None:
        self.lock: AbstractContextManager[Any] = threading.RLock()
        self.users: set[str] = set()
        self.templates: dict[str, tuple[dict[str, Any], int]] = {}
        self.consumed: set[str] = set()
        self.sessions: dict[str, FakeSession] = {}
        self.on_event: Callable[[str, FakeSession | None, str | None], None] | None = None
        self._clock = clock
        self._random = random.Random(f"ids {seed}")  # noqa: S311 - ids that a seed repeats
        self._order = 0
        # Oldest first by creation time; equal times in the order in which they were added.
        self._by_user: dict[str, list[tuple[int, int, FakeSession]]] = {}
        self._by_client: dict[str, list[tuple[int, int, FakeSession]]] = {}
        self.clear()

    def clear(self) -> None:
        """Remove everything but the default template; ids are never reused."""
        with self.lock:
            for table in (self.users, self.consumed, self.sessions, self._by_user, self._by_client):
                table.clear()
            self.templates = {"custom_hasura": (dict(HASURA_CLAIMS), 60)}

    def now(self) -> int:
        """Return the current time in milliseconds."""
        return int(self._clock() * 1000)

    def new_id(self, prefix: str) -> str:
        """Return an id in Clerk's form: a prefix and 27 letters and digits."""
        return f"{prefix}_" + "".join(self._random.choices(_ALPHABET, k=27))

    def activity(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """Return a session's activity as the service sends it, with the test's values.

        Raises:
            TypeError: If it has an unknown field, or a value that can't be encoded as JSON.
        """
        unknown = json_object("activity", told).keys() - ACTIVITY
        if unknown:
            raise TypeError(f"an activity has no {', '.join(sorted(unknown))}")
        usual = {"object": "session_activity", "id": self.new_id("activity"), "is_mobile": False}
        return {**usual, **told}

    def add(
        self,
        *,
        user_id: str | None = None,
        client_id: str | None = None,
        session_id: str | None = None,
        created_at: datetime | int | None = None,
        status: str = "active",
        **rest: Any,
    ) -> FakeSession:
        """Add a session; `rest` sets its other attributes, with None for the usual value.

        Raises:
            ValueError: If the id is taken.
        """
        with self.lock:
            now = self.now()
            created = now if created_at is None else milliseconds(created_at)
            usual: dict[str, Any] = {
                "updated_at": created,
                "last_active_at": created,
                "expire_at": max(created, now) + 7 * _DAY,
                "abandon_at": max(created, now) + 30 * _DAY,
            }
            given = {name: value for name, value in rest.items() if value is not None}
            session = FakeSession(
                id=self.new_id("sess") if session_id is None else session_id,
                user_id=self.new_id("user") if user_id is None else user_id,
                client_id=self.new_id("client") if client_id is None else client_id,
                created_at=created,
                status=status,
                refresh_token=self.new_id("rt"),
                **{**usual, **given},
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
            session._on_status = self._tell_of  # noqa: SLF001 - of this file
        self._tell_of(session, "created")
        return session

    def _tell_of(self, session: FakeSession, created: str = "") -> None:
        """Send an event for a change that Clerk has an event for."""
        kind = created if session.status == "active" else session.status
        if self.on_event is None or kind not in (
            {"created", "pending"} if created else {"pending", "ended", "removed", "revoked"}
        ):
            return
        self.on_event(f"session.{kind}", session, None)

    def remove_user(self, user_id: str) -> None:
        """Remove a user; their sessions stay."""
        with self.lock:
            was_known = user_id in self.users
            self.users.discard(user_id)
        if was_known and self.on_event is not None:
            self.on_event("user.deleted", None, user_id)

    def remove(self, session_id: str) -> None:
        """Delete a session, as the service does with old ones; unknown ids are ignored."""
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

    def client_uat(self, client_id: str) -> int:
        """Return the value of the cookie `__client_uat`: the client's last sign-in, in seconds.

        It is 0 if the client has signed out.
        """
        with self.lock:
            live = [
                session.created_at
                for _, _, session in self._by_client.get(client_id, ())
                if session.status in LIVE
            ]
        return max(live, default=0) // 1000

    def find(self, session_id: str) -> FakeSession | None:
        """Return the session with this id, with its status updated, or None."""
        session = self.sessions.get(session_id)
        if session is not None:
            self._age(session)
        return session

    def list(
        self, *, user_id: str | None, client_id: str | None, status: str | None
    ) -> list[FakeSession]:
        """Return the matching sessions, newest first."""
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


class Sessions(Mapping[str, FakeSession]):
    """The sessions by id, safe to iterate over while the fake serves."""

    def __init__(self, state: State) -> None:
        self._state = state

    def __getitem__(self, session_id: str) -> FakeSession:
        session = self._state.find(session_id)
        if session is None:
            raise KeyError(session_id)
        return session

    def __iter__(self) -> Iterator[str]:
        with self._state.lock:
            return iter(list(self._state.sessions))

    def __len__(self) -> int:
        return len(self._state.sessions)

    def __repr__(self) -> str:
        return f"<{len(self)} sessions>"
