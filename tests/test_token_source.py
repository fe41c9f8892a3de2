"""`token_source`: a valid token whenever one is needed, requested as rarely as possible."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from bulk_client import until
from clients import MODES, ONCE, Mode, client_of, sync_client_of

from clerk_async import (
    InvalidArgumentError,
    NotFoundError,
    ServerError,
    SessionsApi,
    Token,
)
from clerk_async.testing import Fault
from clerk_async.tokens.token_source import AsyncTokenSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clerk_async.testing import FakeClerk, FakeSession


class Later:
    """Moves the wall clock of this library; the service has its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + self.seconds)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Later:
    """Yield a clock that can be moved."""
    return Later(monkeypatch)


@attrs.frozen
class Sourced:
    """A sync or async token source, and a way to ask it."""

    source: Any
    runner: asyncio.Runner | None

    def tokens(self, count: int = 1) -> list[str]:
        """Ask for tokens concurrently, in as many tasks or threads."""
        if self.runner is None:
            with ThreadPoolExecutor(count) as pool:
                asked = [pool.submit(self.source.token) for _ in range(count)]
            found = [each.result() for each in asked]
        else:
            found = self.runner.run(self._gathered(count))
        assert all(type(token) is Token for token in found)
        return [token.jwt for token in found]

    async def _gathered(self, count: int) -> list[Token]:
        found: list[Token] = await asyncio.gather(*(self.source.token() for _ in range(count)))
        return found


def _of(client: Any, runner: asyncio.Runner | None, *about: str) -> Sourced:
    return Sourced(client.token_source(*about), runner)


@pytest.fixture
def session(fake: FakeClerk) -> FakeSession:
    """Return a session whose tokens are requested."""
    fake.add_template("custom_hasura", {"x-hasura": "{{user.id}}"}, lifetime=300)
    return fake.add_session(user_id="user_1")


@pytest.fixture(params=MODES)
def sourced(request: pytest.FixtureRequest, fake: FakeClerk, session: FakeSession) -> Iterator[Any]:
    """Yield a function that makes a source of that session's tokens, sync or async."""
    mode: Mode = request.param
    if mode == "sync":
        with sync_client_of(fake, retry=ONCE) as client:
            yield partial(_of, client, None, session.id)
        return
    with asyncio.Runner() as runner:
        sessions = client_of(fake, retry=ONCE)
        yield partial(_of, sessions, runner, session.id)
        runner.run(sessions.aclose())


@pytest.mark.promise("token-source")
def test_one_request_serves_all_callers(sourced: Any, fake: FakeClerk) -> None:
    """Concurrently, and for most of the token's life; making the source sends nothing."""
    source = sourced()
    assert fake.requests == []
    fake.latency = 0.05
    assert len({*source.tokens(20), *source.tokens(20)}) == 1
    assert [request.operation for request in fake.requests] == ["create_token"]


@pytest.mark.promise("token-source")
def test_a_token_is_renewed_ahead_of_its_expiry(
    sourced: Any, fake: FakeClerk, later: Later
) -> None:
    """After three quarters of its life, by one request."""
    source = sourced()
    source.tokens()
    later.seconds = 38.0
    source.tokens()
    assert len(fake.requests) == 1
    later.seconds = 46.0
    fake.latency = 0.05
    source.tokens(10)
    source.tokens(10)
    assert len(fake.requests) == 2


@pytest.mark.promise("token-source")
def test_a_source_uses_the_template_and_lifetime_of_its_tokens(
    sourced: Any, fake: FakeClerk, later: Later
) -> None:
    """The lifetime comes from the token, whatever this machine's clock says."""
    source = sourced("custom_hasura")
    (first,) = source.tokens()
    assert (fake.read_token(first) or {})["x-hasura"] == "user_1"
    later.seconds = 220.0
    source.tokens()
    assert len(fake.requests) == 1
    later.seconds = 230.0
    source.tokens()
    assert len(fake.requests) == 2
    assert "custom_hasura" in repr(source.source)
    assert first not in repr(source.source)


@pytest.mark.promise("token-source")
def test_an_outage_shorter_than_the_rest_of_a_tokens_life_is_hidden(
    sourced: Any, fake: FakeClerk, later: Later
) -> None:
    """The old token is returned while it is valid; after that the service's error is raised."""
    source = sourced()
    (first,) = source.tokens()
    fake.inject(Fault.status(500, count=None))
    later.seconds = 50.0
    assert source.tokens(5) == [first] * 5
    assert source.tokens() == [first]
    assert len(fake.requests) <= 3  # not one more for each caller, only one for each second
    later.seconds = 57.0
    with pytest.raises(ServerError):
        source.tokens()
    fake.clear_faults()
    assert source.tokens()


def test_an_ended_session_has_no_tokens(
    sourced: Any, fake: FakeClerk, session: FakeSession, later: Later
) -> None:
    """That is not an outage, so the old token is no longer returned."""
    source = sourced()
    source.tokens()
    fake.remove_session(session.id)
    later.seconds = 46.0
    for _ in range(2):
        with pytest.raises(NotFoundError):
            source.tokens()


def test_a_token_without_a_known_lifetime_is_used_once(sourced: Any, fake: FakeClerk) -> None:
    """Nobody knows when to renew it."""
    fake.inject(Fault.changed(lambda answer: {**answer, "jwt": "a.b.c"}, count=None))
    source = sourced()
    assert source.tokens() == source.tokens() == ["a.b.c"]
    assert len(fake.requests) == 2


async def test_a_slow_renewal_does_not_delay_callers(
    fake: FakeClerk, session: FakeSession, later: Later
) -> None:
    """The old token is returned meanwhile; the renewal continues, and is not started twice."""
    async with client_of(fake) as client:
        source = AsyncTokenSource(
            session.id, None, lambda: client.create_token(session.id), patience=0.01
        )
        first = await source.token()
        fake.inject(Fault.hold(operation="create_token"))
        later.seconds = 50.0
        assert await source.token() is await source.token() is first
        fake.release()
        await until(lambda: source._fresh() is not None)
        assert await source.token() is not first
        assert len(fake.requests) == 2


async def test_a_cancelled_caller_does_not_cancel_the_request_for_others(
    fake: FakeClerk, session: FakeSession
) -> None:
    """Each caller waits for the request, and none owns it."""
    async with client_of(fake) as client:
        source = client.token_source(session.id)
        fake.inject(Fault.hold())
        first, second = asyncio.ensure_future(source.token()), asyncio.ensure_future(source.token())
        await until(lambda: len(fake.requests) > 0)
        first.cancel()
        await asyncio.wait([first])
        fake.release()
        assert (await second).jwt
        assert len(fake.requests) == 1


@pytest.mark.parametrize("make", [client_of, sync_client_of])
@pytest.mark.parametrize(
    ("about", "options"),
    [(("",), {}), (("sess_1", ""), {}), (("sess_1",), {"expires_in_seconds": 5}), ((7,), {})],
)
def test_unusable_arguments_are_rejected_at_once(
    make: Any, about: Any, options: Any, fake: FakeClerk
) -> None:
    """When the source is made, not at its first token."""
    with pytest.raises(InvalidArgumentError):
        make(fake).token_source(*about, **options)
    assert fake.requests == []


def test_a_cached_token_is_returned_without_using_the_loop(
    fake: FakeClerk, session: FakeSession
) -> None:
    """So it is as fast as reading an attribute, and works even after the client was closed."""
    with SessionsApi(fake.secret_key, base_url=fake.base_url) as client:
        source = client.token_source(session.id)
        first = source.token()
    assert source.token() is first
