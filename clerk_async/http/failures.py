"""Translates aiohttp's exceptions into our own, and removes references to our headers."""

from __future__ import annotations

import os
import re
import ssl
from traceback import walk_tb
from types import TracebackType
from typing import TYPE_CHECKING, Final

import aiohttp

from clerk_async.errors import (
    ConnectError,
    ConnectionLostError,
    RequestTimeoutError,
    ResponseDecodeError,
)
from clerk_async.http.connections import UnparsableBodyError, status_of
from clerk_async.redaction import redact

if TYPE_CHECKING:
    from types import FrameType

    from clerk_async.errors import TransportError

_FIRST_SERVER_ERROR: Final = 500
_REFUSAL: Final = re.compile("_ALERT_(?:[A-Z_]*CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED)")
_STRICT_CODES: Final = range(80, 95)
"""OpenSSL's error codes of strict checks only: from a path length without its key usage (80) to
explicit curve parameters (94), in the header x509_vfy.h."""
_QUOTATION: Final = re.compile(r"[\s:]+(?:bytearray\()?b?[\"']")
_KNOWING_OUR_HEADERS: Final = frozenset({"aiohttp", "aiosignal", "clerk_async"})


def translated(  # noqa: PLR0911 - a table
    error: Exception, *, is_connecting: bool, has_own_trust: bool
) -> TransportError | ResponseDecodeError:
    """Translate a low-level exception into our own error.

    Args:
        error: The exception that aiohttp raised.
        is_connecting: Whether nothing of the request can have been sent.
        has_own_trust: Whether the user's own `ssl_context` decides which certificates are trusted.
    """
    if isinstance(error, ResponseDecodeError):
        error.__traceback__ = error.__context__ = None  # they refer to aiohttp's response
        return error
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return RequestTimeoutError("no connection within the allowed time", phase="connect")
    if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ClientError):
        return RequestTimeoutError("no complete response in the allowed time", phase="response")
    if isinstance(error, aiohttp.ClientSSLError) or _refuses_us(error):
        remedy = _remedy(error, has_own_trust=has_own_trust)
        return ConnectError(f"TLS failed: {_told(error)} ({remedy})", is_final=True)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return ConnectError(
            f"the proxy refused to connect: {error.status}",
            is_final=error.status < _FIRST_SERVER_ERROR,  # a retry won't fix wrong credentials
        )
    if isinstance(error, aiohttp.ClientResponseError | UnparsableBodyError) and not is_connecting:
        reason = error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)
        return ResponseDecodeError(
            f"the response can't be parsed: {_unquoted(reason)}", status=status_of(error)
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        return ConnectError(f"can't connect to {error.host}:{error.port}: {_why(error.os_error)}")
    if is_connecting:  # for example a proxy closes, or its response to CONNECT isn't HTTP
        return ConnectError(f"can't connect: {_told(error)}")
    return ConnectionLostError(f"the connection was lost: {_told(error)}")


def _refuses_us(error: Exception) -> bool:
    """Whether the server rejected our certificate after the client began to send.

    In TLS 1.3, a server checks the client's certificate last, and reads no request before that
    (RFC 8446, section 4.4.2).
    """
    cause = error.__cause__
    return isinstance(cause, ssl.SSLError) and bool(_REFUSAL.search(cause.reason or ""))


def _remedy(error: Exception, *, has_own_trust: bool) -> str:
    """Return advice on a TLS failure."""
    refused = getattr(error, "certificate_error", None)
    if getattr(refused, "verify_code", 0) in _STRICT_CODES:
        return (
            "Python 3.13 and later check certificates strictly, and this authority's don't pass: "
            "have them reissued, or pass an ssl_context without ssl.VERIFY_X509_STRICT"
        )
    if has_own_trust:
        return (
            "if your network has its own certificate authority, load it into the ssl_context that "
            "the client was given"
        )
    if "SSL_CERT_FILE" in os.environ:
        return (
            "if your network has its own certificate authority, add it to the certificate file "
            "that this program uses, or pass an ssl_context"
        )
    return (
        "if your network has its own certificate authority, set SSL_CERT_FILE or pass an "
        "ssl_context"
    )


def _told(error: Exception) -> str:
    """Return an exception's message, without anything it may quote of the request or response."""
    if isinstance(error, aiohttp.ClientResponseError):
        return f"the response isn't HTTP ({_unquoted(error.message)})"
    if isinstance(error, aiohttp.ServerDisconnectedError) and not isinstance(error.message, str):
        return "Server disconnected in the middle of the headers"  # which the message contains
    return redact(str(error)) or type(error).__name__


def _unquoted(reason: str) -> str:
    """Return the message of aiohttp's parser, without the part of the response that it quotes."""
    return redact(" ".join(_QUOTATION.split(reason, maxsplit=1)[0].split())) or "it isn't HTTP"


def drop_frames(error: BaseException) -> None:
    """Remove aiohttp's frames, whose locals contain our headers, from an error and its causes.

    An exception that the caller was already handling is chained too, but left unchanged.
    """
    links: list[BaseException | None] = [error]
    frames: set[FrameType] = {error.__traceback__.tb_frame} if error.__traceback__ else set()
    for link in links:
        if link is not None and link.__traceback__ and link.__traceback__.tb_frame in frames:
            frames.update(frame for frame, _ in walk_tb(link.__traceback__))
            link.__traceback__ = _of_others(link.__traceback__)
            links += [link.__cause__, link.__context__]


def _of_others(traceback: TracebackType | None) -> TracebackType | None:
    """Keep only frames that are neither aiohttp's nor ours, such as those of a user's hook."""
    kept: list[TracebackType] = []
    while traceback is not None:
        name: str = traceback.tb_frame.f_globals.get("__name__", "")
        if name.partition(".")[0] not in _KNOWING_OUR_HEADERS:
            kept.append(traceback)
        traceback = traceback.tb_next
    for entry in reversed(kept):
        traceback = TracebackType(traceback, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return traceback


def _why(error: OSError) -> str:
    """Return why there is no connection, in the system's words rather than asyncio's."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return redact(error.strerror or str(error)) or type(error).__name__
