"""One call from its arguments to its response: queue, pause, attempts, waits, deadline.

`clerk_async.http.retry` decides when to retry, `clerk_async.http.transport` sends. `ClientState`
has what all views of a client share (pool, brake, quota, peers); `Calls` adds the options of one
view.
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
from clerk_async.http.retry import backoff, is_retryable, parse_retry_after, pauses_client
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
"""The statuses that mean that the service did nothing; a 500 doesn't, nor does a stray 101."""


@attrs.frozen(eq=False, repr=False)
class Calls:
    """Makes calls with the options of one view of a client."""

    shared: ClientState
    policy: RetryPolicy
    timeouts: Timeouts

    async def call(self, request: Request, *, pacer: Lane | None = None) -> Answer:
        """Send a request, with retries as the retry table allows, and return the 2xx response.

        Args:
            request: The request to send.
            pacer: Paces each send of a bulk run. The call then has no deadline and doesn't use the
                retry quota, because the run has the shared pause and its concurrency.

        Raises:
            ApiError: If the service returned an error, and no retry is left or allowed.
            TransportError: If no complete response arrived, and no retry is left or allowed.
            ClientClosedError: If the client was closed before or during the call.
            WrongLoopError: If the client belongs to another running loop.
        """
        wire = self.shared.wire()
        task = asyncio.current_task(wire.loop)
        if task is None:
            raise WrongLoopError("a call must be made within a task")
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
    """One call in flight."""

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
        """Make attempts until one settles the call."""
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
                if self.pacer is None:
                    self.shared.quota.give_back(self.paid)
                outcome.attempts = self.attempts
                return outcome
            else:
                if outcome.status < _FIRST_REFUSAL:  # the real response may still follow
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
                "%s %s: attempt %d failed, retrying in %.2f s: %s",
                failure.method,
                failure.path,
                failure.attempts,
                wait,
                failure,
            )

    def log_end(self, answer: Answer | None, error: BaseException | None, began: float) -> None:
        """Log one line that says how the call ended."""
        ending, trace_id = "cancelled", None
        if answer is not None:
            ending, trace_id = str(answer.status), answer.headers.get("cf-ray")
        elif isinstance(error, ApiError):
            ending, trace_id = str(error.status), error.trace_id
        elif isinstance(error, ClerkError):
            ending = type(error).__name__
        elif isinstance(error, SendRefused):
            return  # the bulk run has ended, so there was no call
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
        """Wait for our turn, then send once; an exception raised here ends the call."""
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
                    request, task=self.task, limit=limit, connect=timeouts.connect
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
        """Take a free connection from the pool, but not during a pause of the client."""
        slots = self.wire.slots
        while True:
            await self._wait_for_brake()
            if not slots.take():
                await self._queue()
            if self.shared.brake() <= 0:
                return
            slots.release()  # a 429 arrived while we were waiting

    async def _wait_for_brake(self) -> None:
        while (left := self.shared.brake()) > 0:
            if self.shared.clock() + left > self.deadline:
                if self.last is not None:
                    raise self.last
                raise self._annotated(
                    RateLimitedError(
                        f"429: the service asked this client to wait for another {left:.1f} s, "
                        "which is longer than the call's deadline allows",
                        status=TOO_MANY_REQUESTS,
                        retry_after=left,
                    )
                )
            await self._pause(left)

    async def _queue(self) -> None:
        """Wait for a free connection, up to the deadline."""
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

    def _final(self, failure: ClerkError) -> ClerkError:
        """Return the call's error; if the deadline cut off the last attempt, the one before."""
        is_cut_off = (
            isinstance(failure, RequestTimeoutError) and self.shared.clock() >= self.deadline
        )
        return self._annotated(self.last) if is_cut_off and self.last is not None else failure

    def _note(self, failure: _Failure) -> None:
        """Record what a failed attempt means for the rest of the call and for the client."""
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
        """Record on an error which call it ended, and return it."""
        error._tell_of(  # noqa: SLF001 - ours
            self.request.operation.method,
            self.request.path,
            self.attempts,
            may_have_arrived=self.may_have_arrived,
        )
        return error

    def _wait_before_retry(self, failure: ClerkError) -> float | None:
        """Return the seconds to wait before the next attempt, or None to give up."""
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
