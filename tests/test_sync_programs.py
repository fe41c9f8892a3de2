"""Whole programs that use SessionsApi as programs do: they exit, fork and are interrupted."""

from __future__ import annotations

import importlib.util
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from programs import finish, run_program, start

from clerk_async.testing import Fault

if TYPE_CHECKING:
    from clerk_async.testing import FakeClerk

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("each_programs_loop")]

USE = """
import atexit, os, sys, threading, time
from clerk_async import *
client = SessionsApi()
print(client.get(sys.argv[1]).status)
"""
UNTIL_OTHER_THREADS_SLEEP = """
# If another thread waits for Python's lock during such a fork, the lock is broken in the child. A
# thread that waits for it looks again every 5 ms.
from pathlib import Path
quiet, before = 0, None
while quiet < 5:
    time.sleep(0.02)
    others = {each for each in Path("/proc/self/task").iterdir() if int(each.name) != os.getpid()}
    lines = [line for each in others for line in (each / "status").read_text().splitlines()]
    switches = sorted(line for line in lines if "ctxt" in line)
    quiet, before = quiet + 1 if switches == before else 0, switches
"""
ENDINGS = {
    "falls off its end": ("pass", 0, ""),
    "sys.exit": ("sys.exit(7)", 7, ""),
    "an exception": ("raise RuntimeError('mine')", 1, "RuntimeError: mine"),
    "a name that dies first": ("del client", 0, ""),
    "a closed client": ("client.close()", 0, ""),
    "a view alone": ("client = client.with_options(timeout=3); client.get(sys.argv[1])", 0, ""),
    "an open iterator": (
        "pages = client.iterate(user_id='user_1', page_size=1); next(pages)",
        0,
        "",
    ),
    "an atexit call": ("atexit.register(lambda: client.get(sys.argv[1]))", 0, ""),
    "an atexit call of a client not used before": (
        "other = SessionsApi(); atexit.register(other.get, sys.argv[1]); other.get(sys.argv[1])",
        0,
        "",
    ),
    "a callback that sleeps in a daemon thread": (
        """
is_called = threading.Event()
on_outcome = lambda _: is_called.set() or time.sleep(60)
work = lambda: client.revoke_many(sys.argv[1:], on_outcome=on_outcome)
threading.Thread(target=work, daemon=True).start()
is_called.wait()
""",
        0,
        "",
    ),
    "two clients": ("other = SessionsApi(); other.get(sys.argv[1])", 0, ""),
}


@pytest.mark.promise("unclosed-programs")
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_that_never_closes_exits_by_itself(ending: str, fake: FakeClerk) -> None:
    """Soon, with its own exit code, and without anything of ours on stderr."""
    session = fake.add_session(user_id="user_1").id
    fake.add_session(user_id="user_1")
    code, expected, said = ENDINGS[ending]
    ended = run_program(USE + code, fake, session)
    assert (ended.code, ended.out) == (expected, "active\n"), ended.err
    assert ended.err.strip().endswith(said)
    if not said:
        assert ended.err == ""
    fake.wait_for(lambda: fake.open_connections == 0)


@pytest.mark.promise("unclosed-programs")
def test_a_program_exits_quickly(fake: FakeClerk) -> None:
    """An open client costs less than a second at exit, even with an unfinished call."""
    session = fake.add_session().id
    fake.inject(Fault.hold(operation="revoke"))
    code = """

def work():
    try:
        client.revoke(sys.argv[1])
    except ClientClosedError:
        pass

threading.Thread(target=work, daemon=True).start()
sys.stdin.readline()
"""
    program = start(USE + code, fake, session)
    fake.wait_for(lambda: fake.held == 1, timeout=20)
    assert program.stdin is not None
    program.stdin.write("go\n")
    program.stdin.flush()
    ended = finish(program)
    assert (ended.code, ended.err) == (0, "")
    assert ended.seconds < 3.0
    fake.release()


@pytest.mark.promise("unclosed-programs")
def test_a_thread_may_outlive_the_main_one(fake: FakeClerk) -> None:
    """Threads that still run after the main one can make calls until they end."""
    session = fake.add_session().id
    url = fake.base_url.replace("127.0.0.1", "localhost")  # a name to look up at shutdown
    ended = run_program(
        """
        import sys, threading
        from clerk_async import ClientClosedError, SessionsApi
        main = threading.main_thread()
        first, late = SessionsApi(base_url=sys.argv[2]), SessionsApi(base_url=sys.argv[2])
        first.get(sys.argv[1])

        def work():
            main.join()
            for client in (first, late, SessionsApi(base_url=sys.argv[2])):
                try:
                    print(client.get(sys.argv[1]).status)
                except ClientClosedError as error:
                    print(error)

        threading.Thread(target=work).start()
        """,
        fake,
        session,
        url,
    )
    expected = ["active"] * 3
    if (3, 12) <= sys.version_info < (3, 12, 2):  # Python starts no thread so late, and we say so
        expected[1:] = ["no thread can be started: the program is ending"] * 2
    assert (ended.code, ended.out.splitlines(), ended.err) == (0, expected, "")


