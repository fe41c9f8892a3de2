"""All pages of a list, one after another."""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from clerk_async.models import Session, SessionPage, UnreadableItem

logger: logging.Logger = logging.getLogger("clerk_async")


async def iterate_pages(
    fetch: Callable[[int], Awaitable[SessionPage]],
    page_size: int,
    on_unreadable: Callable[[UnreadableItem], object] | None,
) -> AsyncGenerator[Session, None]:
    """Give every session of every page; one that moved to a later page meanwhile comes once.

    Args:
        fetch: Gives the page at an offset.
        page_size: How many were asked for.
        on_unreadable: Told of each entry that is no session; without it they are logged.
    """
    offset = 0
    seen: set[str] = set()
    while True:
        page = await fetch(offset)
        for item in page.unreadable:
            if on_unreadable is None:
                logger.warning(
                    "entry %d of a list is left out: %s", offset + item.index, item.error
                )
            elif inspect.isawaitable(told := on_unreadable(item)):
                await told
        for session in page.data:
            if session.id not in seen:
                seen.add(session.id)
                yield session
        arrived = len(page.data) + len(page.unreadable)
        offset += arrived
        is_last = arrived < page_size if page.total_count is None else offset >= page.total_count
        if is_last or not arrived:
            return
