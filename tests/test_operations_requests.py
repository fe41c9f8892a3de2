"""How arguments are encoded, and which are rejected before any I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

import pytest
from clients import MODES, Call, Mode, client_of, run, sync_client_of
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from clerk_async import InvalidArgumentError, SessionStatus
from clerk_async.http.operations import check_session_id, list_request, path_segment
from clerk_async.testing import FakeClerk

if TYPE_CHECKING:
    from collections.abc import Callable

BAD_SEGMENTS: list[Any] = [
    "",
    ".",
    "..",
    "../users/user_1",
    "sess_1/../../users/user_1",
    "a/b",
    "a\\b",
    "..\\users",
    "a?b",
    "a#b",
    "a b",
    " sess_1",
    "sess_1\n",
    "sess_1\r\nX: y",
    "\t",
    "\x00",
    "a\x7fb",
    "a\x85b",
    "a\u2028b",
    "a\u00a0b",
    "a\u200bb",
    "a\ufeffb",
    "a\u202eb",
    "\ud800",
    None,
    1,
    1.5,
    True,
    b"sess_1",
    ["sess_1"],
]
BAD_TEXTS: list[Any] = ["", " ", "a\nb", "a\x00b", "\ud800", None, 5, b"x"]


@pytest.fixture(scope="module")
def service() -> Any:
    """Yield one service that must get no request."""
    with FakeClerk() as running:
        yield running


@pytest.mark.promise("checked-arguments")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", BAD_SEGMENTS, ids=ascii)
def test_a_bad_id_is_never_sent(mode: Mode, bad: Any, service: FakeClerk) -> None:
    """No operation sends an id that could leave its path segment."""
    refresh: dict[str, Any] = {
        "expired_token": "t",
        "refresh_token": "r",
        "request_origin": "https://a.example",
    }
    calls: list[Call] = [
        lambda client: client.get(bad),
        lambda client: client.revoke(bad),
        lambda client: client.create_token(bad),
        lambda client: client.create_token_from_template(bad, "t"),
        lambda client: client.create_token_from_template("sess_1", bad),
        lambda client: client.refresh(bad, **refresh),
    ]
    for call in calls:
        error = run(mode, service, call).error
        assert isinstance(error, InvalidArgumentError)
        assert isinstance(error, ValueError)
    with pytest.warns(DeprecationWarning, match="deprecated"):
        assert isinstance(
            run(mode, service, lambda client: client.verify(bad, "token")).error,
            InvalidArgumentError,
        )
    assert service.total_connections == 0


CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "limit": lambda client, bad: client.list(user_id="u", limit=bad),
    "offset": lambda client, bad: client.list(user_id="u", offset=bad),
    "expires": lambda client, bad: client.create_token("s", expires_in_seconds=bad),
    "template expires": lambda client, bad: client.create_token_from_template(
        "s", "t", expires_in_seconds=bad
    ),
    "user_id": lambda client, bad: client.create(bad),
    "token": lambda client, bad: client.verify("s", bad),
    "expired_token": lambda client, bad: client.refresh(
        "s", expired_token=bad, refresh_token="r", request_origin="o"
    ),
    "refresh_token": lambda client, bad: client.refresh(
        "s", expired_token="e", refresh_token=bad, request_origin="o"
    ),
    "request_origin": lambda client, bad: client.refresh(
        "s", expired_token="e", refresh_token="r", request_origin=bad
    ),
    "format": lambda client, bad: client.refresh(
        "s", expired_token="e", refresh_token="r", request_origin="o", format=bad
    ),
    "request_headers": lambda client, bad: client.refresh(
        "s", expired_token="e", refresh_token="r", request_origin="o", request_headers=bad
    ),
    "suffixed": lambda client, bad: client.refresh(
        "s", expired_token="e", refresh_token="r", request_origin="o", suffixed_cookies=bad
    ),
    "ip": lambda client, bad: client.refresh(
        "s", expired_token="e", refresh_token="r", request_origin="o", request_originating_ip=bad
    ),
    "filter": lambda client, bad: client.list(user_id=bad),
    "client filter": lambda client, bad: client.list(client_id=bad),
    "status filter": lambda client, bad: client.list(user_id="u", status=bad),
    "organization": lambda client, bad: client.create("u", active_organization_id=bad),
}
REFUSED: list[tuple[str, list[Any]]] = [
    ("limit", [0, 501, -1, 1.0, "10", True]),
    ("offset", [-1, 1.5, "0", False]),
    ("expires", [29, 315360001, 60.0, "60", True]),
    ("template expires", [29, 315360001, 60.0, True]),
    ("user_id", BAD_TEXTS),
    ("token", BAD_TEXTS),
    ("expired_token", BAD_TEXTS),
    ("refresh_token", BAD_TEXTS),
    ("request_origin", BAD_TEXTS),
    ("format", ["cookies", "Token", 1, ["token"], {}]),
    (
        "request_headers",
        [
            "x",
            1,
            ["a"],
            {1: "a"},
            {"a": 1},
            {"a": [1]},
            {"a": None},
            {"a": b"b"},
            {"a": "\ud800"},
            {"\ud800": "a"},
        ],
    ),
    ("ip", ["", 5, b"127.0.0.1"]),
    ("suffixed", ["true", "", 1, 0, 1.0]),
    ("filter", ["", 5, b"user_1", ["user_1"]]),
    ("client filter", ["", 5]),
    ("status filter", ["", 5, ["active"]]),
    ("organization", ["", 5]),
]


@pytest.mark.promise("checked-arguments")
@pytest.mark.filterwarnings("ignore:verify is deprecated:DeprecationWarning")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("name", "bad"), [(name, bad) for name, all_bad in REFUSED for bad in all_bad], ids=ascii
)
def test_a_bad_argument_is_never_sent(mode: Mode, name: str, bad: Any, service: FakeClerk) -> None:
    """Types and bounds are checked first; nothing is coerced; a secret isn't echoed."""
    error = run(mode, service, lambda client: CALLS[name](client, bad)).error
    assert isinstance(error, InvalidArgumentError)
    assert service.total_connections == 0


