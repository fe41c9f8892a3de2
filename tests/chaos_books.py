"""The books of a chaos run: they compare what the client reported with what happened.

What happened is the state of the service, and the requests that passed the proxy.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from typing import TYPE_CHECKING, Any, Final

import attrs

from clerk_async import (
    ApiError,
    AuthenticationError,
    BadRequestError,
    ClientClosedError,
    ConnectError,
    KeysUnavailableError,
    RequestTimeoutError,
    ResponseDecodeError,
    RetryPolicy,
    RevocationOutcome,
    RevocationStatus,
    TokenVerificationError,
    TransportError,
)
from clerk_async.reasons import TokenVerificationReason

if TYPE_CHECKING:
    from pathlib import Path

    from chaos_proxy import ChaosProxy

    from clerk_async.testing import FakeClerk
    from clerk_async.testing.exchange import ReceivedRequest

SLACK: Final = 0.1
"""Seconds that a call may end late on a slow machine, besides the loop's measured lateness."""
LOOK_EVERY: Final = 0.01
"""Seconds between two measurements of the loop's lateness."""
PAGE_SIZE: Final = 2
SESSIONS_OF_A_USER: Final = 5


@attrs.define
class Tried:
    """One call: what it was for, and how it ended.

    Attributes:
        operation: The name of the operation.
        key: The session's id, or the user's for `list`, `iterate` and `create`.
        policy: The retry policy of the call.
        value: The value that the call returned.
        attempts: The attempts that the client reported; None if it reported none.
        error: The error that was raised.
        elapsed: How long the call took, in seconds.
        cancelled_at: When it was cancelled, in seconds from its start.
        was_closed: Whether the client was closed when the call ended.
    """

    operation: str
    key: str
    policy: RetryPolicy
    value: Any = None
    attempts: int | None = None
    error: BaseException | None = None
    elapsed: float = 0.0
    cancelled_at: float | None = None
    was_closed: bool = False

    @property
    def may_have_arrived(self) -> bool:
        """Return whether the client says that the service may have processed it."""
        return isinstance(self.error, ResponseDecodeError) or getattr(
            self.error, "_may_have_arrived", True
        )

    @property
    def needle(self) -> bytes:
        """Text that is in every request of this call, and in no other call's requests."""
        match self.operation:
            case "list" | "iterate":
                return f"user_id={self.key}&".encode()
            case "create":
                return f'"user_id":"{self.key}"'.encode()
            case "get":
                return f"GET /v1/sessions/{self.key} HTTP".encode()
            case "create_token":
                return f"POST /v1/sessions/{self.key}/tokens HTTP".encode()
            case name:
                return f"POST /v1/sessions/{self.key}/{name} HTTP".encode()

    def is_of(self, request: ReceivedRequest) -> bool:
        """Return whether a request that arrived belongs to this call."""
        if self.operation in {"list", "iterate"}:
            return f"user_id={self.key}&" in request.query_string
        if self.operation == "create":
            return self.needle in request.body
        return request.session_id == self.key and request.operation == self.operation


@attrs.define
class BulkTried:
    """One bulk run.

    Attributes:
        method: Which of the three: `revoke_many`, `revoke_stream` or `revoke_all`.
        ids: The sessions to revoke, including unknown ones.
        unknown: The ids that do not exist.
        journal: Its journal.
        user: The user who owns the sessions, except `spared`.
        spared: The session that must stay.
        outcomes: The outcomes that it reported, one by one.
        report: The report at the end; a stream has none.
        has_ended: Whether it completed rather than raised.
    """

    method: str
    ids: list[str]
    unknown: set[str]
    journal: Path
    user: str
    spared: str
    outcomes: list[RevocationOutcome] = attrs.field(factory=list[RevocationOutcome])
    report: Any = None
    has_ended: bool = False

    @property
    def done(self) -> set[str]:
        """The sessions that can't be used any more, according to the outcomes."""
        return {str(one.session_id) for one in self.outcomes if one.status.is_done}


