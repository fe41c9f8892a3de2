"""`revoke` and `revoke-all`: the checks before anything is sent, the question, the run."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, TypedDict

import attrs
import click

from clerk_async.bulk.journal import Journal
from clerk_async.cli.asking import Question
from clerk_async.cli.bulk_run import BulkRun
from clerk_async.cli.client import check_instance, endpoint, make_client
from clerk_async.cli.columns import SESSIONS
from clerk_async.cli.ending import Ending
from clerk_async.cli.exits import FAILED
from clerk_async.cli.filters import Filters
from clerk_async.cli.inputs import ids_from
from clerk_async.cli.journals import Resume, done_by, new_journal, remove_small
from clerk_async.cli.lookalikes import Lookalikes
from clerk_async.cli.progress import number, progress_view
from clerk_async.cli.rates import ASK_ABOVE, default_rate_limit, rate_limit_of
from clerk_async.config import SHARED_STATE_VARIABLE
from clerk_async.errors import ClerkError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from clerk_async.bulk.journal_file import RunKind
    from clerk_async.bulk.report import RevocationReport
    from clerk_async.cli.app import Settings
    from clerk_async.cli.inputs import Ids
    from clerk_async.cli.rates import RunOptions
    from clerk_async.config import RateLimit
    from clerk_async.sessions import AsyncSessionsApi


def revoke(
    settings: Settings,
    session_ids: Sequence[str],
    path: str | None,
    column: str | None,
    options: RunOptions,
) -> int:
    """Revoke sessions by their ids, and return the exit code.

    Raises:
        click.ClickException: If the input is invalid, or nobody confirmed.
        ClerkError: If the run could not start.
    """
    ids = ids_from(session_ids, path, column, what="session ids as arguments", option="--from")
    return _ByIds(settings, options, ids, session_ids, Filters()).run()


def revoke_all(
    settings: Settings,
    user_ids: Sequence[str],
    path: str | None,
    column: str | None,
    *,
    client_id: str | None,
    except_ids: Sequence[str],
    keep_newest: int | None,
    filters: Filters,
    options: RunOptions,
) -> int:
    """Revoke the live sessions of users or of a client, and return the exit code.

    Raises:
        click.ClickException: If the input is invalid, or nobody confirmed.
        ClerkError: If the run could not start.
    """
    ids = None
    if user_ids or path is not None or client_id is None:
        ids = ids_from(user_ids, path, column, what="users with --user", option="--users-from")
    elif column is not None:
        raise click.UsageError("--column needs --users-from")
    spared = Lookalikes(SESSIONS)
    for one in except_ids:
        spared.note(one)
    if spared.has_strangers:
        raise click.UsageError(f"--except would spare nothing: {'; '.join(spared.warnings)}")
    run = _OfUsers(settings, options, ids, user_ids, filters, client_id, except_ids, keep_newest)
    return run.run()


class _Selection(TypedDict):
    client_id: str | None
    except_session_ids: Sequence[str]
    created_before: datetime | None
    last_active_before: datetime | None
    actor: str | bool | None
    keep_newest: int | None


@attrs.define
class _ByIds:
    """A run of `revoke`.

    Attributes:
        kind: The kind of run, for the journal.
        settings: The global options.
        options: The options of the run.
        ids: The source of the ids; None if there are none to read.
        given: The ids that were arguments.
        filters: Which of the sessions found to select.
        journal: Records what is done, or None.
        done: What an earlier run has done.
        left: How many sessions are left; None while that is unknown.
    """

    kind: ClassVar[RunKind] = "revoke_many"

    settings: Settings
    options: RunOptions
    ids: Ids | None
    given: Sequence[str]
    filters: Filters
    journal: Journal | None = attrs.field(default=None, init=False)
    done: set[str] = attrs.field(factory=set[str], init=False)
    left: int | None = attrs.field(default=None, init=False)
    _lookalikes: Lookalikes = attrs.field(factory=lambda: Lookalikes(SESSIONS), init=False)

    @property
    def total(self) -> int | None:
        """How many sessions there are, if the library can't know."""
        return None if self.ids is None else self.ids.total

    @property
    def users(self) -> int | None:
        """How many users are to be listed, as far as that is known."""
        return None

    @property
    def lookalikes(self) -> Lookalikes | None:
        """The ids that look like something else; here, those that the run does not find."""
        return self._lookalikes

    async def look_at_lookalikes(
        self, sessions: AsyncSessionsApi, report: RevocationReport | None
    ) -> None:
        """Check whether the service knows the ids that look like something else."""

    @property
    def must_ask(self) -> bool:
        """Whether a large run needs confirmation."""
        return not (self.options.yes or self.options.dry_run)

    @property
    def limit(self) -> RateLimit | None:
        """The rate limit that was asked for; None for the library's default."""
        return rate_limit_of(self.options.rate, self.options.share, endpoint(self.settings))

    def run(self) -> int:
        """Check, ask, revoke, and report.

        Raises:
            click.ClickException: If the input is invalid, or nobody confirmed.
            ClerkError: If the run could not start.
        """
        options, ids = self.options, self.ids
        if options.journal is not None and options.no_journal:
            raise click.UsageError("--journal and --no-journal exclude each other")
        if options.rotated_key and options.journal is None:
            raise click.UsageError("--rotated-key needs --journal")
        where = endpoint(self.settings)
        if options.journal is not None:
            self.journal = Journal(options.journal, accept_other_key=options.rotated_key)
            self.done = done_by(
                self.journal, instance=where.fingerprint, run=self.kind, dry_run=options.dry_run
            )
        if ids is not None:
            # Before the event loop runs, because a read may wait, and Ctrl-C must end it.
            ids.check_not_empty()
            if self.must_ask:
                ids.has_more_than(ASK_ABOVE)
        return asyncio.run(self._run())

    async def _run(self) -> int:
        options = self.options
        async with make_client(self.settings, rate_limit=self.limit) as sessions:
            instance = await check_instance(self.settings, sessions)
            question = Question(self.settings, instance, self.limit)
            await self.prepare(sessions, question)
            is_own = not (options.journal or options.no_journal or options.dry_run)
            if is_own and (self.left is None or self.left > ASK_ABOVE):
                self.journal = new_journal(self.settings.out, self.kind)
                if self.journal is not None and self.left is not None:
                    self.settings.out.note(f"journal: {self.journal.path}")
            return await self._revoke(sessions)

    async def prepare(self, sessions: AsyncSessionsApi, question: Question) -> None:
        """Count the sessions, and ask if there are many."""
        del sessions
        if self.ids is None:
            return
        self.left = self.ids.left_after(self.done)
        if not self.must_ask:
            return  # don't read ahead either: typed ids are done at once
        if self.ids.has_more_than(ASK_ABOVE) if self.left is None else self.left > ASK_ABOVE:
            question.about_journal(self.journal, len(self.done), self.left)
            question.about_pace(self.left)
            question.ask(f"Revoke {self.ids.count} sessions from {self.ids.source}", self.ids)

    async def start(self, sessions: AsyncSessionsApi, run: BulkRun) -> RevocationReport:
        """Start the run."""
        assert self.ids is not None  # noqa: S101 - it has no other input
        whole = None
        if os.environ.get(SHARED_STATE_VARIABLE):
            whole = self.ids.whole  # the run denies all of them before it sends the first request
        return await sessions.revoke_many(
            self.given or whole or self.ids.read(run.interrupts.wait),
            journal=self.journal,
            dry_run=self.options.dry_run,
            max_failures=self.options.max_failures,
            deadline=self.options.seconds,
            **run.hooks,
        )

    async def _revoke(self, sessions: AsyncSessionsApi) -> int:
        options, ids, out = self.options, self.ids, self.settings.out
        is_chosen = options.journal is not None
        resume = Resume(
            self.settings,
            None if options.dry_run else self.journal,
            is_chosen=is_chosen,
            filters=self.filters,
            is_stdin=ids is not None and ids.is_stdin,
        )
        limit = self.limit or default_rate_limit(endpoint(self.settings))
        run = BulkRun(
            out,
            self.total,
            options.progress,
            resume.tell,
            limit.count / limit.per,
            options.max_failures,
            self.users,
            self.lookalikes,
        )
        async with run:
            run.report = await self.start(sessions, run)
        await self.look_at_lookalikes(sessions, run.report)
        if run.report is None:
            out.error(f"{run.trouble}; the run ended there")
            resume.tell()
            return FAILED
        if not run.count and ids is not None and ids.trouble is not None:
            raise ids.trouble
        ending = Ending.of(run, run.report, ids, is_dry=options.dry_run)
        ending.tell()
        if self.journal is not None and not is_chosen and self.left is None:
            remove_small(self.settings.out, self.journal, run.report, most=ASK_ABOVE)
        if ending.is_to_resume:
            resume.tell()
        return ending.code


