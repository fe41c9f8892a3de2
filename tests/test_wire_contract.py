"""Requests equal the contract: method, path, query, headers, body, and nothing more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
from clients import MODES, ORIGIN, Call, Mode, client_of, logged, run

import clerk_async
from clerk_async import Cookies, GoneError, NotFoundError, Session, SessionStatus, Token
from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clerk_async import UnreadableItem

Sent = tuple[str, str, str, Any]
ID = "sess_of_contract"
VERSION = "2026-05-12"


@pytest.fixture(scope="module")
def shared() -> Iterator[FakeClerk]:
    """Yield one service for the whole table."""
    with FakeClerk() as running:
        running.add_session(session_id=ID, user_id="user_1", client_id="client_1")
        running.add_session(session_id="é:@%41", user_id="user_1")
        running.add_template("é t".replace(" ", "-"), {"a": 1})
        yield running


@pytest.fixture
def fake(shared: FakeClerk) -> Iterator[FakeClerk]:
    """Yield the shared service, reset after the previous row."""
    shared.clear_faults()
    shared.requests.clear()
    shared.sessions[ID].status = "active"
    yield shared
    shared.clear_faults()


TOKENS = {"expired_token": "e.e.e", "refresh_token": "rt", "request_origin": ORIGIN}
CONTRACT: dict[str, tuple[Call, Sent]] = {
    "list, bare": (
        lambda client: client.list(user_id="user_1"),
        ("GET", "/sessions", "user_id=user_1&paginated=true", None),
    ),
    "list, all": (
        lambda client: client.list(
            client_id="client_1",
            user_id="user_1",
            status=SessionStatus.ACTIVE,
            limit=500,
            offset=7,
        ),
        (
            "GET",
            "/sessions",
            "client_id=client_1&user_id=user_1&status=active&paginated=true&limit=500&offset=7",
            None,
        ),
    ),
    "list, none given": (
        lambda client: client.list(client_id=None, user_id="u", status=None, offset=0),
        ("GET", "/sessions", "user_id=u&paginated=true&offset=0", None),
    ),
    "list, odd text": (
        lambda client: client.list(user_id="a&b=c+d é%/?#"),
        (
            "GET",
            "/sessions",
            "user_id=a%26b%3Dc%2Bd%20%C3%A9%25%2F%3F%23&paginated=true",
            None,
        ),
    ),
    "create": (
        lambda client: client.create("user_1"),
        ("POST", "/sessions", "", {"user_id": "user_1"}),
    ),
    "create, all": (
        lambda client: client.create("user_1", active_organization_id="org_1"),
        ("POST", "/sessions", "", {"user_id": "user_1", "active_organization_id": "org_1"}),
    ),
    "get": (lambda client: client.get(ID), ("GET", f"/sessions/{ID}", "", None)),
    "get, odd id": (
        lambda client: client.get("é:@%41"),
        ("GET", "/sessions/%C3%A9%3A%40%2541", "", None),
    ),
    "revoke": (lambda client: client.revoke(ID), ("POST", f"/sessions/{ID}/revoke", "", None)),
    "verify": (
        lambda client: client.verify(ID, "t.t.t"),
        ("POST", f"/sessions/{ID}/verify", "", {"token": "t.t.t"}),
    ),
    "create_token": (
        lambda client: client.create_token(ID),
        ("POST", f"/sessions/{ID}/tokens", "", None),
    ),
    "create_token, all": (
        lambda client: client.create_token(ID, expires_in_seconds=90),
        ("POST", f"/sessions/{ID}/tokens", "", {"expires_in_seconds": 90}),
    ),
    "template": (
        lambda client: client.create_token_from_template(ID, "custom_hasura"),
        ("POST", f"/sessions/{ID}/tokens/custom_hasura", "", None),
    ),
    "template, all": (
        lambda client: client.create_token_from_template(ID, "é-t", expires_in_seconds=30),
        ("POST", f"/sessions/{ID}/tokens/%C3%A9-t", "", {"expires_in_seconds": 30}),
    ),
    "refresh": (
        lambda client: client.refresh(ID, **TOKENS),
        ("POST", f"/sessions/{ID}/refresh", "", {**TOKENS, "format": "token"}),
    ),
    "refresh, no format": (
        lambda client: client.refresh(ID, **TOKENS, format=None),
        ("POST", f"/sessions/{ID}/refresh", "", TOKENS),
    ),
    "refresh, plain cookies": (
        lambda client: client.refresh(ID, **TOKENS, suffixed_cookies=False),
        (
            "POST",
            f"/sessions/{ID}/refresh",
            "suffixed_cookies=false",
            {**TOKENS, "format": "token"},
        ),
    ),
    "refresh, all": (
        lambda client: client.refresh(
            ID,
            **TOKENS,
            request_headers={"User-Agent": ["x"], "Accept": "y"},
            format="cookie",
            request_originating_ip="192.0.2.1",
            suffixed_cookies=True,
        ),
        (
            "POST",
            f"/sessions/{ID}/refresh",
            "suffixed_cookies=true",  # sent by Clerk's JavaScript SDK, not in the contract
            {
                **TOKENS,
                "request_headers": {"User-Agent": ["x"], "Accept": ["y"]},
                "format": "cookie",
                "request_originating_ip": "192.0.2.1",
            },
        ),
    ),
}


@pytest.mark.promise("exact-requests")
@pytest.mark.filterwarnings("ignore:verify is deprecated:DeprecationWarning")
@pytest.mark.parametrize("with_info", [False, True], ids=["plain", "with_http_info"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CONTRACT)
def test_a_request_matches_the_contract_exactly(
    mode: Mode, case: str, with_info: bool, fake: FakeClerk
) -> None:
    """One request with what the contract says, for both clients and both variants."""
    call, (method, path, query, body) = CONTRACT[case]
    run(mode, fake, (lambda client: call(client.with_http_info)) if with_info else call)
    [sent] = fake.requests
    assert (sent.method, sent.path, sent.query_string) == (method, f"/v1{path}", query)
    assert sent.json == body
    headers = {
        "Host": f"127.0.0.1:{fake.port}",
        "Authorization": f"Bearer {fake.secret_key}",
        "Clerk-API-Version": "2025-03-12" if case == "verify" else VERSION,
        "Accept": "application/json",
        "Accept-Encoding": "gzip, deflate",
        "User-Agent": f"clerk_async/{clerk_async.__version__}",
    }
    if body is not None:
        headers |= {"Content-Type": "application/json", "Content-Length": str(len(sent.body))}
    elif method == "POST":
        headers |= {"Content-Length": "0"}
    assert {name.title(): value for name, value in sent.headers.items()} == {
        name.title(): value for name, value in headers.items()
    }


@pytest.mark.promise("exact-requests")
@pytest.mark.parametrize("mode", MODES)
def test_verify_works_with_any_api_version_of_the_client(mode: Mode, fake: FakeClerk) -> None:
    """It pins its own version; every other request has the client's."""
    for version in ("2021-02-05", "2025-03-12", "2025-11-10", VERSION):
        fake.requests.clear()

        async def both(client: Any) -> Any:
            return await client.verify(ID, fake.mint(ID)), await client.get(ID)

        def both_sync(client: Any) -> Any:
            return client.verify(ID, fake.mint(ID)), client.get(ID)

        with pytest.warns(DeprecationWarning, match="verify"):
            ended = run(mode, fake, both if mode == "async" else both_sync, api_version=version)
        assert [type(value) for value in ended.value] == [Session, Session]
        asked_for = [request.headers["Clerk-API-Version"] for request in fake.requests]
        assert asked_for == ["2025-03-12", version]


