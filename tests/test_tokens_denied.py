"""What was revoked or denied is rejected at once, and a session check is reused for a while."""

from __future__ import annotations

import asyncio
import json
import math
from base64 import urlsafe_b64encode
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from clients import ONCE, client_of, sync_client_of
from leaps import leap, leaping

from clerk_async import (
    AsyncTokenVerifier,
    AsyncWebhookReceiver,
    ConfigurationError,
    InvalidArgumentError,
    NotFoundError,
    RateLimit,
    ServerError,
    TokenVerificationError,
    TokenVerifier,
)
from clerk_async.reasons import TokenVerificationReason as Reason
from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from clerk_async import AsyncSessionsApi

PARTIES = ["http://localhost:3000"]


@pytest.fixture
async def client(fake: FakeClerk) -> AsyncIterator[AsyncSessionsApi]:
    """Return a client without retries."""
    async with client_of(fake, retry=ONCE) as client:
        yield client


def verifier_of(client: AsyncSessionsApi, **options: Any) -> AsyncTokenVerifier:
    """Make a verifier of a client."""
    return AsyncTokenVerifier(sessions=client, authorized_parties=PARTIES, **options)


async def reason(verifier: AsyncTokenVerifier, token: str, **options: Any) -> Reason | None:
    """Return why a token is rejected; None if it is accepted."""
    try:
        await verifier.verify(token, **options)
    except TokenVerificationError as error:
        return error.reason
    return None


async def state_reason(
    verifier: AsyncTokenVerifier, request: object, **options: Any
) -> Reason | None:
    """Return why a request is not signed in; None if it is."""
    return (await verifier.authenticate_request(request, **options)).reason


def asked(fake: FakeClerk, operation: str = "get") -> int:
    """Count the requests of an operation."""
    return sum(request.operation == operation for request in fake.requests)


# --- causes of denials ---


@pytest.mark.promise("denied-at-once")
@pytest.mark.parametrize("way", ["plain", "info"])
async def test_a_revocation_applies_to_the_verifiers_of_its_client(
    way: str, fake: FakeClerk, client: AsyncSessionsApi
) -> None:
    """Also for cached tokens, and in requests."""
    session, other = fake.add_session(user_id="user_1"), fake.add_session(user_id="user_2")
    verifier, token = verifier_of(client), fake.mint(session)
    assert await reason(verifier, token) is None
    await (client if way == "plain" else client.with_http_info).revoke(session.id)
    assert await reason(verifier, token) is Reason.SESSION_REVOKED
    state = await verifier.authenticate_request({"authorization": f"Bearer {token}"})
    assert (state.status, state.reason) == ("signed_out", "session-revoked")
    assert await reason(verifier_of(client), token) is Reason.SESSION_REVOKED
    assert await reason(verifier_of(client, check_denials=False), token) is None
    assert await reason(verifier, fake.mint(other)) is None


@pytest.mark.promise("denied-at-once")
async def test_a_denied_session_has_no_pending_claims(
    fake: FakeClerk, client: AsyncSessionsApi
) -> None:
    """Pending claims name the user for the remaining tasks, which a denied user must not reach."""
    session = fake.add_session(user_id="user_1", status="pending")
    verifier, request = verifier_of(client), {"authorization": f"Bearer {fake.mint(session)}"}
    assert (await verifier.authenticate_request(request)).pending_claims is not None
    await client.deny(session_id=session.id)
    state = await verifier.authenticate_request(request)
    assert (state.reason, state.pending_claims) == (Reason.SESSION_REVOKED, None)


