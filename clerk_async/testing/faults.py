"""Faults: what goes wrong on purpose, and when.

A `Fault` is a value: what happens, to which requests, and how often. `FakeClerk.inject` arms it. If
several armed faults match a request, the first of them happens to it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, Unpack, cast

import msgspec
from attrs import Factory, field, frozen

from .checks import function, must_be, of, one_of, validator, within
from .operations import OPERATIONS

if TYPE_CHECKING:
    import random

    from .operations import Route

Kind: TypeAlias = Literal["reply", "cut", "answer", "hold", "raw"]
Stage: TypeAlias = Literal["before", "after", "body"]


class Where(TypedDict, total=False):
    """Which requests a fault happens to, how often, and how late; every constructor takes these.

    Attributes:
        operation: `list`, `create`, `get`, `refresh`, `revoke`, `verify`, `create_token`,
            `create_token_from_template` or `jwks`; None (the default) for any.
        session_id: Only requests for this session.
        count: How many times; None for every time. The default is once; with a probability, every
            time.
        probability: The probability, from 0 to 1, drawn from the fake's seed.
        after: How many matching requests to let pass first.
        delay: Seconds to wait before anything is answered, cut or sent.
    """

    operation: str | None
    session_id: str | None
    count: int | None
    probability: float | None
    after: int
    delay: float


def _known(_: str, value: str | None) -> None:
    if value is not None:
        one_of("operation", value, OPERATIONS)


def _pairs(name: str, value: tuple[tuple[str, str], ...]) -> None:
    for key, text in value:
        must_be(f"the name of one of {name}", key, str)
        if any(sign in key + must_be(key, text, str) for sign in "\r\n\0"):
            raise ValueError(f"{key} can't be sent: a header must be one line")


def _change(_: str, value: object) -> None:
    if value is not None:
        function("change", value)


def _once(fault: Fault) -> int | None:
    return 1 if fault.probability is None else None


@frozen(kw_only=True)
class Fault:
    """Something that goes wrong: create one with a class method and arm it with `fake.inject`.

    Each raises a TypeError if an argument has the wrong type, and a ValueError if one is out of
    range.

    Example:
        ```python
        fake.inject(Fault.status(503, retry_after=1, operation="revoke", count=3))
        fake.inject(Fault.cut("after", probability=0.01))
        ```
    """

    kind: Kind
    operation: str | None = field(default=None, validator=validator(_known))
    session_id: str | None = field(default=None, validator=of(str, None))
    probability: float | None = field(default=None, validator=within(int, float, None, most=1.0))
    count: int | None = field(default=Factory(_once, takes_self=True), validator=within(int, None))
    after: int = field(default=0, validator=within(int))
    delay: float = field(default=0.0, validator=within(int, float))
    process: bool = True
    stage: Stage = field(
        default="before",
        validator=validator(lambda n, v: one_of(n, v, ("before", "after", "body"))),
    )
    reset: bool = False
    code: int = field(default=200, validator=within(int, least=100, most=999))
    error_code: str | None = field(default=None, validator=of(str, None))
    body: bytes | None = field(default=None, repr=False)
    content_type: str | None = None
    headers: tuple[tuple[str, str], ...] = field(
        default=(), repr=False, validator=validator(_pairs)
    )
    change: Callable[[Any], Any] | None = field(default=None, validator=validator(_change))
    seconds: float = field(default=0.0, validator=within(int, float))
    pieces: int = field(default=1, validator=within(int, least=1))
    truncate: bool = False

    @classmethod
    def status(
        cls,
        code: int,
        *,
        retry_after: float | str | None = None,
        error_code: str | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        process: bool = False,
        **where: Unpack[Where],
    ) -> Fault:
        """Respond with a status and Clerk's error body for it.

        Args:
            code: The status.
            retry_after: The Retry-After header, in seconds or as text (an HTTP date, or junk).
            error_code: Clerk's code in the body; by default, one that fits the status.
            body: Another body: bytes or text as it is, anything else as JSON.
            headers: More headers.
            process: Whether the request is still acted on.
            **where: See `Where`.
        """
        return cls(
            kind="reply",
            code=code,
            error_code=error_code,
            body=None if body is None else _bytes(body),
            headers=_headers(headers, retry_after),
            process=process,
            **where,
        )

    @classmethod
    def html(
        cls, code: int = 502, *, retry_after: float | str | None = None, **where: Unpack[Where]
    ) -> Fault:
        """Respond with a status and an HTML page, as a proxy in between does."""
        page = f"<!DOCTYPE html><html><head><title>{code}</title></head><body>Error</body></html>"
        return cls(
            kind="reply",
            code=code,
            body=page.encode(),
            content_type="text/html; charset=UTF-8",
            headers=_headers(None, retry_after),
            process=False,
            **where,
        )

    @classmethod
    def empty(
        cls, code: int = 503, *, retry_after: float | str | None = None, **where: Unpack[Where]
    ) -> Fault:
        """Respond with a status and no body at all."""
        return cls(
            kind="reply",
            code=code,
            body=b"",
            content_type="",
            headers=_headers(None, retry_after),
            process=False,
            **where,
        )

    @classmethod
    def redirect(cls, location: str, code: int = 302, **where: Unpack[Where]) -> Fault:
        """Respond with a redirect, without acting on the request."""
        return cls(
            kind="reply",
            code=code,
            body=b"",
            content_type="",
            headers=(("Location", location),),
            process=False,
            **where,
        )

    @classmethod
    def cut(cls, stage: Stage, *, reset: bool = False, **where: Unpack[Where]) -> Fault:
        """Cut the TCP connection.

        Args:
            stage: `before` the request's body is read and acted on; `after` the request is acted
                on, but before the first byte of the response; or in the middle of the response's
                `body`.
            reset: Whether to cut with a RST rather than a FIN.
            **where: See `Where`.
        """
        return cls(kind="cut", stage=stage, reset=reset, process=stage != "before", **where)

    @classmethod
    def delayed(
        cls, seconds: float, *, process_first: bool = False, **where: Unpack[Where]
    ) -> Fault:
        """Respond as usual, but late: wait before or, with `process_first`, after acting on it."""
        return cls(
            kind="answer", seconds=seconds, stage="after" if process_first else "before", **where
        )

    @classmethod
    def hold(cls, *, process_first: bool = False, **where: Unpack[Where]) -> Fault:
        """Respond as usual, but only after `fake.release()`, for tests without guessed times."""
        return cls(kind="hold", stage="after" if process_first else "before", **where)

    @classmethod
    def slow_body(cls, seconds: float, *, pieces: int = 10, **where: Unpack[Where]) -> Fault:
        """Send the headers at once, and the body in pieces spread over this many seconds."""
        return cls(kind="answer", stage="body", seconds=seconds, pieces=pieces, **where)

    @classmethod
    def truncated_json(cls, **where: Unpack[Where]) -> Fault:
        """Respond with 200 and the first half of the JSON, as a complete body."""
        return cls(kind="answer", truncate=True, **where)

    @classmethod
    def not_json(cls, body: bytes | str = "OK", **where: Unpack[Where]) -> Fault:
        """Act on the request and respond with 200 and something that is not JSON."""
        return cls(kind="reply", body=_bytes(body), content_type="text/plain", **where)

    @classmethod
    def wrong_shape(cls, value: Any = None, **where: Unpack[Where]) -> Fault:
        """Act on the request and respond with 200 and other JSON (`null` by default)."""
        return cls(kind="answer", change=lambda _: value, **where)

    @classmethod
    def changed(cls, change: Callable[[Any], Any], **where: Unpack[Where]) -> Fault:
        """Respond with what `change` returns for the usual JSON value."""
        return cls(kind="answer", change=change, **where)

    @classmethod
    def field(
        cls, name: str, value: Any, *, item: int | None = None, **where: Unpack[Where]
    ) -> Fault:
        """Respond with another value in one field of the session, or of the sessions in a list.

        Args:
            name: The field.
            value: Its value, of any type.
            item: The index of the only session of a list to change; None for all.
            **where: See `Where`.
        """

        def set_it(part: dict[str, Any]) -> None:
            part[name] = value

        return cls(kind="answer", change=_on_items(set_it, item), **where)

    @classmethod
    def null(cls, name: str, *, item: int | None = None, **where: Unpack[Where]) -> Fault:
        """Respond with null in a field."""
        return cls.field(name, None, item=item, **where)

    @classmethod
    def unknown_enum(
        cls, value: str = "quantum", *, item: int | None = None, **where: Unpack[Where]
    ) -> Fault:
        """Respond with a status that no client knows."""
        return cls.field("status", value, item=item, **where)

    @classmethod
    def missing(cls, name: str, *, item: int | None = None, **where: Unpack[Where]) -> Fault:
        """Respond without a field."""

        def drop(part: dict[str, Any]) -> None:
            part.pop(name, None)

        return cls(kind="answer", change=_on_items(drop, item), **where)

    @classmethod
    def huge(cls, size: int, *, compressed: bool = False, **where: Unpack[Where]) -> Fault:
        """Respond with 200 and JSON of this many bytes; compressed, it is a decompression bomb."""
        body = b'{"padding":"' + b"a" * max(0, size - 14) + b'"}'
        headers: tuple[tuple[str, str], ...] = ()
        if compressed:
            import gzip  # noqa: PLC0415 - rarely needed

            body = gzip.compress(body, compresslevel=6)
            headers = (("Content-Encoding", "gzip"),)
        return cls(kind="reply", body=body, headers=headers, **where)

    @classmethod
    def with_headers(cls, headers: Mapping[str, str], **where: Unpack[Where]) -> Fault:
        """Respond as usual, with more headers."""
        return cls(kind="answer", headers=tuple(headers.items()), **where)

    @classmethod
    def raw(cls, data: bytes, **where: Unpack[Where]) -> Fault:
        """Send these bytes, which need not be HTTP, and close the connection."""
        return cls(kind="raw", body=data, process=False, **where)


class Injected:
    """A fault that is armed in a fake, as `inject` returns it.

    Attributes:
        fault: The fault.
        seen: How many requests matched it.
        fired: How many times it happened.
    """

    def __init__(self, fault: Fault, remove: Callable[[Injected], None]) -> None:
        self.fault = fault
        self.seen = 0
        self.fired = 0
        self._remove = remove

    def remove(self) -> None:
        """Disarm it; a fault that is already happening continues."""
        self._remove(self)

    def __repr__(self) -> str:
        return f"<Injected {self.fault!r} seen={self.seen} fired={self.fired}>"


class Armed:
    """The armed faults, in order; safe to use from any thread."""

    def __init__(self, random_: random.Random) -> None:
        self._random = random_
        self._lock = threading.Lock()
        self._faults: tuple[Injected, ...] = ()

    def add(self, fault: Fault) -> Injected:
        """Arm a fault, after those that are already armed."""
        injected = Injected(fault, self._remove)
        with self._lock:
            self._faults = (*self._faults, injected)
        return injected

    def clear(self) -> None:
        """Disarm all faults."""
        with self._lock:
            self._faults = ()

    def pick(self, route: Route | None) -> Fault | None:
        """Return the fault that happens to a request, or None."""
        for injected in self._faults:
            fault = injected.fault
            if fault.operation not in {None, route and route.operation}:
                continue
            if fault.session_id not in {None, route and route.session_id}:
                continue
            with self._lock:
                if fault.count is not None and injected.fired >= fault.count:
                    continue
                injected.seen += 1
                if injected.seen <= fault.after:
                    continue
                if fault.probability is not None and self._random.random() >= fault.probability:
                    continue
                injected.fired += 1
            return fault
        return None

    def _remove(self, injected: Injected) -> None:
        with self._lock:
            self._faults = tuple(other for other in self._faults if other is not injected)


def _headers(
    headers: Mapping[str, str] | None, retry_after: float | str | None
) -> tuple[tuple[str, str], ...]:
    pairs = tuple((headers or {}).items())
    return pairs if retry_after is None else (*pairs, ("Retry-After", str(retry_after)))


def _bytes(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    return body.encode() if isinstance(body, str) else msgspec.json.encode(body)


def _on_items(change: Callable[[dict[str, Any]], None], item: int | None) -> Callable[[Any], Any]:
    def apply(value: Any) -> Any:
        rows = _rows(value)
        for row in rows if item is None else rows[item : item + 1]:
            change(row)
        return value

    return apply


def _rows(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, list):
        return cast(list[dict[str, Any]], value)
    one = cast(dict[str, Any], value)
    rows: list[dict[str, Any]] = one.get("data", [one])
    return rows
