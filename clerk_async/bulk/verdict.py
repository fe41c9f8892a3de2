"""One session: the request, and what its answer means.

The rules are those of Clerk's reference (https://clerk.com/docs/reference/backend-api), as far as
it says: a 200 is the confirmation, whatever status the session carries. What a second revocation
answers is documented nowhere, so a 400 is followed by one look at the session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

import attrs

from clerk_async.bulk.report import RevocationStatus
from clerk_async.errors import (
    ApiError,
    BadRequestError,
    ClerkError,
    ConnectionLostError,
    NotFoundError,
    ResponseDecodeError,
    TransportError,
)
from clerk_async.http.error_bodies import refuses_key
from clerk_async.http.retry import is_passing
from clerk_async.pacing.window import SendRefused

if TYPE_CHECKING:
    from clerk_async.bulk.target import RevocationTarget
    from clerk_async.bulk.work import Job
    from clerk_async.models import Session
    from clerk_async.pacing.gate import Lane


@attrs.define
class Verdict:
    """What one round for one session came to.

    Attributes:
        status: What became of it; `not_attempted` if the run was stopped before that was known.
        error: Why it failed.
        attempts: How often the revocation was sent in this round.
        session: The session as it came back.
        may_have_arrived: Whether the service may have acted on an attempt that got no answer.
        obstacle: What kept the look at the session from telling, and so decides about another
            round; the error is what the revocation itself came to, which may have taken effect.
    """

    status: RevocationStatus
    error: ClerkError | None = None
    attempts: int = 0
    session: Session | None = None
    may_have_arrived: bool = False
    obstacle: ClerkError | None = None

    @property
    def hindrance(self) -> ClerkError | None:
        """What has to pass before another round makes sense."""
        return self.obstacle or self.error


def is_answer(
    error: BaseException,
) -> TypeGuard[ApiError | TransportError | ResponseDecodeError]:
    """Whether it tells of this request alone, and not of a client that can't be used any more."""
    return isinstance(error, ApiError | TransportError | ResponseDecodeError)


def let_go_of_frames(error: BaseException) -> None:
    """Drop what an error that is kept would keep alive: stacks, and the requests in them."""
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
    """Revoke one session, and tell what became of it.

    Args:
        target: What sends.
        session_id: A well-formed id.
        lane: What lets each send out.
        may_have_arrived: Whether an earlier round of ours may have revoked it.
        is_last_round: Whether there will be no further round: then a look at the session tells
            what became of an attempt that got no answer.

    Raises:
        ClerkError: If the client can't be used any more: closed, or of another loop.
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
    return Verdict(RevocationStatus.REVOKED, attempts=reply.attempts, session=reply.data)


async def _judge(  # noqa: PLR0911 - a table of answers, one return each
    target: RevocationTarget,
    session_id: str,
    lane: Lane,
    error: ApiError | TransportError | ResponseDecodeError,
    *,
    may_have_arrived: bool,
    is_last_round: bool,
) -> Verdict:
    attempts = error.attempts
    arrived = may_have_arrived or error._may_have_arrived  # noqa: SLF001 - told to us alone
    if isinstance(error, NotFoundError):
        return Verdict(RevocationStatus.NOT_FOUND, attempts=attempts)
    failed = Verdict(RevocationStatus.FAILED, error, attempts, may_have_arrived=arrived)
    asks = isinstance(error, BadRequestError | ResponseDecodeError)
    if not asks and not (is_last_round and arrived and is_passing(error)):
        return failed
    # a 200 that can't be read may be a proxy's page as well as the service's word
    arrived = arrived or isinstance(error, ResponseDecodeError)
    failed.may_have_arrived = arrived
    try:
        session = await target.get(session_id, lane)
    except SendRefused:  # stopped: what became of it is not known
        failed.status = RevocationStatus.NOT_ATTEMPTED
        return failed
    except NotFoundError:
        return Verdict(RevocationStatus.NOT_FOUND, attempts=attempts)
    except (ApiError, TransportError, ResponseDecodeError) as trouble:
        let_go_of_frames(trouble)
        if is_passing(trouble) or refuses_key(trouble):
            failed.obstacle = trouble
            if isinstance(error, BadRequestError):  # which alone would say that no repeat helps
                failed.error = trouble
        return failed
    if not session.status.is_terminal:
        failed.session = session
        return failed
    status = RevocationStatus.REVOKED if arrived else RevocationStatus.ALREADY_INACTIVE
    return Verdict(status, attempts=attempts, session=session)


def cut_off(job: Job, sends: int) -> Verdict:
    """Tell of a session whose round was ended from outside, after so many sends in it."""
    attempts = job.attempts + sends
    if not attempts:
        return Verdict(RevocationStatus.NOT_ATTEMPTED)
    error = job.error
    if sends or error is None:
        error = ConnectionLostError(
            "the run ended before the answer came: the session may be revoked",
            method="POST",
            path=f"/sessions/{job.session_id}/revoke",
            attempts=attempts,
        )
    return Verdict(RevocationStatus.FAILED, error, attempts)
