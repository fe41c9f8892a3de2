"""Verification with a service on loopback: counted fetches, rotation, outages, refresh."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from clients import ONCE, client_of, sync_client_of
from token_samples import Clock, until

from clerk_async import (
    AsyncTokenVerifier,
    ConfigurationError,
    KeysUnavailableError,
    TokenVerificationError,
    TokenVerificationReason,
    TokenVerifier,
)
from clerk_async.testing import FakeClerk, Fault
from clerk_async.tokens import key_set
from clerk_async.tokens.key_set import Flight

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from clerk_async import AsyncSessionsApi, SessionsApi
    from clerk_async.testing import FakeSession

ORIGIN = "http://localhost:3000"


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "clerk_async.tokens")


@pytest.fixture
async def sessions(fake: FakeClerk) -> AsyncIterator[AsyncSessionsApi]:
    """Yield a client of the fake."""
    async with client_of(fake, retry=ONCE) as client:
        yield client


@pytest.fixture
def sync_sessions(fake: FakeClerk) -> Iterator[SessionsApi]:
    """Yield a sync client of the fake."""
    with sync_client_of(fake, retry=ONCE) as client:
        yield client


def fetches(fake: FakeClerk) -> int:
    """Count the fetches of keys that have arrived."""
    return sum(request.operation == "jwks" for request in fake.requests)


async def refusal(verifier: AsyncTokenVerifier, forged: str) -> TokenVerificationReason:
    """Verify a token, and return the reason of its rejection."""
    with pytest.raises(TokenVerificationError) as caught:
        await verifier.verify(forged)
    return caught.value.reason


async def test_a_token_of_the_service_verifies(fake: FakeClerk, sessions: AsyncSessionsApi) -> None:
    """From a browser's token to claims, over the wire, with one fetch of the keys."""
    session = fake.add_session(user_id="user_1", last_active_organization_id="org_1")
    made = fake.mint(session)
    verifier = AsyncTokenVerifier(
        sessions=sessions, authorized_parties=[ORIGIN], issuer=fake.issuer
    )
    [claims] = {id(told): told for told in [await verifier.verify(made) for _ in "abc"]}.values()
    assert (claims.user_id, claims.session_id) == ("user_1", session.id)
    assert claims.has_role("org:admin")
    assert claims.has_permission("org:dashboard:read")
    assert fetches(fake) == 1
    [fetch] = [request for request in fake.requests if request.operation == "jwks"]
    assert (fetch.method, fetch.path) == ("GET", "/v1/jwks")


async def test_a_token_made_over_the_backend_api_has_no_party(
    fake: FakeClerk, sessions: AsyncSessionsApi
) -> None:
    """It is accepted if no party is required, and rejected if one is."""
    made = await sessions.create_token(fake.add_session(user_id="user_1").id)
    assert (await AsyncTokenVerifier(sessions=sessions).verify(made.jwt)).user_id == "user_1"
    strict = AsyncTokenVerifier(sessions=sessions, authorized_parties=[ORIGIN])
    reason = await refusal(strict, made.jwt)
    assert reason is TokenVerificationReason.TOKEN_INVALID_AUTHORIZED_PARTIES


@pytest.mark.promise("token-versions")
@pytest.mark.parametrize("version", [1, 2])
def test_both_token_versions_have_the_same_organization(fake: FakeClerk, version: int) -> None:
    """That of a version 1 token equals that of a version 2 token."""
    session = fake.add_session(user_id="user_1", last_active_organization_id="org_1")
    verifier = TokenVerifier(jwt_key=fake.jwt_key, authorized_parties=[ORIGIN])
    organization = verifier.verify(fake.mint(session, version=version)).organization
    assert organization is not None
    assert (organization.id, organization.slug, organization.role) == (
        "org_1",
        "acme",
        "org:admin",
    )
    assert organization.permissions == {
        "org:dashboard:manage",
        "org:dashboard:read",
        "org:teams:read",
    }


