"""Lists that change between any two requests, return short pages, and report wrong totals.

They test iteration: as a list in memory, and as the sessions of a FakeClerk.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import attrs
from hypothesis import strategies as st

from clerk_async.models import Session, SessionPage
from clerk_async.testing import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clerk_async.testing import FakeClerk

Change = tuple[str, int]
"""What happens, and a number that selects the session."""

TOTALS: dict[str, Callable[[int, int], int | None]] = {
    "true": lambda total, _: total,
    "none": lambda total, size: None,  # noqa: ARG005 - the true total doesn't count
    "too low": lambda total, _: max(0, total - 3),
    "too high": lambda total, _: total + 5,
    "of the page": lambda _, size: size,
    "always 3": lambda total, size: 3,  # noqa: ARG005 - likewise
    "always 0": lambda total, size: 0,  # noqa: ARG005 - likewise
}

changes = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from(["end", "end", "end", "appear", "end from the start"]),
            st.integers(0, 40),
        ),
        max_size=3,
    ),
    max_size=40,
)
"""What happens after each request, until nothing changes any more."""
cuts = st.one_of(st.none(), st.integers(1, 4), st.lists(st.integers(2, 5), min_size=2, max_size=5))
"""The most sessions per page: no bound, one bound for all pages, or one bound after another."""
totals = st.sampled_from(sorted(TOTALS))


def cut_of(cut: int | list[int] | None) -> Iterator[int | None]:
    """Return the bounds of one page after another."""
    return itertools.cycle(cut) if isinstance(cut, list) else itertools.repeat(cut)


@attrs.define(eq=False)
class Shifting:
    """A list in memory, newest first."""

    ids: list[str]
    changes: list[list[Change]]
    cut: int | list[int] | None = None
    total: str = "true"
    offsets: list[int] = attrs.field(factory=list[int])
    _cuts: Iterator[int | None] = attrs.field(init=False)
    _came: int = 0
    was_there: set[str] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.was_there = set(self.ids)
        self._cuts = cut_of(self.cut)

    def page(self, offset: int, limit: int) -> SessionPage:
        """Return a page, then change the list; the next request sees the change."""
        self.offsets.append(offset)
        shown = self.ids[offset : offset + limit]
        most = next(self._cuts)
        shown = shown if most is None else shown[:most]
        told = TOTALS[self.total](len(self.ids), len(shown))
        if self.changes:
            for kind, number in self.changes.pop(0):
                self._happen(kind, number)
        data = tuple(Session(id=each, status="active") for each in shown)
        return SessionPage(data=data, total_count=told)

    def _happen(self, kind: str, number: int) -> None:
        if kind == "appear":
            self._came += 1
            self.ids.insert(0, f"new_{self._came}")
        elif kind == "end" and self.ids:
            del self.ids[number % len(self.ids)]
        elif self.ids:
            del self.ids[: number % (len(self.ids) + 1)]

    def end(self, session_id: str) -> None:
        """Remove one item, as when a reader revokes it."""
        if session_id in self.ids:
            self.ids.remove(session_id)


@attrs.define(eq=False)
class ShiftingUser:
    """A user of a fake whose sessions, of any kind, come and go between any two requests.

    Every change is made in the fake's own thread, so that no request sees half of it.
    """

    fake: FakeClerk
    user_id: str
    changes: list[list[Change]]
    cut: int | list[int] | None = None
    total: str = "true"
    _cuts: Iterator[int | None] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._cuts = cut_of(self.cut)
        self.fake.clear_faults()
        self.fake.inject(
            Fault.changed(self._show, operation="list", count=None),
            Fault.changed(self._after, operation="revoke", count=None),
        )

    def live(self) -> list[str]:
        """Return the ids of the live sessions."""
        return [
            session.id
            for session in self.fake.sessions.values()
            if session.user_id == self.user_id and session.status in {"active", "pending"}
        ]

    def _show(self, value: Any) -> Any:
        rows = value["data"]
        most = next(self._cuts)
        if most is not None:
            del rows[most:]
        value["total_count"] = TOTALS[self.total](value["total_count"], len(rows))
        return self._after(value)

    def _after(self, value: Any) -> Any:
        for kind, number in self.changes.pop(0) if self.changes else []:
            live = self.live()
            if kind == "appear":
                self.fake.add_session(user_id=self.user_id)
            elif kind == "end" and live:
                self.fake.sessions[live[number % len(live)]].status = "ended"
            elif live:  # the newest ones are purged
                for session_id in live[len(live) - number % (len(live) + 1) :]:
                    self.fake.remove_session(session_id)
        return value
