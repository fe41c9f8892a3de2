"""What aiohttp raises, in our own terms, and without what it knows of our headers."""

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
"""OpenSSL's verdicts of a strict check alone: from a path length without its key usage (80) to
explicit curve parameters (94), in the header x509_vfy.h."""
_QUOTATION: Final = re.compile(r"[\s:]+(?:bytearray\()?b?[\"']")
_KNOWING_OUR_HEADERS: Final = frozenset({"aiohttp", "aiosignal", "clerk_async"})


def translated(  # noqa: PLR0911 - a table
    error: Exception, *, is_connecting: bool
) -> TransportError | ResponseDecodeError:
    """Say in our own terms what a low-level exception means for a request.

    Args:
        error: What aiohttp raised.
        is_connecting: Whether nothing of the request can have been sent.
    """
    if isinstance(error, ResponseDecodeError):
        error.__traceback__ = error.__context__ = None  # which hold aiohttp's answer
        return error
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return RequestTimeoutError("no connection within the time allowed", phase="connect")
    if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ClientError):
        return RequestTimeoutError("no whole answer within the time allowed", phase="response")
    if isinstance(error, aiohttp.ClientSSLError) or _refuses_us(error):
        return ConnectError(f"TLS failed: {_told(error)} ({_remedy(error)})", is_final=True)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return ConnectError(
            f"the proxy refused to connect: {error.status}",
            is_final=error.status < _FIRST_SERVER_ERROR,  # a repeat mends no credentials
        )
    if isinstance(error, aiohttp.ClientResponseError | UnparsableBodyError) and not is_connecting:
        reason = error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)
        return ResponseDecodeError(
            f"the answer can't be parsed: {_unquoted(reason)}", status=status_of(error)
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        return ConnectError(f"can't connect to {error.host}:{error.port}: {_why(error.os_error)}")
    if is_connecting:  # as where a proxy hangs up, or answers CONNECT with what is no HTTP
        return ConnectError(f"can't connect: {_told(error)}")
    return ConnectionLostError(f"the connection was lost: {_told(error)}")


def _refuses_us(error: Exception) -> bool:
    """Whether the server's TLS turned us away after we had begun to speak.

    In TLS 1.3 a server judges the client's certificate last, and reads no request before
    (RFC 8446, section 4.4.2).
    """
    cause = error.__cause__
    return isinstance(cause, ssl.SSLError) and bool(_REFUSAL.search(cause.reason or ""))


def _remedy(error: Exception) -> str:
    """Say what to do about a failure of TLS."""
    refused = getattr(error, "certificate_error", None)
    if getattr(refused, "verify_code", 0) in _STRICT_CODES:
        return (
            "Python 3.13 and later check certificates strictly, and this authority's don't pass: "
            "have them issued anew, or hand in an ssl_context without ssl.VERIFY_X509_STRICT"
        )
    if "SSL_CERT_FILE" in os.environ:
        return (
            "if your network has its own certificate authority, it must be in the file that this "
            "program was told of, or in an ssl_context"
        )
    return (
        "if your network has its own certificate authority, SSL_CERT_FILE or ssl_context tells us "
        "of it"
    )


def _told(error: Exception) -> str:
    """Give an exception's own words, without what they may quote of request or answer."""
    if isinstance(error, aiohttp.ClientResponseError):
        return f"the answer isn't HTTP ({_unquoted(error.message)})"
    return redact(str(error)) or type(error).__name__


def _unquoted(reason: str) -> str:
    """Return what aiohttp's parser says, without the part of the answer that it quotes."""
    return redact(" ".join(_QUOTATION.split(reason, maxsplit=1)[0].split())) or "it isn't HTTP"


def drop_frames(error: BaseException) -> None:
    """Take aiohttp's frames, whose locals hold our headers, out of an error and what led to it.

    What the caller was handling when it called us, and so is chained too, is left alone.
    """
    links: list[BaseException | None] = [error]
    frames: set[FrameType] = {error.__traceback__.tb_frame} if error.__traceback__ else set()
    for link in links:
        if link is not None and link.__traceback__ and link.__traceback__.tb_frame in frames:
            frames.update(frame for frame, _ in walk_tb(link.__traceback__))
            link.__traceback__ = _of_others(link.__traceback__)
            links += [link.__cause__, link.__context__]


def _of_others(traceback: TracebackType | None) -> TracebackType | None:
    """Keep the frames that are neither aiohttp's nor ours, such as those of a user's hook."""
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
    """Say why there's no connection, in the system's words rather than asyncio's."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return redact(error.strerror or str(error)) or type(error).__name__
