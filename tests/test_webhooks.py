"""Clerk's webhooks: only events signed by Clerk are applied, as of their own time."""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import json
import pickle
import time
from typing import TYPE_CHECKING, Any

import pytest
from clients import client_of, sync_client_of
from hypothesis import given, settings
from hypothesis import strategies as st

from clerk_async import (
    AsyncTokenVerifier,
    AsyncWebhookReceiver,
    ConfigurationError,
    InvalidArgumentError,
    TokenVerificationError,
    TokenVerifier,
    WebhookReceiver,
    WebhookVerificationError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from clerk_async import AsyncSessionsApi
    from clerk_async.testing import FakeClerk
    from clerk_async.testing.state import FakeSession

SECRET = "whsec_" + base64.b64encode(b"a signing secret of 32 bytes....").decode()
OTHER = "whsec_" + base64.b64encode(b"another signing secret, 32 bytes").decode()
PARTIES = ["http://localhost:3000"]


def signed(
    body: bytes, *, secret: str = SECRET, at: float | None = None, delivery: str = "msg_1"
) -> dict[str, str]:
    """Sign a body by the rules of Standard Webhooks, with Clerk's header names."""
    sent_at = str(int(time.time() if at is None else at))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    content = f"{delivery}.{sent_at}.".encode() + body
    signature = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    return {
        "svix-id": delivery,
        "svix-timestamp": sent_at,
        "svix-signature": f"v1,{signature}",
    }


def event(kind: str, data: Mapping[str, Any], *, at: float | None = None) -> bytes:
    """Make the body of an event."""
    moment = int(1000 * (time.time() if at is None else at))
    envelope = {"object": "event", "type": kind, "timestamp": moment, "instance_id": "ins_1"}
    return json.dumps({**envelope, "data": dict(data)}).encode()


def of_session(session: FakeSession, status: str = "revoked") -> dict[str, Any]:
    """Return the data of a session event."""
    moment = int(1000 * time.time())
    times = ("last_active_at", "expire_at", "abandon_at", "updated_at", "created_at")
    who = {"id": session.id, "user_id": session.user_id, "client_id": "client_1"}
    return {"object": "session", **who, "status": status, **dict.fromkeys(times, moment)}


@pytest.fixture
async def client(fake: FakeClerk) -> AsyncIterator[AsyncSessionsApi]:
    """Return a client."""
    async with client_of(fake) as client:
        yield client


async def refusal(client: AsyncSessionsApi, token: str) -> str | None:
    """Return why a verifier of the client rejects a token."""
    verifier = AsyncTokenVerifier(sessions=client, authorized_parties=PARTIES)
    try:
        await verifier.verify(token)
    except TokenVerificationError as error:
        return error.reason
    return None


@pytest.mark.promise("webhooks")
@pytest.mark.parametrize("kind", ["session.revoked", "session.ended", "session.removed"])
async def test_the_end_of_a_session_denies_it(
    kind: str, fake: FakeClerk, client: AsyncSessionsApi
) -> None:
    """The event has the session, and verifiers reject its tokens."""
    session = fake.add_session(user_id="user_1")
    token = fake.mint(session)
    receiver = AsyncWebhookReceiver(sessions=client, signing_secret=SECRET)
    now = time.time()
    body = event(kind, of_session(session), at=now)
    received = await receiver.receive(signed(body), body)
    assert (received.type, received.id, received.instance_id) == (kind, "msg_1", "ins_1")
    assert received.session is not None
    assert received.session.id == session.id
    assert received.time.timestamp() == pytest.approx(now, abs=0.001)
    assert received.time.tzinfo is not None
    assert await refusal(client, token) == "session-revoked"
    with pytest.raises(TypeError):
        received.data["id"] = "sess_other"  # type: ignore[index] # it can't be changed


@pytest.mark.promise("webhooks")
async def test_a_deleted_user_is_denied_whatever_the_tokens_iat(
    fake: FakeClerk, client: AsyncSessionsApi
) -> None:
    """Even for tokens with a later iat: nobody can sign in as a deleted user."""
    session = fake.add_session(user_id="user_1")
    receiver = AsyncWebhookReceiver(sessions=client, signing_secret=SECRET)
    deleted = {"id": "user_1", "object": "user", "deleted": True}
    body = event("user.deleted", deleted, at=time.time() - 60)
    received = await receiver.receive(signed(body), body)
    assert received.session is None
    assert await refusal(client, fake.mint(session)) == "session-revoked"
    later = fake.mint(session, issued_at=time.time() + 4)
    assert await refusal(client, later) == "session-revoked"


@pytest.mark.promise("webhooks")
async def test_a_pending_session_is_cut_off_and_not_locked(
    fake: FakeClerk, client: AsyncSessionsApi
) -> None:
    """No event says when its user has completed the task, so later tokens are accepted."""
    session = fake.add_session(user_id="user_1")
    receiver = AsyncWebhookReceiver(sessions=client, signing_secret=SECRET)
    now = time.time()
    body = event("session.pending", of_session(session, "pending"), at=now - 30)
    await receiver.receive(signed(body), body)
    before = fake.mint(session, issued_at=now - 32)
    assert await refusal(client, before) == "session-revoked"
    assert await refusal(client, fake.mint(session)) is None


@pytest.mark.promise("webhooks")
async def test_a_token_after_a_pending_session_is_accepted_at_once(
    fake: FakeClerk, client: AsyncSessionsApi
) -> None:
    """The event and the tokens have the time of the same clock: no skew between them."""
    session = fake.add_session(user_id="user_1")
    receiver = AsyncWebhookReceiver(sessions=client, signing_secret=SECRET)
    now = time.time()
    body = event("session.pending", of_session(session, "pending"), at=now - 2)
    await receiver.receive(signed(body), body)
    assert await refusal(client, fake.mint(session, issued_at=now - 4)) == "session-revoked"
    assert await refusal(client, fake.mint(session)) is None


@pytest.mark.promise("webhooks")
async def test_a_pending_token_is_not_cut_off_where_it_is_accepted(
    fake: FakeClerk, client: AsyncSessionsApi
) -> None:
    """It says itself that its session is pending: the event adds nothing."""
    session = fake.add_session(user_id="user_1", status="pending")
    before = fake.add_session(user_id="user_1", session_id="sess_2")
    token, early = fake.mint(session), fake.mint(before)
    receiver = AsyncWebhookReceiver(sessions=client, signing_secret=SECRET)
    for whose in (session, before):
        body = event("session.pending", of_session(whose, "pending"), at=time.time() + 1)
        await receiver.receive(signed(body), body)
    verifier = AsyncTokenVerifier(sessions=client, authorized_parties=PARTIES, accept_pending=True)
    assert (await verifier.verify(token)).status == "pending"
    with pytest.raises(TokenVerificationError, match="revoked"):
        await verifier.verify(early)
    await client.deny(session_id=session.id)
    with pytest.raises(TokenVerificationError, match="revoked"):
        await verifier.verify(token)


async def test_other_events_are_returned(fake: FakeClerk, client: AsyncSessionsApi) -> None:
    """They are verified and change nothing."""
    session = fake.add_session(user_id="user_1")
    receiver = AsyncWebhookReceiver(sessions=client, signing_secret=SECRET)
    for kind, data in (
        ("session.created", of_session(session, "active")),
        ("user.updated", {"id": "user_1"}),
        ("organization.deleted", {"id": "org_1"}),
    ):
        body = event(kind, data)
        assert (await receiver.receive(signed(body), body)).type == kind
    assert client.shared_status().denied == 0


@pytest.mark.promise("webhooks")
@pytest.mark.parametrize("seconds", [-60, 30])
async def test_a_late_or_repeated_event_undoes_no_later_allow(
    seconds: int, fake: FakeClerk, client: AsyncSessionsApi
) -> None:
    """The event's own time counts, not that of its delivery, even if our clock is behind."""
    session = fake.add_session(user_id="user_1")
    receiver = AsyncWebhookReceiver(sessions=client, signing_secret=SECRET)
    body = event("session.revoked", of_session(session), at=time.time() + seconds)
    await receiver.receive(signed(body), body)
    assert await refusal(client, fake.mint(session)) == "session-revoked"
    await client.allow(session_id=session.id)
    await receiver.receive(signed(body), body)
    assert await refusal(client, fake.mint(session)) is None
    await client.deny(session_id=session.id)
    assert await refusal(client, fake.mint(session)) == "session-revoked"


def test_the_sync_receiver_works_the_same_way(fake: FakeClerk) -> None:
    """From the thread of a request."""
    session = fake.add_session(user_id="user_1")
    with sync_client_of(fake) as client:
        receiver = WebhookReceiver(sessions=client, signing_secret=SECRET)
        verifier = TokenVerifier(sessions=client, authorized_parties=PARTIES)
        token = fake.mint(session)
        assert verifier.verify(token)
        body = event("session.ended", of_session(session, "ended"))
        assert receiver.receive(signed(body), body).type == "session.ended"
        with pytest.raises(TokenVerificationError):
            verifier.verify(token)


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [(1_716_883_200, 1_716_883_200.0), (1_716_883_200_500, 1_716_883_200.5)],
)
async def test_a_time_is_seconds_or_milliseconds_by_its_size(
    timestamp: int, expected: float, client: AsyncSessionsApi
) -> None:
    """Clerk's documentation has milliseconds, the examples of its contract have seconds."""
    receiver = AsyncWebhookReceiver(sessions=client, signing_secret=SECRET)
    body = json.dumps({"type": "user.updated", "data": {}, "timestamp": timestamp}).encode()
    assert (await receiver.receive(signed(body), body)).time.timestamp() == expected


