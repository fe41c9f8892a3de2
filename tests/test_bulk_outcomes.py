"""The outcome of each session: it is true, and costs one request if all goes well."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from bulk_client import add_sessions, bulk_client, by_status, live, sends, until
from leaps import leap, leaping, time_stands_still

from clerk_async import (
    AsyncSessionsApi,
    BulkRevocationError,
    InvalidArgumentError,
    NotFoundError,
    RetryPolicy,
    RevocationStatus,
    ServerError,
    SessionsApi,
    SessionStatus,
)
from clerk_async.errors import BadRequestError, ResponseDecodeError
from clerk_async.http.retry import is_passing
from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from clerk_async import RevocationOutcome, RevocationReport


async def _outcome_of(fake: FakeClerk, session_id: str, **options: Any) -> RevocationOutcome:
    outcomes: list[RevocationOutcome] = []
    async with bulk_client(fake) as client:
        await client.revoke_many([session_id], on_outcome=outcomes.append, **options)
    (outcome,) = outcomes
    return outcome


async def _report_of(fake: FakeClerk, session_ids: Any, **options: Any) -> RevocationReport:
    async with bulk_client(fake) as client:
        return await client.revoke_many(session_ids, **options)


@pytest.mark.promise("true-outcomes")
async def test_a_live_session_is_revoked_with_exactly_one_request(fake: FakeClerk) -> None:
    """No look before it, and none after it."""
    ids = add_sessions(fake, 40)
    report = await _report_of(fake, ids)
    assert report.ok
    assert (report.total, report.revoked, report.exhausted) == (40, 40, True)
    assert sends(fake) == dict.fromkeys(ids, 1)
    assert len(fake.requests) == 40
    assert not live(fake)


async def test_an_outcome_has_the_session_and_the_attempts(fake: FakeClerk) -> None:
    """The session is the one that the service returned."""
    session_id = add_sessions(fake, 1)[0]
    outcome = await _outcome_of(fake, session_id)
    assert outcome.status == "revoked"
    assert outcome.attempts == 1
    assert outcome.error is None
    assert outcome.session is not None
    assert outcome.session.status == SessionStatus.REVOKED
    assert outcome.user_id is None


@pytest.mark.promise("true-outcomes")
@pytest.mark.parametrize("status", ["ended", "expired", "removed", "revoked", "abandoned"])
async def test_an_ended_session_is_already_inactive_after_one_look(
    fake: FakeClerk, status: str
) -> None:
    """A 400, then a GET that shows a final status."""
    session_id = fake.add_session(status=status).id
    outcome = await _outcome_of(fake, session_id)
    assert outcome.status is RevocationStatus.ALREADY_INACTIVE
    assert [seen.operation for seen in fake.requests] == ["revoke", "get"]
    assert outcome.attempts == 1


async def test_an_ended_session_counts_as_revoked_if_the_service_returns_200() -> None:
    """A 200 is the confirmation, whatever came before."""
    with FakeClerk(revoke_inactive="ok") as fake:
        outcome = await _outcome_of(fake, fake.add_session(status="ended").id)
    assert outcome.status is RevocationStatus.REVOKED


async def test_a_400_for_a_live_session_is_a_failure(fake: FakeClerk) -> None:
    """The look shows that it is still active."""
    session_id = add_sessions(fake, 1)[0]
    fake.inject(Fault.status(400, operation="revoke"))
    outcome = await _outcome_of(fake, session_id)
    assert outcome.status is RevocationStatus.FAILED
    assert isinstance(outcome.error, BadRequestError)
    assert outcome.session is not None
    assert outcome.session.status == "active"


@pytest.mark.promise("true-outcomes")
@pytest.mark.parametrize("operation", ["revoke", None])
async def test_a_200_that_shows_a_live_session_confirms_nothing(
    operation: Any, fake: FakeClerk
) -> None:
    """A look decides: revoked if it shows an ended session, otherwise failed."""
    session_id = add_sessions(fake, 1)[0]
    fake.inject(Fault.field("status", "active", operation=operation, count=None))
    outcome = await _outcome_of(fake, session_id)
    assert outcome.status == ("revoked" if operation else "failed")
    assert (outcome.error is None) is bool(operation)
    assert [seen.operation for seen in fake.requests] == ["revoke", "get"]


@pytest.mark.promise("true-outcomes", "own-answers")
@pytest.mark.parametrize("wrong", ["id", "object"])
async def test_a_response_about_something_else_never_counts_as_revoked(
    wrong: str, fake: FakeClerk
) -> None:
    """If the look shows an ended session, nobody knows who ended it, but it counts as done."""
    ids = [fake.add_session(status="ended").id, *add_sessions(fake, 1)]
    fake.inject(
        Fault.wrong_shape(
            {"object": "session", "id": "sess_1", "status": "revoked", wrong: "other"},
            operation="revoke",
            count=None,
        )
    )
    report = await _report_of(fake, ids)
    assert (report.revoked, report.already_inactive, report.ok) == (0, 2, True)


async def test_an_unknown_session_is_not_found_and_counts_as_done(fake: FakeClerk) -> None:
    """The service forgets old sessions."""
    report = await _report_of(fake, ["sess_gone"])
    assert (report.not_found, report.failed, report.ok) == (1, 0, True)


@pytest.mark.promise("true-outcomes")
@pytest.mark.parametrize("fault", [Fault.html(404), Fault.empty(404)], ids=["a page", "nothing"])
async def test_a_404_that_is_not_clerks_is_followed_by_a_look(
    fake: FakeClerk, fault: Fault
) -> None:
    """A proxy's 404 says nothing about the session: only Clerk's own means not found."""
    session = fake.add_session()
    fake.inject(fault)
    outcome = await _outcome_of(fake, session.id)
    assert (outcome.status, session.status) == ("failed", "active")
    assert isinstance(outcome.error, NotFoundError)
    assert [request.operation for request in fake.requests] == ["revoke", "get"]
    fake.inject(fault)
    assert (await _outcome_of(fake, "sess_unknown")).status == "not_found"


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.promise("true-outcomes")
async def test_a_revocation_cut_after_processing_counts_as_ours(
    fake: FakeClerk, *, reset: bool
) -> None:
    """The retry gets a 400 because the first attempt had arrived."""
    session_id = add_sessions(fake, 1)[0]
    fake.inject(Fault.cut("after", operation="revoke", reset=reset))
    outcome = await _outcome_of(fake, session_id)
    assert outcome.status is RevocationStatus.REVOKED
    assert outcome.attempts == 2


async def test_a_revocation_whose_every_first_round_attempt_was_cut_counts_as_ours(
    fake: FakeClerk,
) -> None:
    """The second round remembers that an earlier attempt may have arrived."""
    session_id = add_sessions(fake, 1)[0]
    fake.inject(Fault.cut("after", operation="revoke", count=3))
    outcome = await _outcome_of(fake, session_id)
    assert outcome.status is RevocationStatus.REVOKED
    assert outcome.attempts == 4


@pytest.mark.parametrize("fault", [Fault.not_json, Fault.truncated_json, Fault.wrong_shape])
async def test_an_unreadable_200_is_followed_by_a_look(fake: FakeClerk, fault: Any) -> None:
    """It may come from the service or from a proxy: the session itself shows the result."""
    session_id = add_sessions(fake, 1)[0]
    fake.inject(fault(operation="revoke"))
    outcome = await _outcome_of(fake, session_id)
    assert outcome.status is RevocationStatus.REVOKED


@leaping
async def test_a_failed_look_keeps_the_error_of_the_revocation(fake: FakeClerk) -> None:
    """The look gets a 429, which as the outcome's error would imply that nothing was revoked."""
    session_id = add_sessions(fake, 1)[0]
    fake.inject(Fault.not_json(operation="revoke"))
    fake.inject(Fault.status(429, retry_after=30, operation="get", count=None))
    told: list[RevocationOutcome] = []
    async with bulk_client(fake, timeout=600.0) as client:
        run = asyncio.create_task(
            client.revoke_many([session_id], deadline=20.0, on_outcome=told.append)
        )
        await until(lambda: "get" in {seen.operation for seen in fake.requests})
        await until(lambda: not fake.in_flight)
        leap(20.0)
        report = await run
    assert not live(fake)
    (left,) = told
    assert left.status == "not_attempted"
    assert isinstance(left.error, ResponseDecodeError)
    assert (left.attempts, report.throttled, report.stopped_by) == (1, 1, "deadline")