CHILDREN = {
    "uses and returns": ("assert client.get(sys.argv[1]).status == 'active'", 0),
    "uses and os._exit": ("client.get(sys.argv[1]); os._exit(5)", 5),
    "uses and sys.exit": ("client.get(sys.argv[1]); sys.exit(6)", 6),
    "uses and raises": ("client.get(sys.argv[1]); raise RuntimeError('mine')", 1),
    "merely inherits": ("pass", 0),
    "inherits and os._exit": ("os._exit(4)", 4),
    "inherits and sys.exit": ("sys.exit(3)", 3),
    "inherits and raises": ("raise RuntimeError('mine')", 1),
    "replaces": ("client = SessionsApi(); client.get(sys.argv[1]); client.close()", 0),
    "closes": ("client.close()", 0),
    "drops": ("del client; import gc; gc.collect()", 0),
}


@pytest.mark.promise("sync-surroundings")
@pytest.mark.parametrize("child", CHILDREN)
def test_a_forked_child_starts_afresh(child: str, fake: FakeClerk) -> None:
    """A child may use, replace, inherit or ignore the client, and the parent continues to work."""
    session = fake.add_session().id
    code, expected = CHILDREN[child]
    ended = run_program(
        f"""
{USE}
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of every fork beside threads
child = os.fork()
if child == 0:
    {code}
    sys.exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
for _ in range(3):
    print(client.get(sys.argv[1]).status)
""",
        fake,
        session,
    )
    assert ended.code == 0, ended.err
    assert ended.out.splitlines() == ["active", str(expected), *["active"] * 3]
    assert ended.err == "" or "mine" in ended.err
    parents = {r.connection for r in fake.requests} - {r.connection for r in fake.requests[1:-3]}
    assert len(parents) == 1, "the parent kept its connection"


FORKS_IN_MIDDLE = {
    "a stream": "for _ in client.revoke_stream(ids): fork()",
    "an iterator": "for _ in client.iterate(user_id='user_1', page_size=1): fork()",
    "a callback": "client.revoke_many(ids, on_outcome=lambda _: fork())",
}


@pytest.mark.promise("nobody-stranded")
@pytest.mark.parametrize("middle", FORKS_IN_MIDDLE)
def test_work_begun_before_a_fork_continues_only_in_the_parent(
    middle: str, fake: FakeClerk
) -> None:
    """In the child they raise rather than wait forever."""
    ids = [fake.add_session(user_id="user_1").id for _ in range(3)]
    ended = run_program(
        f"""
import os, sys, warnings
from clerk_async import *
warnings.simplefilter("ignore", DeprecationWarning)
client, ids, parent, told = SessionsApi(), sys.argv[1:], os.getpid(), []

def fork():
    if os.getpid() != parent:
        print("the child went on")
    for way in ("goes on", "exits"):
        child = os.fork()
        if child == 0:
            if way == "exits":
                sys.exit(7)
            return
        told.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

try:
    {FORKS_IN_MIDDLE[middle]}
except WrongLoopError as error:
    assert "parent process" in str(error)
    assert client.get(ids[0]).id == ids[0]
    sys.exit(5)
assert os.getpid() == parent
print(told, client.get(ids[0]).id == ids[0])
""",
        fake,
        *ids,
    )
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"{[5, 7] * 3} True\n"


@pytest.mark.promise("nobody-stranded")
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="watches the loop's thread")
def test_a_fork_outside_python_works(fake: FakeClerk) -> None:
    """A worker of uWSGI is forked like this: no hook runs, but the child works."""
    session = fake.add_session().id
    ended = run_program(
        f"""{USE}{UNTIL_OTHER_THREADS_SLEEP}
import ctypes
child = ctypes.PyDLL(None).fork()
if child == 0:
    print(client.get(sys.argv[1]).status)
    client.close()
    os._exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(client.get(sys.argv[1]).status)
""",
        fake,
        session,
    )
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == ["active", "active", "3", "active"]


