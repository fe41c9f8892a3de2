"""All exceptions that this library raises, in one tree.

::

    ClerkError
    ├── ConfigurationError            a client can't be created with these settings
    ├── InvalidArgumentError          (also ValueError) rejected before anything was sent
    ├── ApiError                      the service returned an error status
    │   ├── BadRequestError           400
    │   ├── AuthenticationError       401
    │   ├── PermissionDeniedError     403
    │   ├── NotFoundError             404
    │   ├── ConflictError             409
    │   ├── GoneError                 410
    │   ├── UnprocessableEntityError  422
    │   ├── RateLimitedError          429
    │   └── ServerError               500 and above
    ├── TransportError                no complete response arrived
    │   ├── ConnectError              the request was never sent
    │   ├── ConnectionLostError       the request may have arrived
    │   └── RequestTimeoutError       (also TimeoutError) `phase` says which wait timed out
    ├── ResponseDecodeError           a response can't be read, or belongs to another request
    ├── ClientClosedError             the client was closed, before or during the call
    ├── WrongLoopError                the client belongs to another running event loop
    ├── TokenVerificationError        a session token was rejected; `reason` says why
    │   ├── KeysUnavailableError      the token could not be checked at all
    │   └── DenialsUnavailableError   the denials of other processes aren't known
    ├── WebhookVerificationError      a webhook was rejected
    ├── JournalError                  the journal of a bulk run can't be used
    └── BulkRevocationError           raised by `RevocationReport.raise_for_failures()`

`ApiError`, `TransportError` and `ResponseDecodeError` have the `method`, the `path` (as sent,
without the base URL) and the number of `attempts`. No error prints a secret: keys and tokens that
the service echoes are replaced in messages and attributes. They remain only in `errors`, `headers`,
`meta` and `body` of an `ApiError`, which no message or repr shows. All errors can be pickled to
cross process boundaries; the pickle contains redacted values.
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
    """One entry of the service's `errors` array, unchanged.

    Attributes:
        message: What went wrong, for developers.
        long_message: What went wrong, in a full sentence for users.
        code: The machine-readable code, such as `resource_not_found`.
        meta: More details, often the name of a parameter; None if the service sent none.
    """

    message: str
    long_message: str
    code: str
    meta: Mapping[str, Any] | None = attrs.field(default=None, hash=False)

    def _redacted(self, secrets: Iterable[str]) -> ErrorDetail:
        told = (self.message, self.long_message, self.code, self.meta)
        return ErrorDetail(*redacted_value(told, secrets))


def _rebuild(cls: type[ClerkError], args: tuple[Any, ...], state: dict[str, Any]) -> ClerkError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ClerkError(Exception):
    """The base class of all exceptions that this library raises."""

    def _hide(self, secrets: tuple[str, ...], **hidden: Any) -> None:
        """Compute the values that a pickle contains instead, while `secrets` are known."""
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
    """A client can't be created with these settings: the key, the URL or an option is wrong."""


class InvalidArgumentError(ClerkError, ValueError):
    """An argument was rejected before anything was sent."""


class _CallError(ClerkError):
    """The base class of a call's errors: they have its request and the number of attempts."""

    method: str
    """The HTTP method, or an empty string if the call never began."""
    path: str
    """The path as sent, without the base URL."""
    attempts: int
    """How many requests were made, including the last, which failed."""
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
        """Record which call this error ended; bulk runs use `may_have_arrived`."""
        self.method = method
        self.path = redact(path)  # a token where the session's id should be is not kept
        self.attempts = attempts
        self._may_have_arrived = may_have_arrived


