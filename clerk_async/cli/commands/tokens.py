"""The arguments of `token`, `refresh`, `verify` and `verify-token`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from clerk_async.cli.app import Settings, command, pass_settings
from clerk_async.cli.exits import DONE
from clerk_async.cli.messages import STDIN, as_typed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from clerk_async.cli.output import Output
    from clerk_async.models import Cookies, Session, Token
    from clerk_async.sessions import AsyncSessionsApi

MASKED: Final = "[hidden: --show-token shows it]"

_show_token = click.option(
    "--show-token",
    "is_shown",
    is_flag=True,
    help="Print the token itself. Anyone who has it is signed in.",
)


@command("token")
@click.argument("session_id", metavar="ID")
@click.option("--template", metavar="NAME", help="Use this JWT template.")
@click.option(
    "--expires-in",
    type=click.IntRange(30, 315_360_000),
    metavar="S",
    help="Its lifetime in seconds; default: 60, or the template's own.",
)
@_show_token
@pass_settings
def token_command(
    settings: Settings,
    /,
    *,
    session_id: str,
    template: str | None,
    expires_in: int | None,
    is_shown: bool,
) -> int:
    """Create a session token, or one from a JWT template.

    On a terminal the token is hidden unless you pass --show-token. In a pipe or with --json a
    hidden token would be useless, so --show-token is required.
    """
    from clerk_async.cli.client import call  # noqa: PLC0415 - not for help
    from clerk_async.http import operations  # noqa: PLC0415 - likewise

    if template is None:
        operations.token_request(session_id, expires_in)  # report invalid arguments first
    else:
        operations.template_token_request(session_id, template, expires_in)
    if not is_shown and (settings.is_json or not settings.out.out.is_terminal):
        raise click.UsageError("a hidden token would be of no use to a program: pass --show-token")

    def create(sessions: AsyncSessionsApi) -> Awaitable[Token]:
        if template is None:
            return sessions.create_token(session_id, expires_in_seconds=expires_in)
        return sessions.create_token_from_template(
            session_id, template, expires_in_seconds=expires_in
        )

    _show(settings.out, call(settings, create), is_shown=is_shown)
    return DONE


@command("refresh")
@click.argument("session_id", metavar="ID")
@click.option(
    "--expired-token",
    metavar="TOKEN|-",
    default=STDIN,
    help="The expired session token, from the __session cookie; - (the default) reads a line "
    "from stdin.",
)
@click.option(
    "--refresh-token",
    metavar="TOKEN|-",
    default=STDIN,
    help="The refresh token, from the __refresh cookie; - (the default) reads the next line.",
)
@click.option(
    "--origin",
    "--request-origin",
    "origin",
    metavar="URL",
    required=True,
    help="The origin of the request; must equal the azp claim of the token.",
)
@click.option("--originating-ip", metavar="IP", help="The IP address that the request came from.")
@click.option(
    "--suffixed-cookies/--no-suffixed-cookies",
    default=None,
    help="Whether the request's cookies had a suffix (__session_*), so that the new ones get it "
    "too; default: the service decides.",
)
@click.option(
    "--format",
    "answer",
    type=click.Choice(["token", "cookie"]),
    default="token",
    show_default=True,
    help="Whether to return a token or Set-Cookie lines.",
)
@_show_token
@pass_settings
def refresh_command(
    settings: Settings,
    /,
    *,
    session_id: str,
    expired_token: str,
    refresh_token: str,
    origin: str,
    originating_ip: str | None,
    suffixed_cookies: bool | None,
    answer: Any,
    is_shown: bool,
) -> int:
    """Exchange an expired session token and its refresh token for a new one.

    Tokens on the command line are visible in the process list: pass them on stdin, one per line.
    """
    from clerk_async.cli.client import call  # noqa: PLC0415 - not for help
    from clerk_async.cli.inputs import read_secret_lines  # noqa: PLC0415 - asyncio, not for help

    tokens = {"expired token": expired_token, "refresh token": refresh_token}
    wanted = [name for name, token in tokens.items() if token == STDIN]
    tokens.update(zip(wanted, read_secret_lines(settings.out, *wanted), strict=True))
    refreshed = call(
        settings,
        lambda sessions: sessions.refresh(
            session_id,
            expired_token=tokens["expired token"],
            refresh_token=tokens["refresh token"],
            request_origin=origin,
            format=answer,
            request_originating_ip=originating_ip,
            suffixed_cookies=suffixed_cookies,
        ),
    )
    _show(settings.out, refreshed, is_shown=is_shown)
    return DONE


@command("verify")
@click.argument("session_id", metavar="ID")
@click.argument("token", metavar="TOKEN|-")
@pass_settings
def verify_command(settings: Settings, /, *, session_id: str, token: str) -> int:
    """Verify a session token over the network: deprecated by Clerk, use verify-token.

    With - the token is read from stdin, so that it isn't visible in the process list.
    """
    import warnings  # noqa: PLC0415 - not for help

    from clerk_async.cli.client import call  # noqa: PLC0415 - not for help
    from clerk_async.cli.inputs import read_secret_lines  # noqa: PLC0415 - asyncio, not for help
    from clerk_async.cli.listing import show_one  # noqa: PLC0415 - attrs, not for help

    if token == STDIN:
        (token,) = read_secret_lines(settings.out, "token")
    out = settings.out

    def verify(sessions: AsyncSessionsApi) -> Awaitable[Session]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DeprecationWarning)
            verifying = sessions.verify(session_id, token)
        for warning in caught:
            out.note(f"deprecated: {as_typed(str(warning.message))}")
        return verifying

    show_one(out, call(settings, verify))
    return DONE


@command("verify-token")
@click.argument("token", metavar="TOKEN|-")
@click.option(
    "--jwt-key-file",
    type=click.Path(),
    metavar="FILE",
    help="The instance's public key (PEM); default: CLERK_JWT_KEY, or else the key is fetched with "
    "the secret key, or from the --issuer.",
)
@click.option(
    "--issuer",
    "issuers",
    metavar="URL",
    multiple=True,
    help="The instance's Frontend API URL, which the token must name; repeat it for satellite "
    "domains.",
)
@click.option(
    "--authorized-party",
    "parties",
    metavar="URL",
    multiple=True,
    help="An origin that the token may be made for; can be repeated. Default: any.",
)
@click.option(
    "--audience", metavar="NAME", multiple=True, help="An accepted audience; can be repeated."
)
@click.option(
    "--allow-missing-azp",
    is_flag=True,
    help="With --authorized-party, also accept a token without an origin.",
)
@click.option(
    "--accept-pending", is_flag=True, help="Accept sessions whose user still has tasks to do."
)
@click.option(
    "--clock-skew",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    metavar="S",
    help="How many seconds this machine's clock and the service's may differ.",
)
@click.option(
    "--check-session",
    is_flag=True,
    help="Also ask the service whether the session is live; needs the secret key.",
)
@pass_settings
def verify_token_command(
    settings: Settings,
    /,
    *,
    token: str,
    jwt_key_file: str | None,
    issuers: tuple[str, ...],
    parties: tuple[str, ...],
    audience: tuple[str, ...],
    allow_missing_azp: bool,
    accept_pending: bool,
    clock_skew: float,
    check_session: bool,
) -> int:
    """Verify a session token with the instance's public key, and show its claims.

    With - the token is read from stdin, so that it isn't visible in the process list. Exits with 0
    if the token is valid, and with 1 and the reason if it is refused.
    """
    from clerk_async.cli.verifying import verify_token  # noqa: PLC0415 - not for help

    rules = {
        "issuer": issuers or None,
        "authorized_parties": parties or None,
        "audience": audience or None,
        "allow_missing_azp": allow_missing_azp,
        "accept_pending": accept_pending,
        "clock_skew": clock_skew,
    }
    return verify_token(settings, token, jwt_key_file, rules, is_looked_up=check_session)


def _show(out: Output, answer: Token | Cookies, *, is_shown: bool) -> None:
    from clerk_async.models import Token  # noqa: PLC0415 - not for help

    mask: Callable[[str], str] = (lambda text: text) if is_shown else (lambda _: MASKED)
    if isinstance(answer, Token):
        if out.is_json:
            out.record({"object": answer.object, "jwt": mask(answer.jwt)})
        else:
            out.result(mask(answer.jwt))
    elif out.is_json:
        out.record({"object": answer.object, "cookies": [mask(one) for one in answer.cookies]})
    else:
        for cookie in answer.cookies:
            name = cookie.partition("=")[0]
            out.result(cookie if is_shown else f"{name}={MASKED}")
