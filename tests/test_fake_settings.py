"""FakeClerk checks settings when they are set: a typo is an error in the test's own line."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from fake_calls import get, post

from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from collections.abc import Callable

MAKE: Any = FakeClerk
Wrong: TypeAlias = list[tuple[str, Any, type[Exception]]]
WRONG_SETTINGS: Wrong = [
    ("latency", -1, ValueError),
    ("latency", math.nan, ValueError),
    ("latency", math.inf, ValueError),
    ("latency", "0.1", TypeError),
    ("latency", True, TypeError),
    ("latency", None, TypeError),
    ("latency", (0.1,), ValueError),
    ("latency", (0.1, 0.2, 0.3), ValueError),
    ("latency", (0.2, 0.1), ValueError),
    ("latency", (-0.1, 0.1), ValueError),
    ("latency", (0.1, "0.2"), TypeError),
    ("latency", (0.1, math.nan), ValueError),
    ("issuer", "", ValueError),
    ("issuer", 7, TypeError),
    ("issuer", b"https://x", TypeError),
    ("secret_key", "", ValueError),
    ("secret_key", "sk_test_1 2", ValueError),
    ("secret_key", "sk_test_ü", ValueError),
    ("secret_key", 7, TypeError),
    ("production", "yes", TypeError),
    ("production", 1, TypeError),
    ("rate_limit", 1000, TypeError),
    ("rate_limit", (1000,), TypeError),
    ("rate_limit", (1000, 10.0, 1), TypeError),
    ("rate_limit", (0, 10.0), ValueError),
    ("rate_limit", (5, -1.0), ValueError),
    ("rate_limit", (5, math.inf), ValueError),
    ("rate_limit", (5, math.nan), ValueError),
    ("rate_limit", (2.5, 1.0), TypeError),
    ("rate_limit", ("5", 1.0), TypeError),
]
WRONG_OPTIONS: Wrong = [
    ("revoke_inactive", "maybe", ValueError),
    ("revoke_inactive", None, ValueError),
    ("refresh_max_age", -1, ValueError),
    ("refresh_max_age", "1", TypeError),
    ("keep_requests", -1, ValueError),
    ("keep_requests", 1.5, TypeError),
    ("port", 70_000, ValueError),
    ("port", -1, ValueError),
    ("port", "80", TypeError),
    ("sessions", -1, ValueError),
    ("sessions", 1.5, TypeError),
    ("seed", "1", TypeError),
    ("kid", 7, TypeError),
    ("compress", "no", TypeError),
    ("clock", 1_800_000_000, TypeError),
    ("monotonic", 0.0, TypeError),
    ("ssl_context", "cert.pem", TypeError),
]
WRONG_SESSIONS: Wrong = [
    ("status", 7, TypeError),
    ("status", "", ValueError),
    ("status", None, TypeError),
    ("expire_at", "tomorrow", TypeError),
    ("expire_at", 1.8e12, TypeError),
    ("expire_at", True, TypeError),
    ("last_active_at", datetime(2026, 1, 1), ValueError),  # noqa: DTZ001 - it is rejected
    ("updated_at", timedelta(1), TypeError),
    ("abandon_at", [], TypeError),
    ("last_active_organization_id", 7, TypeError),
    ("actor", "user_admin", TypeError),
    ("actor", {"sub": object()}, TypeError),
    ("latest_activity", [], TypeError),
    ("latest_activity", {"at": {1, object()}}, TypeError),
    ("tasks", {"key": "choose-organization"}, TypeError),
    ("tasks", ["choose-organization"], TypeError),
    ("authorized_party", ["http://localhost:3000"], TypeError),
    ("claims", "email", TypeError),
    ("claims", {"email": object()}, TypeError),
]
WRONG_ASSIGNMENTS: Wrong = [
    *WRONG_SESSIONS,
    ("claims", None, TypeError),
    ("token_lifetime", 0, ValueError),
    ("token_lifetime", 60.0, TypeError),
    ("refresh_token", None, TypeError),
]
WRONG_TEMPLATES: list[tuple[Any, type[Exception]]] = [
    (("", {}), ValueError),
    ((7, {}), TypeError),
    (("mine", "claims"), TypeError),
    (("mine", {"now": object()}), TypeError),
    (("mine", {}, 0), ValueError),
    (("mine", {}, 1.5), TypeError),
]
WRONG_FAULTS: list[tuple[str, Callable[[], object], type[Exception]]] = [
    ("no such operation", lambda: Fault.status(500, operation="remove"), ValueError),
    ("count below 0", lambda: Fault.status(500, count=-1), ValueError),
    ("count that is none", lambda: Fault.status(500, count=1.5), TypeError),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("probability above 1", lambda: Fault.status(500, probability=1.5), ValueError),
    ("probability as text", lambda: Fault.status(500, probability="1"), TypeError),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("a pair of delays", lambda: Fault.status(500, delay=(0.1, 0.2)), TypeError),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("delay that is not a number", lambda: Fault.status(500, delay=math.nan), ValueError),
    ("no status", lambda: Fault.status(42), ValueError),
    ("status as text", lambda: Fault.status("500"), TypeError),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("no such stage", lambda: Fault.cut("middle"), ValueError),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("less than no time", lambda: Fault.delayed(-1), ValueError),
    ("a pair of times", lambda: Fault.delayed((0.1, 0.2)), TypeError),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("no pieces", lambda: Fault.slow_body(1.0, pieces=0), ValueError),
    ("two header lines", lambda: Fault.with_headers({"X-A": "1\r\nX-B: 2"}), ValueError),
    ("header of a number", lambda: Fault.with_headers({"X-A": 1}), TypeError),  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    ("no change", lambda: Fault.changed("status"), TypeError),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ("session that is not an id", lambda: Fault.status(500, session_id=7), TypeError),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
]


class TestSettings:
    @pytest.mark.promise("fake-settings")
    @pytest.mark.parametrize(("name", "value", "error"), WRONG_SETTINGS)
    def test_a_wrong_setting_is_rejected_and_changes_nothing(
        self, fake: FakeClerk, name: str, value: object, error: type[Exception]
    ) -> None:
        """The assignment raises an error that names it; the old value stays in effect."""
        before = getattr(fake, name)
        with pytest.raises(error, match=name.replace("_", ".")):
            setattr(fake, name, value)
        assert getattr(fake, name) == before
        assert get(fake, "/jwks").status == 200

    @pytest.mark.parametrize(("name", "value", "error"), [*WRONG_SETTINGS, *WRONG_OPTIONS])
    def test_a_wrong_constructor_argument_is_rejected_too(
        self, name: str, value: object, error: type[Exception]
    ) -> None:
        """None selects the defaults of production and key."""
        with pytest.raises(error, match=name.replace("_", ".")):
            MAKE(**{name: value})

    def test_a_pair_of_latencies_is_a_range(self) -> None:
        """Each response takes its own time, drawn from the seed."""
        with FakeClerk(latency=(0.005, 0.03), seed=3) as fake:
            assert fake.latency == (0.005, 0.03)
            for _ in range(8):
                assert get(fake, "/jwks").status == 200
            took = [(request.ended_at or math.inf) - request.time for request in fake.requests]
            assert min(took) >= 0.005
            assert len({round(seconds, 4) for seconds in took}) > 4
            fake.latency = [0.0, 0.0]  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
            assert fake.latency == (0.0, 0.0)
            assert get(fake, "/jwks").status == 200

    def test_key_and_kind_can_be_changed_at_run_time(self, fake: FakeClerk) -> None:
        """The change applies from the next request on."""
        user_id = fake.add_user()
        assert post(fake, "/sessions", {"user_id": user_id}).status == 200
        fake.production = True
        assert post(fake, "/sessions", {"user_id": user_id}).status == 400
        fake.secret_key = "sk_test_another"
        assert get(fake, "/jwks", key="sk_test_another").status == 200
        assert get(fake, "/jwks", key="sk_test_FakeClerk").status == 401

    @pytest.mark.parametrize("name", ["requests", "sessions", "port", "base_url", "held"])
    def test_read_only_attributes_can_not_be_assigned(self, fake: FakeClerk, name: str) -> None:
        """An assignment would change nothing."""
        with pytest.raises(AttributeError, match=name):
            setattr(fake, name, getattr(fake, name))


class TestWhatItHolds:
    @pytest.mark.promise("fake-settings")
    @pytest.mark.parametrize(("name", "value", "error"), WRONG_SESSIONS)
    def test_a_wrong_session_is_rejected(
        self, fake: FakeClerk, name: str, value: Any, error: type[Exception]
    ) -> None:
        """It is not added."""
        with pytest.raises(error):
            fake.add_session(**{name: value})
        assert not fake.sessions

    @pytest.mark.parametrize(("name", "value", "error"), WRONG_ASSIGNMENTS)
    def test_a_wrong_change_of_a_session_is_rejected(
        self, fake: FakeClerk, name: str, value: object, error: type[Exception]
    ) -> None:
        """The session is unchanged, and is still returned."""
        session = fake.add_session()
        before = getattr(session, name)
        with pytest.raises(error):
            setattr(session, name, value)
        assert getattr(session, name) == before
        assert get(fake, f"/sessions/{session.id}").status == 200
        assert post(fake, f"/sessions/{session.id}/tokens").status == 200

    @pytest.mark.parametrize("name", ["user_id", "client_id", "session_id"])
    @pytest.mark.parametrize(("value", "error"), [("", ValueError), (7, TypeError)])
    def test_ids_are_non_empty_strings(
        self, fake: FakeClerk, name: str, value: Any, error: type[Exception]
    ) -> None:
        """An empty string is rejected."""
        with pytest.raises(error, match="id must"):
            fake.add_session(**{name: value})

    def test_a_datetime_may_be_assigned(self, fake: FakeClerk) -> None:
        """It becomes the value that is sent."""
        session = fake.add_session()
        session.expire_at = datetime(2020, 1, 1, tzinfo=UTC)  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
        assert session.expire_at == 1_577_836_800_000
        assert get(fake, f"/sessions/{session.id}").json["status"] == "expired"

    @pytest.mark.parametrize(("template", "error"), WRONG_TEMPLATES)
    def test_a_wrong_template_is_rejected(
        self, fake: FakeClerk, template: Any, error: type[Exception]
    ) -> None:
        """It is rejected at once rather than when a token is made from it."""
        name, claims, *lifetime = template
        with pytest.raises(error):
            fake.add_template(name, claims, **dict(zip(["lifetime"], lifetime, strict=False)))

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"expires_in": "60"}, TypeError),
            ({"expires_in": 1.5}, TypeError),
            ({"issued_at": "now"}, TypeError),
            ({"issued_at": math.nan}, ValueError),
            ({"template": 7}, KeyError),
            ({"version": "2"}, ValueError),
        ],
    )
    def test_a_wrong_token_is_rejected(
        self, fake: FakeClerk, options: Any, error: type[Exception]
    ) -> None:
        """The error names what is wrong."""
        with pytest.raises(error):
            fake.mint(fake.add_session(), **options)


class TestFaults:
    @pytest.mark.promise("fake-settings")
    @pytest.mark.parametrize(
        ("make", "error"),
        [pytest.param(make, error, id=name) for name, make, error in WRONG_FAULTS],
    )
    def test_a_wrong_fault_is_rejected(
        self, make: Callable[[], object], error: type[Exception]
    ) -> None:
        """The constructor raises the error."""
        with pytest.raises(error):
            make()

    def test_only_faults_can_be_injected(self, fake: FakeClerk) -> None:
        """If one of several is not a fault, none is armed."""
        inject: Any = fake.inject
        for nothing in ((), (503,), (Fault.status(503), "hold"), (Fault,)):
            with pytest.raises(TypeError, match="Fault"):
                inject(*nothing)
        assert get(fake, "/jwks").status == 200

    def test_a_failing_change_is_reported_once(self, fake: FakeClerk) -> None:
        """Its status is one that no client retries."""

        def change(_: Any) -> Any:
            raise RuntimeError("of my own")

        fake.inject(Fault.changed(change, count=None))
        reply = get(fake, "/jwks")
        assert reply.status == 501
        assert "of my own" in reply.json["errors"][0]["message"]