@pytest.mark.promise("denied-at-once")
@pytest.mark.parametrize("denied", ["session", "user", "everyone"])
async def test_a_denied_token_is_rejected_even_if_the_keys_are_unavailable(
    denied: str, fake: FakeClerk, client: AsyncSessionsApi
) -> None:
    """It must be rejected whether or not its signature is valid."""
    session = fake.add_session(user_id="user_1")
    token = fake.mint(session)
    fake.inject(Fault.status(500, operation="jwks", count=None))
    verifier = verifier_of(client)
    headers = {"Authorization": f"Bearer {token}"}
    assert await reason(verifier, token) == Reason.JWK_FAILED_TO_LOAD
    every: dict[str, dict[str, Any]] = {
        "session": {"session_id": session.id},
        "user": {"user_id": "user_1"},
        "everyone": {"everyone": True, "signed_in_before": datetime.now(UTC)},
    }
    await client.deny(**every[denied])
    assert await reason(verifier, token) == Reason.SESSION_REVOKED
    state = await verifier.authenticate_request(headers)
    assert (state.status, state.reason) == ("signed_out", Reason.SESSION_REVOKED)
    await client.allow(**every[denied])
    state = await verifier.authenticate_request(headers)
    assert (state.status, state.reason) == ("unknown", Reason.JWK_FAILED_TO_LOAD)


def test_a_sync_verifier_rejects_a_denied_token_even_if_the_keys_are_unavailable(
    fake: FakeClerk,
) -> None:
    """Whatever else its claims contain; a token that can't be read stays unknown."""
    session = fake.add_session(user_id="user_1")
    header, payload, signature = fake.mint(session).split(".")
    fake.inject(Fault.status(500, operation="jwks", count=None))
    with sync_client_of(fake, retry=ONCE) as client:
        verifier = TokenVerifier(sessions=client, authorized_parties=PARTIES)
        client.deny(session_id=session.id)
        for claims, expected in (
            (payload, Reason.SESSION_REVOKED),
            (_encoded({"sub": "user_1", "sid": [session.id]}), Reason.JWK_FAILED_TO_LOAD),
            (_encoded({"sid": session.id}), Reason.JWK_FAILED_TO_LOAD),
            (_encoded([session.id]), Reason.JWK_FAILED_TO_LOAD),
        ):
            with pytest.raises(TokenVerificationError) as refused:
                verifier.verify(f"{header}.{claims}.{signature}")
            assert refused.value.reason == expected


def _encoded(value: object) -> str:
    return urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


async def test_a_404_denies_and_no_other_error_does(
    fake: FakeClerk, client: AsyncSessionsApi
) -> None:
    """The session may have ended at the service while its last token is still valid."""
    session = fake.add_session(user_id="user_1")
    verifier, token = verifier_of(client), fake.mint(session)
    fake.inject(Fault.status(500, operation="revoke"))
    with pytest.raises(ServerError):
        await client.revoke(session.id)
    assert await reason(verifier, token) is None
    fake.remove_session(session.id)
    with pytest.raises(NotFoundError):
        await client.revoke(session.id)
    assert await reason(verifier, token) is Reason.SESSION_REVOKED


def test_the_sync_client_and_verifier_do_the_same(fake: FakeClerk) -> None:
    """From any thread, and through a view."""
    session, other = fake.add_session(user_id="user_1"), fake.add_session(user_id="user_2")
    token, second = fake.mint(session), fake.mint(other)
    with sync_client_of(fake) as client:
        verifier = TokenVerifier(sessions=client, authorized_parties=PARTIES)
        assert verifier.verify(token).session_id == session.id
        thread = Thread(target=client.with_options(timeout=5).revoke, args=(session.id,))
        thread.start()
        thread.join(20)
        with pytest.raises(TokenVerificationError) as caught:
            verifier.verify(token)
        assert caught.value.reason is Reason.SESSION_REVOKED
        client.deny(user_id="user_2")
        assert verifier.authenticate_request({"authorization": f"Bearer {second}"}).reason
        client.allow(user_id="user_2")
        assert verifier.verify(second).user_id == "user_2"
        assert client.shared_status().denied == 1


