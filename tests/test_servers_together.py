"""Apps in real servers that share their state: an event that reaches one process applies to all."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
from served_apps import LIMIT, ServedApp, served, until

from clerk_async import SessionsApi

if TYPE_CHECKING:
    from collections.abc import Generator

    from redis_servers import RedisServer

    from clerk_async.testing import FakeClerk

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

UVICORN: Final = ("-m", "uvicorn", "--fd", "{fd}", "--no-access-log")
GUNICORN: Final = ("-m", "gunicorn", "-b", "fd://{fd}", "--graceful-timeout", "60", "-w", "2")
SERVERS: Final = {
    "fastapi on uvicorn": (*UVICORN, "webhook_fastapi:app"),
    "fastapi on gunicorn, preloaded": (
        *(*GUNICORN, "--preload", "-k", "uvicorn.workers.UvicornWorker"),
        "webhook_fastapi:app",
    ),
    "flask on gunicorn, preloaded": (*GUNICORN, "--preload", "webhook_flask:app"),
    "flask on gunicorn, preloaded threads": (
        *(*GUNICORN, "--preload", "-k", "gthread", "--threads", "4"),
        "webhook_flask:app",
    ),
}
ALL_HEARD: Final = 12
"""This many equal responses in a row come from both workers of a server."""
WEBHOOKS: Final = "/webhooks/clerk"


@contextlib.contextmanager
def serving(server: str, fake: FakeClerk, redis: RedisServer, **more: str) -> Generator[ServedApp]:
    """Run an app that shares its state."""
    environ = {
        "CLERK_ASYNC_SHARED_STATE": redis.url,
        "CLERK_WEBHOOK_SIGNING_SECRET": fake.webhook_secret,
        **more,
    }
    with served(SERVERS[server], fake, environ=environ) as app:
        yield app


def send(app: ServedApp, headers: dict[str, str], body: bytes) -> int:
    """Send an event, and return the status of the response."""
    connection = http.client.HTTPConnection("127.0.0.1", app.port, timeout=LIMIT)
    with contextlib.closing(connection):
        connection.request("POST", WEBHOOKS, body, {**headers, "Connection": "close"})
        answer = connection.getresponse()
        answer.read()
        return answer.status


def all_answer(app: ServedApp, status: int, session: Any, fake: FakeClerk) -> bool:
    """Return whether all workers respond to a user with this status."""
    return all(app.post("/who", session, fake) == status for _ in range(ALL_HEARD))


@pytest.mark.promise("webhooks", "shared-denials")
@pytest.mark.parametrize("server", SERVERS)
def test_a_webhook_signs_out_of_every_process(
    server: str, fake: FakeClerk, redis_server: RedisServer
) -> None:
    """After a session ends at the service, each worker of this app and of another rejects it."""
    ended, other = fake.add_session(user_id="user_1"), fake.add_session(user_id="user_2")
    another = "fastapi on uvicorn" if "flask" in server else "flask on gunicorn, preloaded"
    with (
        serving(server, fake, redis_server) as hearing,
        serving(another, fake, redis_server) as verifying,
    ):
        for app in (hearing, verifying):
            assert all_answer(app, 200, ended, fake)
        url = f"http://127.0.0.1:{hearing.port}{WEBHOOKS}"
        fake.send_webhooks_to(url, retry_after=[0.1, 0.1])
        ended.status = "ended"
        until(lambda: all_answer(verifying, 401, ended, fake))
        until(lambda: all_answer(hearing, 401, ended, fake))
        assert [each.status for each in fake.deliveries] == [204]
        fake.remove_user("user_2")
        until(lambda: all_answer(verifying, 401, other, fake))
        for app in (hearing, verifying):
            app.stop(signal.SIGTERM)
            app.assert_clean()


@pytest.mark.promise("webhooks")
@pytest.mark.parametrize("server", ["fastapi on uvicorn", "flask on gunicorn, preloaded threads"])
def test_a_forged_or_late_event_is_400_and_a_repeated_one_is_harmless(
    server: str, fake: FakeClerk, redis_server: RedisServer
) -> None:
    """A repeated event undoes no later `allow`."""
    session = fake.add_session(user_id="user_1")
    headers, body = fake.webhook("session.revoked", session)
    now = int(time.time() * 1000)
    late, _ = fake.webhook("session.revoked", session, sent_at=now - 301_000)
    ahead, _ = fake.webhook("session.revoked", session, sent_at=now + 900_000)
    with serving(server, fake, redis_server) as app:
        for forged, told in (
            ({}, body),
            ({**headers, "svix-signature": "v1,AAAA"}, body),
            ({**headers, "svix-id": "msg_other"}, body),
            ({**headers, "svix-timestamp": "soon"}, body),
            (headers, body + b" "),
            (headers, b"\xff\xfe"),
            (late, body),
            (ahead, body),
        ):
            assert send(app, forged, told) == 400
        assert all_answer(app, 200, session, fake)
        assert send(app, headers, body) == 204
        until(lambda: all_answer(app, 401, session, fake))
        with SessionsApi(
            fake.secret_key, base_url=fake.base_url, shared_state=redis_server.url
        ) as operator:
            operator.allow(session_id=session.id)
        until(lambda: all_answer(app, 200, session, fake))
        assert send(app, headers, body) == 204  # the same delivery once more
        assert all_answer(app, 200, session, fake)
        app.stop()
        app.assert_clean()


@pytest.mark.promise("shared-denials", "real-servers")
@pytest.mark.parametrize(
    "server", ["flask on gunicorn, preloaded", "flask on gunicorn, preloaded threads"]
)
def test_workers_forked_from_a_connected_process_share_too(
    server: str, fake: FakeClerk, redis_server: RedisServer
) -> None:
    """Each makes its own connections, counts as a process, and has its parent's denials."""
    session = fake.add_session(user_id="user_1", session_id="sess_1")
    known = fake.add_session(user_id="user_1", session_id="sess_before_the_forks")
    with serving(server, fake, redis_server, WARM_UP_BEFORE_FORKS="1") as app:
        assert all_answer(app, 401, known, fake)
        assert all_answer(app, 200, session, fake)
        assert send(app, *fake.webhook("session.revoked", session)) == 204
        until(lambda: all_answer(app, 401, session, fake))
        until(lambda: len(members(redis_server)) >= 2)
        app.stop()
        app.assert_clean()


def members(redis: RedisServer) -> dict[bytes, Any]:
    """Return what Redis stores about the processes that share the window."""
    (key,) = redis.command("KEYS", "*:members")
    return {name: json.loads(told) for name, told in redis.command("HGETALL", key).items()}
