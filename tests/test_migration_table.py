"""The README's migration table, compared with the installed official SDK."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import attrs
import pytest

import clerk_async
from clerk_async import Session, SessionsApi, TokenVerificationReason, TokenVerifier

pytest.importorskip("clerk_backend_api")

from clerk_backend_api import Clerk, models, security
from clerk_backend_api.security import types
from clerk_backend_api.sessions import Sessions

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("## Coming from another Clerk SDK\n")[2].partition("\n## ")[0]
ROWS = [line.split("|")[1:3] for line in SECTION.splitlines() if line.startswith("| ")][1:]
THEIRS = " ".join(row[0] for row in ROWS)
OURS = " ".join(row[1] for row in ROWS)
OF_EACH_CALL = ("retries", "timeout_ms", "server_url", "http_headers")


def calls() -> dict[str, list[str]]:
    """Return each operation of their sessions, with its arguments."""
    found: dict[str, list[str]] = {}
    for name, function in inspect.getmembers(Sessions, inspect.isfunction):
        if not name.startswith("_") and not name.endswith("_async") and name != "do_request":
            found[name] = list(inspect.signature(function).parameters)[1:]
    return found


@pytest.mark.promise("migration-table")
@pytest.mark.parametrize("name", calls())
def test_each_call_and_argument_of_sessions_is_in_the_table(name: str) -> None:
    """On one row, beside its name here."""
    (row,) = [row for row in ROWS if f"`sessions.{name}(" in row[0]]
    for argument in set(calls()[name]) - {*OF_EACH_CALL, "request"}:
        assert re.search(rf"\b{argument}=", row[0]), argument
    assert f"`{name}(" in row[1]
    ours = inspect.signature(getattr(SessionsApi, name)).parameters
    for argument in re.findall(r"\b(\w+)=", row[1].partition(")")[0]):
        assert argument in ours


@pytest.mark.promise("migration-table")
def test_the_common_options_of_calls_and_clients_are_in_the_table() -> None:
    """Timeouts, retries, addresses, headers, clients."""
    for argument in OF_EACH_CALL:
        assert f"`{argument}=`" in THEIRS
    for argument in list(inspect.signature(Clerk.__init__).parameters)[1:]:
        assert re.search(rf"\b{argument}=", THEIRS), argument
    ours = {*inspect.signature(clerk_async.AsyncSessionsApi).parameters}
    for argument in ("base_url", "timeout", "retry", "client_session", "headers"):
        assert f"{argument}=" in OURS
        assert argument in ours


@pytest.mark.promise("migration-table")
def test_each_error_is_in_the_table() -> None:
    """The errors that a call can raise, with their attributes."""
    bases = {models.SDKError, models.ClerkErrors, models.ResponseValidationError}
    for error in {*bases, models.ClerkBaseError, models.NoResponseError}:
        assert f"`models.{error.__name__}`" in THEIRS
    for attribute in ("status_code", "message", "body", "headers", "data.errors"):
        assert f"`.{attribute}`" in THEIRS
    named = set(re.findall(r"`(\w+Error)`", OURS))
    assert named >= {"ApiError", "ResponseDecodeError", "TransportError"}
    assert all(name in clerk_async.__all__ for name in named)


@pytest.mark.promise("migration-table")
def test_each_function_and_option_of_verification_is_in_the_table() -> None:
    """With the attributes of a state and of an auth object."""
    functions = {name for name, _ in inspect.getmembers(security, inspect.isfunction)}
    assert functions >= {"authenticate_request", "verify_token"}
    for name in functions:
        assert re.search(rf"`{name}[`(]", THEIRS), name
    options = {
        each.name
        for kind in (types.AuthenticateRequestOptions, types.VerifyTokenOptions)
        for each in _fields(kind)
    }
    for option in options:
        assert re.search(rf"\b{option}=", THEIRS), option
    state = {each.name for each in _fields(types.RequestState)}
    state |= {name for name, _ in inspect.getmembers(types.RequestState, _is_property)}
    for name in state | {"to_auth()"}:
        assert f".{name}`" in THEIRS, name
    for kind in ("SessionAuthObjectV1", "SessionAuthObjectV2", "is_machine_token"):
        assert f"`{kind}`" in THEIRS
    ours = inspect.signature(TokenVerifier).parameters
    for option in ("jwt_key", "audience", "authorized_parties", "clock_skew", "sessions"):
        assert f"{option}=" in OURS
        assert option in ours


def _is_property(value: object) -> bool:
    return isinstance(value, property)


def _fields(kind: type[Any]) -> list[Any]:
    return list(dataclasses.fields(kind))


@pytest.mark.promise("migration-table")
def test_each_reason_is_ours_too_or_in_the_table() -> None:
    """So a comparison with a reason continues to work."""
    ours = {reason.value for reason in TokenVerificationReason}
    theirs = {
        each.value[0]
        for kind in (types.TokenVerificationErrorReason, types.AuthErrorReason)
        for each in kind
    }
    for reason in theirs - ours:
        assert f"`{reason}`" in THEIRS + OURS, reason
    assert len(theirs & ours) > 8


def test_values_have_the_same_fields() -> None:
    """The table says so."""
    names = {field.name.lstrip("_") for field in attrs.fields(Session)}
    assert set(models.Session.model_fields) == names
