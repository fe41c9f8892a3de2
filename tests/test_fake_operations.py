"""FakeClerk responds as the published contract and the error catalogue say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import pytest
from fake_calls import call, get, post

from clerk_async.testing import FakeClerk, FakeSession

SESSION_FIELDS = {
    "object",
    "id",
    "user_id",
    "client_id",
    "actor",
    "status",
    "last_active_organization_id",
    "last_active_at",
    "latest_activity",
    "expire_at",
    "abandon_at",
    "updated_at",
    "created_at",
    "tasks",
}
VERSIONS = ["2021-02-05", "2024-10-01", "2025-03-12", "2025-04-10", "2025-11-10", "2026-05-12"]
EVERYTHING = [
    ("GET", "/sessions?user_id=user_1"),
    ("POST", "/sessions"),
    ("GET", "/sessions/sess_1"),
    ("POST", "/sessions/sess_1/refresh"),
    ("POST", "/sessions/sess_1/revoke"),
    ("POST", "/sessions/sess_1/verify"),
    ("POST", "/sessions/sess_1/tokens"),
    ("POST", "/sessions/sess_1/tokens/custom_hasura"),
    ("GET", "/jwks"),
]


class TestKeyAndVersion:
    @pytest.mark.parametrize(("method", "path"), EVERYTHING)
    def test_every_operation_requires_a_bearer_token(
        self, fake: FakeClerk, method: str, path: str
    ) -> None:
        reply = call(fake, method, path, key=None)
        assert (reply.status, reply.code) == (401, "authorization_header_format_invalid")

    @pytest.mark.parametrize(("method", "path"), EVERYTHING)
    def test_every_operation_requires_the_instances_key(
        self, fake: FakeClerk, method: str, path: str
    ) -> None:
        reply = call(fake, method, path, key="sk_test_other")
        assert (reply.status, reply.code) == (401, "clerk_key_invalid")

    @pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic c2s6", "sk_test_1"])
    def test_another_authorization_scheme_is_reported(self, fake: FakeClerk, header: str) -> None:
        reply = get(fake, "/jwks", headers={"Authorization": header})
        assert (reply.status, reply.code) == (401, "authorization_header_format_invalid")

    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
    def test_the_case_of_the_scheme_does_not_matter(self, fake: FakeClerk, scheme: str) -> None:
        authorization = f"{scheme} {fake.secret_key}"
        assert get(fake, "/jwks", headers={"Authorization": authorization}).status == 200

    @pytest.mark.parametrize("version", VERSIONS)
    def test_published_api_versions_are_accepted(self, fake: FakeClerk, version: str) -> None:
        session = fake.add_session()
        reply = get(fake, f"/sessions/{session.id}", headers={"Clerk-API-Version": version})
        assert reply.status == 200

    @pytest.mark.parametrize("version", ["", "2020-01-01", "2026-05-13", "latest"])
    def test_other_api_versions_are_rejected(self, fake: FakeClerk, version: str) -> None:
        reply = get(fake, "/jwks", headers={"Clerk-API-Version": version})
        assert (reply.status, reply.code) == (400, "api_version_invalid")

    def test_errors_have_a_trace_id_and_every_response_a_ray(self, fake: FakeClerk) -> None:
        first, second = (get(fake, "/sessions/sess_no") for _ in range(2))
        assert set(first.json) == {"errors", "clerk_trace_id"}
        assert first.json["clerk_trace_id"] != second.json["clerk_trace_id"]
        assert set(first.json["errors"][0]) >= {"message", "long_message", "code"}
        assert first.headers["cf-ray"] != second.headers["cf-ray"]
        assert first.headers["Content-Type"] == "application/json"

    @pytest.mark.parametrize(
        "path", ["/users/user_1", "/sessions/", "/sessions/sess_1/else", "/sessions/a/b/c/d", "/"]
    )
    def test_unknown_paths_are_404(self, fake: FakeClerk, path: str) -> None:
        reply = get(fake, path)
        assert (reply.status, reply.code) == (404, "resource_not_found")

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("POST", "/jwks", "GET"),
            ("DELETE", "/sessions", "POST"),
            ("PATCH", "/sessions/sess_1", "GET"),
            ("GET", "/sessions/sess_1/revoke", "POST"),
        ],
    )
    def test_other_methods_are_405(
        self, fake: FakeClerk, method: str, path: str, allowed: str
    ) -> None:
        reply = call(fake, method, path)
        assert (reply.status, reply.headers["Allow"]) == (405, allowed)


class TestGet:
    def test_a_session_has_every_field_of_the_contract(self, fake: FakeClerk) -> None:
        created = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
        session = fake.add_session(
            user_id="user_1",
            client_id="client_1",
            status="pending",
            created_at=created,
            last_active_at=created + timedelta(milliseconds=1),
            actor={"sub": "user_admin"},
            last_active_organization_id="org_1",
            tasks=[{"key": "choose-organization"}],
            latest_activity={"object": "session_activity", "id": "sess_act_1", "is_mobile": True},
        )
        body = get(fake, f"/sessions/{session.id}").json
        assert set(body) == SESSION_FIELDS
        assert body["object"] == "session"
        assert body["created_at"] == 1767323045678
        assert body["last_active_at"] == 1767323045679
        assert body["user_id"] == "user_1"
        assert body["client_id"] == "client_1"
        assert body["status"] == "pending"
        assert body["actor"] == {"sub": "user_admin"}
        assert body["last_active_organization_id"] == "org_1"
        assert body["tasks"] == [{"key": "choose-organization"}]
        assert body["latest_activity"]["is_mobile"] is True

    def test_an_unknown_session_is_404(self, fake: FakeClerk) -> None:
        reply = get(fake, "/sessions/sess_no")
        assert (reply.status, reply.code) == (404, "resource_not_found")

    def test_ids_are_decoded_after_the_path_is_split(self, fake: FakeClerk) -> None:
        session = fake.add_session(session_id="sess/../odd ü")
        reply = get(fake, "/sessions/sess%2F..%2Fodd%20%C3%BC")
        assert reply.json["id"] == session.id

    def test_time_ends_sessions(self) -> None:
        now = 1_000_000.0
        with FakeClerk(clock=lambda: now) as fake:
            short = fake.add_session(expire_at=1_000_010_000)
            lazy = fake.add_session(abandon_at=1_000_010_000)
            gone = fake.add_session(status="ended", expire_at=1_000_010_000)
            now += 9.999
            assert [fake.sessions[s.id].status for s in (short, lazy)] == ["active", "active"]
            now += 0.001
            statuses = [get(fake, f"/sessions/{s.id}").json["status"] for s in (short, lazy, gone)]
            assert statuses == ["expired", "abandoned", "ended"]


class TestList:
    def test_lists_are_newest_first_and_ten_by_default(self, fake: FakeClerk) -> None:
        made = [
            fake.add_session(user_id="user_1", created_at=1_700_000_000_000 + age).id
            for age in [5, 3, 9, 1, 7, 7, 2, 8, 0, 4, 6, 10]
        ]
        listed = [s["id"] for s in get(fake, "/sessions?user_id=user_1").json]
        # Of two sessions of equal age, the one added later counts as newer.
        order = [11, 2, 7, 5, 4, 10, 0, 9, 1, 6]
        assert listed == [made[index] for index in order]

    def test_limit_and_offset_cut_a_page(self, fake: FakeClerk) -> None:
        made = [fake.add_session(user_id="user_1").id for _ in range(7)]
        path = "/sessions?user_id=user_1&limit=3&offset="
        pages = [[s["id"] for s in get(fake, f"{path}{at}").json] for at in (0, 3, 6, 9)]
        assert list(chain(*pages)) == made[::-1]
        assert [len(page) for page in pages] == [3, 3, 1, 0]

    def test_paginated_returns_the_total(self, fake: FakeClerk) -> None:
        for _ in range(3):
            fake.add_session(user_id="user_1")
        fake.add_session(user_id="user_2")
        body = get(fake, "/sessions?user_id=user_1&limit=2&paginated=true").json
        assert (len(body["data"]), body["total_count"]) == (2, 3)
        assert isinstance(get(fake, "/sessions?user_id=user_1&paginated=false").json, list)

    def test_lists_are_filtered_by_user_client_and_status(self, fake: FakeClerk) -> None:
        a = fake.add_session(user_id="user_1", client_id="client_1")
        b = fake.add_session(user_id="user_1", client_id="client_2", status="ended")
        c = fake.add_session(user_id="user_2", client_id="client_1")

        def listed(query: str) -> set[str]:
            return {s["id"] for s in get(fake, f"/sessions?{query}").json}

        assert listed("user_id=user_1") == {a.id, b.id}
        assert listed("client_id=client_1") == {a.id, c.id}
        assert listed("user_id=user_1&client_id=client_1") == {a.id}
        assert listed("user_id=user_1&status=ended") == {b.id}
        assert listed("user_id=user_nobody") == set()

    def test_a_removed_session_is_no_longer_listed(self, fake: FakeClerk) -> None:
        session = fake.add_session(user_id="user_1")
        fake.remove_session(session.id)
        fake.remove_session(session.id)
        assert get(fake, "/sessions?user_id=user_1").json == []
        assert get(fake, f"/sessions/{session.id}").status == 404

    @pytest.mark.parametrize("query", ["", "?limit=5", "?status=active", "?user_id="])
    def test_a_list_without_user_and_client_is_rejected(self, fake: FakeClerk, query: str) -> None:
        reply = get(fake, f"/sessions{query}")
        assert (reply.status, reply.code) == (400, "missing_query_parameter")

    @pytest.mark.parametrize(
        ("query", "name"),
        [
            ("limit=0", "limit"),
            ("limit=501", "limit"),
            ("limit=ten", "limit"),
            ("limit=1.5", "limit"),
            ("limit=%201", "limit"),
            ("limit=%2B1", "limit"),
            ("limit=1_0", "limit"),
            ("limit=", "limit"),
            ("offset=-1", "offset"),
            ("offset=x", "offset"),
            ("status=pending", "status"),
            ("status=", "status"),
            ("paginated=perhaps", "paginated"),
        ],
    )
    def test_bad_parameters_get_a_422_that_names_them(
        self, fake: FakeClerk, query: str, name: str
    ) -> None:
        reply = get(fake, f"/sessions?user_id=user_1&{query}")
        assert reply.status == 422
        assert reply.json["errors"][0]["meta"] == {"param_name": name}

    def test_a_page_has_at_most_500_sessions(self) -> None:
        with FakeClerk() as fake:
            for _ in range(501):
                fake.add_session(user_id="user_1")
            assert len(get(fake, "/sessions?user_id=user_1&limit=500").json) == 500


class TestCreate:
    def test_a_known_user_gets_an_active_session(self, fake: FakeClerk) -> None:
        fake.add_user("user_1")
        body = {"user_id": "user_1", "active_organization_id": "org_1"}
        made = post(fake, "/sessions", body).json
        assert made["status"] == "active"
        assert made["last_active_organization_id"] == "org_1"
        assert fake.sessions[made["id"]].user_id == "user_1"

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            (None, 422, "form_param_missing"),
            ({}, 422, "form_param_missing"),
            ({"user_id": None}, 422, "form_param_missing"),
            ({"user_id": 7}, 422, "form_param_type_invalid"),
            ({"user_id": "user_1", "active_organization_id": 7}, 422, "form_param_type_invalid"),
            ({"user_id": "user_nobody"}, 404, "resource_not_found"),
            (b"{", 400, "request_body_invalid"),
            ([1], 400, "request_body_invalid"),
        ],
    )
    def test_bad_bodies_are_rejected(
        self, fake: FakeClerk, body: object, status: int, code: str
    ) -> None:
        fake.add_user("user_1")
        reply = post(fake, "/sessions", body)
        assert (reply.status, reply.code) == (status, code)
        assert not fake.sessions

    def test_a_forgotten_user_is_404(self, fake: FakeClerk) -> None:
        fake.remove_user(fake.add_user("user_1"))
        assert post(fake, "/sessions", {"user_id": "user_1"}).status == 404

    @pytest.mark.parametrize("options", [{"production": True}, {"secret_key": "sk_live_1"}])
    def test_production_instances_reject_create(self, options: dict[str, object]) -> None:
        with FakeClerk(**options) as fake:  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
            fake.add_user("user_1")
            reply = post(fake, "/sessions", {"user_id": "user_1"})
            assert (reply.status, reply.code) == (400, "request_invalid_for_environment")
            assert fake.secret_key.startswith("sk_live_")


class TestRevoke:
    @pytest.mark.parametrize("status", ["active", "pending"])
    def test_a_live_session_is_revoked(self, fake: FakeClerk, status: str) -> None:
        session = fake.add_session(status=status, created_at=1_700_000_000_000)
        reply = post(fake, f"/sessions/{session.id}/revoke")
        assert (reply.status, reply.json["status"]) == (200, "revoked")
        assert reply.json["updated_at"] > reply.json["created_at"]
        assert session.status == "revoked"

    @pytest.mark.parametrize("status", ["revoked", "ended", "expired", "removed", "abandoned"])
    def test_any_other_session_is_rejected_by_default(self, fake: FakeClerk, status: str) -> None:
        session = fake.add_session(status=status)
        assert post(fake, f"/sessions/{session.id}/revoke").status == 400
        assert session.status == status

    @pytest.mark.parametrize("status", ["revoked", "ended"])
    def test_any_other_session_is_returned_unchanged_on_request(self, status: str) -> None:
        with FakeClerk(revoke_inactive="ok") as fake:
            session = fake.add_session(status=status)
            reply = post(fake, f"/sessions/{session.id}/revoke")
            assert (reply.status, reply.json["status"]) == (200, status)

    def test_an_unknown_session_is_404(self, fake: FakeClerk) -> None:
        assert post(fake, "/sessions/sess_no/revoke").code == "resource_not_found"

    def test_the_option_has_two_values(self) -> None:
        with pytest.raises(ValueError, match="revoke_inactive"):
            FakeClerk(revoke_inactive="maybe")


class TestVerify:
    @pytest.mark.parametrize("version", [None, "2021-02-05", "2024-10-01", "2025-03-12"])
    def test_old_api_versions_verify(self, fake: FakeClerk, version: str | None) -> None:
        session = fake.add_session()
        headers = {"Clerk-API-Version": version} if version else {}
        body = {"token": fake.mint(session)}
        reply = post(fake, f"/sessions/{session.id}/verify", body, headers=headers)
        assert (reply.status, reply.json["id"]) == (200, session.id)

    @pytest.mark.parametrize("version", ["2025-04-10", "2025-11-10", "2026-05-12"])
    def test_newer_api_versions_report_verify_as_deprecated(
        self, fake: FakeClerk, version: str
    ) -> None:
        session = fake.add_session()
        reply = post(
            fake,
            f"/sessions/{session.id}/verify",
            {"token": fake.mint(session)},
            headers={"Clerk-API-Version": version},
        )
        assert (reply.status, reply.code) == (410, "operation_deprecated")

    def test_an_invalid_token_is_rejected(self, fake: FakeClerk) -> None:
        session, other = fake.add_session(), fake.add_session()
        ended = fake.add_session(status="ended")
        fake.add_template("with_sid", {"sid": "{{session.id}}"})
        with FakeClerk() as elsewhere:
            foreign = elsewhere.mint(elsewhere.add_session(session_id=session.id))
        bodies: list[tuple[FakeSession, dict[str, Any]]] = [
            (session, {}),
            (session, {"token": 7}),
            (session, {"token": "junk"}),
            (session, {"token": fake.mint(other)}),
            (session, {"token": fake.expired_token(session)}),
            (session, {"token": foreign}),
            (session, {"token": fake.mint(session, template="with_sid")}),
            (ended, {"token": fake.mint(ended)}),
        ]
        for whose, body in bodies:
            reply = post(fake, f"/sessions/{whose.id}/verify", body)
            assert (reply.status, reply.code) == (400, "invalid_session_token")

    def test_an_unknown_session_is_404(self, fake: FakeClerk) -> None:
        assert post(fake, "/sessions/sess_no/verify", {"token": "x"}).status == 404


class TestCreateToken:
    @pytest.mark.parametrize("path", ["tokens", "tokens/custom_hasura"])
    @pytest.mark.parametrize("body", [None, {}, {"expires_in_seconds": None}])
    def test_without_a_lifetime_the_default_is_used(
        self, fake: FakeClerk, path: str, body: object
    ) -> None:
        session = fake.add_session()
        reply = post(fake, f"/sessions/{session.id}/{path}", body)
        assert reply.status == 200
        assert set(reply.json) == {"object", "jwt"}
        assert reply.json["object"] == "token"

    @pytest.mark.parametrize("path", ["tokens", "tokens/custom_hasura"])
    @pytest.mark.parametrize("lifetime", [29, 0, -1, 315_360_001, 60.5, "60", True])
    def test_lifetimes_have_limits(self, fake: FakeClerk, path: str, lifetime: object) -> None:
        session = fake.add_session()
        reply = post(fake, f"/sessions/{session.id}/{path}", {"expires_in_seconds": lifetime})
        assert reply.status == 422

    def test_unknown_objects_are_404(self, fake: FakeClerk) -> None:
        session, ended = fake.add_session(), fake.add_session(status="ended")
        for path in (
            "sess_no/tokens",
            "sess_no/tokens/custom_hasura",
            f"{session.id}/tokens/custom_nothing",
            f"{ended.id}/tokens",
        ):
            reply = post(fake, f"/sessions/{path}")
            assert (reply.status, reply.code) == (404, "resource_not_found")


class TestState:
    def test_changes_to_a_session_take_effect(self, fake: FakeClerk) -> None:
        session = fake.add_session()
        assert fake.sessions[session.id] is session
        session.status = "replaced"
        assert get(fake, f"/sessions/{session.id}").json["status"] == "replaced"

    def test_a_used_id_and_a_naive_time_are_rejected(self, fake: FakeClerk) -> None:
        fake.add_session(session_id="sess_1")
        with pytest.raises(ValueError, match="sess_1"):
            fake.add_session(session_id="sess_1")
        with pytest.raises(ValueError, match="time zone"):
            fake.add_session(created_at=datetime(2026, 1, 1))  # noqa: DTZ001
        assert list(fake.sessions) == ["sess_1"]

    def test_a_seed_reproduces_ids(self) -> None:
        first, second = FakeClerk(sessions=9, seed=4), FakeClerk(sessions=9, seed=4)
        assert list(first.sessions) == list(second.sessions)
        assert list(first.sessions) != list(FakeClerk(sessions=9, seed=5).sessions)
        assert len({session.user_id for session in first.sessions.values()}) == 3

    def test_the_log_has_what_arrived(self, fake: FakeClerk) -> None:
        fake.add_user("user_1")
        made = post(fake, "/sessions?x=%C3%BC&y=", {"user_id": "user_1"}).json
        get(fake, f"/sessions/{made['id']}", headers={"X-More": "1"})
        get(fake, "/else")
        first, second, third = fake.requests
        assert (first.method, first.path, first.operation) == ("POST", "/v1/sessions", "create")
        assert first.query_string == "x=%C3%BC&y="
        assert first.query == {"x": "ü", "y": ""}
        assert first.json == {"user_id": "user_1"}
        assert first.status == 200
        assert first.processed
        assert (second.session_id, second.headers["x-more"]) == (made["id"], "1")
        assert second.json is None
        assert (third.operation, third.status) == (None, 404)
        assert first.time <= second.time <= third.time
        assert (first.connection, second.connection, third.connection) == (1, 2, 3)

    def test_the_log_can_be_kept_short(self) -> None:
        with FakeClerk(keep_requests=2) as fake:
            for number in range(5):
                get(fake, f"/sessions/sess_{number}")
            assert [request.session_id for request in fake.requests] == ["sess_3", "sess_4"]
        with FakeClerk(keep_requests=0) as fake:
            get(fake, "/jwks")
            assert fake.requests == []

    def test_no_repr_shows_a_secret(self, fake: FakeClerk) -> None:
        session = fake.add_session()
        post(fake, f"/sessions/{session.id}/verify?q=secret", {"token": "secret"})
        seen = f"{fake!r}{fake.requests!r}{session!r}{fake.sessions!r}"
        assert "secret" not in seen
        assert fake.secret_key not in seen
        assert session.refresh_token not in seen
        assert repr(FakeClerk()) == "<FakeClerk not started sessions=0>"
