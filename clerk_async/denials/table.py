"""The list of denials: sessions, users and sign-ins whose tokens are rejected early. Pure, no I/O.

A verifier calls `refuses` after all its other checks. Two things change the list: methods of this
process (`deny_sessions` and so on), which report each change to `on_act`, and the changes of other
processes (`apply`). Every `Change` has a time that orders it, so a denial that arrives late or
twice never undoes a later `allow`, whatever the order of arrival.

Times that order changes are integers in microseconds. Times that tokens are compared with are Unix
seconds, as in their claims.
"""

from __future__ import annotations

import math
from contextlib import suppress
from itertools import groupby, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from clerk_async.denials.changes import (
    EVERYONE,
    Change,
    Cuts,
    add_cut,
    drop_cuts,
    of_user,
    session_cut,
    sign_in_cut,
    user_cut,
    younger,
)
from clerk_async.under_test import monotonic, wall_clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

DEFAULT_KEEP: Final = 3600.0  # seconds: longer than the lifetime of any session token

_MICRO: Final = 1_000_000
_TIDY_PARTS: Final = 16  # how often per `keep` period expired entries are removed
_SAME_TIME: Final = 100_000  # two clocks that differ by fewer microseconds count as the same
_MOST_AHEAD: Final = 50 * _MICRO  # an event further ahead counts as this far; see `feed.FUTURE`
_JITTER: Final = 1_000  # microseconds by which the same event may differ if it is read twice
KEPT_UNWATCHED: Final = 10_000
_MOST_UNWATCHED: Final = 10_900  # CPython's dicts double their memory at 10,923
_MOMENT: Final = 10_000  # microseconds in which denials share their time, and so one int
_IDS_PER_CHANGE: Final = 200
_FVA_GRAIN: Final = 60.0  # seconds: `fva` counts whole minutes
_plain: Final = str.__str__  # a subclass, such as an enum, may hash and compare as it likes


