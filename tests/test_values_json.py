"""Values as JSON: `to_dict`, FastAPI and pydantic with a schema, text, notebooks."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from attrs import evolve
from fastapi import FastAPI
from programs import run_program
from pydantic import BaseModel, TypeAdapter, ValidationError

from clerk_async import (
    Cookies,
    NotFoundError,
    RevocationOutcome,
    RevocationPause,
    RevocationProgress,
    RevocationReport,
    RevocationStatus,
    Session,
    SessionActivity,
    SessionClaims,
    SessionPage,
    SessionTask,
    Token,
)
from clerk_async.tokens.claims import read_claims

SESSION: Final = Session(
    id="sess_1",
    status="quantum",
    user_id="user_1",
    actor={"sub": "user_2"},
    latest_activity=SessionActivity(city="<Basel>", is_mobile=True),
    tasks=(SessionTask(key="choose-organization"),),
    created_at=datetime(2023, 11, 14, 22, 13, 20, 123_456, UTC),
)
PAGE: Final = SessionPage(data=(SESSION,), total_count=7)
CLAIMS: Final = read_claims(
    {
        "sub": "user_1",
        "sid": "sess_1",
        "exp": 1_900_000_000,
        "v": 2,
        "o": {"id": "org_1", "rol": "x"},
    }
)
OUTCOME: Final = RevocationOutcome(
    "sess_1", RevocationStatus.FAILED, NotFoundError("404: gone", trace_id="t"), 3, None, "user_1"
)
REPORT: Final = RevocationReport(total=1200, revoked=1190, failed=10, resumed=0, elapsed=12.34567)
PROGRESS: Final = RevocationProgress(
    done=450,
    total=1200,
    counts={RevocationStatus.REVOKED: 450},
    resumed=0,
    rate=80.0,
    eta=9.4,
    pause=RevocationPause(seconds=3.2, reason="rate_limited"),
    elapsed=5.6,
)
VALUES: Final[list[Any]] = [
    SESSION,
    PAGE,
    SESSION.latest_activity,
    SESSION.tasks[0] if SESSION.tasks else None,
    CLAIMS,
    OUTCOME,
    RevocationOutcome(None, RevocationStatus.PLANNED),
    REPORT,
    PROGRESS,
]


@pytest.mark.promise("json-values")
def test_a_session_is_serialized_with_the_services_names() -> None:
    """Every field; times as ISO 8601 with milliseconds; None is kept."""
    assert SESSION.to_dict() == {
        "id": "sess_1",
        "status": "quantum",
        "user_id": "user_1",
        "client_id": None,
        "actor": {"sub": "user_2"},
        "last_active_organization_id": None,
        "latest_activity": {
            "id": None,
            "is_mobile": True,
            "device_type": None,
            "browser_name": None,
            "browser_version": None,
            "ip_address": None,
            "city": "<Basel>",
            "country": None,
            "object": None,
        },
        "tasks": [{"key": "choose-organization"}],
        "object": None,
        "last_active_at": None,
        "expire_at": None,
        "abandon_at": None,
        "updated_at": None,
        "created_at": "2023-11-14T22:13:20.123Z",
    }
    assert PAGE.to_dict() == {"data": [SESSION.to_dict()], "total_count": 7}


@pytest.mark.promise("json-values")
@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_each_value_is_ready_for_json(value: Any) -> None:
    """Also for the encoders of Flask and Django, and for pydantic, which generates a schema."""
    told = value.to_dict()
    assert json.loads(json.dumps(told)) == told
    kind: Any = value.__class__
    adapter = TypeAdapter[Any](kind)
    assert adapter.dump_python(value) is value
    assert adapter.dump_python(value, mode="json") == told
    assert json.loads(adapter.dump_json(value)) == told
    for mode in ("validation", "serialization"):
        schema = adapter.json_schema(mode=mode)
        assert schema["type"] == "object"
        assert schema["properties"].keys() >= told.keys()
        assert '"type": [' not in json.dumps(schema), "FastAPI 0.115 accepts only one type"
        assert set(schema.get("required", ())) <= told.keys()
    assert adapter.validate_python(value) is value
    with pytest.raises(ValidationError):
        adapter.validate_python(told)


def test_progress_and_report_have_the_number_of_listed_users() -> None:
    """A dashboard of `revoke_all` can show both, as the command line does."""
    assert evolve(PROGRESS, users=3).to_dict()["users"] == 3
    told = evolve(REPORT, users=3, users_without_sessions=1).to_dict()
    assert (told["users"], told["users_without_sessions"]) == (3, 1)


class Answer(BaseModel):
    """A response model of a user's route."""

    session: Session
    others: list[Session] = []
    claims: SessionClaims | None = None


