"""One change of the list of denials, in the form in which processes send it to each other."""

from __future__ import annotations

import math
from typing import Any, Final, Literal

import attrs

Subject = Literal["session", "user", "everyone"]

EVERYONE: Final = ""  # stands in for a user id, which is never empty


@attrs.frozen
class Change:
    """One change of the list: a denial, or an `allow`.

    Attributes:
        at: The time that orders it among all changes.
        of: What it applies to.
        ids: The sessions, or the one user; empty for everyone.
        is_allowed: Whether it takes back all denials made until then.
        until: Reject only tokens issued up to this time; None: no matter when they were issued.
        before: Instead of `until`: reject tokens of sign-ins before this time. Never expires.
    """

    at: int
    of: Subject
    ids: tuple[str, ...] = ()
    is_allowed: bool = False
    until: float | None = None
    before: float | None = None


# Times up to which tokens are rejected, each after the time of the change that set it.
Cuts = tuple[tuple[int, float], ...]


def session_cut(session_id: str, at: int, until: float) -> Change:
    """Return the denial of a session's tokens issued up to `until`."""
    return Change(at, "session", (session_id,), until=until)


def user_cut(user: str, at: int, until: float) -> Change:
    """Return the denial of a user's tokens issued up to `until`; infinity: of all tokens."""
    return of_user(user, at, until=None if until == math.inf else until)


def sign_in_cut(user: str, at: int, before: float) -> Change:
    """Return the denial of a user's sign-ins before a time."""
    return of_user(user, at, before=before)


def of_user(user: str | None, at: int, **told: Any) -> Change:
    """Return a change for a user; None or `EVERYONE`: for all users."""
    if user is None or user == EVERYONE:
        return Change(at, "everyone", **told)
    return Change(at, "user", (user,), **told)


def shifted(change: Change, shift: int) -> Change:
    """Return a change of this process by the shared clock, which is this far ahead of its own."""
    at, until = change.at + shift, change.until
    if until is not None and change.of != "session":
        until = max(until, at / 1e6)  # it meant "up to now"
    return attrs.evolve(change, at=at, until=until)


def add_cut(table: dict[str, Cuts], key: str, at: int, moment: float) -> None:
    """Add a time, and drop those that another one makes redundant."""
    cuts = table.get(key, ())
    if any(at <= other and moment <= later for other, later in cuts):
        return
    rest = [cut for cut in cuts if cut[0] > at or cut[1] > moment]
    table[key] = (*rest, (at, moment))


def drop_cuts(table: dict[str, Cuts], key: str, at: int) -> None:
    """Remove the times set by changes up to `at`."""
    cuts = table.get(key)
    if cuts is None:
        return
    rest = tuple(cut for cut in cuts if cut[0] > at)
    if rest:
        table[key] = rest
    else:
        del table[key]


def younger(table: dict[str, int], horizon: int) -> dict[str, int]:
    """Remove entries up to the horizon; rebuild the table if more than half of it is old."""
    old: list[str] = []
    for key, at in table.items():
        if at > horizon:
            break  # entries added later are hardly ever older
        old.append(key)
    if 2 * len(old) > len(table):
        return {key: at for key, at in table.items() if at > horizon}
    for key in old:
        del table[key]
    return table
