"""Web apps as users write them, in real servers: load, reloads and shutdown."""

from __future__ import annotations

import re
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import pytest
from served_apps import APPS, LIMIT, ask, assert_clean, program, served, until

from clerk_async import SessionsApi
from clerk_async.testing import Fault

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from clerk_async.testing import FakeClerk
    from clerk_async.testing.state import FakeSession

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

UVICORN: Final = ("-m", "uvicorn", "--fd", "{fd}", "--no-access-log")
# Longer than anything takes here, so that a hanging worker is not killed unnoticed.
GUNICORN: Final = ("-m", "gunicorn", "-b", "fd://{fd}", "--graceful-timeout", "60")
SYNC: Final = (*GUNICORN, "-w", "2")
THREADS: Final = (*GUNICORN, "-w", "2", "-k", "gthread", "--threads", "8")

SERVERS: Final = {
    "fastapi on uvicorn": (*UVICORN, "fastapi_app:app"),
    "fastapi on uvicorn with uvloop": (*UVICORN, "--loop", "uvloop", "fastapi_app:app"),
    "starlette on uvicorn": (*UVICORN, "starlette_app:app"),
    "aiohttp.web": ("aiohttp_app.py", "{fd}"),
    "flask on gunicorn, prefork": (*SYNC, "flask_app:app"),
    "flask on gunicorn, preloaded": (*SYNC, "--preload", "flask_app:app"),
    "flask on gunicorn, threads": (*THREADS, "flask_app:app"),
    "flask on gunicorn, preloaded threads": (*THREADS, "--preload", "flask_app:app"),
    "django on gunicorn, threads": (*THREADS, "--preload", "django_app:wsgi"),
    "django on uvicorn": (*UVICORN, "--lifespan", "off", "django_app:asgi"),
}
STOPPING: Final = re.compile("Handling signal: term|Shutting down")
ENDED_BY_SIGTERM: Final = {
    name: -signal.SIGTERM
    if "uvicorn" in name
    else 0  # uvicorn cleans up, then re-raises the signal
    for name in SERVERS
}
GUNICORNS: Final = [name for name in SERVERS if "gunicorn" in name]
FLASKS: Final = {name: SERVERS[name] for name in GUNICORNS if "flask" in name}


def users(fake: FakeClerk, count: int) -> list[FakeSession]:
    """Sign in the given number of users."""
    return [fake.add_session(user_id=f"user_{number}") for number in range(count)]


def assert_signed_out(fake: FakeClerk, sessions: Sequence[FakeSession]) -> None:
    """Check that each session was revoked, by exactly one request."""
    assert {session.status for session in sessions} == {"revoked"}
    revoked = [request.session_id for request in fake.requests if request.operation == "revoke"]
    assert sorted(str(name) for name in revoked) == sorted(session.id for session in sessions)


def revocations(fake: FakeClerk) -> int:
    """Count the revocation requests that have arrived."""
    return sum(request.operation == "revoke" for request in fake.requests)


def lists(fake: FakeClerk) -> int:
    """Count the list requests that have arrived."""
    return sum(request.operation == "list" for request in fake.requests)


@pytest.mark.promise("real-servers")
@pytest.mark.parametrize("server", SERVERS)
def test_a_server_signs_users_out_under_load_and_exits_cleanly(
    server: str, fake: FakeClerk
) -> None:
    """Each request gets a response, each session is revoked once, and SIGTERM ends it cleanly."""
    sessions = users(fake, 120)
    with served(SERVERS[server], fake) as app:
        assert app.post("/sign-out", None, fake) == 401
        assert app.post_all("/sign-out", sessions, fake) == [204] * len(sessions)
        assert_signed_out(fake, sessions)
        keys_fetched = [request for request in fake.requests if request.operation == "jwks"]
        workers = 2 if server in GUNICORNS else 1
        assert 1 <= len(keys_fetched) <= workers
        assert app.stop() == ENDED_BY_SIGTERM[server]
        app.assert_clean()


@pytest.mark.parametrize(
    ("server", "path", "status"),
    [
        ("fastapi on uvicorn", "/sign-out-everywhere", 200),
        ("django on uvicorn", "/sign-out-async", 204),
    ],
)
def test_the_other_views_sign_users_out_too(
    server: str, path: str, status: int, fake: FakeClerk
) -> None:
    """A view that signs a user out everywhere, and an async view of Django."""
    sessions = users(fake, 8)
    with served(SERVERS[server], fake) as app:
        assert app.post(path, None, fake) == 401
        assert app.post_all(path, sessions, fake) == [status] * len(sessions)
        assert_signed_out(fake, sessions)
        assert app.stop() == ENDED_BY_SIGTERM[server]
        app.assert_clean()


@pytest.mark.promise("json-values")
@pytest.mark.parametrize(
    "server", ["flask on gunicorn, threads", "django on gunicorn, threads", "django on uvicorn"]
)
def test_values_are_returned_as_json_by_to_dict(server: str, fake: FakeClerk) -> None:
    """With the frameworks' own JSON responses (FastAPI's annotations have their own test)."""
    session, _ = (fake.add_session(user_id="user_1") for _ in range(2))
    with served(SERVERS[server], fake) as app:
        status, answer = ask(app, "GET", "/me", session, fake)
        assert status == 200
        with SessionsApi(fake.secret_key, base_url=fake.base_url) as sessions:
            assert answer["sessions"] == sessions.list(user_id="user_1").to_dict()
        assert answer["claims"]["session_id"] == session.id
        assert answer["claims"]["raw"]["sid"] == session.id
        assert ask(app, "GET", "/me", None, fake)[0] == 401
        assert app.stop() == ENDED_BY_SIGTERM[server]
        app.assert_clean()