@pytest.mark.promise("sync-surroundings")
def test_a_fork_during_calls_works(fake: FakeClerk) -> None:
    """A fork while other threads make calls leaves both sides working."""
    session = fake.add_session().id
    fake.latency = 0.01
    ended = run_program(
        """
        import os, sys, threading, warnings
        from clerk_async import SessionsApi
        warnings.simplefilter("ignore", DeprecationWarning)
        client = SessionsApi()
        stop = threading.Event()

        def work():
            while not stop.is_set():
                client.get(sys.argv[1])

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        children = []
        for _ in range(5):
            child = os.fork()
            if child == 0:
                for _ in range(3):
                    client.get(sys.argv[1])
                os._exit(0)
            children.append(child)
        print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
        stop.set()
        for thread in threads:
            thread.join()
        print(client.get(sys.argv[1]).status)
        """,
        fake,
        session,
    )
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == ["[0, 0, 0, 0, 0]", "active"]


@pytest.mark.promise("sync-surroundings")
def test_a_fork_while_another_thread_starts_the_loop_works(fake: FakeClerk) -> None:
    """Locks that this thread holds at the fork stay locked in the child forever."""
    session = fake.add_session().id
    ended = run_program(
        """
        import os, signal, sys, threading, warnings
        from clerk_async import SessionsApi
        warnings.simplefilter("ignore", DeprecationWarning)
        client = SessionsApi()
        make, is_starting, may_go_on = client._thread._make, threading.Event(), threading.Event()

        def make_slowly():
            is_starting.set()
            may_go_on.wait()
            return make()

        client._thread._make = make_slowly
        first = threading.Thread(target=client.get, args=sys.argv[1:])
        first.start()
        is_starting.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(15)
            client._thread._make = make
            os._exit(3 if client.get(sys.argv[1]).status == "active" else 4)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        may_go_on.set()
        first.join()
        print(client.get(sys.argv[1]).status)
        """,
        fake,
        session,
    )
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == ["3", "active"]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_pools_work(method: str, fake: FakeClerk, tmp_path: object) -> None:
    """A pool of worker processes, as in Celery and gunicorn."""
    session = fake.add_session().id
    program = f"{tmp_path}/program.py"
    text = f"""
import multiprocessing, sys, warnings
from clerk_async import SessionsApi
warnings.simplefilter("ignore", DeprecationWarning)
client = SessionsApi()

def work(session):
    return str(client.get(session).status)

if __name__ == "__main__":
    client.get(sys.argv[1])
    context = multiprocessing.get_context({method!r})
    with context.Pool(2) as pool:
        print(pool.map(work, [sys.argv[1]] * 4))
        pool.close()
        pool.join()
    print(client.get(sys.argv[1]).status)
"""
    with open(program, "w") as file:  # noqa: PTH123
        file.write(text)
    ended = run_program(
        f"import runpy, sys\nsys.argv[0] = {program!r}\nimport os\n"
        f"os.execv(sys.executable, [sys.executable, {program!r}, *sys.argv[1:]])",
        fake,
        session,
    )
    assert ended.code == 0, ended.err
    assert ended.out.splitlines() == [str(["active"] * 4), "active"]
    assert ended.err == ""


@pytest.mark.promise("sync-surroundings")
@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_ends_a_call(presses: int, fake: FakeClerk) -> None:
    """The call raises KeyboardInterrupt quickly, and its connection is released."""
    session = fake.add_session().id
    fake.inject(Fault.hold(operation="revoke", count=None))
    program = start(
        USE
        + """
client = SessionsApi(pool_size=1)
try:
    client.revoke(sys.argv[1])
except KeyboardInterrupt:
    print("interrupted", client.get(sys.argv[1]).id == sys.argv[1])
    sys.exit(130)
""",
        fake,
        session,
    )
    fake.wait_for(lambda: fake.held == 1, timeout=20)
    for _ in range(presses):
        program.send_signal(signal.SIGINT)
    ended = finish(program)
    if presses == 1:
        assert (ended.code, ended.out, ended.err) == (130, "active\ninterrupted True\n", "")
    assert ended.seconds < 3.0
    fake.wait_for(lambda: fake.open_connections == 0)


