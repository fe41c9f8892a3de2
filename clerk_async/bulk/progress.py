"""How far a run is, how fast it goes, and when it will end."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from clerk_async.bulk.report import RevocationPause, RevocationProgress, RevocationStatus

if TYPE_CHECKING:
    from clerk_async.bulk.ledger import Ledger
    from clerk_async.bulk.work import Work
    from clerk_async.config import RateLimit
    from clerk_async.pacing.window import PauseReason

RATE_OVER: Final = 10.0
"""Seconds that the rate looks back."""
SAMPLES: Final = 200


class Meter:
    """Makes snapshots of a run."""

    def __init__(self, limit: RateLimit) -> None:
        self._look_back = max(RATE_OVER, limit.per)
        self._fastest = limit.count / limit.per
        self._samples: deque[tuple[float, int]] = deque(maxlen=SAMPLES)

    def snapshot(
        self,
        *,
        now: float,
        started_at: float,
        ledger: Ledger,
        work: Work,
        pause: tuple[float, PauseReason] | None,
    ) -> RevocationProgress:
        """Make a snapshot; the rate is that between this one and those of the last seconds."""
        samples = self._samples
        if not samples:
            samples.append((started_at, 0))
        while len(samples) > 1 and samples[1][0] <= now - self._look_back:
            samples.popleft()
        since, before = samples[0]
        tried = ledger.told - ledger.counts[RevocationStatus.NOT_ATTEMPTED]
        rate = (tried - before) / (now - since) if now > since else 0.0
        samples.append((now, tried))
        done = ledger.told + work.resumed
        total = work.total
        eta = None
        if total is not None:
            left = max(0, total - done)
            # a burst at the start of a window is faster than the run as a whole can be
            steady = min(rate, self._fastest)
            eta = 0.0 if not left else (left / steady if steady > 0 else None)
        return RevocationProgress(
            done=done,
            total=total,
            counts=dict(ledger.counts),
            resumed=work.resumed,
            rate=rate,
            eta=eta,
            pause=None if pause is None else RevocationPause(seconds=pause[0], reason=pause[1]),
            elapsed=now - started_at,
        )
