"""One process's part in the window that all processes of a key share.

Pure: callers pass the time in. `window.lua` keeps the window in Redis. This module composes the
messages to it (`message`), handles its replies (`heard`) or their absence (`failed`), and knows
when the next message is due. A message states which places the process holds, reports the requests
answered since the last message, and asks for several places at a time. It also reports single
calls, which don't ask for places.

A process is in one of four modes. It is `new` until Redis has answered once or counts as away, and
`together` while Redis answers. When Redis is away, the process is `silent` for one window, because
it may hold more than its share at that moment. Then it is `alone`, with an equal share for each
process that was running. When Redis is back, the process states all that it held in the meantime. A
full statement replaces whatever Redis has recorded, so a message that may or may not have arrived
does no harm, whenever it runs.
"""

from __future__ import annotations

import json
import math
import secrets
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

from clerk_async.pacing.news import News
from clerk_async.pacing.ramp import LEAST_SHARE, Ramp
from clerk_async.pacing.window import TOO_MANY_REQUESTS, SendWindow

if TYPE_CHECKING:
    from collections.abc import Callable

    from clerk_async.config import RateLimit
    from clerk_async.pacing.window import PauseReason

SCRIPT: Final = files("clerk_async.pacing").joinpath("window.lua").read_text(encoding="utf-8")

BEAT: Final = 1.0
"""Seconds between two messages of a process that has nothing to report."""
BEAT_OF_USERS: Final = 0.15
"""The same for a process that has or wants places. This bounds the age of what it knows about the
others, which matters when Redis goes away."""
LEASE: Final = 3.0
"""Seconds of silence after which a process counts as dead, and its places are returned."""
SETTLE: Final = 0.6
"""Seconds without grants after Redis was away or lost its data, so that all processes of the key
can report their places first."""
IDLE: Final = 86_400.0
"""Seconds that Redis keeps an unused window."""
TICKS: Final = 20
"""The rate of single calls is measured over one window divided by this."""
FAILURES_UNTIL_AWAY: Final = 2
SINGLE: Final = "single"
RUN: Final = "run"

_GAP: Final = (0.002, 0.05)
"""Bounds for the seconds between two messages, which are a 200th of the window."""

Mode = Literal["new", "together", "silent", "alone"]


@attrs.define(eq=False)
class Claim:
    """What one gate wants from the window.

    Attributes:
        limit: The gate's own limit.
        wanted: Returns how many places the gate could use now, including those in hand.
        let_out: Called when there may be places.
        kind: The kind that its places count as.
        cap: How many places of this kind all processes may use; 0 for no cap but the window's.
        in_hand: Places granted and not yet used.
    """

    limit: RateLimit
    wanted: Callable[[float], int]
    let_out: Callable[[], None]
    kind: str = RUN
    cap: int = 0
    in_hand: int = 0


@attrs.frozen
class Standing:
    """What the last reply said about the window as a whole."""

    used: int = 0
    singles: int = 0
    cooling: int = 0
    processes: int = 1
    running: int = 0


