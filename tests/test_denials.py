"""The list of denials compared with a plain model: any changes, in any order, at any time."""

from __future__ import annotations

import itertools
import random
from typing import Final

import attrs
import pytest

from clerk_async.denials.changes import Change
from clerk_async.denials.table import Denials

KEEP: Final = 100
SKEW: Final = 5.0
SECOND: Final = 1_000_000
SESSIONS: Final = ("sess_1", "sess_2")
USERS: Final = ("user_1", "user_2")


@attrs.frozen
class Token:
    """The parts of a token that the list checks."""

    session: str | None
    user: str
    issued: float | None
    minutes: int | None
    actor: str | None = None


TOKENS: Final = [
    Token(*each)
    for each in itertools.product(
        (None, *SESSIONS), USERS, (None, 1000.0, 1030.0), (None, -1, 0, 3), (None, USERS[1])
    )
]


class Model:
    """A model that keeps every change, and checks all of them for each token."""

    def __init__(self) -> None:
        self.changes: list[Change] = []

    def refuses(self, token: Token, now: float) -> bool:
        """Return whether a change that is in force rejects a token."""
        return any(self._rejects(change, token, now) for change in self.changes)

    def _rejects(self, change: Change, token: Token, now: float) -> bool:
        whose: dict[str, set[str | None]] = {
            "session": {token.session},
            "user": {token.user, token.actor},
            "everyone": {None},
        }
        return any(
            self._rejects_of(who, change, token, now)
            for who in whose[change.of]
            if change.of == "everyone" or who in change.ids
        )

    def _rejects_of(self, who: str | None, change: Change, token: Token, now: float) -> bool:
        if change.is_allowed or any(
            other.is_allowed
            and other.of == change.of
            and (change.of == "everyone" or who in other.ids)
            and other.at >= change.at
            for other in self.changes
        ):
            return False
        if change.before is not None:
            if token.issued is None or token.minutes is None or token.minutes < 0:
                return True
            return token.issued - 60 * token.minutes - 60 < change.before
        skew = 0.0 if change.of == "session" else SKEW
        is_meant = (
            change.until is None or token.issued is None or token.issued - skew <= change.until
        )
        return is_meant and now * SECOND < change.at + KEEP * SECOND


def draw(chance: random.Random) -> Change:
    """Draw a change whose times and moments often equal those of tokens."""
    at = chance.choice([1000, 1001, 1001, 1002, 1012]) * SECOND
    of = chance.choice(["session", "session", "user", "everyone"])
    if of == "session":
        ids = tuple(chance.sample(SESSIONS, chance.randint(1, 2)))
    else:
        ids = (chance.choice(USERS),) if of == "user" else ()
    kind = chance.choice(["allow", "whole", "until", "before"])
    if kind == "allow":
        return Change(at, of, ids, is_allowed=True)  # type: ignore[arg-type]
    if kind == "until" or (of == "everyone" and kind == "whole"):
        until = chance.choice([995.0, 999.0, 1000.0, 1024.0, 1025.0, 1030.0])
        return Change(at, of, ids, until=until)  # type: ignore[arg-type]
    if kind == "before" and of != "session":
        before = chance.choice([760.0, 790.0, 820.0, 940.0, 970.0, 970.5])
        return Change(at, of, ids, before=before)  # type: ignore[arg-type]
    return Change(at, of, ids)  # type: ignore[arg-type]


class Clock:
    """A clock that is set by hand; the wall clock shows the same."""

    now = 1012.0

    def __call__(self) -> float:
        """Return its time."""
        return self.now


@pytest.mark.promise("denied-at-once")
@pytest.mark.parametrize("seed", range(60))
def test_the_list_agrees_with_a_plain_model(seed: int) -> None:
    """In whatever order changes arrive, and however often; also after the whole list is sent."""
    chance, clock, model = random.Random(seed), Clock(), Model()
    clocks = {"monotonic": clock, "wall_clock": clock}
    one, other = Denials(KEEP, **clocks), Denials(KEEP, **clocks)
    one.is_watched = other.is_watched = True
    drawn = [draw(chance) for _ in range(chance.randint(1, 6))]
    for change in [*drawn, *chance.choices(drawn, k=2)]:
        one.apply(change)
        model.changes.append(change)
    told = list(one.changes(not_in=other))
    late = [change for change in drawn if not change.is_allowed]
    for change in [*chance.sample(told, k=len(told)), *late]:
        other.apply(change)
    whole = Model()
    whole.changes = [each for each in model.changes if each.of == "session" and each.until is None]
    for clock.now in (1012.0, 1099.0, 1105.0, 1112.0, 1200.0):
        if chance.random() < 0.3:  # each change cleans up
            one.apply(Change(1, "session", ("sess_other",)))
        for token in TOKENS:
            expected = model.refuses(token, clock.now)
            asked = (token.session, token.user, token.issued, token.minutes, SKEW)
            for each in (one, other):
                assert each.refuses(*asked, actor=token.actor) is expected, (
                    token,
                    clock.now,
                    drawn,
                )
        for session in SESSIONS:
            expected = whole.refuses(Token(session, "", 0.0, 0), clock.now)
            assert one.denies(session) is expected, (session, clock.now, drawn)
