"""The exit codes, in one place, and which error leads to which.

====  ==============================================================================
code  meaning
====  ==============================================================================
0     done
1     some sessions failed, the service or a check said no, or nothing matched
2     usage: an argument, a file or a setting is wrong, or nobody confirmed
3     the service rejected the secret key
4     the service or the network is out of reach
130   interrupted by Ctrl-C, SIGTERM or SIGHUP; the command that resumes is printed
====  ==============================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from clerk_async.bulk.report import RevocationReport
    from clerk_async.errors import ClerkError

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
KEY_REFUSED: Final = 3
OUT_OF_REACH: Final = 4
INTERRUPTED: Final = 130


class Refused(click.ClickException):
    """A command that can't continue for a reason other than its usage: exit code 2."""

    exit_code = USAGE


def exit_code_of(error: ClerkError) -> int:
    """Return the exit code for an error that ended a command."""
    from clerk_async.errors import (  # noqa: PLC0415 - attrs, not for help
        ConfigurationError,
        InvalidArgumentError,
        JournalError,
        KeysUnavailableError,
    )
    from clerk_async.http.error_bodies import refuses_key  # noqa: PLC0415 - likewise

    cause = error.cause if isinstance(error, KeysUnavailableError) else error
    if isinstance(cause, ConfigurationError | InvalidArgumentError | JournalError):
        return USAGE
    if refuses_key(cause):
        return KEY_REFUSED
    return OUT_OF_REACH if is_out_of_reach(error) else FAILED


def exit_code_of_report(report: RevocationReport) -> int:
    """Return the exit code for the end of a bulk run that was not interrupted."""
    if report.ok:
        return DONE
    if report.stopped_by == "authentication":
        return KEY_REFUSED
    is_nothing_done = not (report.revoked or report.already_inactive or report.not_found)
    if (
        is_nothing_done
        and report.failures
        and all(is_out_of_reach(outcome.error) for outcome in report.failures)
    ):
        return OUT_OF_REACH
    return FAILED


def is_out_of_reach(error: ClerkError | None) -> bool:
    """Return whether the network or the service, rather than the request, is at fault."""
    from clerk_async.errors import (  # noqa: PLC0415 - attrs, not for help
        KeysUnavailableError,
        RateLimitedError,
        ServerError,
        TransportError,
    )

    return isinstance(error, TransportError | ServerError | RateLimitedError | KeysUnavailableError)
