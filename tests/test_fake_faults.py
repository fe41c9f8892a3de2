"""Every fault does on the wire what its name says, for the right requests and as often as set."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from fake_calls import call, get, post

from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Threads that send requests while the test watches."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


def raw_answer(fake: FakeClerk, method: str, path: str, body: bytes = b"") -> bytes:
    """Return every byte until the connection ends; raise if it is reset."""
    with socket.create_connection(("127.0.0.1", fake.port), timeout=10) as wire:
        head = (
            f"{method} /v1{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            f"Authorization: Bearer {fake.secret_key}\r\n\r\n"
        )
        wire.sendall(head.encode() + body)
        received = b""
        while piece := wire.recv(65536):
            received += piece
        return received


class TestStatus:
    @pytest.mark.parametrize(
        ("status", "code"),
        [
            (400, "bad_request"),
            (401, "authentication_invalid"),
            (403, "authorization_invalid"),
            (409, "resource_locked"),
            (410, "operation_deprecated"),
            (429, "too_many_requests"),
            (500, "internal_clerk_error"),
            (503, "service_unavailable"),
            (504, "gateway_timeout"),
            (418, "unexpected_error"),
            (599, "unexpected_error"),
        ],
    )
    def test_any_status_has_clerks_body(self, fake: FakeClerk, status: int, code: str) -> None:
        fake.inject(Fault.status(status))
        reply = get(fake, "/jwks")
        assert (reply.status, reply.code) == (status, code)
        assert "Retry-After" not in reply.headers
        assert "clerk_trace_id" in reply.json

    @pytest.mark.parametrize("value", [1, 0.5, "nan", "Fri, 31 Dec 2027 23:59:59 GMT"])
    def test_retry_after_is_sent_as_given(self, fake: FakeClerk, value: float | str) -> None:
        for make in (Fault.status, Fault.html, Fault.empty):
            fake.inject(make(503, retry_after=value))
            assert get(fake, "/jwks").headers["Retry-After"] == str(value)

    def test_code_body_and_headers_can_be_changed(self, fake: FakeClerk) -> None:
        fake.inject(
            Fault.status(409, error_code="conflict", headers={"X-More": "1"}),
            Fault.status(400, body={"errors": []}),
            Fault.status(400, body="text"),
            Fault.status(400, body=b"\xff"),
        )
        first = get(fake, "/jwks")
        assert (first.code, first.headers["X-More"]) == ("conflict", "1")
        bodies = [get(fake, "/jwks").body for _ in range(3)]
        assert bodies == [b'{"errors":[]}', b"text", b"\xff"]

    def test_the_request_is_not_processed_unless_asked_for(self, fake: FakeClerk) -> None:
        session = fake.add_session()
        fake.inject(Fault.status(503), Fault.status(503, process=True))
        assert post(fake, f"/sessions/{session.id}/revoke").status == 503
        assert session.status == "active"
        assert post(fake, f"/sessions/{session.id}/revoke").status == 503
        assert session.status == "revoked"
        assert [request.processed for request in fake.requests] == [False, True]
        assert [request.status for request in fake.requests] == [503, 503]

    def test_html_and_empty_bodies_are_sent(self, fake: FakeClerk) -> None:
        fake.inject(Fault.html(502), Fault.empty(504))
        page, nothing = get(fake, "/jwks"), get(fake, "/jwks")
        assert page.headers["Content-Type"].startswith("text/html")
        assert (page.status, page.body[:15]) == (502, b"<!DOCTYPE html>")
        assert (nothing.status, nothing.body) == (504, b"")

    def test_a_redirect_is_sent(self, fake: FakeClerk) -> None:
        fake.inject(Fault.redirect("http://other.example/", 307))
        reply = get(fake, "/jwks")
        assert (reply.status, reply.headers["Location"]) == (307, "http://other.example/")


class TestCut:
    @pytest.mark.parametrize("reset", [False, True])
    @pytest.mark.parametrize(("stage", "status"), [("before", "active"), ("after", "revoked")])
    def test_a_cut_comes_before_or_after_processing(
        self, fake: FakeClerk, stage: Any, status: str, reset: bool
    ) -> None:
        session = fake.add_session()
        fake.inject(Fault.cut(stage, reset=reset))
        path = f"/sessions/{session.id}/revoke"
        if reset:
            with pytest.raises(ConnectionResetError):
                raw_answer(fake, "POST", path)
        else:
            assert raw_answer(fake, "POST", path) == b""
        assert session.status == status
        fake.wait_for(lambda: not fake.in_flight)
        assert fake.requests[0].status is None

    @pytest.mark.parametrize("reset", [False, True])
    def test_the_body_can_be_cut(self, fake: FakeClerk, reset: bool) -> None:
        session = fake.add_session()
        fake.inject(Fault.cut("body", reset=reset))
        path = f"/sessions/{session.id}/revoke"
        expected = ConnectionResetError if reset else http.client.IncompleteRead
        with pytest.raises(expected):
            post(fake, path)
        assert session.status == "revoked"
        assert get(fake, f"/sessions/{session.id}").status == 200

    def test_a_request_cut_before_is_logged_without_its_body(self, fake: FakeClerk) -> None:
        fake.inject(Fault.cut("before"))
        assert raw_answer(fake, "POST", "/sessions", b"{}") == b""
        request = fake.requests[0]
        assert (request.operation, request.body, request.processed) == ("create", b"", False)

    def test_bytes_that_are_not_http_can_be_sent(self, fake: FakeClerk) -> None:
        fake.inject(Fault.raw(b"220 smtp.example ESMTP\r\n"))
        assert raw_answer(fake, "GET", "/jwks") == b"220 smtp.example ESMTP\r\n"

    def test_no_connection_and_no_request_is_left(self, fake: FakeClerk) -> None:
        fake.inject(*(Fault.cut(stage) for stage in ("before", "after", "body")))
        for _ in range(3):
            raw_answer(fake, "GET", "/sessions/sess_1")
        fake.wait_for(lambda: not fake.open_connections and not fake.in_flight)


class TestBodies:
    def change(self, fake: FakeClerk, fault: Fault, path: str) -> Any:
        fake.inject(fault)
        reply = get(fake, path)
        assert reply.status == 200
        return reply.json

    def test_fields_of_a_session_can_be_changed(self, fake: FakeClerk) -> None:
        session = fake.add_session()
        path = f"/sessions/{session.id}"
        usual = session.as_json()
        assert self.change(fake, Fault.null("user_id"), path) == {**usual, "user_id": None}
        assert self.change(fake, Fault.unknown_enum(), path)["status"] == "quantum"
        assert self.change(fake, Fault.field("created_at", 1.5), path)["created_at"] == 1.5
        assert "status" not in self.change(fake, Fault.missing("status"), path)
        assert self.change(fake, Fault.wrong_shape(), path) is None
        assert self.change(fake, Fault.wrong_shape([1]), path) == [1]
        assert get(fake, path).json == usual

    @pytest.mark.parametrize("paginated", ["true", "false"])
    def test_fields_of_one_or_all_sessions_of_a_list_can_be_changed(
        self, fake: FakeClerk, paginated: str
    ) -> None:
        for _ in range(3):
            fake.add_session(user_id="user_1")
        path = f"/sessions?user_id=user_1&paginated={paginated}"

        def statuses(fault: Fault) -> list[str]:
            body = self.change(fake, fault, path)
            return [s["status"] for s in (body["data"] if paginated == "true" else body)]

        assert statuses(Fault.unknown_enum("odd", item=1)) == ["active", "odd", "active"]
        assert statuses(Fault.unknown_enum("odd")) == ["odd", "odd", "odd"]
        assert statuses(Fault.unknown_enum("odd", item=7)) == ["active"] * 3

    def test_a_response_can_be_changed_in_any_way(self, fake: FakeClerk) -> None:
        session = fake.add_session()
        fault = Fault.changed(lambda value: {"wrapped": value["id"]})
        assert self.change(fake, fault, f"/sessions/{session.id}") == {"wrapped": session.id}

    def test_an_error_response_is_not_changed(self, fake: FakeClerk) -> None:
        fake.inject(Fault.null("status"))
        assert get(fake, "/sessions/sess_no").code == "resource_not_found"

    def test_truncated_json_is_sent_as_a_complete_body(self, fake: FakeClerk) -> None:
        session = fake.add_session()
        fake.inject(Fault.truncated_json())
        reply = get(fake, f"/sessions/{session.id}")
        whole = get(fake, f"/sessions/{session.id}").body
        assert (reply.status, reply.body) == (200, whole[: len(whole) // 2])

    def test_a_body_can_be_invalid_json(self, fake: FakeClerk) -> None:
        session = fake.add_session()
        fake.inject(Fault.not_json("<ok>"))
        reply = post(fake, f"/sessions/{session.id}/revoke")
        assert (reply.status, reply.body) == (200, b"<ok>")
        assert reply.headers["Content-Type"] == "text/plain"
        assert session.status == "revoked"

    def test_headers_can_be_added(self, fake: FakeClerk) -> None:
        session = fake.add_session()
        fake.inject(Fault.with_headers({"Set-Cookie": "a=b", "cf-ray": "mine"}))
        reply = get(fake, f"/sessions/{session.id}")
        assert (reply.headers["Set-Cookie"], reply.headers["cf-ray"]) == ("a=b", "mine")
        assert reply.json["id"] == session.id

    def test_huge_bodies_can_be_sent(self, fake: FakeClerk) -> None:
        fake.inject(Fault.huge(100_000), Fault.huge(100_000, compressed=True))
        plain, packed = get(fake, "/jwks"), get(fake, "/jwks")
        assert len(plain.body) == 100_000
        assert len(packed.body) < 1_000
        assert packed.headers["Content-Encoding"] == "gzip"
        assert json.loads(gzip.decompress(packed.body)) == plain.json

    def test_a_slow_body_arrives_completely(self, fake: FakeClerk) -> None:
        session = fake.add_session()
        fake.inject(Fault.slow_body(0.02, pieces=4))
        assert get(fake, f"/sessions/{session.id}").json == session.as_json()
        request = fake.requests[0]
        fake.wait_for(lambda: not fake.in_flight)
        assert request.status == 200


class TestTime:
    @pytest.mark.parametrize(("process_first", "status"), [(False, "active"), (True, "revoked")])
    def test_a_held_request_waits_for_its_release(
        self,
        fake: FakeClerk,
        threads: ThreadPoolExecutor,
        process_first: bool,
        status: str,
    ) -> None:
        session = fake.add_session()
        fake.inject(Fault.hold(process_first=process_first, count=None))
        path = f"/sessions/{session.id}/revoke"
        pending: Future[Any] = threads.submit(post, fake, path)
        fake.wait_for(lambda: fake.held == 1)
        assert session.status == status
        fake.release()
        assert pending.result().json["status"] == "revoked"
        assert fake.held == 0
        pending = threads.submit(post, fake, path)
        fake.wait_for(lambda: fake.held == 1)
        assert not pending.done()
        fake.release()
        assert pending.result().status == 400

    def test_in_flight_is_counted(self, fake: FakeClerk, threads: ThreadPoolExecutor) -> None:
        fake.inject(Fault.hold(count=None))
        pending = [threads.submit(get, fake, "/sessions/sess_1") for _ in range(5)]
        fake.wait_for(lambda: fake.held == 5)
        assert (fake.in_flight, fake.open_connections) == (5, 5)
        fake.release()
        assert {future.result().status for future in pending} == {404}
        fake.wait_for(lambda: not fake.in_flight)
        assert (fake.max_in_flight, fake.max_open_connections) == (5, 5)

    def test_a_client_that_leaves_ends_its_request(self, fake: FakeClerk) -> None:
        fake.inject(Fault.hold())
        with socket.create_connection(("127.0.0.1", fake.port), timeout=10) as wire:
            wire.sendall(b"GET /v1/jwks HTTP/1.1\r\nHost: x\r\n\r\n")
            fake.wait_for(lambda: fake.held == 1)
        fake.wait_for(lambda: not fake.in_flight and not fake.open_connections)
        assert fake.held == 0

    @pytest.mark.parametrize(
        "fault",
        [
            Fault.delayed(0.05),
            Fault.delayed(0.05, process_first=True),
            Fault.status(503, delay=0.05),
            Fault.slow_body(0.05),
        ],
    )
    def test_delays_last_as_long_as_set(self, fake: FakeClerk, fault: Fault) -> None:
        session = fake.add_session()
        fake.inject(fault)
        get(fake, f"/sessions/{session.id}")
        fake.wait_for(lambda: not fake.in_flight)
        request = fake.requests[0]
        assert request.ended_at is not None
        assert request.ended_at - request.time >= 0.05

    def test_latency_applies_to_every_response(self) -> None:
        with FakeClerk(latency=0.02) as fake:
            get(fake, "/sessions/sess_1")
            fake.wait_for(lambda: not fake.in_flight)
            assert (fake.requests[0].ended_at or 0) - fake.requests[0].time >= 0.02


def statuses(fake: FakeClerk, count: int, method: str = "GET", path: str = "/jwks") -> list[int]:
    """Return the statuses of one request that is sent repeatedly."""
    return [call(fake, method, path).status for _ in range(count)]


class TestWhich:
    def test_a_fault_happens_once_or_count_times(self, fake: FakeClerk) -> None:
        fake.inject(Fault.status(500), Fault.status(502, count=2))
        assert statuses(fake, 5) == [500, 502, 502, 200, 200]

    def test_a_fault_without_a_count_happens_until_disarmed(self, fake: FakeClerk) -> None:
        injected = fake.inject(Fault.status(500, count=None))
        assert statuses(fake, 3) == [500] * 3
        assert (injected.seen, injected.fired) == (3, 3)
        injected.remove()
        assert statuses(fake, 1) == [200]
        fake.inject(Fault.status(500, count=None), Fault.status(502, count=None))
        fake.clear_faults()
        assert statuses(fake, 1) == [200]

    def test_a_fault_can_begin_after_a_number_of_requests(self, fake: FakeClerk) -> None:
        fake.inject(Fault.status(500, after=2))
        assert statuses(fake, 4) == [200, 200, 500, 200]

    def test_a_fault_can_be_limited_to_an_operation(self, fake: FakeClerk) -> None:
        session = fake.add_session()
        fake.inject(Fault.status(500, operation="revoke", count=None))
        assert get(fake, f"/sessions/{session.id}").status == 200
        assert get(fake, "/else").status == 404
        assert post(fake, f"/sessions/{session.id}/revoke").status == 500

    @pytest.mark.parametrize(
        ("operation", "method", "path"),
        [
            ("list", "GET", "/sessions"),
            ("create", "POST", "/sessions"),
            ("get", "GET", "/sessions/s"),
            ("refresh", "POST", "/sessions/s/refresh"),
            ("revoke", "POST", "/sessions/s/revoke"),
            ("verify", "POST", "/sessions/s/verify"),
            ("create_token", "POST", "/sessions/s/tokens"),
            ("create_token_from_template", "POST", "/sessions/s/tokens/t"),
            ("jwks", "GET", "/jwks"),
            ("jwks", "GET", "/.well-known/jwks.json"),
        ],
    )
    def test_every_operation_has_its_name(
        self, fake: FakeClerk, operation: str, method: str, path: str
    ) -> None:
        fake.inject(Fault.status(418, operation=operation))
        assert statuses(fake, 1, method, path) == [418]
        assert fake.requests[0].operation == operation

    def test_a_fault_can_be_limited_to_a_session(self, fake: FakeClerk) -> None:
        fake.inject(Fault.status(500, session_id="sess_2", count=None))
        found = [get(fake, f"/sessions/sess_{n}").status for n in (1, 2, 3, 2)]
        assert found == [404, 500, 404, 500]
        assert get(fake, "/sessions?user_id=user_1").status == 200

    def test_a_fault_can_happen_by_chance_according_to_the_seed(self) -> None:
        def run(seed: int) -> list[int]:
            with FakeClerk(seed=seed) as fake:
                fake.jwt_key  # noqa: B018 - the key is made before the clock of a test matters
                fake.inject(Fault.status(500, probability=0.5))
                return statuses(fake, 40)

        first = run(1)
        assert 8 < first.count(500) < 32
        assert run(1) == first
        assert run(2) != first

    def test_a_probability_can_have_a_count(self, fake: FakeClerk) -> None:
        fake.inject(Fault.status(500, probability=1.0, count=2))
        fake.inject(Fault.status(502, probability=0.0))
        assert statuses(fake, 3) == [500, 500, 200]

    def test_the_first_matching_fault_happens(self, fake: FakeClerk) -> None:
        fake.inject(Fault.status(500, operation="get"), Fault.status(502, count=None))
        assert statuses(fake, 1) == [502]
        assert get(fake, "/sessions/sess_1").status == 500
        assert get(fake, "/sessions/sess_1").status == 502

    @pytest.mark.parametrize(
        "make",
        [
            lambda: Fault.status(500, operation="revoke_all"),
            lambda: Fault.status(500, probability=1.1),
            lambda: Fault.status(500, probability=float("nan")),
            lambda: Fault.status(500, count=-1),
            lambda: Fault.status(500, after=-1),
            lambda: Fault.status(500, delay=-1),
        ],
    )
    def test_invalid_faults_are_rejected(self, make: Callable[[], Fault]) -> None:
        with pytest.raises(ValueError, match="must be"):
            make()

    def test_inject_requires_a_fault(self, fake: FakeClerk) -> None:
        with pytest.raises(TypeError, match="Fault"):
            fake.inject()
