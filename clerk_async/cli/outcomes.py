"""Outcomes and reports of bulk runs, as JSON lines for machines and as words for people."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from clerk_async.bulk.report import RevocationStatus
from clerk_async.cli.messages import error_text
from clerk_async.cli.output import harmless
from clerk_async.cli.progress import duration, number
from clerk_async.errors import ApiError, ClerkError
from clerk_async.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clerk_async.bulk.report import RevocationOutcome, RevocationReport
    from clerk_async.cli.output import Output

SHOWN_AT_MOST: Final = 20
"""So many failures are shown one by one."""
_STOPS: Final = {
    "authentication": "stopped: the service refused the secret key",
    "max_failures": "stopped: too many failures",
    "deadline": "stopped: the time was up",
    "should_stop": "stopped before the end",
}
_WORDS: Final = {
    RevocationStatus.REVOKED: "revoked",
    RevocationStatus.ALREADY_INACTIVE: "already inactive",
    RevocationStatus.NOT_FOUND: "not found",
    RevocationStatus.FAILED: "failed",
    RevocationStatus.NOT_ATTEMPTED: "not attempted",
    RevocationStatus.PLANNED: "would be revoked",
}


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


def json_line(value: Mapping[str, Any]) -> str:
    """Write a value as one line of JSON."""
    return json.dumps(value, ensure_ascii=False) + "\n"


def tell_summary(out: Output, report: RevocationReport, first: Sequence[RevocationOutcome]) -> None:
    """Tell people how a run ended: a few sessions one by one, else those that failed; the counts.

    Args:
        out: Where to print; the counts are left out if it is quiet.
        report: The run.
        first: The outcomes of a run that is small enough to show them all.
    """
    if out.is_json:
        return
    for outcome in first or report.failures[:SHOWN_AT_MOST]:
        out.result(_outcome_line(out, outcome))
    more = 0 if first else len(report.failures) - SHOWN_AT_MOST
    if more > 0:
        out.result(f"… and {number(more)} more that failed (--json lists each)")
    if not out.is_quiet:
        _tell_counts(out, report)


def _tell_counts(out: Output, report: RevocationReport) -> None:
    parts = [
        f"{number(getattr(report, status.value))} {word}"
        for status, word in _WORDS.items()
        if getattr(report, status.value)
    ]
    if report.resumed:
        parts.append(f"{number(report.resumed)} done by an earlier run")
    told = f"{', '.join(parts) or 'no sessions'}, in {duration(report.elapsed)}"
    if report.throttled:
        told += f" ({number(report.throttled)} requests were answered 429 and sent again)"
    mark = out.good("Done:") if report.ok else out.bad("Not done:")
    out.result(f"{mark} {told}")
    if report.stopped_by is not None:
        out.result(_STOPS[report.stopped_by])
    elif not report.exhausted:
        out.result("the input was not read to its end")


def _outcome_line(out: Output, outcome: RevocationOutcome) -> str:
    word = _WORDS[outcome.status]
    if outcome.status is RevocationStatus.FAILED:
        word = out.bad(word)
    whose = outcome.session_id or (
        f"sessions of {outcome.user_id}" if outcome.user_id else "(no id)"
    )
    told = "" if outcome.error is None else f": {redact(error_text(outcome.error))}"
    return f"{harmless(redact(whose))}  {word}{harmless(told)}"
