"""FakeClerk signs and sends events as Clerk does through Svix."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from fake_calls import post
from standardwebhooks import Webhook, WebhookVerificationError

from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

ENVELOPE = {"data", "event_attributes", "instance_id", "object", "timestamp", "type"}
USER = set(
    """
    id object username first_name last_name has_image primary_email_address_id
    primary_phone_number_id primary_web3_wallet_id password_enabled two_factor_enabled totp_enabled
    backup_code_enabled email_addresses phone_numbers web3_wallets passkeys external_accounts
    saml_accounts enterprise_accounts public_metadata external_id last_sign_in_at banned locked
    lockout_expires_in_seconds verification_attempts_remaining created_at updated_at
    delete_self_enabled create_organization_enabled last_active_at mfa_enabled_at mfa_disabled_at
    legal_accepted_at
    """.split()  # noqa: SIM905 - what the contract requires of a user
)


def verified(fake: FakeClerk, headers: dict[str, str], body: bytes) -> Any:
    """Return what the published Standard Webhooks library reads, given Svix's header names."""
    renamed = {name.replace("svix-", "webhook-"): value for name, value in headers.items()}
    return Webhook(fake.webhook_secret).verify(body, renamed)


class TestSigned:
    @pytest.mark.promise("fake-webhooks")
    @pytest.mark.parametrize("kind", ["created", "pending", "ended", "removed", "revoked"])
    def test_a_session_event_matches_the_contract(self, fake: FakeClerk, kind: str) -> None:
        """Envelope, session and user; the status is the one in the event's name."""
        session = fake.add_session(user_id="user_1", activity={"city": "Oslo"})
        headers, body = fake.webhook(f"session.{kind}", session)
        event = verified(fake, headers, body)
        assert set(event) == ENVELOPE
        assert (event["object"], event["type"]) == ("event", f"session.{kind}")
        assert event["instance_id"] == fake.instance_id
        assert abs(event["timestamp"] / 1000 - datetime.now(UTC).timestamp()) < 60
        status = "active" if kind == "created" else kind
        user = event["data"].pop("user")
        assert event["data"] == {**session.as_json(), "status": status}
        assert set(user) >= USER
        assert (user["object"], user["id"]) == ("user", "user_1")
        assert session.status == "active"

    @pytest.mark.promise("fake-webhooks")
    def test_a_deleted_user_event_matches_the_contract(self, fake: FakeClerk) -> None:
        """It has the id, and says that the user is deleted."""
        event = verified(fake, *fake.webhook("user.deleted", user_id="user_1"))
        assert event["data"] == {"object": "user", "id": "user_1", "deleted": True}

    def test_any_other_event_has_the_given_data(self, fake: FakeClerk) -> None:
        """Receivers pass those on."""
        event = verified(fake, *fake.webhook("user.updated", data={"id": "user_1"}))
        assert (event["type"], event["data"]) == ("user.updated", {"id": "user_1"})

    def test_event_and_delivery_have_separate_times(self, fake: FakeClerk) -> None:
        """An event can be late, or arrive twice."""
        now = datetime.now(UTC)
        session = fake.add_session()
        headers, body = fake.webhook(
            "session.revoked",
            session.id,
            happened_at=now - timedelta(hours=10),
            sent_at=now - timedelta(seconds=20),
            message_id="msg_1",
        )
        event = verified(fake, headers, body)
        assert event["timestamp"] == round((now - timedelta(hours=10)).timestamp() * 1000)
        assert headers["svix-timestamp"] == str(int(now.timestamp() - 20))
        assert headers["svix-id"] == "msg_1"
        ids = {fake.webhook("session.revoked", session)[0]["svix-id"] for _ in range(20)}
        assert len(ids) == 20

    def test_it_can_be_signed_with_another_secret(self, fake: FakeClerk) -> None:
        """A secret that is being rotated, or a forger's."""
        other = FakeClerk(seed=7)
        assert other.webhook_secret != fake.webhook_secret
        signed = fake.webhook("user.deleted", user_id="u", secret=other.webhook_secret)
        assert verified(other, *signed)["data"]["id"] == "u"
        with pytest.raises(WebhookVerificationError):
            verified(fake, *signed)

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            (("session.revoked",), TypeError),
            (("session.revoked", "sess_no"), KeyError),
            (("user.deleted",), TypeError),
            (("user.deleted", None, 7), TypeError),
            (("user.updated",), TypeError),
            ((7,), TypeError),
        ],
    )
    def test_an_event_requires_its_data(
        self, fake: FakeClerk, arguments: tuple[Any, ...], error: type[Exception]
    ) -> None:
        """The error names what is missing."""
        type_, session, user_id = [*arguments, None, None][:3]
        webhook: Any = fake.webhook
        with pytest.raises(error):
            webhook(type_, session, user_id=user_id)

    def test_invalid_events_are_rejected(self, fake: FakeClerk) -> None:
        """The error is raised where they are written."""
        wrong: list[tuple[Any, type[Exception]]] = [
            ({"happened_at": datetime(2026, 1, 1)}, ValueError),  # noqa: DTZ001 - it is rejected
            ({"sent_at": "now"}, TypeError),
            ({"secret": "whsec_?"}, ValueError),
            ({"data": []}, TypeError),
        ]
        for told, error in wrong:
            with pytest.raises(error):
                fake.webhook("user.deleted", user_id="user_1", **told)
        for url in ("", "localhost:8000", "ftp://x", "http://"):
            with pytest.raises(ValueError, match="receiver"):
                fake.send_webhooks_to(url)