async def test_a_key_rejected_at_the_look_stops_the_run(fake: FakeClerk) -> None:
    """The outcome still has the error of the revocation before it."""
    ids = add_sessions(fake, 40)
    fake.inject(Fault.not_json(operation="revoke", session_id=ids[0]))
    fake.inject(Fault.status(401, operation="get", count=None))
    async with bulk_client(fake) as client:
        report = await client.revoke_many(ids, concurrency=1)
    assert (report.stopped_by, report.not_attempted) == ("authentication", 39)
    assert isinstance(report.failures[0].error, ResponseDecodeError)


async def test_a_proxys_login_page_is_not_a_success(fake: FakeClerk) -> None:
    """It has status 200, and the session is still live."""
    session_id = add_sessions(fake, 1)[0]
    fake.inject(Fault.html(200, operation="revoke"))
    outcome = await _outcome_of(fake, session_id)
    assert outcome.status is RevocationStatus.FAILED
    assert isinstance(outcome.error, ResponseDecodeError)


async def test_a_temporary_failure_gets_a_second_round_at_the_end(fake: FakeClerk) -> None:
    """It has three attempts in the first round, and the other ids go first."""
    ids = add_sessions(fake, 10)
    fake.inject(Fault.status(503, operation="revoke", session_id=ids[0], count=3))
    order: list[str | None] = []
    async with bulk_client(fake) as client:
        report = await client.revoke_many(
            ids, concurrency=1, on_outcome=lambda outcome: order.append(outcome.session_id)
        )
    assert report.revoked == 10
    assert order == [*ids[1:], ids[0]]
    assert sends(fake)[ids[0]] == 4


