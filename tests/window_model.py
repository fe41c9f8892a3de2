"""A plain Python model of the window that `window.lua` keeps in Redis; the script must match it."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import attrs

Message = dict[str, Any]


@attrs.define
class Member:
    """One process: what it holds, and until when it counts as alive."""

    seq: int
    held: Counter[str]
    per: int
    is_running: bool
    until: int


@attrs.define
class Place:
    """Places that cool down: taken by completed requests of one process, until a given time."""

    owner: str
    kind: str
    count: int
    free_at: int


@attrs.define
class WindowModel:
    """The state of one window, and the effect of a message on it.

    Attributes:
        forgotten: How often it was reset.
    """

    epoch: str | None = None
    shift: int = 0
    last: int = 0
    settled: int = 0
    members: dict[str, Member] = attrs.field(factory=dict[str, Member])
    places: list[Place] = attrs.field(factory=list[Place])
    tick: int = 0
    before: int = 0
    since: int = 0
    paused: int = 0
    reason: str = ""
    refusals: int = 0
    level: int = 0
    refused: int = 0
    company: int = 0
    missed: int = 0
    forgotten: int = 0

    def used(self, kind: str | None = None) -> int:
        """Count the taken places, of one kind or all."""
        held = sum(
            count
            for member in self.members.values()
            for name, count in member.held.items()
            if kind in {None, name}
        )
        return held + sum(place.count for place in self.places if kind in {None, place.kind})

    def run(self, message: Message, clock: int) -> Message:
        """Process a message at a time of Redis's clock, in milliseconds, and return the reply."""
        now = clock + self.shift
        if now < self.last:
            self.shift += self.last - now
            now = self.last
        if self.epoch is None:
            self._begin(message, now)
        self.places = [place for place in self.places if place.free_at > now]
        dead = [name for name, member in self.members.items() if member.until <= now]
        for name in dead:
            self._bury(name, self.members[name].until, now)
        if dead and not self.members:
            self.settled = now + message["settle"]
        self.last = now
        member = self.members.get(message["id"])
        if member is not None and member.seq < message["heard"]:
            self._begin(message, now)
            member = None
        verdict, granted, wait = self._act(message, member, now)
        if message["act"] != "bye" and verdict != "old":
            self._take_news(message["news"], now)
        return {
            "verdict": verdict,
            "epoch": self.epoch,
            "now": now,
            "used": self.used(),
            "singles": self.used("single"),
            "cooling": sum(place.count for place in self.places),
            "processes": len(self.members),
            "running": sum(each.is_running for each in self.members.values()),
            "granted": granted,
            "wait": wait,
            "pause": max(0, self.paused - now),
            "reason": self.reason,
            "refusals": self.refusals,
            "level": self.level if self.refusals else -1,
            "age": now - self.refused if self.refusals else 0,
        }

    def _act(self, message: Message, member: Member | None, now: int) -> tuple[str, list[int], int]:
        is_new = member is None or message["seq"] > member.seq
        is_known = member is not None and message["epoch"] == self.epoch
        if message["act"] == "join":
            if is_new:
                self._join(message, now)
            return ("ok" if is_new else "old"), [], -1
        if message["act"] == "bye":
            if member is not None and is_known and is_new:
                self._leave(message, member, now)
            return "ok", [], -1
        if member is None or not is_known:
            return "join", [], -1
        if not is_new:
            return "old", [], -1
        return "ok", *self._tell(message, member, now)

    def _begin(self, message: Message, now: int) -> None:
        shift, forgotten = self.shift, self.forgotten
        self.__init__()  # type: ignore[misc] # everything is forgotten but the clock's shift
        self.shift, self.last, self.forgotten = shift, now, forgotten + 1
        self.epoch = message["nonce"]
        self.settled = now + message["settle"]

    def _cool(self, owner: str, kind: str, count: int, free_at: int, now: int) -> None:
        if count > 0 and free_at > now:
            self.places.append(Place(owner, kind, count, free_at))

    def _bury(self, name: str, since: int, now: int) -> None:
        member = self.members.pop(name)
        for kind, count in member.held.items():
            self._cool(name, kind, count, since + member.per, now)

    def _leave(self, message: Message, member: Member, now: int) -> None:
        for done in message["done"]:
            self._cool(
                message["id"], done["kind"], done["count"], now + message["per"] - done["age"], now
            )
        member.held.clear()
        self._bury(message["id"], now, now)

    def _join(self, message: Message, now: int) -> None:
        self.places = [place for place in self.places if place.owner != message["id"]]
        for place in message["cooling"]:
            self._cool(message["id"], place["kind"], place["count"], now + place["left"], now)
        self._store(message, Counter(message["held"]), now)
        if message["company"] > 1:
            known = self.company if now < self.missed else 0
            self.company = max(known, message["company"])
            self.missed = now + message["per"]

    def _store(self, message: Message, held: Counter[str], now: int) -> None:
        is_running = bool(message["wants"]) or any(
            count > 0 for kind, count in held.items() if kind != "single"
        )
        self.members[message["id"]] = Member(
            message["seq"], +held, message["per"], is_running, now + message["lease"]
        )

    def _tell(self, message: Message, member: Member, now: int) -> tuple[list[int], int]:
        held = Counter[str](message["held"])
        singles = held["single"] - member.held["single"]
        for done in message["done"]:
            singles += done["count"] if done["kind"] == "single" else 0
            self._cool(
                message["id"], done["kind"], done["count"], now + message["per"] - done["age"], now
            )
        member.held = +held
        expected = self._expect(message, max(0, singles), now)
        granted, wait = list[int](), -1
        if message["wants"]:
            granted, wait = self._grant(message, member.held, expected, now)
        self._store(message, member.held, now)
        return granted, wait

    def _expect(self, message: Message, arrived: int, now: int) -> int:
        tick: int = max(1, message["per"] // message["ticks"])
        index = now // tick
        if index != self.tick:
            self.before = self.since if index == self.tick + 1 else 0
            self.since = 0
        self.tick = index
        self.since += arrived
        left: float = 1 - (now % tick) / tick
        expected = (self.since + self.before * left) * int(message["per"]) / tick
        return math.ceil(expected)

    def _grant(
        self, message: Message, held: Counter[str], expected: int, now: int
    ) -> tuple[list[int], int]:
        singles = self.used("single")
        kept = max(0, expected - singles)
        runs = self.used() - singles
        missing = 0
        if now < self.missed:
            running = max(1, sum(each.is_running for each in self.members.values()))
            limit: int = message["limit"]
            missing = limit * max(0, self.company - running) // self.company
        room = message["allowed"] - self.used() - kept - missing
        if not missing:
            room = max(room, message["least"] - runs)
        granted: list[int] = []
        for want in message["wants"]:
            count: int = min(want["count"], room)
            if want["cap"] > 0:
                count = min(count, want["cap"] - self.used(want["kind"]))
            if now < self.settled or now > message["latest"]:
                count = 0
            count = max(0, count)
            granted.append(count)
            held[want["kind"]] += count
            room -= count
        is_unmet = any(
            count < want["count"] for count, want in zip(granted, message["wants"], strict=True)
        )
        if now < self.settled:
            return granted, self.settled - now
        if not is_unmet:
            return granted, -1
        wait = min((place.free_at for place in self.places), default=now - 1) - now
        if kept > 0:
            soon = message["per"] // message["ticks"]
            wait = soon if wait < 0 else min(wait, soon)
        return granted, wait

    def _take_news(self, news: Message, now: int) -> None:
        if "pause" in news and now + news["pause"] > self.paused:
            self.paused, self.reason = now + news["pause"], news["reason"]
        level = news.get("level", -1)
        if level >= 0 and self.level >= 0 and now < self.refused:
            self.level = max(self.level, level)
        elif "level" in news:
            self.refusals += 1
            self.level, self.refused = news["level"], now - news["age"]
        elif "raise" in news and news["refusals"] == self.refusals and self.level >= 0:
            self.level += news["raise"]