@pytest.mark.promise("denied-at-once")
@pytest.mark.parametrize("kind", ["list", "stream", "sweep"])
async def test_a_bulk_run_denies_before_it_revokes(
    kind: str, fake: FakeClerk, client: AsyncSessionsApi
) -> None:
    """It denies a list or a user's sessions as a whole, and a stream as it is read."""
    found = [fake.add_session(user_id="user_1") for _ in range(20)]
    ids, tokens = [each.id for each in found], [fake.mint(each) for each in found]
    verifier = verifier_of(client)
    fake.inject(Fault.hold(operation="revoke", count=2))
    if kind == "sweep":
        run = client.revoke_all(user_id="user_1", concurrency=2)
    else:
        run = client.revoke_many(ids if kind == "list" else iter(ids), concurrency=2)
    task = asyncio.create_task(run)
    await fake.until(lambda: fake.held == 2)
    reasons = [await reason(verifier, token) for token in tokens]
    denied = reasons.count(Reason.SESSION_REVOKED)
    assert denied == 20 if kind != "stream" else 1 <= denied <= 3
    assert all(each.status == "active" for each in found)
    fake.release()
    report = await task
    assert report.revoked == 20
    assert {await reason(verifier, token) for token in tokens} == {Reason.SESSION_REVOKED}


@pytest.mark.promise("denied-at-once")
async def test_a_stopped_run_allows_what_it_never_attempted(
    fake: FakeClerk, client: AsyncSessionsApi
) -> None:
    """The ids may have been wrong; attempted ones stay denied, failed or not."""
    found = [fake.add_session(user_id="user_1") for _ in range(30)]
    tokens = {each.id: fake.mint(each) for each in found}
    verifier = verifier_of(client)
    await client.deny(session_id=found[-1].id)  # by somebody else, so it must stay
    fake.inject(Fault.status(422, operation="revoke", count=2))
    report = await client.revoke_many(list(tokens), concurrency=1, max_failures=2)
    assert (report.failed, report.not_attempted) == (2, 28)
    refused = [each for each, token in tokens.items() if await reason(verifier, token) is not None]
    assert sorted(refused) == sorted([found[0].id, found[1].id, found[-1].id])


@leaping
async def test_a_stopped_run_allows_what_still_waited_for_the_rate_limit(fake: FakeClerk) -> None:
    """It was about to be revoked and never was."""
    ids = [fake.add_session(user_id="user_1").id for _ in range(3)]
    async with client_of(fake, timeout=600.0) as client:
        client._denials.is_watched = True
        run = asyncio.create_task(
            client.revoke_many(ids, rate_limit=RateLimit(1, per=600.0), deadline=60.0)
        )
        await fake.until(lambda: fake.requests)
        leap(60.0)
        report = await run
        assert (report.revoked, report.not_attempted) == (1, 2)
        assert [client._denials.denies(each) for each in ids] == [True, False, False]


@pytest.mark.promise("denied-at-once")
@pytest.mark.parametrize("how", ["deny", "revoke", "webhook", "late webhook"])
async def test_a_stopped_run_takes_back_nobody_elses_denial(
    how: str, fake: FakeClerk, client: AsyncSessionsApi
) -> None:
    """Also if an event that arrives during the run happened before it."""
    found = [fake.add_session(user_id="user_1") for _ in range(3)]
    whose, untried = found[1], found[2]
    verifier, tokens = verifier_of(client), [fake.mint(each) for each in found]
    early = fake.webhook("session.ended", whose)
    stopped: list[bool] = []
    fake.inject(Fault.hold(operation="revoke"))
    task = asyncio.create_task(
        client.revoke_many(
            [each.id for each in found], concurrency=1, should_stop=lambda: bool(stopped)
        )
    )
    await fake.until(lambda: fake.held == 1)
    if how == "deny":
        await client.deny(session_id=whose.id)
    elif how == "revoke":
        await client.revoke(whose.id)
    else:
        receiver = AsyncWebhookReceiver(sessions=client, signing_secret=fake.webhook_secret)
        late = fake.webhook("session.ended", whose)
        await receiver.receive(*(early if how == "late webhook" else late))
    stopped.append(True)
    fake.release()
    assert (await task).not_attempted == 2
    assert await reason(verifier, tokens[1]) is Reason.SESSION_REVOKED
    assert await reason(verifier, fake.mint(untried)) is None


