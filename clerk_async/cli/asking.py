"""Asking for confirmation before many sessions are revoked, if there is somebody to ask."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TextIO

from clerk_async.cli.client import endpoint, key_in_words
from clerk_async.cli.exits import Refused
from clerk_async.cli.output import cell
from clerk_async.cli.progress import duration, number
from clerk_async.cli.rates import default_rate_limit
from clerk_async.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from clerk_async.bulk.journal import Journal
    from clerk_async.cli.app import Settings
    from clerk_async.cli.client import Instance
    from clerk_async.cli.filters import Filters
    from clerk_async.cli.inputs import Ids
    from clerk_async.cli.output import Output
    from clerk_async.config import RateLimit

_NAMED_AT_MOST: Final = 3
_LISTS_A_USER: Final = 2
"""A user's sessions are listed before the first is revoked, and again after the last."""
_REQUESTS_A_USER: Final = 3
"""The requests that it takes to list all sessions of a user, if they fit on one page."""
_TERMINALS: Final = ("CONIN$",) if sys.platform == "win32" else ("/dev/tty",)


class Question:
    """The question whether to continue, and the facts that the user needs to answer it.

    Args:
        settings: The global options.
        instance: The instance that the run would affect.
        limit: The rate limit that was asked for; None for the library's default.
    """

    def __init__(self, settings: Settings, instance: Instance, limit: RateLimit | None) -> None:
        self._settings = settings
        self._limit = limit or default_rate_limit(endpoint(settings))
        key = key_in_words(settings)
        self._facts = [("key", key if instance.id is None else f"{key}; instance {instance.id}")]

    def about_journal(self, journal: Journal | None, done: int, left: int | None) -> None:
        """State how much the journal says is done."""
        if journal is not None:
            rest = "" if left is None else f", {number(left)} are left"
            told = f"{number(done)} sessions are done{rest}" if done else "nothing is done yet"
            self._facts.append(("journal", f"{journal.path}: {told}"))

    def about_filters(
        self,
        client_id: str | None,
        except_ids: Sequence[str],
        keep_newest: int | None,
        filters: Filters,
    ) -> None:
        """State which sessions are selected."""
        only = [f"of client {client_id}"] if client_id is not None else []
        only += filters.in_words()
        if only:
            self._facts.append(("only", "; ".join(only)))
        spared = list[str]()
        if except_ids:
            more = len(except_ids) - _NAMED_AT_MOST
            named = ", ".join(except_ids[:_NAMED_AT_MOST])
            spared.append(f"{named} and {more} more" if more > 0 else named)
        if keep_newest is not None:
            newest = "newest one" if keep_newest == 1 else f"{number(keep_newest)} newest"
            spared.append(f"each user's {newest}")
        if spared:
            self._facts.append(("except", "; ".join(spared)))

    def about_pace(self, count: int | None, *, users: int | None = None, listed: int = 0) -> None:
        """State how fast the run is, and how long it takes if that can be estimated.

        Args:
            count: How many sessions are left.
            users: How many users are to be listed, if their sessions can't be counted yet.
            listed: How many users were just listed and will be listed again by the run.
        """
        limit = self._limit
        pace = f"at most {number(limit.count)} requests in {limit.per:g} s"
        requests = count if users is None else users * _LISTS_A_USER
        if requests is not None:
            # A run smaller than the limit goes out at once; a larger one keeps the window full.
            requests += 2 * _REQUESTS_A_USER * listed
            seconds = max(1.0, (requests - limit.count) * limit.per / limit.count)
            least = "at least" if count is None else "about"
            pace = f"{pace}, so {least} {duration(seconds)}"
        self._facts.append(("pace", pace))

    def ask(self, what: str, ids: Ids | None) -> None:
        """Ask, and continue only after a yes.

        Args:
            what: What would happen, such as `Revoke 40,000 sessions from leaked.txt`.
            ids: The source of the ids: if it is stdin, the answer can't come from there.

        Raises:
            Refused: If the answer isn't yes, or there is nobody to ask.
        """
        out = self._settings.out
        what = cell(redact(f"{what} at {endpoint(self._settings).base_url}"))
        facts = list(self._facts)
        if ids is not None:
            facts += [("beware", warning) for warning in ids.lookalikes.warnings]
        width = max(len(name) for name, _ in facts)
        told = "".join(f"  {name.ljust(width)}  {cell(redact(text))}\n" for name, text in facts)
        confirm(
            out,
            what,
            told,
            hint=" (--dry-run shows what would be done)",
            is_stdin_taken=ids is not None and ids.is_stdin,
        )


def confirm(
    out: Output, what: str, told: str = "", *, hint: str = "", is_stdin_taken: bool = False
) -> None:
    """Ask, and continue only after a yes.

    Args:
        out: Where to ask.
        what: What would happen.
        told: More about it, in whole lines.
        hint: What else to suggest if there is nobody to ask.
        is_stdin_taken: Whether stdin is used for something other than answers.

    Raises:
        Refused: If the answer isn't yes, or there is nobody to ask.
    """
    answers = _answers(out, is_stdin_taken=is_stdin_taken)
    if answers is None:
        out.err.write(told)
        raise Refused(f"{what}: nobody can be asked here, so pass --yes to confirm{hint}")
    with _ctrl_c_ends_it():
        out.err.write(f"{what}\n{told}Continue? [y/N] ")
        answer = answers.readline()
    if answers is not sys.stdin:
        answers.close()
    if answer.strip().lower() not in {"y", "yes"}:
        if not answer.endswith("\n"):
            out.err.write("\n")
        raise Refused("not confirmed: nothing was done")


def _answers(out: Output, *, is_stdin_taken: bool) -> TextIO | None:
    if not out.err.is_terminal:
        return None
    if not is_stdin_taken:
        is_terminal = sys.stdin is not None and sys.stdin.isatty()  # pyright: ignore[reportUnnecessaryComparison] - it may be closed
        return sys.stdin if is_terminal else None
    for name in _TERMINALS:
        try:
            return open(name, encoding="utf-8")  # noqa: PTH123 - a device, closed after use
        except OSError:
            continue
    return None


@contextmanager
def _ctrl_c_ends_it() -> Generator[None]:
    """Let Ctrl-C end a question; inside a loop, asyncio would only cancel the waiting task."""
    is_ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if is_ignored or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # Ctrl-C came a moment ago
            raise KeyboardInterrupt
        yield
    finally:
        signal.signal(signal.SIGINT, before)
