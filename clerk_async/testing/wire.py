"""Handles HTTP requests with the operations and the faults."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
from aiohttp import web

from .exchange import Answer, ReceivedRequest, Refusal, refuse, usual_refusal
from .keys import CryptographyMissingError
from .operations import Call, Route, check_key, check_version, find_route

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from .faults import Armed, Fault
    from .gauges import Gauges
    from .operations import Operations
    from .settings import Settings

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, zero seconds: closing sends a RST
_PUBLIC_KEY_SET = "/.well-known/jwks.json"


class Wire:
    """Handles every request of one fake; runs only on the server's loop."""

    def __init__(
        self,
        *,
        operations: Operations,
        settings: Settings,
        armed: Armed,
        gauges: Gauges,
        log: list[ReceivedRequest],
        log_size: int | None,
        monotonic: Callable[[], float],
        random_: random.Random,
        compress: bool,
    ) -> None:
        self._operations = operations
        self._settings = settings
        self._armed = armed
        self._gauges = gauges
        self._log = log
        self._log_size = log_size
        self._monotonic = monotonic
        self._random = random_
        self._compress = compress
        self._answers = 0
        self.gate: asyncio.Event = asyncio.Event()
        self.connection_numbers: dict[Any, int] = {}

    def let_go(self) -> None:
        """Answer all held requests."""
        self.gate.set()
        self.gate = asyncio.Event()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, or misbehave as the faults demand."""
        path, _, query = request.raw_path.partition("?")
        found = find_route(request.method, path)
        route = found if isinstance(found, Route) else None
        received = ReceivedRequest(
            method=request.method,
            path=path,
            query_string=query,
            headers=request.headers,
            operation=route.operation if route else None,
            session_id=route.session_id if route else None,
            time=self._monotonic(),
            connection=self.connection_numbers.get(request.protocol, 0),
        )
        self._gauges.began()
        try:
            fault = self._armed.pick(route)
            if fault is not None and fault.kind == "cut" and fault.stage == "before":
                self._remember(received)
                await _sleep(fault.delay)
                await _cut(request, reset=fault.reset)
            try:
                if request.can_read_body:
                    received.body = await request.read()
            finally:
                self._remember(received)
            await _sleep(self._settings.delay(self._random))
            if fault is None:
                return self._send(received, self._process(received, found, query))
            return await self._misbehave(fault, request, received, found, query)
        except ConnectionError:  # the client disconnected while it was being answered
            await asyncio.get_running_loop().create_future()  # cancelled with the connection
            raise
        finally:
            received.ended_at = self._monotonic()
            self._gauges.ended()

    def _remember(self, received: ReceivedRequest) -> None:
        self._log.append(received)
        if self._log_size is not None and len(self._log) > self._log_size:
            del self._log[: -self._log_size or None]
        self._gauges.tell()

    def _trace(self) -> str:
        self._answers += 1
        return f"{self._answers:032x}"

    def _process(self, received: ReceivedRequest, found: Route | Refusal, query: str) -> Answer:
        received.processed = True
        try:
            if received.path != _PUBLIC_KEY_SET:
                check_key(received.headers, self._settings.secret_key)
            self._admit(received)
            version = check_version(received.headers)
            if isinstance(found, Refusal):
                raise found
            return self._operations.answer(Call(found, version, query, received.body))
        except Refusal as refusal:
            return refuse(refusal, self._trace())
        except CryptographyMissingError as error:
            missing = Refusal(501, "not_implemented", "Not implemented", long_message=str(error))
            return refuse(missing, self._trace())

    def _admit(self, received: ReceivedRequest) -> None:
        window = self._settings.window
        if window is None or received.operation == "jwks":
            return
        retry_after = window.admit(self._monotonic())
        if retry_after is not None:
            raise usual_refusal(429, **{"Retry-After": str(retry_after)})

    async def _misbehave(
        self,
        fault: Fault,
        request: web.BaseRequest,
        received: ReceivedRequest,
        found: Route | Refusal,
        query: str,
    ) -> web.StreamResponse:
        await _sleep(fault.delay)
        if fault.stage == "before":
            await self._wait(fault)
        answer = Answer(200, b"")
        if fault.process:
            answer = self._process(received, found, query)
        if fault.stage == "after":
            await self._wait(fault)
        match fault.kind:
            case "raw":
                await _send_raw(request, fault.body or b"")
            case "cut" if fault.stage == "body":
                await self._send_slowly(request, received, answer, pieces=2, cut=fault)
            case "cut":
                await _cut(request, reset=fault.reset)
            case "reply":
                answer = self._reply(fault)
            case _:
                try:
                    answer = _distort(answer, fault)
                except Refusal as refusal:
                    answer = refuse(refusal, self._trace())
        if fault.stage == "body":
            return await self._send_slowly(
                request, received, answer, pieces=fault.pieces, seconds=fault.seconds
            )
        return self._send(received, answer)

    async def _wait(self, fault: Fault) -> None:
        if fault.kind != "hold":
            await _sleep(fault.seconds)
            return
        gate = self.gate
        self._gauges.held += 1
        self._gauges.tell()
        try:
            await gate.wait()
        finally:
            self._gauges.held -= 1

    def _reply(self, fault: Fault) -> Answer:
        body = fault.body
        if body is None:
            body = refuse(usual_refusal(fault.code, fault.error_code), self._trace()).body
        kind = "application/json" if fault.content_type is None else fault.content_type or None
        return Answer(fault.code, body, dict(fault.headers), kind)

    def _headers(self, received: ReceivedRequest, answer: Answer) -> dict[str, str]:
        received.status = answer.status
        self._answers += 1
        headers = {"cf-ray": f"{self._answers:016x}-FRA", **answer.headers}
        if answer.content_type is not None:
            headers["Content-Type"] = answer.content_type
        return headers

    def _send(self, received: ReceivedRequest, answer: Answer) -> web.Response:
        headers = self._headers(received, answer)
        response = web.Response(status=answer.status, body=answer.body, headers=headers)
        if self._compress:
            response.enable_compression()
        return response

    async def _send_slowly(
        self,
        request: web.BaseRequest,
        received: ReceivedRequest,
        answer: Answer,
        *,
        pieces: int,
        seconds: float = 0.0,
        cut: Fault | None = None,
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=self._headers(received, answer))
        response.content_length = len(answer.body)
        await response.prepare(request)
        size = max(1, -(-len(answer.body) // pieces))
        for start in range(0, len(answer.body), size):
            await _sleep(seconds / pieces)
            await response.write(answer.body[start : start + size])
            if cut is not None:
                await _cut(request, reset=cut.reset)
        await response.write_eof()
        return response


def _distort(answer: Answer, fault: Fault) -> Answer:
    body = answer.body
    if fault.change is not None and answer.status == 200:  # noqa: PLR2004 - errors stay as they are
        try:
            body = msgspec.json.encode(fault.change(msgspec.json.decode(body)))
        except Exception as error:
            raise Refusal(501, "not_implemented", f"A fault's change failed: {error!r}") from error
    if fault.truncate:
        body = body[: len(body) // 2]
    return Answer(answer.status, body, {**answer.headers, **dict(fault.headers)})


async def _sleep(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)


async def _send_raw(request: web.BaseRequest, data: bytes) -> NoReturn:
    if request.transport is not None:
        request.transport.write(data)
    await _cut(request, reset=False)


async def _cut(request: web.BaseRequest, *, reset: bool) -> NoReturn:
    transport = request.transport
    if transport is not None:
        if reset:
            transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, _RESET
            )
            transport.abort()
        else:
            transport.close()
    # The end of the connection cancels this handler; there is no client left to answer.
    await asyncio.get_running_loop().create_future()
    raise AssertionError("unreachable")