@pytest.mark.parametrize("timestamp", [None, "soon", -1, 10**30, 1.5, True])
async def test_an_unreadable_time_is_replaced_by_that_of_the_delivery(
    timestamp: object, client: AsyncSessionsApi
) -> None:
    """It is the closest known time."""
    receiver = AsyncWebhookReceiver(sessions=client, signing_secret=SECRET)
    body = json.dumps({"type": "user.updated", "data": {}, "timestamp": timestamp}).encode()
    headers = signed(body)
    received = await receiver.receive(headers, body)
    assert received.time.timestamp() == float(headers["svix-timestamp"])


BODY = event("user.updated", {"id": "user_1"})
FORGED: dict[str, tuple[dict[str, str | None], bytes]] = {
    "no id": ({"svix-id": None}, BODY),
    "no time": ({"svix-timestamp": None}, BODY),
    "no signature": ({"svix-signature": None}, BODY),
    "empty": ({"svix-signature": ""}, BODY),
    "junk": ({"svix-signature": "%%%"}, BODY),
    "junk base64": ({"svix-signature": "v1,!!!!"}, BODY),
    "no comma": ({"svix-signature": "v1"}, BODY),
    "other version": ({"svix-signature": "v2,AAAA"}, BODY),
    "not ascii": ({"svix-signature": "v1,é"}, BODY),
    "lone surrogate": ({"svix-id": "\ud800"}, BODY),
    "time is a word": ({"svix-timestamp": "now"}, BODY),
    "time is NaN": ({"svix-timestamp": "nan"}, BODY),
    "time is huge": ({"svix-timestamp": "9" * 400}, BODY),
    "time is negative": ({"svix-timestamp": "-1"}, BODY),
    "time in other digits": ({"svix-timestamp": "١٢٣"}, BODY),
    "other id": ({"svix-id": "msg_2"}, BODY),
    "other body": ({}, BODY + b" "),
    "not UTF-8": ({}, b"\xff\xfe" + BODY),
}


