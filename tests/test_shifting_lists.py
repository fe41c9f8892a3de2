"""Lists that change, are wrong or endless, on the wire: `iterate` and `revoke_all`."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from bulk_client import QUICK, UNLIMITED, add_sessions, live
from clients import MODES, Mode
from hypothesis import given, settings
from hypothesis import strategies as st
from shifting_lists import ShiftingUser, changes, cuts, totals

from clerk_async import AsyncSessionsApi, ResponseDecodeError, SessionsApi
from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shifting_lists import Change

    from clerk_async import RevocationOutcome, RevocationReport, Session


@pytest.fixture(scope="module")
def shared() -> Iterator[FakeClerk]:
    """Yield one service for all examples."""
    with FakeClerk(keep_requests=0) as running:
        yield running


def _options(fake: FakeClerk) -> dict[str, Any]:
    return {"base_url": fake.base_url, "rate_limit": UNLIMITED, "retry": QUICK}


def iterated(
    mode: Mode, fake: FakeClerk, reader: Callable[[Session], object], **filters: Any
) -> list[str]:
    """Iterate to the end, with a reader that processes each session before the next one comes."""
    came: list[str] = []
    if mode == "sync":
        with SessionsApi(fake.secret_key, **_options(fake)) as client:
            for session in client.iterate(**filters):
                came.append(session.id)
                reader(session)
        return came

    async def main() -> None:
        async with AsyncSessionsApi(fake.secret_key, **_options(fake)) as client:
            async for session in client.iterate(**filters):
                came.append(session.id)
                reader(session)

    asyncio.run(main())
    return came


def revoked_all(mode: Mode, fake: FakeClerk, **options: Any) -> RevocationReport:
    """Run revoke_all in either mode."""
    if mode == "sync":
        with SessionsApi(fake.secret_key, **_options(fake)) as client:
            return client.revoke_all(**options)

    async def main() -> RevocationReport:
        async with AsyncSessionsApi(fake.secret_key, **_options(fake)) as client:
            return await client.revoke_all(**options)

    return asyncio.run(main())


@pytest.mark.promise("complete-iteration")
@pytest.mark.parametrize("mode", MODES)
def test_iterate_skips_and_repeats_no_session(mode: Mode, shared: FakeClerk) -> None:
    """Sessions end, begin, are purged and revoked meanwhile; totals are wrong, pages are short."""

    @settings(max_examples=20, derandomize=True)
    @given(
        count=st.integers(0, 12),
        page_size=st.integers(1, 5),
        status=st.sampled_from([None, "active"]),
        changes=changes,
        cut=cuts,
        total=totals,
        keeps=st.integers(0, 3),
    )
    def check(
        *,
        count: int,
        page_size: int,
        status: str | None,
        changes: list[list[Change]],
        cut: int | list[int] | None,
        total: str,
        keeps: int,
    ) -> None:
        user_id = shared.add_user()
        there = add_sessions(shared, count, user_id=user_id)
        kept = set(there[::keeps]) if keeps else set[str]()
        user = ShiftingUser(shared, user_id, changes, cut, total)

        def revoke(session: Session) -> None:
            if session.id in there and session.id not in kept and session.id in shared.sessions:
                shared.sessions[session.id].status = "revoked"

        came = iterated(mode, shared, revoke, user_id=user_id, status=status, page_size=page_size)
        assert len(came) == len(set(came))
        assert set(user.live()) & set(there) <= set(came)

    check()


@pytest.mark.promise("revoke-all")
@pytest.mark.parametrize("mode", MODES)
def test_revoke_all_leaves_no_session_live(mode: Mode, shared: FakeClerk) -> None:
    """The same; sessions that ended by themselves are `already_inactive` or not found."""

    @settings(max_examples=20, derandomize=True)
    @given(
        count=st.integers(0, 12),
        ended=st.integers(0, 5),
        changes=changes,
        cut=cuts,
        total=totals,
    )
    def check(
        *,
        count: int,
        ended: int,
        changes: list[list[Change]],
        cut: int | list[int] | None,
        total: str,
    ) -> None:
        user_id = shared.add_user()
        add_sessions(shared, ended, user_id=user_id, status="ended")
        there = add_sessions(shared, count, user_id=user_id)
        user = ShiftingUser(shared, user_id, changes, cut, total)
        outcomes: list[RevocationOutcome] = []
        report = revoked_all(mode, shared, user_id=user_id, on_outcome=outcomes.append)
        assert report.ok, report
        assert not set(user.live()) & set(there)
        counts = Counter(outcome.session_id for outcome in outcomes)
        assert all(times == 1 for times in counts.values())
        assert report.total == len(outcomes)

    check()


@pytest.mark.promise("complete-iteration")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("page_size", [500, 100])
def test_a_loop_may_revoke_what_it_iterates_over(
    mode: Mode, page_size: int, fake: FakeClerk
) -> None:
    """A list filtered by status, which loses all the sessions that the loop has seen."""
    add_sessions(fake, 1200, user_id="user_1")

    def revoke(session: Session) -> None:
        fake.sessions[session.id].status = "revoked"

    came = iterated(mode, fake, revoke, user_id="user_1", status="active", page_size=page_size)
    assert len(came) == 1200
    assert not live(fake)


async def test_a_run_may_be_fed_by_iterate(fake: FakeClerk) -> None:
    """Everybody writes this line; sessions that it filters out stay."""
    activity = {"object": "session_activity", "id": "act_1", "country": "BR"}
    add_sessions(fake, 700, user_id="user_1", latest_activity=activity)
    kept = set(add_sessions(fake, 300, user_id="user_1"))
    add_sessions(fake, 200, user_id="user_1", latest_activity=activity)
    async with AsyncSessionsApi(fake.secret_key, **_options(fake)) as client:
        report = await client.revoke_many(
            session.id
            async for session in client.iterate(user_id="user_1", status="active")
            if session.latest_activity and session.latest_activity.country == "BR"
        )
    assert (report.revoked, report.ok) == (900, True)
    assert live(fake) == kept


def test_a_sync_run_may_be_fed_by_iterate(fake: FakeClerk) -> None:
    """Both use the caller's thread in turn."""
    add_sessions(fake, 600, user_id="user_1")
    with SessionsApi(fake.secret_key, **_options(fake)) as client:
        report = client.revoke_many(
            session.id for session in client.iterate(user_id="user_1", status="active")
        )
    assert (report.revoked, report.ok) == (600, True)
    assert not live(fake)


