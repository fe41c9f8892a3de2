"""A Flask app that Clerk's webhooks sign users out of, in all processes that share its state."""

import os

from flask import Flask, abort, request

from clerk_async import SessionsApi, TokenVerifier, WebhookReceiver, WebhookVerificationError

sessions = SessionsApi()
verifier = TokenVerifier(sessions=sessions, authorized_parties=["http://localhost:3000"])
receiver = WebhookReceiver(sessions=sessions)
app = Flask(__name__)


@app.post("/webhooks/clerk")
def clerk_webhook() -> tuple[str, int]:
    try:
        receiver.receive(request, request.get_data())
    except WebhookVerificationError:
        return "", 400
    return "", 204


@app.post("/who")
def who() -> dict[str, int]:
    state = verifier.authenticate_request(request)
    if state.claims is None:
        abort(503 if state.status == "unknown" else 401)
    return {"process": os.getpid()}


if "WARM_UP_BEFORE_FORKS" in os.environ:  # so that its link to Redis is in use when it forks
    verifier.warm_up()
    sessions.deny(session_id="sess_before_the_forks")