@attrs.define
class _OfUsers(_ByIds):
    """A run of `revoke-all`.

    Attributes:
        client_id: Only sessions of this client.
        except_ids: Sessions to leave alone.
        keep_newest: How many of each user's newest sessions to leave alone as well.
    """

    kind: ClassVar[RunKind] = "revoke_all"

    client_id: str | None
    except_ids: Sequence[str]
    keep_newest: int | None

    @property
    def total(self) -> int | None:
        """See `_ByIds`."""
        return None

    @property
    def users(self) -> int | None:
        """See `_ByIds`."""
        return None if self.ids is None else self.ids.total

    @property
    def lookalikes(self) -> Lookalikes | None:
        """See `_ByIds`; here they are counted as they are read."""
        return None if self.ids is None else self.ids.lookalikes

    async def look_at_lookalikes(
        self, sessions: AsyncSessionsApi, report: RevocationReport | None
    ) -> None:
        """See `_ByIds`; one example of each kind decides for all of the kind."""
        found = self.lookalikes
        if found is None:
            return
        for kind, example in found.examples.items():
            is_known = report is None or not report.users_without_sessions
            if not is_known:
                with suppress(ClerkError):
                    page = await sessions.list(user_id=example, limit=1)
                    is_known = bool(page.data or page.unreadable)
            if is_known:
                found.drop(kind)

    async def prepare(self, sessions: AsyncSessionsApi, question: Question) -> None:
        """Count the sessions if there are few users, so that listing them first is cheap."""
        if not self.must_ask:
            return
        question.about_journal(self.journal, len(self.done), None)
        question.about_filters(self.client_id, self.except_ids, self.keep_newest, self.filters)
        ids = self.ids
        if ids is not None and ids.has_more_than(ASK_ABOVE):
            question.about_pace(None, users=ids.total)
            question.ask(f"Revoke every live session of {ids.count} users from {ids.source}", ids)
            return
        users = None if ids is None else ids.all()
        view = progress_view(
            self.options.progress, self.settings.out, users=None if users is None else len(users)
        )
        try:
            report = await sessions.revoke_all(
                user_ids=users,
                journal=self.journal,
                dry_run=True,
                on_progress=view.update,
                **self._selection(),
            )
        finally:
            view.close()
        for failure in report.failures:
            if failure.error is not None:
                raise failure.error  # without all sessions, the count is unknown
        self.left = report.planned
        if self.left > ASK_ABOVE:
            whose = f"client {self.client_id}"
            if users is not None:
                whose = f"{len(users)} users" if len(users) > 1 else f"user {users[0]}"
            question.about_pace(self.left, listed=1 if users is None else len(users))
            question.ask(f"Revoke the {number(self.left)} live sessions of {whose}", ids)

    async def start(self, sessions: AsyncSessionsApi, run: BulkRun) -> RevocationReport:
        """See `_ByIds`."""
        users = None
        if self.ids is not None:
            users = self.given or self.ids.read(run.interrupts.wait)
        return await sessions.revoke_all(
            user_ids=users,
            journal=self.journal,
            dry_run=self.options.dry_run,
            max_failures=self.options.max_failures,
            deadline=self.options.seconds,
            **self._selection(),
            **run.hooks,
        )

    def _selection(self) -> _Selection:
        filters = self.filters
        return {
            "client_id": self.client_id,
            "except_session_ids": self.except_ids,
            "created_before": filters.created_before,
            "last_active_before": filters.last_active_before,
            "actor": filters.actor,
            "keep_newest": self.keep_newest,
        }