@pytest.mark.promise("webhooks")
@pytest.mark.parametrize("name", FORGED)
async def test_whatever_a_forger_sends_raises_our_error(
    name: str, client: AsyncSessionsApi
) -> None:
    """A 400, never a 500; nothing of the input is shown."""
    receiver = AsyncWebhookReceiver(sessions=client, signing_secret=SECRET)
    changes, body = FORGED[name]
    headers = {
        key: value for key, value in {**signed(BODY), **changes}.items() if value is not None
    }
    with pytest.raises(WebhookVerificationError) as caught:
        await receiver.receive(headers, body)
    assert caught.value.__cause__ is None
    assert SECRET not in str(caught.value) + repr(receiver)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"Svix-Id": "msg_2"}, "svix-id comes with several values"),
        ({"SVIX-TIMESTAMP": "1"}, "svix-timestamp comes with several values"),
        ({"svix-id": ""}, "svix-id is missing"),
        ({"svix-timestamp": "1.5"}, "not a Unix time in seconds"),
        ({"svix-timestamp": "+17"}, "not a Unix time in seconds"),
    ],
)
async def test_the_message_names_the_header(
    changes: dict[str, str], told: str, client: AsyncSessionsApi
) -> None:
    """Two values of one header are ambiguous, even if one of them is right."""
    receiver = AsyncWebhookReceiver(sessions=client, signing_secret=SECRET)
    with pytest.raises(WebhookVerificationError, match=told):
        await receiver.receive({**signed(BODY), **changes}, BODY)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"{", b'{"type": 1, "data": {}}', b'{"type": "a"}', b"[" * 9999]
)
async def test_an_unusable_signed_body_is_rejected(body: bytes, client: AsyncSessionsApi) -> None:
    """Even if Clerk signed it."""
    receiver = AsyncWebhookReceiver(sessions=client, signing_secret=SECRET)
    with pytest.raises(WebhookVerificationError):
        await receiver.receive(signed(body), body)


