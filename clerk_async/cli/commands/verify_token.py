"""`verify-token`: what it takes; what it does is in `verifying`."""

from __future__ import annotations

import click

from clerk_async.cli.app import Settings, command, pass_settings


@command("verify-token")
@click.argument("token", metavar="TOKEN|-")
@click.option(
    "--jwt-key-file",
    type=click.Path(),
    metavar="FILE",
    help="The instance's public key (PEM); default: CLERK_JWT_KEY, else fetched with the secret "
    "key, or from the --issuer.",
)
@click.option("--issuer", metavar="URL", help="The instance's Frontend API URL, to be checked.")
@click.option(
    "--authorized-party",
    "parties",
    metavar="URL",
    multiple=True,
    help="An origin that the token may be made for, once or several times; without it any is "
    "accepted.",
)
@click.option(
    "--audience",
    metavar="NAME",
    multiple=True,
    help="An accepted audience, once or several times.",
)
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
    from clerk_async.cli.verifying import verify_token  # noqa: PLC0415 - not for help

    rules = {
        "issuer": issuer,
        "authorized_parties": parties or None,
        "audience": audience or None,
        "accept_pending": accept_pending,
    }
    return verify_token(settings, token, jwt_key_file, rules)
