# pyright: reportUnknownMemberType=false
# (the type hints of trustme name packages that may not be installed)
"""TLS: what is trusted, what is rejected at once, and what the error says."""

from __future__ import annotations

import asyncio
import ssl
import traceback
import warnings
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import pytest
import trustme
from clients import MODES, Mode, client_of, run
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from relays import ELSEWHERE, Refusing, TlsFront
from served_apps import LIMIT, assert_clean, program

from clerk_async import ConnectError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from clerk_async.testing import FakeClerk

AUTHORITY: Final = trustme.CA()
PAST: Final = datetime(2020, 1, 1, tzinfo=UTC)


def server_context(certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
    """Make the context of a server."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    (certificate or AUTHORITY.issue_cert("localhost", ELSEWHERE)).configure_cert(context)
    return context


def client_context() -> ssl.SSLContext:
    """Make the context of a client that trusts our authority."""
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


def old_server() -> ssl.SSLContext:
    """Make the context of a server that speaks TLS 1.1 and nothing newer."""
    context = server_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def demanding_server() -> ssl.SSLContext:
    """Make the context of a server that requires a client certificate."""
    context = server_context()
    AUTHORITY.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


REFUSED: Final[dict[str, tuple[Callable[[], ssl.SSLContext], str]]] = {
    "wrong host": (
        lambda: server_context(AUTHORITY.issue_cert("elsewhere.example")),
        "Hostname mismatch",
    ),
    "expired": (
        lambda: server_context(AUTHORITY.issue_cert("localhost", not_after=PAST)),
        "certificate has expired",
    ),
    "unknown authority": (
        lambda: server_context(trustme.CA().issue_cert("localhost")),
        "CERTIFICATE_VERIFY_FAILED",
    ),
    "TLS 1.1 only": (old_server, "TLS failed"),
    "client certificate required": (demanding_server, "TLS failed"),
}


@pytest.mark.parametrize("mode", MODES)
def test_the_users_own_authority_is_trusted(mode: Mode, fake: FakeClerk) -> None:
    """With `ssl_context` a client connects that would fail by default."""
    with TlsFront(fake.port, server_context()) as front:
        ended = run(mode, fake, "get", base_url=front.base_url, ssl_context=client_context())
        assert ended.error is None
        assert front.accepted == 1


@pytest.mark.promise("tls-and-proxies")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("operation", ["get", "create"])
@pytest.mark.parametrize("trouble", REFUSED)
def test_a_failed_tls_connection_is_tried_once_and_gives_the_reason(
    mode: Mode, operation: str, trouble: str, fake: FakeClerk
) -> None:
    """The error is ours, is final, names the remedy, and contains no secret."""
    make, words = REFUSED[trouble]
    with Refusing(make()) as front:
        ended = run(mode, fake, operation, base_url=front.base_url, ssl_context=client_context())
        accepted = front.accepted
    error = ended.error
    assert isinstance(error, ConnectError)
    assert (error.attempts, accepted) == (1, 1)
    assert fake.requests == []
    assert words in str(error)
    assert "load it into the ssl_context" in str(error)
    assert error.__cause__ is None
    assert fake.secret_key not in "".join(traceback.format_exception(error)) + repr(error)


@pytest.mark.parametrize("hook", ["on_connection_create_end", "on_request_headers_sent"])
async def test_a_refusal_between_the_handshake_and_the_request_is_told(
    hook: str, fake: FakeClerk
) -> None:
    """In TLS 1.3, the server's alert can arrive before the request is written."""

    async def wait(*_: object) -> None:
        await asyncio.to_thread(front.has_closed_one.wait, LIMIT)
        await asyncio.sleep(0.05)  # the loop reads the alert, which is in the socket now

    tracing = aiohttp.TraceConfig()
    getattr(tracing, hook).append(wait)
    with Refusing(demanding_server()) as front:
        async with client_of(
            fake,
            base_url=front.base_url,
            ssl_context=client_context(),
            trace_configs=[tracing],
        ) as client:
            with pytest.raises(ConnectError, match="alert certificate required") as caught:
                await client.create(user_id="user_1")
    assert caught.value.attempts == 1


def lax_authority() -> tuple[trustme.CA, ssl.SSLContext]:
    """Make an authority without a key usage, as private ones often are, and a server's context."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "An old authority")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(PAST - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    authority = trustme.CA.from_pem(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
    return authority, server_context(authority.issue_cert("localhost"))


@pytest.mark.promise("tls-and-proxies")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("is_strict", [True, False], ids=["strict", "not strict"])
def test_an_authority_that_strict_checks_reject_is_reported(
    mode: Mode, fake: FakeClerk, monkeypatch: pytest.MonkeyPatch, *, is_strict: bool
) -> None:
    """Python 3.13 is strict by default; the file that names the authority was found."""
    authority, serving = lax_authority()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if is_strict:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    else:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/ssl/certs/mine.pem")
    with TlsFront(fake.port, serving) as front:
        error = run(mode, fake, "get", base_url=front.base_url, ssl_context=context).error
    if not is_strict:
        assert error is None
        return
    assert isinstance(error, ConnectError)
    assert error.attempts == 1
    assert "Python 3.13 and later check certificates strictly" in str(error)
    assert "VERIFY_X509_STRICT" in str(error)
    assert "SSL_CERT_FILE" not in str(error)


def test_ssl_cert_file_is_not_advised_if_it_is_set(
    fake: FakeClerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says that the authority isn't in that file, unless it does not apply."""
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/ssl/certs/mine.pem")
    stranger = server_context(trustme.CA().issue_cert("localhost"))
    for context, advice in (
        (None, "the certificate file that this program uses"),
        (client_context(), "load it into the ssl_context that the client was given"),
    ):
        with Refusing(stranger) as front:
            options: dict[str, Any] = {"base_url": front.base_url, "ssl_context": context}
            error = run("async", fake, "get", **options).error
        assert isinstance(error, ConnectError)
        assert "CERTIFICATE_VERIFY_FAILED" in str(error)
        assert "SSL_CERT_FILE" not in str(error)
        assert advice in str(error)


@pytest.mark.parametrize("mode", MODES)
def test_a_server_without_tls_is_a_tls_failure(mode: Mode, fake: FakeClerk) -> None:
    """https:// to a plain server is tried once."""
    base_url = fake.base_url.replace("http://127.0.0.1", "https://localhost")
    error = run(mode, fake, "get", base_url=base_url).error
    assert isinstance(error, ConnectError)
    assert error.attempts == 1
    assert "TLS failed" in str(error)


PROGRAM: Final = """
import sys
from clerk_async import ConnectError, SessionsApi
with SessionsApi(base_url=sys.argv[1]) as sessions:
    try:
        print(sessions.get(sys.argv[2]).status)
    except ConnectError as error:
        print("refused", error.attempts, "SSL_CERT_FILE" in str(error))
"""


@pytest.mark.promise("tls-and-proxies")
@pytest.mark.slow
@pytest.mark.parametrize(("is_told", "printed"), [(True, "active"), (False, "refused 1 True")])
def test_ssl_cert_file_is_trusted(
    is_told: bool, printed: str, fake: FakeClerk, tmp_path: Path
) -> None:
    """A program without certificate settings trusts the authorities in SSL_CERT_FILE."""
    pem = tmp_path / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(str(pem))
    environ = {"SSL_CERT_FILE": str(pem)} if is_told else {}
    session = fake.add_session()
    with TlsFront(fake.port, server_context()) as front:
        arguments = ["-c", PROGRAM, front.base_url, session.id]
        with program(arguments, fake, environ=environ) as (process, log):
            assert process.wait(LIMIT) == 0
            log.seek(0)
            output = log.read().decode()
    assert output.strip() == printed
    assert_clean(output)
