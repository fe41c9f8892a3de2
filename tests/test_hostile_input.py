"""Hostile input: it causes only our own errors, soon, and in bounded memory.

The other side may be a proxy's page, or not the service at all; tokens, cookies and journals come
from outside. Responses over the wire are in `test_hostile_answers.py`. If atheris is installed, it
runs any of `TARGETS` for as long as you like, guided by code coverage: `python
tests/test_hostile_input.py decode -max_total_time=600` (this is not part of the suite).
"""

from __future__ import annotations

import base64
import gc
import json
import os
import stat
import sys
import tempfile
import time
from contextlib import chdir, redirect_stderr, redirect_stdout
from functools import cache
from importlib import import_module
from io import StringIO
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clerk_async import (
    ApiError,
    JournalError,
    ResponseDecodeError,
    TokenVerificationError,
    TokenVerifier,
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
from clerk_async.testing import FakeClerk

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS: Final = 20.0
"""The time limit: many times what any of it takes on a busy machine."""
QUICK: Final = settings(max_examples=150, database=None)
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
    """Return the beginning."""
    return text[:end]


def damaged(text: bytes, place: int, byte: bytes) -> bytes:
    """Replace one byte by another."""
    place %= len(text)
    return text[:place] + byte + text[place + 1 :]


def nested(entry: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return an object as it is, as the row of a list, and as the entry of an error."""
    return st.sampled_from([entry, {"data": [entry]}, {"errors": [entry]}])


entries = st.dictionaries(st.sampled_from(NAMES), json_values, max_size=5)
json_texts: st.SearchStrategy[bytes] = (json_values | entries.flatmap(nested)).map(as_json)
bodies = (
    st.binary(max_size=300)
    | json_texts
    | st.builds(cut_short, json_texts, st.integers(0, 300))
    | st.builds(damaged, json_texts, st.integers(0, 300), st.binary(min_size=1, max_size=1))
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
    """Decode bytes as each kind of response, and as an error's body with each kind of status."""
    for decode in DECODERS:
        try:
            repr(decode(body))
        except ResponseDecodeError as error:
            assert len(str(error)) < 2_000  # noqa: PT017 - one of two valid outcomes
    for status in (400, 401, 429, 503, 599, 999):
        meant = api_error(status, body, {"Retry-After": "1"}, ("sk_test_x",), now=0.0)
        assert isinstance(meant, ApiError)
        assert len(str(meant)) < 2_000
        repr(meant.errors)


def read_retry_after(text: str, now: float = 0.0) -> None:
    """Parse any text as a Retry-After."""
    seconds = parse_retry_after(text, now)
    assert seconds is None or seconds >= 0


@pytest.mark.promise("hostile-input")
@QUICK
@given(bodies)
@example(b'{"errors": [{"message": 1, "code": {"x": 7}}]}')
@example(b'{"id": "\xff", "status": "active"}')
def test_any_body_is_a_model_or_a_decode_error(body: bytes) -> None:
    """An error's body never hides its status."""
    decode_everything(body)


@pytest.mark.promise("hostile-input")
@pytest.mark.parametrize("body", BOTTOMLESS, ids=range(len(BOTTOMLESS)))
def test_a_deeply_nested_body_fails_soon(body: bytes) -> None:
    """JSON with 100,000 levels, or with one huge number or string, crashes nothing."""
    began = time.monotonic()
    decode_everything(body)
    assert time.monotonic() - began < SECONDS


@pytest.mark.promise("hostile-input")
@QUICK
@given(st.text(max_size=200), st.floats(0, 1e10))
@example("9" * 100_000, 0.0)
@example("Wed, 21 Oct 2015 07:28:00 GMT", 1e10)
@example("Fri, 15 Jan 99999999999999999999 08:01:30 GMT", 0.0)
@example("Wed, 99 Foo 9999 99:99:99 GMT", 0.0)
@example("Wed, 21 Oct 2015 07:28:00 -9999999999", 0.0)
@example("١٢٣", 0.0)
@example("nan", 0.0)
@example("-0", 0.0)
@example("1e400", 0.0)
@example("." * 50_000, 0.0)
def test_any_retry_after_is_non_negative_seconds_or_none(text: str, now: float) -> None:
    """Never NaN, never negative, never an error."""
    read_retry_after(text, now)


# --- from disk, from requests, from the command line ---------------------------------------------

JOURNAL_HEAD: Final = b'{"clerk_async_journal": 1, "instance": "i", "run": "revoke_many"}\n'


def read_journal(content: bytes, folder: Path) -> None:
    """Open a file with any content as a journal."""
    path = folder / "job.jsonl"
    path.write_bytes(content)
    try:
        found = open_file(
            path, accept_other_key=False, instance="i", run="revoke_many", for_writing=True
        )
    except JournalError as error:
        assert path.read_bytes() == content, "a file that isn't ours was changed"
        assert len(str(error)) < 2_000  # noqa: PT017 - one of two valid outcomes
        return
    assert found is not None
    os.close(found[0])
    known = JOURNAL_HEAD[: JOURNAL_HEAD.index(b" ")]
    assert known.startswith(content[: len(known)]), "a file that isn't ours was accepted as one"
    assert all(isinstance(one, str) for one in found[1])


@pytest.mark.promise("hostile-input")
@QUICK
@given(
    lines=st.lists(
        bodies | st.just(b'{"id": "sess_1", "status": "revoked"}'),
        max_size=8,
    ),
    has_header=st.booleans(),
    end=st.sampled_from([b"", b"\n", b"\r\n", b"\x00"]),
)
@example(lines=[b'{"id": "\xff", "status": "revoked"}'], has_header=True, end=b"\n")
@example(lines=[b"what somebody wrote down"], has_header=False, end=b"")
def test_any_journal_is_read_or_rejected(
    lines: list[bytes], has_header: bool, end: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any file is either a journal of done ids, or a JournalError that leaves it unchanged."""
    content = (JOURNAL_HEAD if has_header else b"") + b"\n".join(lines) + end
    read_journal(content, tmp_path_factory.mktemp("journal"))


@pytest.mark.promise("hostile-input")
@pytest.mark.parametrize(
    "content",
    [
        b"[" * DEEP,
        b'{"clerk_async_journal":' * DEEP,
        b'{"x":' * DEEP,
        b"\x00" * 10_000_000,
        b"\xff" * 99,
    ],
)
def test_a_deeply_nested_journal_is_rejected(content: bytes, tmp_path: Path) -> None:
    """Endless nesting, zeros and other bytes are not a journal."""
    path = tmp_path / "job.jsonl"
    path.write_bytes(content + b"\n")
    with pytest.raises(JournalError):
        open_file(path, accept_other_key=False, instance="i", run="revoke_many", for_writing=True)
    assert stat.S_ISREG(path.stat().st_mode)


@cache
def verifier() -> TokenVerifier:
    """Make a verifier that needs no network."""
    return TokenVerifier(jwt_key=FakeClerk().jwt_key, authorized_parties=["http://localhost:3000"])


def read_token(token: str) -> None:
    """Verify any text, alone and in a request."""
    with pytest.raises(TokenVerificationError) as refused:
        verifier().verify(token)
    assert refused.value.reason
    assert len(str(refused.value)) < 2_000
    for headers in ({"Authorization": f"Bearer {token}"}, {"Cookie": f"__session={token}"}):
        assert not verifier().authenticate_request(headers).is_signed_in


def read_cookies(text: str) -> None:
    """Look for a session in any Cookie header."""
    assert not verifier().authenticate_request({"Cookie": text}).is_signed_in


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


@pytest.mark.promise("hostile-input")
@QUICK
@given(tokens)
@example("." * 100_000)
@example("a" * 5_000_000)
@example("W" * 100_000 + ".e30.e30")
def test_any_text_as_a_token_is_rejected(token: str) -> None:
    """The rejection has a reason, wherever the text is in a request."""
    read_token(token)


@pytest.mark.promise("hostile-input")
@QUICK
@given(st.text(max_size=300))
@example("__session=a;" * 20_000)
@example(";" * 1_000_000)
@example('__session="' + "\\" * 100_000)
@example("__session" * 50_000)
def test_any_cookie_header_is_signed_out_soon(text: str) -> None:
    """The time grows only linearly with the header's length."""
    began = time.monotonic()
    read_cookies(text)
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


def run_command(arguments: list[str], folder: Path) -> None:
    """Run any command line in a writable folder, with empty input."""
    out, err = StringIO(), StringIO()
    surroundings = {"CLERK_SECRET_KEY": "sk_test_x", "CLERK_API_URL": "http://127.0.0.1:9"}
    with (
        chdir(folder),
        patch.dict(os.environ, surroundings),
        patch("sys.stdin", StringIO()),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        code = main(arguments)
    assert code in {0, 1, 2, 3, 4, 130}
    assert "Traceback" not in out.getvalue() + err.getvalue()


@pytest.mark.promise("hostile-input")
@pytest.mark.slow
@pytest.mark.may_block
@QUICK
@given(arguments=st.lists(st.sampled_from(WORDS) | st.text(max_size=12), max_size=7))
@example(arguments=["get", "a/b"])
@example(arguments=["revoke", "--from", "."])
@example(arguments=["--key-file", ".", "get", "sess_1"])
def test_any_command_line_has_a_documented_exit_code(arguments: list[str], tmp_path: Path) -> None:
    """There is no traceback."""
    run_command(arguments, tmp_path)


def words_of(data: bytes) -> list[str]:
    """Make arguments from bytes: a single byte selects a word that the program knows."""
    parts = data.split(b"\x00")[:7]
    return [
        WORDS[part[0] % len(WORDS)] if len(part) == 1 else part.decode("utf-8", "surrogateescape")
        for part in parts
    ]


@cache
def folder() -> Path:
    """Make a folder that fuzzing may write to."""
    return Path(tempfile.mkdtemp())


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "decode": decode_everything,
    "retry_after": lambda data: read_retry_after(data.decode("latin-1")),
    "journal": lambda data: read_journal(JOURNAL_HEAD + data, folder()),
    "token": lambda data: read_token(data.decode("latin-1")),
    "cookies": lambda data: read_cookies(data.decode("latin-1")),
    "arguments": lambda data: run_command(words_of(data), folder()),
}

if __name__ == "__main__":
    fuzzing: Any = import_module("atheris")
    for target in TARGETS.values():
        target(b"?")  # imports what is imported on first use
    for one in gc.get_objects():
        if isinstance(one, FunctionType) and (one.__module__ or "").startswith("clerk_async"):
            fuzzing.instrument_func(one)
    fuzzing.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    fuzzing.Fuzz()
