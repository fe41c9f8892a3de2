"""Interrupts the sync client at every possible point, and checks what is left.

    python tests/strikes.py SCENARIO lines     at each line of our own frames in the calling thread
    python tests/strikes.py SCENARIO steps     at each bytecode step in them
    python tests/strikes.py SCENARIO instants  at random instants, by a real signal
    python tests/strikes.py SCENARIO loop      while the loop's thread is at each of its own lines

A strike is Ctrl-C, or an action of a signal handler: `… SCENARIO lines close_it`. A number at the
end limits the strikes, which are spread evenly from a random start; without it, every place is
struck.

The service is at `CLERK_API_URL`. After each strike, KeyboardInterrupt must be raised soon, and the
calls of another thread and later calls of this thread must end. The program prints what is wrong,
and at the end the number of strikes, the longest wait, and what is left in the client.
"""

from __future__ import annotations

import faulthandler
import gc
import io
import logging
import os
import random
import signal
import sys
import threading
import time
import warnings
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from running_time import RunningTime

import clerk_async
from clerk_async import (
    BadRequestError,
    ClientClosedError,
    Cookies,
    RateLimit,
    SessionsApi,
    TokenVerifier,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from types import FrameType

PACKAGE: Final = str(Path(clerk_async.__file__).parent)
SOON: Final = 4.0
"""Seconds of a running machine; the client itself waits at least 2 for requests in flight."""
LIMIT: Final = 600.0
"""Seconds after which the program prints where it hangs."""
PARTIES: Final = ["http://localhost:3000"]


class Struck(KeyboardInterrupt):
    """Our own kind of Ctrl-C."""


def say(*what: object) -> None:
    """Print a line at once."""
    sys.stdout.write(" ".join(map(str, what)) + "\n")
    sys.stdout.flush()


def new_client() -> SessionsApi:
    """Make a client whose bulk runs do not wait for the rate limit."""
    return SessionsApi(pool_size=4, trust_env=False, rate_limit=RateLimit(10_000, per=1.0))


running_time = RunningTime()
"""Ended before the program looks for threads that are left."""


class World:
    """The objects of a scenario: a client, session ids, a token, and another calling thread."""

    def __init__(self, ids: list[str], token: str) -> None:
        self.ids = ids
        self.token = token
        self.client = new_client()
        self.calls = 0
        self.is_over = threading.Event()
        self.neighbour = threading.Thread(target=self._call, daemon=True)
        self.begin()

    def begin(self) -> None:
        """Make sure that keys must be fetched, and that the client is not closed."""
        if self.client._thread._is_closed:
            self.client = new_client()
        self.verifier = TokenVerifier(sessions=self.client, authorized_parties=PARTIES)

    def _call(self) -> None:
        while not self.is_over.is_set():
            with suppress(ClientClosedError):
                self.client.get(self.ids[0])
            self.calls += 1
            time.sleep(0.0005)

    def check(self) -> list[str]:
        """Report what does not work any more."""
        wrong: list[str] = []
        began, seen = running_time(), self.calls
        if self.client.get(self.ids[0]).id != self.ids[0]:
            wrong.append("another session")
        while self.neighbour.is_alive() and self.calls < seen + 2:
            if running_time() > began + 10:
                wrong.append("the other thread is stuck")
                break
            time.sleep(0.0002)
        if (took := running_time() - began) > SOON:
            wrong.append(f"a later call took {took:.1f} s")
        return wrong


def get(world: World) -> None:
    """Get a session."""
    world.client.get(world.ids[1])


def revoke(world: World) -> None:
    """Revoke a session; the service rejects a second revocation."""
    with suppress(BadRequestError):
        world.client.revoke(world.ids[1])


def listing(world: World) -> None:
    """List a page, and its response details."""
    world.client.with_options(timeout=9.0).with_http_info.list(user_id="user_1", limit=1)


def iterate(world: World) -> None:
    """Read two pages."""
    assert len(list(world.client.iterate(user_id="user_1", page_size=2))) > 2


def iterate_and_leave(world: World) -> None:
    """Leave an iterator in the middle."""
    sessions: Any = world.client.iterate(user_id="user_1", page_size=2)
    next(sessions)
    sessions.close()


def revoke_many(world: World) -> None:
    """Revoke some sessions, including the parts that run in the caller's thread."""
    told: list[object] = []
    world.client.revoke_many(
        iter(world.ids[1:4]),
        on_outcome=told.append,
        on_progress=told.append,
        should_stop=lambda: False,
    )


def revoke_stream(world: World) -> None:
    """Revoke some sessions, outcome by outcome."""
    for _ in world.client.revoke_stream(iter(world.ids[1:4])):
        pass


def revoke_all(world: World) -> None:
    """Revoke the sessions of users."""
    world.client.revoke_all(user_ids=iter(["user_1"]), on_outcome=lambda _: None, dry_run=True)


def make(_: World) -> None:
    """Make a client and a verifier, and drop them."""
    client = new_client()
    TokenVerifier(sessions=client, authorized_parties=PARTIES)


def first_call(world: World) -> None:
    """Make the first call: after it the client works and can be closed."""
    with paused():
        world.client.close()
        world.client = new_client()
    world.client.get(world.ids[1])


def close(world: World) -> None:
    """Close a client in use; the second close completes an interrupted first one."""
    with paused():
        client, world.client = world.client, new_client()
    try:
        client.close()
    finally:
        with paused():
            client.close()
            try:
                client.get(world.ids[1])
            except ClientClosedError:
                pass
            else:
                say("a closed client works")


def verify(world: World) -> None:
    """Verify a token with keys that must still be fetched, while another thread does too."""
    verifier = world.verifier
    _beside(lambda: verifier.verify(world.token), lambda: verifier.verify(world.token).user_id)


def authenticate(world: World) -> None:
    """Authenticate a request in the same situation."""
    verifier = world.verifier
    request = {"Authorization": f"Bearer {world.token}"}
    _beside(
        lambda: verifier.authenticate_request(request),
        lambda: verifier.authenticate_request(request).is_signed_in,
    )


class RefreshingService:
    """The part of a client that a verifier needs to refresh a token; each token is usable once."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.calls = 0

    def _fetch_jwks(self) -> bytes:
        raise AssertionError

    get = _fetch_jwks

    def refresh(self, *_: object, **__: object) -> Cookies:
        """Return the new token after a moment."""
        time.sleep(0.002)
        self.calls += 1
        return Cookies(cookies=(f"__session={self.token}; Path=/",))


def refresh(world: World) -> None:
    """Refresh an expired token, while another thread does too: one refresh serves both."""
    with paused():
        service: Any = RefreshingService(world.token)
        verifier = TokenVerifier(
            jwt_key=os.environ["JWT_KEY"], sessions=service, authorized_parties=PARTIES
        )
        request = {"Cookie": f"__session={os.environ['EXPIRED']}; __refresh=rt_1"}
    _beside(
        lambda: verifier.authenticate_request(request, refresh_if_expired=True),
        lambda: verifier.authenticate_request(request, refresh_if_expired=True).is_signed_in,
    )
    if service.calls != 1:
        say("refreshes:", service.calls)


def _beside(act: Callable[[], object], other: Callable[[], object]) -> None:
    answers: list[object] = []
    thread = threading.Thread(target=lambda: answers.append(other()), daemon=True)
    with paused():
        thread.start()
    try:
        act()
    finally:
        with paused():
            thread.join(10)
            if not answers or not answers[0] or not other():
                say("a concurrent or later caller is stuck", answers)


# --- what a signal handler does ---


def interrupt(_: World) -> None:
    """Raise like Ctrl-C."""
    raise Struck


def close_it(world: World) -> None:
    """Close the client that is in use."""
    world.client.close()


def call(world: World) -> None:
    """Use the client."""
    assert world.client.get(world.ids[0]).id == world.ids[0]


def call_differently(world: World) -> None:
    """Use the client through its other entry points."""
    view = world.client.with_options(timeout=8.0)
    assert view.with_http_info.get(world.ids[0]).data.id == world.ids[0]
    assert next(iter(view.iterate(user_id="user_1"))).user_id == "user_1"
    assert view.revoke_many(iter(world.ids[:1]), dry_run=True).planned == 1


def use_another(world: World) -> None:
    """Make another client, use it, and close it."""
    with new_client() as client:
        client.get(world.ids[0])


def drop_another(world: World) -> None:
    """Leave another client, and an iterator of this one, to the garbage collector."""
    client = new_client()
    client.get(world.ids[0])
    sessions = world.client.iterate(user_id="user_1", page_size=1)
    next(sessions)
    del client, sessions
    gc.collect()


def verify_too(world: World) -> None:
    """Verify with the verifier that is in use, and read its key status."""
    assert world.verifier.verify(world.token).user_id == "user_1"
    assert world.verifier.key_status().kids


def log(_: World) -> None:
    """Log, as handlers do."""
    logger = logging.getLogger("clerk_async")
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler(io.StringIO()))
    logger.warning("a signal came")


ACTIONS: Final[dict[str, Callable[[World], None]]] = {
    each.__name__: each
    for each in (
        interrupt,
        close_it,
        call,
        call_differently,
        use_another,
        drop_another,
        verify_too,
        log,
    )
}

SCENARIOS: Final[dict[str, Callable[[World], None]]] = {
    each.__name__: each
    for each in (
        get,
        revoke,
        listing,
        iterate,
        iterate_and_leave,
        revoke_many,
        revoke_stream,
        revoke_all,
        make,
        first_call,
        close,
        verify,
        authenticate,
        refresh,
    )
}
WITH_A_NEW_CLIENT: Final = {"first_call", "close"}


class Striker:
    """Strikes once in each round, and records when."""

    def __init__(self) -> None:
        self.act: Callable[[], None] = lambda: None
        self.passed = 0
        self.where = ""
        self.at = 0.0
        self.is_armed = False

    def strike(self, where: str) -> None:
        """Record the time, and strike."""
        self.is_armed = False
        self.where, self.at = where, running_time()
        self.act()
        self.at = running_time()

    @contextmanager
    def round(self, number: int) -> Generator[None]:  # noqa: ARG002 - for those that count
        """Prepare one strike at the place with this number."""
        self.passed, self.where, self.is_armed = 0, "", True
        yield
        self.is_armed = False


class AtLines(Striker):
    """Strikes at the line, or step, with this number in our frames of this thread."""

    def __init__(self, *, steps: bool = False) -> None:
        super().__init__()
        self._event = "opcode" if steps else "line"
        if steps:  # since Python 3.13, a step that one thread runs untraced is traced in no thread
            threading.settrace(self._enter_elsewhere)
        self._number = 0

    @contextmanager
    def round(self, number: int) -> Generator[None]:
        with super().round(number):
            self._number = number
            sys.settrace(self._enter)
            try:
                yield
            finally:
                sys.settrace(None)

    def _enter(self, frame: FrameType, _: str, __: object) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(PACKAGE) or "/testing/" in name or is_in_a_finalizer(frame):
            return None
        frame.f_trace_opcodes = self._event == "opcode"
        return self._at

    def _ignore(self, *_: object) -> None: ...

    def _enter_elsewhere(self, frame: FrameType, _: str, __: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        return self._ignore

    def _at(self, frame: FrameType, event: str, _: object) -> Any:
        if event == self._event:
            self.passed += 1
            if self.passed == self._number:
                stop_tracing(frame)
                self.strike(place_of(frame))
        return self._at


class AtInstants(Striker):
    """Strikes at a random instant, by the signal of a timer."""

    def __init__(self, longest: float) -> None:
        super().__init__()
        self._longest = longest
        self._random = random.Random(7)
        signal.signal(signal.SIGALRM, self._hear)

    @contextmanager
    def round(self, number: int) -> Generator[None]:
        with super().round(number):
            signal.setitimer(signal.ITIMER_REAL, self._random.uniform(1e-5, self._longest))
            yield
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _hear(self, _: int, frame: FrameType | None) -> None:
        if self.is_armed and not is_in_a_finalizer(frame):
            self.strike("" if frame is None else place_of(frame))


class InTheLoop(Striker):
    """Signals the calling thread while the loop's thread is at the line with this number."""

    def __init__(self) -> None:
        super().__init__()
        self._number = 0
        self._caller = threading.get_ident()
        signal.signal(signal.SIGINT, self._hear)
        threading.settrace(self._enter)

    @contextmanager
    def round(self, number: int) -> Generator[None]:
        with super().round(number):
            self._number = number
            yield

    def _enter(self, frame: FrameType, _: str, __: object) -> Any:
        name = frame.f_code.co_filename
        is_ours = name.startswith(PACKAGE) and "/testing/" not in name
        return self._at if is_ours and threading.current_thread().name == "clerk_async" else None

    def _at(self, _: FrameType, event: str, __: object) -> Any:
        if event == "line" and self.is_armed:
            self.passed += 1
            if self.passed == self._number:
                signal.pthread_kill(self._caller, signal.SIGINT)
                time.sleep(0.001)
        return self._at

    def _hear(self, _: int, frame: FrameType | None) -> None:
        if self.is_armed:
            self.strike("" if frame is None else place_of(frame))


current: Striker


@contextmanager
def paused() -> Generator[None]:
    """Do not strike while the result is checked."""
    was_armed, current.is_armed = current.is_armed, False
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        current.is_armed = was_armed
        sys.settrace(tracer if was_armed else None)


def stop_tracing(frame: FrameType | None) -> None:
    """Stop tracing, so that later code runs at its usual speed."""
    sys.settrace(None)
    while frame is not None:
        frame.f_trace = None
        frame = frame.f_back


def is_in_a_finalizer(frame: FrameType | None) -> bool:
    """Return whether Python would drop an exception raised here and print it instead."""
    while frame is not None:
        file = Path(frame.f_code.co_filename).name
        if frame.f_code.co_name == "__del__" or file in {"weakref.py", "_weakrefset.py"}:
            return True
        frame = frame.f_back
    return False


def place_of(frame: FrameType) -> str:
    """Return where a frame is."""
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"


def places(world: World, name: str, striker: Striker, at_most: int | None) -> Iterable[int]:
    """Return the places to strike: all, or the given number of them."""
    if isinstance(striker, AtInstants):
        return range(at_most or 300)
    if at_most is None:
        return count(1)
    for _ in range(2):  # since Python 3.13, the first round traces no steps
        with striker.round(-1):
            SCENARIOS[name](world)
    step = max(1, striker.passed // at_most)
    return range(random.randint(1, step), striker.passed + 1, step)


def strike_again_and_again(world: World, name: str, striker: Striker, at_most: int | None) -> None:
    """Run a scenario with one strike per round, until a round passes without a strike."""
    struck, longest, wrong = 0, 0.0, 0
    for number in places(world, name, striker, at_most):
        world.begin()
        try:
            with striker.round(number):
                SCENARIOS[name](world)
        except (Struck, ClientClosedError):
            pass
        took = running_time() - striker.at if striker.where else 0.0
        if not striker.where and at_most is None and not isinstance(striker, AtInstants):
            break
        world.begin()
        struck += bool(striker.where)
        longest = max(longest, took)
        complaints = world.check()
        if took > SOON:
            complaints.append(f"came out after {took:.1f} s")
        if complaints:
            wrong += 1
            say(number, striker.where, complaints)
    say(f"{name}: {struck} strikes, {wrong} wrong, at the most {longest * 1000:.0f} ms")


def main(name: str, kind: str, action: str = "interrupt", at_most: str | None = None) -> None:
    """Strike, and check what is left at the end."""
    global current  # noqa: PLW0603
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    ids = os.environ["IDS"].split()
    world = World(ids, os.environ["TOKEN"])
    kinds: dict[str, Callable[[], Striker]] = {
        "lines": AtLines,
        "steps": lambda: AtLines(steps=True),
        "instants": lambda: AtInstants(0.02),
        "loop": InTheLoop,
    }
    current = kinds[kind]()
    current.act = lambda: ACTIONS[action](world)
    if name not in WITH_A_NEW_CLIENT:
        world.client.get(ids[0])
        world.client.revoke_all(user_id="user_1", dry_run=True)  # Python reports a struck import
        world.neighbour.start()
    strike_again_and_again(world, name, current, None if at_most is None else int(at_most))
    threading.settrace(None)
    world.is_over.set()
    if world.neighbour.is_alive():
        world.neighbour.join()
    wire = world.client._async._shared._wire
    private = world.client._thread._private
    if wire is not None and private is not None:
        slots = wire.slots.free
        if (slots, len(wire.calls), len(private._under_way)) != (4, 0, 0):
            say("left:", slots, wire.calls, private._under_way)
    del wire, private
    world.client.close()
    gc.collect()
    running_time.__exit__()
    left = [thread.name for thread in threading.enumerate() if thread.name != "MainThread"]
    say("threads left:", left)


if __name__ == "__main__":
    warnings.simplefilter("error")
    main(*sys.argv[1:])