class ApiError(_CallError):
    """The service returned an error status; common statuses have their own subclass.

    Attributes:
        status: The HTTP status; default: the status of the class, so that tests and result stores
            can create `NotFoundError("gone")` from its message alone.
        errors: The `errors` entries of the body, unredacted; empty if it has none.
        code: The code of the first entry, or None.
        trace_id: The id that Clerk's support asks for: the body's `clerk_trace_id`, else the
            `cf-ray` header, else None.
        retry_after: Seconds that the service asked to wait (RFC 9110, section 10.2.3), or None.
        headers: The response headers, case-insensitive by name, unredacted; the repr hides cookies
            and other secrets.
        meta: What the service says about the error as a whole, next to `errors`, unredacted (see
            https://clerk.com/docs/guides/development/errors/overview); None if it says nothing.
        body: The first 4096 bytes of the body, unredacted, for example the page of a proxy that
            responded instead of the service. Empty if there is no body or it can't be read.
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
    """400: the service rejected the request."""

    _stands_for = 400


class AuthenticationError(ApiError):
    """401: the service rejected the secret key; for `refresh`, the session can't be refreshed."""

    _stands_for = 401


class PermissionDeniedError(ApiError):
    """403: the key is valid but not allowed to do this."""

    _stands_for = 403


class NotFoundError(ApiError):
    """404: this instance has no such session, user, organization or JWT template."""

    _stands_for = 404


class ConflictError(ApiError):
    """409: the resource is locked, or in a state that doesn't allow this."""

    _stands_for = 409


class GoneError(ApiError):
    """410: the operation no longer exists in this version of the API."""

    _stands_for = 410


class UnprocessableEntityError(ApiError):
    """422: a parameter was understood but isn't valid."""

    _stands_for = 422


class RateLimitedError(ApiError):
    """429: too many requests for this instance; `retry_after` says how long to wait."""

    _stands_for = 429


class ServerError(ApiError):
    """500 and above: the service, or a proxy in front of it, failed."""

    _stands_for = 500


class TransportError(_CallError):
    """No complete response arrived: the network, TLS or a proxy failed."""


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
        self._is_final = is_final  # a retry doesn't help, for example against a bad certificate


class ConnectionLostError(TransportError):
    """The connection broke, perhaps after the request arrived: it may have taken effect."""


class RequestTimeoutError(TransportError, TimeoutError):
    """A wait timed out.

    Attributes:
        phase: `queue` (waiting for a free connection in the pool, or for the end of a pause),
            `connect` (nothing was sent) or `response` (the request was sent and may have taken
            effect). Default: `response`.
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
    """A response without an error status can't be decoded as the requested value.

    Also raised for a response about a session, user or client other than the requested one. The
    client never retries after this error, because the service has responded.

    Attributes:
        json_path: The place in the body, such as `$.data[3].status`; `$` is the whole body.
        session_id: The session's id, if it could be read anyway.
        status: The HTTP status of the response; 0 if even that could not be read.
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
    """The client was closed before the call or while it was in flight."""


class WrongLoopError(ClerkError):
    """The client is in use in another running event loop: each loop needs its own client.

    Also raised if no asyncio loop is running, for example under trio.
    """


class TokenVerificationError(ClerkError):
    """A session token was rejected.

    Attributes:
        reason: Why it was rejected; the same value as in Clerk's own SDKs, if they have one.
    """

    reason: TokenVerificationReason

    def __init__(self, message: str, *, reason: TokenVerificationReason) -> None:
        super().__init__(message)
        self.reason = reason


class KeysUnavailableError(TokenVerificationError):
    """The keys can't be fetched, so the token wasn't checked; this says nothing about the user.

    Attributes:
        cause: Why the keys can't be fetched, such as a `ConnectError`, or an `AuthenticationError`
            if the service rejected the secret key; None if the response wasn't a key set, or the
            cause isn't an error of this library.
    """

    cause: ClerkError | None

    def __init__(
        self, message: str, *, reason: TokenVerificationReason, cause: ClerkError | None = None
    ) -> None:
        super().__init__(message, reason=reason)
        self.cause = cause


class DenialsUnavailableError(TokenVerificationError):
    """The list of denials is too old for a token to be accepted.

    Only a verifier with `denials_max_age` raises this error: its copy of the denials of other
    processes is older than that. This says nothing about the user: respond with 503.
    """


class WebhookVerificationError(ClerkError):
    """A webhook's header, signature, time or body is invalid: respond with 400."""


class JournalError(ClerkError):
    """The journal of a bulk run can't be read, written or trusted."""
