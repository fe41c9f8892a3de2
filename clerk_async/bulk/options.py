"""The arguments that all bulk runs share, checked before anything is sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import attrs

from clerk_async.bulk.journal import Journal
from clerk_async.bulk.report import RevocationOutcome, RevocationProgress
from clerk_async.config import RateLimit, check_integer, check_number
from clerk_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    import os

OnOutcome = Callable[[RevocationOutcome], Awaitable[object] | object]
OnProgress = Callable[[RevocationProgress], Awaitable[object] | object]
ShouldStop = Callable[[], Awaitable[bool] | bool]


@attrs.frozen
class RunOptions:
    """What a run was asked to do; see `clerk_async.bulk.revoke` for each."""

    concurrency: int | None = None
    rate_limit: RateLimit | None = None
    journal: Journal | None = None
    dry_run: bool = False
    max_failures: int | None = None
    deadline: float | None = None
    should_stop: ShouldStop | None = None
    on_outcome: OnOutcome | None = None
    on_progress: OnProgress | None = None


def check_options(
    *,
    concurrency: int | None,
    rate_limit: RateLimit | None,
    journal: str | os.PathLike[str] | Journal | None,
    dry_run: bool,
    max_failures: int | None,
    deadline: float | None,
    should_stop: ShouldStop | None,
    on_outcome: OnOutcome | None,
    on_progress: OnProgress | None,
) -> RunOptions:
    """Make one value of the arguments.

    Raises:
        InvalidArgumentError: If one can't be used.
    """
    if concurrency is not None:
        check_integer("concurrency", concurrency, low=1)
    if rate_limit is not None and not isinstance(rate_limit, RateLimit):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArgumentError(f"rate_limit must be a RateLimit, not {_kind(rate_limit)}")
    if not isinstance(dry_run, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArgumentError(f"dry_run must be a bool, not {_kind(dry_run)}")
    if max_failures is not None:
        check_integer("max_failures", max_failures, low=0)
    if deadline is not None:
        check_number("deadline", deadline)
    for name, value in (
        ("should_stop", should_stop),
        ("on_outcome", on_outcome),
        ("on_progress", on_progress),
    ):
        if value is not None and not callable(value):
            raise InvalidArgumentError(f"{name} must be callable, not {_kind(value)}")
    if journal is not None and not isinstance(journal, Journal):
        journal = Journal(journal)
    return RunOptions(
        concurrency=concurrency,
        rate_limit=rate_limit,
        journal=journal,
        dry_run=dry_run,
        max_failures=max_failures,
        deadline=deadline,
        should_stop=should_stop,
        on_outcome=on_outcome,
        on_progress=on_progress,
    )


def _kind(value: Any) -> str:
    return type(value).__name__