def test_a_template_token_verifies(fake: FakeClerk, sync_sessions: SessionsApi) -> None:
    """A token of a JWT template names no session."""
    session = fake.add_session(user_id="user_1")
    made = sync_sessions.create_token_from_template(session.id, "custom_hasura")
    verifier = TokenVerifier(sessions=sync_sessions)
    claims = verifier.verify(made.jwt)
    assert (claims.user_id, claims.session_id) == ("user_1", None)
    assert claims.raw["https://hasura.io/jwt/claims"]["x-hasura-user-id"] == "user_1"


@pytest.mark.promise("one-fetch")
async def test_a_thousand_tasks_fetch_once(fake: FakeClerk, sessions: AsyncSessionsApi) -> None:
    """On a cold cache, with a slow key set."""
    fake.inject(Fault.hold(operation="jwks"))
    made = fake.mint(fake.add_session(user_id="user_1"))
    verifier = AsyncTokenVerifier(sessions=sessions, authorized_parties=[ORIGIN])
    tasks = [asyncio.create_task(verifier.verify(made)) for _ in range(1000)]
    await fake.until(lambda: fake.held == 1)
    fake.release()
    assert {claims.user_id for claims in await asyncio.gather(*tasks)} == {"user_1"}
    assert fetches(fake) == 1


