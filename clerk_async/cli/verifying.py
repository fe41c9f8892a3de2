"""The command `verify-token`: where the public key comes from, and the output."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from clerk_async.cli.client import has_key, make_client, text_of
from clerk_async.cli.exits import DONE, Refused
from clerk_async.cli.messages import STDIN, error_text, show_log
from clerk_async.errors import ConfigurationError
from clerk_async.tokens.sync_verifier import TokenVerifier

if TYPE_CHECKING:
    from clerk_async.cli.app import Settings
    from clerk_async.cli.output import Output
    from clerk_async.tokens.claims import SessionClaims


def verify_token(
    settings: Settings,
    token: str,
    jwt_key_file: str | None,
    rules: dict[str, Any],
    *,
    is_looked_up: bool,
) -> int:
    """Verify a token, print its claims, and return the exit code.

    The public key comes from a file, or else from CLERK_JWT_KEY, or is fetched. `rules` are the
    verifier's other arguments.

    Raises:
        Refused: If a key or an option is invalid.
        ClerkError: If the token is rejected, or the keys can't be fetched.
    """
    if token == STDIN:
        from clerk_async.cli.inputs import read_secret_lines  # noqa: PLC0415 - heavy

        (token,) = read_secret_lines(settings.out, "token")
    show_log(settings.out, is_verbose=settings.is_verbose)
    jwt_key = _jwt_key(jwt_key_file)
    try:
        if jwt_key is not None and not is_looked_up:
            claims = TokenVerifier(jwt_key=jwt_key, **rules).verify(token)
        else:
            import asyncio  # noqa: PLC0415 - heavy, like all that asks the service

            asking = _verify(settings, token, jwt_key, rules, is_looked_up=is_looked_up)
            claims = asyncio.run(asking)
    except ConfigurationError as error:
        where = "CLERK_JWT_KEY" if jwt_key_file is None else jwt_key_file
        raise Refused(error_text(error).replace("jwt_key", where, 1)) from None
    _show(settings.out, claims)
    return DONE


async def _verify(
    settings: Settings,
    token: str,
    jwt_key: str | None,
    rules: dict[str, Any],
    *,
    is_looked_up: bool,
) -> SessionClaims:
    from clerk_async.tokens.verifier import AsyncTokenVerifier  # noqa: PLC0415 - heavy

    has_secret_key = has_key(settings)
    if is_looked_up:
        async with make_client(settings) as sessions:
            verifier = AsyncTokenVerifier(sessions=sessions, jwt_key=jwt_key, **rules)
            return await verifier.verify(token, check_session=True)
    if rules["issuer"] is not None and not has_secret_key:
        return await AsyncTokenVerifier(**rules).verify(token)
    if not has_secret_key:
        raise Refused(
            "no key to verify with: pass --jwt-key-file FILE or --issuer URL, or set CLERK_JWT_KEY "
            "or CLERK_SECRET_KEY"
        )
    async with make_client(settings) as sessions:
        return await AsyncTokenVerifier(sessions=sessions, **rules).verify(token)


def _jwt_key(path: str | None) -> str | None:
    if path is None:
        return os.environ.get("CLERK_JWT_KEY", "").strip() or None
    return text_of(path, path)


def _show(out: Output, claims: SessionClaims) -> None:
    if out.is_json:
        out.record(claims.to_dict())
        return
    if out.is_quiet:
        return
    rows = [
        ("user", claims.user_id),
        ("session", claims.session_id or "-"),
        ("status", claims.status or "-"),
        ("issuer", claims.issuer or "-"),
        ("authorized party", claims.authorized_party or "-"),
        ("expires", claims.expires_at.isoformat(" ")),
    ]
    organization = claims.organization
    if organization is not None:
        rows.append(("organization", f"{organization.id} ({organization.role or 'no role'})"))
    if claims.actor is not None:
        rows.append(("impersonated by", claims.actor.user_id or "somebody"))
    out.result(out.good("The token is valid."))
    out.fields(rows)
