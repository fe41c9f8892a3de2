"""Callbacks and progress: they report everything and never disturb the run."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from bulk_client import add_sessions, bulk_client, sends
from bulk_stage import Client, Service, revoke_many, simulate
from clients import logged, sync_client_of

from clerk_async import RateLimit, RevocationOutcome, RevocationReport, RevocationStatus
from clerk_async.testing import Fault
from clerk_async.testing.settings import SlidingWindow

if TYPE_CHECKING:
    from pathlib import Path

    from clerk_async import RevocationProgress
    from clerk_async.testing import FakeClerk


def _ids(count: int) -> list[str]:
    return [f"sess_{number}" for number in range(count)]


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
async def test_a_callback_that_raises_is_logged_once_and_loses_nothing(
    fake: FakeClerk, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each callback is logged once for the whole run."""
    ids = add_sessions(fake, 20)

    def plain(_: object) -> None:
        raise ValueError("the user's own trouble")

    async def coroutine(_: object) -> None:
        plain(_)

    callback = plain if kind == "plain" else coroutine
    async with bulk_client(fake) as client:
        report = await client.revoke_many(ids, on_outcome=callback, on_progress=callback)
    assert report.revoked == 20
    assert sorted(record.getMessage().split()[0] for record in logged(caplog)) == [
        "on_outcome",
        "on_progress",
    ]


async def test_coroutine_callbacks_are_awaited_one_at_a_time(fake: FakeClerk) -> None:
    """They need no lock."""
    ids = add_sessions(fake, 20)
    inside = most = calls = 0

    async def on_outcome(_: RevocationOutcome) -> None:
        nonlocal inside, most, calls
        inside += 1
        calls += 1
        most = max(most, inside)
        await asyncio.sleep(0.001)
        inside -= 1

    async with bulk_client(fake) as client:
        await client.revoke_many(ids, on_outcome=on_outcome)
    assert (most, calls) == (1, 20)