@asynccontextmanager
async def receiving(
    status: int = 204, *first: int
) -> AsyncGenerator[tuple[str, list[tuple[Any, bytes]]]]:
    """Run a receiver of events; yield its URL and what arrives."""
    arrived: list[tuple[Any, bytes]] = []

    async def receive(request: web.Request) -> web.Response:
        arrived.append((dict(request.headers), await request.read()))
        return web.Response(status=[*first, status][min(len(arrived) - 1, len(first))])

    app = web.Application()
    app.router.add_post("/webhooks", receive)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"http://127.0.0.1:{port}/webhooks", arrived
    finally:
        await runner.cleanup()


@pytest.mark.filterwarnings("ignore:Setting custom Request:DeprecationWarning")  # aiohttp 3.14.1
class TestSent:
    @pytest.mark.promise("fake-webhooks")
    async def test_each_change_of_state_is_sent(self, fake: FakeClerk) -> None:
        """Changes by requests and by the test are sent in order, signed."""
        quiet = fake.add_session()
        async with receiving() as (url, arrived):
            fake.send_webhooks_to(url)
            fake.add_session(status="ended")
            session = fake.add_session(user_id="user_1")
            waiting = fake.add_session(user_id="user_1", status="pending")
            waiting.status = "active"
            waiting.status = "pending"
            waiting.status = "removed"
            quiet.status = quiet.status = "ended"
            revoke = f"/sessions/{session.id}/revoke"
            await asyncio.to_thread(post, fake, revoke)
            await asyncio.to_thread(post, fake, revoke)
            await asyncio.to_thread(post, fake, "/sessions", {"user_id": "user_1"})
            fake.remove_user("user_1")
            fake.remove_user("user_nobody")
            await fake.until(lambda: sum(each.is_done for each in fake.deliveries) == 8)
            fake.send_webhooks_to(None)
            fake.add_session()
        events = [
            verified(fake, {name.lower(): value for name, value in headers.items()}, body)
            for headers, body in arrived
        ]
        assert [(event["type"], event["data"]["id"]) for event in events[:6]] == [
            ("session.created", session.id),
            ("session.pending", waiting.id),
            ("session.pending", waiting.id),
            ("session.removed", waiting.id),
            ("session.ended", quiet.id),
            ("session.revoked", session.id),
        ]
        assert [event["type"] for event in events[6:]] == ["session.created", "user.deleted"]
        assert [each.status for each in fake.deliveries] == [204] * 8
        assert len({headers["svix-id"] for headers, _ in arrived}) == 8

    async def test_the_result_of_each_delivery_is_reported(self, fake: FakeClerk) -> None:
        """Even if nothing listens; a receiver that rejects an event is called once."""
        async with receiving(status=400) as (url, arrived):
            fake.send_webhooks_to(url)
            session = fake.add_session()
            await fake.until(lambda: fake.deliveries and fake.deliveries[-1].is_done)
        session.status = "revoked"
        await fake.until(lambda: fake.deliveries[-1].is_done)
        refused, lost = fake.deliveries
        assert (refused.type, refused.status, refused.error) == ("session.created", 400, None)
        assert (lost.type, lost.status) == ("session.revoked", None)
        assert "Connect" in (lost.error or "")
        assert len(arrived) == 1
        assert json.loads(lost.body)["data"]["status"] == "revoked"

    @pytest.mark.promise("fake-webhooks")
    async def test_a_rejected_event_is_sent_again(self, fake: FakeClerk) -> None:
        """With the same id and a new signature, after later events, as often as was set."""
        async with receiving(204, 500, 302, 503) as (url, arrived):
            fake.send_webhooks_to(url, retry_after=[0.05, 0.02])
            fake.add_session(session_id="sess_1")
            fake.add_session(session_id="sess_2")
            await fake.until(lambda: all(each.is_done for each in fake.deliveries))
        first, second = fake.deliveries
        assert [(each.status, each.attempts) for each in (first, second)] == [(204, 3), (204, 2)]
        ids = [json.loads(body)["data"]["id"] for _, body in arrived]
        assert ids[:3] == ["sess_1", "sess_2", "sess_1"]
        assert sorted(ids) == ["sess_1"] * 3 + ["sess_2"] * 2
        assert len({headers["svix-id"] for headers, _ in arrived}) == 2
        for headers, body in arrived:
            verified(fake, {name.lower(): value for name, value in headers.items()}, body)

    async def test_it_gives_up_after_the_last_attempt(self, fake: FakeClerk) -> None:
        """A reset ends the attempts earlier."""
        async with receiving(503) as (url, arrived):
            fake.send_webhooks_to(url, retry_after=[0.01, 0.01])
            fake.add_session()
            await fake.until(lambda: fake.deliveries[0].is_done)
            (lost,) = fake.deliveries
            assert (lost.status, lost.error, lost.attempts, len(arrived)) == (503, None, 3, 3)
            fake.send_webhooks_to(url, retry_after=[3600])
            fake.add_session()
            waiting = fake.deliveries[1]
            await fake.until(lambda: waiting.status == 503)
            assert not waiting.is_done
            fake.reset()
            await fake.until(lambda: waiting.is_done)
        for wrong, error in ((["soon"], TypeError), ([-1], ValueError)):
            with pytest.raises(error):
                fake.send_webhooks_to("http://127.0.0.1:9/", retry_after=wrong)  # type: ignore[arg-type]

    async def test_a_slow_receiver_does_not_delay_the_api(self, fake: FakeClerk) -> None:
        """Stopping the fake does not wait for it either."""
        with socket.create_server(("127.0.0.1", 0)) as never_accepts:
            fake.send_webhooks_to(f"http://127.0.0.1:{never_accepts.getsockname()[1]}/webhooks")
            session = fake.add_session()
            fake.inject(Fault.delayed(0.001))
            reply = await asyncio.to_thread(post, fake, f"/sessions/{session.id}/revoke")
            assert reply.status == 200
            assert not fake.deliveries[0].is_done
            await asyncio.wait_for(asyncio.to_thread(fake.stop), 10)
            fake.add_session()
        assert fake.deliveries[0].error == "the fake was stopped"
        assert fake.deliveries[-1].error == "the fake is not running"

    async def test_reset_stops_sending_events(self, fake: FakeClerk) -> None:
        """The next test has its own receiver, or none."""
        fake.send_webhooks_to("http://127.0.0.1:9/webhooks")
        fake.add_session()
        fake.reset()
        fake.add_session()
        assert fake.deliveries == []
