"""Reads all sessions of a list that changes in the meantime.

The service skips `offset` sessions, newest first. When sessions leave the list (they end, and the
status filter drops them), the later ones move up. A walk that simply continued after its last page
would silently skip some. So `Walk` trusts neither offsets nor totals, only what it has seen:

- A page must overlap what was read before: it is requested from the last known session on. If it
  has no known session, some may have been skipped. Then the walk steps back, further each time,
  until it finds a known session or reaches the start. Sessions are listed in the order of their
  creation, so none can be missing between two sessions of one page.
- A total may be missing or wrong, and a page may be shorter than requested although more sessions
  follow. So the walk continues until a page after the last session is empty, which limits how many
  sessions there are, and then goes back: if it finds that many again, none is missing. For a long
  list, one page before the end is enough, unless the service returns short pages.

To recognize sessions, the walk keeps the id of each, about 130 bytes: any session may still be
listed when its neighbours are gone, and the service sends nothing that tells the order of two
sessions.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Generator
from typing import TYPE_CHECKING, Final

from clerk_async.errors import InvalidArgumentError, ResponseDecodeError
from clerk_async.models import UnreadableItem

if TYPE_CHECKING:
    from collections.abc import Callable

    from clerk_async.models import Session, SessionPage

logger: logging.Logger = logging.getLogger("clerk_async")

LEAST_PAGE: Final = 2
"""One session to recognize the place, and one more to make progress."""
MORE_THAN_TOLD: Final = 100_000
"""A list counts as endless if it has this many more sessions than the total reported."""
BELIEVED: Final = 500_000
"""The largest reported total that counts: no user has more sessions."""
PASSES: Final = 3
"""How often a short list is counted before a single page counts as the whole list."""
TRUE_BEFORE: Final = 20
"""How many lists must end where the service said before we believe it for the next list."""
REPEATS_AT_MOST: Final = 10
"""How often a page may repeat further down the list, pushed there by newer sessions."""
PUSHED_AT_MOST: Final = 3
"""How many probes may find known sessions before the walk looks further ahead each time."""
PASSES_AT_MOST: Final = 10
"""How often a list that keeps shrinking is read to its end before its short last page counts."""
IDLE_AT_MOST: Final = 100
"""How many requests may bring nothing new, in addition to four per page of sessions."""


class Trust:
    """Whether to believe the service about the end of a list, in a run over many lists.

    Proof takes a request or two per list, which for many short lists doubles the cost. So the walk
    believes the service once it was right `TRUE_BEFORE` times and never wrong. It does so only for
    a page that is shorter than an earlier one: a service with shorter pages wouldn't cut it there.
    """

    def __init__(self) -> None:
        self._true = 0
        self._has_lied = False
        self._longest = 0

    def believes(self, walk: Walk) -> bool:
        """Whether the page just taken is the last one, according to the service alone."""
        self._longest = max(self._longest, walk.size)
        return (
            self._true >= TRUE_BEFORE
            and not self._has_lied
            and walk.claim is not None
            and 0 < walk.size < self._longest
        )

    def learn(self, walk: Walk) -> None:
        """Compare what the service said with what a walk has proved."""
        self._has_lied |= walk.has_lied
        self._true += walk.claim is not None and walk.claim == walk.end


class Walk:
    """One walk over a list; pure: the caller fetches the pages and passes them in.

    Attributes:
        limit: How many sessions to request.
        offset: Where the next page begins.
        size: How many sessions the last page had.
        is_over: Whether all sessions have been seen.
        end: The offset at which a page was empty, and so the most sessions there were; None until
            then.
        claim: Where the list ends according to the service, by its total and by a page shorter than
            requested; None if it didn't say.
        has_lied: Whether more sessions followed such an end.

    Args:
        limit: The most sessions per page.
    """

    def __init__(self, limit: int) -> None:
        self.limit: int = max(limit, LEAST_PAGE)
        self.offset: int = 0
        self.size: int = 0
        self.is_over: bool = False
        self.end: int | None = None
        self.claim: int | None = None
        self.has_lied: bool = False
        self._seen: set[str] = set()
        self._longest = 1
        self._overlap = 1
        self._cuts_pages = False
        self._passes = 0
        self._met_again: set[str] = set()
        self._newer: set[str] = set()
        self._told: int | None = None
        self._idle = 0
        self._begin()

    def _begin(self) -> None:
        self._stride = self._span
        self._is_probe = False
        self._reached = 0
        self._ids: list[str | None] = []
        self._repeats = 0
        self._pushed = 0
        self._failed: tuple[int, str | None] | None = None

    def begin_again(self) -> None:
        """Start over; the walk still knows the sessions seen and where the list ended."""
        self.offset = 0
        self.is_over = False
        self._idle = 0
        self._met_again.clear()
        self._newer.clear()
        self._begin()

    def take(self, page: SessionPage) -> list[Session | UnreadableItem]:
        """Take the page at `offset`, and return its new entries.

        Raises:
            ResponseDecodeError: If the list doesn't end.
        """
        start, entries = self.offset, _in_order(page)
        size = self.size = len(entries)
        if page.total_count is not None:
            self._told = max(self._told or 0, page.total_count)
        self._idle += 1
        if not size:
            self._note_end(start)
            return []
        self._longest = max(self._longest, size)
        last_known = max(
            (at for at, each in enumerate(entries) if each.id in self._seen), default=-1
        )
        if start and last_known < 0 and not self._adjoins(entries[0].id):
            self._cuts_pages |= self._is_probe
            self._failed = start, entries[0].id
            if not self._is_probe:  # the list shrinks: read more of it twice
                self._overlap *= 2
            self._step_back(self._stride)
            return []
        new, goes_on = self._new(entries, last_known)
        reached = start + size
        if goes_on:
            self._cuts_pages |= self._is_probe
            self._idle -= 1
            self._failed = None
            self.has_lied |= self.claim is not None
            self.claim = reached if size < self.limit and page.total_count == reached else None
        elif self._is_proved(reached):
            self.is_over = True
            return new
        is_pushed = self._is_probe and not goes_on and not self._cuts_pages
        self._pushed = self._pushed + 1 if is_pushed else 0
        self._is_probe = size == 1 or (size < self.limit and not self._cuts_pages)
        if self._is_probe:  # past the sessions that newer ones keep pushing ahead of the walk
            self.offset = reached + max(0, self._pushed - PUSHED_AT_MOST)
        else:
            self.offset = reached - min(self._overlap, max(1, size // 2))
        self._stride = 1 if self._is_probe else self._span
        ids = [entry.id for entry in entries]
        self._repeats = self._repeats + 1 if ids == self._ids and reached > self._reached else 0
        self._reached, self._ids = reached, ids
        self._check_end()
        return new

    def _note_end(self, end: int) -> None:
        """Record that the list has at most `end` sessions now, and go back to count them."""
        self.end = end
        self.is_over = not end
        self._passes += 1
        self._met_again.clear()
        self._newer.clear()
        is_counted = self._cuts_pages or end < self.limit
        self._step_back(end if is_counted else max(self._stride, self._span))

    def _is_proved(self, reached: int) -> bool:
        """Whether no session can be missing, after a page with nothing new after known sessions.

        This is so once the walk has found as many sessions again as the list had at its end. If the
        service returns full pages, a list that is long or keeps changing needs no count: any other
        session would be on this page, which reaches the end of the list and has room for more.
        """
        if self.end is None:
            return False
        if len(self._met_again) >= self.end:
            return True
        if self._cuts_pages or (self.end < self.limit and self._passes <= PASSES):
            return False
        return self.size < self.limit and (reached >= self.end or self._passes > PASSES_AT_MOST)

    @property
    def _span(self) -> int:
        """How many new sessions a page adds, as far as known."""
        return max(1, (self._longest if self._cuts_pages else self.limit) - 1)

    def _adjoins(self, first: str | None) -> bool:
        """Whether a page without a known session still continues what was read.

        An entry without an id is recognized by its place. If the service returns one session at a
        time, no page can overlap: it must return the same session twice, and the session before it
        in between.
        """
        if first is None:
            return _at_place(self.offset) in self._seen
        return self._longest == 1 and self._failed == (self.offset, first)

    def _new(
        self, entries: list[Session | UnreadableItem], last_known: int
    ) -> tuple[list[Session | UnreadableItem], bool]:
        """Return the new entries, and whether any comes after the last known session."""
        new: list[Session | UnreadableItem] = []
        goes_on = False
        before, nameless = "", 0
        for at, entry in enumerate(entries):
            if entry.id is not None:
                key = before = entry.id
                nameless = 0
            elif at < last_known:
                continue
            else:  # recognized by its neighbour, or by its place if it has none
                nameless += 1
                key = f"{before}\0{nameless}" if before else _at_place(self.offset + at)
            if key in self._seen:
                if key not in self._newer:
                    self._met_again.add(key)
                continue
            self._seen.add(key)
            if self.end is not None:
                self._newer.add(key)
            if nameless:
                self._seen.add(_at_place(self.offset + at))
            new.append(entry)
            goes_on |= at > last_known
        return new, goes_on

    def _step_back(self, stride: int) -> None:
        self._check_end()
        self.offset = max(0, self.offset - stride)
        self._stride = 2 * stride
        self._is_probe = False

    def _check_end(self) -> None:
        seen = len(self._seen)
        if seen > min(self._told or 0, BELIEVED) + MORE_THAN_TOLD:
            told = "no total" if self._told is None else f"a total of {self._told:,}"
            problem = f"it returned {seen:,} sessions but reported {told}"
        elif self._repeats > REPEATS_AT_MOST or self._idle > IDLE_AT_MOST + 4 * seen // max(
            1, self._longest - 1
        ):
            problem = "it keeps returning the same sessions, as if it ignored the offset"
        else:
            return
        raise ResponseDecodeError(
            f"the list of sessions doesn't end: {problem}",
            json_path="$.data",
            method="GET",
            path="/sessions",
            attempts=1,
        )


def _at_place(place: int) -> str:
    return f"\0{place}"


def _in_order(page: SessionPage) -> list[Session | UnreadableItem]:
    entries: list[Session | UnreadableItem] = list(page.data)
    for item in page.unreadable:  # sorted by index
        entries.insert(item.index, item)
    return entries


def is_async(callback: object) -> bool:
    """Whether a callback is a coroutine function, or an object that is called like one."""
    called = getattr(type(callback), "__call__", None)  # noqa: B004 - the method itself is wanted
    return any(map(inspect.iscoroutinefunction, (callback, called)))


def check_where(name: str, where: object) -> None:
    """Reject a `where` that can't select sessions.

    Raises:
        InvalidArgumentError: If it isn't callable, or is a coroutine function, whose coroutine
            would be true for every session.
    """
    if where is None:
        return
    if not callable(where):
        raise InvalidArgumentError(f"{name} must be callable, not {type(where).__name__}")
    if is_async(where):
        raise InvalidArgumentError(f"{name} must be an ordinary function, not a coroutine function")


def is_meant(where: Callable[[Session], object] | None, session: Session) -> bool:
    """Whether `where` selects a session; None selects every session.

    Raises:
        InvalidArgumentError: If `where` returns an awaitable or a generator, which would be true
            for every session.
        Exception: Any exception that `where` raises.
    """
    if where is None:
        return True
    answer = where(session)
    kind = type(answer).__name__
    if isinstance(answer, Awaitable | Generator | AsyncGenerator):
        if isinstance(answer, Coroutine):
            answer.close()
        raise InvalidArgumentError(
            f"where must return whether it selects a session: it returned a {kind}"
        )
    return bool(answer)


async def iterate_pages(
    walk: Walk,
    fetch: Callable[[int], Awaitable[SessionPage]],
    where: Callable[[Session], object] | None,
    on_unreadable: Callable[[UnreadableItem], object] | None,
) -> AsyncGenerator[Session, None]:
    """Yield once each session that was in the list at the start and didn't leave it.

    Args:
        walk: A new walk.
        fetch: Returns the page at an offset.
        where: Selects the sessions; None selects all.
        on_unreadable: Called with each entry that isn't a session; None: log such entries.

    Raises:
        ResponseDecodeError: If the list doesn't end.
    """
    while not walk.is_over:
        offset, skipped = walk.offset, 0
        for entry in walk.take(await fetch(offset)):
            if not isinstance(entry, UnreadableItem):
                if is_meant(where, entry):
                    yield entry
            elif on_unreadable is None:
                skipped += 1
                if skipped == 1:
                    logger.warning("skipping list entry %d: %s", offset + entry.index, entry.error)
            elif inspect.isawaitable(told := on_unreadable(entry)):
                await told
        if skipped > 1:
            logger.warning("skipping %d more entries of that page", skipped - 1)
