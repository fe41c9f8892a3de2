"""Everything this library raises, in one tree.

::

    ClerkError
    ├── ConfigurationError            the client can't be made from these settings
    ├── InvalidArgumentError          (also ValueError) refused before anything was sent
    ├── ApiError                      the service answered with an error status
    │   ├── BadRequestError           400
    │   ├── AuthenticationError       401
    │   ├── PermissionDeniedError     403
    │   ├── NotFoundError             404
    │   ├── ConflictError             409
    │   ├── GoneError                 410
    │   ├── UnprocessableEntityError  422
    │   ├── RateLimitedError          429
    │   └── ServerError               500 and above
    ├── TransportError                no whole answer came
    │   ├── ConnectError              the request was never sent
    │   ├── ConnectionLostError       it may have arrived
    │   └── RequestTimeoutError       (also TimeoutError) `phase` says which wait ran out
    ├── ResponseDecodeError           an answer can't be read, or belongs to another request
    ├── ClientClosedError             the client was closed, before or during the call
    ├── WrongLoopError                the client belongs to another running event loop
    ├── TokenVerificationError        a session token was refused, `reason` says why
    │   ├── KeysUnavailableError      it could not be checked at all
    │   └── DenialsUnavailableError   what has been denied elsewhere isn't known
    ├── WebhookVerificationError      a webhook was refused
    ├── JournalError                  the journal of a bulk run can't be used
    └── BulkRevocationError           raised by `RevocationReport.raise_for_failures()`

`ApiError`, `TransportError` and `ResponseDecodeError` tell the `method`, the `path` (as sent,
without the base URL) and the `attempts` made. No error prints a secret: keys and tokens that the
service echoes are replaced in messages and attributes. They remain only in `errors`, `headers`,
`meta` and `body` of an `ApiError`, which no text shows. All errors can be pickled, so that they
cross process borders; the pickle holds redacted values.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final, Literal, Self

import attrs

from clerk_async.reasons import TokenVerificationReason
from clerk_async.redaction import ResponseHeaders, redact, redacted_value

__all__ = [
    "ApiError",
    "AuthenticationError",
    "BadRequestError",
    "ClerkError",
    "ClientClosedError",
    "ConfigurationError",
    "ConflictError",
    "ConnectError",
    "ConnectionLostError",
    "DenialsUnavailableError",
    "ErrorDetail",
    "GoneError",
    "InvalidArgumentError",
    "JournalError",
    "KeysUnavailableError",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimitedError",
    "RequestTimeoutError",
    "ResponseDecodeError",
    "ServerError",
    "TokenVerificationError",
    "TransportError",
    "UnprocessableEntityError",
    "WebhookVerificationError",
    "WrongLoopError",
]


@attrs.frozen
class ErrorDetail:
    """One entry of the service's `errors` array, as it came.

    Attributes:
        message: What went wrong, for developers.
        long_message: The same, in a full sentence for users.
        code: The machine-readable code, such as `resource_not_found`.
        meta: Further facts, often the name of the parameter; None where the service gave none.
    """

    message: str
    long_message: str
    code: str
    meta: Mapping[str, Any] | None = None

    def _redacted(self, secrets: Iterable[str]) -> ErrorDetail:
        told = (self.message, self.long_message, self.code, self.meta)
        return ErrorDetail(*redacted_value(told, secrets))


def _rebuild(cls: type[ClerkError], args: tuple[Any, ...], state: dict[str, Any]) -> ClerkError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ClerkError(Exception):
    """The root of everything that this library raises."""

    def _hide(self, secrets: tuple[str, ...], **hidden: Any) -> None:
        """Note what a pickle holds instead of `secrets`, while they are known."""
        for name, value in self.__dict__.items():
            if name not in hidden and (safe := redacted_value(value, secrets)) != value:
                hidden[name] = safe
        if hidden:
            self._hidden = hidden

    def __reduce__(self) -> tuple[Any, ...]:
        state = {**self.__dict__, **self.__dict__.get("_hidden", {})}
        state.pop("_hidden", None)
        return (_rebuild, (type(self), redacted_value(self.args), redacted_value(state)))

    def __copy__(self) -> Self:
        copied: Self = type(self).__new__(type(self), *self.args)
        copied.args = self.args
        copied.__dict__.update(self.__dict__)
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied = self.__copy__()
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied


class ConfigurationError(ClerkError):
    """The client can't be made from these settings: the key, the URL or an option is wrong."""


