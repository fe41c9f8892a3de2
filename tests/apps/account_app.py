"""A FastAPI app whose users see their sessions and end them."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse

from clerk_async import (
    AsyncSessionsApi,
    AsyncTokenVerifier,
    ClerkError,
    NotFoundError,
    Session,
    SessionClaims,
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with AsyncSessionsApi() as sessions:
        app.state.sessions = sessions
        app.state.verifier = AsyncTokenVerifier(
            sessions=sessions, authorized_parties=["http://localhost:3000"]
        )
        yield


async def signed_in(request: Request) -> SessionClaims:
    verifier: AsyncTokenVerifier = request.app.state.verifier
    state = await verifier.authenticate_request(request)
    if state.claims is None:
        raise HTTPException(503 if state.status == "unknown" else 401, state.message)
    return state.claims


def sessions_of(request: Request) -> AsyncSessionsApi:
    sessions: AsyncSessionsApi = request.app.state.sessions
    return sessions


User = Annotated[SessionClaims, Depends(signed_in)]
Sessions = Annotated[AsyncSessionsApi, Depends(sessions_of)]
app = FastAPI(lifespan=lifespan)


@app.exception_handler(NotFoundError)
async def not_found(request: Request, error: NotFoundError) -> JSONResponse:
    return JSONResponse({"detail": "no such session"}, 404)


@app.exception_handler(ClerkError)
async def unavailable(request: Request, error: ClerkError) -> JSONResponse:
    return JSONResponse({"detail": "the session service is unavailable"}, 503)


@app.get("/sessions")
async def my_sessions(user: User, sessions: Sessions) -> list[Session]:
    found = sessions.iterate(user_id=user.user_id, status="active")
    return [session async for session in found]  # with device and place in latest_activity


@app.delete("/sessions/{session_id}", status_code=204)
async def end_one_of_mine(session_id: str, user: User, sessions: Sessions) -> None:
    await sessions.revoke(session_id, user_id=user.user_id)


@app.post("/sign-out-elsewhere")
async def sign_out_elsewhere(user: User, sessions: Sessions) -> dict[str, int]:
    report = await sessions.revoke_all(
        user_id=user.user_id, except_session_ids=[user.session_id or ""]
    )
    report.raise_for_failures()
    return {"ended": report.revoked}


@app.post("/hasura-token")
async def hasura_token(user: User, sessions: Sessions) -> dict[str, str]:
    token = await sessions.create_token_from_template(user.session_id or "", "custom_hasura")
    return {"token": token.jwt}


@app.get("/invoices")
async def invoices(user: User) -> list[str]:
    if not user.has_permission("org:invoices:read"):
        raise HTTPException(403, "you may not read invoices")
    return ["No. 1"]
