"""Each call ends with one DEBUG log line: the request, its outcome, and the time it took."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Final

import pytest
from clients import MODES, ONCE, OPERATIONS, Mode, client_of, invoke, logged, run

from clerk_async import (
    ClerkError,
    ClientClosedError,
    ConnectError,
    RequestTimeoutError,
    ResponseDecodeError,
    RetryPolicy,
)
from clerk_async.testing import Fault

if TYPE_CHECKING:
    from clerk_async.testing import FakeClerk

LINE: Final = re.compile(
    r"(?P<what>(?:GET|POST) /\S*): (?P<ending>\w+) after (?P<ms>\d+) ms, "
    r"attempts (?P<attempts>\d+), trace id (?P<trace>\S+)"
)


def endings(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, int]]:
    """Return the request, the outcome and the attempts of each call in the log."""
    told = [LINE.fullmatch(record.getMessage()) for record in logged(caplog)]
    return [(one["what"], one["ending"], int(one["attempts"])) for one in told if one is not None]


@pytest.mark.promise("debug-lines")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_ends_with_one_line(
    mode: Mode, operation: str, fake: FakeClerk, caplog: pytest.LogCaptureFixture
) -> None:
    """Method and path as sent, the status, the attempts; a retry has its own line."""
    fake.inject(Fault.status(429, retry_after=0))
    with caplog.at_level(logging.DEBUG, "clerk_async"):
        assert run(mode, fake, operation).error is None
    [request] = [one for one in fake.requests if one.status != 429]
    what = f"{request.method} {request.path.removeprefix('/v1')}"
    assert endings(caplog) == [(what, "200", 2)]
    assert len(logged(caplog)) == 2


@pytest.mark.promise("debug-lines")
async def test_a_failed_call_logs_its_outcome(
    fake: FakeClerk, caplog: pytest.LogCaptureFixture
) -> None:
    """The status if there was one, otherwise the error's name; also for a cancelled call."""
    session = fake.add_session().id
    what = f"GET /sessions/{session}"
    with caplog.at_level(logging.DEBUG, "clerk_async"):
        async with client_of(fake, retry=ONCE, timeout=60.0) as client:
            for fault, ending in (
                (Fault.status(404), "404"),
                (Fault.html(502), "502"),
                (Fault.cut("after"), "ConnectionLostError"),
                (Fault.hold(), RequestTimeoutError.__name__),
            ):
                caplog.clear()
                fake.inject(fault)
                is_late = ending == RequestTimeoutError.__name__
                view = client.with_options(timeout=0.2) if is_late else client
                with pytest.raises(ClerkError):
                    await view.get(session)
                assert endings(caplog) == [(what, ending, 1)]
            for ending in ("cancelled", ClientClosedError.__name__):
                fake.release()
                await fake.until(lambda: not fake.held)
                caplog.clear()
                fake.inject(Fault.hold())
                call = asyncio.create_task(client.get(session))
                await fake.until(lambda: fake.held == 1)
                if ending == "cancelled":
                    call.cancel()
                else:
                    await client.aclose()
                await asyncio.wait([call])
                assert endings(caplog) == [(what, ending, 1)]
        caplog.clear()
        nobody = client_of(fake, base_url="http://127.0.0.1:1/v1", retry=RetryPolicy(base_delay=0))
        async with nobody as client:
            with pytest.raises(ConnectError):
                await client.get(session)
        assert endings(caplog) == [(what, "ConnectError", 3)]


@pytest.mark.promise("debug-lines")
async def test_an_unreadable_response_is_logged_with_its_status(
    fake: FakeClerk, caplog: pytest.LogCaptureFixture
) -> None:
    """The line describes what was received."""
    fake.inject(Fault.not_json("<html>"))
    with caplog.at_level(logging.DEBUG, "clerk_async"):
        async with client_of(fake) as client:
            with pytest.raises(ResponseDecodeError):
                await client.create_token(fake.add_session().id)
    assert [ending for _, ending, _ in endings(caplog)] == ["200"]


@pytest.mark.promise("debug-lines")
async def test_a_bulk_run_has_one_line_for_each_id(
    fake: FakeClerk, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether the session was revoked or does not exist."""
    ids = [*(fake.add_session().id for _ in range(30)), "sess_nobody"]
    with caplog.at_level(logging.DEBUG, "clerk_async"):
        async with client_of(fake) as client:
            await client.revoke_many(ids)
    told = endings(caplog)
    assert sorted(what for what, _, _ in told) == sorted(
        f"POST /sessions/{one}/revoke" for one in ids
    )
    assert sorted(ending for _, ending, _ in told) == ["200"] * 30 + ["404"]


@pytest.mark.promise("debug-lines")
async def test_the_line_has_the_trace_id_and_no_secret(
    fake: FakeClerk, caplog: pytest.LogCaptureFixture
) -> None:
    """Clerk's support asks for that id; one that echoes the key is redacted."""
    session = fake.add_session().id
    with caplog.at_level(logging.DEBUG, "clerk_async"):
        async with client_of(fake) as client:
            found = await client.with_http_info.get(session)
            fake.inject(Fault.status(200, headers={"cf-ray": f"ray-{fake.secret_key}"}))
            with pytest.raises(ResponseDecodeError):  # an error's body
                await invoke(client, "get", fake)
    [first, second] = [LINE.fullmatch(record.getMessage()) for record in logged(caplog)]
    assert first is not None
    assert second is not None
    assert first["trace"] == str(found.trace_id)
    assert fake.secret_key not in second["trace"]
    assert fake.secret_key not in caplog.text


def test_nothing_is_logged_above_debug(fake: FakeClerk, caplog: pytest.LogCaptureFixture) -> None:
    """A successful call is not news."""
    with caplog.at_level(logging.INFO):
        run("async", fake, "get")
    assert logged(caplog) == []
