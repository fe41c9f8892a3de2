"""All sessions of a list that changes while it is read.

The service skips as many sessions as `offset` says, newest first. When sessions leave the list
meanwhile (they end, and a filter by status drops them), the later ones move up, and a walk that
simply goes on behind its last page skips some without a word. So `Walk` trusts neither offsets nor
totals, only what it has seen:

- A page has to overlap what was read before: it begins with the last session that is known. If it
  holds no session that is known, some may have been skipped, and the walk steps back, further each
  time, until it meets one or is at the beginning. Sessions come in the order of their creation, so
  nothing can be hidden between two of them on one page.
- A total may be missing or wrong, and a page may be shorter than asked for although more follow.
  So the walk goes on until a page from behind the last session is empty, which says how many
  sessions there are at most, and then goes back: if as many are met again as that, nobody is
  hidden. Of a long list, one page before its end is enough, unless the service cuts pages short.

To know a session again, the walk keeps the id of each, about 130 bytes: any of them may still be
listed when those around it are gone, and the order of two sessions can't be told from what the
service sends.
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
"""One session to know the place by, and one more to make progress."""
MORE_THAN_TOLD: Final = 100_000
"""So many sessions more than the service told of, and the list is taken for endless."""
BELIEVED: Final = 500_000
"""No user has more sessions, whatever the service tells of."""
PASSES: Final = 3
"""How often a short list is counted before one page of it is taken for all that there is."""
TRUE_BEFORE: Final = 20
"""So many lists have to end where the service said before its word is taken for the next."""
REPEATS_AT_MOST: Final = 10
"""So often may a page come again further down the list: newer sessions would have to push it."""
IDLE_AT_MOST: Final = 100
"""So many requests may bring nothing new, besides four for each page of sessions."""


class Trust:
    """How far the word of the service on the end of a list is taken, in a run over many lists.

    Proof costs a request or two for each list, which for many short lists is as much as everything
    else. So the word is taken once it was true so often, was never false, and only for a page that
    is shorter than another one was: a service that cuts its pages short doesn't cut them there.
    """

    def __init__(self) -> None:
        self._true = 0
        self._has_lied = False
        self._longest = 0

    def believes(self, walk: Walk) -> bool:
        """Whether the page that was just taken is the last, on the service's word alone."""
        self._longest = max(self._longest, walk.size)
        return (
            self._true >= TRUE_BEFORE
            and not self._has_lied
            and walk.claim is not None
            and 0 < walk.size < self._longest
        )

    def learn(self, walk: Walk) -> None:
        """Hold the word against what a walk has proved."""
        self._has_lied |= walk.has_lied
        self._true += walk.claim is not None and walk.claim == walk.end


