"""The official Python SDK works unchanged against a FakeClerk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest
from clerk_backend_api import Clerk, models
from clerk_backend_api.security import AuthenticateRequestOptions, verify_token
from clerk_backend_api.security.types import TokenVerificationError, VerifyTokenOptions
from clerk_backend_api.utils import BackoffStrategy, RetryConfig

from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

ORIGIN = "http://localhost:3000"


@pytest.fixture
def clerk(fake: FakeClerk) -> Iterator[Clerk]:
    """Return the official client, configured only with the address and the key."""
    once = RetryConfig("backoff", BackoffStrategy(1, 1, 1.0, 1), retry_connection_errors=False)
    with Clerk(bearer_auth=fake.secret_key, server_url=fake.base_url, retry_config=once) as clerk:
        yield clerk


class TestOfficialSdk:
    def test_sessions_are_listed_newest_first(self, fake: FakeClerk, clerk: Clerk) -> None:
        made = [fake.add_session(user_id="user_1").id for _ in range(3)]
        fake.add_session(user_id="user_1", status="ended")
        listed = clerk.sessions.list(
            user_id="user_1", status=models.QueryParamStatus.ACTIVE, limit=2
        )
        assert [session.id for session in listed or []] == [made[2], made[1]]

    @pytest.mark.promise("any-sdk")
    def test_get_create_and_revoke_work(self, fake: FakeClerk, clerk: Clerk) -> None:
        fake.add_user("user_1")
        made = clerk.sessions.create(request=models.CreateSessionRequestBody(user_id="user_1"))
        assert clerk.sessions.get(session_id=made.id) == made
        assert clerk.sessions.revoke(session_id=made.id).status == "revoked"
        assert fake.sessions[made.id].status == "revoked"

    def test_every_status_of_the_contract_is_read(self, fake: FakeClerk, clerk: Clerk) -> None:
        for status in (
            "active",
            "revoked",
            "ended",
            "expired",
            "removed",
            "abandoned",
            "replaced",
            "pending",
        ):
            session = fake.add_session(
                status=status,
                last_active_organization_id="org_1",
                tasks=[{"key": "choose-organization"}],
                latest_activity={"object": "session_activity", "id": "a", "is_mobile": False},
            )
            assert clerk.sessions.get(session_id=session.id).status == status

    def test_tokens_verify_with_its_own_verifier(self, fake: FakeClerk, clerk: Clerk) -> None:
        session = fake.add_session()
        browsers = VerifyTokenOptions(jwt_key=fake.jwt_key, authorized_parties=[ORIGIN])
        assert verify_token(fake.mint(session), browsers)["sid"] == session.id
        fetched = VerifyTokenOptions(
            secret_key=fake.secret_key,
            api_url=fake.base_url.removesuffix("/v1"),
            authorized_parties=[ORIGIN],
        )
        assert verify_token(fake.mint(session), fetched)["sid"] == session.id
        assert fake.requests[-1].operation == "jwks"
        token = clerk.sessions.create_token(session_id=session.id, expires_in_seconds=90).jwt
        template = clerk.sessions.create_token_from_template(
            session_id=session.id, template_name="custom_hasura"
        ).jwt
        anybodys = VerifyTokenOptions(jwt_key=fake.jwt_key)
        assert verify_token(token or "", anybodys)["sid"] == session.id
        assert "sid" not in verify_token(template or "", anybodys)
        for partyless in (token, template):
            with pytest.raises(TokenVerificationError, match="azp"):
                verify_token(partyless or "", browsers)

    def test_a_browsers_requests_are_authenticated(self, fake: FakeClerk, clerk: Clerk) -> None:
        session = fake.add_session()
        options = AuthenticateRequestOptions(
            secret_key=fake.secret_key,
            jwt_key=fake.jwt_key,
            authorized_parties=[ORIGIN],
        )
        for headers in (
            {"Authorization": f"Bearer {fake.mint(session)}"},
            {"Cookie": f"__session={fake.mint(session)}"},
        ):
            request = httpx.Request("GET", "http://localhost:3000/me", headers=headers)
            state = clerk.authenticate_request(request, options)
            assert state.is_signed_in, state.message
            assert (state.payload or {})["sid"] == session.id

    def test_both_forms_of_a_refresh_work(self, fake: FakeClerk, clerk: Clerk) -> None:
        session = fake.add_session()
        for form, kind in (("token", models.Token), ("cookie", models.Cookies)):
            answer = clerk.sessions.refresh(
                session_id=session.id,
                expired_token=fake.expired_token(session),
                refresh_token=fake.refresh_token_for(session),
                request_origin=ORIGIN,
                format_=models.Format(form),
            )
            assert type(answer).__name__.endswith(kind.__name__)

    def test_errors_are_read_as_clerk_errors(self, fake: FakeClerk, clerk: Clerk) -> None:
        with pytest.raises(models.ClerkErrors) as caught:
            clerk.sessions.get(session_id="sess_no")
        assert caught.value.status_code == 404
        assert caught.value.data.errors[0].code == "resource_not_found"
        fake.inject(Fault.html(502, count=None))
        with pytest.raises(models.SDKError) as failed:
            clerk.sessions.revoke(session_id="sess_no")
        assert failed.value.status_code == 502

    def test_the_key_set_is_read(self, fake: FakeClerk, clerk: Clerk) -> None:
        fake.add_key(algorithm="ES256")
        fake.add_key(algorithm="EdDSA")
        keys = clerk.jwks.get_jwks().keys or []
        assert [key.kid for key in keys] == [key["kid"] for key in fake.jwk_set["keys"]]

    async def test_its_async_methods_work_too(self, fake: FakeClerk) -> None:
        session = fake.add_session(user_id="user_1")
        async with Clerk(bearer_auth=fake.secret_key, server_url=fake.base_url) as clerk:
            listed = await clerk.sessions.list_async(user_id="user_1")
            assert [found.id for found in listed or []] == [session.id]
            assert (await clerk.sessions.revoke_async(session_id=session.id)).status == "revoked"