def _pausing_client(fake: FakeClerk, pause: float) -> AsyncSessionsApi:
    """Make a client that waits this long between two rounds, and not at all within one."""
    client = bulk_client(fake, retry=RetryPolicy(base_delay=pause / 4, max_delay=pause))
    client._shared.draw = lambda: 0.0
    return client


@pytest.mark.promise("rounds")
@pytest.mark.parametrize("how", ["revoke_many", "revoke_stream", "revoke_all", "sync", "listing"])
async def test_the_second_round_begins_after_a_pause(how: str, fake: FakeClerk) -> None:
    """A shorter outage leaves no session live, however fast the attempts fail."""
    ids = add_sessions(fake, 4, user_id="user_1")
    if how == "listing":
        fake.inject(Fault.status(503, operation="list", count=3))
    else:
        for session_id in ids:
            fake.inject(Fault.status(503, operation="revoke", session_id=session_id, count=3))
    async with _pausing_client(fake, 0.1) as client:
        started = time.monotonic()
        if how == "revoke_many":
            assert (await client.revoke_many(ids)).ok
        elif how == "revoke_stream":
            assert [each.status async for each in client.revoke_stream(ids)] == ["revoked"] * 4
        elif how == "sync":
            await asyncio.to_thread(_revoke_in_sync, fake, ids)
        else:
            assert (await client.revoke_all(user_id="user_1")).ok
        assert time.monotonic() - started >= 0.1
    assert not live(fake)


def _revoke_in_sync(fake: FakeClerk, ids: list[str]) -> None:
    with SessionsApi(
        fake.secret_key, base_url=fake.base_url, retry=RetryPolicy(base_delay=0.025)
    ) as client:
        assert client.revoke_many(ids).ok