@pytest.mark.promise("denied-at-once")
async def test_a_stopped_run_takes_back_no_denial_of_a_run_that_continues(
    fake: FakeClerk, client: AsyncSessionsApi
) -> None:
    """The second of two runs over the same sessions is still going to revoke them."""
    found = [fake.add_session(user_id="user_1") for _ in range(3)]
    ids, token, verifier = [each.id for each in found], fake.mint(found[2]), verifier_of(client)
    stopped: list[bool] = []
    fake.inject(Fault.hold(operation="revoke", count=2))
    first = asyncio.create_task(
        client.revoke_many(ids, concurrency=1, should_stop=lambda: bool(stopped))
    )
    await fake.until(lambda: fake.held == 1)
    second = asyncio.create_task(client.revoke_many(ids[1:], concurrency=1))
    await fake.until(lambda: fake.held == 2)
    fake.inject(Fault.hold(operation="revoke"))
    stopped.append(True)
    fake.release()
    assert (await first).not_attempted == 2
    await fake.until(lambda: fake.held == 1)
    assert await reason(verifier, token) is Reason.SESSION_REVOKED
    fake.release()
    assert (await second).ok


async def test_a_run_denies_what_it_revokes_although_it_was_allowed_meanwhile(
    fake: FakeClerk, client: AsyncSessionsApi
) -> None:
    """`allow` takes back what was denied until then; the revocation came later."""
    found = [fake.add_session(user_id="user_1") for _ in range(2)]
    token, verifier = fake.mint(found[1]), verifier_of(client)
    fake.inject(Fault.hold(operation="revoke"))
    task = asyncio.create_task(client.revoke_many([each.id for each in found], concurrency=1))
    await fake.until(lambda: fake.held == 1)
    await client.allow(session_id=found[1].id)
    assert await reason(verifier, token) is None
    fake.release()
    assert (await task).revoked == 2
    assert await reason(verifier, token) is Reason.SESSION_REVOKED


@pytest.mark.parametrize("kind", ["list", "stream"])
async def test_sessions_that_an_earlier_run_has_done_stay_denied(
    kind: str, fake: FakeClerk, client: AsyncSessionsApi, tmp_path: Path
) -> None:
    """They were revoked, perhaps just before the process was killed; a dry run denies nothing."""
    found = [fake.add_session(user_id="user_1") for _ in range(2)]
    token, verifier, journal = fake.mint(found[0]), verifier_of(client), tmp_path / "job.jsonl"
    async with client_of(fake) as earlier:
        await earlier.revoke_many([found[0].id], journal=journal)
    ids = [each.id for each in found]
    await client.revoke_many(ids, journal=journal, dry_run=True)
    assert await reason(verifier, token) is None
    report = await client.revoke_many(ids if kind == "list" else iter(ids), journal=journal)
    assert report.resumed == 1
    assert await reason(verifier, token) is Reason.SESSION_REVOKED


async def test_a_cancelled_run_allows_what_it_never_attempted(
    fake: FakeClerk, client: AsyncSessionsApi
) -> None:
    """A cancellation ends a run early like any stop."""
    found = [fake.add_session(user_id="user_1") for _ in range(10)]
    tokens = [fake.mint(each) for each in found]
    verifier = verifier_of(client)
    fake.inject(Fault.hold(operation="revoke", count=None))
    task = asyncio.create_task(client.revoke_many([each.id for each in found], concurrency=1))
    await fake.until(lambda: fake.held == 1)
    task.cancel()
    fake.release()
    with pytest.raises(asyncio.CancelledError):
        await task
    reasons = [await reason(verifier, token) for token in tokens]
    assert reasons.count(Reason.SESSION_REVOKED) == len(
        [request for request in fake.requests if request.operation == "revoke"]
    )


