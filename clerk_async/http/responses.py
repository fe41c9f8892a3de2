"""From a whole answer to what a method gives back."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from clerk_async.errors import ResponseDecodeError
from clerk_async.models import ApiResponse, ResponseHeaders

if TYPE_CHECKING:
    from collections.abc import Callable

    from clerk_async.http.operations import Request
    from clerk_async.http.transport import Answer

T = TypeVar("T")


def decoded(decode: Callable[[bytes], T], answer: Answer, request: Request) -> T:
    """Decode an answer; an error, of an entry of a list too, tells which call it belongs to."""
    try:
        value = decode(answer.body)
    except ResponseDecodeError as error:
        _tell(error, answer, request)
        raise
    for item in getattr(value, "unreadable", ()):  # a page's; no isinstance, which an ABC slows
        _tell(item.error, answer, request)
    return value


def _tell(error: ResponseDecodeError, answer: Answer, request: Request) -> None:
    error.status = answer.status
    error._tell_of(  # noqa: SLF001 - ours
        request.operation.method,
        request.path,
        answer.attempts,
        throttled=answer.throttled,
        may_have_arrived=True,  # it did
    )


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