@pytest.mark.promise("rounds")
@leaping
async def test_the_pause_delays_neither_other_sessions_nor_the_end(fake: FakeClerk) -> None:
    """It is over when the last of the others is revoked, and nothing more waits."""
    ids = add_sessions(fake, 10)
    fake.inject(Fault.status(503, operation="revoke", session_id=ids[0], count=3))
    fake.inject(Fault.hold(operation="revoke", session_id=ids[9]))
    told: list[str | None] = []
    async with _pausing_client(fake, 60.0) as client:
        run = asyncio.create_task(
            client.revoke_many(
                ids, concurrency=1, on_outcome=lambda outcome: told.append(outcome.session_id)
            )
        )
        await until(lambda: ids[9] in sends(fake))
        assert told == ids[1:9]
        leap(60.0)
        with time_stands_still():
            fake.release()
            report = await run
    assert told == [*ids[1:], ids[0]]
    assert report.ok
    assert sends(fake)[ids[0]] == 4


@leaping
async def test_the_second_round_begins_at_once_if_the_deadline_would_come_first(
    fake: FakeClerk,
) -> None:
    """Otherwise the session would get no second round."""
    ids = add_sessions(fake, 3)
    fake.inject(Fault.status(503, operation="revoke", session_id=ids[1], count=3))
    async with _pausing_client(fake, 600.0) as client:
        with time_stands_still():
            report = await client.revoke_many(ids, deadline=600.0)
    assert (report.ok, report.stopped_by) == (True, None)


@pytest.mark.parametrize("how", ["should_stop", "cancel"])
@leaping
async def test_a_stop_does_not_wait_for_the_second_round(how: str, fake: FakeClerk) -> None:
    """The session that waits for it is left, with its error."""
    ids = add_sessions(fake, 3)
    fake.inject(Fault.status(503, operation="revoke", session_id=ids[1], count=3))
    told: list[RevocationOutcome] = []
    async with _pausing_client(fake, 600.0) as client:
        run = asyncio.create_task(
            client.revoke_many(
                ids,
                on_outcome=told.append,
                should_stop=lambda: how == "should_stop" and len(told) == 2,
            )
        )
        await until(lambda: len(told) >= 2)
        if how == "cancel":
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
        else:
            assert (await run).stopped_by == "should_stop"
    assert by_status(told) == {"revoked": 2, "not_attempted": 1}
    assert isinstance(told[-1].error, ServerError)


async def test_a_lasting_failure_is_reported_after_two_rounds(fake: FakeClerk) -> None:
    """Six requests are sent and not one more."""
    ids = add_sessions(fake, 3)
    fake.inject(Fault.status(500, operation="revoke", session_id=ids[1], count=None))
    report = await _report_of(fake, ids)
    (failure,) = report.failures
    assert failure.session_id == ids[1]
    assert isinstance(failure.error, ServerError)
    assert failure.attempts == sends(fake)[ids[1]] == 6
    assert not report.ok
    with pytest.raises(BulkRevocationError, match="1 failed") as caught:
        report.raise_for_failures()
    assert caught.value.report is report


async def test_the_result_of_the_last_lost_attempt_is_looked_up(fake: FakeClerk) -> None:
    """Six attempts get no response and the last one is processed: a look shows it."""
    ids = add_sessions(fake, 2)
    fake.inject(Fault.cut("after", operation="revoke", session_id=ids[0], count=6))
    fake.inject(Fault.cut("before", operation="revoke", session_id=ids[1], count=6))
    outcomes: dict[str | None, RevocationOutcome] = {}
    async with bulk_client(fake) as client:
        await client.revoke_many(
            ids, on_outcome=lambda outcome: outcomes.update({outcome.session_id: outcome})
        )
    assert outcomes[ids[0]].status is RevocationStatus.REVOKED
    assert outcomes[ids[1]].status is RevocationStatus.FAILED
    assert live(fake) == {ids[1]}


