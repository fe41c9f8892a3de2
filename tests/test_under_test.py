"""Tests of those who use this freeze time: tokens follow, and nothing that waits waits forever."""

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
    """Give what freezes time, in each of freezegun's ways."""
    return freeze_time(FROZEN, **request.param)


def in_time(work: Callable[[], Any], limit: float = 20.0) -> Any:
    """Run something in a thread of its own, so that a hang is a failure and no more."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # noqa: BLE001 - handed to the test
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit)
    assert outcome, "it still waits"
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


class TestTokens:
    @pytest.mark.promise("frozen-time")
    def test_tokens_follow_the_frozen_clock(self, fake: FakeClerk, frozen: Any) -> None:
        """Minted here or made by the service; and a verifier expires them by it."""
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
    def test_what_was_made_before_follows_it_too(self, fake: FakeClerk) -> None:
        """As clients and verifiers of apps are; and goes on when time does."""
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
        """By a loop that is the verifier's own."""
        with frozen:
            verifier = TokenVerifier(issuer=fake.issuer, authorized_parties=[ORIGIN])
            token = fake.mint(fake.add_session(user_id="user_1"))
            assert in_time(lambda: verifier.verify(token).user_id) == "user_1"

    def test_the_async_verifier_too(self, fake: FakeClerk, frozen: Any) -> None:
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
        """In the sync client's loop, and in one of the test's own."""
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
    def test_an_attempt_ends_when_its_time_is_up(self, fake: FakeClerk, frozen: Any) -> None:
        """Though the service does not answer."""
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
        """Its pauses and repeats too."""
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
        """With a timeout, though no clock of the test's goes on."""
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
def test_all_of_it_may_be_imported_in_frozen_time() -> None:
    """What is loaded on first use is not left with a clock that stands still."""
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
        """So that what is compared with it may be a loop's time."""
        loop = asyncio.new_event_loop()
        assert abs(loop.time() - monotonic()) < 0.5
        loop.close()

    def test_nothing_stops_it_and_the_wall_clock_follows(self) -> None:
        """Unlike `time.monotonic`."""
        with freeze_time(FROZEN):
            before, frozen = monotonic(), time.monotonic()
            deadline = before + 0.002
            while monotonic() < deadline:
                pass
            assert time.monotonic() == frozen
            assert wall_clock() == FROZEN.timestamp()

    def test_a_loop_with_a_clock_of_its_own_keeps_it(self) -> None:
        """Such as one whose time a test makes up."""

        class Virtual(asyncio.SelectorEventLoop):
            def time(self) -> float:
                return 7.0

        loop = Virtual()
        assert clock_of(loop)() == 7.0
        loop.close()
        ours = new_event_loop()
        assert clock_of(ours) is monotonic
        with freeze_time(FROZEN):
            assert abs(ours.time() - monotonic()) < 0.5
        ours.close()
