"""Random operations over a faulty wire: what the client reports is what happened.

`--chaos-seeds N` runs N seeds instead of a few hundred, and searches N / 2 orders of events.
`--chaos-seed S` repeats one seed, and `--chaos-order S` repeats one part of the search.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pytest
from chaos_proxy import CLEAR, ChaosProxy, Way, clear, draw_way
from chaos_talk import HABITS
from chaos_world import CALLS, RUNS, World, draw_fault
from hypothesis import HealthCheck, Phase, settings, stateful
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK: Final = 20
"""Seeds in one test."""
ORDERS: Final = 60
"""Orders of events in one test."""
SEEDS_AN_ORDER: Final = 2
NUMBERS: Final = itertools.count()
EVERY_CHECK: Final = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Split the seeds into tests; only the first of them is part of the fast suite."""
    option = metafunc.config.getoption
    seed: int | None = option("chaos_seed")
    order: int | None = option("chaos_order")
    count = int(option("chaos_seeds") or 0)
    if "seeds" in metafunc.fixturenames:
        blocks = [range(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]
        if seed is not None or order is not None:
            blocks = [] if seed is None else [range(seed, seed + 1)]
        metafunc.parametrize(
            "seeds",
            [
                pytest.param(
                    block,
                    id=f"{block[0]}-{block[-1]}",
                    marks=[pytest.mark.slow] if block[0] else [],
                )
                for block in blocks
            ],
        )
    if "search" in metafunc.fixturenames:
        searches = list(range(max(1, count // (SEEDS_AN_ORDER * ORDERS))))
        if seed is not None or order is not None:
            searches = [] if order is None else [order]
        metafunc.parametrize("search", searches)


Service: TypeAlias = tuple[FakeClerk, ChaosProxy]


@pytest.fixture(scope="module")
def services() -> Iterator[tuple[Service, Service]]:
    """Yield two services, each behind a proxy: the second compresses its responses.

    Every seed leaves them as they were.
    """
    with (
        FakeClerk() as plain,
        ChaosProxy(plain.port) as one,
        FakeClerk(compress=True) as packing,
        ChaosProxy(packing.port) as other,
    ):
        yield (plain, one), (packing, other)


def forget(fake: FakeClerk, proxy: ChaosProxy) -> None:
    """Reset the service for the next world, which must not depend on the one before."""
    fake._armed._random.seed(0)
    fake.clear_faults()
    fake.requests.clear()
    proxy.forget()
    proxy.way_of = clear


async def live_through(seed: int, fake: FakeClerk, proxy: ChaosProxy, folder: Path) -> None:
    """Draw a world from a seed, run it, and check the books."""
    draw = random.Random(seed)
    proxy.seed = str(seed)
    ways = [draw_way(draw) for _ in range(400)]
    proxy.way_of = lambda number: ways[number % len(ways)]
    for _ in range(draw.choice((0, 1, 1, 2, 3))):
        fake.inject(draw_fault(draw))
    patience = draw.choice((0.1, 0.2, 1.0))
    if patience == 1 and draw.random() < 0.5:
        fake.inject(Fault.status(429, retry_after=draw.choice((1, 30)), probability=0.3))
    world = World(
        fake,
        proxy,
        f"s{seed}x",
        folder,
        is_sync=draw.random() < 0.2,
        attempts=draw.choice((1, 2, 3, 4)),
        pool_size=draw.choice((1, 2, 10)),
        patience=patience,
    )
    for _ in range(draw.choice((1, 2))):
        if draw.random() < 0.15:
            proxy.stop_listening()
        if draw.random() < 0.1:
            fake.drop_connections()
        plan = [
            (draw.choice(CALLS), draw.uniform(0, 0.2) if draw.random() < 0.15 else None)
            for _ in range(draw.randrange(3, 9))
        ]
        if draw.random() < 0.25 and patience < 1:  # a bulk run has no deadline here
            await world.bulk(draw.choice(RUNS), draw.randrange(2, 12), draw.choice((5.0, 0.1, 0.3)))
        await world.calls(plan)
        proxy.listen_again()
    if draw.random() < 0.15:
        plan = [(draw.choice(CALLS), None) for _ in range(4)]
        await world.calls(plan, close_after=draw.uniform(0, 0.1))
    await world.settle()


@pytest.mark.promise("books-agree", "sent-once", "deadline")
@pytest.mark.timeout(180)
def test_the_books_agree_under_random_faults(
    seeds: range,
    services: tuple[Service, Service],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After each seed's run, the client's report matches the state of the service.

    Nothing is lost, nothing is reported that did not happen, no create or refresh is sent twice if
    the first may have arrived, no deadline is exceeded by more than 5 %, and nothing is left open.
    """
    for seed in seeds:
        fake, proxy = services[seed % 2]
        try:
            asyncio.run(live_through(seed, fake, proxy, tmp_path))
            wrong = [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]
            assert not wrong, "a task, a callback or the service's own code failed"
        except BaseException as error:
            error.add_note(f"repeat with: pytest tests/test_chaos_wire.py --chaos-seed {seed}")
            raise
        finally:
            proxy.drop_all()
            forget(fake, proxy)


ways = st.builds(
    Way,
    latency=st.sampled_from((0.0, 0.01, 0.05)),
    bandwidth=st.sampled_from((None, 20_000.0)),
    cut_up=st.none() | st.integers(0, 1200),
    cut_down=st.none() | st.integers(0, 3000),
    ending=st.sampled_from(("fin", "reset", "hush")),
    refuse=st.sampled_from((False, False, False, True)),
) | st.builds(Way, habit=st.sampled_from(HABITS), late=st.sampled_from((0.0, 0.03, 0.1)))


class WireMachine(RuleBasedStateMachine):
    """Operations and faults in any order that hypothesis finds."""

    fake: FakeClerk
    proxy: ChaosProxy
    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.runner.get_loop()  # opens files, which the world must not count as its own
        self.ways: list[Way] = [CLEAR]
        self.world: World | None = None

    @initialize(is_sync=st.booleans(), attempts=st.integers(1, 4), pool_size=st.integers(1, 10))
    def begin(self, *, is_sync: bool, attempts: int, pool_size: int) -> None:
        """Make the client."""
        self.proxy.way_of = lambda number: self.ways[number % len(self.ways)]
        self.world = World(
            self.fake,
            self.proxy,
            f"m{next(NUMBERS)}x",
            self.folder,
            is_sync=is_sync,
            attempts=attempts,
            pool_size=pool_size,
        )

    @rule(found=st.lists(ways, min_size=1, max_size=4))
    def change_the_weather(self, found: list[Way]) -> None:
        """Give new connections these ways, in turn."""
        self.ways = found

    @rule()
    def clear_up(self) -> None:
        """Give new connections no faults."""
        self.ways = [CLEAR]

    @rule(number=st.integers(0, 10_000))
    def break_the_service(self, number: int) -> None:
        """Make the service fail now and then."""
        self.fake.inject(draw_fault(random.Random(number)))

    @rule()
    def mend_the_service(self) -> None:
        """Make the service work again."""
        self.fake.clear_faults()

    @rule()
    def drop_what_is_open(self) -> None:
        """Close every connection at the service."""
        self.fake.drop_connections()

    @rule(
        plan=st.lists(
            st.tuples(st.sampled_from(CALLS), st.none() | st.floats(0, 0.2)), min_size=1, max_size=6
        )
    )
    def call(self, plan: list[tuple[str, float | None]]) -> None:
        """Make concurrent calls."""
        assert self.world is not None
        self.runner.run(self.world.calls(plan))

    @rule(plan=st.lists(st.sampled_from(CALLS), min_size=1, max_size=4))
    def call_while_nobody_listens(self, plan: list[str]) -> None:
        """Make calls while the service is down."""
        assert self.world is not None
        self.proxy.stop_listening()
        try:
            self.runner.run(self.world.calls([(name, None) for name in plan]))
        finally:
            self.proxy.listen_again()

    @rule(
        method=st.sampled_from(RUNS),
        count=st.integers(1, 8),
        deadline=st.sampled_from((5.0, 0.1, 0.3)),
    )
    def run_in_bulk(self, method: str, count: int, deadline: float | None) -> None:
        """Make a bulk run."""
        assert self.world is not None
        self.runner.run(self.world.bulk(method, count, deadline))

    def teardown(self) -> None:
        """Compare the books."""
        try:
            if self.world is not None:
                self.runner.run(self.world.settle())
        finally:
            self.runner.close()
            self.proxy.drop_all()
            forget(self.fake, self.proxy)


@pytest.mark.promise("books-agree")
@pytest.mark.slow
@pytest.mark.timeout(600)  # shrinking a failure takes long
def test_the_books_agree_in_any_order(
    search: int, services: tuple[Service, Service], tmp_path: Path
) -> None:
    """The same, with operations and faults in orders that hypothesis searches."""
    machine: Any = seeded(search)(type("Machine", (WireMachine,), {}))
    machine.fake, machine.proxy = services[search % 2]
    machine.folder = tmp_path
    hypothesis: Any = stateful
    try:
        hypothesis.run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=ORDERS,
                stateful_step_count=12,
                database=None,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=EVERY_CHECK,
            ),
        )
    except BaseException as error:
        error.add_note(f"repeat with: pytest tests/test_chaos_wire.py --chaos-order {search}")
        raise
