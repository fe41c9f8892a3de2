"""A static HTTP server with its own process and core, and a measurement of its ceiling."""

from __future__ import annotations

import os
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from benchmarks.payloads import ID, SESSION, TOKEN, session_list, session_page

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["Ceiling", "StaticServer", "cpu_seconds", "measure_ceiling", "program", "static_server"]

_NGINX = """
worker_processes 1;
daemon off;
pid {root}/nginx.pid;
error_log {root}/error.log crit;
events {{ worker_connections 4096; multi_accept on; }}
http {{
    access_log off;
    client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3;
    uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;
    default_type application/json;
    sendfile on; tcp_nopush on; tcp_nodelay on;
    keepalive_requests 1000000000; keepalive_timeout 600s;
    open_file_cache max=100 inactive=600s; open_file_cache_valid 600s;
    split_clients $request_id $is_fault {{ 10% 1; * 0; }}
    server {{
        listen 127.0.0.1:{port} reuseport backlog=4096;
        root {root}/files;
        location ~ /faulty/.*/([^/]+)/revoke$ {{
            if ($is_fault) {{ return 503 '{fault}'; }}
            return 200 '{session}';
        }}
        location ~ /([^/]+)/revoke$ {{ return 200 '{session}'; }}
        location ~ /tokens$ {{ return 200 '{token}'; }}
        location = /v1/sessions {{
            types {{ }}
            if ($arg_paginated = true) {{ rewrite ^ /page-$arg_limit last; }}
            rewrite ^ /list-$arg_limit last;
        }}
        location / {{ types {{ }} try_files $uri =404; }}
    }}
}}
"""
_FAULT = (
    '{"errors":[{"message":"busy","long_message":"busy","code":"service_unavailable"}],'
    '"clerk_trace_id":"0"}'
)


@attrs.frozen
class StaticServer:
    """A running server: its kind, its address, and the id of the process that does the work."""

    kind: str
    base_url: str
    port: int
    worker: int


@attrs.frozen
class Ceiling:
    """What the server can do, measured with a client that is cheaper than any HTTP library.

    Attributes:
        measured: Requests per second that a bare loop over 64 sockets achieved: a lower bound,
            because that loop is Python too.
        by_cpu: Requests per second on a fully used core, from its own CPU time per request.
    """

    measured: float
    by_cpu: float


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, or 0.0 if the system doesn't report it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def static_server(core: int | None, *, prefer_nginx: bool = True) -> Generator[StaticServer]:
    """Run the server on `core` (None: not pinned) while the block runs."""
    port = _free_port()
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)  # nginx's worker drops root privileges
        if nginx is not None and prefer_nginx:
            files = root / "files"
            files.mkdir()
            for size in (1, 10, 500):
                (files / f"list-{size}").write_bytes(session_list(size))
                (files / f"page-{size}").write_bytes(session_page(size))
            config = root / "nginx.conf"
            text = _NGINX.format(
                root=root,
                port=port,
                session=SESSION.replace(ID, b"$1").decode(),  # our client compares the id
                token=TOKEN.decode(),
                fault=_FAULT,
            )
            config.write_text(text, encoding="utf-8")
            command = [nginx, "-p", str(root), "-c", str(config)]
            version = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=False)
            kind = version.stderr.strip().rpartition(" ")[2] or "nginx"
        else:
            command = [sys.executable, "-m", "benchmarks.responder", str(port)]
            kind = "a bare asyncio responder, because nginx is not installed"
        with program(command) as process:
            _wait_for(port, process)
            worker = _worker_of(process.pid)
            if core is not None:
                os.sched_setaffinity(worker, {core})
            yield StaticServer(kind, f"http://127.0.0.1:{port}/v1", port, worker)


class _Termination:
    """Ends the benchmark on SIGTERM, but never while a program starts, whose pid is unknown yet."""

    def __init__(self) -> None:
        self.is_held = False
        self._came = 0

    def __call__(self, number: int, _: object) -> None:
        self._came = number
        if not self.is_held:
            sys.exit(128 + number)

    def release(self) -> None:
        self.is_held = False
        if self._came:
            sys.exit(128 + self._came)


TERMINATION: Final = _Termination()
"""The handler of SIGTERM."""


@contextmanager
def program(command: list[str], **settings: Any) -> Generator[subprocess.Popen[str], None, None]:
    """Run a program while the block runs, whatever ends the block."""
    TERMINATION.is_held = True
    try:
        process = subprocess.Popen(command, text=True, **settings)
    except BaseException:
        TERMINATION.is_held = False
        raise
    try:
        TERMINATION.release()
        yield process
    finally:
        with process:  # closes its pipes
            process.terminate()
            process.wait(timeout=10)


def measure_ceiling(server: StaticServer, seconds: float = 1.0) -> Ceiling:
    """Send revocations on 64 sockets as fast as a bare loop can, and measure the server's CPU."""
    request = (
        b"POST /v1/sessions/sess_1/revoke HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        b"Authorization: Bearer sk_test_benchmark\r\nContent-Length: 0\r\n\r\n"
    )
    sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(64)]
    poll = selectors.DefaultSelector()
    try:
        for each in sockets:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            poll.register(each, selectors.EVENT_READ, (each.recv, each.send))
            each.send(request)
        answered = 0
        used = cpu_seconds(server.worker)
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            for key, _ in poll.select():
                receive, send = key.data
                receive(65536)
                send(request)
                answered += 1
        elapsed = time.perf_counter() - start
        used = cpu_seconds(server.worker) - used
    finally:
        poll.close()
        for each in sockets:
            each.close()
    return Ceiling(answered / elapsed, answered / used if used else 0.0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(port: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server exited with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError("the server did not start within 10 s")


def _worker_of(pid: int) -> int:
    """Return the id of the process that serves: nginx's only worker, or the one we started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return pid
    return int(children[0]) if children else pid