async def test_verify_warns_at_the_callers_line(fake: FakeClerk) -> None:
    """The warning points at the caller, in every variant, and says what to use instead."""
    async with client_of(fake) as client:
        for target in (client, client.with_http_info, client.with_options(timeout=9)):
            with pytest.warns(DeprecationWarning, match="TokenVerifier") as caught:
                await target.verify(ID, fake.mint(ID))
            assert [warning.filename for warning in caught] == [__file__]


def test_verify_of_the_sync_client_warns_at_the_callers_line(fake: FakeClerk) -> None:
    """The same without await."""
    with clerk_async.SessionsApi(fake.secret_key, base_url=fake.base_url) as client:
        for target in (client, client.with_http_info, client.with_options(timeout=9)):
            with pytest.warns(DeprecationWarning, match="TokenVerifier") as caught:
                target.verify(ID, fake.mint(ID))
            assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.filterwarnings("ignore:verify is deprecated:DeprecationWarning")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("status", "kind"), [(404, NotFoundError), (410, GoneError)])
def test_a_removed_verify_says_what_to_use(
    mode: Mode, status: int, kind: type[Exception], fake: FakeClerk
) -> None:
    """After Clerk removes the operation, the error names the verifiers."""
    fake.inject(Fault.status(status, error_code="operation_deprecated"))
    error = run(mode, fake, lambda client: client.verify(ID, "t")).error
    assert type(error) is kind
    assert "TokenVerifier" in str(error)


def test_extra_headers_are_sent_and_ours_stay(fake: FakeClerk) -> None:
    """The user's own headers are sent too; their user agent replaces ours."""
    run("async", fake, "get", headers={"X-Team": "a b", "user-agent": "shop/1"})
    headers = fake.requests[0].headers
    assert headers["X-Team"] == "a b"
    assert headers["User-Agent"] == "shop/1"
    assert headers["Authorization"] == f"Bearer {fake.secret_key}"