async def test_a_permanent_rejection_is_not_retried(fake: FakeClerk) -> None:
    """A 422 will not change."""
    session_id = add_sessions(fake, 1)[0]
    fake.inject(Fault.status(422, operation="revoke", count=None))
    outcome = await _outcome_of(fake, session_id)
    assert outcome.status is RevocationStatus.FAILED
    assert outcome.attempts == 1


async def test_failures_are_in_the_order_of_the_input(fake: FakeClerk) -> None:
    """The order in which they became known does not matter."""
    ids = add_sessions(fake, 30)
    for number in (25, 3, 17):
        fake.inject(Fault.status(422, operation="revoke", session_id=ids[number], delay=0.001))
    report = await _report_of(fake, [*ids[:10], "a/b", *ids[10:]])
    assert [failure.session_id for failure in report.failures] == [ids[3], "a/b", ids[17], ids[25]]


@pytest.mark.promise("any-input")
@pytest.mark.parametrize(
    "malformed",
    [None, "", "   ", ".", "..", "../users/user_1", "a?b", "a#b", "a\\b", "a\nb", "a\x00", 7, 1.5],
)
async def test_a_malformed_id_is_a_failed_outcome_and_never_a_request(
    fake: FakeClerk, malformed: Any
) -> None:
    """The other ids are processed."""
    ids = add_sessions(fake, 2)
    report = await _report_of(fake, [ids[0], malformed, ids[1]])
    assert report.revoked == 2
    (failure,) = report.failures
    assert failure.attempts == 0
    assert isinstance(failure.error, InvalidArgumentError)
    assert failure.session_id == (malformed if isinstance(malformed, str) else None)
    assert set(sends(fake)) == set(ids)


async def test_unhashable_input_is_malformed_too(fake: FakeClerk) -> None:
    """A list instead of an id does not crash the run."""
    anything: list[Any] = [[], {}, object(), b"sess_1"]
    report = await _report_of(fake, anything)
    assert report.failed == 4
    assert not fake.requests


@pytest.mark.promise("true-outcomes")
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_with_30_percent_faults_every_id_gets_its_true_outcome(seed: int) -> None:
    """5xx before and after processing, cuts before and after it, 429, HTML."""
    with FakeClerk(seed=seed) as fake:
        ids = add_sessions(fake, 400)
        ended = [fake.add_session(status="ended").id for _ in range(50)]
        unknown = [f"sess_unknown{number}" for number in range(20)]
        fake.inject(
            Fault.status(503, probability=0.05),
            Fault.status(500, probability=0.05, process=True),
            Fault.html(502, probability=0.05),
            Fault.cut("before", probability=0.05),
            Fault.cut("after", probability=0.05),
            Fault.cut("body", probability=0.03),
            Fault.status(429, retry_after=0, probability=0.05),
        )
        outcomes: list[RevocationOutcome] = []
        report = await _report_of(fake, [*ids, *ended, *unknown], on_outcome=outcomes.append)
        truth = {sid: session.status for sid, session in fake.sessions.items()}
    assert len(outcomes) == report.total == 470
    for outcome in outcomes:
        assert outcome.session_id is not None
        if outcome.session_id in unknown:
            assert outcome.status in {"not_found", "failed"}
        elif outcome.session_id in ended:
            assert outcome.status in {"already_inactive", "revoked", "failed"}
            assert truth[outcome.session_id] == "ended"
        elif outcome.status == "failed":
            assert is_passing(outcome.error)
        else:
            assert outcome.status == "revoked"
            assert truth[outcome.session_id] == "revoked"
    assert report.failed <= 5


async def test_a_session_that_vanishes_between_the_two_requests_is_not_found(
    fake: FakeClerk,
) -> None:
    """The revocation gets a 400 and the look a 404."""
    session_id = fake.add_session(status="ended").id
    fake.inject(Fault.status(404, operation="get"))
    outcome = await _outcome_of(fake, session_id)
    assert outcome.status is RevocationStatus.NOT_FOUND
    assert not isinstance(outcome.error, NotFoundError)
