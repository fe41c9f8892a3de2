"""Sixteen threads use everything that may be shared, with and without the GIL."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from clients import sync_client_of

from clerk_async import AsyncSessionsApi, AsyncTokenVerifier, RateLimit, TokenVerifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clerk_async.testing import FakeClerk

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("each_private_loop")]

THREADS = 16
ROUNDS = 60


@pytest.fixture(autouse=True)
def _switch_all_the_time() -> Iterator[None]:
    """Switch threads after a microsecond; without the GIL they run in parallel anyway."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def at_once(work: Callable[[int], None]) -> None:
    """Run a function in sixteen threads at the same time, and raise the first error."""
    start = threading.Barrier(THREADS)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            start.wait()
            work(number)
        except BaseException as error:  # noqa: BLE001 - raised below, in the test's own thread
            errors.append(error)

    had_gil = _has_gil()
    threads = [
        threading.Thread(target=run, args=(number,), daemon=True) for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    if errors:
        raise errors[0]
    assert _has_gil() == had_gil, "an imported module has switched the GIL on"


def _has_gil() -> bool:
    asks: Callable[[], bool] | None = getattr(sys, "_is_gil_enabled", None)
    return asks is None or asks()


@pytest.mark.promise("many-threads")
def test_one_sync_client_serves_sixteen_threads(fake: FakeClerk) -> None:
    """Each gets the responses to its own calls, from the first call on."""
    for number in range(THREADS):
        fake.add_session(user_id=f"user_{number}", status="ended")
    with sync_client_of(fake) as sessions:

        def work(number: int) -> None:
            user = f"user_{number}"
            for _ in range(ROUNDS):
                made = sessions.create(user)
                assert sessions.get(made.id).user_id == user
                assert sessions.create_token(made.id).jwt
                assert sessions.revoke(made.id).id == made.id
            assert not sessions.list(user_id=user, status="active").data

        at_once(work)


@pytest.mark.promise("many-threads")
def test_bulk_runs_of_sixteen_threads_are_independent(fake: FakeClerk) -> None:
    """Each report counts its own sessions, and each callback is called in its own thread."""
    ids = {
        number: [fake.add_session(user_id=f"user_{number}").id for _ in range(20)]
        for number in range(THREADS)
    }
    with sync_client_of(fake, rate_limit=RateLimit(10_000, per=1.0)) as sessions:

        def work(number: int) -> None:
            told: list[str | None] = []
            here = threading.get_ident()

            def note(outcome: object) -> None:
                assert threading.get_ident() == here
                told.append(getattr(outcome, "session_id", None))

            report = sessions.revoke_many(ids[number], on_outcome=note)
            assert (report.revoked, report.total) == (20, 20)
            assert sorted(map(str, told)) == sorted(ids[number])

        at_once(work)


@pytest.mark.promise("many-threads")
def test_a_client_may_be_closed_and_recreated_beside_fifteen_others(fake: FakeClerk) -> None:
    """Each has its own loop, thread and connections."""
    fake.add_session(user_id="user_1")

    def work(_: int) -> None:
        for _ in range(5):
            with sync_client_of(fake) as sessions:
                assert sessions.list(user_id="user_1").total_count == 1

    at_once(work)


@pytest.mark.promise("many-threads")
def test_one_sync_verifier_serves_sixteen_threads(fake: FakeClerk) -> None:
    """They share one fetch of the keys, and each token has its own claims."""
    tokens = [fake.mint(fake.add_session(user_id=f"user_{n}")) for n in range(THREADS)]
    with sync_client_of(fake) as sessions:
        verifier = TokenVerifier(sessions=sessions, authorized_parties=None)
        at_once(lambda number: _verify(verifier, tokens[number], f"user_{number}"))
        assert _fetches(fake) == 1


def _verify(verifier: TokenVerifier, token: str, user_id: str) -> None:
    for _ in range(ROUNDS * 10):
        assert verifier.verify(token).user_id == user_id


@pytest.mark.promise("many-threads")
def test_sixteen_loops_each_have_their_own_client_and_verifier(fake: FakeClerk) -> None:
    """Async clients in separate threads share nothing."""
    session = fake.add_session(user_id="user_1")
    token = fake.mint(session)

    async def use() -> None:
        async with AsyncSessionsApi(fake.secret_key, base_url=fake.base_url) as sessions:
            verifier = AsyncTokenVerifier(sessions=sessions)
            for _ in range(ROUNDS):
                assert (await sessions.get(session.id)).id == session.id
                assert (await verifier.verify(token)).session_id == session.id

    at_once(lambda _: asyncio.run(use()))


def _fetches(fake: FakeClerk) -> int:
    return sum(request.operation == "jwks" for request in fake.requests)


def test_an_error_in_a_thread_fails_the_test() -> None:
    """Otherwise none of the tests above could fail."""

    def work(number: int) -> None:
        if number == 7:
            raise LookupError(str(number))

    with pytest.raises(LookupError):
        at_once(work)
