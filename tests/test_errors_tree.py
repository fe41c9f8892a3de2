"""The errors: their tree, their content, and how they cross process boundaries."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from typing import TYPE_CHECKING, Any

import pytest
from clients import MODES, ONCE, Mode, run
from hypothesis import example, given
from hypothesis import strategies as st

from clerk_async import (
    ApiError,
    BulkRevocationError,
    ClerkError,
    ErrorDetail,
    InvalidArgumentError,
    NotFoundError,
    RequestTimeoutError,
    ResponseDecodeError,
    TokenVerificationError,
    TokenVerificationReason,
    TransportError,
    errors,
    redaction,
)
from clerk_async.http import error_bodies
from clerk_async.http.error_bodies import error_class_for
from clerk_async.redaction import REDACTED, redact
from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from collections.abc import Iterable

CLASSES = [
    cls
    for cls in vars(errors).values()
    if inspect.isclass(cls) and issubclass(cls, ClerkError) and not cls.__name__.startswith("_")
]
ARGUMENTS: dict[str, Any] = {
    "status": 418,
    "errors": (ErrorDetail("m", "l", "c", {"a": 1}),),
    "trace_id": "t",
    "retry_after": 2.5,
    "phase": "connect",
    "is_final": True,
    "json_path": "$.a",
    "session_id": "sess_1",
    "reason": TokenVerificationReason.TOKEN_EXPIRED,
    "report": None,
    "method": "GET",
    "path": "/x",
    "attempts": 3,
}


def made(cls: type[Any]) -> Any:
    """Make an error with every attribute set."""
    taken = inspect.signature(cls.__init__).parameters
    return cls("what happened", **{k: v for k, v in ARGUMENTS.items() if k in taken})


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("cls", CLASSES)
def test_errors_can_be_pickled_and_copied(cls: type[ClerkError], protocol: int) -> None:
    """Celery and multiprocessing do both: no attribute is lost."""
    error = made(cls)
    for again in (
        pickle.loads(pickle.dumps(error, protocol)),  # noqa: S301
        copy.copy(error),
        copy.deepcopy(error),
    ):
        assert type(again) is cls
        assert str(again) == "what happened"
        assert again.args == error.args
        assert vars(again) == vars(error)


@pytest.mark.promise("raw-errors")
@pytest.mark.parametrize("mode", MODES)
def test_an_error_of_a_call_can_be_pickled(mode: Mode, fake: FakeClerk) -> None:
    """This also holds for an error of a real call."""
    fake.inject(Fault.status(422))
    error = run(mode, fake, "get").error
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert vars(again) == vars(error)


def test_errors_have_builtin_parents() -> None:
    """Code can catch them without our names."""
    assert issubclass(InvalidArgumentError, ValueError)
    assert issubclass(RequestTimeoutError, TimeoutError)
    assert issubclass(RequestTimeoutError, TransportError)
    assert not issubclass(ApiError, TransportError)
    assert not issubclass(ResponseDecodeError, ApiError | TransportError)
    assert all(issubclass(cls, ClerkError) for cls in CLASSES)


def test_each_status_has_a_class() -> None:
    """A status without its own class raises ApiError, or ServerError from 500 on."""
    for status in range(300, 600):
        cls = error_class_for(status)
        assert (cls is errors.ServerError) == (status >= 500)
    assert error_class_for(418) is ApiError
    assert error_class_for(404) is NotFoundError


def test_an_error_of_a_status_can_be_made_from_its_message_alone() -> None:
    """Tests that mock a call do so, and result stores that keep no more (Celery's JSON does)."""
    for status in (400, 401, 403, 404, 409, 410, 422, 429, 500):
        error = error_class_for(status)("message")
        assert (error.status, str(error)) == (status, "message")
        assert error_class_for(status)("message", status=599).status == 599
    assert RequestTimeoutError("message").phase == "response"  # it may have arrived


def test_the_code_is_that_of_the_first_entry() -> None:
    """It is None without entries."""
    entries = (ErrorDetail("", "", "first"), ErrorDetail("", "", "second"))
    assert ApiError("", status=400, errors=entries).code == "first"
    assert ApiError("", status=400).code is None


def test_an_entry_without_a_code_has_none(fake: FakeClerk) -> None:
    """The error has no code, and its text has no empty brackets."""
    entries = [{"message": "odd", "code": None}, {}, {"code": "last"}]
    fake.inject(Fault.status(400, body={"errors": entries}))
    error = run("async", fake, "get").error
    assert isinstance(error, ApiError)
    assert error.code is None
    assert str(error) == "400: odd; [last]"


@pytest.mark.parametrize("mode", MODES)
def test_the_path_is_shown_without_the_query(mode: Mode, fake: FakeClerk) -> None:
    """For every error of a list, and for each of its entries."""
    wrong = {"data": [{"id": "sess_x"}, None], "total_count": 2}
    faults = (Fault.status(400), Fault.not_json("{"), Fault.wrong_shape(wrong), Fault.cut("after"))
    for fault in faults:
        fake.inject(fault)
        ended = run(mode, fake, "list", retry=ONCE)
        told = [ended.error] if ended.error else [item.error for item in ended.value.unreadable]
        assert told
        for error in told:
            assert isinstance(error, ApiError | TransportError | ResponseDecodeError)
            assert (error.method, error.path, error.attempts) == ("GET", "/sessions", 1)


def test_the_trace_id_comes_from_the_body_or_a_header(fake: FakeClerk) -> None:
    """The body's own, otherwise the cf-ray header."""
    fake.inject(Fault.status(400, body={"errors": [], "clerk_trace_id": "from-body"}))
    error = run("async", fake, "get").error
    assert isinstance(error, ApiError)
    assert error.trace_id == "from-body"
    fake.inject(Fault.html(502, count=None))
    error = run("async", fake, "get", retry=ONCE).error
    assert isinstance(error, ApiError)
    assert error.trace_id is not None
    assert error.trace_id.endswith("-FRA")


def test_a_long_message_is_truncated(fake: FakeClerk) -> None:
    """A page of text from the service doesn't fill a log."""
    entry = {"message": "x" * 10_000, "code": "c"}
    fake.inject(Fault.status(400, body={"errors": [entry] * 50}))
    error = run("async", fake, "get").error
    assert isinstance(error, ApiError)
    assert len(str(error)) < 1000
    assert len(error.errors) == 50
    assert len(error.errors[0].message) == 10_000


SHAPES = re.compile(
    r"sk_(?:live|test)_[^\s\"'<>,;&]+"
    r"|eyJ[\w-]+(?:\.[\w-]*)+"
    r"|__(?:session|refresh|client)\w{0,64}=[^\s\"'<>,;&]+"
)
PIECES = (  # noqa: SIM905 - a list of 20 strings reads worse
    'eyJ a b. - _ __session __client __refresh = sk_live_ sk_test_ . .. x %3D & ; é " eyJh.c.d'
).split()


@pytest.mark.promise("redaction")
@given(st.lists(st.sampled_from([*PIECES, " "]), max_size=14).map("".join))
@example("b.__session=x")
@example("tokeneyJh.c.d")
@example("a=1&b=__session_Ab3=x")
def test_everything_shaped_like_a_secret_is_redacted(text: str) -> None:
    """Wherever it is in a text, and whatever is next to it."""
    assert [found for found in SHAPES.findall(redact(text)) if not found.endswith(REDACTED)] == []


@pytest.mark.promise("hostile-input")
@pytest.mark.parametrize("piece", ["eyJ", "eyJ-", "eyJ.", "__session", "__client_", "a=", "a.-="])
def test_no_response_makes_redaction_slow(
    piece: str, fake: FakeClerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text of many beginnings of a secret once took minutes and blocked the loop."""
    assert redact(piece * 100_000)
    looked_at: list[int] = []

    def counted(text: str, secrets: Iterable[str]) -> str:
        looked_at.append(len(text))
        return redact(text, secrets)

    for module in (error_bodies, redaction):
        monkeypatch.setattr(module, "redact", counted)
    for entry in ({"message": piece * 100_000, "code": "c"}, {"code": piece * 100_000}):
        fake.inject(Fault.status(400, body={"errors": [entry]}))
        error = run("async", fake, "get").error
        assert isinstance(error, ApiError)
        assert len(str(error)) <= 500
    assert max(looked_at) > 0
    assert sum(looked_at) < 200_000, (
        "a body of 64 MiB takes seconds, during which the loop is blocked"
    )


def test_a_bulk_error_has_its_report() -> None:
    """A rejected token's error has its reason."""
    assert made(BulkRevocationError).report is None
    assert made(TokenVerificationError).reason == "token-expired"