class Denials:
    """The denials that one process knows.

    A session's denial takes at most about 150 bytes, with an id of 32 letters. Any thread can read;
    only one thread at a time may make changes.

    Args:
        keep: Seconds until a denial expires, except for sign-ins; kept as an attribute.
        monotonic: The clock for ages, in seconds.
        wall_clock: The clock that tokens are compared with, in Unix seconds.

    Attributes:
        has_cuts: Whether anything but whole sessions is denied.
        on_act: Called with each change that this process made.
        is_watched: Whether a verifier or another process reads the list. Until then, only the last
            10,000 or so denials of sessions are kept, so that a script's memory doesn't grow.
        untried: For each bulk run, the sessions that it has denied and not yet tried to revoke.
    """

    def __init__(
        self,
        keep: float = DEFAULT_KEEP,
        *,
        monotonic: Callable[[], float] = monotonic,
        wall_clock: Callable[[], float] = wall_clock,
    ) -> None:
        self.keep: float = keep
        self._monotonic, self._wall_clock = monotonic, wall_clock
        self.is_watched: bool = False
        self.untried: list[dict[str, None]] = []
        self.on_act: Callable[[Change], object] | None = None
        self._keep = int(keep * _MICRO)
        self._zero = int((wall_clock() - monotonic()) * _MICRO)
        self._is_shared_time = False
        self._latest = 0
        self._latest_is_allowed = False
        self.has_cuts: bool = False
        self._tidy_at = 0
        # Denials made together share one int as their value. A run shares its ids with the list.
        self._sessions: dict[str, int] = {}
        self._session_cuts: dict[str, Cuts] = {}
        self._user_cuts: dict[str, Cuts] = {}
        self._sign_ins: dict[str, Cuts] = {}
        self._allowed_sessions: dict[str, int] = {}
        self._allowed_users: dict[str, int] = {}

    def forget(self) -> None:
        """Forget all denials, between two tests."""
        self._latest, self._latest_is_allowed, self.has_cuts = 0, False, False
        for table in (self._session_cuts, self._user_cuts, self._sign_ins):
            table.clear()
        self._sessions, self._allowed_sessions, self._allowed_users = {}, {}, {}

    def refuses(
        self,
        session_id: str | None,
        user_id: str,
        issued_at: float | None,
        first_factor_age: int | None,
        skew: float,
        *,
        actor: str | None = None,
        is_pending: bool = False,
    ) -> bool:
        """Return whether to reject an otherwise valid token.

        Args:
            session_id: The token's `sid`.
            user_id: The token's `sub`.
            issued_at: The token's `iat`; None if it has none.
            first_factor_age: The token's `fva[0]`, in minutes; None if it has none.
            skew: Seconds by which the issuer's clock may be ahead of ours, whose time cuts off
                users; sessions are cut off by the issuer's own clock, when they become pending.
            actor: The user who impersonates that user: the `sub` of the token's `act`, if any.
            is_pending: Whether the token says itself that its session is pending.
        """
        sessions = self._sessions
        if session_id is not None and sessions:
            at = sessions.get(session_id)
            if at is not None and not self._has_expired(at):
                return True
        if not self.has_cuts:
            return False
        issued = -math.inf if issued_at is None else issued_at
        of_sessions, of_users = self._session_cuts, self._user_cuts
        if of_sessions and session_id is not None and not is_pending:
            cuts = of_sessions.get(session_id)
            if cuts and self._is_cut_off(issued, cuts):
                return True
        if of_users:
            cuts = (*of_users.get(user_id, ()), *of_users.get(EVERYONE, ()))
            if actor is not None:
                cuts += of_users.get(actor, ())
            if cuts and self._is_cut_off(issued - skew, cuts):
                return True
        if not self._sign_ins:
            return False
        whose = (user_id, EVERYONE) if actor is None else (user_id, EVERYONE, actor)
        return self._is_old_sign_in(whose, issued_at, first_factor_age)

    def _is_cut_off(self, issued: float, cuts: Cuts) -> bool:
        for at, until in cuts:  # noqa: SIM110 - takes half the time of a generator
            if issued <= until and not self._has_expired(at):
                return True
        return False

    def denies(self, session_id: str) -> bool:
        """Return whether all tokens of a session are rejected."""
        at = self._sessions.get(session_id) if self._sessions else None
        return at is not None and not self._has_expired(at)

    def _is_old_sign_in(
        self, whose: tuple[str, ...], issued_at: float | None, first_factor_age: int | None
    ) -> bool:
        if issued_at is None or first_factor_age is None or first_factor_age < 0:
            return any(who in self._sign_ins for who in whose)
        signed_in = issued_at - first_factor_age * 60.0 - _FVA_GRAIN
        for who in whose:
            for _, before in self._sign_ins.get(who, ()):
                if signed_in < before:
                    return True
        return False

    def _has_expired(self, at: int) -> bool:
        return at + self._keep <= self.time()

    def __len__(self) -> int:
        cuts = len(self._session_cuts) + len(self._user_cuts) + len(self._sign_ins)
        return cuts + len(self._sessions) - self._expired_sessions()

    def _expired_sessions(self) -> int:
        """Count the expired entries at the front, which are not removed yet."""
        horizon, count = self.time() - self._keep, 0
        with suppress(RuntimeError):  # another thread has just added one
            for at in self._sessions.values():
                if at > horizon:
                    break
                count += 1
        return count

    def deny_revoked(self, session_id: str) -> None:
        """Do what `deny_sessions` does for one session, but faster: each `revoke` calls it."""
        at = self._zero + int(self._monotonic() * _MICRO)
        if self.on_act is not None or at >= self._tidy_at:
            self.deny_sessions((session_id,))
            return
        if at <= self._latest + _MOMENT:
            at = self._latest + self._latest_is_allowed
        self._latest, self._latest_is_allowed = at, False
        if self.untried:
            self.settle((session_id,))
        sessions = self._sessions
        sessions[_plain(session_id)] = at
        if len(sessions) > _MOST_UNWATCHED and not self.is_watched:
            self._sessions = _last_of(sessions)

    def deny_sessions(
        self,
        session_ids: Iterable[str],
        *,
        issued_until: float | None = None,
        happened_at: float | None = None,
    ) -> None:
        """Reject all tokens of these sessions, or only tokens issued up to a certain time.

        Args:
            session_ids: The sessions.
            issued_until: Unix seconds; None: no matter when they were issued.
            happened_at: The time of the denial in Unix seconds; None means now.
        """
        at, ids = self._stamp(happened_at), tuple(map(_plain, session_ids))
        if issued_until is None:
            self.settle(ids)
        self._act(Change(at, "session", ids, until=issued_until))

    def deny_untried(self, session_ids: Iterable[str]) -> None:
        """Reject all tokens of sessions that a run in `untried` is going to revoke."""
        self._act(Change(self._stamp(), "session", tuple(map(_plain, session_ids))))

    def settle(self, session_ids: Iterable[str]) -> None:
        """Keep these sessions denied even if a run that has denied them never tries them."""
        for untried in self.untried:
            for session_id in session_ids:
                untried.pop(session_id, None)

    def deny_user(
        self,
        user_id: str | None,
        *,
        issued_until: float | None = None,
        happened_at: float | None = None,
    ) -> None:
        """Reject all tokens of a user (None: of everyone), or only those issued up to a time."""
        self._act(of_user(user_id, self._stamp(happened_at), until=issued_until))

    def cut_off_sign_ins(self, user_id: str | None, *, before: float) -> None:
        """Reject tokens of sign-ins before a time, of a user (None: of everyone), until `allow`."""
        self._act(of_user(user_id, self._stamp(), before=before))

    def allow_sessions(self, session_ids: Iterable[str]) -> None:
        """Take back the denials of these sessions."""
        ids = tuple(map(_plain, session_ids))
        self._act(Change(self._stamp_after(), "session", ids, is_allowed=True))

    def allow_user(self, user_id: str | None) -> None:
        """Take back a user's denials, including those of sign-ins; None: those of everyone."""
        self._act(of_user(user_id, self._stamp_after(), is_allowed=True))

    def _act(self, change: Change) -> None:
        self._apply(change)
        if self.on_act is not None and (change.ids or change.of == "everyone"):
            self.on_act(change)

    def _stamp(self, happened_at: float | None = None) -> int:
        now = self.time()
        if happened_at is not None:
            # An event ahead of our clock keeps its own time as well: its repeat may follow `allow`.
            age = int((self._wall_clock() - happened_at) * _MICRO)
            return now - max(-_MOST_AHEAD, age)
        # Not before any change seen. Shared times are exact, for the changes of other processes.
        if now <= self._latest + (_MOMENT if self.on_act is None else 0):
            now = self._latest + self._latest_is_allowed
        return max(self._latest, now)

    def _stamp_after(self) -> int:
        now = self.time()
        return now if now > self._latest else self._latest + _JITTER

    def now(self) -> float:
        """The current time in Unix seconds, by this machine's clock or the shared one.

        The later of the two counts, because a clock that is behind would spare the latest tokens.
        """
        here = self._wall_clock()
        return max(here, self.time() / _MICRO) if self._is_shared_time else here

    def time(self) -> int:
        """The current time on the clock that orders changes, in microseconds."""
        return self._zero + int(self._monotonic() * _MICRO)

    def set_time(self, now: int, *, is_first: bool) -> int:
        """Adopt the time that all processes share, and return how far this process's changes moved.

        Args:
            now: The shared time, in microseconds.
            is_first: Whether it was unknown until now: if so, the changes made here move with it.
        """
        self._is_shared_time = True
        shift = now - self.time()
        if abs(shift) < _SAME_TIME:
            return 0
        self._zero += shift
        if not is_first:
            return 0
        self._latest += shift
        for table in (self._sessions, self._allowed_sessions):
            for key in table:
                table[key] += shift
        for user in self._allowed_users:
            self._allowed_users[user] += shift
        for cuts in (self._session_cuts, self._user_cuts, self._sign_ins):
            for subject, moments in cuts.items():
                cuts[subject] = tuple((at + shift, until) for at, until in moments)
        return shift

    @property
    def standing(self) -> int:
        """How many denials of sign-ins there are; such a denial never expires by itself."""
        return len(self._sign_ins)

    def apply(self, change: Change) -> None:
        """Apply a change from the feed, unless a later one overrides it."""
        is_denial = change.of == "session" and not change.is_allowed and change.until is None
        if self.untried and is_denial:
            known = self._sessions.get  # what a run here has denied comes back with its own time
            self.settle([each for each in change.ids if known(each) != change.at])
        self._apply(change)

    def _apply(self, change: Change) -> None:
        if change.at >= self._latest:
            self._latest, self._latest_is_allowed = change.at, change.is_allowed
        self._tidy()
        if change.of != "session":
            self._change_user(change.ids[0] if change.of == "user" else EVERYONE, change)
        elif change.is_allowed:
            self._allow_sessions(change)
        else:
            self._deny_sessions(change)
        self.has_cuts = bool(self._session_cuts or self._user_cuts or self._sign_ins)

    def _deny_sessions(self, change: Change) -> None:
        at, sessions, allowed = change.at, self._sessions, self._allowed_sessions
        for session_id in change.ids:
            if allowed and allowed.get(session_id, -1) >= at:
                continue
            if change.until is not None:
                add_cut(self._session_cuts, session_id, at, change.until)
            elif sessions.get(session_id, -1) < at:
                sessions[session_id] = at
        if len(sessions) > _MOST_UNWATCHED and not self.is_watched:
            self._sessions = _last_of(sessions)

    def _allow_sessions(self, change: Change) -> None:
        at, sessions, allowed = change.at, self._sessions, self._allowed_sessions
        for session_id in change.ids:
            if allowed.get(session_id, -1) < at:
                allowed[session_id] = at
            if sessions.get(session_id, at + 1) <= at:
                del sessions[session_id]
            drop_cuts(self._session_cuts, session_id, at)

    def _change_user(self, user: str, change: Change) -> None:
        at, allowed = change.at, self._allowed_users
        if change.is_allowed:
            allowed[user] = max(at, allowed.get(user, -1))
            drop_cuts(self._user_cuts, user, at)
            drop_cuts(self._sign_ins, user, at)
        elif allowed.get(user, -1) < at:
            if change.before is not None:
                add_cut(self._sign_ins, user, at, change.before)
            else:
                until = math.inf if change.until is None else change.until
                add_cut(self._user_cuts, user, at, until)

    def _tidy(self) -> None:
        """Remove expired entries from time to time."""
        now = self.time()
        if now < self._tidy_at:
            return
        self._tidy_at = now + self._keep // _TIDY_PARTS
        horizon = now - self._keep
        self._sessions = younger(self._sessions, horizon)
        self._allowed_sessions = younger(self._allowed_sessions, horizon)
        for cuts in (self._session_cuts, self._user_cuts):
            for key in list(cuts):
                drop_cuts(cuts, key, horizon)

    def changes(self, *, not_in: Denials) -> Iterator[Change]:
        """Yield what this list knows and `not_in` doesn't, in changes of at most 200 sessions."""
        for here, there, is_allowed in (
            (self._sessions, not_in._sessions, False),
            (self._allowed_sessions, not_in._allowed_sessions, True),
        ):
            news = ((at, key) for key, at in list(here.items()) if there.get(key, -1) < at)
            for at, together in groupby(news, itemgetter(0)):
                ids = map(itemgetter(1), together)
                while some := tuple(islice(ids, _IDS_PER_CHANGE)):
                    yield Change(at, "session", some, is_allowed)
        for cuts_here, cuts_there, make in (
            (self._session_cuts, not_in._session_cuts, session_cut),
            (self._user_cuts, not_in._user_cuts, user_cut),
            (self._sign_ins, not_in._sign_ins, sign_in_cut),
        ):
            for subject, cuts in list(cuts_here.items()):
                known = cuts_there.get(subject, ())
                yield from (make(subject, *cut) for cut in cuts if cut not in known)
        for user, allowed_at in list(self._allowed_users.items()):
            if not_in._allowed_users.get(user, -1) < allowed_at:
                yield of_user(user, allowed_at, is_allowed=True)


def _last_of(table: dict[str, int]) -> dict[str, int]:
    """Drop many of the oldest at once, so that rebuilding the table costs next to nothing."""
    return dict(islice(table.items(), len(table) - KEPT_UNWATCHED, None))