def app() -> FastAPI:
    """Make an app whose routes return our values."""
    made = FastAPI()

    @made.get("/one")
    async def one() -> Session:
        return SESSION

    @made.get("/list")
    async def several() -> list[Session]:
        return [SESSION, SESSION]

    @made.get("/page")
    async def page() -> SessionPage:
        return PAGE

    @made.get("/model")
    async def model() -> Answer:
        return Answer(session=SESSION, others=[SESSION], claims=CLAIMS)

    @made.get("/report")
    async def report() -> RevocationReport | None:
        return REPORT

    assert all((one, several, page, model, report))
    return made


async def asked(made: FastAPI, path: str) -> Any:
    """Call a route as a server does."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [],
    }
    await made(scope, receive, send)
    assert sent[0]["status"] == 200
    return json.loads(b"".join(message.get("body", b"") for message in sent))


@pytest.mark.promise("json-values")
async def test_fastapi_returns_annotated_values() -> None:
    """Alone, in lists and in models; the OpenAPI document has their fields."""
    made = app()
    assert await asked(made, "/one") == SESSION.to_dict()
    assert await asked(made, "/list") == [SESSION.to_dict()] * 2
    assert await asked(made, "/page") == PAGE.to_dict()
    assert await asked(made, "/report") == REPORT.to_dict()
    assert await asked(made, "/model") == {
        "session": SESSION.to_dict(),
        "others": [SESSION.to_dict()],
        "claims": CLAIMS.to_dict(),
    }
    document = json.dumps(await asked(made, "/openapi.json"))
    for name in ("last_active_organization_id", "total_count", "date-time", "already_inactive"):
        assert name in document


@pytest.mark.parametrize("secret", [Token(jwt="x"), Cookies(cookies=("x",))])
def test_secrets_are_returned_only_by_name(secret: Any) -> None:
    """A token has neither `to_dict` nor a schema: a route that returns one fails at creation."""
    assert not hasattr(secret, "to_dict")
    with pytest.raises(Exception, match="schema"):
        TypeAdapter[Any](secret.__class__)


def test_pydantic_is_not_imported_by_us() -> None:
    """Nor by `to_dict`."""
    ended = run_program(
        """
        import sys
        from clerk_async import Session, SessionPage, RevocationReport
        Session(id="s", status="active").to_dict()
        RevocationReport().to_dict()
        print("pydantic" in sys.modules, "typing_extensions" in sys.modules)
        """,
        None,
    )
    assert ended.out == "False False\n"


def test_values_of_bulk_runs_print_as_plain_english() -> None:
    """One line each."""
    assert str(OUTCOME) == "sess_1: failed: 404: gone"
    assert str(RevocationOutcome(None, RevocationStatus.ALREADY_INACTIVE)) == (
        "no id: already inactive"
    )
    assert str(REPORT) == "1,200 sessions in 12.3 s: 1,190 revoked, 10 failed"
    assert str(PROGRESS) == (
        "450 of 1,200 sessions done, 80.0 per second, about 9 s left; "
        "waiting for 3 s (rate_limited)"
    )


def test_a_page_is_a_table_in_a_notebook() -> None:
    """Foreign text is escaped."""
    odd = Session(id="<script>", status="active", user_id="a&b")
    text = SessionPage(data=(SESSION, odd), total_count=1200)._repr_html_()
    assert text.startswith("<table>")
    assert "2023-11-14 22:13:20 UTC" in text
    assert "&lt;script&gt;" in text
    assert "<script>" not in text
    assert "2 of 1,200 sessions" in text
