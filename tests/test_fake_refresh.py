"""FakeClerk refreshes valid requests, and rejects others with a 401 that says why."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from fake_calls import Reply, post

from clerk_async.testing import FakeClerk, FakeSession
from clerk_async.testing.keys import unb64

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TEMPLATE = "cl_B7d4PD222AAA"
NOW = 1_800_000_000
ORIGIN = "http://localhost:3000"


@pytest.fixture
def fake() -> Iterator[FakeClerk]:
    """Yield a fake with a frozen clock."""
    with FakeClerk(clock=lambda: NOW) as fake:
        yield fake


@pytest.fixture
def session(fake: FakeClerk) -> FakeSession:
    """Return a session that can be refreshed."""
    return fake.add_session(user_id="user_1")


def body(fake: FakeClerk, session: FakeSession, **changes: Any) -> dict[str, Any]:
    """Return the body of a valid refresh request, with changes."""
    usual = {
        "expired_token": fake.expired_token(session),
        "refresh_token": fake.refresh_token_for(session.id),
        "request_origin": ORIGIN,
    }
    return {**usual, **changes}


def refresh(fake: FakeClerk, session: FakeSession, **changes: Any) -> Reply:
    """Send a refresh request."""
    return post(fake, f"/sessions/{session.id}/refresh", body(fake, session, **changes))


class TestAnswers:
    def test_a_refresh_returns_a_new_token(self, fake: FakeClerk, session: FakeSession) -> None:
        for extra in ({}, {"format": "token"}, {"format": None, "request_headers": {"a": ["b"]}}):
            reply = refresh(fake, session, **extra)
            assert reply.status == 200
            assert reply.json["object"] == "token"
            verified = post(fake, f"/sessions/{session.id}/verify", {"token": reply.json["jwt"]})
            assert verified.status == 200

    @pytest.mark.promise("fake-not-kinder")
    @pytest.mark.parametrize("asked", ["", "?suffixed_cookies=false", "?suffixed_cookies=true"])
    def test_cookies_have_the_requested_names(
        self, fake: FakeClerk, session: FakeSession, asked: str
    ) -> None:
        """They have the instance's suffix if the query asks for it, otherwise none."""
        asks = body(fake, session, format="cookie", request_originating_ip="203.0.113.7")
        reply = post(fake, f"/sessions/{session.id}/refresh{asked}", asks)
        assert reply.json["object"] == "cookies"
        named = dict(line.split("=", 1) for line in reply.json["cookies"])
        suffix = f"_{fake.cookie_suffix}" if asked.endswith("true") else ""
        refresh_name = f"__refresh_{fake.cookie_suffix}"  # Clerk's SDKs require the suffix
        assert list(named) == [f"__session{suffix}", refresh_name, f"__client_uat{suffix}"]
        assert named[refresh_name].startswith(f"{session.refresh_token};")
        assert "HttpOnly" in named[refresh_name]
        token = named[f"__session{suffix}"].partition(";")[0]
        verified = post(fake, f"/sessions/{session.id}/verify", {"token": token})
        assert verified.status == 200
        assert int(named[f"__client_uat{suffix}"].partition(";")[0]) == session.created_at // 1000

    def test_the_suffix_parameter_is_a_boolean(self, fake: FakeClerk, session: FakeSession) -> None:
        """Anything else is rejected."""
        path = f"/sessions/{session.id}/refresh?suffixed_cookies=perhaps"
        assert post(fake, path, body(fake, session)).status == 422

    def test_the_suffix_is_that_of_the_instance(self, fake: FakeClerk) -> None:
        """It has eight characters, derived from the publishable key as Clerk's SDKs do."""
        encoded = base64.b64encode(f"127.0.0.1:{fake.port}$".encode()).decode()
        assert fake.publishable_key == f"pk_test_{encoded}"
        digest = hashlib.sha1(fake.publishable_key.encode(), usedforsecurity=False).digest()
        assert fake.cookie_suffix == base64.urlsafe_b64encode(digest).decode()[:8]

    def test_client_uat_is_the_clients_newest_sign_in(
        self, fake: FakeClerk, session: FakeSession
    ) -> None:
        """It belongs to the browser, which may have several sessions."""
        fake.add_session(client_id=session.client_id, created_at=(NOW + 5) * 1000)
        fake.add_session(client_id=session.client_id, created_at=(NOW + 9) * 1000, status="ended")
        reply = refresh(fake, session, format="cookie")
        assert reply.json["cookies"][2].startswith(f"__client_uat={NOW + 5};")

    def test_the_new_token_is_for_the_requesting_origin(
        self, fake: FakeClerk, session: FakeSession
    ) -> None:
        """A refresh is made for a browser, so its token has an authorized party."""
        token = refresh(fake, session).json["jwt"]
        assert json.loads(unb64(token.split(".")[1]))["azp"] == ORIGIN

    def test_it_makes_the_session_active_now(self, fake: FakeClerk) -> None:
        old = fake.add_session(created_at=1_000, expire_at=(NOW + 9) * 1000, abandon_at=NOW * 2000)
        assert refresh(fake, old).status == 200
        assert old.last_active_at == NOW * 1000


