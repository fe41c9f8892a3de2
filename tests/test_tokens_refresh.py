"""Which requests share a refresh, and what happens to its response."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from clients import ONCE, client_of, sync_client_of
from token_samples import NOW, OTHER, PARTY, AsyncStub, Clock, SyncStub, claims, header, token

from clerk_async import AsyncTokenVerifier, Cookies, TokenVerifier
from clerk_async import TokenVerificationReason as Reason
from clerk_async.tokens.refreshing import Recent

if TYPE_CHECKING:
    from clerk_async.testing import FakeClerk, FakeSession

ORIGIN = "http://localhost:3000"
EXPIRED = token(claims(exp=NOW - 60, iat=NOW - 120, nbf=NOW - 130))
NEW = token(claims(jti="new"))
CONSUMED = "session_refresh_expired_session_token_consumed"


def old_cookies(fake: FakeClerk, session: FakeSession, suffix: str = "") -> dict[str, str]:
    """Make the headers of a browser whose session token has expired."""
    expired, refresh = fake.expired_token(session), session.refresh_token
    pairs = f"__session{suffix}={expired}; __refresh{suffix}={refresh}"
    return {"host": "localhost:3000", "cookie": pairs}


def refreshes(fake: FakeClerk) -> list[str]:
    """Return the queries of the refresh requests that have arrived."""
    return [sent.query_string for sent in fake.requests if sent.operation == "refresh"]


@pytest.mark.promise("shared-refresh")
async def test_a_late_request_gets_the_same_new_cookies(fake: FakeClerk) -> None:
    """Up to 10 seconds after the refresh, because the service would reject the used token."""
    session, clock = fake.add_session(user_id="user_1"), Clock()
    async with client_of(fake, retry=ONCE) as sessions:
        verifier = AsyncTokenVerifier(
            sessions=sessions, authorized_parties=[ORIGIN], monotonic=clock
        )
        headers = old_cookies(fake, session)
        first = await verifier.authenticate_request(headers, refresh_if_expired=True)
        assert first.is_signed_in
        for seconds in (0, 0.5, 5, 4.5):
            clock.now += seconds
            assert await verifier.authenticate_request(headers, refresh_if_expired=True) == first
        assert len(refreshes(fake)) == 1
        clock.now += 0.1
        state = await verifier.authenticate_request(headers, refresh_if_expired=True)
        assert (state.status, state.reason) == ("signed_out", CONSUMED)


@pytest.mark.promise("shared-refresh")
def test_late_threads_get_the_same_new_cookies(fake: FakeClerk) -> None:
    """Twenty threads in two waves: one refresh, one set of cookies."""
    session = fake.add_session(user_id="user_1")
    with sync_client_of(fake, retry=ONCE) as sessions:
        verifier = TokenVerifier(sessions=sessions, authorized_parties=[ORIGIN])
        headers = old_cookies(fake, session)

        def ask(_: int) -> Any:
            return verifier.authenticate_request(headers, refresh_if_expired=True)

        with ThreadPoolExecutor(20) as pool:
            states = [*pool.map(ask, range(20)), *pool.map(ask, range(20))]
    assert {state.status for state in states} == {"signed_in"}
    assert len({(state.token, state.set_cookies) for state in states}) == 1
    assert len(refreshes(fake)) == 1


async def test_other_cookies_have_their_own_refresh(fake: FakeClerk) -> None:
    """Including those of another token of the same session."""
    session = fake.add_session(user_id="user_1")
    async with client_of(fake, retry=ONCE) as sessions:
        verifier = AsyncTokenVerifier(sessions=sessions, authorized_parties=[ORIGIN])
        made = [old_cookies(fake, session) for _ in range(3)]
        for headers in made:
            state = await verifier.authenticate_request(headers, refresh_if_expired=True)
            assert state.is_signed_in
        wrong = {**made[0], "cookie": made[0]["cookie"] + "x"}
        state = await verifier.authenticate_request(wrong, refresh_if_expired=True)
        assert (state.status, state.reason) == ("signed_out", "refresh_token_not_found")
    assert len(refreshes(fake)) == 4


def test_a_rejected_refresh_is_not_cached() -> None:
    """The next request refreshes again, because the service may have recovered."""
    stub = SyncStub(cookies=())
    verifier = TokenVerifier(sessions=stub, authorized_parties=[PARTY], clock=Clock())
    headers = {"cookie": f"__session={EXPIRED}; __refresh=r1"}
    stub.goes_down()
    for _ in range(2):
        stub.comes_back()
        state = verifier.authenticate_request(headers, refresh_if_expired=True)
        assert state.reason is Reason.SESSION_REFRESH_REFUSED
    assert len(stub.refreshes) == 2


def test_a_late_request_still_checks_the_session() -> None:
    """With `check_session` it notices a session that was revoked meanwhile."""
    stub = SyncStub(cookies=(f"__session={NEW}",))
    verifier = TokenVerifier(sessions=stub, authorized_parties=[PARTY], clock=Clock())
    headers = {"cookie": f"__session={EXPIRED}; __refresh=r1"}
    options: dict[str, Any] = {"refresh_if_expired": True, "check_session": True}
    assert verifier.authenticate_request(headers, **options).is_signed_in
    stub.sessions = {"sess_1": "revoked"}
    state = verifier.authenticate_request(headers, **options)
    assert (state.status, state.reason) == ("signed_out", Reason.SESSION_INACTIVE)
    assert state.set_cookies == stub.cookies
    assert len(stub.refreshes) == 1


def test_the_cache_of_refreshes_is_bounded() -> None:
    """Neither many browsers nor a long time make memory grow."""
    clock = Clock()
    recent = Recent(clock)
    for number in range(5000):
        recent.keep(number, Cookies(cookies=()))
        assert len(recent) <= 1024
    assert recent.get(4999) == ()
    assert recent.get(0) is None
    clock.now += 10.1
    assert recent.get(4999) is None
    recent.keep(5000, Cookies(cookies=()))
    assert len(recent) == 1


@pytest.mark.parametrize("suffix", ["", "_abcdefgh"])
async def test_suffixed_cookies_are_requested_if_the_request_had_them(
    fake: FakeClerk, suffix: str
) -> None:
    """The parameter is in the query, as in Clerk's JavaScript SDK."""
    session = fake.add_session(user_id="user_1")
    async with client_of(fake, retry=ONCE) as sessions:
        verifier = AsyncTokenVerifier(sessions=sessions, authorized_parties=[ORIGIN])
        state = await verifier.authenticate_request(
            old_cookies(fake, session, suffix), refresh_if_expired=True
        )
    assert state.is_signed_in
    assert refreshes(fake) == ["suffixed_cookies=true" if suffix else ""]


