"""Input from an enemy: only our own errors come of it, soon, and without filling the memory.

The service may be a proxy's page or somebody else altogether; tokens, cookies and journals come
from outside. atheris can take the functions of `TARGETS` for longer runs where it is installed:
`python tests/test_hostile_input.py decode` (it is no part of the suite).
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import stat
import sys
import time
import tracemalloc
import zlib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from clients import MODES, ONCE, Mode, run
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from clerk_async import (
    ApiError,
    ClerkError,
    ConnectionLostError,
    JournalError,
    RateLimitedError,
    ResponseDecodeError,
    TokenVerificationError,
    TokenVerifier,
    TransportError,
)
from clerk_async.bulk.journal_file import open_file
from clerk_async.cli import main
from clerk_async.http.decode import (
    decode_page,
    decode_refreshed,
    decode_session,
    decode_token,
)
from clerk_async.http.error_bodies import api_error
from clerk_async.http.retry import parse_retry_after
from clerk_async.http.transport import MAX_BODY
from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECONDS: Final = 20.0
"""What bounded time means here: a busy machine's many times what any of it takes."""
QUICK: Final = settings(
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
DEEP: Final = 100_000

NAMES: Final = [
    "id",
    "status",
    "data",
    "total_count",
    "jwt",
    "cookies",
    "object",
    "errors",
    "tasks",
    "code",
    "message",
    "long_message",
    "meta",
    "actor",
    "latest_activity",
    "created_at",
]
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["active", "sess_1", "token", "cookies", "session"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), inner, max_size=5)
    ),
    max_leaves=25,
)


def as_json(value: Any) -> bytes:
    """Encode a value."""
    return json.dumps(value).encode()


def cut_short(text: bytes, end: int) -> bytes:
    """Give the beginning."""
    return text[:end]


json_texts: st.SearchStrategy[bytes] = json_values.map(as_json)
bodies = (
    st.binary(max_size=300) | json_texts | st.builds(cut_short, json_texts, st.integers(0, 300))
)
DECODERS: Final = (decode_session, decode_page, decode_token, decode_refreshed)
BOTTOMLESS: Final = (
    b"[" * DEEP,
    b'{"data":' * DEEP,
    b"[" * DEEP + b"]" * DEEP,
    b'{"id":"x","status":' + b"[" * DEEP + b"]" * DEEP + b"}",
    b'{"data":[' + b'{"actor":' * DEEP + b"1" + b"}" * DEEP + b"]}",
    b'{"errors":' + b"[" * DEEP + b"]" * DEEP + b"}",
    b'{"total_count":' + b"9" * DEEP + b',"data":[]}',
    b'{"id":"' + b"\\ud800" * DEEP + b'","status":"active"}',
)


def decode_everything(body: bytes) -> None:
    """Read bytes as each of the answers, and as an error's body with each kind of status."""
    for decode in DECODERS:
        try:
            repr(decode(body))
        except ResponseDecodeError as error:
            assert len(str(error)) < 2_000  # noqa: PT017 - one of two good ends
    for status in (400, 401, 429, 503, 599, 999):
        meant = api_error(status, body, {"Retry-After": "1"}, ("sk_test_x",), 0.0)
        assert isinstance(meant, ApiError)
        assert len(str(meant)) < 2_000
        repr(meant.errors)


def read_retry_after(text: str, now: float = 0.0) -> None:
    """Read any text as a Retry-After."""
    seconds = parse_retry_after(text, now)
    assert seconds is None or seconds >= 0


@QUICK
@given(bodies)
def test_no_body_gets_through_the_decoder(body: bytes) -> None:
    """Any bytes are a model or a ResponseDecodeError; an error's body never hides its status."""
    decode_everything(body)


@pytest.mark.parametrize("body", BOTTOMLESS, ids=range(len(BOTTOMLESS)))
def test_a_bottomless_body_ends_soon(body: bytes) -> None:
    """JSON that is 100,000 levels deep, or one number or string without end, crashes nothing."""
    began = time.monotonic()
    decode_everything(body)
    assert time.monotonic() - began < SECONDS


