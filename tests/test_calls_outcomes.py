"""Each operation, with either client, for each possible outcome of a call."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
from clients import MODES, ONCE, OPERATIONS, Mode, invoke, run

from clerk_async import (
    ApiError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    ConnectError,
    ConnectionLostError,
    GoneError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    RequestTimeoutError,
    ResponseDecodeError,
    ServerError,
    Session,
    SessionPage,
    Timeouts,
    Token,
    TransportError,
    UnprocessableEntityError,
)
from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULTS: dict[str, type[Any]] = {
    "list": SessionPage,
    "create_token": Token,
    "create_token_from_template": Token,
    "refresh": Token,
}
STATUSES: dict[int, type[ApiError]] = {
    302: ApiError,
    400: BadRequestError,
    401: AuthenticationError,
    402: ApiError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    418: ApiError,
    422: UnprocessableEntityError,
    429: RateLimitedError,
    500: ServerError,
    503: ServerError,
    529: ServerError,
}
BODIES: dict[str, Any] = {
    "not json": Fault.not_json("OK"),
    "nothing": Fault.empty(200),
    "html": Fault.html(200),
    "null": Fault.wrong_shape(None),
    "a number": Fault.wrong_shape(12),
    "an object of something else": Fault.wrong_shape({"object": "user", "ids": [1]}),
    "a list of a list": Fault.wrong_shape({"data": {"id": "x"}}),
    "truncated": Fault.truncated_json(),
    "not utf-8": Fault.not_json(b'{"id": "\xff\xfe"}'),
    "nested too deeply": Fault.not_json(b"[" * 100_000),
}


@pytest.fixture(scope="module")
def shared() -> Iterator[FakeClerk]:
    """Yield one service for the whole table; its rows differ only in their faults."""
    with FakeClerk() as running:
        yield running


@pytest.fixture
def fake(shared: FakeClerk) -> Iterator[FakeClerk]:
    """Yield the shared service, reset after the previous row."""
    shared.clear_faults()
    shared.requests.clear()
    yield shared
    shared.clear_faults()
    shared.release()


def all_ways(test: Any) -> Any:
    """Run a test for each operation with either client."""
    with_modes = pytest.mark.parametrize("mode", MODES)(test)
    return pytest.mark.parametrize("operation", OPERATIONS)(with_modes)


@pytest.mark.promise("models-and-errors")
@all_ways
def test_a_success_returns_the_model(mode: Mode, operation: str, fake: FakeClerk) -> None:
    """A good response becomes a model, after one request."""
    ended = run(mode, fake, operation)
    assert ended.error is None
    assert isinstance(ended.value, RESULTS.get(operation, Session))
    assert [request.operation for request in fake.requests] == [operation]


@pytest.mark.promise("models-and-errors")
@all_ways
@pytest.mark.parametrize("status", STATUSES)
def test_each_status_raises_its_error(
    mode: Mode, operation: str, status: int, fake: FakeClerk
) -> None:
    """An error status raises exactly its class, with the call, the codes and the trace id."""
    fake.inject(Fault.status(status, operation=operation))
    error = run(mode, fake, operation, retry=ONCE).error
    assert type(error) is STATUSES[status]
    assert isinstance(error, ApiError)
    assert error.status == status
    assert error.attempts == len(fake.requests) == 1
    assert error.method == fake.requests[0].method
    assert f"/v1{error.path}" == fake.requests[0].path
    assert error.trace_id
    assert error.__cause__ is None
    assert str(status) in str(error)


@all_ways
@pytest.mark.parametrize("retry_after", [None, 7])
@pytest.mark.parametrize("status", [429, 503])
def test_the_error_has_retry_after(
    mode: Mode, operation: str, status: int, retry_after: int | None, fake: FakeClerk
) -> None:
    """It is the time that the service requested, or None."""
    fake.inject(Fault.empty(status, retry_after=retry_after, operation=operation))
    error = run(mode, fake, operation, retry=ONCE).error
    assert isinstance(error, ApiError)
    assert error.retry_after == retry_after
    assert error.errors == ()
    assert error.code is None


@pytest.mark.promise("useless-bodies")
@all_ways
@pytest.mark.parametrize("body", BODIES)
def test_an_unreadable_response_is_a_decode_error(
    mode: Mode, operation: str, body: str, fake: FakeClerk
) -> None:
    """An unreadable 200 raises at once, because a retry would not help."""
    fake.inject(BODIES[body])
    error = run(mode, fake, operation).error
    assert type(error) is ResponseDecodeError
    assert error.json_path.startswith("$")
    assert error.status == 200
    assert error.attempts == len(fake.requests) == 1
    assert error.method == fake.requests[0].method
    assert f"/v1{error.path}".partition("?")[0] == fake.requests[0].path


@pytest.mark.promise("never-sent")
@all_ways
def test_a_refused_connection_is_a_connect_error(
    mode: Mode, operation: str, fake: FakeClerk
) -> None:
    """If nothing listens, the request was never sent, and the error says so."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        error = run(mode, fake, operation, base_url=url, retry=ONCE).error
    assert type(error) is ConnectError
    assert error.attempts == 1
    assert fake.requests == []