@pytest.mark.parametrize("offset", [-301, 330])
async def test_a_delivery_more_than_five_minutes_off_is_rejected(
    offset: float, client: AsyncSessionsApi
) -> None:
    """A recorded delivery can't be replayed later."""
    receiver = AsyncWebhookReceiver(sessions=client, signing_secret=SECRET)
    headers = signed(BODY, at=time.time() + offset)
    with pytest.raises(WebhookVerificationError, match="timestamp"):
        await receiver.receive(headers, BODY)


@pytest.mark.parametrize("secret", [[OTHER, SECRET], f"{OTHER} {SECRET}"])
async def test_two_secrets_are_accepted_during_a_rotation(
    secret: str | list[str], client: AsyncSessionsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a list, or separated by spaces in the environment; one matching signature is enough."""
    if isinstance(secret, str):
        monkeypatch.setenv("CLERK_WEBHOOK_SIGNING_SECRET", secret)
    receiver = AsyncWebhookReceiver(
        sessions=client, signing_secret=None if isinstance(secret, str) else secret
    )
    for signer in (SECRET, OTHER):
        await receiver.receive(signed(BODY, secret=signer), BODY)
    headers = signed(BODY)
    headers["svix-signature"] = f"junk v1,@@ v1a,abc  {headers['svix-signature']}"
    await receiver.receive(headers, BODY)


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "whsec_@@@", [], [""], "whsec_==", [None], 7, SECRET.encode()]
)
def test_an_unusable_secret_is_rejected_at_construction(
    secret: Any, client: AsyncSessionsApi
) -> None:
    """Anybody could sign with an empty key."""
    with pytest.raises(ConfigurationError):
        AsyncWebhookReceiver(sessions=client, signing_secret=secret)


async def test_a_missing_secret_raises_at_the_first_webhook(
    client: AsyncSessionsApi, fake: FakeClerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An app can be imported without secrets; the environment is read then, once."""
    receiver = AsyncWebhookReceiver(sessions=client)
    sync_receiver = WebhookReceiver(sessions=sync_client_of(fake))
    with pytest.raises(ConfigurationError, match="CLERK_WEBHOOK_SIGNING_SECRET"):
        await receiver.receive(signed(BODY), BODY)
    with pytest.raises(ConfigurationError, match="CLERK_WEBHOOK_SIGNING_SECRET"):
        sync_receiver.receive(signed(BODY), BODY)
    monkeypatch.setenv("CLERK_WEBHOOK_SIGNING_SECRET", SECRET)
    await receiver.receive(signed(BODY), BODY)
    monkeypatch.setenv("CLERK_WEBHOOK_SIGNING_SECRET", OTHER)
    await receiver.receive(signed(BODY), BODY)
    monkeypatch.setenv("CLERK_WEBHOOK_SIGNING_SECRET", "whsec_@@@")
    with pytest.raises(ConfigurationError):
        AsyncWebhookReceiver(sessions=client)


async def test_an_event_can_be_pickled_and_copied(
    fake: FakeClerk, client: AsyncSessionsApi
) -> None:
    """So that a queue can hand it to a worker; its data stays read-only."""
    session = fake.add_session(user_id="user_1", actor={"sub": "user_2"})
    receiver = AsyncWebhookReceiver(sessions=client, signing_secret=fake.webhook_secret)
    received = await receiver.receive(*fake.webhook("session.created", session))
    for one in (pickle.loads(pickle.dumps(received)), copy.deepcopy(received)):  # noqa: S301 - ours
        assert one == received
        assert one.session == received.session
        with pytest.raises(TypeError):
            one.data["actor"]["sub"] = "user_3"


@pytest.mark.parametrize("body", ["text", {"type": "a"}, None, 7])
async def test_a_parsed_body_is_rejected_with_a_hint(body: Any, client: AsyncSessionsApi) -> None:
    """The message says how to get the raw bytes."""
    receiver = AsyncWebhookReceiver(sessions=client, signing_secret=SECRET)
    with pytest.raises(InvalidArgumentError, match=r"request\.body"):
        await receiver.receive(signed(BODY), body)


@settings(max_examples=150)
@given(
    headers=st.dictionaries(
        st.sampled_from(["svix-id", "svix-timestamp", "svix-signature", "Svix-Id"]),
        st.text(max_size=80) | st.lists(st.text(max_size=20), max_size=3),
    ),
    body=st.binary(max_size=200),
)
def test_any_headers_and_body_raise_only_our_error(
    headers: dict[str, Any], body: bytes, fake: FakeClerk
) -> None:
    """They cause no other exception and no event."""
    with sync_client_of(fake) as client:
        receiver = WebhookReceiver(sessions=client, signing_secret=SECRET)
        with pytest.raises(WebhookVerificationError):
            receiver.receive(headers, body)
