"""The bodies of the static server's responses, in the same form as Clerk's API sends them."""

from __future__ import annotations

import json
from typing import Any, Final

__all__ = ["ID", "JWT_KEY", "SESSION", "TOKEN", "USER", "session", "session_list", "session_page"]

USER: Final = f"user_{1:027d}"
"""The user of all sessions; requests for lists name it."""
JWT_KEY: Final = """-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAsLbtB/zpJnxoEDi/aBhp
sPmk7jdb9fYXndikhL4WxP8dLCDy3G7PKWmXtlZkW43x3J7hsBavhLGZTMqGvy6q
V/xTqqPjg/5ANqBYMuVM46aIQv9FhUIQAjk10peXfYj6mdBC+mficAitog1W51Rb
4PyGqnscuTI0rH1RYbr6wOHda4QXRnwjbXrN//PNJC4yQNHBDabdfTEvTXaLuzvC
G/SLBVGa+NEN4yRcMJLaCUKLfoM+QUTf/6YR7kQNljZiLlAWNgYWQrQe6BVXoZ9q
Cy9cDKdpyCHq9gDvX7eeHgpxRECkmZzWo0JUI53qJS82quZdywwi7fRDGVFs6uEF
AQIDAQAB
-----END PUBLIC KEY-----
"""
"""A public key for programs that start but verify nothing; its private key is lost."""
_BORN: Final = 1_760_000_000_000


def session(number: int) -> dict[str, Any]:
    """Return a session object of about 700 bytes."""
    return {
        "object": "session",
        "id": f"sess_{number:027d}",
        "user_id": USER,
        "client_id": f"client_{number:025d}",
        "actor": None,
        "status": "revoked",
        "last_active_organization_id": f"org_{number:028d}",
        "last_active_at": _BORN + number,
        "latest_activity": {
            "object": "session_activity",
            "id": f"sess_activity_{number:018d}",
            "device_type": "Macintosh",
            "is_mobile": False,
            "browser_name": "Chrome",
            "browser_version": "126.0.0.0",
            "ip_address": "203.0.113.7",
            "city": "San Francisco",
            "country": "US",
        },
        "expire_at": _BORN + number + 604_800_000,
        "abandon_at": _BORN + number + 2_592_000_000,
        "updated_at": _BORN + number + 1_000,
        "created_at": _BORN + number,
        "tasks": None,
    }


def session_list(count: int) -> bytes:
    """Return a list of `count` sessions, encoded as the service does: an array without spaces."""
    return json.dumps([session(number) for number in range(count)], separators=(",", ":")).encode()


def session_page(count: int) -> bytes:
    """Return the other form of a list, which `paginated=true` requests."""
    return b'{"data":%b,"total_count":%d}' % (session_list(count), count)


ID: Final = session(1)["id"].encode()
SESSION: Final = json.dumps(session(1), separators=(",", ":")).encode()
TOKEN: Final = json.dumps(
    {"object": "token", "jwt": f"{'h' * 120}.{'p' * 480}.{'s' * 342}"}, separators=(",", ":")
).encode()
