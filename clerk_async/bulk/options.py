"""The options of a bulk run, in one value that is validated when it is created."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import attrs
from attrs.validators import optional

from clerk_async.bulk.journal import Journal
from clerk_async.bulk.report import RevocationOutcome, RevocationProgress
from clerk_async.config import RateLimit, check_integer, check_number, checked
from clerk_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    import os

CALLBACK_GRACE: Final = 2.0

OnOutcome = Callable[[RevocationOutcome], Awaitable[object] | object]
OnProgress = Callable[[RevocationProgress], Awaitable[object] | object]
ShouldStop = Callable[[], Awaitable[bool] | bool]


def _to_journal(value: str | os.PathLike[str] | Journal | None) -> Journal | None:
    return value if value is None or isinstance(value, Journal) else Journal(value)


def _check_kind(name: str, value: object, kind: type[Any]) -> None:
    if not isinstance(value, kind):
        raise InvalidArgumentError(f"{name} must be a {kind.__name__}, not {type(value).__name__}")


def _check_callable(name: str, value: object) -> None:
    if not callable(value):
        raise InvalidArgumentError(f"{name} must be callable, not {type(value).__name__}")


_CALLABLE = optional(checked(_check_callable))


@attrs.frozen(kw_only=True)
class RunOptions:
    """The options that all bulk runs share.

    Attributes:
        concurrency: Maximum number of concurrent requests; None adapts it to the latency, up to the
            pool's size.
        rate_limit: Used as given; None means the client's own, or four fifths of the key's limit.
        journal: The run skips what the journal lists as done, and adds what it does; may be given
            as a path.
        dry_run: Send no revocation and write nothing; sessions that would be revoked are `planned`.
        max_failures: Stop after this many failures; 0 and 1 both mean at the first.
        deadline: Stop after this many seconds.
        should_stop: Called before each send (in a dry run, before each send that would happen), and
            a few times a second while no request is in flight; True stops the run.
        on_outcome: Called with each outcome.
        on_progress: Called with a snapshot a few times a second.
        callback_grace: Seconds that a coroutine may take after the run was stopped; one that takes
            longer is cancelled, and its function is not called any more. None means any time.

    The callbacks may be coroutine functions. If one raises, the error is logged once and the run
    continues.

    Raises:
        InvalidArgumentError: If one of them is invalid.
    """

    concurrency: int | None = attrs.field(
        default=None, validator=optional(checked(check_integer, low=1))
    )
    rate_limit: RateLimit | None = attrs.field(
        default=None, validator=optional(checked(_check_kind, kind=RateLimit))
    )
    journal: Journal | None = attrs.field(default=None, converter=_to_journal)
    dry_run: bool = attrs.field(default=False, validator=checked(_check_kind, kind=bool))
    max_failures: int | None = attrs.field(
        default=None, validator=optional(checked(check_integer, low=0))
    )
    deadline: float | None = attrs.field(default=None, validator=optional(checked(check_number)))
    should_stop: ShouldStop | None = attrs.field(default=None, validator=_CALLABLE)
    on_outcome: OnOutcome | None = attrs.field(default=None, validator=_CALLABLE)
    on_progress: OnProgress | None = attrs.field(default=None, validator=_CALLABLE)
    callback_grace: float | None = CALLBACK_GRACE
