"""Searches everything that a run shows for planted secrets."""

from __future__ import annotations

import asyncio
import logging
import pickle
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from clerk_async import (
    ApiError,
    ApiResponse,
    BulkRevocationError,
    ClerkError,
    Cookies,
    KeysUnavailableError,
    Token,
)
from clerk_async.bulk.report import RevocationReport
from clerk_async.testing import Fault

if TYPE_CHECKING:
    import pytest

NOT_OURS: Final = (Path(__file__).parent, Path(asyncio.__file__).parent)


def chain(error: Any) -> list[BaseException]:
    """Return an error and all that is chained to it or grouped in it, shown or not."""
    links: list[Any] = [error]
    seen: list[BaseException] = []
    for link in links:
        if link is not None and link not in seen:
            seen.append(link)
            links += [link.__cause__, link.__context__, *getattr(link, "exceptions", ())]
    return seen


def places(error: Any, *secrets: str) -> list[str]:
    """Return where the locals of our frames or aiohttp's contain a planted secret."""
    wanted = ("PLANTED", *secrets)
    found: list[str] = []
    for link in chain(error):
        for frame, _ in traceback.walk_tb(link.__traceback__):
            file = Path(frame.f_code.co_filename)
            if not any(place in file.parents for place in NOT_OURS):
                found += [
                    f"{type(link).__name__} <- {file.name}:{frame.f_code.co_name} local {name}"
                    for name, value in frame.f_locals.items()
                    if any(secret in repr(value) for secret in wanted)
                ]
    return found


def planted_faults(key: str, token: str) -> dict[str, Fault]:
    """Return every fault there is, for every request; those that can echo a secret do."""
    every: dict[str, Any] = {"count": None}
    cookie = f"__session={token}; __refresh=rt_PLANTEDrefreshPLANTED"
    echo = {
        "errors": [
            {
                "message": f"no {key}",
                "long_message": f"{key}: {cookie} with Bearer {token}",  # long text is truncated
                "code": "echoed",
                "meta": {"token": token},
            }
        ]
    }
    return {
        "none": Fault.status(500, after=100_000),
        "status 400 with an echo": Fault.status(400, body=echo, **every),
        "status 401": Fault.status(401, **every),
        "status 429 with an echo": Fault.status(429, retry_after=0, body=echo, count=9),
        "status 500 with cookies": Fault.status(500, headers={"Set-Cookie": cookie}, **every),
        "html": Fault.html(502, **every),
        "empty": Fault.empty(503, retry_after=0, **every),
        "redirect": Fault.redirect(f"https://evil.example/?{cookie}&{key}", **every),
        "cut before": Fault.cut("before", **every),
        "cut after": Fault.cut("after", reset=True, **every),
        "cut body": Fault.cut("body", **every),
        "delayed": Fault.delayed(0.12, **every),
        "hold": Fault.hold(probability=0.3),
        "slow_body": Fault.slow_body(0.12, **every),
        "truncated_json": Fault.truncated_json(**every),
        "not_json with an echo": Fault.not_json(f"<{key} {token} {cookie}>", **every),
        "not_json with bad bytes": Fault.not_json(
            f'{{"{token}": "\xff{key}'.encode("latin-1"), **every
        ),
        "wrong_shape": Fault.wrong_shape(
            {"jwt": [token], "cookies": key, "id": {"x": token}}, **every
        ),
        "changed": Fault.changed(lambda _: [{"id": [token], "status": {"x": key}}], **every),
        "field": Fault.field("status", [token], **every),
        "null": Fault.null("id", **every),
        "unknown_enum": Fault.unknown_enum(**every),
        "missing": Fault.missing("status", **every),
        "huge": Fault.huge(100_000, compressed=True, **every),
        "with_headers": Fault.with_headers(
            {"Set-Cookie": "of_another_name=PLANTEDcookie", "X-Echo": key}, **every
        ),
        "raw": Fault.raw(f"HTTP/1.1 2x0 {key}\r\n{cookie}\r\n\r\n{token}".encode(), **every),
        "raw header": Fault.raw(
            f"HTTP/1.1 200 OK\r\nX-{key}\x00: {token}\r\n\r\n".encode(), **every
        ),
    }


