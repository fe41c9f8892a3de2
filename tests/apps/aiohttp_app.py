"""An aiohttp.web app whose users can sign out."""

import socket
import sys
from collections.abc import AsyncGenerator

from aiohttp import web

from clerk_async import AsyncSessionsApi, AsyncTokenVerifier

SESSIONS = web.AppKey("SESSIONS", AsyncSessionsApi)
VERIFIER = web.AppKey("VERIFIER", AsyncTokenVerifier)


async def sessions_client(app: web.Application) -> AsyncGenerator[None]:
    async with AsyncSessionsApi() as sessions:
        app[SESSIONS] = sessions
        app[VERIFIER] = AsyncTokenVerifier(
            sessions=sessions, authorized_parties=["http://localhost:3000"]
        )
        yield


async def sign_out(request: web.Request) -> web.Response:
    state = await request.app[VERIFIER].authenticate_request(request)
    if state.claims is None or state.claims.session_id is None:
        status = 503 if state.status == "unknown" else 401
        return web.Response(status=status, text=state.message)
    await request.app[SESSIONS].revoke(state.claims.session_id)
    return web.Response(status=204)


app = web.Application()
app.router.add_post("/sign-out", sign_out)
app.cleanup_ctx.append(sessions_client)


async def tell(_: web.Application) -> None:
    print("Shutting down", flush=True)  # as other servers do when they stop listening


if __name__ == "__main__":
    app.on_shutdown.append(tell)
    web.run_app(app, sock=socket.socket(fileno=int(sys.argv[1])), print=None)
