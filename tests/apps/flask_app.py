"""A Flask app whose users can sign out; the client is made at import, before any fork."""

import contextlib
import os
import threading
from typing import Any

from flask import Flask, abort, request

from clerk_async import ClientClosedError, SessionsApi, TokenVerifier

sessions = SessionsApi()
verifier = TokenVerifier(sessions=sessions, authorized_parties=["http://localhost:3000"])
app = Flask(__name__)


@app.post("/sign-out")
def sign_out() -> tuple[str, int]:
    state = verifier.authenticate_request(request)
    if state.claims is None or state.claims.session_id is None:
        abort(503 if state.status == "unknown" else 401)
    sessions.revoke(state.claims.session_id)
    return "", 204


@app.get("/me")
def me() -> dict[str, Any]:
    state = verifier.authenticate_request(request)
    if state.claims is None:
        abort(503 if state.status == "unknown" else 401)
    page = sessions.list(user_id=state.claims.user_id, status="active")
    return {"claims": state.claims.to_dict(), "sessions": page.to_dict()}


def _keep_calling() -> None:
    with contextlib.suppress(ClientClosedError):  # the client is closed at exit
        while True:
            sessions.list(user_id="user_of_the_master")


if "CALL_BEFORE_FORKS" in os.environ:  # uses the loop, its thread and the locks
    verifier.warm_up()
    sessions.list(user_id="user_of_the_master")
    threading.Thread(target=_keep_calling, daemon=True).start()
