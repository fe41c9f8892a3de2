"""A FastAPI app whose page can stay open in a browser past the expiry of its token."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse

from clerk_async import AsyncSessionsApi, AsyncTokenVerifier, SessionClaims


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with AsyncSessionsApi() as sessions:
        app.state.sessions = sessions
        app.state.verifier = AsyncTokenVerifier(
            sessions=sessions,
            authorized_parties=lambda party: party.startswith("http://localhost:"),
        )
        yield


async def signed_in(request: Request, response: Response) -> SessionClaims:
    verifier: AsyncTokenVerifier = request.app.state.verifier
    state = await verifier.authenticate_request(request, refresh_if_expired=True)
    if state.claims is None:
        raise HTTPException(503 if state.status == "unknown" else 401, str(state.reason))
    for line in state.set_cookies:
        response.headers.append("set-cookie", line)
    return state.claims


app = FastAPI(lifespan=lifespan)


@app.get("/", response_class=HTMLResponse)
async def page() -> str:
    return "<!doctype html><title>A page</title><link rel=icon href=data:,>"


@app.get("/me")
async def me(claims: Annotated[SessionClaims, Depends(signed_in)]) -> str:
    return claims.user_id


@app.post("/sign-out", status_code=204)
async def sign_out(
    request: Request, response: Response, claims: Annotated[SessionClaims, Depends(signed_in)]
) -> None:
    assert claims.session_id is not None
    await request.app.state.sessions.revoke(claims.session_id)
    for name in request.cookies:
        if name.startswith("__client_uat"):  # as Clerk's front end does in this browser
            response.set_cookie(name, "0", secure=True, samesite="lax")
