"""A FastAPI app whose users can sign out, here or everywhere."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request

from clerk_async import AsyncSessionsApi, AsyncTokenVerifier, SessionClaims


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


app = FastAPI(lifespan=lifespan)


@app.post("/sign-out", status_code=204)
async def sign_out(request: Request, claims: Annotated[SessionClaims, Depends(signed_in)]) -> None:
    assert claims.session_id is not None  # only tokens of JWT templates have no session id
    await request.app.state.sessions.revoke(claims.session_id)


@app.post("/sign-out-everywhere")
async def sign_out_everywhere(
    request: Request, claims: Annotated[SessionClaims, Depends(signed_in)]
) -> int:
    sessions: AsyncSessionsApi = request.app.state.sessions
    report = await sessions.revoke_all(user_id=claims.user_id)
    report.raise_for_failures()
    return report.revoked
