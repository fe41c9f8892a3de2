"""`clerk-async demo`: a bulk revocation, told as a story, against a fake Clerk service."""

from __future__ import annotations

import asyncio
import os
import random
import textwrap
import time
from typing import TYPE_CHECKING, Any, Final

import attrs

from clerk_async.cli.exits import DONE, FAILED, INTERRUPTED
from clerk_async.cli.interrupts import Interrupts
from clerk_async.cli.output import shell_variable, terminal_width
from clerk_async.cli.progress import duration, number, progress_view
from clerk_async.cli.second_process import LockOut, lock_out
from clerk_async.config import SHARED_STATE_VARIABLE
from clerk_async.sessions import AsyncSessionsApi
from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from clerk_async.bulk.report import RevocationOutcome, RevocationReport
    from clerk_async.cli.app import Settings
    from clerk_async.cli.output import Output
    from clerk_async.cli.progress import Mode
    from clerk_async.testing import FakeSession

PRODUCTION_LIMIT: Final = (1000, 10.0)
"""Requests per seconds, as Clerk limits a production instance."""
LATENCY: Final = 0.02
SESSIONS_PER_USER: Final = 10
ALREADY_OVER: Final = 0.10
"""The share of sessions that have ended before the story begins."""
STILL_PENDING: Final = 0.05
BYSTANDERS: Final = 0.10
"""The share of users that the leak does not affect."""
SIGN_OUT_MEANWHILE: Final = 0.02
LOUDEST: Final = 5
WIDEST: Final = 88
ANSWERED: Final = frozenset({200, 400})
"""The statuses of responses to a revocation without trouble; 400: the session had ended before."""

_Snapshot = dict[str, str]


@attrs.frozen
class Story:
    """The cast of the story.

    Attributes:
        leaked: The users whose sessions must be revoked.
        operator: The session of the person who types the command; it must stay.
        before: Every session's status at the beginning.
    """

    leaked: tuple[str, ...]
    operator: str
    before: _Snapshot

    def targets(self, sessions: dict[str, FakeSession]) -> set[str]:
        """Return the ids to revoke: the leaked users' live sessions, except the operator's."""
        leaked = set(self.leaked)
        return {
            session_id
            for session_id, status in self.before.items()
            if sessions[session_id].user_id in leaked
            and status in {"active", "pending"}
            and session_id != self.operator
        }


def tell(settings: Settings, *, count: int, seed: int, progress: Mode | None) -> int:
    """Tell the story, and return the exit code."""
    shared = os.environ.pop(SHARED_STATE_VARIABLE, None)  # made-up data must not get there
    try:
        with FakeClerk(
            production=True, rate_limit=PRODUCTION_LIMIT, seed=seed, latency=LATENCY
        ) as fake:
            story = _set_the_scene(fake, count, seed)
            return asyncio.run(_play(settings.out, fake, story, seed, progress))
    finally:
        if shared is not None:
            os.environ[SHARED_STATE_VARIABLE] = shared