async def test_a_dry_run_denies_nothing(fake: FakeClerk, client: AsyncSessionsApi) -> None:
    """It only reports what would be done."""
    session = fake.add_session(user_id="user_1")
    verifier = verifier_of(client)
    await client.revoke_many([session.id], dry_run=True)
    await client.revoke_all(user_id="user_1", dry_run=True)
    assert await reason(verifier, fake.mint(session)) is None
    assert client.shared_status().denied == 0


async def test_a_client_without_a_verifier_keeps_few_denials(
    client: AsyncSessionsApi,
) -> None:
    """Nothing reads them, so it keeps some 10,000, the last. From the first verifier on, all."""
    for first in range(0, 30_000, 1000):
        client._denials.deny_sessions([f"sess_{number}" for number in range(first, first + 1000)])
    for number in range(30_000, 60_000):
        client._denials.deny_revoked(f"sess_{number}")
    kept = client.shared_status().denied
    assert 10_000 <= kept <= 11_000
    assert client._denials.denies("sess_50000")
    verifier_of(client)
    client._denials.deny_sessions([f"sess_more_{number}" for number in range(5000)])
    assert client.shared_status().denied == kept + 5000


# --- deny and allow ---


class Odd(str):
    """An id that hashes as it likes, as some enums do."""

    __slots__ = ()

    def __hash__(self) -> int:
        return 1


async def test_an_id_of_a_subclass_of_str_is_denied(
    fake: FakeClerk, client: AsyncSessionsApi
) -> None:
    """Its text counts, not the way it hashes or compares; the same holds for `allow`."""
    session = fake.add_session(user_id="user_1")
    token, verifier = fake.mint(session), verifier_of(client)
    await client.deny(session_id=Odd(session.id))
    assert await reason(verifier, token) is Reason.SESSION_REVOKED
    await client.allow(session_id=Odd(session.id))
    assert await reason(verifier, token) is None
    await client.revoke(Odd(session.id))
    assert await reason(verifier, token) is Reason.SESSION_REVOKED


async def test_no_user_id_means_everyone(fake: FakeClerk, client: AsyncSessionsApi) -> None:
    """`everyone=True` must be given explicitly, whatever a user id or an event contains."""
    token, verifier = fake.mint(fake.add_session(user_id="user_1")), verifier_of(client)
    await client.deny(user_id="*")
    receiver = AsyncWebhookReceiver(sessions=client, signing_secret=fake.webhook_secret)
    await receiver.receive(*fake.webhook("user.deleted", user_id="*"))
    assert await reason(verifier, token) is None
    await client.deny(everyone=True)
    assert await reason(verifier, token) is Reason.SESSION_REVOKED


@pytest.mark.promise("denied-at-once")
async def test_denying_a_user_rejects_tokens_issued_until_then(
    fake: FakeClerk, client: AsyncSessionsApi
) -> None:
    """Tokens issued until then, plus the clock skew, are rejected; later ones are accepted."""
    session = fake.add_session(user_id="user_1")
    other = fake.add_session(user_id="user_2")
    verifier = verifier_of(client, clock_skew=5.0)
    now = datetime.now(UTC)
    later = fake.mint(session, issued_at=now + timedelta(seconds=20))
    soon = fake.mint(session, issued_at=now + timedelta(seconds=3))
    await client.deny(user_id="user_1")
    ahead = AsyncTokenVerifier(
        sessions=client, authorized_parties=PARTIES, clock=lambda: now.timestamp() + 20
    )
    assert await reason(verifier, fake.mint(session)) is Reason.SESSION_REVOKED
    assert await reason(verifier, soon) is Reason.SESSION_REVOKED
    assert await reason(ahead, later) is None
    assert await reason(verifier, fake.mint(other)) is None
    await client.deny(everyone=True)
    assert await reason(verifier, fake.mint(other)) is Reason.SESSION_REVOKED
    await client.allow(everyone=True)
    assert await reason(verifier, fake.mint(other)) is None
    assert await reason(verifier, fake.mint(session)) is Reason.SESSION_REVOKED, (
        "its own value is kept"
    )


