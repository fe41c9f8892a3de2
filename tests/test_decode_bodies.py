"""Decoding: nothing is coerced, a bad field costs that field, a bad item costs that item."""

from __future__ import annotations

import json
import logging
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clerk_async import Cookies, ResponseDecodeError, Session, SessionStatus, Token
from clerk_async.http import decode
from clerk_async.http import tolerant as tolerant_module
from clerk_async.http.decode import decode_page, decode_refreshed, decode_session, decode_token
from clerk_async.http.shapes import Losses, UnreadableError
from clerk_async.http.tolerant import converter_for

if TYPE_CHECKING:
    from collections.abc import Callable

WHOLE: dict[str, Any] = {
    "object": "session",
    "id": "sess_1",
    "user_id": "user_1",
    "client_id": "client_1",
    "actor": {"sub": "user_2", "iss": "https://example.com"},
    "status": "active",
    "last_active_organization_id": "org_1",
    "last_active_at": 1_700_000_000_001,
    "latest_activity": {
        "object": "session_activity",
        "id": "sess_activity_1",
        "is_mobile": False,
        "device_type": "Macintosh",
        "browser_name": "Firefox",
        "browser_version": "117.0.0",
        "ip_address": "2001:db8::1",
        "city": "Basel",
        "country": "CH",
    },
    "expire_at": 1_800_000_000_000,
    "abandon_at": 1_900_000_000_000,
    "updated_at": 1_700_000_000_002,
    "created_at": 1_600_000_000_999,
    "tasks": [{"key": "choose-organization"}],
}
OPTIONAL = [name for name in WHOLE if name not in {"id", "status"}]
TIMES = [name for name in WHOLE if name.endswith("_at")]
WRONG: dict[str, list[Any]] = {
    "text": [1, 1.9, True, [], {}, ["x"], {"a": 1}],
    "time": ["1700000000000", 1.5, 1.7e12, True, False, [], {}, 10**15, -(10**15), 10**30, "now"],
    "actor": ["user_2", 1, True, [], [1]],
    "latest_activity": ["x", 1, True, [], [1]],
    "tasks": ["x", 1, True, {}, {"key": "k"}, [1], [None], [{}], [{"key": None}], [{"key": 1}]],
}


def body_of(value: Any) -> bytes:
    """Encode a value as a body."""
    return json.dumps(value).encode()


def with_field(name: str, value: Any) -> bytes:
    """Make a session in which one field has another value."""
    return body_of({**WHOLE, name: value})


def test_a_complete_session_is_read_field_by_field() -> None:
    """Every field of the contract is read, and times are aware and exact."""
    session = decode_session(body_of(WHOLE))
    for name, value in WHOLE.items():
        if name in TIMES:
            expected = datetime.fromtimestamp(value // 1000, UTC).replace(
                microsecond=value % 1000 * 1000
            )
            assert getattr(session, name) == expected
        elif name == "latest_activity":
            assert session.latest_activity is not None
            for part, fact in value.items():
                assert getattr(session.latest_activity, part) == fact
        elif name == "tasks":
            assert [task.key for task in session.tasks or ()] == ["choose-organization"]
        else:
            assert getattr(session, name) == value


@pytest.mark.promise("tolerant-decoding")
@pytest.mark.parametrize("name", OPTIONAL)
@pytest.mark.parametrize("is_missing", [False, True])
def test_null_or_missing_costs_only_that_field(name: str, is_missing: bool) -> None:
    """The service has sent null where the contract requires a value: the field becomes None."""
    value = {key: part for key, part in WHOLE.items() if key != name}
    if not is_missing:
        value[name] = None
    session = decode_session(body_of(value))
    assert getattr(session, name) is None
    whole = decode_session(body_of(WHOLE))
    for other in WHOLE:
        if other != name:
            assert getattr(session, other) == getattr(whole, other)


