"""The Clerk Sessions API for Python: async first, with bulk revocation and token verification.

The public API is the names in this module, in `clerk_async.errors` and in `clerk_async.testing`;
any other module may move. Names are imported on first use, so `import clerk_async` stays light.

To read the code, start with `sessions`, the eight operations as users see them. Then follow one
call down through `http`: `http.operations` (the table of requests), `http.calls` (one call, from
its arguments to its result), `http.retry` (when to retry), `http.transport` (one attempt, through
aiohttp), `http.connections` (the connection pool), `http.decode` (how responses are decoded) and
`http.identity` (whether a response belongs to its request). The other packages:

- `sync` wraps the same client for code without an event loop.
- `pacing` decides when the requests of a bulk run are sent; `bulk` is the run itself.
- `tokens` verifies session tokens without the network.
- `denials` lists what verifiers reject early; `shared` sends it between processes, through Redis;
  `webhooks` turns Clerk's events into denials.
- `cli` is the command line, and `testing` is a fake Clerk Sessions service for tests.
- All of them build on the modules `errors`, `models`, `config`, `reasons` and `redaction`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from clerk_async.version import __version__

if TYPE_CHECKING:
    from clerk_async.bulk.journal import Journal
    from clerk_async.bulk.report import (
        BulkRevocationError,
        RevocationOutcome,
        RevocationPause,
        RevocationProgress,
        RevocationReport,
        RevocationStatus,
    )
    from clerk_async.config import RateLimit, RetryPolicy, Timeouts
    from clerk_async.errors import (
        ApiError,
        AuthenticationError,
        BadRequestError,
        ClerkError,
        ClientClosedError,
        ConfigurationError,
        ConflictError,
        ConnectError,
        ConnectionLostError,
        DenialsUnavailableError,
        ErrorDetail,
        GoneError,
        InvalidArgumentError,
        JournalError,
        KeysUnavailableError,
        NotFoundError,
        PermissionDeniedError,
        RateLimitedError,
        RequestTimeoutError,
        ResponseDecodeError,
        ServerError,
        TokenVerificationError,
        TransportError,
        UnprocessableEntityError,
        WebhookVerificationError,
        WrongLoopError,
    )
    from clerk_async.models import (
        ApiResponse,
        Cookies,
        Session,
        SessionActivity,
        SessionPage,
        SessionStatus,
        SessionTask,
        Token,
        UnreadableItem,
    )
    from clerk_async.reasons import TokenVerificationReason
    from clerk_async.sessions import AsyncSessionsApi
    from clerk_async.shared.state import SharedState, SharedStatus
    from clerk_async.sync.client import SessionsApi
    from clerk_async.sync.sharing import TokenSource
    from clerk_async.tokens.access import reverification_error
    from clerk_async.tokens.claims import Actor, Organization, SessionClaims
    from clerk_async.tokens.key_set import KeySetStatus
    from clerk_async.tokens.requests import RequestState
    from clerk_async.tokens.sync_verifier import TokenVerifier
    from clerk_async.tokens.token_source import AsyncTokenSource
    from clerk_async.tokens.verifier import AsyncTokenVerifier
    from clerk_async.webhooks.events import WebhookEvent
    from clerk_async.webhooks.receiver import AsyncWebhookReceiver, WebhookReceiver

__all__ = [
    "Actor",
    "ApiError",
    "ApiResponse",
    "AsyncSessionsApi",
    "AsyncTokenSource",
    "AsyncTokenVerifier",
    "AsyncWebhookReceiver",
    "AuthenticationError",
    "BadRequestError",
    "BulkRevocationError",
    "ClerkError",
    "ClientClosedError",
    "ConfigurationError",
    "ConflictError",
    "ConnectError",
    "ConnectionLostError",
    "Cookies",
    "DenialsUnavailableError",
    "ErrorDetail",
    "GoneError",
    "InvalidArgumentError",
    "Journal",
    "JournalError",
    "KeySetStatus",
    "KeysUnavailableError",
    "NotFoundError",
    "Organization",
    "PermissionDeniedError",
    "RateLimit",
    "RateLimitedError",
    "RequestState",
    "RequestTimeoutError",
    "ResponseDecodeError",
    "RetryPolicy",
    "RevocationOutcome",
    "RevocationPause",
    "RevocationProgress",
    "RevocationReport",
    "RevocationStatus",
    "ServerError",
    "Session",
    "SessionActivity",
    "SessionClaims",
    "SessionPage",
    "SessionStatus",
    "SessionTask",
    "SessionsApi",
    "SharedState",
    "SharedStatus",
    "Timeouts",
    "Token",
    "TokenSource",
    "TokenVerificationError",
    "TokenVerificationReason",
    "TokenVerifier",
    "TransportError",
    "UnprocessableEntityError",
    "UnreadableItem",
    "WebhookEvent",
    "WebhookReceiver",
    "WebhookVerificationError",
    "WrongLoopError",
    "__version__",
    "reverification_error",
]

_HOME = {
    "clerk_async.bulk.journal": "Journal",
    "clerk_async.bulk.report": (
        "BulkRevocationError RevocationOutcome RevocationPause RevocationProgress "
        "RevocationReport RevocationStatus"
    ),
    "clerk_async.config": "RateLimit RetryPolicy Timeouts",
    "clerk_async.errors": (
        "ApiError AuthenticationError BadRequestError ClerkError ClientClosedError "
        "ConfigurationError ConflictError ConnectError ConnectionLostError "
        "DenialsUnavailableError ErrorDetail GoneError InvalidArgumentError JournalError "
        "KeysUnavailableError NotFoundError PermissionDeniedError RateLimitedError "
        "RequestTimeoutError ResponseDecodeError ServerError TokenVerificationError "
        "TransportError UnprocessableEntityError WebhookVerificationError WrongLoopError"
    ),
    "clerk_async.models": (
        "ApiResponse Cookies Session SessionActivity SessionPage SessionStatus SessionTask Token "
        "UnreadableItem"
    ),
    "clerk_async.sessions": "AsyncSessionsApi",
    "clerk_async.shared.state": "SharedState SharedStatus",
    "clerk_async.sync.client": "SessionsApi",
    "clerk_async.sync.sharing": "TokenSource",
    "clerk_async.tokens.access": "reverification_error",
    "clerk_async.tokens.claims": "Actor Organization SessionClaims",
    "clerk_async.tokens.key_set": "KeySetStatus",
    "clerk_async.reasons": "TokenVerificationReason",
    "clerk_async.tokens.requests": "RequestState",
    "clerk_async.tokens.sync_verifier": "TokenVerifier",
    "clerk_async.tokens.token_source": "AsyncTokenSource",
    "clerk_async.tokens.verifier": "AsyncTokenVerifier",
    "clerk_async.webhooks.events": "WebhookEvent",
    "clerk_async.webhooks.receiver": "AsyncWebhookReceiver WebhookReceiver",
}
_HOME_OF = {name: module for module, names in _HOME.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    module = _HOME_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(module), name)
    except ImportError as error:
        if "subinterpreter" not in str(error):
            raise
        refusal: Any = import_module("clerk_async.errors").ConfigurationError
        raise refusal(
            f"{name} can't be used in an isolated sub-interpreter ({error}): use it in the main "
            "interpreter"
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
