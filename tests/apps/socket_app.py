"""A WebSocket that ends with the session of the user who opened it."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from clerk_async import AsyncSessionsApi, AsyncTokenVerifier, ClerkError, NotFoundError

LOOK_EVERY = 30.0  # seconds


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with AsyncSessionsApi() as sessions:
        app.state.sessions = sessions
        app.state.verifier = AsyncTokenVerifier(
            sessions=sessions, authorized_parties=["http://localhost:3000"]
        )
        yield


app = FastAPI(lifespan=lifespan)


@app.websocket("/echo")
async def echo(socket: WebSocket) -> None:
    state = await socket.app.state.verifier.authenticate_request(socket)
    if state.claims is None or state.claims.session_id is None:
        await socket.close(1008)
        return
    await socket.accept()
    talking = asyncio.create_task(talk(socket))
    watching = asyncio.create_task(watch(socket.app.state.sessions, state.claims.session_id))
    await asyncio.wait([talking, watching], return_when=asyncio.FIRST_COMPLETED)
    if watching.done():
        talking.cancel()
        await socket.close(4001, "you were signed out")
    watching.cancel()


async def talk(socket: WebSocket) -> None:
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            await socket.send_text(await socket.receive_text())


async def watch(sessions: AsyncSessionsApi, session_id: str) -> None:
    """Return when the session has ended; the token that opened the socket expires long before."""
    while True:
        try:
            if not (await sessions.get(session_id)).status.is_live:
                return
        except NotFoundError:
            return
        except ClerkError:
            pass  # the service can't be asked now, which says nothing about the session
        await asyncio.sleep(LOOK_EVERY)