@pytest.mark.promise("tolerant-decoding")
@pytest.mark.parametrize("name", OPTIONAL)
def test_nothing_is_coerced(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """A wrong type costs the field, with a log line; it never becomes "None", 1 or "12"."""
    kind = "time" if name in TIMES else name if name in WRONG else "text"
    for wrong in WRONG[kind]:
        caplog.clear()
        session = decode_session(with_field(name, wrong))
        assert getattr(session, name) is None, wrong
        assert session.id == "sess_1"
        assert [record.levelname for record in caplog.records] == ["WARNING"], wrong
        assert name in caplog.text


@pytest.mark.parametrize("name", ["object", "id", "device_type", "city", "is_mobile"])
@pytest.mark.parametrize("wrong", [1, 0, [], {}, "yes"])
def test_a_bad_activity_field_costs_only_that_field(name: str, wrong: Any) -> None:
    """The same rule holds within the latest activity."""
    if isinstance(wrong, str) and name != "is_mobile":
        return
    activity = {**WHOLE["latest_activity"], name: wrong}
    session = decode_session(with_field("latest_activity", activity))
    assert session.latest_activity is not None
    assert getattr(session.latest_activity, name) is None
    assert session.latest_activity.country == "CH"


@pytest.mark.parametrize("name", ["id", "status"])
@pytest.mark.parametrize("wrong", [None, "", 1, True, [], {}, ...])
def test_a_session_needs_an_id_and_a_status(name: str, wrong: Any) -> None:
    """Only these two are required; the error has the path, and the id if there is one."""
    value = {key: part for key, part in WHOLE.items() if key != name or wrong is not ...}
    if wrong is not ...:
        value[name] = wrong
    if name == "id" and wrong == "":
        return  # an empty id is a string; see the next test
    with pytest.raises(ResponseDecodeError) as caught:
        decode_session(body_of(value))
    assert caught.value.json_path == f"$.{name}"
    assert caught.value.session_id == (None if name == "id" else "sess_1")


def test_an_empty_id_is_rejected() -> None:
    """Such a session could not be requested again."""
    with pytest.raises(ResponseDecodeError) as caught:
        decode_session(with_field("id", ""))
    assert caught.value.json_path == "$.id"


def test_unknown_statuses_and_fields_are_accepted() -> None:
    """Enums and objects grow without notice."""
    session = decode_session(body_of({**WHOLE, "status": "quantum", "new": {"deep": [1]}}))
    assert session.status == "quantum"
    assert isinstance(session.status, SessionStatus)
    assert session.user_id == "user_1"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"OK",
        b"<html>",
        b"{",
        b'{"id": "x"',
        b"\xff",
        b'{"id": NaN}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"{}{}",
        b'{"id": "\xff"}',
    ],
)
def test_invalid_json_is_reported_briefly(body: bytes) -> None:
    """Each decoder says what is wrong with the body, without the exception of the JSON decoder."""
    decoders: list[Callable[[bytes], Any]] = [
        decode_session,
        decode_page,
        decode_token,
        decode_refreshed,
    ]
    for decoder in decoders:
        with pytest.raises(ResponseDecodeError) as caught:
            decoder(body)
        assert caught.value.json_path == "$"
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
        assert len(str(caught.value)) < 300


def test_nan_and_infinity_are_not_times() -> None:
    """JSON has no NaN; a number too large for a float costs at most its field."""
    for text in ("1e400", "-1e400", "1" * 400):
        body = json.dumps({**WHOLE, "created_at": 123456}).replace("123456", text).encode()
        try:
            session = decode_session(body)
        except ResponseDecodeError as error:
            assert error.json_path == "$"  # noqa: PT017
        else:
            assert session.created_at is None


@pytest.mark.promise("both-lists")
def test_both_shapes_of_a_list_are_read() -> None:
    """With and without paginated=true; the plain array has no total."""
    page = decode_page(body_of({"data": [WHOLE, WHOLE], "total_count": 7}))
    assert (len(page), page.total_count, page.unreadable) == (2, 7, ())
    plain = decode_page(body_of([WHOLE, WHOLE]))
    assert (len(plain), plain.total_count, plain.unreadable) == (2, None, ())
    assert plain.data == page.data
    assert len(decode_page(body_of({"data": [], "total_count": 0}))) == 0
    assert len(decode_page(b"[]")) == 0


@pytest.mark.promise("useless-bodies")
@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({}, "$.data"),
        ({"total_count": 3}, "$.data"),
        ({"data": None, "total_count": 3}, "$.data"),
        ({"data": {}, "total_count": 3}, "$.data"),
        ({"data": "x"}, "$.data"),
        (None, "$"),
        (5, "$"),
        ("data", "$"),
        (True, "$"),
    ],
)
def test_a_page_without_a_list_is_an_error(value: Any, path: str) -> None:
    """It is never an empty list: a caller who revokes what is listed must not think it is done."""
    with pytest.raises(ResponseDecodeError) as caught:
        decode_page(body_of(value))
    assert caught.value.json_path == path


@pytest.mark.parametrize("total", [None, "7", 7.0, True, -1, [], ...])
def test_a_bad_total_costs_only_the_total(total: Any) -> None:
    """The sessions are still there."""
    value: dict[str, Any] = {"data": [WHOLE]}
    if total is not ...:
        value["total_count"] = total
    page = decode_page(body_of(value))
    assert page.total_count is None
    assert len(page) == 1


@pytest.mark.promise("tolerant-decoding")
@pytest.mark.parametrize("wrap", [False, True])
def test_one_bad_item_costs_only_that_item(wrap: bool) -> None:
    """Of 500 items the other 499 remain; the bad one is reported with its id."""
    rows: list[Any] = [{**WHOLE, "id": f"sess_{number}"} for number in range(500)]
    rows[3] = {**WHOLE, "id": "sess_3", "status": None}
    rows[7] = None
    rows[9] = {**WHOLE, "id": 9}
    page = decode_page(body_of({"data": rows, "total_count": 500} if wrap else rows))
    assert len(page) == 497
    assert [(item.index, item.session_id) for item in page.unreadable] == [
        (3, "sess_3"),
        (7, None),
        (9, None),
    ]
    base = "$.data" if wrap else "$"
    assert [item.error.json_path for item in page.unreadable] == [
        f"{base}[3].status",
        f"{base}[7]",
        f"{base}[9].id",
    ]
    assert all(isinstance(item.error, ResponseDecodeError) for item in page.unreadable)