@pytest.mark.parametrize("beside", [[], ["__refresh_zzzzzzzz=others"]])
@pytest.mark.parametrize("is_plain_first", [True, False])
async def test_a_token_in_two_cookies_is_refreshed_once_with_the_suffix(
    is_plain_first: bool, beside: list[str], fake: FakeClerk
) -> None:
    """Browsers send both names; a rejected refresh isn't repeated for the second one."""
    session = fake.add_session(user_id="user_1")
    old, suffix = fake.expired_token(session), fake.cookie_suffix
    pairs = [f"__session={old}", f"__session_{suffix}={old}"]
    pairs = (pairs if is_plain_first else pairs[::-1]) + beside
    headers = {"host": "localhost:3000", "cookie": "; ".join([*pairs, f"__refresh_{suffix}=wrong"])}
    async with client_of(fake, retry=ONCE) as sessions:
        verifier = AsyncTokenVerifier(sessions=sessions, authorized_parties=[ORIGIN])
        state = await verifier.authenticate_request(headers, refresh_if_expired=True)
        assert state.reason is Reason.REFRESH_TOKEN_NOT_FOUND
        assert refreshes(fake) == ["suffixed_cookies=true"]
        headers["cookie"] = headers["cookie"].replace("wrong", session.refresh_token)
        state = await verifier.authenticate_request(headers, refresh_if_expired=True)
    assert state.is_signed_in
    assert state.set_cookies[0].startswith(f"__session_{suffix}=")
    assert refreshes(fake) == ["suffixed_cookies=true"] * 2


