"""Outcomes and reports of bulk runs, as JSON lines for machines and as text for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from clerk_async.bulk.report import RevocationStatus
from clerk_async.cli.messages import error_text
from clerk_async.cli.output import cell
from clerk_async.cli.progress import number
from clerk_async.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from clerk_async.bulk.report import RevocationOutcome
    from clerk_async.cli.output import Output

SHOWN_AT_MOST: Final = 20
"""This many different failures are shown one by one."""
NAMED_AT_MOST: Final = 3
"""This many sessions that failed alike are named, unless all are."""
WORDS: Final = {
    RevocationStatus.REVOKED: "revoked",
    RevocationStatus.ALREADY_INACTIVE: "already inactive",
    RevocationStatus.NOT_FOUND: "not found",
    RevocationStatus.FAILED: "failed",
    RevocationStatus.NOT_ATTEMPTED: "not attempted",
    RevocationStatus.PLANNED: "would be revoked",
}
LEFT: Final = "left"
"""What a stopped run says of a session that was not attempted, or that waits for a retry."""


def tell_outcomes(
    out: Output,
    each: Sequence[RevocationOutcome],
    failures: Sequence[RevocationOutcome],
    waiting: Collection[RevocationOutcome],
) -> None:
    """Print the result of each session in a small run, or of those that failed in a large one.

    The same error is printed once, with the sessions that had it.

    Args:
        out: Where to print.
        each: All outcomes of a small run; empty for a large one.
        failures: The outcomes that failed after all retries.
        waiting: The outcomes of a stopped run that another run will retry.
    """
    waits = {id(outcome) for outcome in waiting}
    for outcome in each:
        if outcome.status is not RevocationStatus.FAILED or id(outcome) in waits:
            is_left = id(outcome) in waits or outcome.status is RevocationStatus.NOT_ATTEMPTED
            out.result(f"{_whose(outcome)}  {LEFT if is_left else WORDS[outcome.status]}")
    alike = _alike(failures)
    most = len(alike) if each else SHOWN_AT_MOST
    for told, outcomes in alike[:most]:
        word = out.bad(WORDS[RevocationStatus.FAILED])
        if len(outcomes) == 1:
            out.result(f"{_whose(outcomes[0])}  {word}: {told}")
            continue
        named = [_whose(one) for one in outcomes[: len(each) or NAMED_AT_MOST]]
        more = len(outcomes) - len(named)
        if more:
            named.append(f"and {number(more)} more")
        out.result(f"{number(len(outcomes))} sessions  {word}: {told} ({', '.join(named)})")
    more = sum(len(outcomes) for _, outcomes in alike[most:])
    if more:
        out.result(f"… and {number(more)} more that failed (--json lists each)")


def tell_waiting(out: Output, waiting: Sequence[RevocationOutcome]) -> None:
    """Print on stderr why sessions of a stopped run wait for a retry, each reason once."""
    for told, outcomes in _alike(waiting)[:SHOWN_AT_MOST]:
        count = len(outcomes)
        out.error(f"{number(count)} of those left {'was' if count == 1 else 'were'} tried: {told}")


def _alike(outcomes: Sequence[RevocationOutcome]) -> list[tuple[str, list[RevocationOutcome]]]:
    """Group outcomes that failed with the same error, the most frequent first."""
    found: dict[str, list[RevocationOutcome]] = {}
    for outcome in outcomes:
        told = _error_of(outcome)
        key = told.replace(outcome.session_id, "…") if outcome.session_id else told
        found.setdefault(key, []).append(outcome)
    alike = sorted(found.items(), key=lambda pair: -len(pair[1]))
    return [(key if len(same) > 1 else _error_of(same[0]), same) for key, same in alike]


def _error_of(outcome: RevocationOutcome) -> str:
    return "" if outcome.error is None else cell(redact(error_text(outcome.error)))


def _whose(outcome: RevocationOutcome) -> str:
    whose = outcome.session_id or (
        f"sessions of {outcome.user_id}" if outcome.user_id else "(no id)"
    )
    return cell(redact(whose))
