"""Revokes one session with the calls of a client, and decides what the response means.

The rules follow Clerk's reference (https://clerk.com/docs/reference/backend-api) as far as it goes:
a 200 confirms the revocation, whatever final status the session has in the response. The reference
doesn't say what a second revocation returns, so the session is looked up once after a 400, after a
404 without an error message from Clerk, after a 200 that says that the session is live, and after a
200 that can't be read. A session that has ended is `revoked` if a request of this run may have done
it. If the response was about another session, it is only `already_inactive`, because the request
may never have arrived.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeGuard

import attrs

from clerk_async.bulk.report import RevocationStatus
from clerk_async.errors import (
    ApiError,
    BadRequestError,
    ClerkError,
    ClientClosedError,
    ConnectionLostError,
    NotFoundError,
    ResponseDecodeError,
    TransportError,
)
from clerk_async.http import operations
from clerk_async.http.client_state import RunUnderWay
from clerk_async.http.decode import decode_page, decode_session
from clerk_async.http.error_bodies import refuses_key
from clerk_async.http.retry import backoff, is_passing
from clerk_async.pacing.window import SendRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from clerk_async.bulk.work import Job
    from clerk_async.config import RateLimit
    from clerk_async.denials.table import Denials
    from clerk_async.http.calls import Calls
    from clerk_async.models import ApiResponse, Session, SessionPage
    from clerk_async.pacing.gate import Gates, Lane


ROUND_PAUSE: Final = 4
"""The pause before another round, as a multiple of the longest wait before the first retry."""
_WHOSE: Final = {"$.id", "$.object"}
"""The places of a response that say what it is about."""


@attrs.define(eq=False)
class RevocationTarget:
    """Makes the calls of bulk runs, and holds what paces them; each view of a client has one.

    Each call follows the retry table like any other, but a lane paces each of its sends, retries
    included. A call has no deadline, because it may wait a long time for the window. It neither
    draws on the retry quota nor adds to it.

    Attributes:
        calls: What makes the calls.
        key_fingerprint: SHA-256, in hex, of the key and the base URL; tells instances apart in a
            journal.
        default_rate_limit: The client's rate limit, for a run without one of its own.
        pool_size: The size of the connection pool, and so the most requests at a time.
        gates: The windows of this client, which all its views share.
        denials: The client's list of what verifiers reject.
    """

    calls: Calls
    key_fingerprint: str
    default_rate_limit: RateLimit
    pool_size: int
    gates: Gates
    denials: Denials

    @contextmanager
    def until_closed(self, end_run: Callable[[], None]) -> Generator[None, None, None]:
        """Call `end_run` if the client is closed during a run: it may have no call in flight.

        Raises:
            ClientClosedError: If the client is closed already.
        """
        shared = self.calls.shared
        if shared.is_closed:
            raise ClientClosedError("this client was closed")
        run = RunUnderWay(asyncio.get_running_loop(), os.getpid(), end_run)
        shared.runs.add(run)
        try:
            yield
        finally:
            shared.runs.discard(run)

    def pause_before_round(self) -> float:
        """Return the seconds before another round: a second by default, and up to a tenth more."""
        policy = self.calls.policy
        pause = min(ROUND_PAUSE * policy.base_delay, policy.max_delay)
        return backoff(policy, 1, pause, self.calls.shared.draw)

    async def revoke(self, session_id: str, lane: Lane) -> ApiResponse[Session]:
        """POST /sessions/{id}/revoke."""
        request = operations.revoke_request(session_id)
        answer = await self.calls.call(request, pacer=lane)
        return self.calls.shared.reader.response(decode_session, answer, request)

    async def get(self, session_id: str, lane: Lane) -> Session:
        """GET /sessions/{id}."""
        request = operations.for_session(operations.GET, session_id)
        answer = await self.calls.call(request, pacer=lane)
        return self.calls.shared.reader.value(decode_session, answer, request)

    async def list_page(
        self, lane: Lane, *, user_id: str | None, client_id: str | None, limit: int, offset: int
    ) -> SessionPage:
        """GET /sessions."""
        request = operations.list_request(
            client_id=client_id, user_id=user_id, status=None, limit=limit, offset=offset
        )
        answer = await self.calls.call(request, pacer=lane)
        return self.calls.shared.reader.value(decode_page, answer, request)


@attrs.define
class Verdict:
    """The result of one round for one session.

    Attributes:
        status: What became of the session; `not_attempted` if the run stopped before that was
            known.
        error: Why the revocation failed; it may have taken effect all the same.
        attempts: How often the revocation was sent in this round.
        session: The session as the service returned it.
        may_have_arrived: Whether the service may have acted on an attempt that got no response.
        obstacle: Why looking up the session failed; if set, this decides about another round.
    """

    status: RevocationStatus
    error: ClerkError | None = None
    attempts: int = 0
    session: Session | None = None
    may_have_arrived: bool = False
    obstacle: ClerkError | None = None

    @property
    def hindrance(self) -> ClerkError | None:
        """The error that must pass before another round makes sense."""
        return self.obstacle or self.error


def is_answer(error: BaseException) -> TypeGuard[ApiError | TransportError | ResponseDecodeError]:
    """Whether an error concerns this request alone, rather than a client that is unusable."""
    return isinstance(error, ApiError | TransportError | ResponseDecodeError)


def let_go_of_frames(error: BaseException) -> None:
    """Drop the stack frames that a stored error would keep alive, with the requests in them."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        if link.__cause__ is None:
            link.__context__ = None
        link = link.__cause__


