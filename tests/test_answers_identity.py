"""A response must be about what was requested; if it is about something else, it is an error."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any, Final

import pytest
from clients import MODES, Mode
from talkative import Asked, Talkative, http, jwt_of, right, session

from clerk_async import (
    AsyncSessionsApi,
    Cookies,
    ResponseDecodeError,
    RetryPolicy,
    Session,
    SessionsApi,
    Token,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REFRESH: Final = {"expired_token": "e", "refresh_token": "r", "request_origin": "https://x.y"}
CALLS: Final[dict[str, Callable[[Any], Any]]] = {
    "get": lambda client: client.get("sess_1"),
    "revoke": lambda client: client.revoke("sess_1"),
    "verify": lambda client: client.verify("sess_1", "a token"),
    "create": lambda client: client.create("user_1"),
    "create_token": lambda client: client.create_token("sess_1"),
    "create_token_from_template": lambda client: client.create_token_from_template("sess_1", "t"),
    "refresh": lambda client: client.refresh("sess_1", **REFRESH),
    "refresh as cookies": lambda client: client.refresh("sess_1", **REFRESH, format="cookie"),
    "list": lambda client: client.list(user_id="user_1"),
    "list of a client": lambda client: client.list(client_id="client_1"),
}


def cookies_of(session_id: str) -> dict[str, Any]:
    """Make the response to a refresh that asks for cookies."""
    lines = ["__client_uat=1; Path=/", f"__session_x1Y={jwt_of(session_id)}; Path=/; HttpOnly"]
    return {"object": "cookies", "cookies": lines}


def page_of(*rows: dict[str, Any]) -> dict[str, Any]:
    """Make a page of a list."""
    return {"data": list(rows), "total_count": len(rows)}


OTHERS: Final[list[tuple[str, dict[str, Any], str]]] = [
    *((name, session("sess_2"), "$.id") for name in ("get", "revoke", "verify")),
    ("create", session("sess_9", user_id="user_2"), "$.user_id"),
    ("create_token", {"object": "token", "jwt": jwt_of("sess_2")}, "$.jwt"),
    ("refresh", {"object": "token", "jwt": jwt_of("sess_2")}, "$.jwt"),
    ("refresh as cookies", cookies_of("sess_2"), "$.cookies[1]"),
    ("list", page_of(session("a"), session("b", user_id="user_2")), "$.data[1].user_id"),
    ("list", page_of({"id": "broken", "user_id": "user_2"}), "$.data[0].user_id"),
    ("list of a client", page_of({**session("a"), "client_id": "c_2"}), "$.data[0].client_id"),
]
THINGS: Final[list[tuple[str, dict[str, Any]]]] = [
    *((name, {**session("sess_1"), "object": "user"}) for name in ("get", "revoke", "verify")),
    ("create", {**session("sess_1"), "object": "sign_in_token"}),
    *(
        (name, {"object": "session", "jwt": jwt_of("sess_1")})
        for name in ("create_token", "create_token_from_template", "refresh")
    ),
    ("refresh as cookies", {"object": "user", "cookies": ["__session=x"]}),
]
LACKING: Final[list[tuple[str, dict[str, Any]]]] = [
    *((name, {"id": "sess_1", "status": "active"}) for name in ("get", "revoke", "verify")),
    ("get", {"object": None, "id": "sess_1", "status": "active"}),
    ("get", {"object": 7, "id": "sess_1", "status": "active", "user_id": 8}),
    ("create", {"id": "sess_1", "status": "active"}),
    ("create_token", {"jwt": jwt_of("sess_1")}),
    ("create_token", {"jwt": "a.token.of-no-shape"}),
    ("create_token", {"jwt": "e30.WzFd.e30"}),
    ("create_token_from_template", {"object": "token", "jwt": jwt_of("sess_2")}),
    ("refresh as cookies", {"cookies": ["__refresh_x=1", "__session=; Max-Age=0", "odd"]}),
    ("list", page_of({"id": "sess_1", "status": "active"}, {"user_id": 3}, session("b"))),
    ("list", page_of()),
    ("list of a client", page_of({"id": "sess_1", "status": "active", "client_id": None})),
]


async def ask(mode: Mode, name: str, answer: Any, **options: Any) -> tuple[Any, Talkative]:
    """Make one call that gets this response; return the result or the error."""

    def answer_all(_: Asked) -> bytes:
        return http(answer)

    with Talkative(answer_all) as server, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        options = {"base_url": server.base_url, "retry": RetryPolicy(base_delay=0), **options}
        try:
            if mode == "sync":
                with SessionsApi("sk_test_x", **options) as blocking:
                    return CALLS[name](blocking), server
            async with AsyncSessionsApi("sk_test_x", **options) as client:
                return await CALLS[name](client), server
        except ResponseDecodeError as error:
            return error, server


@pytest.mark.promise("own-answers")
@pytest.mark.may_block
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "answer", "where"), OTHERS)
async def test_a_response_about_something_else_is_an_error(
    mode: Mode, name: str, answer: dict[str, Any], where: str
) -> None:
    """Session id, owner and the subject of a token are compared; the request is sent once."""
    error, server = await ask(mode, name, answer)
    assert isinstance(error, ResponseDecodeError)
    assert "belongs to another request" in str(error)
    assert (error.json_path, error.session_id, error.attempts) == (where, None, 1)
    assert error._may_have_arrived
    assert len(server.asked) == 1
    assert jwt_of("sess_2") not in str(error)


@pytest.mark.promise("own-answers")
@pytest.mark.may_block
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "answer"), THINGS)
async def test_a_response_with_another_object_type_is_an_error(
    mode: Mode, name: str, answer: dict[str, Any]
) -> None:
    """A user is not a session, though it has an id and may have a status."""
    error, server = await ask(mode, name, answer)
    assert isinstance(error, ResponseDecodeError)
    assert (error.json_path, error.session_id, error.attempts) == ("$.object", None, 1)
    assert len(server.asked) == 1


@pytest.mark.promise("tolerant-decoding")
@pytest.mark.parametrize(("name", "answer"), LACKING)
async def test_missing_or_unreadable_fields_are_not_compared(
    name: str, answer: dict[str, Any]
) -> None:
    """A missing field, a field of the wrong type, or a token of unknown shape decides nothing."""
    value, _ = await ask("async", name, answer)
    assert not isinstance(value, ResponseDecodeError), value


async def test_correct_responses_are_accepted() -> None:
    """Each operation accepts its proper response."""
    with Talkative() as server, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        async with AsyncSessionsApi("sk_test_x", base_url=server.base_url) as client:
            found = {name: await call(client) for name, call in CALLS.items()}
    assert isinstance(found["get"], Session)
    assert isinstance(found["refresh"], Token)
    assert isinstance(found["refresh as cookies"], Cookies)
    assert len(server.asked) == len(CALLS)


@pytest.mark.promise("own-answers")
async def test_a_list_entry_that_is_not_a_session_has_no_id() -> None:
    """Otherwise `revoke_all` would take its id for that of an unreadable session."""
    page, _ = await ask("async", "list", page_of(session("a"), {"object": "user", "id": "user_1"}))
    assert [each.id for each in page] == ["a"]
    [item] = page.unreadable
    assert (item.index, item.session_id, item.error.json_path) == (1, None, "$.data[1].object")


@pytest.mark.promise("own-answers")
@pytest.mark.parametrize("body", [session("sess_2", status="revoked"), {"object": "user"}])
async def test_a_bulk_run_never_reports_revoked_for_a_response_about_another_session(
    body: dict[str, Any], tmp_path: Path
) -> None:
    """This holds for the report, the journal, and a look with the same wrong response."""
    journal = tmp_path / "run.jsonl"
    with Talkative(lambda _: http(body)) as server:
        async with AsyncSessionsApi("sk_test_x", base_url=server.base_url) as client:
            report = await client.revoke_many(["sess_1", "sess_3"], journal=journal)
    assert (report.revoked, report.failed, report.ok) == (0, 2, False)
    assert all(isinstance(one.error, ResponseDecodeError) for one in report.failures)
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert {line["status"] for line in lines if "id" in line} == {"failed"}


@pytest.mark.promise("own-answers")
@pytest.mark.parametrize(
    "foreign",
    [session("sess_of_2", user_id="user_2"), {"id": "sess_of_2", "user_id": "user_2"}],
    ids=["whole", "unreadable"],
)
async def test_revoke_all_revokes_nobody_from_a_list_of_another_user(
    foreign: dict[str, Any],
) -> None:
    """Nothing in that list can be trusted: it fails, and none of its sessions is touched."""

    def answer(asked: Asked) -> bytes:
        if asked.path == "/sessions" and asked.query["user_id"] == "user_1":
            return http(page_of(session("sess_of_1"), foreign))
        return right(asked)

    with Talkative(answer) as server:
        async with AsyncSessionsApi("sk_test_x", base_url=server.base_url) as client:
            report = await client.revoke_all(user_id="user_1")
    assert [asked.path for asked in server.asked if asked.tail == "revoke"] == []
    assert not report.ok
    assert (report.revoked, report.failed) == (0, 1)
