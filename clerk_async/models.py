"""The values that operations return: frozen classes, decoded in `clerk_async.http.decode`.

Times are aware UTC datetimes, exact to the millisecond. A `Session` stores them as the integers
from the response and builds a datetime when you read one, so a long list costs nothing extra.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Generic, Self, TypeVar, overload

import attrs

from clerk_async.errors import InvalidArgumentError, ResponseDecodeError
from clerk_async.redaction import JsonValue, json_of, redact

T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
FIRST_MILLISECOND = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MILLISECOND
LAST_MILLISECOND = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MILLISECOND


class SessionStatus(StrEnum):
    """The status of a session; an open enum, because the service adds values without notice.

    An unknown status becomes a new member that reads and compares as its string. Every member
    equals its plain string: `session.status == "active"`.
    """

    ABANDONED = "abandoned"
    ACTIVE = "active"
    ENDED = "ended"
    EXPIRED = "expired"
    PENDING = "pending"
    REMOVED = "removed"
    REPLACED = "replaced"
    REVOKED = "revoked"

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str) or not value:
            return None
        member = str.__new__(cls, value)
        member._name_ = value.upper()
        member._value_ = value
        return member

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return (SessionStatus, (self.value,))

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    @property
    def is_live(self) -> bool:
        """Whether the user is still signed in, or about to be: active or pending."""
        return self.value in _LIVE

    @property
    def is_terminal(self) -> bool:
        """Whether a session with this status can never become active again."""
        return self.value in _TERMINAL


_LIVE = frozenset({"active", "pending"})
_TERMINAL = frozenset({"abandoned", "ended", "expired", "removed", "replaced", "revoked"})


def datetime_of(milliseconds: int | None) -> datetime | None:
    """Convert Unix milliseconds to a datetime, without a float in between."""
    return None if milliseconds is None else _EPOCH + timedelta(0, 0, 0, milliseconds)


def _milliseconds(value: datetime | int | None) -> int | None:
    if value is None:
        return None
    if type(value) is int:
        if FIRST_MILLISECOND <= value <= LAST_MILLISECOND:
            return value
        raise InvalidArgumentError("a time must lie within the years 1 to 9999")
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise InvalidArgumentError("a time must be an aware datetime or Unix milliseconds")
    return (value - _EPOCH) // _MILLISECOND


@attrs.frozen(kw_only=True)
class SessionActivity(JsonValue):
    """The device and place of a session's latest activity; fields that weren't sent are None."""

    id: str | None = None
    is_mobile: bool | None = None
    device_type: str | None = None
    browser_name: str | None = None
    browser_version: str | None = None
    ip_address: str | None = None
    city: str | None = None
    country: str | None = None
    object: str | None = None


@attrs.frozen(kw_only=True)
class SessionTask(JsonValue):
    """A step that the user must still complete before a pending session becomes active."""

    key: str


@attrs.frozen(init=False, repr=False)
class Session(JsonValue):
    """A sign-in session.

    Only `id` and `status` are always set: any other field is None if the service sent null, left it
    out, or sent a value of another type. The constructor takes times as aware datetimes or as Unix
    milliseconds; the properties return aware UTC datetimes.

    Attributes:
        id: The session's id, such as `sess_…`.
        status: The status; an open enum, see `SessionStatus`.
        user_id: The user who owns the session.
        client_id: The client (browser or device) that the session belongs to.
        actor: The impersonator of the user, or None.
        last_active_organization_id: The organization that was active last.
        latest_activity: The device and place of the latest activity.
        tasks: The steps left before a pending session becomes active.
        object: `session`.
    """

    id: str
    status: SessionStatus
    user_id: str | None
    client_id: str | None
    actor: Mapping[str, Any] | None = attrs.field(hash=False)
    last_active_organization_id: str | None
    latest_activity: SessionActivity | None
    tasks: tuple[SessionTask, ...] | None
    object: str | None
    _last_active_at: int | None = attrs.field(alias="last_active_at")
    _expire_at: int | None = attrs.field(alias="expire_at")
    _abandon_at: int | None = attrs.field(alias="abandon_at")
    _updated_at: int | None = attrs.field(alias="updated_at")
    _created_at: int | None = attrs.field(alias="created_at")

    def __init__(
        self,
        *,
        id: str,  # noqa: A002 - the service's own name
        status: SessionStatus | str,
        user_id: str | None = None,
        client_id: str | None = None,
        actor: Mapping[str, Any] | None = None,
        last_active_organization_id: str | None = None,
        latest_activity: SessionActivity | None = None,
        tasks: tuple[SessionTask, ...] | None = None,
        object: str | None = None,  # noqa: A002 - likewise
        last_active_at: datetime | int | None = None,
        expire_at: datetime | int | None = None,
        abandon_at: datetime | int | None = None,
        updated_at: datetime | int | None = None,
        created_at: datetime | int | None = None,
    ) -> None:
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType] - attrs makes it
            id,
            SessionStatus(status),
            user_id,
            client_id,
            actor,
            last_active_organization_id,
            latest_activity,
            tasks,
            object,
            _milliseconds(last_active_at),
            _milliseconds(expire_at),
            _milliseconds(abandon_at),
            _milliseconds(updated_at),
            _milliseconds(created_at),
        )

    @property
    def last_active_at(self) -> datetime | None:
        """When the session was last active."""
        return datetime_of(self._last_active_at)

    @property
    def expire_at(self) -> datetime | None:
        """When the session expires."""
        return datetime_of(self._expire_at)

    @property
    def abandon_at(self) -> datetime | None:
        """When the session counts as abandoned."""
        return datetime_of(self._abandon_at)

    @property
    def updated_at(self) -> datetime | None:
        """When the session was last changed."""
        return datetime_of(self._updated_at)

    @property
    def created_at(self) -> datetime | None:
        """When the session was created."""
        return datetime_of(self._created_at)

    def __repr__(self) -> str:
        facts = [f"id={self.id!r}", f"status={self.status.value!r}"]
        for name in SESSION_FIELDS:
            value = getattr(self, name)
            if name not in {"id", "status", "object"} and value is not None:
                facts.append(f"{name}={value!r}")
        return redact(f"Session({', '.join(facts)})")


SESSION_FIELDS = tuple(field.name.lstrip("_") for field in attrs.fields(Session))


@attrs.frozen(kw_only=True)
class UnreadableItem:
    """A list entry that can't be read as a session.

    Attributes:
        index: The entry's position in the list, from 0.
        session_id: The entry's id, if it can be read.
        error: What is wrong with the entry, and where.
    """

    index: int
    session_id: str | None = attrs.field(repr=lambda value: repr(value and redact(value)))
    error: ResponseDecodeError

    @property
    def id(self) -> str | None:
        """The same as `session_id`."""
        return self.session_id


@attrs.frozen(kw_only=True)
class SessionPage(Sequence[Session], JsonValue):
    """One page of sessions, newest first; a sequence of them.

    Attributes:
        data: The sessions on this page.
        total_count: How many sessions match on all pages; None if the service didn't say.
        unreadable: The entries of this page that could not be read as sessions.
    """

    data: tuple[Session, ...]
    total_count: int | None = None
    unreadable: tuple[UnreadableItem, ...] = ()

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[Session]:
        return iter(self.data)

    @overload
    def __getitem__(self, index: int) -> Session: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Session, ...]: ...
    def __getitem__(self, index: int | slice) -> Session | tuple[Session, ...]:
        return self.data[index]

    def to_dict(self) -> dict[str, Any]:
        """Return the page as the service writes it: `data` and `total_count`, ready for JSON."""
        return {"data": json_of(self.data), "total_count": self.total_count}

    @classmethod
    def _json_types(cls) -> dict[str, Any]:
        return {"data": tuple[Session, ...], "total_count": int | None}

    def _repr_html_(self) -> str:
        """Show the page as a table in a notebook."""
        columns = ("id", "status", "user_id", "last_active_at", "created_at")
        head = "".join(f"<th>{column}</th>" for column in columns)
        rows = "".join(
            "<tr>" + "".join(f"<td>{_cell(getattr(each, name))}</td>" for name in columns) + "</tr>"
            for each in self.data
        )
        total = "" if self.total_count is None else f" of {self.total_count:,}"
        return (
            f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
            f"<p>{len(self.data):,}{total} sessions</p>"
        )


def _cell(value: object) -> str:
    text = f"{value:%Y-%m-%d %H:%M:%S} UTC" if isinstance(value, datetime) else str(value or "-")
    return html.escape(redact(text))


@attrs.frozen(kw_only=True)
class Token:
    """A session token.

    Attributes:
        jwt: The JSON Web Token; the repr hides it.
        object: `token`.
    """

    jwt: str = attrs.field(repr=lambda _: "'[hidden]'")
    object: str | None = "token"


@attrs.frozen(kw_only=True)
class Cookies:
    """The cookies of a refreshed session.

    Attributes:
        cookies: Set-Cookie lines to send to the browser unchanged; the repr hides them.
        object: `cookies`.
    """

    cookies: tuple[str, ...] = attrs.field(repr=lambda _: "'[hidden]'")
    object: str | None = "cookies"


@attrs.frozen(kw_only=True)
class ApiResponse(Generic[T]):
    """A value with the HTTP response that it came in, as the `with_http_info` methods return it.

    Attributes:
        data: The value that the plain method returns.
        status: The HTTP status.
        headers: The response headers, case-insensitive by name; the repr hides Set-Cookie.
        attempts: How many requests the call took, including the first.
        trace_id: The id that Clerk's support asks for, from the `cf-ray` header; None without it.
    """

    data: T
    status: int
    headers: Mapping[str, str] = attrs.field(hash=False)
    attempts: int
    trace_id: str | None = None