def test_a_base_url_is_used_as_given(fake: FakeClerk) -> None:
    """Its path comes before ours, and a trailing slash doubles nothing."""
    for url in (f"{fake.base_url}/", fake.base_url):
        run("async", fake, lambda client: client.get(ID), base_url=url)
        assert fake.requests[-1].path == f"/v1/sessions/{ID}"
    error = run("async", fake, "get", base_url=fake.base_url.replace("/v1", "/p%20q/v9")).error
    assert isinstance(error, NotFoundError)
    assert fake.requests[-1].path.startswith("/p%20q/v9/sessions/sess_")


@pytest.mark.parametrize("mode", MODES)
def test_refresh_returns_a_token_or_cookies(mode: Mode, fake: FakeClerk) -> None:
    """The response's own `object` decides."""
    results: dict[str, type[Any]] = {"token": Token, "cookie": Cookies}
    for form, kind in results.items():
        session = fake.add_session()
        tokens = {
            "expired_token": fake.expired_token(session),
            "refresh_token": session.refresh_token,
            "request_origin": ORIGIN,
        }

        def call(client: Any, s: Any = session, t: Any = tokens, f: str = form) -> Any:
            return client.refresh(s.id, **t, format=f)

        assert isinstance(run(mode, fake, call).value, kind)


@pytest.mark.promise("complete-iteration")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("count", "offsets"), [(6, [0, 2, 4, 6, 4]), (7, [0, 2, 4, 6, 7, 5])])
def test_iterate_yields_every_session_once(
    mode: Mode, count: int, offsets: list[int], fake: FakeClerk
) -> None:
    """Newest first, over overlapping pages, until a request past the end finds nothing."""
    user = fake.add_user()
    ids = [fake.add_session(user_id=user).id for _ in range(count)]

    async def collect(client: Any) -> list[str]:
        return [session.id async for session in client.iterate(user_id=user, page_size=3)]

    def collect_sync(client: Any) -> list[str]:
        return [session.id for session in client.iterate(user_id=user, page_size=3)]

    ended = run(mode, fake, collect if mode == "async" else collect_sync)
    assert ended.value == ids[::-1]
    assert [int(request.query["offset"]) for request in fake.requests] == offsets


@pytest.mark.promise("complete-iteration")
@pytest.mark.parametrize("begun", [1, 4])
async def test_iterate_yields_a_session_that_moved_to_a_later_page_once(
    begun: int, fake: FakeClerk
) -> None:
    """New sessions come first, and push others to a page where they are listed again."""
    user = fake.add_user()
    ids = [fake.add_session(user_id=user).id for _ in range(7)][::-1]
    found: list[str] = []
    async with client_of(fake) as client:
        async for session in client.iterate(user_id=user, page_size=3):
            found.append(session.id)
            if len(found) == 2:
                for _ in range(begun):
                    fake.add_session(user_id=user)
    assert [one for one in found if one in ids] == ids
    assert len(found) == len(set(found))


async def test_iterate_reports_unreadable_entries(
    fake: FakeClerk, caplog: pytest.LogCaptureFixture
) -> None:
    """An unreadable entry goes to on_unreadable, or to the log, and the rest is yielded."""
    user = fake.add_user()
    for _ in range(5):
        fake.add_session(user_id=user)
    async with client_of(fake) as client:
        for told in cast("list[list[UnreadableItem] | None]", [[], None]):
            fake.inject(Fault.null("status", item=1, operation="list"))
            on_unreadable = None if told is None else told.append
            caplog.clear()
            found = [s async for s in client.iterate(user_id=user, on_unreadable=on_unreadable)]
            assert len(found) == 4
            if told is None:
                assert "skipping list entry" in caplog.text
            else:
                assert [item.index for item in told] == [1]
                assert logged(caplog) == []


async def test_many_unreadable_entries_are_two_lines_a_page(
    fake: FakeClerk, caplog: pytest.LogCaptureFixture
) -> None:
    """The first one says why, and the second one how many more there are."""
    user = fake.add_user()
    for _ in range(50):
        fake.add_session(user_id=user)
    fake.inject(Fault.null("status", operation="list", count=None))
    async with client_of(fake) as client:
        assert [session async for session in client.iterate(user_id=user)] == []
    assert [line.partition(":")[0] for line in caplog.messages] == [
        "skipping list entry 0",
        "skipping 49 more entries of that page",
    ]


async def test_iterate_skips_unreadable_entries(fake: FakeClerk) -> None:
    """An unreadable entry has its place in the list, and is reported once."""
    user = fake.add_user()
    ids = [fake.add_session(user_id=user).id for _ in range(7)][::-1]
    fake.inject(Fault.null("status", item=1, operation="list"))
    told: list[UnreadableItem] = []
    async with client_of(fake) as client:
        pages = client.iterate(user_id=user, page_size=3, on_unreadable=told.append)
        found = [session.id async for session in pages]
    assert found == [ids[0], *ids[2:]]
    assert [item.session_id for item in told] == [ids[1]]
    assert [request.query["offset"] for request in fake.requests] == list("024675")