class InvalidArgumentError(ClerkError, ValueError):
    """An argument was refused before anything was sent."""


class _CallError(ClerkError):
    """What every error of a call knows: the request, and how often it was sent."""

    method: str
    """The HTTP method, or an empty string where the call was never begun."""
    path: str
    """The path as sent, without the base URL."""
    attempts: int
    """How many requests were made, the failed last one included."""
    _may_have_arrived: bool

    def __init__(
        self, message: str, *, method: str = "", path: str = "", attempts: int = 0
    ) -> None:
        super().__init__(message)
        self.method = method
        self.path = path
        self.attempts = attempts
        self._may_have_arrived = False

    def _tell_of(self, method: str, path: str, attempts: int, *, may_have_arrived: bool) -> None:
        """Write down which call this ended; the last is for bulk runs."""
        self.method = method
        self.path = redact(path)  # a token where the session's id should be is not kept
        self.attempts = attempts
        self._may_have_arrived = may_have_arrived


class ApiError(_CallError):
    """The service answered with an error status that has no class of its own.

    Attributes:
        status: The HTTP status; where none is given, the one that the class stands for, so that
            tests and result stores can make a `NotFoundError("gone")` of its message alone.
        errors: The entries of the body, unredacted; empty if the body held none.
        code: The code of the first entry, or None.
        trace_id: What Clerk's support asks for: `clerk_trace_id` of the body, else the `cf-ray`
            header, else None.
        retry_after: Seconds that the service asked to wait (RFC 9110, section 10.2.3), or None.
        headers: The headers of the answer, by names in any case, unredacted; their repr hides
            cookies and other secrets.
        meta: What the service says about the error as a whole, beside `errors`, unredacted (see
            https://clerk.com/docs/guides/development/errors/overview); None if it says nothing.
        body: The first 4096 bytes of the body, unredacted, such as the page of a proxy that
            answered in the service's place. Empty if there was none, or it could not be read.
    """

    status: int
    errors: tuple[ErrorDetail, ...]
    code: str | None
    trace_id: str | None
    retry_after: float | None
    headers: Mapping[str, str]
    meta: Mapping[str, Any] | None
    body: bytes
    _stands_for: ClassVar[int] = 0

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        errors: tuple[ErrorDetail, ...] = (),
        trace_id: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        meta: Mapping[str, Any] | None = None,
        body: bytes = b"",
        method: str = "",
        path: str = "",
        attempts: int = 0,
    ) -> None:
        super().__init__(message, method=method, path=path, attempts=attempts)
        self.status = self._stands_for if status is None else status
        self.errors = errors
        self.code = redact(errors[0].code) or None if errors else None
        self.trace_id = trace_id
        self.retry_after = retry_after
        self.headers = _NO_HEADERS if headers is None else headers
        self.meta = meta
        self.body = body


MAX_KEPT_BODY: Final = 4096
"""Bytes of a body that an `ApiError` keeps."""
_NO_HEADERS: Final = ResponseHeaders(())


class BadRequestError(ApiError):
    """400: the service refused the request as it stands."""

    _stands_for = 400


class AuthenticationError(ApiError):
    """401: the secret key was refused; for `refresh`, the session can't be refreshed."""

    _stands_for = 401


class PermissionDeniedError(ApiError):
    """403: the key is known, but may not do this."""

    _stands_for = 403


class NotFoundError(ApiError):
    """404: no such session, user, organization or JWT template in this instance."""

    _stands_for = 404


class ConflictError(ApiError):
    """409: the resource is locked or in a state that doesn't allow this."""

    _stands_for = 409


class GoneError(ApiError):
    """410: the operation no longer exists in this version of the API."""

    _stands_for = 410


