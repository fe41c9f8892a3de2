"""Users' tests may freeze time: tokens follow the clock, and no wait lasts forever."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from clients import client_of, sync_client_of
from freezegun import freeze_time
from programs import run_program

from clerk_async import (
    AsyncTokenVerifier,
    RequestTimeoutError,
    RetryPolicy,
    TokenVerificationError,
    TokenVerifier,
)
from clerk_async.testing import FakeClerk, Fault
from clerk_async.under_test import clock_of, monotonic, new_event_loop, wall_clock

if TYPE_CHECKING:
    from collections.abc import Callable

ORIGIN = "http://localhost:3000"
FROZEN = datetime(2024, 5, 1, 12, tzinfo=UTC)
ONCE = RetryPolicy(attempts=1)
QUICK = RetryPolicy(base_delay=0.01)


@pytest.fixture(params=[{}, {"tick": True}, {"real_asyncio": True}], ids=["", "tick", "asyncio"])
def frozen(request: pytest.FixtureRequest) -> Any:
    """Return the functions that freeze time, with each of freezegun's options."""
    return freeze_time(FROZEN, **request.param)


def in_time(work: Callable[[], Any], limit: float = 20.0) -> Any:
    """Run a function in its own thread, so that a hang is only a failure."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # noqa: BLE001 - handed to the test
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit)
    assert outcome, "it is still waiting"
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


class TestTokens:
    @pytest.mark.promise("frozen-time")
    def test_tokens_follow_the_frozen_clock(self, fake: FakeClerk, frozen: Any) -> None:
        """Tokens minted here or made by the service; a verifier expires them by it."""
        with frozen as clock:
            session = fake.add_session(user_id="user_1")
            assert abs(session.created_at - FROZEN.timestamp() * 1000) < 60_000
            with sync_client_of(fake) as sessions:
                verifier = TokenVerifier(sessions=sessions, authorized_parties=[ORIGIN])
                minted = fake.mint(session)
                issued = verifier.verify(minted).issued_at
                made = TokenVerifier(jwt_key=fake.jwt_key).verify(
                    sessions.create_token(session.id).jwt
                )
                for moment in (issued, made.issued_at):
                    assert moment is not None
                    assert abs((moment - FROZEN).total_seconds()) < 60
                clock.tick(90)
                with pytest.raises(TokenVerificationError, match="expired"):
                    verifier.verify(minted)
                assert verifier.verify(fake.mint(session)).user_id == "user_1"

    @pytest.mark.promise("frozen-time")
    def test_objects_made_before_the_freeze_follow_it_too(self, fake: FakeClerk) -> None:
        """Clients and verifiers of apps are made before; they continue when time does."""
        session = fake.add_session(user_id="user_1")
        with sync_client_of(fake) as sessions:
            by_fetch = TokenVerifier(sessions=sessions, authorized_parties=[ORIGIN])
            by_key = TokenVerifier(jwt_key=fake.jwt_key, authorized_parties=[ORIGIN])
            for verifier in (by_fetch, by_key):
                assert verifier.verify(fake.mint(session)).user_id == "user_1"
                with freeze_time(FROZEN):
                    assert verifier.verify(fake.mint(session)).user_id == "user_1"
                    assert in_time(lambda: verifier.verify(fake.mint(session))) is not None  # noqa: B023 - ended
                assert verifier.verify(fake.mint(session)).user_id == "user_1"
            assert by_fetch.key_status().fetches == 1

    def test_the_published_keys_are_fetched_in_frozen_time(
        self, fake: FakeClerk, frozen: Any
    ) -> None:
        """By the verifier's own loop."""
        with frozen:
            verifier = TokenVerifier(issuer=fake.issuer, authorized_parties=[ORIGIN])
            token = fake.mint(fake.add_session(user_id="user_1"))
            assert in_time(lambda: verifier.verify(token).user_id) == "user_1"

    def test_the_async_verifier_works_in_frozen_time(self, fake: FakeClerk, frozen: Any) -> None:
        """In a loop whose clock is frozen."""
        with frozen:
            token = fake.mint(fake.add_session(user_id="user_1"))

            async def verify() -> str:
                async with client_of(fake) as sessions:
                    verifier = AsyncTokenVerifier(sessions=sessions, authorized_parties=[ORIGIN])
                    return (await verifier.verify(token)).user_id

            assert in_time(lambda: asyncio.run(verify())) == "user_1"


FAULTS = {
    "unavailable": Fault.status(503),
    "told to wait": Fault.status(429, retry_after=0.05),
    "cut": Fault.cut("after"),
    "slow": Fault.delayed(0.05),
    "slow body": Fault.slow_body(0.05),
}


