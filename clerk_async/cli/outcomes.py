"""Outcomes and reports of bulk runs, as JSON lines for machines and as words for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clerk_async.bulk.report import RevocationStatus
from clerk_async.errors import ApiError, ClerkError, redact

if TYPE_CHECKING:
    from clerk_async.bulk.report import RevocationOutcome, RevocationReport

__all__ = ["error_record", "outcome_record", "summary_record"]


def outcome_record(outcome: RevocationOutcome) -> dict[str, Any]:
    """Make the JSON line of an outcome."""
    session_id = outcome.session_id
    record: dict[str, Any] = {
        "type": "outcome",
        "session_id": None if session_id is None else redact(session_id),
        "status": outcome.status.value,
        "attempts": outcome.attempts,
    }
    if outcome.user_id is not None:
        record["user_id"] = redact(outcome.user_id)
    if outcome.error is not None:
        record["error"] = error_record(outcome.error)
    return record


def error_record(error: ClerkError) -> dict[str, Any]:
    """Make what a JSON line says about an error."""
    record: dict[str, Any] = {"type": type(error).__name__, "message": redact(str(error))}
    if isinstance(error, ApiError):
        record["status"] = error.status
        record["code"] = error.code
        record["trace_id"] = error.trace_id
    return record


def summary_record(report: RevocationReport) -> dict[str, Any]:
    """Make the last JSON line of a run."""
    return {
        "type": "summary",
        "total": report.total,
        **{status.value: getattr(report, status.value) for status in RevocationStatus},
        "resumed": report.resumed,
        "throttled": report.throttled,
        "elapsed": round(report.elapsed, 3),
        "stopped_by": report.stopped_by,
        "exhausted": report.exhausted,
        "ok": report.ok,
    }
