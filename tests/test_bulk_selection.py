"""The selection of sessions: `where`, `keep_newest`, and the user who must own a session."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from bulk_client import UNLIMITED, add_sessions, bulk_client, live, sends
from clients import MODES, Mode, run

from clerk_async import InvalidArgumentError, NotFoundError, SessionsApi
from clerk_async.testing import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from clerk_async import RevocationOutcome, RevocationReport, Session
    from clerk_async.testing import FakeClerk

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


async def _swept(mode: Mode, fake: FakeClerk, **options: Any) -> RevocationReport:
    if mode == "async":
        async with bulk_client(fake) as client:
            return await client.revoke_all(**options)
    with SessionsApi(fake.secret_key, base_url=fake.base_url, rate_limit=UNLIMITED) as client:
        return client.revoke_all(**options)


def _add(fake: FakeClerk, country: str, count: int, user_id: str = "user_1") -> list[str]:
    activity = {"object": "session_activity", "id": f"act_{country}", "country": country}
    return add_sessions(fake, count, user_id=user_id, latest_activity=activity)


def _is_in_brazil(session: Session) -> object:
    return session.latest_activity and session.latest_activity.country == "BR"


@pytest.mark.may_block
@pytest.mark.promise("where")
@pytest.mark.parametrize("mode", MODES)
async def test_only_sessions_selected_by_where_are_revoked(mode: Mode, fake: FakeClerk) -> None:
    """It is called once for each live session that the other filters select, newest first."""
    meant = _add(fake, "BR", 3) + _add(fake, "BR", 2, "user_2")
    spared = _add(fake, "DE", 2) + add_sessions(fake, 1, user_id="user_2") + _add(fake, "BR", 1)
    add_sessions(fake, 2, user_id="user_1", status="ended")
    asked: list[str] = []

    def where(session: Session) -> object:
        asked.append(session.id)
        return _is_in_brazil(session)

    report = await _swept(
        mode,
        fake,
        user_ids=["user_1", "user_2"],
        where=where,
        except_session_ids=spared[-1:],
    )
    assert (report.revoked, report.ok) == (5, True)
    assert live(fake) == set(spared)
    assert sorted(asked) == sorted([*meant, *spared[:-1]])


def _raises(_: Session) -> bool:
    raise ZeroDivisionError


def _raises_an_answer(_: Session) -> bool:
    raise NotFoundError("of another call")


async def _is_a_coroutine_function(_: Session) -> bool:
    raise AssertionError("nobody awaits it")


class _Callable:
    async def __call__(self, _: Session) -> bool:
        raise AssertionError("nobody awaits it")


def _yields(_: Session) -> Generator[bool, None, None]:
    yield False


def _returns_a_coroutine(session: Session) -> object:
    return _is_a_coroutine_function(session)


CANNOT_SAY: list[tuple[Callable[[Session], object], type[Exception]]] = [
    (_raises, ZeroDivisionError),
    (_raises_an_answer, NotFoundError),
    (_is_a_coroutine_function, InvalidArgumentError),
    (_Callable(), InvalidArgumentError),
    (_returns_a_coroutine, InvalidArgumentError),
    (_yields, InvalidArgumentError),
]


@pytest.mark.may_block
@pytest.mark.promise("where")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("where", "error"), CANNOT_SAY)
async def test_a_where_that_can_not_decide_ends_the_run_before_anything_is_revoked(
    mode: Mode, where: Callable[[Session], object], error: type[Exception], fake: FakeClerk
) -> None:
    """This holds even for the last session of the last user; it never means everybody."""
    users = [f"user_{number}" for number in range(30)]
    for user_id in users:
        add_sessions(fake, 2, user_id=user_id)
    (last,) = add_sessions(fake, 1, user_id="user_last")

    def late(session: Session) -> object:
        return where(session) if session.id == last else True

    for given in (where, late):
        if given is late and error is InvalidArgumentError and where is not _yields:
            continue
        with pytest.raises(error):
            await _swept(mode, fake, user_ids=[*users, "user_last"], where=given)
    assert len(live(fake)) == 61
    assert not sends(fake)


async def test_a_where_that_raises_later_ends_the_run_too(fake: FakeClerk) -> None:
    """It raises for a sign-in during the run."""
    ids = add_sessions(fake, 3, user_id="user_1")

    def where(session: Session) -> bool:
        return bool(ids.index(session.id) + 1)

    def sign_in(_: RevocationOutcome) -> None:
        add_sessions(fake, 1, user_id="user_1")

    with pytest.raises(ValueError, match="not in list"):
        await _swept(
            "async",
            fake,
            user_id="user_1",
            where=where,
            on_outcome=sign_in,
        )
    assert not live(fake) & set(ids)


async def test_an_unreadable_session_is_a_failure_with_where(fake: FakeClerk) -> None:
    """Its id is known, but `where` has nothing to decide on."""
    add_sessions(fake, 3, user_id="user_1")
    fake.inject(Fault.null("status", operation="list", item=1, count=None))

    def where(_: Session) -> bool:
        return True

    report = await _swept("async", fake, user_id="user_1", where=where)
    assert (report.revoked, report.failed) == (2, 1)
    assert report.failures[0].session_id in live(fake)


@pytest.mark.may_block
@pytest.mark.promise("where")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("keep", [0, 1, 2, 5])
async def test_each_users_newest_sessions_stay(mode: Mode, keep: int, fake: FakeClerk) -> None:
    """Newest by creation time, in whatever order they are listed."""
    kept: list[str] = []
    for user_id, count in (("user_1", 4), ("user_2", 1), ("user_3", 0)):
        ids = [
            fake.add_session(user_id=user_id, created_at=NOON + timedelta(hours=hour)).id
            for hour in range(count)
        ]
        kept += ids[len(ids) - min(keep, len(ids)) :]
    report = await _swept(mode, fake, user_ids=["user_1", "user_2", "user_3"], keep_newest=keep)
    assert report.ok
    assert live(fake) == set(kept)
    assert report.revoked == 5 - len(kept)


async def test_where_and_filters_apply_before_keep_newest(fake: FakeClerk) -> None:
    """It keeps the newest of the selected sessions; the others stay anyway."""
    older, newer = _add(fake, "BR", 1), _add(fake, "BR", 1)
    others = _add(fake, "DE", 2)
    mine = _add(fake, "BR", 1)
    report = await _swept(
        "async",
        fake,
        user_id="user_1",
        where=_is_in_brazil,
        keep_newest=1,
        except_session_ids=mine,
    )
    assert report.revoked == 1
    assert live(fake) == {*newer, *others, *mine}
    assert not live(fake) & set(older)


async def test_keep_newest_counts_per_user_on_a_shared_client(fake: FakeClerk) -> None:
    """Several users share a device."""
    first = add_sessions(fake, 2, user_id="user_1", client_id="client_1")
    second = add_sessions(fake, 2, user_id="user_2", client_id="client_1")
    await _swept("async", fake, client_id="client_1", keep_newest=1)
    assert live(fake) == {first[1], second[1]}


async def test_a_sign_in_during_the_run_replaces_the_oldest_kept_session(
    fake: FakeClerk,
) -> None:
    """At the end no user has more sessions than should be kept."""
    add_sessions(fake, 4, user_id="user_1")
    late: list[str] = []

    def sign_in(_: object) -> None:
        if not late:
            late.extend(add_sessions(fake, 1, user_id="user_1"))

    report = await _swept("async", fake, user_id="user_1", keep_newest=1, on_outcome=sign_in)
    assert report.ok
    assert live(fake) == set(late)


@pytest.mark.promise("where")
@pytest.mark.parametrize("mode", MODES)
def test_iterate_yields_the_sessions_selected_by_where(mode: Mode, fake: FakeClerk) -> None:
    """An error in `where` ends the iteration."""
    meant = _add(fake, "BR", 3)
    _add(fake, "DE", 3)

    async def collect(client: Any, where: Any) -> list[str]:
        pages = client.iterate(user_id="user_1", where=where, page_size=2)
        return [session.id async for session in pages]

    def collect_sync(client: Any, where: Any) -> list[str]:
        return [each.id for each in client.iterate(user_id="user_1", where=where, page_size=2)]

    with_where = collect if mode == "async" else collect_sync
    assert run(mode, fake, lambda client: with_where(client, _is_in_brazil)).value == meant[::-1]
    with pytest.raises(ZeroDivisionError):
        run(mode, fake, lambda client: with_where(client, _raises))
    for wrong in ("BR", _is_a_coroutine_function, _Callable(), _yields):
        ended = run(mode, fake, partial(with_where, where=wrong))
        assert isinstance(ended.error, InvalidArgumentError)


@pytest.mark.promise("where")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("info", [False, True])
def test_a_session_is_revoked_only_if_it_belongs_to_the_user(
    mode: Mode, info: bool, fake: FakeClerk
) -> None:
    """One `get` comes first; a session of another user is reported as not found, and stays."""
    mine = fake.add_session(user_id="user_1").id
    other = fake.add_session(user_id="user_2").id

    def revoke(client: Any, session_id: str, user_id: Any) -> Any:
        api = client.with_http_info if info else client
        return api.revoke(session_id, user_id=user_id)

    ended = run(mode, fake, lambda client: revoke(client, other, "user_1"))
    assert isinstance(ended.error, NotFoundError)
    assert ended.error.status == 404
    assert (ended.error.method, ended.error.path) == ("GET", f"/sessions/{other}")
    assert live(fake) == {mine, other}
    assert run(mode, fake, lambda client: revoke(client, mine, "user_1")).error is None
    assert live(fake) == {other}
    assert [seen.operation for seen in fake.requests] == ["get", "get", "revoke"]
    for wrong in ("", "user/1", 5):
        ended = run(mode, fake, partial(revoke, session_id=other, user_id=wrong))
        assert isinstance(ended.error, InvalidArgumentError)
    assert len(fake.requests) == 3