@pytest.mark.promise("stops")
def test_an_interruption_between_two_callbacks_loses_no_outcome(
    fake: FakeClerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C may come at any step of that thread: everything in flight is still reported."""

    class Interrupted(deque[Callable[[], None]]):
        left = 10

        def popleft(self) -> Callable[[], None]:
            work = super().popleft()
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
            return work

    monkeypatch.setattr(
        "clerk_async.sync.caller_thread.collections", SimpleNamespace(deque=Interrupted)
    )
    ids = add_sessions(fake, 200)
    fake.inject(Fault.delayed(0.05, operation="revoke", count=None))
    told: list[RevocationOutcome] = []
    with sync_client_of(fake) as client, pytest.raises(KeyboardInterrupt):
        client.revoke_many(
            ids, concurrency=8, rate_limit=RateLimit(9999, per=1.0), on_outcome=told.append
        )
    assert len(told) == sum(sends(fake).values()) < 200
    assert {outcome.status for outcome in told} == {RevocationStatus.REVOKED}


async def test_each_outcome_is_reported_once_and_before_the_report(fake: FakeClerk) -> None:
    """When the run returns, none is missing."""
    ids = add_sessions(fake, 50)
    told: list[RevocationOutcome] = []
    async with bulk_client(fake) as client:
        report = await client.revoke_many([*ids, "a b", "gone"], on_outcome=told.append)
    assert len(told) == report.total == 52
    assert len({outcome.session_id for outcome in told}) == 52


def _watch(limit: RateLimit, count: int, service: Service) -> list[RevocationProgress]:
    seen: list[RevocationProgress] = []
    client = Client(service, limit=limit)
    simulate(revoke_many(client, _ids(count), on_progress=seen.append))
    return seen


def test_progress_is_reported_at_start_and_end_and_four_times_a_second() -> None:
    """It is reported even if nothing changes, because a static count looks stuck."""
    seen = _watch(RateLimit(50, per=10.0), 150, Service(back=lambda: 0.05))
    assert seen[0].done == 0
    assert seen[0].elapsed == 0.0
    assert seen[-1].done == seen[-1].total == 150
    assert seen[-1].counts == {status: 150 * (status == "revoked") for status in RevocationStatus}
    assert seen[-1].counts[RevocationStatus("revoked")] == 150
    assert seen[-1].eta == 0.0
    gaps = [after.elapsed - before.elapsed for before, after in pairwise(seen)]
    assert max(gaps) <= 0.26
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)


def test_a_pause_is_reported_with_reason_and_length() -> None:
    """The run waits for its own window, or for a 429."""
    seen = _watch(RateLimit(50, per=10.0), 100, Service(back=lambda: 0.05))
    pauses = [progress.pause for progress in seen if progress.pause is not None]
    assert {pause.reason for pause in pauses} == {"window"}
    assert max(pause.seconds for pause in pauses) > 9.0
    seen = _watch(RateLimit(500, per=10.0), 60, Service(SlidingWindow(50, 10.0)))
    pauses = [progress.pause for progress in seen if progress.pause is not None]
    assert "rate_limited" in {pause.reason for pause in pauses}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault.cut("before", operation="revoke", count=None), "unreachable"),
        (Fault.status(500, operation="revoke", count=None), "failing"),
    ],
)
async def test_an_outage_is_reported_at_once_and_not_as_the_rate_limit(
    fake: FakeClerk, fault: Fault, reason: str
) -> None:
    """This holds even while the window is full, and until a response arrives."""
    ids = add_sessions(fake, 30)
    fake.inject(fault)
    reasons: list[str | None] = []

    def on_progress(progress: RevocationProgress) -> None:
        reasons.append(None if progress.pause is None else progress.pause.reason)
        if reason in reasons:
            fake.clear_faults()

    async with bulk_client(fake) as client:
        limit = RateLimit(6, per=0.5)
        report = await client.revoke_many(ids, on_progress=on_progress, rate_limit=limit)
    assert report.revoked == 30
    assert set(reasons[: reasons.index(reason)]) == {None}, "nothing else before it"
    assert reasons[-1] != reason


def test_the_eta_does_not_extrapolate_a_burst() -> None:
    """800 in the first second are followed by nine seconds of none."""
    seen = _watch(RateLimit(800, per=10.0), 8000, Service(back=lambda: 0.05))
    early = next(progress for progress in seen if progress.done >= 790)
    assert early.eta is not None
    assert early.rate > 80
    total = seen[-1].elapsed
    assert early.elapsed + early.eta == pytest.approx(total, rel=0.15)
    half = next(progress for progress in seen if progress.elapsed > total / 2)
    assert half.eta is not None
    assert half.elapsed + half.eta == pytest.approx(total, rel=0.15)


def test_sessions_left_by_a_stop_do_not_count_as_speed() -> None:
    """The rest of a long list gets its outcomes within a moment of the deadline."""
    seen: list[RevocationProgress] = []
    client = Client(Service(back=lambda: 0.05), limit=RateLimit(20, per=1.0))
    simulate(revoke_many(client, _ids(5000), deadline=20, on_progress=seen.append))
    last = seen[-1]
    assert last.done == last.total == 5000
    assert last.counts[RevocationStatus.NOT_ATTEMPTED] > 4000
    assert max(progress.rate for progress in seen if progress.elapsed > 2) < 41


def test_without_a_total_there_is_no_eta() -> None:
    """A generator may be endless."""
    seen: list[RevocationProgress] = []
    client = Client(Service(back=lambda: 0.05), limit=RateLimit(20, per=1.0))
    simulate(revoke_many(client, iter(_ids(200)), on_progress=seen.append))
    assert seen[len(seen) // 2].eta is None
    assert seen[-1].total == 200


async def test_sessions_done_in_the_journal_count_as_done(fake: FakeClerk, tmp_path: Path) -> None:
    """They count from the start."""
    ids = add_sessions(fake, 10)
    path = tmp_path / "job.jsonl"
    seen: list[RevocationProgress] = []
    async with bulk_client(fake) as client:
        await client.revoke_many(ids[:7], journal=path)
        await client.revoke_many(ids, journal=path, on_progress=seen.append)
    assert seen[-1].done == seen[-1].total == 10
    assert seen[-1].resumed == 7


def test_the_counts_of_a_report_add_up_to_its_total() -> None:
    """A report is ok only if nothing is left."""
    assert RevocationReport(total=3, revoked=1, not_found=1, already_inactive=1).ok
    assert RevocationReport(total=1, planned=1).ok
    assert not RevocationReport(total=1, failed=1).ok
    assert not RevocationReport(total=1, not_attempted=1).ok
    assert not RevocationReport(stopped_by="deadline").ok
    assert not RevocationReport(exhausted=False).ok
    RevocationReport().raise_for_failures()


async def test_revoke_all_counts_its_users_and_unknown_users(
    fake: FakeClerk,
) -> None:
    """A user whose sessions have ended is known; each user is counted once."""
    for _ in range(3):
        fake.add_session(user_id="user_1")
    fake.add_session(user_id="user_ended", status="ended")
    users = ["user_1", "user_ended", "user_none", "user_nil", "user_1"]
    seen: list[int] = []
    async with bulk_client(fake) as client:
        report = await client.revoke_all(
            user_ids=users, on_progress=lambda progress: seen.append(progress.users)
        )
    assert (report.revoked, report.users, report.users_without_sessions) == (3, 4, 2)
    assert (seen[0], seen[-1]) == (0, 4)
    async with bulk_client(fake) as client:
        assert (await client.revoke_many(["sess_1"])).users == 0


def test_statuses_equal_their_strings() -> None:
    """In comparisons, in f-strings and in JSON."""
    assert RevocationStatus("revoked") is RevocationStatus.REVOKED
    assert f"{RevocationStatus.ALREADY_INACTIVE}" == "already_inactive"
    assert {status.value for status in RevocationStatus if status.is_done} == {
        "revoked",
        "already_inactive",
        "not_found",
    }
