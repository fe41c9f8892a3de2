"""revoke_all: it revokes every selected live session, and no other."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from bulk_client import add_sessions, bulk_client, by_status, live, sends

from clerk_async import InvalidArgumentError, NotFoundError, ServerError
from clerk_async.errors import ResponseDecodeError
from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from clerk_async import RevocationOutcome, RevocationReport

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


async def _run(fake: FakeClerk, **options: Any) -> RevocationReport:
    async with bulk_client(fake) as client:
        return await client.revoke_all(**options)


def _lists(fake: FakeClerk) -> list[dict[str, str]]:
    return [seen.query for seen in fake.requests if seen.operation == "list"]


@pytest.mark.promise("revoke-all")
async def test_active_and_pending_sessions_of_the_user_are_revoked(fake: FakeClerk) -> None:
    """The service's own filter would miss the pending ones. No other session is revoked."""
    mine = add_sessions(fake, 3, user_id="user_1")
    mine += add_sessions(fake, 2, user_id="user_1", status="pending")
    for status in ("ended", "expired", "removed", "replaced", "abandoned", "revoked", "quantum"):
        fake.add_session(user_id="user_1", status=status)
    others = add_sessions(fake, 3, user_id="user_2")
    report = await _run(fake, user_id="user_1")
    assert report.revoked == report.total == 5
    assert report.ok
    assert live(fake) == set(others)
    assert sends(fake) == dict.fromkeys(mine, 1)


