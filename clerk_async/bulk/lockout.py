"""Denies the sessions that a run is going to revoke, before their turn: see `clerk_async.denials`.

The rate limit makes thousands of revocations take minutes; verifiers reject the tokens at once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from clerk_async.denials.table import KEPT_UNWATCHED
from clerk_async.errors import InvalidArgumentError
from clerk_async.http.operations import check_session_id

if TYPE_CHECKING:
    from collections.abc import Collection

    from clerk_async.denials.table import Denials

_BREATH: Final = 1000


class Lockout:
    """The denials of one run.

    A session is denied as soon as its id is known, and stays denied whatever became of its
    revocation. At the end, denials of sessions that were never attempted are withdrawn: the run may
    have been stopped because the ids were the wrong ones. Sessions that anyone else has denied in
    the meantime, or that another run is still going to revoke, stay denied. A run in another
    process always counts as someone else, because it doesn't tell when it no longer needs a denial:
    if both runs are stopped, the sessions that they share stay denied until the denials expire. If
    no verifier uses the list, sessions of a large input are denied as they are sent, because the
    list would not keep all of them anyway.

    Args:
        denials: The client's list of denials.
        is_dry: Whether this is a dry run, which denies nothing.
    """

    def __init__(self, denials: Denials, *, is_dry: bool) -> None:
        self._denials = denials
        self._is_dry = is_dry
        self._untried: dict[str, None] = {}
        self._has_begun = False

    async def deny_all(self, session_ids: Collection[object]) -> None:
        """Deny a whole input, without the items that are not session ids."""
        if self._is_dry or not (self._denials.is_watched or len(session_ids) <= KEPT_UNWATCHED):
            return  # nothing would be denied, so there is no need to read it
        known: list[str] = []
        for session_id in session_ids:
            try:
                check_session_id(session_id)
            except InvalidArgumentError:
                continue
            known.append(str(session_id))
            if len(known) == _BREATH:
                self.deny(known)
                known = []
                await asyncio.sleep(0)
        self.deny(known)

    def deny(self, session_ids: Collection[str]) -> None:
        """Deny sessions that are going to be revoked."""
        count = len(self._untried) + len(session_ids)
        if self._is_dry or not (self._denials.is_watched or count <= KEPT_UNWATCHED):
            return
        # What was denied already is not ours to withdraw, unless it is only another run's. It is
        # denied again, because it may be that of a run in another process, which may withdraw it.
        ours = [
            each
            for each in session_ids
            if not self._denials.denies(each) or self._is_anothers(each)
        ]
        if not self._has_begun:
            self._has_begun = True
            self._denials.untried.append(self._untried)
        self._denials.deny_untried(session_ids)
        self._untried.update(dict.fromkeys(ours))

    def _is_anothers(self, session_id: str) -> bool:
        return any(
            session_id in untried
            for untried in self._denials.untried
            if untried is not self._untried
        )

    def tried(self, session_id: str, sends: int) -> None:
        """Note how often a session's revocation was sent; if ever, the session stays denied."""
        if not sends or self._is_dry:
            return
        self._denials.settle((session_id,))
        if not self._denials.denies(session_id):  # a large input, or one allowed in the meantime
            self._denials.deny_revoked(session_id)

    def end(self) -> None:
        """Withdraw the denials of sessions that were never attempted."""
        runs = self._denials.untried
        runs[:] = [untried for untried in runs if untried is not self._untried]
        ours = [each for each in self._untried if not self._is_anothers(each)]
        if ours:
            self._denials.allow_sessions(ours)
        self._untried.clear()