async def revoke_one(
    target: RevocationTarget,
    session_id: str,
    lane: Lane,
    *,
    may_have_arrived: bool,
    is_last_round: bool,
) -> Verdict:
    """Revoke one session, and return what became of it.

    Args:
        target: What sends the requests.
        session_id: A well-formed id.
        lane: What paces each send.
        may_have_arrived: Whether an earlier round of this run may have revoked the session.
        is_last_round: Whether no other round follows. If so, and an attempt got no response, the
            session is looked up to find out what became of it.

    Raises:
        ClerkError: If the client can no longer be used: closed, or of another event loop.
    """
    try:
        reply = await target.revoke(session_id, lane)
    except SendRefused:
        return Verdict(RevocationStatus.NOT_ATTEMPTED, may_have_arrived=may_have_arrived)
    except (ApiError, TransportError, ResponseDecodeError) as error:
        let_go_of_frames(error)
        return await _judge(
            target,
            session_id,
            lane,
            error,
            may_have_arrived=may_have_arrived,
            is_last_round=is_last_round,
        )
    if reply.data.status.is_live:
        doubt = ResponseDecodeError(
            "the response to the revocation says that the session is still "
            f"{reply.data.status.value}",
            json_path="$.status",
            session_id=session_id,
            attempts=reply.attempts,
        )
        return await _judge(
            target, session_id, lane, doubt, may_have_arrived=True, is_last_round=is_last_round
        )
    return Verdict(RevocationStatus.REVOKED, attempts=reply.attempts, session=reply.data)


async def _judge(  # noqa: PLR0911 - a table of responses, one return each
    target: RevocationTarget,
    session_id: str,
    lane: Lane,
    error: ApiError | TransportError | ResponseDecodeError,
    *,
    may_have_arrived: bool,
    is_last_round: bool,
) -> Verdict:
    attempts = error.attempts
    arrived = may_have_arrived or error._may_have_arrived  # noqa: SLF001 - for internal use
    if isinstance(error, NotFoundError) and error.errors:
        return Verdict(RevocationStatus.NOT_FOUND, attempts=attempts)
    failed = Verdict(RevocationStatus.FAILED, error, attempts, may_have_arrived=arrived)
    # a 404 without an error message from Clerk may be a proxy's
    asks = isinstance(error, BadRequestError | NotFoundError | ResponseDecodeError)
    if not asks and not (is_last_round and arrived and is_passing(error)):
        return failed
    # a 200 that can't be read may come from the service, or be a proxy's page
    arrived = arrived or isinstance(error, ResponseDecodeError)
    failed.may_have_arrived = arrived
    try:
        session = await target.get(session_id, lane)
    except SendRefused:  # stopped: nobody knows what became of the session
        failed.status = RevocationStatus.NOT_ATTEMPTED
        return failed
    except NotFoundError:
        return Verdict(RevocationStatus.NOT_FOUND, attempts=attempts)
    except (ApiError, TransportError, ResponseDecodeError) as trouble:
        let_go_of_frames(trouble)
        if is_passing(trouble) or refuses_key(trouble):
            failed.obstacle = trouble
            if not isinstance(error, ResponseDecodeError):  # alone they mean a retry is useless
                failed.error = trouble
        return failed
    if not session.status.is_terminal:
        failed.session = session
        return failed
    is_ours = arrived and getattr(error, "json_path", None) not in _WHOSE
    status = RevocationStatus.REVOKED if is_ours else RevocationStatus.ALREADY_INACTIVE
    return Verdict(status, attempts=attempts, session=session)


def cut_off(job: Job, sends: int) -> Verdict:
    """Return the verdict for a session whose round was cut off after this many sends."""
    attempts = job.attempts + sends
    if not attempts:
        return Verdict(RevocationStatus.NOT_ATTEMPTED)
    error = job.error
    if sends or error is None:
        error = ConnectionLostError(
            "the run ended before the response arrived: the session may be revoked",
            method="POST",
            path=f"/sessions/{job.session_id}/revoke",
            attempts=attempts,
        )
    return Verdict(RevocationStatus.FAILED, error, attempts)
