"""What the service's answers become: frozen values, decoded in `clerk_async.http.decode`.

Times are aware UTC datetimes, exact to the millisecond. A `Session` keeps them as the integers that
came over the wire and makes a datetime when one is looked at, so a long list costs nothing extra.
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
    """The status of a session; open, as the service adds values without notice.

    An unknown status is a member of its own that reads and compares as its string. Every member
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
        """Whether such a session can never become active again."""
        return self.value in _TERMINAL


_LIVE = frozenset({"active", "pending"})
_TERMINAL = frozenset({"abandoned", "ended", "expired", "removed", "replaced", "revoked"})


def datetime_of(milliseconds: int | None) -> datetime | None:
    """Make a datetime of Unix milliseconds, without a float in between."""
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
    """The device and place of a session's latest activity; None where the service said nothing."""

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
    """Something the user must still do before a pending session becomes active."""

    key: str


@attrs.frozen(init=False, repr=False)
class Session(JsonValue):
    """A sign-in session.

    Only `id` and `status` are always there: every other field is None where the service sent null,
    nothing, or something of another type. Times may be given as aware datetimes or as Unix
    milliseconds, and are read as aware UTC datetimes.

    Attributes:
        id: Such as `sess_…`.
        status: The status; open, see `SessionStatus`.
        user_id: Whose session it is.
        client_id: The client (browser or device) that it belongs to.
        actor: Who impersonates the user, if anybody.
        last_active_organization_id: The organization that was active last.
        latest_activity: Device and place of the latest activity.
        tasks: What is left to do before a pending session becomes active.
        object: `session`.
    """

    id: str
    status: SessionStatus
    user_id: str | None
    client_id: str | None
    actor: Mapping[str, Any] | None
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
        """When it expires."""
        return datetime_of(self._expire_at)

    @property
    def abandon_at(self) -> datetime | None:
        """When it counts as abandoned."""
        return datetime_of(self._abandon_at)

    @property
    def updated_at(self) -> datetime | None:
        """When it was last changed."""
        return datetime_of(self._updated_at)

    @property
    def created_at(self) -> datetime | None:
        """When it was created."""
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
    """An entry of a list that is no session.

    Attributes:
        index: Its place in the list, from 0.
        session_id: Its id, if that could be read.
        error: What is wrong with it, and where.
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
        data: The sessions that could be read.
        total_count: How many sessions match on all pages; None where the service didn't say.
        unreadable: The entries of this page that could not be read.
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
        jwt: The JSON web token; its repr hides it.
        object: `token`.
    """

    jwt: str = attrs.field(repr=lambda _: "'[hidden]'")
    object: str | None = "token"


@attrs.frozen(kw_only=True)
class Cookies:
    """The cookies of a refreshed session.

    Attributes:
        cookies: Set-Cookie lines, to be sent to the browser as they are; their repr is hidden.
        object: `cookies`.
    """

    cookies: tuple[str, ...] = attrs.field(repr=lambda _: "'[hidden]'")
    object: str | None = "cookies"


@attrs.frozen(kw_only=True)
class ApiResponse(Generic[T]):
    """An answer with what surrounds it, as `with_http_info` gives it.

    Attributes:
        data: What the plain method gives back.
        status: The HTTP status.
        headers: The headers, by names in any case; Set-Cookie is not shown in their repr.
        attempts: How many requests it took, the first included.
        trace_id: What Clerk's support asks for, from the `cf-ray` header; None without one.
    """

    data: T
    status: int
    headers: Mapping[str, str]
    attempts: int
    trace_id: str | None = None