@pytest.mark.parametrize("value", [{}, {"object": "token"}, {"jwt": None}, {"jwt": 1}, [], None])
def test_a_token_needs_its_jwt(value: Any) -> None:
    """A body without a jwt is not a token."""
    for decoder in (decode_token, decode_refreshed):
        with pytest.raises(ResponseDecodeError) as caught:
            decoder(body_of(value))
        assert caught.value.json_path in {"$", "$.jwt"}


def test_a_refresh_returns_what_its_object_field_says() -> None:
    """`object` distinguishes token and cookies; without it, the fields that exist do."""
    cookies = {"object": "cookies", "cookies": ["a=1", "b=2"]}
    assert decode_refreshed(body_of(cookies)) == Cookies(cookies=("a=1", "b=2"))
    assert decode_refreshed(b'{"object": "token", "jwt": "x"}') == Token(jwt="x")
    assert isinstance(decode_refreshed(b'{"cookies": []}'), Cookies)
    assert isinstance(decode_refreshed(b'{"jwt": "x", "object": null}'), Token)
    for bad in ({"object": "cookies"}, {**cookies, "cookies": [1]}, {**cookies, "cookies": "a=1"}):
        with pytest.raises(ResponseDecodeError) as caught:
            decode_refreshed(body_of(bad))
        assert caught.value.json_path.startswith("$.cookies")


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.integers(-(10**17), 10**17)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def odd(changes: dict[str, Any], drops: set[str]) -> Any:
    """Make a session that deviates slightly from the contract."""
    return {name: value for name, value in {**WHOLE, **changes}.items() if name not in drops}


ODD_SESSION: st.SearchStrategy[Any] = st.builds(
    odd,
    st.dictionaries(st.sampled_from([*WHOLE, "new_field"]), JSON, max_size=3),
    st.sets(st.sampled_from(list(WHOLE)), max_size=2),
)


def tolerant(body: bytes) -> Session | str:
    """Read a session with the tolerant decoder only."""
    value = decode._load(body)
    try:
        session: Session = converter_for(Losses()).structure(value, Session)
    except UnreadableError as error:
        return f"${error.where}"
    return session


def test_no_thread_uses_a_decoder_that_another_has_not_finished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The threads of a web app share one webhook receiver."""
    losses, read = Losses(), list[Session]()
    make_hook = tolerant_module._object_hook

    def structure() -> None:
        read.append(converter_for(losses).structure(WHOLE, Session))

    def make_slowly(*arguments: Any) -> Any:
        monkeypatch.undo()  # the other thread makes its own at once
        other = threading.Thread(target=structure)
        other.start()
        other.join()
        return make_hook(*arguments)

    monkeypatch.setattr(tolerant_module, "_object_hook", make_slowly)
    structure()
    assert [session.id for session in read] == ["sess_1", "sess_1"]


@settings(max_examples=300)
@given(ODD_SESSION | JSON)
def test_the_fast_and_the_tolerant_decoder_agree(value: Any) -> None:
    """The tolerant decoder returns the same value for everything that the fast one reads."""
    logging.getLogger("clerk_async").setLevel(logging.ERROR)
    body = body_of(value)
    try:
        usual: Session | str = decode_session(body)
    except ResponseDecodeError as error:
        usual = error.json_path
    finally:
        logging.getLogger("clerk_async").setLevel(logging.NOTSET)
    other = tolerant(body)
    assert usual == other
    if isinstance(usual, Session) and isinstance(other, Session):
        for name in WHOLE:
            one, two = getattr(usual, name), getattr(other, name)
            assert type(one) is type(two), name
            assert one == two, name


@settings(max_examples=100)
@given(st.lists(ODD_SESSION | JSON, max_size=4), st.integers(-1, 5) | JSON)
def test_no_list_loses_a_row(rows: list[Any], total: Any) -> None:
    """In either shape, each row is a session or an unreadable item, never nothing."""
    logging.getLogger("clerk_async").setLevel(logging.ERROR)
    try:
        for value in (rows, {"data": rows, "total_count": total}):
            page = decode_page(body_of(value))
            assert len(page.data) + len(page.unreadable) == len(rows)
    finally:
        logging.getLogger("clerk_async").setLevel(logging.NOTSET)


def test_the_usual_body_uses_the_fast_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that matches the contract isn't read twice."""

    def fail(_: bytes) -> Any:
        raise AssertionError("the tolerant way was taken")

    monkeypatch.setattr(decode, "_load", fail)
    assert decode_session(body_of(WHOLE)).id == "sess_1"
    bare = {**WHOLE, "actor": None, "latest_activity": None, "tasks": None, "new": 1}
    assert decode_session(body_of(bare)).id == "sess_1"
    assert len(decode_page(body_of({"data": [WHOLE, bare], "total_count": 2}))) == 2