@pytest.mark.promise("denied-at-once")
@pytest.mark.parametrize("way", ["deny", "signed in before", "deleted"])
async def test_denying_a_user_covers_sessions_in_which_they_impersonate_others(
    way: str, fake: FakeClerk, client: AsyncSessionsApi
) -> None:
    """An attacker who took over an admin's account may act as any user."""
    verifier = verifier_of(client)
    tokens = [
        fake.mint(fake.add_session(user_id="user_1", actor=actor))
        for actor in ({"sub": "user_admin"}, {"sub": "user_helper"}, None)
    ]
    if way == "deleted":
        receiver = AsyncWebhookReceiver(sessions=client, signing_secret=fake.webhook_secret)
        await receiver.receive(*fake.webhook("user.deleted", user_id="user_admin"))
    else:
        before = datetime.now(UTC) if way == "signed in before" else None
        await client.deny(user_id="user_admin", signed_in_before=before)
    reasons = [await reason(verifier, token) for token in tokens]
    assert reasons == [Reason.SESSION_REVOKED, None, None]
    await client.allow(user_id="user_admin")
    assert [await reason(verifier, token) for token in tokens] == [None, None, None]


@pytest.mark.promise("denied-at-once")
@pytest.mark.parametrize(
    ("fva", "minutes_ago", "is_refused"),
    [
        ([10, -1], 5, True),  # signed in 10 minutes ago, before the cut-off 5 minutes ago
        ([2, -1], 5, False),
        ([4, -1], 5, True),  # it may have been 4 minutes 59 seconds: we take a minute earlier
        ([-1, -1], 5, True),
        (None, 5, True),
        ([1.5, -1], 5, True),  # no whole minutes: it can't be believed
        ([True, -1], 5, True),
        ([], 5, True),
    ],
)
async def test_signed_in_before_compares_the_time_of_the_sign_in(
    fva: list[float] | None,
    minutes_ago: int,
    is_refused: bool,
    fake: FakeClerk,
    client: AsyncSessionsApi,
) -> None:
    """By the first factor's age when the token was issued; a token without it is rejected."""
    session = fake.add_session(user_id="user_1")
    verifier = verifier_of(client)
    claims = (await verifier.verify(fake.mint(session))).to_dict()["raw"]
    claims.pop("fva", None)
    token = fake.sign(claims if fva is None else {**claims, "fva": fva})
    cut = datetime.now(UTC) - timedelta(minutes=minutes_ago)
    await client.deny(everyone=True, signed_in_before=cut)
    assert (await reason(verifier, token) is Reason.SESSION_REVOKED) is is_refused
    await client.allow(everyone=True, signed_in_before=cut)
    assert await reason(verifier, token) is None


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"session_id": "sess_1", "user_id": "user_1"},
        {"session_id": "sess_1", "everyone": True},
        {"user_id": "user_1", "everyone": True},
        {"session_id": "sess_1", "signed_in_before": datetime.now(UTC)},
        {"signed_in_before": datetime.now(UTC)},
        {"everyone": False},
        {"everyone": "yes"},
        {"everyone": True, "signed_in_before": datetime(2026, 1, 1)},  # noqa: DTZ001 - it is rejected
        {"everyone": True, "signed_in_before": 1_700_000_000},
        {"session_id": ""},
        {"session_id": "a/b"},
        {"user_id": 7},
    ],
)
async def test_deny_and_allow_require_exactly_one_subject(
    arguments: dict[str, Any], client: AsyncSessionsApi
) -> None:
    """So that nobody denies everyone by mistake."""
    for method in (client.deny, client.allow):
        with pytest.raises(InvalidArgumentError):
            await method(**arguments)
    assert client.shared_status().denied == 0


# --- check_session in seconds ---