class Walk:
    """One walk over a list; pure: whoever asks for the pages hands them in.

    Attributes:
        limit: How many sessions to ask for.
        offset: Where the next page begins.
        size: How many sessions the last page held.
        is_over: Whether all sessions have been seen.
        end: How many sessions there were when a page from behind the last one was empty; None as
            long as none was.
        claim: Where the service said that the list ends, by its total and by a page that is shorter
            than it was asked to be; None if it didn't.
        has_lied: Whether sessions came after such an end.

    Args:
        limit: How many sessions a page may hold.
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
        self._cuts_pages = False
        self._passes = 0
        self._met_again: set[str] = set()
        self._newer: set[str] = set()
        self._told = 0
        self._idle = 0
        self._begin()

    def _begin(self) -> None:
        self._stride = self._span
        self._is_probe = False
        self._reached = 0
        self._ids: list[str | None] = []
        self._repeats = 0
        self._failed: tuple[int, str | None] | None = None

    def begin_again(self) -> None:
        """Go over the list once more; what was seen, and where it ended, stays known."""
        self.offset = 0
        self.is_over = False
        self._idle = 0
        self._met_again.clear()
        self._newer.clear()
        self._begin()

    def take(self, page: SessionPage) -> list[Session | UnreadableItem]:
        """Take the page at `offset`, and return what is new on it.

        Raises:
            ResponseDecodeError: If the list doesn't end.
        """
        start, entries = self.offset, _in_order(page)
        size = self.size = len(entries)
        self._told = max(self._told, page.total_count or 0)
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
        self._is_probe = size == 1 or (size < self.limit and not self._cuts_pages)
        self.offset = reached if self._is_probe else reached - 1
        self._stride = 1 if self._is_probe else self._span
        ids = [entry.id for entry in entries]
        self._repeats = self._repeats + 1 if ids == self._ids and reached > self._reached else 0
        self._reached, self._ids = reached, ids
        self._check_end()
        return new

    def _note_end(self, end: int) -> None:
        """Note that the list holds at most so many sessions now, and go back to count them."""
        self.end = end
        self.is_over = not end
        self._passes += 1
        self._met_again.clear()
        self._newer.clear()
        is_counted = self._cuts_pages or end < self.limit
        self._step_back(end if is_counted else max(self._stride, self._span))

    def _is_proved(self, reached: int) -> bool:
        """Whether nothing can be hidden any more, after a page that showed nothing new behind it.

        That is so once as many sessions have been met again as there were when the list ended.
        A list of a service that gives whole pages needs no count if it is long, or changes all the
        time: whatever it has left would be on the page, which reaches to its end and has room.
        """
        if self.end is None:
            return False
        if len(self._met_again) >= self.end:
            return True
        if self._cuts_pages or (self.end < self.limit and self._passes <= PASSES):
            return False
        return self.size < self.limit and reached >= self.end

    @property
    def _span(self) -> int:
        """How many sessions a page adds, as far as is known."""
        return max(1, (self._longest if self._cuts_pages else self.limit) - 1)

    def _adjoins(self, first: str | None) -> bool:
        """Whether a page goes on from what was read, though it shows no session that is known.

        An entry without an id is known by its place. A service that gives one session at a time can
        show none that is known: it has to give the same one twice, with the session before it read
        once more in between.
        """
        if first is None:
            return _at_place(self.offset) in self._seen
        return self._longest == 1 and self._failed == (self.offset, first)

    def _new(
        self, entries: list[Session | UnreadableItem], last_known: int
    ) -> tuple[list[Session | UnreadableItem], bool]:
        """Return what is new, and whether some of it comes after the last session that is known."""
        new: list[Session | UnreadableItem] = []
        goes_on = False
        before, nameless = "", 0
        for at, entry in enumerate(entries):
            if entry.id is not None:
                key = before = entry.id
                nameless = 0
            elif at < last_known:
                continue
            else:  # it is known by its neighbour, or by its place if it has none
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
        if seen > min(self._told, BELIEVED) + MORE_THAN_TOLD:
            problem = f"it has shown {seen:,} sessions, and told of {self._told:,}"
        elif self._repeats > REPEATS_AT_MOST or self._idle > IDLE_AT_MOST + 4 * seen // max(
            1, self._longest - 1
        ):
            problem = "it shows the same sessions again and again, as if it ignored the offset"
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
    for item in page.unreadable:  # in the order of their places
        entries.insert(item.index, item)
    return entries


def check_where(where: object) -> None:
    """Refuse a `where` that can't judge a session.

    Raises:
        InvalidArgumentError: If it can't be called, or is a coroutine function, whose coroutine
            would be true of every session.
    """
    if where is None:
        return
    if not callable(where):
        raise InvalidArgumentError(f"where must be callable, not {type(where).__name__}")
    if any(map(inspect.iscoroutinefunction, (where, type(where).__call__))):
        raise InvalidArgumentError("where must be an ordinary function, not a coroutine function")


def is_meant(where: Callable[[Session], object] | None, session: Session) -> bool:
    """Whether `where` means a session; without one every session is meant.

    Raises:
        InvalidArgumentError: If it returns what is true of every session: something to await, or
            a generator.
        Exception: Whatever it raises.
    """
    if where is None:
        return True
    answer = where(session)
    kind = type(answer).__name__
    if isinstance(answer, Awaitable | Generator | AsyncGenerator):
        if isinstance(answer, Coroutine):
            answer.close()
        raise InvalidArgumentError(
            f"where must say whether a session is meant: it returned a {kind}"
        )
    return bool(answer)


async def iterate_pages(
    walk: Walk,
    fetch: Callable[[int], Awaitable[SessionPage]],
    where: Callable[[Session], object] | None,
    on_unreadable: Callable[[UnreadableItem], object] | None,
) -> AsyncGenerator[Session, None]:
    """Yield every session that was there at the start and is not gone, each once.

    Args:
        walk: A new one.
        fetch: Returns the page at an offset.
        where: Says which sessions are meant; None for all.
        on_unreadable: Called with each entry that is no session; without it they are logged.

    Raises:
        ResponseDecodeError: If the list doesn't end.
    """
    while not walk.is_over:
        offset = walk.offset
        for entry in walk.take(await fetch(offset)):
            if not isinstance(entry, UnreadableItem):
                if is_meant(where, entry):
                    yield entry
            elif on_unreadable is None:
                logger.warning(
                    "entry %d of a list is left out: %s", offset + entry.index, entry.error
                )
            elif inspect.isawaitable(told := on_unreadable(entry)):
                await told