@QUICK
@given(st.text(max_size=200), st.floats(0, 1e10))
@example("9" * 100_000, 0.0)
@example("Wed, 99 Foo 9999 99:99:99 GMT", 0.0)
@example("Wed, 21 Oct 2015 07:28:00 -9999999999", 0.0)
@example("١٢٣", 0.0)
@example("nan", 0.0)
@example("-0", 0.0)
@example("1e400", 0.0)
@example("." * 50_000, 0.0)
def test_any_retry_after_is_seconds_or_nothing(text: str, now: float) -> None:
    """Any header is seconds from zero up, or nothing: never NaN, never negative, never an error."""
    read_retry_after(text, now)


# --- on the wire -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared() -> Iterator[FakeClerk]:
    """Give one service to all that follows."""
    with FakeClerk() as running:
        yield running


@pytest.fixture
def enemy(shared: FakeClerk) -> Iterator[FakeClerk]:
    """Give a service that does as it is told."""
    shared.clear_faults()
    yield shared
    shared.clear_faults()


def reply(head: str, body: bytes = b"") -> Fault:
    """Make an answer of raw bytes, and close."""
    return Fault.raw(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode("latin-1") + body, count=None)


BOMB: Final = 2 * MAX_BODY
"""Bytes that a small compressed body turns into."""