@pytest.mark.promise("sync-surroundings")
def test_a_sync_call_works_inside_a_running_loop(fake: FakeClerk) -> None:
    """As in a notebook, though it blocks the loop."""
    session = fake.add_session(user_id="user_1").id
    ended = run_program(
        """
        import asyncio, sys
        from clerk_async import SessionsApi
        client = SessionsApi()

        async def cell():
            print(client.get(sys.argv[1]).status)
            print(len(list(client.iterate(user_id="user_1"))))
            await asyncio.to_thread(client.get, sys.argv[1])

        asyncio.run(cell())
        asyncio.run(cell())
        """,
        fake,
        session,
    )
    assert (ended.code, ended.out, ended.err) == (0, "active\n1\n" * 2, "")


PATCHES = {
    "gevent": ("import gevent.monkey; gevent.monkey.patch_all()", "threading"),
    "gevent, but for threads and queues": (
        "import gevent.monkey; gevent.monkey.patch_all(thread=False, queue=False)",
        "selectors",
    ),
    "gevent, but for threads and selectors": (
        "import gevent.monkey; gevent.monkey.patch_all(thread=False, select=False)",
        "queue",
    ),
    "eventlet": ("import eventlet; eventlet.monkey_patch()", "thread"),
}


@pytest.mark.promise("sync-surroundings")
@pytest.mark.parametrize("patch", PATCHES)
def test_green_threads_raise_an_error_at_once(patch: str, fake: FakeClerk) -> None:
    """If threads are patched, a client raises when made or first used, and never hangs."""
    patcher = patch.partition(",")[0]
    code, module = PATCHES[patch]
    if importlib.util.find_spec(patcher) is None:
        name = {
            "gevent": "'gevent.monkey'] = types.SimpleNamespace(is_module_patched",
            "eventlet": "'eventlet.patcher'] = types.SimpleNamespace(is_monkey_patched",
        }[patcher]
        code = f"sys.modules[{name}=lambda name: name == {module!r})"
    ended = run_program(
        f"""
import sys, types, warnings
warnings.simplefilter("ignore")
from clerk_async import ConfigurationError, SessionsApi
early = SessionsApi()
{code}
for act in (SessionsApi, lambda: early.get("sess_1")):
    try:
        act()
    except ConfigurationError as error:
        print("thread=False" in str(error))
""",
        fake,
    )
    assert (ended.code, ended.out) == (0, "True\nTrue\n"), ended.err
    assert fake.requests == []


INTERPRETERS = {
    "without daemon threads": "dict(allow_daemon_threads=False)",
    "without threads": "dict(allow_threads=False, allow_daemon_threads=False)",
    "isolated": "None",
}


@pytest.mark.promise("sync-surroundings")
@pytest.mark.skipif(sys.version_info < (3, 13), reason="Python has no module for these before")
@pytest.mark.parametrize("kind", INTERPRETERS)
def test_an_isolated_sub_interpreter_raises_an_error_at_once(kind: str, fake: FakeClerk) -> None:
    """It supports neither threads nor C extensions: a client says so, and never hangs."""
    if kind == "isolated" and sys.version_info < (3, 14):
        pytest.skip("Python 3.13.0 corrupts its memory where such a one ends")
    ended = run_program(
        f"""
import _interpreters, sys
options = {INTERPRETERS[kind]}
made = "isolated" if options is None else _interpreters.new_config("legacy", **options)
interpreter = _interpreters.create(made)
failure = _interpreters.exec(interpreter, '''
import sys
sys.path[:] = ''' + repr(sys.path) + '''
from clerk_async import ConfigurationError
try:
    from clerk_async import SessionsApi
    SessionsApi().get("sess_1")
except ConfigurationError as error:
    print("isolated sub-interpreter" in str(error), flush=True)
''')
print(failure)
_interpreters.destroy(interpreter)
""",
        fake,
    )
    assert (ended.code, ended.out) == (0, "True\nNone\n"), ended.err
    assert fake.requests == []


@pytest.mark.promise("sync-surroundings")
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="later ones are tried as above")
def test_an_isolated_sub_interpreter_of_python_3_11_raises_an_error(fake: FakeClerk) -> None:
    """Its first call finds that no thread can be started."""
    ended = run_program(
        """
import _xxsubinterpreters, sys
interpreter = _xxsubinterpreters.create(isolated=True)
_xxsubinterpreters.run_string(interpreter, '''
import sys
sys.path[:] = ''' + repr(sys.path) + '''
from clerk_async import ConfigurationError, SessionsApi
try:
    SessionsApi().get("sess_1")
except ConfigurationError as error:
    print("isolated subinterpreter" in str(error), flush=True)
''')
_xxsubinterpreters.destroy(interpreter)
""",
        fake,
    )
    assert (ended.code, ended.out) == (0, "True\n"), ended.err
    assert fake.requests == []