class KeyWindow:
    """The window of a key, as one process sees it.

    Args:
        limit: How many requests all processes may send in how many seconds.
        timeout: Seconds that a message may take.
        keep: Seconds that Redis keeps the feed, which announces pauses.

    Attributes:
        limit: See above.
        ramp: What neighbours outside the shared state leave of the limit.
        mode: See the module's docstring.
        standing: What the last reply said.
        news: What this process and the others learned from refusals.
        on_due: Called when a message is due earlier than `due` last returned.
    """

    def __init__(self, limit: RateLimit, *, timeout: float, keep: float) -> None:
        self.limit = limit
        self.ramp: Ramp = Ramp(limit.count, limit.per)
        self.news: News = News(self.ramp)
        self.mode: Mode = "new"
        self.standing: Standing = Standing()
        self.on_due: Callable[[], None] = _do_nothing
        self._timeout = timeout
        self._keep = keep
        self._gap = min(max(limit.per / 200, _GAP[0]), _GAP[1])
        self._books: dict[str, SendWindow] = {}
        self._claims: list[Claim] = []
        self.forget()

    def forget(self) -> None:
        """Take a new identity that holds nothing, as in a forked child process."""
        self._id = secrets.token_hex(8)
        self._books = {kind: SendWindow(self.limit.per) for kind in [*self._books, SINGLE, RUN]}
        self._seq = self._heard = 0
        self._epoch = ""
        self.restart(0.0)

    def restart(self, now: float) -> None:
        """Start in another event loop; requests in flight in the old one may have arrived."""
        self.mode = "new"
        for books in self._books.values():
            while books.in_flight:
                books.leave(now, has_arrived=True)
        for claim in self._claims:
            claim.in_hand = 0
        self._done: dict[str, int] = {}
        self._done_at = now
        self._is_joining = True
        self._is_changed = False
        self._was_running = False
        self._failures = 0
        self._silent_until = -math.inf
        self._last_at = self._beat_at = -math.inf
        self._ask_at = -math.inf
        self._redis: tuple[int, float] = (0, now)
        self._asked: list[tuple[Claim, int]] = []

    # -- what gates and calls do ---------------------------------------------------------------

    def register(self, claim: Claim) -> None:
        """Register a gate, with the whole window or with its own cap."""
        limit = claim.limit
        if limit.per == self.limit.per and limit.count < self.limit.count:
            claim.cap = limit.count
            claim.kind = f"cap{limit.count}"
            self._books.setdefault(claim.kind, SendWindow(self.limit.per))
        if claim not in self._claims:
            self._claims.append(claim)

    @property
    def in_flight(self) -> int:
        """How many requests of bulk runs are in flight."""
        held = sum(books.in_flight for kind, books in self._books.items() if kind != SINGLE)
        return held - sum(claim.in_hand for claim in self._claims)

    def answered_lately(self) -> int:
        """Return how many places, of all processes, answered requests still take."""
        return self.standing.cooling + sum(self._done.values())

    def delay(self, claim: Claim, now: float) -> float:
        """Return the seconds until a gate may let a request out; inf if it needs a reply first."""
        if self.mode == "silent" and now >= self._silent_until:
            self.mode = "alone"
        if self.mode == "together":
            return 0.0 if claim.in_hand else math.inf
        if self.mode == "new":
            return math.inf
        if self.mode == "silent":
            return self._silent_until - now
        return self._delay_alone(claim, now)

    def _delay_alone(self, claim: Claim, now: float) -> float:
        runners = self._runners()
        left = min(self.limit.count - self.standing.singles, self.ramp.allowance(now))
        runs = [books for kind, books in self._books.items() if kind != SINGLE]
        if sum(books.used(now) for books in runs) + 1 > max(1, left // runners):
            return min(books.free_at() for books in runs) - now
        own = self._books[claim.kind]
        if claim.cap and own.used(now) + 1 > max(1, claim.cap // runners):
            return own.free_at() - now
        return 0.0

    def _runners(self) -> int:
        """Return how many processes had runs when Redis last answered, including this one."""
        return max(1, self.standing.running + (not self._was_running))

    def take(self, claim: Claim) -> None:
        """Note that a gate lets a request out."""
        if claim.in_hand:
            claim.in_hand -= 1
        else:
            self._books[claim.kind].in_flight += 1

    def let_out_alone(self) -> None:
        """While Redis is away, let requests out after another gate has freed a place."""
        if self.mode == "alone":
            for claim in self._claims:
                claim.let_out()

    def leave(self, claim: Claim, now: float, *, has_arrived: bool) -> None:
        """Note that a request is no longer in flight, and whether the server may count it."""
        self._leave(claim.kind, now, has_arrived=has_arrived)

    def _leave(self, kind: str, now: float, *, has_arrived: bool) -> None:
        if not self._books[kind].in_flight:
            return  # its loop is gone, and `restart` has counted it
        self._books[kind].leave(now, has_arrived=has_arrived)
        if has_arrived:
            self._done[kind] = self._done.get(kind, 0) + 1
            self._done_at = now
        self._change()

    def send_single(self) -> None:
        """Note that a single call leaves."""
        self._books[SINGLE].in_flight += 1
        self._change()

    def end_single(self, status: int | None, now: float) -> None:
        """Note that a single call is no longer in flight."""
        self._leave(SINGLE, now, has_arrived=status != TOO_MANY_REQUESTS)

    def pause(self, until: float, reason: PauseReason) -> None:
        """Tell all processes that the service asked to wait until a time."""
        self.news.pause(until, reason)
        self.hurry()

    def hurry(self) -> None:
        """Make the next message due at once, whatever there is to report."""
        self._last_at = -math.inf
        self.on_due()

    def _change(self) -> None:
        if not self._is_changed:
            self._is_changed = True
            self.on_due()

    # -- messages and replies ------------------------------------------------------------------

    def due(self, now: float) -> float:
        """Return when the next message should leave."""
        if self._is_joining or self.news.is_urgent:
            return now
        is_busy = bool(self._asked) or any(each.used(now) for each in self._books.values())
        due = self._last_at + (BEAT_OF_USERS if is_busy else BEAT)
        if self._is_changed or self.news.is_waiting:
            due = min(due, self._last_at + self._gap)
        if due > now and any(claim.wanted(now) > claim.in_hand for claim in self._claims):
            due = min(due, self._ask_at)
        return due

    def message(self, now: float, *, is_last: bool = False) -> bytes:
        """Compose the message that is due; its news is not repeated unless it fails."""
        is_joining = self._is_joining
        self._seq += 1
        self._asked = []
        for claim in self._claims:
            wanted = 0 if is_last else claim.wanted(now)
            if claim.in_hand > wanted:
                self._books[claim.kind].in_flight -= claim.in_hand - wanted
                claim.in_hand = wanted
            if wanted > claim.in_hand and not is_joining:
                self._asked.append((claim, wanted - claim.in_hand))
        limit = self.limit
        told: dict[str, Any] = {
            "id": self._id,
            "act": "join" if is_joining else "bye" if is_last else "tell",
            "nonce": secrets.token_hex(8),
            "epoch": self._epoch,
            "seq": self._seq,
            "heard": self._heard,
            "latest": self._redis[0] + _milliseconds(now - self._redis[1] + self._timeout),
            "per": _milliseconds(limit.per) + 1,
            "lease": _milliseconds(LEASE),
            "settle": _milliseconds(SETTLE),
            "idle": _milliseconds(IDLE),
            "keep": _milliseconds(self._keep),
            "ticks": TICKS,
            "limit": limit.count,
            "least": max(1, int(limit.count * LEAST_SHARE)),
            "allowed": int(self.ramp.allowance(now)),
            "held": {kind: each.in_flight for kind, each in self._books.items() if each.in_flight},
            "done": [
                {"kind": kind, "count": count, "age": int((now - self._done_at) * 1000)}
                for kind, count in self._done.items()
            ],
            "wants": [
                {"kind": claim.kind, "count": count, "cap": claim.cap}
                for claim, count in self._asked
            ],
            "news": self.news.told(now, is_alone=self.mode == "alone"),
        }
        if is_joining:
            told["company"] = self._runners() if self._heard else 0
            told["cooling"] = [
                {"kind": kind, "count": count, "left": _milliseconds(free_at - now) + 1}
                for kind, books in self._books.items()
                for free_at, count in books.cooling(now)
            ]
        if now - self._beat_at >= BEAT:
            told["beat"] = True
            self._beat_at = now
        self._was_running = bool(self._asked) or any(kind != SINGLE for kind in told["held"])
        self._done.clear()
        self._is_changed = False
        self._last_at = now
        return json.dumps(told).encode()

    def heard(self, text: bytes | str, sent_at: float, now: float) -> bool:
        """Apply the reply to the last message, and tell whether Redis has lost its state."""
        reply: dict[str, Any] = json.loads(text)
        self._redis = (int(reply["now"]), sent_at)
        self._epoch, was = str(reply["epoch"]), self._epoch
        has_begun_anew = bool(was) and self._epoch != was
        if has_begun_anew:
            self.news.forgotten()
        if reply["verdict"] != "ok":
            self._failures = 0
            self._is_joining = True
            return has_begun_anew
        self._heard = self._seq
        self._is_joining = False
        if self.mode == "alone":
            self.news.came_back(now)
        self.mode = "together"
        self.standing = Standing(
            used=int(reply["used"]),
            singles=int(reply["singles"]),
            cooling=int(reply["cooling"]),
            processes=int(reply["processes"]),
            running=int(reply["running"]),
        )
        self.ramp.runners = max(1, self.standing.running)
        self.news.heard(reply, now)
        self._take_grants(reply, now)
        self._failures = 0
        return has_begun_anew

    def _take_grants(self, reply: dict[str, Any], now: float) -> None:
        granted = list(reply["granted"])
        is_unmet = False
        for (claim, count), given in zip(self._asked, granted, strict=False):
            claim.in_hand += int(given)
            self._books[claim.kind].in_flight += int(given)
            is_unmet = is_unmet or given < count
        wait = int(reply["wait"])
        self._ask_at = now
        if is_unmet:
            # together, the running processes ask about twice per place that becomes free
            apart = self.standing.running * self.limit.per / (2 * self.limit.count)
            apart = min(max(self._gap, apart), self.limit.per / 4)
            self._ask_at += max(apart, wait / 1000 if wait >= 0 else self.limit.per / 10)
        for claim in self._claims:
            claim.let_out()
            if claim.in_hand > claim.wanted(now):
                self._change()  # the waiting requests were turned away: others may use the places

    def failed(self, now: float) -> bool:
        """Note that a message got no reply; return True if Redis now counts as away.

        The message may have arrived or not, so the next one states everything again.
        """
        self._failures += 1
        self._is_joining = True
        self.news.failed()
        if self.mode == "together" and self._failures == 1:
            self._silent_until = now + self.limit.per + self._timeout
        if self.mode in {"silent", "alone"} or self._failures < FAILURES_UNTIL_AWAY:
            return False
        self.mode = "alone" if self.mode == "new" else "silent"
        for claim in self._claims:
            claim.let_out()
        return True


def _milliseconds(seconds: float) -> int:
    return math.ceil(seconds * 1000)


def _do_nothing() -> None:
    pass
