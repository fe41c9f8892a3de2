"""The thread behind a sync client: it starts with the first call and serves many threads.

Its event loop ends with `close`, or when the interpreter exits. After a fork, the child starts its
own thread and loop. Those of the parent don't run there, and the child touches nothing of theirs.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import os
import sys
import weakref
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from clerk_async.errors import ClientClosedError, ConfigurationError, WrongLoopError
from clerk_async.http.errand import Bell, LockBell, new_bell
from clerk_async.sync.fast_loop import loop_factory
from clerk_async.sync.private_loop import Crossing, PrivateLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

P = ParamSpec("P")
T = TypeVar("T")

GRACE: Final = 2.0
"""Seconds that a call interrupted by Ctrl-C may take to end."""
CLOSE_GRACE: Final = 5.0
"""Seconds that closing may take, including a running callback."""
EXIT_GRACE: Final = 1.0
"""Seconds that closing at exit may take."""


class LoopThread:
    """Runs coroutines for threads that have no event loop."""

    def __init__(self, name: str, on_close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        check_threads()
        self._name = name
        self._make = loop_factory()
        self._on_close = on_close
        self._privates: dict[int, PrivateLoop] = {}  # by process id; setdefault is atomic
        self._left_behind: list[PrivateLoop] = []
        self._is_closed = False
        _alive[id(self)] = weakref.ref(self)

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError(
            "a client and its parts can't be pickled or copied because they hold a thread and open "
            "connections: make one in each process"
        )

    def forget_parents(self, but: int | None = None) -> None:
        """Start anew in a child process, without touching the loops of its parents.

        Args:
            but: The id of a process whose loop is kept.
        """
        for pid in list(self._privates):
            private = None if pid == but else self._privates.pop(pid, None)
            if private is not None:
                self._left_behind.append(private)
                private.leave_behind()

    @property
    def _private(self) -> PrivateLoop | None:
        return self._privates.get(os.getpid())

    def private(self) -> PrivateLoop:
        """Return the loop, which starts with its first call.

        Raises:
            ClientClosedError: If the client was closed.
            WrongLoopError: If the caller is the loop's own thread, which would wait for itself.
        """
        pid = os.getpid()
        private = self._privates.get(pid)
        if private is None:
            check_threads()
            self.forget_parents(but=pid)  # after a fork that Python can't see, such as uWSGI's
            private = self._privates.setdefault(
                pid, PrivateLoop(self._name, self._make, self._on_close)
            )
        if self._is_closed:
            raise ClientClosedError("this client was closed")
        if _thread.get_ident() == private.ident:
            raise WrongLoopError(
                "a SessionsApi can't be called from its own event loop's thread (a trace hook?): "
                "the call would wait for itself"
            )
        return private

    def call(
        self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a coroutine function to its end, and return its result.

        An interruption (Ctrl-C) cancels it, waits up to `GRACE` seconds for it to end, and is then
        raised; a second interruption is raised at once.
        """
        private = self.private()
        bell: Bell | LockBell
        try:
            bell = private.bells.pop()
        except IndexError:
            bell = new_bell()
        crossing = Crossing(function, args, kwargs, bell=bell)
        try:
            private.hand_over(crossing)
            crossing.wait()
        except BaseException:
            if private.call_off(crossing):
                crossing.wait(GRACE)
            raise
        finally:
            crossing.lines.is_over = True
            if crossing.lines:
                crossing.lines.write()
            if type(bell) is Bell and not private.is_closing:
                private.bells.append(bell)
            del bell
        return crossing.outcome()

    def close(self, grace: float = CLOSE_GRACE) -> None:
        """End running calls, close connections and stop the loop; can be called twice.

        Raises:
            WrongLoopError: If the caller is the loop's own thread.
        """
        private = self._private
        if private is not None and _thread.get_ident() == private.ident:
            raise WrongLoopError("a SessionsApi can't be closed from its own event loop's thread")
        self._is_closed = True
        private = self._private  # it may be new, made by a thread that saw the client still open
        if private is not None:
            private.end(grace)

    def __del__(self) -> None:
        if sys.is_finalizing() or not hasattr(self, "_is_closed"):  # interrupted in __init__
            return
        _alive.pop(id(self), None)
        private = self._private
        if private is not None:  # the garbage collector runs in any thread, even the loop's own
            private.end(EXIT_GRACE)


_alive: Final[dict[int, weakref.ref[LoopThread]]] = {}
"""For the two process-wide hooks. They are registered once, on import, so that clients leave none
behind, and so that atexit handlers registered later, which run earlier, can still make calls."""


def _in_child() -> None:
    for each in list(_alive.values()):
        live = each()
        if live is not None:
            live.forget_parents()


def _at_exit() -> None:
    for each in list(_alive.values()):
        live = each()
        if live is not None:
            with contextlib.suppress(KeyboardInterrupt, SystemExit):  # signals only end the wait
                live.close(EXIT_GRACE)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
atexit.register(_at_exit)


def check_threads() -> None:
    """Check that a thread can run an event loop next to this one.

    Raises:
        ConfigurationError: If gevent or eventlet has replaced the threads of this process, or the
            modules that an event loop waits with, or if this interpreter allows no daemon threads.
    """
    if not getattr(_thread, "daemon_threads_allowed", lambda: True)():
        raise ConfigurationError(_NO_THREAD)
    remedy = None
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and any(map(monkey.is_module_patched, _NOT_TO_BE_PATCHED)):
        remedy = "patch_all(thread=False, select=False, queue=False)"
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is not None and patcher.is_monkey_patched("thread"):
        remedy = "monkey_patch(thread=False)"
    if remedy is not None:
        raise ConfigurationError(
            "SessionsApi needs real threads, but gevent or eventlet has patched them: "
            f"use {remedy}, or real threads"
        )


_NOT_TO_BE_PATCHED: Final = ("threading", "selectors", "queue")
_NO_THREAD: Final = (
    "SessionsApi needs a daemon thread, but this interpreter, an isolated sub-interpreter, allows "
    "none: use SessionsApi in the main interpreter"
)
