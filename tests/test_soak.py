"""Clients that live, meet faults, close and open again, one after another, leave nothing behind.

`--soak-seconds 1800` makes it half an hour.
"""

from __future__ import annotations

import asyncio
import gc
import random
import resource
import threading
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

import attrs
import pytest
from chaos_proxy import ChaosProxy, clear, draw_way
from chaos_world import CALLS, MOST_AT_ONCE, RUNS, World, draw_fault, open_files

from clerk_async.testing import FakeClerk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from chaos_proxy import Way

LEAST_LIVES: Final = 9
"""The number of clients in the shortest soak."""
PAGE: Final = resource.getpagesize()


@attrs.frozen
class Sample:
    """What the process has while no client is open; `ours` counts objects of the library."""

    files: int
    threads: int
    objects: int
    ours: int
    memory: int

    @classmethod
    def take(cls) -> Sample:
        """Count, after garbage collection."""
        gc.collect()
        objects = gc.get_objects()
        ours = sum(map(is_ours, objects))
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(len(open_files()), threading.active_count(), len(objects), ours, pages * PAGE)


def is_ours(thing: object) -> bool:
    """Return whether an object belongs to the library, without the fake service."""
    module = str(type(thing).__module__)
    return module.startswith("clerk_async") and not module.startswith("clerk_async.testing")


def in_turn(ways: Sequence[Way]) -> Callable[[int], Way]:
    """Give connections these ways, one after another and again from the start."""
    return lambda number: ways[number % len(ways)]


async def one_life(number: int, fake: FakeClerk, proxy: ChaosProxy, folder: Path) -> None:
    """Let a client live through several rounds of faults, and check its books."""
    draw = random.Random(f"soak {number}")
    proxy.seed = str(number)
    world = World(
        fake, proxy, f"k{number}x", folder, is_sync=number % 3 == 2, pool_size=draw.choice((2, 10))
    )
    for _ in range(draw.randrange(2, 7)):
        found = [draw_way(draw) for _ in range(7)]
        proxy.way_of = clear if draw.random() < 0.3 else in_turn(found)
        fake.clear_faults()
        fake.inject(draw_fault(draw))
        await world.calls(
            [(draw.choice(CALLS), None) for _ in range(draw.randrange(4, MOST_AT_ONCE))]
        )
        if draw.random() < 0.3:
            await world.bulk(draw.choice(RUNS), draw.randrange(4, 30), 0.3)
    await world.settle()


def forget(fake: FakeClerk, proxy: ChaosProxy, folder: Path) -> None:
    """Remove everything of a finished life from the service and the proxy."""
    proxy.drop_all()
    proxy.forget()
    fake.clear_faults()
    fake.requests.clear()
    for session_id in fake.sessions:
        fake.remove_session(session_id)
    for user_id in list(fake._state.users):
        fake.remove_user(user_id)
    for path in folder.iterdir():
        path.unlink()


def grows(samples: Sequence[Sample], name: str, share: float, floor: int) -> bool:
    """Return whether a count is larger in the last third than in the one before, beyond noise."""
    third = len(samples) // 3
    before = median(getattr(sample, name) for sample in samples[third : 2 * third])
    after = median(getattr(sample, name) for sample in samples[2 * third :])
    return bool(after > before * (1 + share) + floor)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Set the length of the soak, and extra time for its last client on a busy machine."""
    seconds = float(metafunc.config.getoption("soak_seconds") or 0)
    limit = pytest.mark.timeout(seconds + 120)
    metafunc.parametrize("seconds", [pytest.param(seconds, id=f"{seconds:g}s", marks=limit)])


@pytest.fixture
def _only_newer_objects() -> Iterator[None]:
    """Let the garbage collector skip what other tests have left: a sample then takes no second."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.promise("nothing-grows")
@pytest.mark.slow
@pytest.mark.usefixtures("_only_newer_objects")
def test_nothing_grows(tmp_path: Path, seconds: float) -> None:
    """Memory, objects, file descriptors and threads stay constant over many clients' lives."""
    ends_at = time.monotonic() + seconds
    samples: list[Sample] = []
    with FakeClerk() as fake, ChaosProxy(fake.port) as proxy:
        while time.monotonic() < ends_at or len(samples) < LEAST_LIVES:
            asyncio.run(one_life(len(samples), fake, proxy, tmp_path))
            forget(fake, proxy, tmp_path)
            samples.append(Sample.take())
    assert not grows(samples, "files", 0, 0), samples
    assert not grows(samples, "threads", 0, 0), samples
    assert not grows(samples, "objects", 0.01, 1_000), samples
    assert not grows(samples, "ours", 0, 0), samples
    assert not grows(samples, "memory", 0.05, 4 * 2**20), samples