@pytest.mark.promise("look-ups")
async def test_a_session_check_is_reused_for_the_given_seconds(
    fake: FakeClerk, client: AsyncSessionsApi
) -> None:
    """A session that was found ended stays rejected, and is not checked again."""
    time = [0.0]
    session = fake.add_session(user_id="user_1")
    verifier, token = verifier_of(client, monotonic=lambda: time[0]), fake.mint(session)
    for _ in range(3):
        await verifier.verify(token, check_session=30.0)
    assert asked(fake) == 1
    await verifier.verify(token, check_session=True)
    await verifier.verify(token, check_session=0)
    await verifier.verify(token, check_session=False)
    assert asked(fake) == 3
    session.status = "ended"
    time[0] = 29.0
    assert await reason(verifier, token, check_session=30) is None
    time[0] = 31.0
    assert await reason(verifier, token, check_session=30) is Reason.SESSION_INACTIVE
    time[0] = 4000.0
    assert await reason(verifier, token, check_session=30) is Reason.SESSION_INACTIVE
    assert asked(fake) == 4


@pytest.mark.promise("look-ups")
async def test_a_failed_session_check_is_not_reused(
    fake: FakeClerk, client: AsyncSessionsApi
) -> None:
    """The next request checks again."""
    session = fake.add_session(user_id="user_1")
    verifier, token = verifier_of(client), fake.mint(session)
    fake.inject(Fault.status(500, operation="get"))
    with pytest.raises(ServerError):
        await verifier.verify(token, check_session=30)
    await verifier.verify(token, check_session=30)
    assert asked(fake) == 2


@pytest.mark.promise("denied-at-once")
@pytest.mark.parametrize("max_age", [True, 30])
@pytest.mark.parametrize("way", ["verify", "request"])
async def test_a_denial_that_arrives_during_a_session_check_counts(
    way: str, max_age: float, fake: FakeClerk, client: AsyncSessionsApi
) -> None:
    """The service's response may be older than the denial."""
    session = fake.add_session(user_id="user_1")
    token = fake.mint(session)
    fake.inject(Fault.hold(operation="get"))
    verifier, request = verifier_of(client), {"authorization": f"Bearer {token}"}
    task = asyncio.create_task(
        reason(verifier, token, check_session=max_age)
        if way == "verify"
        else state_reason(verifier, request, check_session=max_age)
    )
    await fake.until(lambda: fake.held == 1)
    await client.deny(session_id=session.id)
    fake.release()
    assert await task is Reason.SESSION_REVOKED


@pytest.mark.promise("denied-at-once")
def test_a_denial_that_arrives_during_a_sync_session_check_counts(fake: FakeClerk) -> None:
    """The same holds in the sync verifier."""
    session = fake.add_session(user_id="user_1")
    token = fake.mint(session)
    fake.inject(Fault.hold(operation="get"))
    with sync_client_of(fake) as client, ThreadPoolExecutor(1) as pool:
        verifier = TokenVerifier(sessions=client, authorized_parties=PARTIES)
        check = pool.submit(verifier.verify, token, check_session=30)
        fake.wait_for(lambda: fake.held == 1)
        client.deny(session_id=session.id)
        fake.release()
        with pytest.raises(TokenVerificationError, match="revoked"):
            check.result(20)


@pytest.mark.promise("look-ups")
async def test_a_404_counts_only_for_the_given_seconds(
    fake: FakeClerk, client: AsyncSessionsApi
) -> None:
    """The service may not know a session for a moment after its start."""
    token, now = fake.mint(fake.add_session(user_id="user_1")), [0.0]
    verifier = verifier_of(client, monotonic=lambda: now[0])
    await verifier.warm_up()
    fake.inject(Fault.status(404, operation="get"))
    assert await reason(verifier, token, check_session=30) is Reason.SESSION_INACTIVE
    now[0] = 29.0
    assert await reason(verifier, token, check_session=30) is Reason.SESSION_INACTIVE
    assert asked(fake) == 1
    now[0] = 31.0
    assert await reason(verifier, token, check_session=30) is None


