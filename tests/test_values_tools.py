"""Other tools on our values: they resolve type hints, and structure and unstructure values."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from clients import MODES, Mode, run
from programs import run_program

from clerk_async import Session, SessionPage
from clerk_async.http.shapes import Losses
from clerk_async.testing import FakeClerk, Fault

TOOLS = {
    "typing": "import typing; use = typing.get_type_hints",
    "inspect": "import inspect; use = lambda cls: inspect.get_annotations(cls, eval_str=True)",
    "attrs": "import attrs; use = lambda cls: attrs.has(cls) and attrs.resolve_types(cls)",
}
USES = """
    import inspect, logging
    import cattrs, attrs
    import clerk_async
    from clerk_async import SessionsApi
    from clerk_async.testing import FakeClerk, Fault

    logging.disable()

    def use_client():
        fake = FakeClerk(sessions=4)
        with fake, SessionsApi(fake.secret_key, base_url=fake.base_url) as api:
            known = list(fake.sessions)
            answers = [api.get(known[0]), api.list(user_id=fake.sessions[known[0]].user_id)]
            for fault in (
                Fault.missing("last_active_at", operation="get"),
                Fault.null("latest_activity", operation="get"),
            ):
                fake.inject(fault)
                answers.append(api.get(known[0]))
            answers.append(api.create_token(known[0]))
            fake.inject(Fault.wrong_shape(dict(jwt="x", new=1), operation="create_token"))
            answers.append(api.create_token(known[0]))
            session = fake.sessions[known[0]]
            answers.append(api.refresh(
                known[0], expired_token=fake.expired_token(session),
                refresh_token=session.refresh_token, request_origin="http://localhost:3000",
            ))
            told = []
            report = api.revoke_many([*known, "sess_none", None], on_outcome=told.append)
            assert report.revoked == 4, report
            return [*answers, report, *told]

    def resolve_all():
        for name in clerk_async.__all__:
            value = getattr(clerk_async, name)
            if inspect.isclass(value):
                use(value)
"""


@pytest.mark.promise("tools")
@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("tool", TOOLS)
def test_type_hints_of_all_exported_classes_resolve(tool: str, order: str) -> None:
    """Before or after the client's first use; the client works as before."""
    calls = ["resolve_all()", "use_client()", "resolve_all()"]
    body = calls if order == "before" else ["use_client()", *calls]
    ended = run_program(f"{USES}\n    {TOOLS[tool]}\n    " + "\n    ".join(body), None)
    assert (ended.code, ended.err) == (0, "")


HINTS = """
    import functools, inspect, sys, typing
    import clerk_async, clerk_async.testing
    from clerk_async import AsyncSessionsApi, SessionsApi

    def functions():
        api = SessionsApi("sk_test_x"), AsyncSessionsApi("sk_test_x")
        for value in (
            *(getattr(module, name) for module in (clerk_async, clerk_async.testing)
              for name in module.__all__),
            *(type(client.with_http_info) for client in api),
        ):
            if not inspect.isclass(value):
                yield from [value] if callable(value) else []
                continue
            for name in dir(value):
                if name.startswith("_") and name not in {"__init__", "__aenter__", "__enter__"}:
                    continue
                found = inspect.getattr_static(value, name)
                found = getattr(found, "fget", getattr(found, "__func__", found))
                if inspect.isfunction(found):
                    yield found

    seen = {each for each in functions() if each.__module__.startswith("clerk_async")}
    assert len(seen) > 200, len(seen)
    loaded = set(sys.modules)
    wrong = []
    for function in seen:
        for use in (
            typing.get_type_hints,
            functools.partial(inspect.get_annotations, eval_str=True),
            functools.partial(inspect.signature, eval_str=True),
        ):
            try:
                use(function)
            except NameError as error:
                wrong.append((function.__qualname__, str(error)))
    assert not wrong, sorted(set(wrong))
    import aiohttp, redis.asyncio
    hints = typing.get_type_hints(AsyncSessionsApi.__init__)
    assert hints["client_session"] == aiohttp.ClientSession | None
    assert hints["shared_state"] == str | clerk_async.SharedState | None
    hints = typing.get_type_hints(clerk_async.TokenVerifier.authenticate_request)
    assert hints["return"] is clerk_async.RequestState
    hints = typing.get_type_hints(clerk_async.SharedState.__init__)
    assert hints["client"] == redis.asyncio.Redis | None
    sys.modules["redis.asyncio"] = None
    assert typing.get_type_hints(clerk_async.SharedState.__init__)["client"]
"""


@pytest.mark.promise("tools")
def test_type_hints_of_all_methods_and_functions_resolve() -> None:
    """Frameworks that inject dependencies resolve them; an extra that is missing counts as Any."""
    ended = run_program(HINTS, None)
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.promise("tools")
@pytest.mark.parametrize(
    "take_apart",
    ["cattrs.unstructure", "attrs.asdict", "attrs.astuple", "cattrs.Converter().unstructure"],
)
def test_values_can_be_unstructured_by_attrs_and_cattrs(take_apart: str) -> None:
    """By the user's own instances, between calls: later responses are read as before."""
    ended = run_program(
        f"""{USES}
    for value in use_client():
        if attrs.has(type(value)):
            {take_apart}(value)
    use_client()
    """,
        None,
    )
    assert (ended.code, ended.err) == (0, "")


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged at WARNING and above."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.promise("quiet-log")
@pytest.mark.parametrize("mode", MODES)
def test_a_dropped_field_is_logged_once(
    mode: Mode, fake: FakeClerk, caplog: pytest.LogCaptureFixture
) -> None:
    """However many sessions and pages lack it, and whichever view or operation finds it."""
    known, *_ = [fake.add_session(user_id="user_1") for _ in range(50)]
    fake.inject(Fault.missing("last_active_at", count=None))

    async def look(client: Any) -> int:
        pages = [await client.list(user_id="user_1", limit=50) for _ in range(3)]
        await client.with_options(timeout=5).get(known.id)
        await client.with_http_info.get(known.id)
        found = len([session async for session in client.iterate(user_id="user_1")])
        await client.revoke_many([known.id])
        return found + sum(map(len, pages))

    def look_from_a_thread(client: Any) -> int:
        pages = [client.list(user_id="user_1", limit=50) for _ in range(3)]
        client.with_options(timeout=5).get(known.id)
        client.with_http_info.get(known.id)
        found = len(list(client.iterate(user_id="user_1")))
        client.revoke_many([known.id])
        return found + sum(map(len, pages))

    assert run(mode, fake, look if mode == "async" else look_from_a_thread).value == 200
    assert lines_of(caplog) == ["Session.last_active_at can't be read and is None: missing"]
    run(mode, fake, lambda client: client.get(known.id))
    assert len(lines_of(caplog)) == 2, "each client logs separately"


def test_a_field_that_is_always_dropped_is_counted_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After a thousand, ten thousand, and so on; each field separately."""
    losses = Losses()
    for count in range(12_000):
        losses.note(Session, "tasks", "expected a string, got null", f"[{count % 9}].key")
    losses.note(Session, "actor", "expected an object, got an array")
    losses.note(SessionPage, "tasks", "missing")
    assert lines_of(caplog) == [
        "Session.tasks[0].key can't be read and is None: expected a string, got null",
        "Session.tasks could not be read 1000 times so far",
        "Session.tasks could not be read 10000 times so far",
        "Session.actor can't be read and is None: expected an object, got an array",
        "SessionPage.tasks can't be read and is None: missing",
    ]