@pytest.mark.parametrize("mode", MODES)
def test_bounds_are_inclusive(mode: Mode, fake: FakeClerk) -> None:
    """The first and the last allowed values are sent."""
    session = fake.add_session(user_id="u").id
    calls: list[Call] = [
        lambda client: client.list(user_id="u", limit=1, offset=0),
        lambda client: client.list(user_id="u", limit=500),
        lambda client: client.create_token(session, expires_in_seconds=30),
        lambda client: client.create_token(session, expires_in_seconds=315360000),
    ]
    for call in calls:
        assert run(mode, fake, call).error is None


def test_iterate_checks_its_arguments_when_called(service: FakeClerk) -> None:
    """A bad page size or filter raises there, not at the first step."""
    for client in (client_of(service), sync_client_of(service)):
        for bad in (0, 501, True, "5"):
            with pytest.raises(InvalidArgumentError):
                client.iterate(user_id="u", page_size=bad)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError):
            client.iterate(user_id="")


@pytest.mark.promise("checked-arguments")
@given(st.text(max_size=40))
@example("..")
@example("%2e%2e")
@example("%41")
def test_an_id_stays_one_path_segment(text: str) -> None:
    """Whatever is accepted decodes to itself, even after yarl has processed it."""
    try:
        segment = check_session_id(text)
    except InvalidArgumentError:
        return
    assert unquote(segment) == text
    assert "/" not in segment
    url = URL(f"https://api.example/v1/sessions/{segment}/revoke", encoded=True)
    assert url.raw_path == f"/v1/sessions/{segment}/revoke"
    assert URL(str(url)).parts == ("/", "v1", "sessions", text, "revoke")


@given(st.text(min_size=1, max_size=40))
def test_a_query_value_stays_one_value(text: str) -> None:
    """The text of a filter can't add parameters."""
    try:
        request = list_request(client_id=None, user_id=text, status=None, limit=None, offset=None)
    except InvalidArgumentError:
        return
    assert parse_qsl(request.query, keep_blank_values=True) == [
        ("user_id", text),
        ("paginated", "true"),
    ]


def test_an_id_may_have_any_characters() -> None:
    """Percent signs and non-ASCII letters are encoded; a plain id is unchanged."""
    assert path_segment("name", "sess_2abcXYZ-._~") == "sess_2abcXYZ-._~"
    assert path_segment("name", "%2e%2e") == "%252e%252e"
    assert path_segment("name", "é:@") == "%C3%A9%3A%40"


def test_a_status_is_sent_as_its_string() -> None:
    """An enum member, its plain string and an unknown status are sent unchanged."""
    for status, sent in (
        (SessionStatus.ACTIVE, "active"),
        ("active", "active"),
        (SessionStatus("quantum"), "quantum"),
        ("pending", "pending"),
    ):
        query = list_request(
            client_id=None, user_id="u", status=status, limit=None, offset=None
        ).query
        assert query == f"user_id=u&status={sent}&paginated=true"