@pytest.mark.promise("counted-sends", "never-sent")
@all_ways
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("stage", ["before", "after", "body"])
def test_a_request_on_a_cut_connection_may_have_arrived(
    mode: Mode, operation: str, stage: Any, reset: bool, fake: FakeClerk
) -> None:
    """After the request was sent, any cut is a lost connection."""
    fake.inject(Fault.cut(stage, reset=reset, operation=operation, count=None))
    error = run(mode, fake, operation, retry=ONCE).error
    assert type(error) is ConnectionLostError
    assert error.attempts == len(fake.requests) == 1, "nothing below us may retry"
    assert error._may_have_arrived


@pytest.mark.promise("pool-wait")
@all_ways
@pytest.mark.parametrize("when", ["headers", "body"])
def test_a_late_response_times_out(mode: Mode, operation: str, when: str, fake: FakeClerk) -> None:
    """The timeout covers headers and body; the error is a TimeoutError with its phase."""
    late = Fault.hold() if when == "headers" else Fault.slow_body(30, pieces=100)

    def call_late(client: Any) -> Any:  # once it is connected, which has its own phase
        hurried = client.with_options(timeout=Timeouts(attempt=0.2))
        if mode == "sync":
            client.list(user_id="user_1")
            fake.inject(late)
            return invoke(hurried, operation, fake)

        async def call() -> Any:
            await client.list(user_id="user_1")
            fake.inject(late)
            return await invoke(hurried, operation, fake)

        return call()

    error = run(mode, fake, call_late, retry=ONCE).error
    assert type(error) is RequestTimeoutError
    assert isinstance(error, TransportError | TimeoutError)
    assert error.phase == "response"
    assert error.attempts == 1
    assert len(fake.requests) <= 2, "a busy server may not have read it by then"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operation", ["get", "revoke", "verify", "create_token"])
def test_an_unknown_session_is_not_found(mode: Mode, operation: str, fake: FakeClerk) -> None:
    """The service's own 404 has its code, on every path that names a session."""
    session = fake.add_session()

    def call(client: Any) -> Any:
        return invoke(client, operation, fake, session.id)

    token_first = fake.mint(session)
    fake.requests.clear()
    assert token_first
    fake.inject(Fault.status(404, error_code="resource_not_found"))
    error = run(mode, fake, call).error
    assert isinstance(error, NotFoundError)
    assert error.code == "resource_not_found"


@pytest.mark.promise("models-and-errors")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_proxys_html_is_a_server_error(mode: Mode, status: int, fake: FakeClerk) -> None:
    """The status counts before the body: HTML with a 502 is a server error, not a decode error."""
    fake.inject(Fault.html(status))
    error = run(mode, fake, "get", retry=ONCE).error
    assert type(error) is ServerError
    assert "html" not in str(error).lower()
    assert error.errors == ()


@pytest.mark.parametrize("mode", MODES)
def test_an_error_body_of_any_shape_keeps_the_status(mode: Mode, fake: FakeClerk) -> None:
    """Whatever an error's body contains, the status decides what is raised."""
    bodies: list[Any] = [
        b"null",
        b"[]",
        b'{"errors": null}',
        b'{"errors": [null, 3, {"code": 7}]}',
        b'{"errors": {"code": "x"}}',
        b"\xff\xff",
        b'{"errors": [{"message": "m", "code": "c", "meta": []}], "clerk_trace_id": 5}',
    ]
    for body in bodies:
        fake.inject(Fault.status(400, body=body))
        error = run(mode, fake, "get").error
        assert type(error) is BadRequestError, body


@pytest.mark.parametrize("mode", MODES)
def test_a_401_of_refresh_is_about_the_session(mode: Mode, fake: FakeClerk) -> None:
    """It keeps its code, and isn't blamed on the secret key."""
    session = fake.add_session(status="ended")
    error = run(mode, fake, lambda client: invoke(client, "refresh", fake, session.id)).error
    assert type(error) is AuthenticationError
    assert error.code == "session_refresh_inactive_session"
    assert "secret key" not in str(error)
