"""How a token is refused: one short way to make each error, so that messages stay alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clerk_async.errors import KeysUnavailableError, TokenVerificationError
from clerk_async.reasons import TokenVerificationReason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clerk_async.errors import ClerkError

_SHOWN = 80


def refused(reason: TokenVerificationReason, message: str) -> TokenVerificationError:
    """Make the error for a token that was checked and not accepted."""
    return TokenVerificationError(message, reason=reason)


def malformed(message: str) -> TokenVerificationError:
    """Make the error for something that is no session token of Clerk's at all."""
    return TokenVerificationError(
        f"Not a session token: {message}.", reason=TokenVerificationReason.TOKEN_INVALID
    )


def unavailable(message: str, cause: ClerkError | None) -> KeysUnavailableError:
    """Make the error for a token that could not be checked."""
    return KeysUnavailableError(
        message, reason=TokenVerificationReason.JWK_FAILED_TO_LOAD, cause=cause
    )


def mismatch(kid: str | None, known: Iterable[str]) -> TokenVerificationError:
    """Make the error for a token whose key is none of the known ones."""
    named = "names no key" if kid is None else f"was signed with key {cut(kid)}"
    return refused(
        TokenVerificationReason.JWK_KID_MISMATCH,
        f"The token {named}, the keys here are {cut(', '.join(known))}: it belongs to another "
        "Clerk instance, or its key was retired.",
    )


def cut(value: object) -> str:
    """Show a value that came from outside: quoted, on one line and never long."""
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
