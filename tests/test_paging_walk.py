"""Iteration over a list: it skips nothing, repeats nothing, and ends. No request is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shifting_lists import Shifting, changes, cuts, totals

from clerk_async.errors import ResponseDecodeError
from clerk_async.http.paging import Trust, Walk
from clerk_async.models import Session, SessionPage, UnreadableItem

if TYPE_CHECKING:
    from collections.abc import Callable

    from shifting_lists import Change


def names(count: int) -> list[str]:
    """Make ids, newest first."""
    return [f"sess_{number}" for number in range(count)]


def walk_over(
    shifting: Shifting, page_size: int, reader: Callable[[str], object] = lambda _: None
) -> list[str]:
    """Iterate to the end, and return the ids in the order in which they came."""
    walk, came = Walk(page_size), list[str]()
    while not walk.is_over:
        for entry in walk.take(shifting.page(walk.offset, walk.limit)):
            assert isinstance(entry, Session)
            came.append(entry.id)
            reader(entry.id)
    return came


@pytest.mark.promise("complete-iteration")
@settings(max_examples=500, derandomize=True)
@given(
    count=st.integers(0, 14),
    page_size=st.integers(1, 6),
    changes=changes,
    cut=cuts,
    total=totals,
    revoked=st.sets(st.integers(0, 14)),
)
def test_no_remaining_session_is_skipped_or_repeated(
    *,
    count: int,
    page_size: int,
    changes: list[list[Change]],
    cut: int | list[int] | None,
    total: str,
    revoked: set[int],
) -> None:
    """Whatever ends, begins or is revoked meanwhile, however short pages are or wrong totals."""
    shifting = Shifting(names(count), changes, cut, total)
    to_revoke = {f"sess_{number}" for number in revoked}
    came = walk_over(
        shifting, page_size, lambda one: shifting.end(one) if one in to_revoke else None
    )
    assert len(came) == len(set(came))
    assert set(shifting.ids) & shifting.was_there <= set(came)


@pytest.mark.parametrize("total", ["true", "none", "always 3", "of the page"])
@pytest.mark.parametrize("keeps", [0, 1, 7])
@pytest.mark.parametrize(
    ("count", "cut"),
    [(1, None), (100, 1), (250, 2), (100, 100), (180, 100), (250, 100), (1200, 100), (1200, None)],
)
def test_a_reader_may_revoke_sessions_as_they_come(
    cut: int | None, total: str, count: int, keeps: int
) -> None:
    """All of them, or all but every n-th: the list shrinks by whole pages meanwhile."""
    shifting = Shifting(names(count), [], cut, total)
    kept = {one for at, one in enumerate(shifting.ids) if keeps and not at % keeps}
    came = walk_over(shifting, 500, lambda one: None if one in kept else shifting.end(one))
    assert sorted(came) == sorted(names(count))
    assert set(shifting.ids) == kept


@pytest.mark.parametrize(
    ("count", "page_size", "cut", "offsets"),
    [
        (0, 500, None, [0]),
        (3, 500, None, [0, 3, 0]),
        (500, 500, None, [0, 499, 500, 1]),
        (1200, 500, None, [0, 499, 998, 1200, 701]),
        (7, 3, None, [0, 2, 4, 6, 7, 5]),
        (3, 1, None, [0, 1, 2, 3, 2]),
        # a service with short pages is detected, and then read completely
        (250, 500, 100, [0, 100, 99, 198, 249, 250, 0, 99, 198]),
        (3, 500, 1, [0, 1, 0, 1, 2, 1, 2, 3, 0, 1, 2]),
    ],
)
def test_an_unchanging_list_costs_two_or_three_extra_requests(
    count: int, page_size: int, cut: int | None, offsets: list[int]
) -> None:
    """They read past the end, and once more before it; a full page may be the last."""
    shifting = Shifting(names(count), [], cut)
    assert walk_over(shifting, page_size) == names(count)
    assert shifting.offsets == offsets


@pytest.mark.parametrize("count", [5, 40, 700])
def test_an_iteration_ends_even_if_the_list_keeps_changing(count: int) -> None:
    """One session ends and one begins after each request, for as long as it takes."""
    shifting = Shifting(names(count), [[("end", at), ("appear", 0)] for at in range(3, 3000, 3)])
    came = walk_over(shifting, 500)
    assert len(shifting.offsets) < 30
    assert len(came) == len(set(came))
    assert set(shifting.ids) & shifting.was_there <= set(came)


@pytest.mark.promise("complete-iteration")
@pytest.mark.parametrize(
    "each_time",
    [[("end", 0)], [("end", 0)] * 3, [("appear", 0)], [("appear", 0)] * 3],
    ids=["one ends", "three end", "one begins", "three begin"],
)
@pytest.mark.parametrize(("count", "page_size"), [(60, 100), (120, 100), (1500, 100), (1500, 500)])
def test_an_iteration_ends_while_the_list_steadily_shrinks_or_grows(
    count: int, page_size: int, each_time: list[Change]
) -> None:
    """Another process ends the user's sessions, or the user keeps signing in, at each request."""
    shifting = Shifting(names(count), [list(each_time) for _ in range(3000)])
    came = walk_over(shifting, page_size)
    assert len(shifting.offsets) < 50 + 3 * count // page_size
    assert len(came) == len(set(came))
    assert set(shifting.ids) & shifting.was_there <= set(came)


