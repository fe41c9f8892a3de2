"""The wording of the command line: options instead of parameters in the library's messages."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clerk_async.cli.output import Output
    from clerk_async.errors import ClerkError

STDIN: Final = "-"
"""The argument that means stdin where a file or a token is expected."""

_TYPED: Final[Mapping[str, str]] = {
    "session_id": "the session id",
    "user_id": "the user id",
    "client_id": "--client",
    "status": "--status",
    "active_organization_id": "--organization",
    "template_name": "--template",
    "token": "the token",
    "expired_token": "the expired token",
    "refresh_token": "the refresh token",
    "request_origin": "--origin",
    "request_originating_ip": "--originating-ip",
    "secret_key": "the secret key",
    "base_url": "--base-url",
    "journal": "--journal",
    "authorized_parties": "--authorized-party",
    "audience": "--audience",
    "issuer": "--issuer",
    "count": "N",
    "per": "S",
}
_AT_THE_START: Final = re.compile(rf"\A(?:{'|'.join(_TYPED)})(?= (?:is|must|holds|contains)\b)")
_ELSEWHERE: Final = (
    (", or pass allow_insecure=True if you must", ""),
    ("pass Journal(path, accept_other_key=True)", "pass --rotated-key"),
    ("with AsyncTokenVerifier or TokenVerifier", "with clerk-async verify-token"),
)


def as_typed(text: str) -> str:
    """Replace the library's parameter names by the names of options."""
    text = _AT_THE_START.sub(lambda match: _TYPED[match[0]], text)
    for said, typed in _ELSEWHERE:
        text = text.replace(said, typed)
    return text


def error_text(error: ClerkError) -> str:
    """Return an error's message; text from the service itself is never changed."""
    from clerk_async.errors import (  # noqa: PLC0415 - attrs, not for help
        ConfigurationError,
        InvalidArgumentError,
        JournalError,
    )

    text = "; ".join([str(error), *getattr(error, "__notes__", ())])
    is_ours = isinstance(error, ConfigurationError | InvalidArgumentError | JournalError)
    return as_typed(text) if is_ours else text


_LOGGER: Final = logging.getLogger("clerk_async")


_EACH_AT_MOST: Final = 3
"""This many warnings of one kind are shown; the rest are counted at the end."""


class _LogLines(logging.Handler):
    """Shows what the library logs as lines on stderr, without tracebacks."""

    def __init__(self, out: Output) -> None:
        super().__init__()
        self._out = out
        self._level_before = _LOGGER.level
        self._met: dict[str, int] = {}
        self._last: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        told = as_typed(record.getMessage())
        if record.levelno < logging.WARNING:
            self._out.debug(told)
            return
        count = self._met[record.msg] = self._met.get(record.msg, 0) + 1
        self._last[record.msg] = told
        if count <= _EACH_AT_MOST:
            self._out.note(f"note: {told}")

    def close(self) -> None:
        super().close()
        for kind, count in self._met.items():
            more = count - _EACH_AT_MOST
            if more > 0:
                self._out.note(f"note: {more:,} more like this one: {self._last[kind]}")
        self._met.clear()
        _LOGGER.setLevel(self._level_before)
        _LOGGER.propagate = True


def show_log(out: Output, *, is_verbose: bool = False) -> None:
    """Show what the library logs until `hide_log`: warnings, or everything."""
    hide_log()
    handler = _LogLines(out)
    handler.setLevel(logging.DEBUG if is_verbose else logging.WARNING)
    if is_verbose:
        _LOGGER.setLevel(logging.DEBUG)
    _LOGGER.addHandler(handler)
    _LOGGER.propagate = False


def hide_log() -> None:
    """Restore the library's log to its state before `show_log`."""
    for handler in list(_LOGGER.handlers):
        if isinstance(handler, _LogLines):
            _LOGGER.removeHandler(handler)
            handler.close()
