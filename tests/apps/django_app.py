# pyright: basic
# (Django has no type hints)
"""A Django project in one file: a sync and an async view that sign a user out."""

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from clerk_async import AsyncSessionsApi, AsyncTokenVerifier, SessionsApi, TokenVerifier

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["127.0.0.1"], SECRET_KEY="of a test")

sessions = SessionsApi()
verifier = TokenVerifier(sessions=sessions, authorized_parties=["http://localhost:3000"])


def sign_out(request: HttpRequest) -> HttpResponse:
    state = verifier.authenticate_request(request)
    if state.claims is None or state.claims.session_id is None:
        return HttpResponse(status=503 if state.status == "unknown" else 401)
    sessions.revoke(state.claims.session_id)
    return HttpResponse(status=204)


def me(request: HttpRequest) -> HttpResponse:
    state = verifier.authenticate_request(request)
    if state.claims is None:
        return HttpResponse(status=503 if state.status == "unknown" else 401)
    page = sessions.list(user_id=state.claims.user_id, status="active")
    return JsonResponse({"claims": state.claims.to_dict(), "sessions": page.to_dict()})


async_sessions = AsyncSessionsApi()
async_verifier = AsyncTokenVerifier(
    sessions=async_sessions, authorized_parties=["http://localhost:3000"]
)


async def sign_out_async(request: HttpRequest) -> HttpResponse:
    state = await async_verifier.authenticate_request(request)
    if state.claims is None or state.claims.session_id is None:
        return HttpResponse(status=503 if state.status == "unknown" else 401)
    await async_sessions.revoke(state.claims.session_id)
    return HttpResponse(status=204)


urlpatterns = [
    path("me", me),
    path("sign-out", sign_out),
    path("sign-out-async", sign_out_async),
]
wsgi = get_wsgi_application()
asgi = get_asgi_application()
