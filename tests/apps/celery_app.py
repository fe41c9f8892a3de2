# pyright: basic
# (Celery has no type hints)
"""A Celery app with a task that signs a user out everywhere; the client is made at import."""

import os

from celery import Celery

from clerk_async import ClerkError, SessionsApi

app = Celery("accounts", broker=os.environ["BROKER_URL"], backend=os.environ["BROKER_URL"])
sessions = SessionsApi()


@app.task(autoretry_for=(ClerkError,), retry_backoff=True, acks_late=True)
def sign_out_everywhere(user_id: str) -> int:
    report = sessions.revoke_all(user_id=user_id)
    report.raise_for_failures()
    return report.revoked