LIFETIMES: Final = {
    "fastapi_app": ("app.router.lifespan_context(app)", "app.state.sessions", 2),
    "starlette_app": ("app.router.lifespan_context(app)", "app.state.sessions", 2),
    "aiohttp_app": ("running(app)", "app[aiohttp_app.SESSIONS]", 1),  # starts only once
}


@pytest.mark.promise("real-servers")
@pytest.mark.parametrize("name", LIFETIMES)
def test_an_app_can_be_started_again_and_leaves_nothing_open(name: str, fake: FakeClerk) -> None:
    """Test clients do this: each lifespan has its own client, which is closed at its end."""
    fake.add_session(user_id="user_1")
    lifetime, sessions, times = LIFETIMES[name]
    code = f"""
import asyncio, contextlib, signal
import {name}
from aiohttp import web
app = {name}.app

@contextlib.asynccontextmanager
async def running(app):
    runner = web.AppRunner(app)
    await runner.setup()
    yield
    await runner.cleanup()

async def main():
    for _ in range({times}):
        async with {lifetime}:
            print((await {sessions}.list(user_id="user_1")).total_count)

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
asyncio.run(main())
signal.sigwait([signal.SIGTERM])
"""
    with program(["-c", code], fake) as (process, log):
        fake.wait_for(lambda: lists(fake) == times and fake.open_connections == 0, timeout=LIMIT)
        process.terminate()
        assert process.wait(LIMIT) == 0
        log.seek(0)
        output = log.read().decode()
    assert_clean(output)
    assert [line for line in output.splitlines() if len(line) == 1] == ["1"] * times


@pytest.mark.promise("real-servers")
def test_a_reload_of_uvicorn_loses_no_request_in_flight(fake: FakeClerk, tmp_path: Path) -> None:
    """The app's file changes while requests wait: the old app responds, then the new one starts."""
    app_file = tmp_path / "reloaded_app.py"
    text = (APPS / "fastapi_app.py").read_text(encoding="utf-8")
    app_file.write_text(text, encoding="utf-8")
    arguments = [*UVICORN, "--reload", "--reload-dir", str(tmp_path), "--app-dir", str(tmp_path)]
    sessions, later = users(fake, 2), users(fake, 20)
    with served([*arguments, "reloaded_app:app"], fake) as app, ThreadPoolExecutor(2) as callers:
        assert app.post("/sign-out", users(fake, 1)[0], fake) == 204
        fake.inject(Fault.hold(operation="revoke", count=2))
        answers = [callers.submit(app.post, "/sign-out", each, fake) for each in sessions]
        fake.wait_for(lambda: fake.held == 2, timeout=LIMIT)
        app_file.write_text(text.replace("204", "200"), encoding="utf-8")
        until(lambda: "Shutting down" in app.output())
        fake.release()
        assert [answer.result() for answer in answers] == [204, 204]
        assert app.post_all("/sign-out", later, fake) == [200] * len(later)
        assert {session.status for session in later} == {"revoked"}
        app.stop()
        app.assert_clean()


@pytest.mark.promise("real-servers")
@pytest.mark.parametrize("server", SERVERS)
def test_sigterm_loses_no_request_in_flight(server: str, fake: FakeClerk) -> None:
    """Requests that wait for the service when SIGTERM arrives get responses before the exit."""
    sessions = users(fake, 2)
    with served(SERVERS[server], fake) as app, ThreadPoolExecutor(2) as callers:
        assert app.post("/sign-out", users(fake, 1)[0], fake) == 204
        fake.inject(Fault.hold(operation="revoke", count=2))
        answers = [callers.submit(app.post, "/sign-out", each, fake) for each in sessions]
        fake.wait_for(lambda: fake.held == 2, timeout=LIMIT)
        app.process.send_signal(signal.SIGTERM)
        until(lambda: STOPPING.search(app.output()))
        fake.release()
        assert [answer.result() for answer in answers] == [204, 204]
        assert app.process.wait(LIMIT) == ENDED_BY_SIGTERM[server]
        app.assert_clean()


@pytest.mark.parametrize("server", GUNICORNS)
def test_reloads_under_load_lose_no_request(server: str, fake: FakeClerk) -> None:
    """Workers are replaced twice (HUP) while requests arrive, and every one gets its response."""
    sessions = users(fake, 240)
    with served(SERVERS[server], fake) as app, ThreadPoolExecutor(1) as caller:
        load = caller.submit(app.post_all, "/sign-out", sessions, fake)
        for part in (60, 140):
            until(lambda: revocations(fake) >= part)  # noqa: B023 - asked within the turn
            app.process.send_signal(signal.SIGHUP)
        assert load.result() == [204] * len(sessions)
        assert_signed_out(fake, sessions)
        assert app.stop() == 0
        app.assert_clean()


@pytest.mark.usefixtures("each_programs_loop")
@pytest.mark.parametrize("server", FLASKS)
def test_a_master_in_mid_call_at_the_fork_harms_no_worker(server: str, fake: FakeClerk) -> None:
    """A loop, thread and locks in use at the fork hang neither worker nor master."""
    sessions = users(fake, 60)
    environ = {"CALL_BEFORE_FORKS": "1"}
    with served(FLASKS[server], fake, environ=environ) as app:
        assert app.post_all("/sign-out", sessions, fake) == [204] * len(sessions)
        assert_signed_out(fake, sessions)
        app.process.send_signal(signal.SIGHUP)
        before = lists(fake)
        fake.wait_for(lambda: lists(fake) > before + 50, timeout=LIMIT)
        more = users(fake, 20)
        assert app.post_all("/sign-out", more, fake) == [204] * len(more)
        assert app.stop() == 0
        app.assert_clean()