def test_an_iteration_steps_back_further_each_time() -> None:
    """A reader who revokes thousands at once costs a few requests, not one for each page."""
    shifting = Shifting(names(20_000), [])
    came: list[str] = []

    def reader(one: str) -> None:
        came.append(one)
        if len(came) == 10_000:
            shifting.ids = shifting.ids[10_000:]

    before = len(range(0, 10_000, 499))
    assert walk_over(shifting, 500, reader) == names(20_000)
    assert len(shifting.offsets) < 2 * before + 12


@pytest.mark.parametrize(
    ("page_size", "cuts", "states"),
    [
        # one ended and one began, so the list has the same length and the last one is hidden
        (500, [2], ["01234", "n01234", "0124", "0124", "m0124"]),
        (4, [3], ["01234567", "n01234567", "nm01234567", "nm1234567", "nml1234567"]),
        (4, [3], ["01234567"] * 4 + ["123457", "n123457"]),
        (500, [1], ["01", "n01", "01", "01", "m01"]),
        (7, [4, 9, 2, 9, 1, 1, 9], ["01234567", "567", "567", "67", "67", "n67"]),
        (7, [3, 9, 2, 2, 9], ["0123", "023", "n023", "nm023"]),
        # a new session proves nothing, nor does one that was seen before the list shrank again
        (500, [1], ["aG", "naG", "aG", "naG", "mnaG"]),
        (500, [3, 9, 1, 1, 9, 1, 9], ["abcG", "bcG", "bcG", "bcG", "cG"]),
        # a short page in the middle is not the end, and the next page need not adjoin it
        (2, [2, 2, 1, 9, 9, 1, 9], ["0123", "0123", "0123", "123"]),
        (3, [9], ["01234GXYZ", "01234GXYZ", "234GXYZ", "nm234GXYZ", "234GXYZ"]),
        # more than a page, read once more past its end
        (3, [9], ["01234G", "01234G", "234G", "nm234G"]),
    ],
)
def test_changes_at_the_end_of_the_list_hide_no_session(
    page_size: int, cuts: list[int], states: list[str]
) -> None:
    """In these cases each page alone looks like the last; the list is stable at the end."""
    walk, came, turn = Walk(page_size), list[str](), 0
    while not walk.is_over:
        shown = states[min(turn, len(states) - 1)][walk.offset :][: walk.limit]
        page = page_of(list(shown[: cuts[turn % len(cuts)]]))
        turn += 1
        came += [str(entry.id) for entry in walk.take(page)]
    assert len(came) == len(set(came))
    assert set(states[-1]) & set(states[0]) <= set(came)


def page_of(ids: list[str], total: int | None = None) -> SessionPage:
    """Make a page."""
    data = tuple(Session(id=each, status="active") for each in ids)
    return SessionPage(data=data, total_count=total)