FOREIGN = token(key=OTHER)
FORGED = token(key=OTHER, head=header())
NEIGHBOUR = token(claims(sid="sess_2"))


@pytest.mark.parametrize(
    ("lines", "taken"),
    [
        ([f"__session={NEW}"], NEW),
        ([f"__session={FOREIGN}", f"__session_abcdefgh={NEW}"], NEW),
        ([f"__session={FORGED}", "__session=", "__session=junk", f"__session={NEW}"], NEW),
        ([f"__session={NEIGHBOUR}", f"__session_abcdefgh={NEW}"], NEW),
        ([f"__session={EXPIRED}", "__refresh=r2", f"__session_abcdefgh={NEW}"], NEW),
        ([f"__session={FOREIGN}", f"__session_abcdefgh={FORGED}"], None),
        ([f"__session={NEIGHBOUR}"], None),
        (["__refresh=r2"], None),
    ],
)
async def test_every_session_cookie_of_the_response_is_tried(
    lines: list[str], taken: str | None
) -> None:
    """The first that verifies, for the same user and session, counts."""
    stub = AsyncStub(cookies=tuple(f"{line}; Path=/; Secure" for line in lines))
    verifier = AsyncTokenVerifier(sessions=stub, authorized_parties=[PARTY], clock=Clock())
    headers = {"cookie": f"__session={EXPIRED}; __refresh=r1"}
    state = await verifier.authenticate_request(headers, refresh_if_expired=True)
    assert state.token == taken
    assert state.is_signed_in is (taken is not None)
    if taken:
        assert state.set_cookies == stub.cookies


def test_the_next_cookie_is_refreshed_if_the_first_is_rejected(fake: FakeClerk) -> None:
    """Two cookies, both expired: an ended session does not affect the other one."""
    ended, live = fake.add_session(user_id="user_1"), fake.add_session(user_id="user_2")
    pairs = [
        f"__session={fake.expired_token(ended)}; __refresh={ended.refresh_token}",
        f"__session_abcdefgh={fake.expired_token(live)}; __refresh_abcdefgh={live.refresh_token}",
    ]
    ended.status = "ended"
    with sync_client_of(fake, retry=ONCE) as sessions:
        verifier = TokenVerifier(sessions=sessions, authorized_parties=[ORIGIN])
        headers = {"host": "localhost:3000", "cookie": "; ".join(pairs)}
        state = verifier.authenticate_request(headers, refresh_if_expired=True)
    assert state.claims is not None
    assert state.claims.user_id == "user_2"


async def test_a_cancelled_request_does_not_lose_the_refresh(fake: FakeClerk) -> None:
    """The browser disconnected; its next request gets the cookies that it missed."""
    session = fake.add_session(user_id="user_1")
    async with client_of(fake, retry=ONCE) as sessions:
        verifier = AsyncTokenVerifier(sessions=sessions, authorized_parties=[ORIGIN])
        await verifier.warm_up()
        headers = old_cookies(fake, session)
        first = asyncio.create_task(verifier.authenticate_request(headers, refresh_if_expired=True))
        while not refreshes(fake):  # noqa: ASYNC110 - the event is in another thread
            await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        state = await verifier.authenticate_request(headers, refresh_if_expired=True)
        assert state.is_signed_in
    assert len(refreshes(fake)) == 1
