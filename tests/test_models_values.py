"""The values of responses: frozen, comparable, and safe to print, copy and pickle."""

from __future__ import annotations

import copy
import json
import pickle
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clerk_async import (
    ApiResponse,
    Cookies,
    ErrorDetail,
    InvalidArgumentError,
    RevocationProgress,
    Session,
    SessionActivity,
    SessionPage,
    SessionStatus,
    SessionTask,
    Token,
    WebhookEvent,
)
from clerk_async.models import FIRST_MILLISECOND, LAST_MILLISECOND, datetime_of
from clerk_async.redaction import ResponseHeaders

SESSION = Session(
    id="sess_1",
    status=SessionStatus.ACTIVE,
    user_id="user_1",
    created_at=1_700_000_000_123,
    actor={"sub": "user_9"},
    latest_activity=SessionActivity(id="sess_activity_1", city="Basel"),
    tasks=(SessionTask(key="choose-organization"),),
)
PAGE = SessionPage(data=(SESSION,), total_count=1)
VALUES: list[Any] = [
    SESSION,
    PAGE,
    Token(jwt="eyJ.planted.jwt"),
    Cookies(cookies=("__session=planted; Path=/",)),
    SESSION.latest_activity,
    SessionTask(key="k"),
    ApiResponse(data=SESSION, status=200, headers=ResponseHeaders([("A", "b")]), attempts=1),
]


@pytest.mark.parametrize("status", list(SessionStatus))
def test_a_known_status_equals_its_string(status: SessionStatus) -> None:
    """A member compares, hashes, prints and serializes as its plain string."""
    assert isinstance(status, str)
    assert status == status.value
    assert {status: 1}[status.value] == 1  # type: ignore[index]
    assert str(status) == f"{status}" == status.value
    assert json.dumps(status) == f'"{status.value}"'
    assert SessionStatus(status.value) is status


@pytest.mark.promise("tolerant-decoding")
def test_an_unknown_status_stays_readable() -> None:
    """A status that the service adds later is not an error, and differs from all others."""
    new = SessionStatus("quantum")
    assert new == "quantum"
    assert new.value == str(new) == "quantum"
    assert new.name == "QUANTUM"
    assert "quantum" in repr(new)
    assert new == SessionStatus("quantum")
    assert hash(new) == hash("quantum")
    assert new != SessionStatus("other")
    assert len(list(SessionStatus)) == 8, "an unknown one doesn't join the list"
    assert not new.is_live
    assert not new.is_terminal


def test_each_known_status_is_either_live_or_terminal() -> None:
    """No status is both or neither."""
    assert {status for status in SessionStatus if status.is_live} == {"active", "pending"}
    assert all(status.is_live is not status.is_terminal for status in SessionStatus)


@pytest.mark.parametrize("bad", ["", None, 1, b"active"])
def test_a_status_must_be_a_string(bad: Any) -> None:
    """No other value can be a status."""
    with pytest.raises(ValueError, match="not a valid"):
        SessionStatus(bad)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value",
    [*VALUES, *SessionStatus, SessionStatus("quantum")],
    ids=lambda value: type(value).__name__,
)
def test_values_can_be_pickled_and_copied(value: Any, protocol: int) -> None:
    """Every value crosses a process boundary, and is equal afterwards."""
    again = pickle.loads(pickle.dumps(value, protocol))  # noqa: S301
    assert again == value
    assert copy.copy(value) == value
    assert copy.deepcopy(value) == value


@pytest.mark.parametrize(
    "value",
    [
        *VALUES,
        ErrorDetail("m", "l", "c", {"param_name": "id"}),
        RevocationProgress(
            done=1,
            total=2,
            counts={},
            resumed=0,
            rate=1.0,
            eta=None,
            pause=None,
            elapsed=1.0,
            users=1,
        ),
        WebhookEvent(
            type="session.ended",
            time=datetime.now(UTC),
            id="msg_1",
            instance_id=None,
            data={"id": "sess_1"},
            session=SESSION,
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_can_be_in_a_set(value: Any) -> None:
    """Even one that holds a mapping, such as the session of an impersonator."""
    assert len({value, copy.copy(value)}) == 1


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_are_frozen(value: Any) -> None:
    """Nobody can change a value that others use."""
    name = attrs.fields(value.__class__)[0].name
    with pytest.raises(AttributeError):
        setattr(value, name, None)
    with pytest.raises(AttributeError):
        value.something_new = 1


def test_a_page_is_a_sequence() -> None:
    """A page has a length, and can be indexed, sliced and iterated."""
    assert len(PAGE) == 1
    assert PAGE[0] is SESSION
    assert PAGE[-1] is SESSION
    assert PAGE[:1] == (SESSION,)
    assert list(PAGE) == [SESSION]
    assert SESSION in PAGE
    assert not SessionPage(data=())


def test_reprs_show_facts_and_hide_secrets() -> None:
    """A session shows its fields that are set; tokens and cookies show nothing secret."""
    shown = repr(SESSION)
    for fact in ("sess_1", "active", "user_1", "2023", "Basel"):
        assert fact in shown
    assert "client_id" not in shown, "None isn't shown"
    for value in VALUES[2:4]:
        assert "planted" not in repr(value)
        assert "planted" not in str(value)
        assert "hidden" in repr(value)
    headers = ResponseHeaders([("Set-Cookie", "__client=planted"), ("X", "1")])
    assert "planted" not in repr(headers)
    assert headers["set-cookie"] == "__client=planted"


def test_headers_are_looked_up_in_any_case() -> None:
    """A lookup returns the first of several values; all of them are available."""
    headers = ResponseHeaders([("A", "1"), ("a", "2"), ("B", "3")])
    assert headers["A"] == headers["a"] == "1"
    assert headers.get_all("a") == ("1", "2")
    assert headers.get("c") is None
    assert "b" in headers
    assert len(headers) == 2
    with pytest.raises(KeyError):
        headers["c"]


@given(st.integers(FIRST_MILLISECOND, LAST_MILLISECOND))
def test_times_are_exact_to_the_millisecond(milliseconds: int) -> None:
    """No float loses a millisecond, in either direction."""
    moment = datetime_of(milliseconds)
    assert moment is not None
    assert moment.tzinfo is UTC
    assert (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1) == milliseconds
    assert moment.microsecond % 1000 == 0
    session = Session(id="s", status=SessionStatus.ACTIVE, created_at=moment)
    assert session == Session(id="s", status=SessionStatus.ACTIVE, created_at=milliseconds)
    assert session.created_at == moment


def test_a_time_needs_a_time_zone() -> None:
    """Any zone works.

    A naive datetime means a different moment on each machine, so it is rejected, like 10**20.
    """
    east = datetime(2026, 1, 1, 5, tzinfo=timezone(timedelta(hours=5)))
    session = Session(id="s", status=SessionStatus.ACTIVE, expire_at=east)
    assert session.expire_at == datetime(2026, 1, 1, tzinfo=UTC)
    for bad in (datetime(2026, 1, 1), 1.5, "2026", True, 10**20, -(10**20)):  # noqa: DTZ001
        with pytest.raises(InvalidArgumentError):
            Session(id="s", status=SessionStatus.ACTIVE, expire_at=bad)  # type: ignore[arg-type]