@pytest.mark.promise("look-ups")
async def test_tasks_share_a_session_check(fake: FakeClerk, client: AsyncSessionsApi) -> None:
    """Twenty concurrent requests of one page cost one request; True checks for each."""
    token = fake.mint(fake.add_session(user_id="user_1"))
    fake.inject(Fault.hold(operation="get"))
    verifier = verifier_of(client)
    tasks = [asyncio.create_task(verifier.verify(token, check_session=30)) for _ in range(20)]
    await fake.until(lambda: fake.held == 1)
    tasks[0].cancel()  # the others continue
    fake.release()
    await asyncio.gather(*tasks[1:])
    assert asked(fake) == 1
    await asyncio.gather(*[verifier.verify(token, check_session=True) for _ in range(3)])
    assert asked(fake) == 4


@pytest.mark.promise("look-ups")
async def test_a_session_check_that_comes_too_late_to_share_finds_its_result(
    fake: FakeClerk, client: AsyncSessionsApi
) -> None:
    """It is needed before the other ends and starts afterwards: one request serves both."""
    token = fake.mint(fake.add_session())
    verifier: Any = AsyncTokenVerifier(
        sessions=client, jwt_key=fake.jwt_key, authorized_parties=PARTIES
    )
    needs = _two_needs(verifier, token)
    assert [await verifier._meet(need) for need in needs] == ["active", "active"]
    assert asked(fake) == 1


@pytest.mark.promise("look-ups")
def test_a_sync_session_check_that_comes_too_late_to_share_finds_its_result(
    fake: FakeClerk,
) -> None:
    """The same holds in the sync verifier."""
    token = fake.mint(fake.add_session())
    with sync_client_of(fake) as client:
        verifier: Any = TokenVerifier(
            sessions=client, jwt_key=fake.jwt_key, authorized_parties=PARTIES
        )
        needs = _two_needs(verifier, token)
        assert [verifier._meet(need) for need in needs] == ["active", "active"]
    assert asked(fake) == 1


def _two_needs(verifier: Any, token: str) -> list[Any]:
    checks = [
        verifier._verification.verify(token, check_session=30, accept_pending=None)
        for _ in range(2)
    ]
    return [next(check) for check in checks]


@pytest.mark.promise("look-ups")
def test_threads_share_a_session_check(fake: FakeClerk) -> None:
    """The same holds in the sync verifier."""
    token = fake.mint(fake.add_session(user_id="user_1"))
    fake.inject(Fault.hold(operation="get"))
    with sync_client_of(fake) as client, ThreadPoolExecutor(10) as pool:
        verifier = TokenVerifier(sessions=client, authorized_parties=PARTIES)
        checks = [pool.submit(verifier.verify, token, check_session=30) for _ in range(10)]
        fake.wait_for(lambda: fake.held == 1)
        fake.release()
        assert {check.result(20).user_id for check in checks} == {"user_1"}
    assert asked(fake) == 1


@pytest.mark.parametrize("wrong", [-1, math.nan, math.inf, "30", None])
async def test_check_session_must_be_a_boolean_or_seconds(
    wrong: Any, fake: FakeClerk, client: AsyncSessionsApi
) -> None:
    """None is not False, and a string is not a number."""
    token = fake.mint(fake.add_session(user_id="user_1"))
    verifier = verifier_of(client)
    with pytest.raises(InvalidArgumentError, match="check_session"):
        await verifier.verify(token, check_session=wrong)
    with pytest.raises(InvalidArgumentError, match="check_session"):
        await verifier.authenticate_request({}, check_session=wrong)


@pytest.mark.parametrize("wrong", [0, -1, math.nan, True, "5"])
def test_denials_max_age_needs_a_shared_state_and_seconds(wrong: Any, fake: FakeClerk) -> None:
    """Without a shared state there is no age to check."""
    with sync_client_of(fake) as client:
        for value in (wrong, 5.0):
            with pytest.raises(ConfigurationError, match="denials_max_age"):
                TokenVerifier(sessions=client, authorized_parties=PARTIES, denials_max_age=value)