def requests_until_refused(
    walk: Walk, answer: Callable[[Walk], SessionPage], most: int
) -> tuple[int, str]:
    """Count the pages that are read until the error, and return both."""
    for count in range(most):
        page = answer(walk)
        try:
            walk.take(page)
        except ResponseDecodeError as error:
            return count, f"{error.method} {error.path}: {error}"
        assert not walk.is_over
    raise AssertionError("it goes on and on")


@pytest.mark.promise("complete-iteration")
@pytest.mark.parametrize("size", [1, 2, 3, 500])
@pytest.mark.parametrize("total", [None, 1, 10**18])
def test_a_service_that_ignores_the_offset_is_detected_soon(size: int, total: int | None) -> None:
    """It returns the same page again and again."""
    page = page_of(names(size), total)
    count, problem = requests_until_refused(Walk(500), lambda _: page, 200)
    assert count < 20
    assert problem.startswith("GET /sessions: the list of sessions doesn't end")
    assert "ignored the offset" in problem


@pytest.mark.promise("complete-iteration")
@pytest.mark.parametrize("told", ["nothing", "10", "ever more", "far too many"])
def test_an_endless_list_is_given_up(told: str) -> None:
    """Well before a million sessions, even if its total keeps growing."""
    told_once = {"nothing": None, "10": 10, "far too many": 10**18}

    def answer(walk: Walk) -> SessionPage:
        total = told_once.get(told, walk.offset + 1000)
        first = walk.offset
        return page_of([f"sess_{number}" for number in range(first, first + walk.limit)], total)

    count, problem = requests_until_refused(Walk(500), answer, 2000)
    assert count <= (201 if told in {"nothing", "10"} else 1203)
    assert "doesn't end: it returned" in problem
    assert ("reported no total" in problem) is (told == "nothing")


def unreadable(index: int, session_id: str | None) -> UnreadableItem:
    """Make an entry that is not a session."""
    error = ResponseDecodeError("no status", session_id=session_id)
    return UnreadableItem(index=index, session_id=session_id, error=error)


@pytest.mark.parametrize("names_them", [True, False])
@pytest.mark.parametrize("broken", [{0}, {2}, {6}, {1, 2, 3}, set(range(7))])
def test_an_unreadable_entry_is_reported_once(broken: set[int], *, names_them: bool) -> None:
    """Pages overlap and are read again, even if it is the entry that identifies a page."""
    walk, came, told = Walk(3), list[str](), 0
    while not walk.is_over:
        places = range(walk.offset, min(7, walk.offset + walk.limit))
        page = SessionPage(
            data=tuple(
                Session(id=f"sess_{at}", status="active") for at in places if at not in broken
            ),
            unreadable=tuple(
                unreadable(at - walk.offset, f"sess_{at}" if names_them else None)
                for at in places
                if at in broken
            ),
        )
        for entry in walk.take(page):
            if isinstance(entry, Session):
                came.append(entry.id)
            else:
                told += 1
    assert came == [f"sess_{at}" for at in range(7) if at not in broken]
    assert told == len(broken)


def test_totals_are_trusted_after_they_were_often_right() -> None:
    """This holds only for a page shorter than an earlier one, where the service cuts nothing."""
    trust = Trust()

    def look(shifting: Shifting) -> tuple[int, bool]:
        walk = Walk(500)
        while not walk.is_over:
            walk.take(shifting.page(walk.offset, walk.limit))
            if trust.believes(walk):
                return len(shifting.offsets), True
        trust.learn(walk)
        return len(shifting.offsets), False

    for _ in range(20):
        assert look(Shifting(names(5), [])) == (3, False)
    assert look(Shifting(names(5), [])) == (3, False)
    assert look(Shifting(names(6), [])) == (3, False)
    assert look(Shifting(names(5), [])) == (1, True)
    assert look(Shifting(names(5), [], total="too low")) == (3, False)
    # it truncates pages and reports their length: its totals are never trusted again
    assert look(Shifting(names(12), [], cut=6, total="of the page"))[1] is False
    assert look(Shifting(names(5), [])) == (3, False)
