"""The values of a bulk run: the outcome of one session, the report, and the progress."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, Literal, NotRequired

import attrs

from clerk_async.errors import ApiError, ClerkError
from clerk_async.models import Session
from clerk_async.redaction import JsonValue, json_of, redact

StopReason = Literal["authentication", "max_failures", "deadline", "should_stop"]


class RevocationStatus(StrEnum):
    """What became of one session; each member equals its plain string."""

    REVOKED = "revoked"
    """The service confirmed it."""
    ALREADY_INACTIVE = "already_inactive"
    """The session had already ended, in whatever way."""
    NOT_FOUND = "not_found"
    """The service doesn't know the session; it forgets old ones."""
    FAILED = "failed"
    """The session may still be live; the outcome's `error` says why."""
    NOT_ATTEMPTED = "not_attempted"
    """The run stopped before the session's first try, or before another try that was due.

    The outcome's `attempts` says how often the revocation was sent, and `error` why the last
    attempt failed.
    """
    PLANNED = "planned"
    """A dry run would have revoked it."""

    @property
    def is_done(self) -> bool:
        """Whether a session with this status is unusable, so that a resumed run skips it."""
        return self in _DONE


_DONE: Final = frozenset(
    {RevocationStatus.REVOKED, RevocationStatus.ALREADY_INACTIVE, RevocationStatus.NOT_FOUND}
)


