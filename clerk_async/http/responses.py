"""From a whole answer to what a method gives back."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from clerk_async.errors import ResponseDecodeError
from clerk_async.models import ApiResponse, ResponseHeaders

if TYPE_CHECKING:
    from collections.abc import Callable

    from clerk_async.http.operations import Request
    from clerk_async.http.transport import Answer

__all__ = ["decoded", "with_info"]

T = TypeVar("T")


def decoded(decode: Callable[[bytes], T], answer: Answer, request: Request) -> T:
    """Decode an answer; an error tells which call it belongs to."""
    try:
        return decode(answer.body)
    except ResponseDecodeError as error:
        error.method = request.operation.method
        error.path = request.path
        error.attempts = answer.attempts
        error.status = answer.status
        error._may_have_arrived = True  # noqa: SLF001 - for bulk runs: it did arrive
        error._throttled = answer.throttled  # noqa: SLF001
        raise


def with_info(decode: Callable[[bytes], T], answer: Answer, request: Request) -> ApiResponse[T]:
    """Decode an answer and keep what surrounds it."""
    headers = ResponseHeaders(tuple(answer.headers.items()))
    return ApiResponse(
        data=decoded(decode, answer, request),
        status=answer.status,
        headers=headers,
        attempts=answer.attempts,
        trace_id=headers.get("cf-ray"),
        throttled=answer.throttled,
        may_have_arrived=answer.may_have_arrived,
    )