def deflated(size: int) -> bytes:
    """Compress so many zeros."""
    packer = zlib.compressobj(9)
    parts = [packer.compress(b"0" * 2**20) for _ in range(size // 2**20)]
    return b"".join([*parts, packer.flush()])


ANSWERS: Final[dict[str, Callable[[], Fault]]] = {
    "a gzip bomb": lambda: Fault.huge(BOMB, compressed=True, count=None),
    "a deflate bomb": lambda: reply("Content-Encoding: deflate", deflated(BOMB)),
    "a bomb in a bomb": lambda: reply(
        "Content-Encoding: gzip, gzip", gzip.compress(gzip.compress(b"0" * 10_000_000))
    ),
    "no gzip at all": lambda: reply("Content-Encoding: gzip\r\nContent-Length: 5", b"hello"),
    "cut gzip": lambda: reply("Content-Encoding: gzip", gzip.compress(b"{}" * 5_000)[:-20]),
    "an unknown encoding": lambda: reply("Content-Encoding: br\r\nContent-Length: 2", b"{}"),
    "1 GiB announced": lambda: reply(f"Content-Length: {2**30}", b"{"),
    "a length with 30 digits": lambda: reply("Content-Length: " + "9" * 30, b"{"),
    "a negative length": lambda: reply("Content-Length: -1", b"{}"),
    "two lengths": lambda: reply("Content-Length: 2\r\nContent-Length: 9", b"{}"),
    "a flood of headers": lambda: reply("\r\n".join(f"X-{n}: y" for n in range(50_000))),
    "an endless header": lambda: reply("X: " + "y" * 5_000_000),
    "an endless status line": lambda: Fault.raw(b"HTTP/1.1 200 " + b"O" * 5_000_000, count=None),
    "an endless chunk size": lambda: reply("Transfer-Encoding: chunked", b"f" * 5_000_000),
    "a negative chunk": lambda: reply("Transfer-Encoding: chunked", b"-5\r\nabc\r\n0\r\n\r\n"),
    "chunks of one byte": lambda: reply(
        "Transfer-Encoding: chunked", b"1\r\n[\r\n" * DEEP + b"0\r\n\r\n"
    ),
    "only 100 Continue": lambda: Fault.raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000, count=None),
    "an upgrade": lambda: Fault.raw(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", count=None),
    "status 1000": lambda: Fault.raw(b"HTTP/1.1 1000 X\r\nContent-Length: 0\r\n\r\n", count=None),
    "status 0": lambda: Fault.raw(b"HTTP/1.1 000 X\r\nContent-Length: 0\r\n\r\n", count=None),
    "status 204": lambda: Fault.raw(b"HTTP/1.1 204 No Content\r\n\r\n", count=None),
    "a zero byte": lambda: reply("X: a\x00b\r\nContent-Length: 2", b"{}"),
    "another protocol": lambda: Fault.raw(b"SSH-2.0-OpenSSH_9.6\r\n", count=None),
    "nothing": lambda: Fault.raw(b"", count=None),
    "a bottomless body": lambda: Fault.not_json(b"[" * DEEP, count=None),
    "a charset that isn't": lambda: reply(
        "Content-Type: application/json; charset=\xff\r\nContent-Length: 4", b"null"
    ),
}


@pytest.mark.may_block  # what it decodes is as large as an enemy can make it
@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ANSWERS)
def test_a_hostile_answer_is_one_of_our_errors(mode: Mode, name: str, enemy: FakeClerk) -> None:
    """Whatever comes back, a call ends soon with an error of ours and without a heap of memory."""
    enemy.inject(ANSWERS[name]())
    tracemalloc.start()
    began = time.monotonic()
    try:
        error = run(mode, enemy, lambda client: client.get("sess_1"), retry=ONCE, timeout=8).error
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(error, ApiError | TransportError | ResponseDecodeError), error
    assert time.monotonic() - began < SECONDS
    assert len(str(error)) < 2_000
    assert error.__cause__ is None
    assert peak < 1.6 * MAX_BODY, f"{peak / 2**20:.0f} MiB"


@pytest.mark.parametrize("mode", MODES)
def test_a_good_answer_still_comes_after(mode: Mode, enemy: FakeClerk) -> None:
    """What an enemy sent leaves nothing behind in the client's next connection."""
    session = enemy.add_session()
    enemy.inject(
        Fault.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\n\r\n")
    )

    def first_and_second(client: Any) -> Any:
        if mode == "sync":
            with pytest.raises(ClerkError):
                client.get(session.id)
            return client.get(session.id)

        async def both() -> Any:
            with pytest.raises(ClerkError):
                await client.get(session.id)
            return await client.get(session.id)

        return both()

    assert run(mode, enemy, first_and_second).value.id == session.id


@pytest.mark.parametrize("value", ["9" * 400, "1e999", "-5", "nan", "\x01", "Wed, 99 Foo", "1;2"])
def test_a_hostile_retry_after_holds_nobody_up(value: str, enemy: FakeClerk) -> None:
    """A Retry-After without sense or without end raises at once, and leaves the loop's timers."""
    enemy.inject(Fault.status(429, retry_after=value, count=None))
    began = time.monotonic()
    error = run("async", enemy, lambda client: client.get("sess_1"), retry=ONCE).error
    assert isinstance(error, RateLimitedError | ConnectionLostError)
    assert time.monotonic() - began < SECONDS


# --- from disk, from requests, from the command line ---------------------------------------------


@QUICK
@given(
    lines=st.lists(
        st.binary(max_size=80) | json_texts | st.just(b'{"id": "sess_1", "status": "revoked"}'),
        max_size=8,
    ),
    has_header=st.booleans(),
    end=st.sampled_from([b"", b"\n", b"\r\n", b"\x00"]),
)
def test_any_journal_is_read_or_refused(
    lines: list[bytes], has_header: bool, end: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any file is a journal with ids that are done, or a JournalError that leaves it alone."""
    path = tmp_path_factory.mktemp("journal") / "job.jsonl"
    header = b'{"clerk_async_journal": 1, "instance": "i", "run": "revoke_many"}\n'
    content = (header if has_header else b"") + b"\n".join(lines) + end
    path.write_bytes(content)
    try:
        found = open_file(
            path, accept_other_key=False, instance="i", run="revoke_many", for_writing=True
        )
    except JournalError as error:
        assert path.read_bytes() == content, "a file that isn't ours was changed"
        assert len(str(error)) < 2_000  # noqa: PT017 - one of two good ends
        return
    assert found is not None
    os.close(found[0])
    assert all(isinstance(one, str) for one in found[1])


@pytest.mark.parametrize(
    "content", [b"[" * DEEP, b'{"clerk_async_journal":' * DEEP, b"\x00" * 10_000_000, b"\xff" * 99]
)
def test_a_bottomless_journal_is_refused(content: bytes, tmp_path: Path) -> None:
    """Nesting without end, zeros and other bytes are no journal."""
    path = tmp_path / "job.jsonl"
    path.write_bytes(content + b"\n")
    with pytest.raises(JournalError):
        open_file(path, accept_other_key=False, instance="i", run="revoke_many", for_writing=True)
    assert stat.S_ISREG(path.stat().st_mode)


@pytest.fixture(scope="module")
def verifier(shared: FakeClerk) -> TokenVerifier:
    """Give a verifier that needs no network."""
    return TokenVerifier(jwt_key=shared.jwt_key, authorized_parties=["http://localhost:3000"])


segments = st.text(alphabet="ABCabc019-_=+/ .\x00é", max_size=40)
tokens = (
    st.text(max_size=100)
    | st.tuples(segments, segments, segments).map(".".join)
    | json_values.map(lambda value: _segment(value) + "." + _segment({"sub": "x"}) + ".AAAA")
    | json_values.map(
        lambda value: _segment({"alg": "RS256", "kid": "k"}) + f".{_segment(value)}.A"
    )
)


def _segment(value: Any) -> str:
    return base64.urlsafe_b64encode(as_json(value)).decode().rstrip("=")


@QUICK
@given(tokens)
@example("." * 100_000)
@example("a" * 5_000_000)
@example("W" * 100_000 + ".e30.e30")
def test_any_token_is_refused(verifier: TokenVerifier, token: str) -> None:
    """Any text is refused with a reason, wherever it comes from."""
    with pytest.raises(TokenVerificationError) as refused:
        verifier.verify(token)
    assert refused.value.reason
    assert len(str(refused.value)) < 2_000
    for headers in ({"Authorization": f"Bearer {token}"}, {"Cookie": f"__session={token}"}):
        assert not verifier.authenticate_request(headers).is_signed_in


@QUICK
@given(st.text(max_size=300))
@example("__session=a;" * 20_000)
@example(";" * 1_000_000)
@example('__session="' + "\\" * 100_000)
@example("__session" * 50_000)
def test_any_cookie_header_is_signed_out_soon(verifier: TokenVerifier, text: str) -> None:
    """Any Cookie header is signed out, a long one too, in time that grows with its length alone."""
    began = time.monotonic()
    assert not verifier.authenticate_request({"Cookie": text}).is_signed_in
    assert time.monotonic() - began < SECONDS


WORDS: Final[list[str]] = [
    "list",
    "get",
    "create",
    "token",
    "refresh",
    "revoke",
    "revoke-all",
    "verify",
    "verify-token",
    "completion",
    "--user",
    "--client",
    "--status",
    "--limit",
    "--offset",
    "--all",
    "--from",
    "--column",
    "--json",
    "--quiet",
    "--key-file",
    "--base-url",
    "--dry-run",
    "--yes",
    "--journal",
    "--rate",
    "--share",
    "--max-failures",
    "--progress",
    "--except",
    "--template",
    "--expires-in",
    "--help",
    "--version",
    "-",
]


@pytest.mark.slow
@pytest.mark.may_block
@QUICK
@given(arguments=st.lists(st.sampled_from(WORDS) | st.text(max_size=12), max_size=7))
def test_any_arguments_give_an_exit_code(
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Any command line ends with a code of the table, without a traceback."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLERK_SECRET_KEY", "sk_test_x")
    monkeypatch.setenv("CLERK_API_URL", "http://127.0.0.1:9")
    with Path(os.devnull).open(encoding="utf-8") as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        code = main(arguments)
    out, err = capsys.readouterr()
    assert code in {0, 1, 2, 3, 4, 130}
    assert "Traceback" not in out + err


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "decode": decode_everything,
    "retry_after": lambda data: read_retry_after(data.decode("latin-1")),
}

if __name__ == "__main__":
    fuzzing: Any = import_module("atheris")
    fuzzing.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    fuzzing.Fuzz()
