"""One call from argument to answer: queue, pause, attempts, waits, deadline.

The decisions are made in `clerk_async.http.retry`, the sending in `clerk_async.http.transport`.
What is shared by all views of a client (pool, brake, quota, peers) is `ClientState`; `Calls`
adds the options of one view.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs

from clerk_async.errors import (
    ApiError,
    ClerkError,
    ClientClosedError,
    ConnectionLostError,
    RateLimitedError,
    RequestTimeoutError,
    ResponseDecodeError,
    TransportError,
    WrongLoopError,
)
from clerk_async.http.error_bodies import api_error
from clerk_async.http.retry import (
    backoff,
    is_retryable,
    parse_retry_after,
    pauses_client,
)
from clerk_async.pacing.window import TOO_MANY_REQUESTS, UNAVAILABLE, SendRefused
from clerk_async.redaction import redact

if TYPE_CHECKING:
    from clerk_async.config import RetryPolicy, Timeouts
    from clerk_async.http.client_state import ClientState
    from clerk_async.http.operations import Request
    from clerk_async.http.transport import Answer, Wire
    from clerk_async.pacing.gate import Lane
    from clerk_async.pacing.window import Ticket

logger: logging.Logger = logging.getLogger("clerk_async")

_Failure = ApiError | TransportError | ResponseDecodeError
_E = TypeVar("_E", bound=_Failure)

_SUCCESS: Final = range(200, 300)
_FIRST_REFUSAL: Final = 400
_REFUSALS: Final = frozenset({*range(_FIRST_REFUSAL, 500), UNAVAILABLE})
"""The statuses that say that the service did nothing; a 500 does not, nor a stray 101."""


@attrs.frozen(eq=False, repr=False)
class Calls:
    """Makes calls with the options of one view of a client."""

    shared: ClientState
    policy: RetryPolicy
    timeouts: Timeouts

    async def call(self, request: Request, *, pacer: Lane | None = None) -> Answer:
        """Send a request as often as the retry table allows, and give the answer with a 2xx.

        Args:
            request: What to send.
            pacer: Lets out each send of a bulk run. The call then has no deadline of its own, and
                leaves the retry quota alone: a run has the shared pause and its concurrency.

        Raises:
            ApiError: If the service answered with an error that is not to be retried any more.
            TransportError: If no whole answer came, likewise.
            ClientClosedError: If the client was closed before or meanwhile.
            WrongLoopError: If it belongs to another running loop.
        """
        wire = self.shared.wire()
        task = asyncio.current_task(wire.loop)
        if task is None:
            raise WrongLoopError("a call must be made from within a task")
        limit = self.policy.deadline if pacer is None else None
        began = self.shared.clock()
        deadline = math.inf if limit is None else began + limit
        call = _Call(task, self.shared, self.policy, self.timeouts, wire, request, pacer, deadline)
        wire.calls.add(call)
        answer: Answer | None = None
        try:
            answer = await call.run()
        except asyncio.CancelledError:
            if wire.is_closing and task.cancelling() and task.uncancel() == 0:
                raise ClientClosedError("the client was closed during the call") from None
            raise
        else:
            return answer
        finally:
            wire.calls.discard(call)
            if logger.isEnabledFor(logging.DEBUG):
                call.log_end(answer, sys.exception(), began)


@attrs.define(eq=False, repr=False)
class _Call:
    """One call under way."""

    task: asyncio.Task[Any]
    shared: ClientState
    policy: RetryPolicy
    timeouts: Timeouts
    wire: Wire
    request: Request
    pacer: Lane | None
    deadline: float
    attempts: int = 0
    paid: int = 0
    may_have_arrived: bool = False
    last: _Failure | None = None

    async def run(self) -> Answer:
        """Attempt after attempt, until one settles the call."""
        request = self.request
        wait: float | None = None
        while True:
            try:
                if wait is not None:
                    await self._pause(wait)
                outcome = await self._attempt()
            except SendRefused:
                if self.last is None:
                    raise
                raise self.last from None
            if isinstance(outcome, ClerkError):
                failure: _Failure = outcome
            elif outcome.status in _SUCCESS:
                return self._succeeded(outcome)
            else:
                if outcome.status < _FIRST_REFUSAL:  # the answer with a body may follow
                    outcome.distrust()
                failure = api_error(
                    outcome.status,
                    outcome.body,
                    outcome.headers,
                    (*request.secrets, *self.shared.secrets),
                    now=self.shared.now(),
                    path=request.path,
                )
            self._note(failure)
            wait = self._wait_before_retry(failure)
            if wait is None:
                raise self._final(failure)
            self.last = failure
            logger.debug(
                "%s %s: attempt %d failed, the next comes in %.2f s: %s",
                failure.method,
                failure.path,
                failure.attempts,
                wait,
                failure,
            )

    def log_end(self, answer: Answer | None, error: BaseException | None, began: float) -> None:
        """Write the one line that tells how the call ended."""
        ending, trace_id = "cancelled", None
        if answer is not None:
            ending, trace_id = str(answer.status), answer.headers.get("cf-ray")
        elif isinstance(error, ApiError):
            ending, trace_id = str(error.status), error.trace_id
        elif isinstance(error, ClerkError):
            ending = type(error).__name__
        elif isinstance(error, SendRefused):
            return  # a bulk run that has ended: there was no call
        logger.debug(
            "%s %s: %s after %.0f ms, attempts %d, trace id %s",
            self.request.operation.method,
            redact(self.request.path),
            ending,
            (self.shared.clock() - began) * 1000,
            self.attempts,
            redact(trace_id, (*self.request.secrets, *self.shared.secrets)) if trace_id else None,
        )

    async def _attempt(self) -> Answer | TransportError | ResponseDecodeError:
        """Wait for our turn, then send once; what is raised here ends the call."""
        pacer, request, timeouts = self.pacer, self.request, self.timeouts
        peers = self.shared.peers if pacer is None and request.operation.is_limited else None
        ticket = None if pacer is None else await self._admission(pacer)
        status: int | None = None
        retry_after: float | None = None
        is_counted = False
        try:
            if self.shared.paused_until or not self.wire.slots.take():
                await self._take_slot()
            try:
                limit = timeouts.attempt
                if self.deadline != math.inf:
                    left = self.deadline - self.shared.clock()
                    if left <= 0:
                        raise self._out_of_time()
                    limit = left if limit is None else min(limit, left)
                if pacer is not None and ticket is not None:
                    pacer.sent(ticket)
                elif peers is not None:
                    peers.send_single()
                    is_counted = True
                self.attempts += 1
                answer = await self.wire.send(
                    request,
                    task=self.task,
                    limit=limit,
                    connect=timeouts.connect,
                )
            except (TransportError, ResponseDecodeError) as error:
                return error
            finally:
                self.wire.slots.release()
            status = answer.status
            if pacer is not None and status not in _SUCCESS:
                retry_after = parse_retry_after(
                    answer.headers.get("Retry-After"), self.shared.now()
                )
        finally:
            if pacer is not None and ticket is not None:
                pacer.answered(ticket, status, retry_after)
            elif peers is not None and is_counted:
                peers.end_single(status)
        return answer

    async def _admission(self, pacer: Lane) -> Ticket:
        await self._wait_for_brake()
        return await pacer.acquire()

    async def _take_slot(self) -> None:
        """Take a free connection of the pool; not while the client is told to wait."""
        slots = self.wire.slots
        while True:
            await self._wait_for_brake()
            if not slots.take():
                await self._queue()
            if self.shared.brake() <= 0:
                return
            slots.release()  # a 429 came while we were queueing

    async def _wait_for_brake(self) -> None:
        while (left := self.shared.brake()) > 0:
            if self.shared.clock() + left > self.deadline:
                if self.last is not None:
                    raise self.last
                raise self._annotated(
                    RateLimitedError(
                        f"429: the service asked this client to wait, for {left:.1f} s from now, "
                        "and the call's deadline ends before that",
                        status=TOO_MANY_REQUESTS,
                        retry_after=left,
                    )
                )
            await self._pause(left)

    async def _queue(self) -> None:
        """Wait for a free connection; only the deadline counts here."""
        left = None if self.deadline == math.inf else max(0.0, self.deadline - self.shared.clock())
        try:
            async with asyncio.timeout(left):
                await self.wire.slots.wait()
        except TimeoutError:
            raise self._out_of_time() from None

    def _out_of_time(self) -> ClerkError:
        if self.last is not None:
            return self.last
        return self._annotated(
            RequestTimeoutError("no free connection before the deadline", phase="queue")
        )

    def _succeeded(self, answer: Answer) -> Answer:
        if self.pacer is None:
            self.shared.quota.give_back(self.paid)
        answer.attempts = self.attempts
        return answer

    def _final(self, failure: ClerkError) -> ClerkError:
        """Give what the call ends with: where the deadline cut it off, the error before that."""
        is_cut_off = (
            isinstance(failure, RequestTimeoutError) and self.shared.clock() >= self.deadline
        )
        return self._annotated(self.last) if is_cut_off and self.last is not None else failure

    def _note(self, failure: _Failure) -> None:
        """Keep what a failed attempt means for the rest of the call, and for the client."""
        if isinstance(failure, ApiError):
            if failure.status not in _REFUSALS:
                self.may_have_arrived = True
            if pauses_client(failure):
                pause = failure.retry_after
                if pause is None:
                    pause = backoff(self.policy, self.attempts, None, self.shared.draw)
                pause = min(pause, self.policy.max_retry_after)
                self.shared.pause(pause)
                if self.shared.peers is not None:
                    is_refusal = failure.status == TOO_MANY_REQUESTS
                    self.shared.peers.pause(pause, "rate_limited" if is_refusal else "unavailable")
        elif isinstance(failure, ConnectionLostError) or (
            isinstance(failure, RequestTimeoutError) and failure.phase == "response"
        ):
            self.may_have_arrived = True
        self._annotated(failure)

    def _annotated(self, error: _E) -> _E:
        """Write on an error which call it ended."""
        error._tell_of(  # noqa: SLF001 - ours
            self.request.operation.method,
            self.request.path,
            self.attempts,
            may_have_arrived=self.may_have_arrived,
        )
        return error

    def _wait_before_retry(self, failure: ClerkError) -> float | None:
        """Give the seconds to wait before the next attempt, or None where there's to be none."""
        policy = self.policy
        if self.attempts >= policy.attempts:
            return None
        if not is_retryable(self.request.operation.retry, failure):
            return None
        retry_after = failure.retry_after if isinstance(failure, ApiError) else None
        if retry_after is not None and retry_after > policy.max_retry_after:
            return None
        wait = backoff(policy, self.attempts, retry_after, self.shared.draw)
        if self.shared.clock() + wait >= self.deadline:
            return None
        if self.pacer is None:
            self.paid = self.shared.quota.take(failure)
            if not self.paid:
                return None
        return wait

    async def _pause(self, seconds: float) -> None:
        sleep = self.shared.sleep if self.pacer is None else self.pacer.pause
        await sleep(seconds)
