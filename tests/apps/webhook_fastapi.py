"""A FastAPI app that Clerk's webhooks sign users out of, in all processes that share its state."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request

from clerk_async import (
    AsyncSessionsApi,
    AsyncTokenVerifier,
    AsyncWebhookReceiver,
    WebhookVerificationError,
)

sessions = AsyncSessionsApi()
verifier = AsyncTokenVerifier(sessions=sessions, authorized_parties=["http://localhost:3000"])
receiver = AsyncWebhookReceiver(sessions=sessions)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    async with sessions:
        await verifier.warm_up()
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/webhooks/clerk", status_code=204)
async def clerk_webhook(request: Request) -> None:
    try:
        await receiver.receive(request, await request.body())
    except WebhookVerificationError as error:
        raise HTTPException(400) from error


@app.post("/who")
async def who(request: Request) -> dict[str, int]:
    state = await verifier.authenticate_request(request)
    if state.claims is None:
        raise HTTPException(503 if state.status == "unknown" else 401)
    return {"process": os.getpid()}