@attrs.define
class Lateness:
    """The longest delay of the event loop so far.

    It is measured in every turn without a gap, because a busy machine may stop us at any point of a
    turn.
    """

    seconds: float = 0.0

    async def measure(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        while True:
            try:
                await asyncio.sleep(LOOK_EVERY)
            finally:  # a delay may be what the last call before the end has met
                before, now = now, loop.time()
                self.seconds = max(self.seconds, now - before - LOOK_EVERY)


@attrs.define
class Books:
    """The service's view of a run."""

    fake: FakeClerk
    proxy: ChaosProxy
    lateness: Lateness = attrs.field(factory=Lateness)
    is_closed: bool = False

    def status(self, session_id: str) -> str | None:
        """Return the status of a session at the service."""
        session = self.fake.sessions.get(session_id)
        return None if session is None else session.status

    def check(self, tried: Tried, sent: bytes) -> None:
        """Compare one call with what all clients have sent."""
        self._check_time(tried)
        self._check_kind(tried)
        check = getattr(self, f"_check_{tried.operation}")
        if tried.operation in {"iterate", "verify_token", "verify_forged"}:
            check(tried)
            return
        sends = sent.count(tried.needle)
        arrived = [request for request in list(self.fake.requests) if tried.is_of(request)]
        if tried.attempts is not None:
            assert sends <= tried.attempts <= tried.policy.attempts, f"{sends} sends"
        if isinstance(tried.error, ConnectError) and tried.attempts == 1:
            assert sends == 0, "a connect error says that nothing was sent"
        if isinstance(tried.error, RequestTimeoutError) and tried.error.phase != "response":
            assert tried.attempts != 1 or sends == 0, "it was sent, but reported as waiting"
        if tried.operation in {"create", "refresh"}:
            repeatable = {429, 503} | ({409} if tried.operation == "create" else set[int]())
            refused = sum(request.status in repeatable for request in arrived)
            assert sends - refused <= 1, f"sent {sends} times, refused {refused} times"
            processed = sum(request.processed for request in arrived)
            assert processed <= 1, f"acted on {processed} times"
            if tried.error is not None and not tried.may_have_arrived:
                assert not processed, "denied, and it did happen"
        check(tried)

    def _check_time(self, tried: Tried) -> None:
        # pages overlap by one session, one request reads past the end, and one looks back
        pages = SESSIONS_OF_A_USER // (PAGE_SIZE - 1) + 4 if tried.operation == "iterate" else 1
        limit = pages * (tried.policy.deadline or 0) * 1.05
        if isinstance(tried.error, asyncio.CancelledError) and tried.cancelled_at is not None:
            limit = tried.cancelled_at
        most = limit + SLACK + 3 * self.lateness.seconds
        assert tried.elapsed <= most, (
            f"took {tried.elapsed:.3f} s, allowed are {limit:.3f} s "
            f"(the loop was up to {self.lateness.seconds:.3f} s late)"
        )

    def _check_kind(self, tried: Tried) -> None:
        error = tried.error
        if error is None or isinstance(error, asyncio.CancelledError):
            return
        ours: tuple[type[Exception], ...] = (
            ApiError,
            TransportError,
            ResponseDecodeError,
            ClientClosedError,
        )
        if tried.operation in {"verify_token", "verify_forged"}:
            ours = (TokenVerificationError,)
        assert isinstance(error, ours), f"not an error of ours: {error!r}"
        assert not isinstance(error, AuthenticationError), f"a second refresh: {error}"
        assert error.__cause__ is None
        if isinstance(error, KeysUnavailableError) and error.cause is None:
            assert re.search("(?i)key set|broken off", str(error)), f"a fault of ours: {error}"
        if isinstance(error, ClientClosedError):
            assert tried.was_closed, "the client was not closed"

    def _ids_of(self, user: str) -> list[str]:
        sessions = list(self.fake.sessions.values())
        return sorted(session.id for session in sessions if session.user_id == user)

    def _check_iterate(self, tried: Tried) -> None:
        if tried.error is None:
            found = sorted(session.id for session in tried.value)
            assert found == self._ids_of(tried.key), "a page was lost or repeated"

    def _check_list(self, tried: Tried) -> None:
        if tried.error is None:
            assert sorted(session.id for session in tried.value) == self._ids_of(tried.key)
            assert tried.value.total_count == SESSIONS_OF_A_USER

    def _check_get(self, tried: Tried) -> None:
        if tried.error is None:
            assert tried.value.id == tried.key
            assert tried.value.status == self.status(tried.key) == "active"

    def _check_create_token(self, tried: Tried) -> None:
        if tried.error is None:
            payload = tried.value.jwt.split(".")[1]
            claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
            assert claims["sid"] == tried.key

    def _check_refresh(self, tried: Tried) -> None:
        self._check_create_token(tried)

    def _check_create(self, tried: Tried) -> None:
        made = self._ids_of(tried.key)
        assert len(made) <= 1, f"created twice: {made}"
        if tried.error is None:
            assert made == [tried.value.id], "reported as created"
        elif not isinstance(tried.error, ClientClosedError) and not tried.may_have_arrived:
            assert not made, "denied, and it did happen"

    def _check_revoke(self, tried: Tried) -> None:
        status = self.status(tried.key)
        if tried.error is None:
            assert tried.value.id == tried.key
            assert status == "revoked", "reported as revoked"
        elif isinstance(tried.error, BadRequestError):
            assert status == "revoked"
            assert tried.may_have_arrived, "an earlier attempt of ours revoked it"
        elif not isinstance(tried.error, ClientClosedError) and not tried.may_have_arrived:
            assert status == "active", "denied, and it did happen"

    def _check_verify_token(self, tried: Tried) -> None:
        if tried.error is None:
            assert tried.value.session_id == tried.key
        elif not isinstance(tried.error, asyncio.CancelledError):
            assert isinstance(tried.error, KeysUnavailableError), f"refused: {tried.error}"

    def _check_verify_forged(self, tried: Tried) -> None:
        assert tried.error is not None, "a forged token got in"
        if isinstance(tried.error, TokenVerificationError):
            assert tried.error.reason in {
                TokenVerificationReason.TOKEN_INVALID_SIGNATURE,
                TokenVerificationReason.JWK_FAILED_TO_LOAD,
            }

    def check_bulk(self, run: BulkTried) -> None:
        """Compare the first run of a bulk call with the service and its journal."""
        told = [str(one.session_id) for one in run.outcomes if one.session_id is not None]
        assert len(told) == len(set(told)), "an outcome was reported twice"
        if run.method == "revoke_all":  # a failed list request is an outcome without an id
            assert set(told) <= set(run.ids)
        else:
            assert sorted(told) == sorted(run.ids), "every id has one outcome"
        if run.report is not None:
            counts = [getattr(run.report, status.value) for status in RevocationStatus]
            assert sum(counts) + run.report.resumed == run.report.total == len(run.outcomes)
        sent = self.proxy.bodies()
        lines = [json.loads(line) for line in run.journal.read_text().splitlines()]
        journaled = {line["id"]: line["status"] for line in lines if "id" in line}
        for outcome in run.outcomes:
            if outcome.session_id is None:
                assert outcome.error is not None
                continue
            self._check_outcome(run, outcome, journaled.get(outcome.session_id), sent)

    def _check_outcome(
        self, run: BulkTried, outcome: RevocationOutcome, journaled: str | None, sent: bytes
    ) -> None:
        one = str(outcome.session_id)
        sends = sent.count(f"POST /v1/sessions/{one}/revoke HTTP".encode())
        status = self.status(one)
        assert sends <= outcome.attempts, f"{one}: {sends} sends, {outcome.attempts} told"
        # A session whose retry was cut off by a stop is left to the next run, so no journal has it.
        is_left = not sends or outcome.status is RevocationStatus.NOT_ATTEMPTED
        assert journaled in {outcome.status.value, None if is_left else "failed"}, (
            f"{one}: the journal says {journaled}, the outcome {outcome.status}"
        )
        match outcome.status:
            case RevocationStatus.REVOKED | RevocationStatus.ALREADY_INACTIVE:
                assert outcome.session is not None
                assert outcome.session.id == one, "the response about another session"
                assert status == "revoked", f"{one} is reported as revoked"
            case RevocationStatus.NOT_FOUND:
                assert one in run.unknown
            case RevocationStatus.NOT_ATTEMPTED if not sends:
                assert status in {"active", None}
            case _:  # failed, or stopped between two attempts
                assert outcome.error is not None
                if status == "revoked":
                    told = getattr(outcome.error, "_may_have_arrived", True)
                    told = told or isinstance(outcome.error, ResponseDecodeError)
                    assert told or outcome.attempts > 1, f"{one} was revoked, and denied"

    def check_finished(self, run: BulkTried, done_before: set[str]) -> None:
        """Compare a run that was resumed without faults until it was done."""
        if run.report is not None:
            assert run.report.ok, f"a resumed run must complete: {run.report}"
        if run.report is not None and run.method == "revoke_many":
            assert run.report.resumed >= len(done_before), (
                "sessions that were done are not sent again"
            )
        assert not done_before & run.done, "sessions that were done are not reported again"
        live = [one for one in run.ids if one not in run.unknown and self.status(one) != "revoked"]
        assert not live, f"reported as done, but still live: {live}"
        assert self.status(run.spared) == "active", "it should have been spared"