@pytest.mark.promise("one-fetch")
def test_fifty_threads_fetch_once(
    fake: FakeClerk, sync_sessions: SessionsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cold cache, from fifty threads, with a slow key set and a slow start of the fetch."""

    def flight_made_slowly(home: asyncio.AbstractEventLoop | None, since: float) -> Flight:
        time.sleep(0.01)  # the others check meanwhile whether there is a fetch
        return Flight(home, since)

    monkeypatch.setattr(key_set, "Flight", flight_made_slowly)
    fake.inject(Fault.hold(operation="jwks"))
    made = fake.mint(fake.add_session(user_id="user_1"))
    verifier = TokenVerifier(sessions=sync_sessions, authorized_parties=[ORIGIN])
    with ThreadPoolExecutor(50) as pool:
        futures = [pool.submit(verifier.verify, made) for _ in range(50)]
        fake.wait_for(lambda: fake.held == 1)
        fake.release()
        assert {future.result(10).user_id for future in futures} == {"user_1"}
    assert fetches(fake) == 1


async def test_a_thousand_unknown_kids_fetch_twice(
    fake: FakeClerk, sessions: AsyncSessionsApi
) -> None:
    """The very first fetch, and one for all unknown kids."""
    session = fake.add_session(user_id="user_1")
    claims = TokenVerifier(jwt_key=fake.jwt_key).verify(fake.mint(session)).raw
    forged = [fake.sign(claims, headers={"kid": f"ins_{n}"}) for n in range(1000)]
    verifier = AsyncTokenVerifier(sessions=sessions, authorized_parties=[ORIGIN])
    reasons = await asyncio.gather(*(refusal(verifier, one) for one in forged))
    assert set(reasons) == {TokenVerificationReason.JWK_KID_MISMATCH}
    assert fetches(fake) <= 2


@pytest.mark.promise("forgeries")
async def test_two_instances_in_one_process_are_separate(sessions: AsyncSessionsApi) -> None:
    """A rejects a token of B, even if both use the same kid, whichever comes first."""
    with FakeClerk(kid="ins_same", seed=1) as a, FakeClerk(kid="ins_same", seed=2) as b:
        token_a = a.mint(a.add_session(user_id="user_a"))
        token_b = b.mint(b.add_session(user_id="user_b"))
        async with client_of(a) as sessions_a, client_of(b) as sessions_b:
            at_a = AsyncTokenVerifier(sessions=sessions_a, authorized_parties=[ORIGIN])
            at_b = AsyncTokenVerifier(sessions=sessions_b, authorized_parties=[ORIGIN])
            assert (await at_b.verify(token_b)).user_id == "user_b"
            assert await refusal(at_a, token_b) is TokenVerificationReason.TOKEN_INVALID_SIGNATURE
            assert (await at_a.verify(token_a)).user_id == "user_a"
            assert await refusal(at_b, token_a) is TokenVerificationReason.TOKEN_INVALID_SIGNATURE
    elsewhere = AsyncTokenVerifier(sessions=sessions, authorized_parties=[ORIGIN])
    assert await refusal(elsewhere, token_a) is TokenVerificationReason.JWK_KID_MISMATCH


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_a_new_key_works_for_its_first_token(
    fake: FakeClerk, sessions: AsyncSessionsApi, algorithm: str
) -> None:
    """The service rotates, and no token of the new key is rejected; the old key may stay."""
    session = fake.add_session(user_id="user_1")
    before = fake.mint(session)
    verifier = AsyncTokenVerifier(sessions=sessions, authorized_parties=[ORIGIN])
    await verifier.verify(before)
    fake.rotate_keys(algorithm=algorithm)
    after = fake.mint(session)
    assert (await verifier.verify(after)).user_id == "user_1"
    assert (await verifier.verify(before)).user_id == "user_1"
    assert fetches(fake) == 2


async def test_a_retired_key_is_rejected_after_the_ttl(
    fake: FakeClerk, sessions: AsyncSessionsApi
) -> None:
    """When a key is removed from the set, its tokens become invalid, including cached ones."""
    ages = Clock(0.0)
    before = fake.mint(fake.add_session(user_id="user_1"))
    verifier = AsyncTokenVerifier(sessions=sessions, authorized_parties=[ORIGIN], monotonic=ages)
    await verifier.verify(before)
    fake.rotate_keys(keep_old=False)
    ages.now = 301.0
    assert await refusal(verifier, before) is TokenVerificationReason.JWK_KID_MISMATCH


@pytest.mark.promise("key-outage")
async def test_users_stay_signed_in_during_an_outage_of_ten_minutes(
    fake: FakeClerk, sessions: AsyncSessionsApi
) -> None:
    """The outage begins after the keys' ttl; the status gives the age of the keys."""
    ages = Clock(0.0)
    session = fake.add_session(user_id="user_1")
    verifier = AsyncTokenVerifier(sessions=sessions, authorized_parties=[ORIGIN], monotonic=ages)
    await verifier.verify(fake.mint(session))
    fake.stop()
    for ages.now in (250.0, 301.0, 450.0, 600.0, 900.0):
        assert (await verifier.verify(fake.mint(session))).user_id == "user_1"
    assert (verifier.key_status().age, verifier.key_status().is_stale) == (900.0, True)
    ages.now = 3600.0
    with pytest.raises(KeysUnavailableError):
        await verifier.verify(fake.mint(session))
    fake.start()
    ages.now += 5.0
    assert (await verifier.verify(fake.mint(session))).user_id == "user_1"
    assert verifier.key_status().age == 0


@pytest.mark.parametrize(
    "fault",
    [
        Fault.status(500, operation="jwks", count=None),
        Fault.status(401, operation="jwks", count=None),
        Fault.html(502, operation="jwks", count=None),
        Fault.html(200, operation="jwks", count=None),
        Fault.cut("after", operation="jwks", count=None),
    ],
    ids=["500", "401", "502 with HTML", "200 with HTML", "cut"],
)
async def test_without_keys_nobody_is_let_in(
    fake: FakeClerk, sessions: AsyncSessionsApi, fault: Fault
) -> None:
    """However the first fetch fails, it raises KeysUnavailableError."""
    made = fake.mint(fake.add_session(user_id="user_1"))
    fake.inject(fault)
    verifier = AsyncTokenVerifier(sessions=sessions, authorized_parties=[ORIGIN])
    with pytest.raises(KeysUnavailableError) as caught:
        await verifier.verify(made)
    assert caught.value.reason is TokenVerificationReason.JWK_FAILED_TO_LOAD
    assert fake.secret_key not in str(caught.value)
    state = await verifier.authenticate_request({"authorization": f"Bearer {made}"})
    assert state.status == "unknown"
    fake.clear_faults()
    assert (await verifier.verify(made)).user_id == "user_1"


async def test_a_hanging_fetch_does_not_block_the_loop(
    fake: FakeClerk, sessions: AsyncSessionsApi
) -> None:
    """Nor does it delay tokens whose keys are known."""
    ages = Clock(0.0)
    session = fake.add_session(user_id="user_1")
    verifier = AsyncTokenVerifier(sessions=sessions, authorized_parties=[ORIGIN], monotonic=ages)
    await verifier.warm_up()
    fake.inject(Fault.hold(operation="jwks"))
    ages.now = 250.0
    for _ in range(100):
        await verifier.verify(fake.mint(session))
    assert verifier.key_status().age == 250.0, "it has waited for the fetch"
    await fake.until(lambda: fake.held == 1)
    fake.release()
    await until(lambda: verifier.key_status().age == 0)


# --- issuer alone ---


async def test_an_issuer_needs_no_secret_key(fake: FakeClerk) -> None:
    """Its published keys are fetched once, without an Authorization header."""
    made = fake.mint(fake.add_session(user_id="user_1"))
    verifier = AsyncTokenVerifier(issuer=fake.issuer, authorized_parties=[ORIGIN])
    assert {(await verifier.verify(made)).user_id for _ in range(3)} == {"user_1"}
    [fetch] = fake.requests
    assert (fetch.method, fetch.path) == ("GET", "/.well-known/jwks.json")
    assert "Authorization" not in fetch.headers
    assert "Clerk-API-Version" not in fetch.headers
    assert verifier.key_status().source == "issuer"


@pytest.mark.parametrize("host", [" http://127.1", "http://0x7f000001", "http://LOCALHOST"])
async def test_an_issuers_keys_are_fetched_however_its_address_is_spelled(
    host: str, fake: FakeClerk
) -> None:
    """As with a base URL; the tokens must spell it like the argument."""
    fake.issuer = f"{host.strip()}:{fake.port}"
    verifier = AsyncTokenVerifier(issuer=f"{host}:{fake.port}/ ", authorized_parties=[ORIGIN])
    made = fake.mint(fake.add_session(user_id="user_1"))
    assert (await verifier.verify(made)).user_id == "user_1"


def test_an_issuer_works_in_sync_code_too(fake: FakeClerk) -> None:
    """A trailing slash makes no difference; a token of another issuer is rejected."""
    session = fake.add_session(user_id="user_1")
    made = fake.mint(session)
    verifier = TokenVerifier(issuer=f"{fake.issuer}/", authorized_parties=[ORIGIN])
    assert verifier.verify(made).user_id == "user_1"
    fake.issuer = "https://clerk.other.example"
    with pytest.raises(TokenVerificationError) as caught:
        verifier.verify(fake.mint(session))
    assert caught.value.reason is TokenVerificationReason.TOKEN_INVALID_ISSUER


async def test_an_issuer_that_redirects_is_not_followed(fake: FakeClerk) -> None:
    """Keys come from the issuer itself, or not at all."""
    with FakeClerk(seed=9) as evil:
        made = evil.mint(evil.add_session(user_id="user_1"))
        where = f"{evil.issuer}/.well-known/jwks.json"
        fake.inject(Fault.status(302, headers={"Location": where}, count=None))
        verifier = AsyncTokenVerifier(issuer=fake.issuer, authorized_parties=[ORIGIN])
        assert await refusal(verifier, made) is TokenVerificationReason.JWK_FAILED_TO_LOAD
        assert not evil.requests


# --- check_session and refresh ---


async def test_a_revoked_session_is_seen_at_once(
    fake: FakeClerk, sessions: AsyncSessionsApi
) -> None:
    """The token is valid for another minute; `check_session` costs one GET and sees it."""
    session = fake.add_session(user_id="user_1")
    made = fake.mint(session)
    verifier = AsyncTokenVerifier(sessions=sessions, authorized_parties=[ORIGIN])
    await verifier.verify(made, check_session=True)
    session.status = "revoked"  # elsewhere
    assert await verifier.verify(made)
    with pytest.raises(TokenVerificationError, match="revoked") as caught:
        await verifier.verify(made, check_session=True)
    assert caught.value.reason is TokenVerificationReason.SESSION_INACTIVE
    assert [request.operation for request in fake.requests].count("get") == 2
    fake.remove_session(session.id)
    with pytest.raises(TokenVerificationError, match="no longer exists"):
        await verifier.verify(made, check_session=True)


async def test_an_expired_token_is_refreshed(fake: FakeClerk, sessions: AsyncSessionsApi) -> None:
    """An expired cookie and its refresh cookie yield a new token and new cookies."""
    session = fake.add_session(user_id="user_1")
    verifier = AsyncTokenVerifier(sessions=sessions, authorized_parties=[ORIGIN])
    headers = {
        "host": "localhost:3000",
        "cookie": f"__session={fake.expired_token(session)}; __refresh={session.refresh_token}",
    }
    plain = await verifier.authenticate_request(headers)
    assert (plain.status, plain.reason) == ("signed_out", "token-expired")
    state = await verifier.authenticate_request(headers, refresh_if_expired=True)
    assert state.is_signed_in
    assert state.claims is not None
    assert state.claims.session_id == session.id
    assert any(line.startswith(f"__session={state.token};") for line in state.set_cookies)
    elsewhere = AsyncTokenVerifier(sessions=sessions, authorized_parties=[ORIGIN])
    again = await elsewhere.authenticate_request(headers, refresh_if_expired=True)
    assert (again.status, again.reason) == (
        "signed_out",
        "session_refresh_expired_session_token_consumed",
    )


def expired_headers(fake: FakeClerk, session: FakeSession) -> dict[str, str]:
    """Return the headers of a browser whose session token has expired."""
    cookies = f"__session={fake.expired_token(session)}; __refresh={session.refresh_token}"
    return {"host": "localhost:3000", "cookie": cookies}


def waiters(verifier: TokenVerifier) -> int:
    """Count the threads that wait for another thread's refresh."""
    return sum(len(errand._done._waiting) for errand in list(verifier._under_way.values()))


async def test_requests_of_one_page_share_a_refresh(
    fake: FakeClerk, sessions: AsyncSessionsApi
) -> None:
    """A refresh token works once, so a second refresh would sign out.

    Cancelling one caller ends none.
    """
    session = fake.add_session(user_id="user_1")
    verifier = AsyncTokenVerifier(sessions=sessions, authorized_parties=[ORIGIN])
    await verifier.warm_up()
    headers = expired_headers(fake, session)
    fake.inject(Fault.hold(operation="refresh"))
    calls = [
        asyncio.create_task(verifier.authenticate_request(headers, refresh_if_expired=True))
        for _ in range(5)
    ]
    await until(lambda: [request.operation for request in fake.requests].count("refresh"))
    calls.pop(0).cancel()
    fake.release()
    states = await asyncio.gather(*calls)
    assert {state.status for state in states} == {"signed_in"}
    assert len({(state.token, state.set_cookies) for state in states}) == 1
    assert [request.operation for request in fake.requests].count("refresh") == 1
    assert not verifier._under_way
    other = expired_headers(fake, fake.add_session(user_id="user_2"))
    state = await verifier.authenticate_request(other, refresh_if_expired=True)
    assert state.claims is not None
    assert state.claims.user_id == "user_2"


def test_threads_share_a_refresh_too(fake: FakeClerk, sync_sessions: SessionsApi) -> None:
    """Also a rejected one: each gets the same state."""
    session = fake.add_session(user_id="user_1")
    verifier = TokenVerifier(sessions=sync_sessions, authorized_parties=[ORIGIN])
    verifier.warm_up()
    for ended, status in ((False, "signed_in"), (True, "signed_out")):
        headers = expired_headers(fake, session)
        session.status = "ended" if ended else "active"
        fake.requests.clear()
        fake.inject(Fault.hold(operation="refresh"))
        waiting = threading.Barrier(5)

        def ask(headers: dict[str, str] = headers, waiting: threading.Barrier = waiting) -> str:
            waiting.wait(10)
            return verifier.authenticate_request(headers, refresh_if_expired=True).status

        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(ask) for _ in range(4)]
            waiting.wait(10)
            give_up = time.monotonic() + 10
            while waiters(verifier) < 4 or not fake.requests:
                assert time.monotonic() < give_up
                time.sleep(0)
            fake.release()
            assert {future.result(10) for future in asked} == {status}
        assert [request.operation for request in fake.requests] == ["refresh"]
        assert not verifier._under_way