class TestForm:
    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({"expired_token": None}, "form_param_missing"),
            ({"refresh_token": None}, "form_param_missing"),
            ({"request_origin": None}, "form_param_missing"),
            ({"expired_token": 7}, "form_param_type_invalid"),
            ({"request_headers": "a"}, "form_param_type_invalid"),
            ({"request_originating_ip": 7}, "form_param_type_invalid"),
            ({"format": "jwt"}, "form_param_value_invalid"),
            ({"suffixed_cookies": True}, "form_param_unknown"),
        ],
    )
    def test_a_body_of_the_wrong_form_is_400(
        self, fake: FakeClerk, session: FakeSession, changes: dict[str, Any], code: str
    ) -> None:
        reply = refresh(fake, session, **changes)
        assert (reply.status, reply.code) == (400, code)

    @pytest.mark.parametrize(
        "origin",
        ["localhost:3000", "ftp://x", "http://", "http://x:99999", "http://x/path", "", "*"],
    )
    def test_an_invalid_origin_is_rejected(
        self, fake: FakeClerk, session: FakeSession, origin: str
    ) -> None:
        reply = refresh(fake, session, request_origin=origin)
        assert (reply.status, reply.code) == (401, "refresh_request_origin_invalid")


def refused_token(
    make: Callable[[FakeClerk, FakeSession], dict[str, Any]], code: str, name: str
) -> Any:
    """A row of the table: what is sent instead, and the expected error code."""
    return pytest.param(make, code, id=name)


def claims(session: FakeSession, **changes: Any) -> dict[str, Any]:
    """Return an expired session token's claims; a change to None removes a claim."""
    usual = {"azp": ORIGIN, "sid": session.id, "iat": NOW - 120, "exp": NOW - 60, "jti": "1"}
    return {name: value for name, value in {**usual, **changes}.items() if value is not None}


class TestRefusals:
    @pytest.mark.promise("any-sdk")
    @pytest.mark.parametrize(
        ("make", "code"),
        [
            refused_token(
                lambda _fake, _session: {"expired_token": "junk"},
                "expired_session_token_invalid",
                "no token",
            ),
            refused_token(
                lambda fake, session: {"expired_token": fake.mint(session)[:-4] + "AAAA"},
                "expired_session_token_invalid",
                "forged",
            ),
            refused_token(
                lambda fake, s: {"expired_token": fake.sign(claims(s, azp=None))},
                "expired_session_token_missing_azp",
                "no azp",
            ),
            refused_token(
                lambda _fake, _session: {"request_origin": "http://localhost:3001"},
                "refresh_request_origin_azp_mismatch",
                "other origin",
            ),
            refused_token(
                lambda fake, s: {"expired_token": fake.sign(claims(s, sid=None))},
                "expired_session_token_missing_sid",
                "no sid",
            ),
            refused_token(
                lambda fake, s: {"expired_token": fake.mint(s, template="custom_hasura")},
                "expired_session_token_missing_sid",
                "template",
            ),
            refused_token(
                lambda fake, s: {"expired_token": fake.sign(claims(s, sid="sess_other"))},
                "refresh_sid_mismatch",
                "other session",
            ),
            refused_token(
                lambda _fake, _session: {"refresh_token": "rt_other"},
                "refresh_token_not_found",
                "other refresh token",
            ),
            refused_token(
                lambda fake, s: {"expired_token": fake.sign(claims(s, iat=None))},
                "session_refresh_expired_session_token_missing_iat",
                "no iat",
            ),
            refused_token(
                lambda fake, s: {"expired_token": fake.sign(claims(s, iat="yesterday"))},
                "session_refresh_cannot_determine_session_token_age",
                "odd iat",
            ),
            refused_token(
                lambda fake, s: {"expired_token": fake.sign(claims(s, iat=True))},
                "session_refresh_cannot_determine_session_token_age",
                "iat true",
            ),
            refused_token(
                lambda fake, s: {"expired_token": fake.sign(claims(s, iat=NOW - 86_401))},
                "session_refresh_expired_session_token_too_old",
                "too old",
            ),
            refused_token(
                lambda fake, s: {"expired_token": fake.sign(claims(s, act={"sub": "user_admin"}))},
                "session_refresh_session_token_ineligible",
                "impersonated",
            ),
            refused_token(
                lambda fake, s: {"expired_token": fake.sign(claims(s), headers={"cat": TEMPLATE})},
                "session_refresh_session_token_ineligible",
                "template with a sid",
            ),
        ],
    )
    def test_every_401_has_its_code(
        self,
        fake: FakeClerk,
        session: FakeSession,
        make: Callable[[FakeClerk, FakeSession], dict[str, Any]],
        code: str,
    ) -> None:
        reply = refresh(fake, session, **make(fake, session))
        assert (reply.status, reply.code) == (401, code)

    def test_a_refresh_token_can_be_used_once(self, fake: FakeClerk, session: FakeSession) -> None:
        token = fake.expired_token(session)
        assert refresh(fake, session, expired_token=token, refresh_token="rt_other").status == 401
        assert refresh(fake, session, expired_token=token).status == 200
        reply = refresh(fake, session, expired_token=token)
        assert (reply.status, reply.code) == (401, "session_refresh_expired_session_token_consumed")

    def test_an_unknown_session_is_401_not_404(self, fake: FakeClerk, session: FakeSession) -> None:
        request = body(fake, session)
        fake.remove_session(session.id)
        reply = post(fake, f"/sessions/{session.id}/refresh", request)
        assert (reply.status, reply.code) == (401, "session_refresh_session_not_found")

    @pytest.mark.parametrize("status", ["revoked", "ended", "expired", "abandoned"])
    def test_an_ended_session_is_rejected(
        self, fake: FakeClerk, session: FakeSession, status: str
    ) -> None:
        session.status = status
        assert refresh(fake, session).code == "session_refresh_inactive_session"

    def test_a_removed_user_is_rejected(self, fake: FakeClerk, session: FakeSession) -> None:
        fake.remove_user("user_1")
        assert refresh(fake, session).code == "session_refresh_user_not_found"