def _set_the_scene(fake: FakeClerk, count: int, seed: int) -> Story:
    chance = random.Random(f"demo {seed}")  # noqa: S311 - a story, not a secret
    users = [f"user_{number:05}" for number in range(1, max(2, count // SESSIONS_PER_USER) + 1)]
    spared = set(users[:: round(1 / BYSTANDERS)])
    leaked = tuple(user for user in users if user not in spared)
    operator = fake.add_session(user_id=leaked[0])
    for _ in range(count - 1):
        draw = chance.random()
        status = "active"
        if draw < ALREADY_OVER:
            status = chance.choice(["ended", "expired", "revoked", "removed"])
        elif draw < ALREADY_OVER + STILL_PENDING:
            status = "pending"
        fake.add_session(user_id=chance.choice(users), status=status)
    before = {session.id: session.status for session in fake.sessions.values()}
    fake.inject(
        Fault.status(503, operation="revoke", probability=0.02),
        Fault.html(502, operation="revoke", probability=0.01),
        Fault.cut("after", operation="revoke", probability=0.02),
        Fault.cut("before", operation="revoke", probability=0.01, reset=True),
        Fault.truncated_json(operation="revoke", probability=0.002),
        Fault.status(429, retry_after=1, operation="revoke", after=count // 2),
        Fault.status(500, operation="list", probability=0.02),
    )
    return Story(leaked, operator.id, before)


async def _play(
    out: Output, fake: FakeClerk, story: Story, seed: int, progress: Mode | None
) -> int:
    started = time.monotonic()
    _introduce(out, fake, story)
    with Interrupts(out) as interrupts:
        async with AsyncSessionsApi(fake.secret_key, base_url=fake.base_url) as sessions:
            planned = await _list(out, sessions, story, interrupts)
            if interrupts.is_asked:
                return _tell_interrupted(out)
            _sign_some_out(out, fake, planned, seed)
            report = await _revoke(out, sessions, planned, progress, interrupts)
        if interrupts.is_asked:
            return _tell_interrupted(out)
        findings = _check(fake, story, report)
        if not out.is_json:
            _tell_report(out, fake, report)
            out.result(out.strong("3. Check") + " the result in the service's own state")
            _tell_findings(out, findings)
        locked_out = await _lock_out_unless(interrupts, out, fake, story)
    if interrupts.is_asked:
        return _tell_interrupted(out)
    if locked_out is not None:
        findings.append(locked_out.finding)
    is_good = all(holds for holds, _ in findings)
    if out.is_json:
        record: dict[str, Any] = report.to_dict()
        record["checks"] = [{"holds": holds, "check": text} for holds, text in findings]
        record["lockout"] = None if locked_out is None else attrs.asdict(locked_out)
        record["ok"] = is_good
        out.record(record)
        return DONE if is_good else FAILED
    if locked_out is not None:
        _tell_lock_out(out, locked_out)
    took = duration(time.monotonic() - started)
    out.result()
    if is_good:
        out.result(out.good(out.strong(f"It worked, in {took}.")) + " With your own instance:")
        out.result(f"  {shell_variable('CLERK_SECRET_KEY', 'sk_…')}")
        out.result("  clerk-async revoke-all --users-from leaked.txt --dry-run")
        out.result("  clerk-async revoke-all --users-from leaked.txt")
    else:
        out.result(out.bad("A check failed: this is a bug in clerk-async."))
    return DONE if is_good else FAILED


def _tell_interrupted(out: Output) -> int:
    out.error("interrupted; the service of the demo has ended as well")
    return INTERRUPTED


def _introduce(out: Output, fake: FakeClerk, story: Story) -> None:
    if out.is_json:
        return
    live = sum(status in {"active", "pending"} for status in story.before.values())
    total = len(story.before)
    users = len({session.user_id for session in fake.sessions.values()})
    must_go = len(story.targets(dict(fake.sessions)))
    company = (
        f"A company has {users} users with {number(total)} sessions at Clerk; {number(live)} are "
        f"live, and the others have ended. The passwords of {len(story.leaked)} users have leaked, "
        f"so their {number(must_go)} live sessions must be revoked now. The other "
        f"{users - len(story.leaked)} users must not notice, and the operator at this keyboard "
        "wants to stay signed in."
    )
    service = (
        f"A server on this machine ({fake.base_url}) stands in for Clerk, with the rate limit of a "
        "production instance: 1,000 requests per 10 seconds. It injects faults on purpose: 6 % of "
        "its answers are errors, cut connections or garbage, sometimes after it has acted."
    )
    out.result(out.strong("The story"))
    for paragraph in (company, service):
        out.result(_wrapped(paragraph) + "\n")


def _wrapped(paragraph: str) -> str:
    width = min(WIDEST, terminal_width())
    return textwrap.fill(paragraph, width, initial_indent="   ", subsequent_indent="   ")


async def _list(
    out: Output, sessions: AsyncSessionsApi, story: Story, interrupts: Interrupts
) -> list[str]:
    if not out.is_json:
        out.result(
            out.strong("1. List") + f" the sessions of {len(story.leaked)} users (a dry run)"
        )
    planned: list[str] = []

    def note(outcome: RevocationOutcome) -> None:
        if outcome.session_id is not None:
            planned.append(outcome.session_id)

    report = await sessions.revoke_all(
        user_ids=story.leaked,
        except_session_ids=[story.operator],
        dry_run=True,
        on_outcome=note,
        should_stop=interrupts.check,
    )
    if not out.is_json:
        out.result(
            f"   {number(report.planned)} to revoke, found in {report.elapsed:.1f} s; "
            "nothing has changed yet"
        )
        out.result()
    return planned


def _sign_some_out(out: Output, fake: FakeClerk, planned: list[str], seed: int) -> None:
    """End some sessions, as if their users signed out between the list and the revocation."""
    chance = random.Random(f"sign-outs {seed}")  # noqa: S311 - a story, no secret
    gone = chance.sample(planned, round(len(planned) * SIGN_OUT_MEANWHILE))
    for session_id in gone:
        fake.sessions[session_id].status = "ended"
    if not out.is_json:
        out.result(out.faint(f"   (Meanwhile {len(gone)} users sign out themselves.)"))
        out.result()


async def _revoke(
    out: Output,
    sessions: AsyncSessionsApi,
    planned: list[str],
    progress: Mode | None,
    interrupts: Interrupts,
) -> RevocationReport:
    if not out.is_json:
        out.result(
            out.strong("2. Revoke") + " them, many at once, and leave a fifth of the rate limit to "
            "the product"
        )
    view = progress_view(progress, out, len(planned))
    try:
        return await sessions.revoke_many(
            planned, on_progress=view.update, should_stop=interrupts.check
        )
    finally:
        view.close()


def _tell_report(out: Output, fake: FakeClerk, report: RevocationReport) -> None:
    trouble = sum(
        request.operation == "revoke" and request.status not in ANSWERED
        for request in fake.requests
    )
    rows = (
        (report.revoked, "revoked"),
        (report.already_inactive, "had ended already"),
        (report.not_found, "not found"),
        (report.failed, "failed"),
    )
    for count, word in rows:
        if count:
            out.result(f"   {number(count):>6} {word}")
    out.result(
        f"   in {report.elapsed:.1f} s; {trouble} requests failed and were tried again "
        f"({report.throttled} of them because of the rate limit)"
    )
    for outcome in report.failures[:LOUDEST]:
        out.result(out.bad(f"   {outcome.session_id}: {outcome.error}"))
    out.result()


def _check(fake: FakeClerk, story: Story, report: RevocationReport) -> list[tuple[bool, str]]:
    """Compare the service's state with what it must be."""
    sessions = dict(fake.sessions)
    now = {session_id: session.status for session_id, session in sessions.items()}
    targets = story.targets(sessions)
    gone = sum(now.get(session_id) not in {"active", "pending"} for session_id in targets)
    others = [session_id for session_id in story.before if session_id not in targets]
    untouched = sum(now.get(other) == story.before[other] for other in others)
    asked_for = {request.session_id for request in fake.requests if request.operation == "revoke"}
    strays = len(asked_for - targets)
    told = report.revoked + report.already_inactive
    return [
        (
            gone == len(targets),
            f"{number(gone)} of {number(len(targets))} leaked sessions have ended",
        ),
        (
            untouched == len(others),
            f"{number(untouched)} of {number(len(others))} other sessions are unchanged",
        ),
        (now.get(story.operator) == "active", "the operator's own session is still active"),
        (strays == 0, f"{strays} requests were about any other session"),
        (
            report.ok and told == len(targets),
            f"the report agrees: {number(told)} done, {report.failed} failed",
        ),
    ]


def _tell_findings(out: Output, findings: list[tuple[bool, str]]) -> None:
    yes, no = ("✓", "✗") if out.out.has_unicode else ("ok", "NO")
    for holds, text in findings:
        mark = out.good(yes) if holds else out.bad(no)
        out.result(f"   {mark} {text}")


async def _lock_out_unless(
    interrupts: Interrupts, out: Output, fake: FakeClerk, story: Story
) -> LockOut | None:
    """Lock a user out; return None if interrupted, or if no token can be made."""
    try:
        session = fake.add_session(user_id=story.leaked[-1])
        token = fake.mint(session)
    except RuntimeError as error:
        if not out.is_json:
            out.result(f"\nThe demo can't lock a user out as well: {error}")
        return None
    work = asyncio.create_task(lock_out(fake, session, token))
    asked = asyncio.create_task(interrupts.wait())
    await asyncio.wait([work, asked], return_when=asyncio.FIRST_COMPLETED)
    for task in (work, asked):
        task.cancel()
    await asyncio.wait([work, asked])
    return None if work.cancelled() else work.result()


def _tell_lock_out(out: Output, locked_out: LockOut) -> None:
    out.result()
    out.result(out.strong("4. Lock out") + " a user who signs in again with a leaked password")
    where = (
        "A second process keeps verifying it. The two share a Redis, which was started for this "
        "(shared_state=)."
    )
    if locked_out.alone_because:
        where = (
            f"This process alone verifies it, because {locked_out.alone_because}. With a Redis "
            "(shared_state=) every process would refuse it."
        )
    out.result(
        _wrapped(
            f"Their new token is valid for a minute, and nobody asks the service about it. {where}"
        )
    )
    _tell_findings(out, [locked_out.finding])