def test_sync_code_refreshes_too(fake: FakeClerk, sync_sessions: SessionsApi) -> None:
    """With suffixed cookies, through the sync client."""
    session = fake.add_session(user_id="user_1")
    verifier = TokenVerifier(sessions=sync_sessions, authorized_parties=[ORIGIN])
    expired = fake.expired_token(session)
    headers = {
        "host": "localhost:3000",
        "cookie": f"__session_abcdefgh={expired}; __refresh_abcdefgh={session.refresh_token}",
    }
    state = verifier.authenticate_request(headers, refresh_if_expired=True)
    assert state.is_signed_in
    assert state.set_cookies
    session.status = "revoked"
    refused = verifier.authenticate_request(
        {**headers, "cookie": headers["cookie"].replace(expired, fake.expired_token(session))},
        refresh_if_expired=True,
    )
    assert refused.reason == "session_refresh_inactive_session"


async def test_no_secret_in_any_log_or_error(
    fake: FakeClerk, sessions: AsyncSessionsApi, caplog: pytest.LogCaptureFixture
) -> None:
    """Key, tokens and cookies stay out, whatever happens, at any level."""
    caplog.set_level(logging.DEBUG)
    session = fake.add_session(user_id="user_1")
    made, expired = fake.mint(session), fake.expired_token(session)
    texts: list[str] = []

    async def everything(verifier: AsyncTokenVerifier) -> None:
        for headers in ({"authorization": f"Bearer {made}"}, {"cookie": f"__session={expired}"}):
            state = await verifier.authenticate_request(headers, check_session=True)
            texts.extend([repr(state), str(state.error), repr(verifier)])
        with pytest.raises(TokenVerificationError) as caught:
            await verifier.verify(expired)
        texts.append(str(caught.value))

    await everything(AsyncTokenVerifier(sessions=sessions, authorized_parties=[ORIGIN]))
    fake.inject(Fault.status(500, count=None))
    await everything(AsyncTokenVerifier(sessions=sessions, authorized_parties=[ORIGIN]))
    seen = "\n".join([caplog.text, *texts])
    for secret in (fake.secret_key, made, expired, session.refresh_token, made.split(".")[2]):
        assert secret not in seen


def test_a_client_of_the_wrong_kind_is_rejected(
    fake: FakeClerk, sync_sessions: SessionsApi
) -> None:
    """A sync client in the async verifier, or the reverse, raises at once."""
    wrong: Any = sync_sessions
    with pytest.raises(ConfigurationError, match="AsyncSessionsApi"):
        AsyncTokenVerifier(sessions=wrong)
    wrong = client_of(fake)
    with pytest.raises(ConfigurationError, match="SessionsApi"):
        TokenVerifier(sessions=wrong)
    wrong = "sk_live_not_a_client"
    with pytest.raises(ConfigurationError) as caught:
        TokenVerifier(sessions=wrong)
    assert "sk_live" not in str(caught.value)
