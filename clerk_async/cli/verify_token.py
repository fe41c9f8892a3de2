"""`verify-token`: a session token verified without asking the service about it."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clerk_async.cli.app import Settings, command, pass_settings
from clerk_async.cli.connection import make_client, show_log
from clerk_async.cli.exits import DONE, Refused
from clerk_async.cli.inputs import STDIN, read_secret_lines
from clerk_async.cli.words import error_text

if TYPE_CHECKING:
    from clerk_async.cli.output import Output
    from clerk_async.tokens.claims import SessionClaims


@command("verify-token", greedy=("--authorized-party", "--audience"))
@click.argument("token", metavar="TOKEN|-")
@click.option(
    "--jwt-key-file",
    metavar="FILE",
    help="The instance's public key (PEM); default: CLERK_JWT_KEY, else fetched with the secret "
    "key, or from the --issuer.",
)
@click.option("--issuer", metavar="URL", help="The instance's Frontend API URL, to be checked.")
@click.option(
    "--authorized-party",
    "parties",
    metavar="URL...",
    multiple=True,
    help="An origin that the token may be made for; without it any is accepted.",
)
@click.option("--audience", metavar="NAME...", multiple=True, help="An accepted audience.")
@click.option("--accept-pending", is_flag=True, help="Let in sessions that have tasks left.")
@pass_settings
def verify_token_command(
    settings: Settings,
    /,
    *,
    token: str,
    jwt_key_file: str | None,
    issuer: str | None,
    parties: tuple[str, ...],
    audience: tuple[str, ...],
    accept_pending: bool,
) -> int:
    """Verify a session token with the instance's public key, and show what it says.

    With - the token is read from stdin, so that it does not show in the list of processes. Exits
    with 0 if the token holds, with 1 if it is refused, and says why.
    """
    if token == STDIN:
        (token,) = read_secret_lines(settings.out, "token")
    from clerk_async.errors import ConfigurationError  # noqa: PLC0415 - attrs, not for help

    show_log(settings.out)
    rules: dict[str, Any] = {
        "issuer": issuer,
        "authorized_parties": parties or None,
        "audience": audience or None,
        "accept_pending": accept_pending,
    }
    jwt_key = _jwt_key(jwt_key_file)
    try:
        claims = asyncio.run(_verify(settings, token, jwt_key, rules))
    except ConfigurationError as error:
        where = "CLERK_JWT_KEY" if jwt_key_file is None else jwt_key_file
        raise Refused(error_text(error).replace("jwt_key", where, 1)) from None
    _show(settings.out, claims)
    return DONE


async def _verify(
    settings: Settings, token: str, jwt_key: str | None, rules: dict[str, Any]
) -> SessionClaims:
    from clerk_async.tokens.verifier import AsyncTokenVerifier  # noqa: PLC0415 - not for help

    has_secret_key = settings.key_file is not None or os.environ.get("CLERK_SECRET_KEY")
    if jwt_key is not None or (rules["issuer"] is not None and not has_secret_key):
        return await AsyncTokenVerifier(jwt_key=jwt_key, **rules).verify(token)
    if not has_secret_key:
        raise Refused(
            "no key to verify with: give --jwt-key-file FILE, or set CLERK_JWT_KEY, or have it "
            "fetched with CLERK_SECRET_KEY, or from the --issuer URL"
        )
    async with make_client(settings) as sessions:
        return await AsyncTokenVerifier(sessions=sessions, **rules).verify(token)


def _jwt_key(path: str | None) -> str | None:
    if path is None:
        return os.environ.get("CLERK_JWT_KEY", "").strip() or None
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise Refused(f"can't read {path}: {why}") from None


def _show(out: Output, claims: SessionClaims) -> None:
    if out.is_json:
        out.record(json.loads(json.dumps(claims.raw, default=dict)))
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
    out.result(out.good("The token holds."))
    out.fields(rows)
