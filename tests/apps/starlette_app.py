"""A Starlette app that admits only signed-in users, with a plain ASGI middleware."""

import contextlib
from collections.abc import AsyncGenerator

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from clerk_async import AsyncSessionsApi, AsyncTokenVerifier


class SignedIn:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            verifier: AsyncTokenVerifier = scope["app"].state.verifier
            state = await verifier.authenticate_request(scope)
            if state.claims is None:
                status = 503 if state.status == "unknown" else 401
                await PlainTextResponse(state.message, status)(scope, receive, send)
                return
            scope["claims"] = state.claims
        await self.app(scope, receive, send)


async def sign_out(request: Request) -> Response:
    await request.app.state.sessions.revoke(request.scope["claims"].session_id)
    return Response(status_code=204)


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[None]:
    async with AsyncSessionsApi() as sessions:
        app.state.sessions = sessions
        app.state.verifier = AsyncTokenVerifier(
            sessions=sessions, authorized_parties=["http://localhost:3000"]
        )
        yield


app = Starlette(
    routes=[Route("/sign-out", sign_out, methods=["POST"])],
    middleware=[Middleware(SignedIn)],
    lifespan=lifespan,
)
