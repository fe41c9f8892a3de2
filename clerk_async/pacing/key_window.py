"""One process's part in the window that all processes of a key share. Pure: time is handed in.

`window.lua` keeps the window in Redis. This says what to tell it (`message`), takes its answer
(`heard`) or the lack of one (`failed`), and knows when the next message is due. A message states
what the process holds, tells what was answered since the last one, and asks for places; each asks
for several at once, and single calls, which ask for nothing, ride along.

A process is in one of four modes. It is `new` until Redis has answered once, and `together` as long
as it does. When Redis is away it is `silent` for one window, as it may hold more than its share
just then, and after that `alone`, with an equal share for each process that was running. What it
held all the while it states when it comes back: a whole statement replaces whatever Redis believes,
so a message of which nobody knows whether it arrived does no harm, whenever it runs.
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
"""Seconds between two messages of a process that has nothing to tell."""
BEAT_OF_USERS: Final = 0.15
"""The same of one that has or wants places: what it knows of the others is never older, and counts
when Redis goes away."""
LEASE: Final = 3.0
"""Seconds of silence after which a process is taken for dead, and its places come back."""
SETTLE: Final = 0.6
"""Seconds in which nothing is granted after Redis was away or lost its memory: until all that use
the key have told their places."""
IDLE: Final = 86_400.0
"""Seconds that Redis keeps a window that nobody uses."""
TICKS: Final = 20
"""The part of a window, as a divisor, from which the rate of single calls is taken."""
FAILURES_UNTIL_AWAY: Final = 2
SINGLE: Final = "single"
RUN: Final = "run"

_GAP: Final = (0.002, 0.05)
"""Bounds of the seconds between two messages, which are a 200th of the window."""

Mode = Literal["new", "together", "silent", "alone"]


@attrs.define(eq=False)
class Claim:
    """What one gate wants of the window.

    Attributes:
        limit: The gate's own.
        wanted: Tells how many places it could use now, those in hand included.
        let_out: Called when there may be places.
        kind: What its places are counted as.
        cap: How many of this kind all processes may use; 0 for no cap but the window's.
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
    """What the last answer said of the window as a whole."""

    used: int = 0
    singles: int = 0
    cooling: int = 0
    processes: int = 1
    running: int = 0


class KeyWindow:
    """The window of a key, as one process sees it.

    Args:
        limit: How many requests of all processes in how many seconds.
        timeout: Seconds that a message may take.
        keep: Seconds that Redis keeps the feed, which is told of pauses.

    Attributes:
        limit: See above.
        ramp: What is left of the limit beside neighbours that don't share it.
        mode: See the module.
        standing: What the last answer said.
        news: What refusals told this process and the others.
        on_due: Called when a message is due sooner than was said.
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
        """Be somebody new, who holds nothing: in a process that was forked off."""
        self._id = secrets.token_hex(8)
        self._books = {kind: SendWindow(self.limit.per) for kind in [*self._books, SINGLE, RUN]}
        self._seq = self._heard = 0
        self._epoch = ""
        self.restart(0.0)

    def restart(self, now: float) -> None:
        """Begin in another loop: what was in flight in the old one may have arrived."""
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
        """Let a gate take part, with the whole window or a cap of its own."""
        limit = claim.limit
        if limit.per == self.limit.per and limit.count < self.limit.count:
            claim.cap = limit.count
            claim.kind = f"cap{limit.count}"
            self._books.setdefault(claim.kind, SendWindow(self.limit.per))
        if claim not in self._claims:
            self._claims.append(claim)

    @property
    def in_flight(self) -> int:
        """How many requests of runs are on their way."""
        held = sum(books.in_flight for kind, books in self._books.items() if kind != SINGLE)
        return held - sum(claim.in_hand for claim in self._claims)

    def answered_lately(self) -> int:
        """How many places of all processes are taken by requests that were answered."""
        return self.standing.cooling + sum(self._done.values())

    def delay(self, claim: Claim, now: float) -> float:
        """Seconds until a gate may let one out; inf if an answer has to come first."""
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
        """How many processes had runs when Redis answered last, and this one."""
        return max(1, self.standing.running + (not self._was_running))

    def take(self, claim: Claim) -> None:
        """Note that a gate lets one out."""
        if claim.in_hand:
            claim.in_hand -= 1
        else:
            self._books[claim.kind].in_flight += 1

    def leave(self, claim: Claim, now: float, *, has_arrived: bool) -> None:
        """Note that a request is no longer in flight, and whether the server may count it."""
        self._leave(claim.kind, now, has_arrived=has_arrived)

    def _leave(self, kind: str, now: float, *, has_arrived: bool) -> None:
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
        """Note that it is no longer in flight."""
        self._leave(SINGLE, now, has_arrived=status != TOO_MANY_REQUESTS)

    def pause(self, until: float, reason: PauseReason) -> None:
        """Tell all that the service wants nothing until a time."""
        self.news.pause(until, reason)
        self.hurry()

    def hurry(self) -> None:
        """Let the next message leave at once, whatever there is to tell."""
        self._last_at = -math.inf
        self.on_due()

    def _change(self) -> None:
        if not self._is_changed:
            self._is_changed = True
            self.on_due()

    # -- what is told, and what comes back -----------------------------------------------------

    def due(self, now: float) -> float:
        """When the next message should leave."""
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
        """Make the message that is due; what it tells is not told again unless it fails."""
        is_joining = self._is_joining
        self._seq += 1
        self._asked = []
        for claim in self._claims:
            wanted = 0 if is_last else claim.wanted(now)
            self._give_back(claim, claim.in_hand - wanted)
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
            "done": self._done_now(now),
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

    def _give_back(self, claim: Claim, count: int) -> None:
        if count > 0:
            claim.in_hand -= count
            self._books[claim.kind].in_flight -= count

    def _done_now(self, now: float) -> list[dict[str, Any]]:
        age = int((now - self._done_at) * 1000)
        return [
            {"kind": kind, "count": count, "age": age}
            for kind, count in self._done.items()
            if count
        ]

    def heard(self, text: bytes | str, sent_at: float, now: float) -> None:
        """Take the answer to the last message."""
        reply: dict[str, Any] = json.loads(text)
        self._failures = 0
        self._redis = (int(reply["now"]), sent_at)
        self._epoch, was = str(reply["epoch"]), self._epoch
        if self._epoch != was and was:
            self.news.forgotten()
        if reply["verdict"] != "ok":
            self._is_joining = True
            return
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
            # all who run ask again about twice for each place that comes free
            apart = self.standing.running * self.limit.per / (2 * self.limit.count)
            apart = min(max(self._gap, apart), self.limit.per / 4)
            self._ask_at += max(apart, wait / 1000 if wait >= 0 else self.limit.per / 10)
        for claim in self._claims:
            claim.let_out()
            if claim.in_hand > claim.wanted(now):
                self._change()  # who waited was turned away meanwhile: others may have them

    def failed(self, now: float) -> bool:
        """Note that a message got no answer; true if that is when Redis counts as away.

        Whether it arrived nobody knows: the next states everything anew.
        """
        self._failures += 1
        self._is_joining = True
        self.news.failed()
        if self.mode == "new":
            self.mode = "alone"
        elif self.mode == "together":
            if self._failures == 1:
                self._silent_until = now + self.limit.per + self._timeout
            if self._failures < FAILURES_UNTIL_AWAY:
                return False
            self.mode = "silent"
        else:
            return False
        for claim in self._claims:
            claim.let_out()
        return True


def _milliseconds(seconds: float) -> int:
    return math.ceil(seconds * 1000)


def _do_nothing() -> None:
    pass