async def test_a_status_that_may_be_live_is_logged(
    fake: FakeClerk, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, however many sessions have it: they are spared, so an operator must look at them."""
    for status in ("ended", "quantum", "quantum", "active"):
        fake.add_session(user_id="user_1", status=status)
    report = await _run(fake, user_id="user_1")
    assert (report.revoked, report.total) == (1, 1)
    assert [line for line in caplog.messages if "quantum" in line] == [
        "sessions with the unknown status quantum are not revoked: check whether they are live"
    ]


@pytest.mark.parametrize(("ended", "requests"), [(0, 1), (1, 3), (7, 3)])
async def test_a_user_without_live_sessions_is_looked_at_once(
    fake: FakeClerk, ended: int, requests: int
) -> None:
    """An empty list needs no proof; any other is read past its end, and once more after that."""
    add_sessions(fake, ended, user_id="user_1", status="ended")
    report = await _run(fake, user_id="user_1")
    assert (report.total, report.ok, len(fake.requests)) == (0, True, requests)


@pytest.mark.promise("revoke-all")
@pytest.mark.slow
async def test_more_sessions_than_fit_on_a_page_are_all_revoked(fake: FakeClerk) -> None:
    """All pages are read before the first revocation, because revocations shorten the list."""
    add_sessions(fake, 1203, user_id="user_1")
    report = await _run(fake, user_id="user_1")
    assert report.revoked == 1203
    assert not live(fake)
    operations = [seen.operation for seen in fake.requests]
    assert operations.index("revoke") == 4
    offsets = [query["offset"] for query in _lists(fake)]
    assert offsets == ["0", "499", "998", "1203", "0", "499", "998"]


async def test_a_session_that_appears_during_the_run_is_found_by_the_second_look(
    fake: FakeClerk,
) -> None:
    """The user signs in during the run."""
    add_sessions(fake, 3, user_id="user_1")
    late: list[str] = []

    def sign_in(_: RevocationOutcome) -> None:
        if len(late) < 2:
            late.extend(add_sessions(fake, 1, user_id="user_1"))

    report = await _run(fake, user_id="user_1", on_outcome=sign_in)
    assert report.revoked == 5
    assert not live(fake)
    looks = [query for query in _lists(fake) if query["offset"] == "0"]
    assert len(looks) == 3


async def test_looks_end_when_only_failed_sessions_are_left(fake: FakeClerk) -> None:
    """Failed sessions are not sent forever."""
    ids = add_sessions(fake, 4, user_id="user_1")
    fake.inject(Fault.status(422, operation="revoke", session_id=ids[2], count=None))
    report = await _run(fake, user_id="user_1")
    assert (report.revoked, report.failed) == (3, 1)
    assert sends(fake)[ids[2]] == 1
    assert report.failures[0].user_id == "user_1"


@pytest.mark.parametrize("kind", [list, iter, "async"])
async def test_many_users_are_swept_in_one_run(fake: FakeClerk, kind: Any) -> None:
    """The users come from any iterable, and each counts once."""
    users = [f"user_{number}" for number in range(30)]
    for user_id in users:
        add_sessions(fake, 3, user_id=user_id)
    others = add_sessions(fake, 2, user_id="user_other")
    outcomes: list[RevocationOutcome] = []

    async def slowly() -> AsyncIterator[str]:
        for user_id in [*users, users[0]]:
            await asyncio.sleep(0)
            yield user_id

    given = slowly() if kind == "async" else kind([*users, users[0]])
    report = await _run(fake, user_ids=given, on_outcome=outcomes.append)
    assert report.revoked == 90
    assert report.exhausted
    assert live(fake) == set(others)
    assert len(_lists(fake)) == 90
    assert all(
        outcome.session is not None and outcome.user_id == outcome.session.user_id
        for outcome in outcomes
    )


@pytest.mark.promise("revoke-all")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"user_id": None, "user_ids": None, "client_id": None},
        {"except_session_ids": ["sess_1"]},
    ],
)
async def test_it_never_means_everybody(fake: FakeClerk, options: dict[str, Any]) -> None:
    """A call without a user and a client is an error."""
    add_sessions(fake, 2)
    with pytest.raises(InvalidArgumentError, match="never means everybody"):
        await _run(fake, **options)
    assert not fake.requests


@pytest.mark.promise("revoke-all")
async def test_an_empty_list_of_users_means_nobody(fake: FakeClerk) -> None:
    """Also with a client: a request without a user would list all sessions of that client."""
    add_sessions(fake, 2, client_id="client_1")
    for client_id in (None, "client_1"):
        report = await _run(fake, user_ids=[], client_id=client_id)
        assert report.total == 0
    assert not fake.requests


@pytest.mark.parametrize("wrong", [None, "", " ", 5, "user 1", "user/1"])
async def test_a_malformed_user_among_many_is_a_failed_outcome_and_no_request(
    fake: FakeClerk, wrong: Any
) -> None:
    """None, for example, would remove the filter from the request."""
    add_sessions(fake, 2, user_id="user_1")
    others = add_sessions(fake, 2, user_id="user_2")
    report = await _run(fake, user_ids=["user_1", wrong])
    assert (report.revoked, report.failed) == (2, 1)
    assert isinstance(report.failures[0].error, InvalidArgumentError)
    assert live(fake) == set(others)
    assert all(query["user_id"] == "user_1" for query in _lists(fake))


@pytest.mark.parametrize(
    "options",
    [
        {"user_ids": "user_1"},
        {"user_ids": b"user_1"},
        {"user_ids": 5},
        {"user_id": "user_1", "user_ids": ["user_2"]},
        {"user_id": ""},
        {"user_id": 5},
        {"user_id": "user_1", "client_id": ""},
        {"user_id": "user_1", "except_session_ids": "sess_mine"},
        {"user_id": "user_1", "except_session_ids": [None]},
        {"user_id": "user_1", "except_session_ids": [" sess_mine"]},
        {"user_id": "user_1", "except_session_ids": None},
        {"user_id": "user_1", "created_before": datetime(2026, 3, 1)},  # noqa: DTZ001
        {"user_id": "user_1", "last_active_before": "yesterday"},
        {"user_id": "user_1", "actor": 5},
        {"user_id": "user_1", "actor": ""},
        {"user_id": "user_1", "where": "BR"},
        {"user_id": "user_1", "keep_newest": -1},
        {"user_id": "user_1", "keep_newest": True},
        {"user_id": "user_1", "keep_newest": "2"},
    ],
)
async def test_arguments_are_checked_before_any_request(
    fake: FakeClerk, options: dict[str, Any]
) -> None:
    """A wrong exception would protect nothing."""
    with pytest.raises(InvalidArgumentError):
        await _run(fake, **options)
    assert not fake.requests


async def test_excepted_sessions_stay(fake: FakeClerk) -> None:
    """Usually the caller's own; any iterable of ids works."""
    ids = add_sessions(fake, 4, user_id="user_1")
    report = await _run(fake, user_id="user_1", except_session_ids=iter(ids[:2]))
    assert report.revoked == 2
    assert live(fake) == set(ids[:2])


async def test_a_client_alone_means_its_sessions_of_every_user(fake: FakeClerk) -> None:
    """For example, a stolen device."""
    add_sessions(fake, 2, user_id="user_1", client_id="client_1")
    add_sessions(fake, 1, user_id="user_2", client_id="client_1")
    other = add_sessions(fake, 1, user_id="user_1", client_id="client_2")
    report = await _run(fake, client_id="client_1")
    assert report.revoked == 3
    assert live(fake) == set(other)


async def test_a_user_and_a_client_are_combined(fake: FakeClerk) -> None:
    """Only the user's sessions on that device are revoked."""
    add_sessions(fake, 2, user_id="user_1", client_id="client_1")
    others = add_sessions(fake, 1, user_id="user_2", client_id="client_1")
    others += add_sessions(fake, 1, user_id="user_1", client_id="client_2")
    report = await _run(fake, user_id="user_1", client_id="client_1")
    assert report.revoked == 2
    assert live(fake) == set(others)


async def test_created_before_selects_by_creation_time(fake: FakeClerk) -> None:
    """In any time zone; a session created at exactly that time stays."""
    for hours in (-2, -1):
        fake.add_session(user_id="user_1", created_at=NOON + hours * HOUR)
    kept = [fake.add_session(user_id="user_1", created_at=NOON + n * HOUR).id for n in (0, 1)]
    report = await _run(fake, user_id="user_1", created_before=NOON)
    assert report.revoked == 2
    assert live(fake) == set(kept)


async def test_last_active_before_selects_by_activity(fake: FakeClerk) -> None:
    """It finds old sessions that nobody uses any more."""
    early = NOON - 5 * HOUR
    fake.add_session(user_id="user_1", created_at=early, last_active_at=NOON - HOUR)
    kept = fake.add_session(user_id="user_1", created_at=early, last_active_at=NOON + HOUR).id
    report = await _run(fake, user_id="user_1", last_active_before=NOON)
    assert report.revoked == 1
    assert live(fake) == {kept}


async def test_a_session_with_an_unreadable_time_is_revoked(fake: FakeClerk) -> None:
    """An unnecessary sign-in is better than a thief who stays."""
    ids = add_sessions(fake, 2, user_id="user_1", created_at=NOON + HOUR)
    fake.inject(Fault.null("created_at", operation="list", item=0, count=None))
    report = await _run(fake, user_id="user_1", created_before=NOON)
    assert report.revoked == 1
    assert len(live(fake) & set(ids)) == 1


@pytest.mark.parametrize(("actor", "gone"), [("user_admin", 1), (True, 2), (False, 3)])
async def test_impersonation_filters_select_by_actor(
    fake: FakeClerk, actor: str | bool, gone: int
) -> None:
    """The filter takes an actor's id, any actor, or none."""
    add_sessions(fake, 3, user_id="user_1")
    add_sessions(fake, 1, user_id="user_1", actor={"sub": "user_admin"})
    add_sessions(fake, 1, user_id="user_1", actor={"sub": "user_other"})
    report = await _run(fake, user_id="user_1", actor=actor)
    assert report.revoked == gone
    assert len(live(fake)) == 5 - gone


async def test_an_unreadable_session_with_a_known_id_is_revoked(fake: FakeClerk) -> None:
    """Its status is missing, but its id is there."""
    add_sessions(fake, 3, user_id="user_1")
    fake.inject(Fault.null("status", operation="list", item=1, count=None))
    report = await _run(fake, user_id="user_1")
    assert report.revoked == 3
    assert not live(fake)


async def test_an_unreadable_session_without_an_id_is_a_failure(fake: FakeClerk) -> None:
    """Somebody has to check it; it is reported once."""
    add_sessions(fake, 3, user_id="user_1")
    fake.inject(Fault.null("id", operation="list", item=1))
    report = await _run(fake, user_id="user_1")
    assert not report.ok
    (failure,) = report.failures
    assert failure.session_id is None
    assert failure.user_id == "user_1"
    assert isinstance(failure.error, ResponseDecodeError)
    assert report.revoked == 3  # the second look could read it
    assert not live(fake)


async def test_a_list_that_fails_temporarily_is_retried(fake: FakeClerk) -> None:
    """It is retried in the second round, like an id."""
    add_sessions(fake, 2, user_id="user_1")
    fake.inject(Fault.status(503, operation="list", count=3))
    report = await _run(fake, user_id="user_1")
    assert report.revoked == 2
    assert report.ok


async def test_a_user_who_can_not_be_listed_is_a_failure_and_the_others_are_processed(
    fake: FakeClerk,
) -> None:
    """The outcome names the user."""
    add_sessions(fake, 2, user_id="user_2")
    fake.inject(Fault.status(422, operation="list"))
    report = await _run(fake, user_ids=["user_1", "user_2"], concurrency=1)
    assert (report.failed, report.revoked, report.ok) == (1, 2, False)
    assert report.failures[0].user_id == "user_1"
    assert report.failures[0].session_id is None
    assert report.exhausted
    fake.inject(Fault.status(500, operation="list", count=None))
    report = await _run(fake, user_ids=["user_1", "user_2"])
    assert all(isinstance(failure.error, ServerError) for failure in report.failures)
    assert report.failed == 2


async def test_a_rejected_key_ends_the_run_with_a_report(fake: FakeClerk) -> None:
    """It ends at the first list."""
    users = [f"user_{number}" for number in range(500)]
    fake.inject(Fault.status(401, count=None))
    report = await _run(fake, user_ids=users, concurrency=5)
    assert report.stopped_by == "authentication"
    assert len(fake.requests) <= 5
    assert not report.exhausted
    assert not report.ok


async def test_a_dry_run_lists_and_changes_nothing(fake: FakeClerk) -> None:
    """One complete look is enough, because it looks for no stragglers."""
    ids = add_sessions(fake, 4, user_id="user_1")
    outcomes: list[RevocationOutcome] = []
    report = await _run(fake, user_id="user_1", dry_run=True, on_outcome=outcomes.append)
    assert report.planned == report.total == 4
    assert report.ok
    assert live(fake) == set(ids)
    assert [query["offset"] for query in _lists(fake)] == ["0", "4", "0"]
    assert by_status(outcomes) == {"planned": 4}


async def test_the_list_overrides_the_journal(fake: FakeClerk, tmp_path: Path) -> None:
    """A session that an earlier run revoked is sent again only if it is listed as live."""
    ids = add_sessions(fake, 6, user_id="user_1")
    path = tmp_path / "job.jsonl"
    first = await _run(fake, user_id="user_1", journal=path, max_failures=1)
    assert first.revoked == 6
    for session_id in ids[:2]:
        fake.sessions[session_id].status = "active"
    fake.requests.clear()
    second = await _run(fake, user_id="user_1", journal=path)
    assert (second.resumed, second.revoked, second.total) == (0, 2, 2)
    assert set(sends(fake)) == set(ids[:2])
    assert not live(fake)


async def test_a_stopped_run_reports_the_sessions_that_it_found(fake: FakeClerk) -> None:
    """They were listed, but not sent."""
    add_sessions(fake, 20, user_id="user_1")
    outcomes: list[RevocationOutcome] = []
    report = await _run(
        fake,
        user_id="user_1",
        concurrency=2,
        on_outcome=outcomes.append,
        should_stop=lambda: len(sends(fake)) >= 5,
    )
    assert report.stopped_by == "should_stop"
    assert report.revoked + report.not_attempted == 20
    assert len(outcomes) == 20
    assert not report.ok


async def test_an_unknown_user_has_no_sessions(fake: FakeClerk) -> None:
    """The service returns an empty list or 404."""
    report = await _run(fake, user_id="user_nobody")
    assert report.ok
    fake.inject(Fault.status(404, operation="list"))
    report = await _run(fake, user_id="user_nobody")
    assert isinstance(report.failures[0].error, NotFoundError)


async def test_a_stale_list_is_waited_for(fake: FakeClerk) -> None:
    """A revoked session is still listed for a moment: no failure, no second revocation."""
    (session_id,) = add_sessions(fake, 1, user_id="user_1")
    fake.inject(Fault.field("status", "active", operation="list", after=2, count=2))
    report = await _run(fake, user_id="user_1")
    assert (report.revoked, report.total, report.ok) == (1, 1, True)
    assert sends(fake) == {session_id: 1}


@pytest.mark.promise("revoke-all")
async def test_a_session_that_stays_live_after_its_revocation_is_a_failure(
    fake: FakeClerk,
) -> None:
    """The service reports it as revoked but lists it as live: the report is not ok."""
    (session_id,) = add_sessions(fake, 1, user_id="user_1")
    said = {**fake.sessions[session_id].as_json(), "status": "revoked"}
    fake.inject(Fault.status(200, body=said, operation="revoke", count=None))
    report = await _run(fake, user_id="user_1")
    assert (report.revoked, report.failed, report.ok) == (1, 1, False)
    (failure,) = report.failures
    assert (failure.session_id, failure.user_id) == (None, "user_1")
    assert session_id in str(failure.error)
    assert sends(fake) == {session_id: 1}


@pytest.mark.promise("revoke-all")
async def test_a_user_who_signs_in_again_and_again_is_a_failure_in_the_end(
    fake: FakeClerk,
) -> None:
    """Each look finds another session: the run gives up, and reports that."""
    add_sessions(fake, 1, user_id="user_1")

    def sign_in(_: RevocationOutcome) -> None:
        add_sessions(fake, 1, user_id="user_1")

    report = await _run(fake, user_id="user_1", on_outcome=sign_in)
    assert (report.revoked, report.failed, report.ok) == (100, 1, False)
    assert "may be live: 100 looks" in str(report.failures[0].error)


async def test_short_lists_are_trusted_once_the_service_has_returned_a_longer_page(
    fake: FakeClerk,
) -> None:
    """From then on a look costs one request."""
    users = [f"user_{number}" for number in range(60)]
    add_sessions(fake, 5, user_id=users[0])
    for user_id in users[1:]:
        add_sessions(fake, 1, user_id=user_id)
    report = await _run(fake, user_ids=users, concurrency=1)
    assert (report.revoked, report.ok) == (64, True)
    assert len(_lists(fake)) == 20 * 3 + 40 * 2