class UnprocessableEntityError(ApiError):
    """422: a parameter was understood but isn't valid."""

    _stands_for = 422


class RateLimitedError(ApiError):
    """429: too many requests for this instance; `retry_after` says when to come back."""

    _stands_for = 429


class ServerError(ApiError):
    """500 and above: the service, or a proxy in front of it, failed."""

    _stands_for = 500


class TransportError(_CallError):
    """No whole answer came: the network, TLS or the proxy in between failed."""


class ConnectError(TransportError):
    """No connection could be made, so the request was never sent."""

    _is_final: bool

    def __init__(
        self,
        message: str,
        *,
        is_final: bool = False,
        method: str = "",
        path: str = "",
        attempts: int = 0,
    ) -> None:
        super().__init__(message, method=method, path=path, attempts=attempts)
        self._is_final = is_final  # a repeat mends no certificate


class ConnectionLostError(TransportError):
    """The connection broke after the request may have arrived: it may have taken effect."""


class RequestTimeoutError(TransportError, TimeoutError):
    """A wait ran out.

    Attributes:
        phase: `queue` (waiting for a free connection of the pool, or in a pause), `connect`
            (nothing was sent) or `response` (sent; it may have taken effect), which is the default.
    """

    phase: Literal["queue", "connect", "response"]

    def __init__(
        self,
        message: str,
        *,
        phase: Literal["queue", "connect", "response"] = "response",
        method: str = "",
        path: str = "",
        attempts: int = 0,
    ) -> None:
        super().__init__(message, method=method, path=path, attempts=attempts)
        self.phase = phase


class ResponseDecodeError(_CallError):
    """An answer came that can't be read as what was asked for; its status was no error.

    So is an answer about another session, user or client than the one asked for. Sent once: a
    request that was answered is never repeated for it.

    Attributes:
        json_path: Where in the body, such as `$.data[3].status`; `$` for the whole of it.
        session_id: The session's id, if it could be read all the same.
        status: The HTTP status of the answer; 0 if even that could not be read.
    """

    json_path: str
    session_id: str | None
    status: int

    def __init__(
        self,
        message: str,
        *,
        json_path: str = "$",
        session_id: str | None = None,
        status: int = 200,
        method: str = "",
        path: str = "",
        attempts: int = 0,
    ) -> None:
        super().__init__(message, method=method, path=path, attempts=attempts)
        self.json_path = json_path
        self.session_id = None if session_id is None else redact(session_id)
        self.status = status


class ClientClosedError(ClerkError):
    """The client was closed before the call, or while it was in flight."""


class WrongLoopError(ClerkError):
    """The client is in use in another event loop that is running: each loop needs its own.

    Also where none of asyncio's is running, such as under trio.
    """


class TokenVerificationError(ClerkError):
    """A session token was refused.

    Attributes:
        reason: Why; its values equal those of Clerk's own SDKs where they have one.
    """

    reason: TokenVerificationReason

    def __init__(self, message: str, *, reason: TokenVerificationReason) -> None:
        super().__init__(message)
        self.reason = reason


class KeysUnavailableError(TokenVerificationError):
    """The keys can't be had, so the token could not be checked: it says nothing about the user.

    Attributes:
        cause: Why the fetch of the keys failed, such as a `ConnectError`, or an
            `AuthenticationError` where the secret key was refused; None where the answer was no
            key set, or nothing of this library's.
    """

    cause: ClerkError | None

    def __init__(
        self, message: str, *, reason: TokenVerificationReason, cause: ClerkError | None = None
    ) -> None:
        super().__init__(message, reason=reason)
        self.cause = cause


class DenialsUnavailableError(TokenVerificationError):
    """What other processes have denied isn't known well enough to let anybody in.

    Only a verifier with `denials_max_age` raises it: its knowledge is older than that. It says
    nothing about the user: answer 503.
    """


class WebhookVerificationError(ClerkError):
    """A webhook was refused: a header, the signature, the time or the body is wrong. Answer 400."""


class JournalError(ClerkError):
    """The journal of a bulk run can't be read, written or trusted."""