@attrs.frozen
class RevocationOutcome(JsonValue):
    """What became of one session.

    Attributes:
        session_id: The id as it was given; None if something other than a string was given, if a
            user's sessions could not be listed, or if one of them had no readable id.
        status: What became of the session.
        error: Why it failed, or why its last attempt before a stop failed; None for every other
            status.
        attempts: How often its revocation was sent; 0 if never.
        session: The session as the service last returned it, if it did.
        user_id: The user whose session `revoke_all` found it to be; None in other runs.
    """

    session_id: str | None
    status: RevocationStatus
    error: ClerkError | None = None
    attempts: int = 0
    session: Session | None = attrs.field(default=None, repr=False)
    user_id: str | None = None

    def __str__(self) -> str:
        whose = self.session_id or (f"sessions of {self.user_id}" if self.user_id else "no id")
        told = f"{whose}: {self.status.value.replace('_', ' ')}"
        return redact(told if self.error is None else f"{told}: {self.error}")

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as `clerk-async --json` prints it, without the session itself.

        `user_id` and `error` are present if they are set. `error` has `type` and `message`, and for
        an error response also `status`, `code` and `trace_id`.
        """
        session_id = self.session_id
        told: dict[str, Any] = {
            "type": "outcome",
            "session_id": None if session_id is None else redact(session_id),
            "status": self.status.value,
            "attempts": self.attempts,
        }
        if self.user_id is not None:
            told["user_id"] = redact(self.user_id)
        if self.error is not None:
            told["error"] = _error_to_dict(self.error)
        return told

    @classmethod
    def _json_types(cls) -> dict[str, Any]:
        return {
            "type": str,
            "session_id": str | None,
            "status": str,
            "attempts": int,
            "user_id": NotRequired[str],
            "error": NotRequired[dict[str, Any]],
        }


def _error_to_dict(error: ClerkError) -> dict[str, Any]:
    told: dict[str, Any] = {"type": type(error).__name__, "message": redact(str(error))}
    if isinstance(error, ApiError):
        told |= {"status": error.status, "code": error.code, "trace_id": error.trace_id}
    return told


@attrs.frozen(kw_only=True)
class RevocationPause(JsonValue):
    """Why the run makes no progress at the moment.

    Attributes:
        seconds: How long it still lasts; 0 if unknown.
        reason: `window` (the run has used its rate limit and waits for the next window),
            `rate_limited` (the service answered 429), `unavailable` (503 with Retry-After),
            `unreachable` (the last requests got no response) or `failing` (they got a 5xx). In the
            last two cases the run still sends requests, to find out when the service is back.
    """

    seconds: float
    reason: Literal["window", "rate_limited", "unavailable", "unreachable", "failing"]


@attrs.frozen(kw_only=True)
class RevocationProgress(JsonValue):
    """A snapshot of a run's progress.

    Attributes:
        done: Sessions with an outcome of any status, including those that an earlier run of the
            journal did.
        total: How many sessions there are; None while unknown.
        counts: How many outcomes have each status.
        resumed: How many sessions an earlier run of the journal did.
        rate: Outcomes per second, over the last seconds; `not_attempted` doesn't count.
        eta: Seconds until the end at this rate; None while `total` or the rate is unknown.
        pause: Why the run makes no progress at the moment; None while it does.
        elapsed: Seconds since the start.
        users: How many users `revoke_all` has listed so far; a client counts as one.
    """

    done: int
    total: int | None
    counts: dict[RevocationStatus, int] = attrs.field(hash=False)
    resumed: int
    rate: float
    eta: float | None
    pause: RevocationPause | None
    elapsed: float

    def __str__(self) -> str:
        total = "" if self.total is None else f" of {self.total:,}"
        told = f"{self.done:,}{total} sessions done, {self.rate:.1f} per second"
        if self.eta is not None:
            told += f", about {self.eta:.0f} s left"
        if self.pause is not None:
            told += f"; waiting for {self.pause.seconds:.0f} s ({self.pause.reason})"
        return told

    def to_dict(self) -> dict[str, Any]:
        """Return the snapshot as JSON-ready values; `counts` is keyed by status."""
        counts = {status.value: self.counts.get(status, 0) for status in RevocationStatus}
        return {
            "type": "progress",
            "done": self.done,
            "total": self.total,
            "counts": counts,
            "resumed": self.resumed,
            "rate": round(self.rate, 3),
            "eta": None if self.eta is None else round(self.eta, 3),
            "pause": json_of(self.pause),
            "elapsed": round(self.elapsed, 3),
            "users": self.users,
        }

    @classmethod
    def _json_types(cls) -> dict[str, Any]:
        return {
            "type": str,
            "done": int,
            "total": int | None,
            "counts": dict[str, int],
            "resumed": int,
            "rate": float,
            "eta": float | None,
            "pause": RevocationPause | None,
            "elapsed": float,
            "users": int,
        }

    users: int = 0


@attrs.frozen(kw_only=True)
class RevocationReport(JsonValue):
    """The report of a finished run.

    The counts of the six statuses and `resumed` add up to `total`.

    Attributes:
        total: Sessions that the run read, each counted once.
        revoked: Revoked; see `RevocationStatus` for this count and the next five.
        already_inactive: Had already ended.
        not_found: Unknown to the service.
        failed: May still be live.
        not_attempted: Left when the run was stopped: not sent, or due for another try.
        planned: What a dry run would have revoked.
        resumed: Done by an earlier run of the journal, and so not sent again.
        failures: The outcomes with status `failed`, in the order of the input.
        throttled: How many requests the service answered with 429.
        elapsed: Duration of the run in seconds.
        stopped_by: What ended the run early: `authentication` (401 or 403), `max_failures`,
            `deadline` or `should_stop`; None if nothing did.
        exhausted: Whether the input was read to its end. A stopped run still reads a list to its
            end, but leaves an iterator where it was.
        users: How many users `revoke_all` listed; a client counts as one.
        users_without_sessions: How many of these users have no session of any status: the service
            doesn't know them, or has forgotten all their sessions.
    """

    total: int = 0
    revoked: int = 0
    already_inactive: int = 0
    not_found: int = 0
    failed: int = 0
    not_attempted: int = 0
    planned: int = 0
    resumed: int = 0
    failures: tuple[RevocationOutcome, ...] = ()
    throttled: int = 0
    elapsed: float = 0.0
    stopped_by: StopReason | None = None
    exhausted: bool = True
    users: int = 0
    users_without_sessions: int = 0

    @property
    def ok(self) -> bool:
        """Whether every session of the input is done (or planned, in a dry run)."""
        return (
            self.failed == 0
            and self.not_attempted == 0
            and self.stopped_by is None
            and self.exhausted
        )

    def __str__(self) -> str:
        counts = [
            f"{getattr(self, status.value):,} {status.value.replace('_', ' ')}"
            for status in RevocationStatus
            if getattr(self, status.value)
        ]
        if self.resumed:
            counts.append(f"{self.resumed:,} done by an earlier run")
        told = f"{self.total:,} sessions in {self.elapsed:.1f} s: {', '.join(counts) or 'none'}"
        if self.stopped_by is not None:
            told += f"; stopped by {self.stopped_by}"
        return told if self.exhausted else f"{told}; the input was not read to its end"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as the summary that `clerk-async --json` prints, without `failures`."""
        return {
            "type": "summary",
            "total": self.total,
            **{status.value: getattr(self, status.value) for status in RevocationStatus},
            "resumed": self.resumed,
            "throttled": self.throttled,
            "elapsed": round(self.elapsed, 3),
            "stopped_by": self.stopped_by,
            "exhausted": self.exhausted,
            "users": self.users,
            "users_without_sessions": self.users_without_sessions,
            "ok": self.ok,
        }

    @classmethod
    def _json_types(cls) -> dict[str, Any]:
        return {
            "type": str,
            "total": int,
            **{status.value: int for status in RevocationStatus},
            "resumed": int,
            "throttled": int,
            "elapsed": float,
            "stopped_by": str | None,
            "exhausted": bool,
            "users": int,
            "users_without_sessions": int,
            "ok": bool,
        }

    def raise_for_failures(self) -> None:
        """Raise unless `ok`.

        Raises:
            BulkRevocationError: If a session failed or wasn't attempted; its `report` is this one.
        """
        if self.ok:
            return
        parts = [f"{self.failed} failed"] if self.failed else []
        if self.not_attempted:
            parts.append(f"{self.not_attempted} not attempted")
        if self.stopped_by is not None:
            parts.append(f"stopped by {self.stopped_by}")
        if not self.exhausted:
            parts.append("the input was not read to its end")
        raise BulkRevocationError(f"of {self.total} sessions: {', '.join(parts)}", report=self)


class BulkRevocationError(ClerkError):
    """A bulk run ended before all sessions were revoked.

    Attributes:
        report: The report of the run.
    """

    report: RevocationReport

    def __init__(self, message: str, *, report: RevocationReport) -> None:
        super().__init__(message)
        self.report = report