class TestWaits:
    @pytest.mark.promise("frozen-time")
    @pytest.mark.parametrize("fault", FAULTS)
    def test_a_retry_ends(self, fake: FakeClerk, frozen: Any, fault: str) -> None:
        """In the sync client's loop, and in a loop of the test."""
        with frozen:
            session_id = fake.add_session().id

            async def get() -> str:
                async with client_of(fake, retry=QUICK) as sessions:
                    return (await sessions.get(session_id)).id

            fake.inject(FAULTS[fault])
            with sync_client_of(fake, retry=QUICK) as sessions:
                assert in_time(lambda: sessions.get(session_id).id) == session_id
            fake.inject(FAULTS[fault])
            assert in_time(lambda: asyncio.run(get())) == session_id

    @pytest.mark.promise("frozen-time")
    def test_an_attempt_times_out(self, fake: FakeClerk, frozen: Any) -> None:
        """The service does not respond."""
        with frozen:
            session_id = fake.add_session().id
            fake.inject(Fault.hold(count=None))

            async def get() -> None:
                async with client_of(fake, retry=ONCE, timeout=0.05) as sessions:
                    await sessions.get(session_id)

            with sync_client_of(fake, retry=ONCE, timeout=0.05) as sessions:
                for ask in (lambda: sessions.get(session_id), lambda: asyncio.run(get())):
                    with pytest.raises(RequestTimeoutError):
                        in_time(ask)

    def test_a_bulk_run_ends(self, fake: FakeClerk, frozen: Any) -> None:
        """With its pauses and retries."""
        with frozen:
            ids = [fake.add_session().id for _ in range(40)]
            fake.inject(
                Fault.status(429, retry_after=1, operation="revoke"),
                Fault.status(503, operation="revoke", after=5),
            )

            async def revoke() -> int:
                async with client_of(fake, retry=QUICK) as sessions:
                    return (await sessions.revoke_many(ids[20:])).revoked

            with sync_client_of(fake, retry=QUICK) as sessions:
                assert in_time(lambda: sessions.revoke_many(ids[:20]).revoked) == 20
            assert in_time(lambda: asyncio.run(revoke())) == 20

    def test_waiting_for_the_fake_ends(self, fake: FakeClerk, frozen: Any) -> None:
        """By its timeout, though the frozen clock doesn't advance."""
        with frozen:
            fake.latency = (0.001, 0.002)

            async def until() -> None:
                await fake.until(lambda: False, timeout=0.02)

            for wait in (
                lambda: fake.wait_for(lambda: False, timeout=0.02),
                lambda: asyncio.run(until()),
            ):
                with pytest.raises(TimeoutError, match="was not met"):
                    in_time(wait)


@pytest.mark.slow
def test_everything_can_be_imported_in_frozen_time() -> None:
    """Modules imported on first use don't keep a frozen clock."""
    ended = run_program(
        """
        from freezegun import freeze_time
        def use():
            from clerk_async import SessionsApi, TokenVerifier
            from clerk_async.testing import FakeClerk, Fault
            with FakeClerk() as fake:
                session = fake.add_session(user_id="user_1")
                fake.inject(Fault.status(503))
                with SessionsApi(fake.secret_key, base_url=fake.base_url) as sessions:
                    found = sessions.get(session.id)
                    verifier = TokenVerifier(sessions=sessions, authorized_parties=[
                        "http://localhost:3000"])
                    verifier.verify(fake.mint(session))
                    return found.created_at.year
        with freeze_time("2024-05-01"):
            print(use())
        print(use() > 2025)
        """,
        None,
    )
    assert ended.code == 0, ended.err
    assert ended.out.splitlines() == ["2024", "True"]


class TestClocks:
    def test_monotonic_is_the_loops_own_clock(self) -> None:
        """It can be compared with the loop's time."""
        loop = asyncio.new_event_loop()
        assert monotonic() <= loop.time() <= monotonic()
        loop.close()

    def test_freezing_does_not_stop_it_and_the_wall_clock_follows(self) -> None:
        """Unlike `time.monotonic`."""
        with freeze_time(FROZEN):
            before, frozen = monotonic(), time.monotonic()
            deadline = before + 0.002
            while monotonic() < deadline:
                pass
            assert time.monotonic() == frozen
            assert wall_clock() == FROZEN.timestamp()

    def test_a_loop_with_its_own_clock_keeps_it(self) -> None:
        """For example, the virtual time of a test."""

        class Virtual(asyncio.SelectorEventLoop):
            def time(self) -> float:
                return 7.0

        loop = Virtual()
        assert clock_of(loop)() == 7.0
        loop.close()
        ours = new_event_loop()
        assert clock_of(ours) is monotonic
        with freeze_time(FROZEN):
            assert monotonic() <= ours.time() <= monotonic()
        ours.close()