@pytest.mark.promise("revoke-all")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("count", "cut", "total"),
    [
        (250, 100, "true"),
        (250, 100, "none"),
        (250, 100, "of the page"),
        (250, 100, "always 3"),
        (30, 1, "none"),
        (600, None, "too low"),
        (600, None, "none"),
        (600, None, "always 0"),
        (7, None, "too high"),
    ],
)
def test_short_pages_and_wrong_totals_skip_no_session(
    mode: Mode, count: int, cut: int | None, total: str, fake: FakeClerk
) -> None:
    """This holds for `iterate` and `revoke_all`."""
    ids = add_sessions(fake, count, user_id="user_1")
    ShiftingUser(fake, "user_1", [], cut, total)
    assert iterated(mode, fake, lambda _: None, user_id="user_1") == ids[::-1]
    report = revoked_all(mode, fake, user_id="user_1")
    assert (report.revoked, report.ok) == (count, True)
    assert not live(fake)


def _ignore_the_offset(fake: FakeClerk, count: int) -> None:
    rows = [{"object": "session", "id": f"sess_{n}", "status": "active"} for n in range(count)]
    page = {"data": rows, "total_count": 10_000}
    fake.inject(Fault.changed(lambda _: page, operation="list", count=None))


@pytest.mark.promise("complete-iteration")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [1, 40, 500])
def test_an_endless_list_is_an_error(mode: Mode, count: int, fake: FakeClerk) -> None:
    """The same page at every offset; its sessions were yielded before the error."""
    _ignore_the_offset(fake, count)
    came: list[Session] = []
    with pytest.raises(ResponseDecodeError, match="doesn't end"):
        iterated(mode, fake, came.append, user_id="user_1")
    assert len(came) == count
    assert len(fake.requests) < 20


@pytest.mark.promise("revoke-all")
@pytest.mark.parametrize("mode", MODES)
def test_sessions_found_in_an_endless_list_are_still_revoked(mode: Mode, fake: FakeClerk) -> None:
    """The report says that there may be more."""
    for number in range(40):
        fake.add_session(user_id="user_1", session_id=f"sess_{number}")
    _ignore_the_offset(fake, 40)
    report = revoked_all(mode, fake, user_id="user_1")
    assert (report.revoked, report.failed, report.ok) == (40, 1, False)
    assert (report.failures[0].session_id, report.failures[0].user_id) == (None, "user_1")
    assert isinstance(report.failures[0].error, ResponseDecodeError)
    assert not live(fake)