@attrs.define
class Hunt:
    """The secrets of a run, and the places that were searched for them."""

    session_id: str
    expired: str
    refresh: str
    caplog: pytest.LogCaptureFixture
    capfd: pytest.CaptureFixture[str]
    secrets: set[str] = attrs.field(factory=set[str])
    looked: int = 0

    @property
    def cookie(self) -> str:
        """Return the header that a browser would send."""
        return f"__session={self.expired}; __refresh={self.refresh}"

    def plant(self, *secrets: str) -> None:
        """Search for these secrets from now on."""
        self.secrets.update(secrets)

    def plant_token(self, token: str) -> None:
        """Search for a JWT, for its signature, and for the start of its claims."""
        _, claims, signature = token.split(".")
        self.plant(token, signature, claims[:20])

    def look_at(self, *shown: object, what: str) -> None:
        """Fail if the text or the repr of an object contains a secret."""
        for one in shown:
            self.looked += 1
            texts = [one] if isinstance(one, str) else [repr(one), str(one), f"{one}"]
            for text in texts:
                for secret in self.secrets:
                    assert secret not in text, f"{what}: {text[:2000]}"

    def look_at_value(self, value: Any) -> None:
        """Check the result of a call; a token in it is a secret from then on."""
        self._learn(value)
        self.look_at(value, what="a value")

    def _learn(self, value: Any) -> None:
        match value:
            case Token():
                self.plant_token(value.jwt)
            case Cookies():
                self.plant(*(line.partition(";")[0].partition("=")[2] for line in value.cookies))
                self.secrets.discard("")
            case ApiResponse():
                self.look_at(value.headers, what="headers")
            case RevocationReport():
                self._look_at_report(value)
            case _:
                pass

    def _look_at_report(self, report: RevocationReport) -> None:
        for outcome in report.failures:
            if outcome.error is not None:
                self.look_at_error(outcome.error)
        try:
            report.raise_for_failures()
        except BulkRevocationError as error:
            self.look_at_error(error)

    def look_at_error(self, error: BaseException) -> None:
        """Check an error in every form in which programs show one."""
        self.look_at(error, *map(repr, error.args), what="an error")
        self.look_at("".join(traceback.format_exception(error)), what="a traceback")
        logging.getLogger("of.a.user").error("it failed: %s", error, exc_info=error)
        raw = {"errors", "meta", "body"}  # kept as received, and shown nowhere
        state = {name: value for name, value in vars(error).items() if name not in raw}
        self.look_at(*state.values(), what="an error's attribute")
        if isinstance(error, ClerkError) and not _keeps_raw_values(error):
            self.look_at(pickle.dumps(error).decode("latin-1"), what="a pickle")
            self.look_at(pickle.loads(pickle.dumps(error)), what="an unpickled error")  # noqa: S301
        for linked in (error.__cause__, error.__context__, getattr(error, "cause", None)):
            if linked is not None:
                self.look_at_error(linked)

    def look_around(self) -> None:
        """Check what was logged and printed meanwhile."""
        for record in self.caplog.records:
            self.look_at(record.getMessage(), repr(record.args), what=f"the log {record.name}")
        self.look_at(self.caplog.text, what="the log")
        self.caplog.clear()
        out, err = self.capfd.readouterr()
        self.look_at(out, err, what="what was printed")


def _keeps_raw_values(error: BaseException | None) -> bool:
    """Return whether an object is documented to keep the service's text verbatim."""
    if isinstance(error, BulkRevocationError):
        return any(_keeps_raw_values(outcome.error) for outcome in error.report.failures)
    if isinstance(error, KeysUnavailableError):
        return _keeps_raw_values(error.cause)
    return isinstance(error, ApiError) and bool(error.errors)
