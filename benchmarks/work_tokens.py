"""The cases of token verification: single tokens, and whole requests with one."""

from __future__ import annotations

import base64
import json
import threading
import time
from typing import TYPE_CHECKING, Any

from benchmarks.sample import Job, Sample, Stopwatch, timed

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["run_requests", "run_tokens"]

PARTY = "https://app.example.com"
WARM_UP = 20
ORGANIZATIONS = 10
FEATURES = ",".join(f"o:feature_{number}" for number in range(10))
PERMISSIONS = "create,delete,manage,read,update"


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _organization(number: int) -> dict[str, Any]:
    """Return the claims of one of ten organizations, with features and permissions."""
    organization = number % ORGANIZATIONS
    masks = ",".join(str((organization * 7 + each * 11) % 31 + 1) for each in range(10))
    return {
        "fea": FEATURES,
        "o": {
            "fpm": masks,
            "id": f"org_{organization:028d}",
            "per": PERMISSIONS,
            "rol": "admin",
            "slg": f"acme-{organization}",
        },
        "pla": "u:free,o:pro",
    }


def _tokens(count: int, *, with_organization: bool) -> tuple[Any, str, list[str]]:
    """Sign tokens as Clerk does (RS256, version 2 claims), each with its own id."""
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import padding, rsa  # noqa: PLC0415

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    pem = public.public_bytes(serialization.Encoding.PEM, form).decode()
    now = int(time.time())
    header = {"alg": "RS256", "cat": "cl_B7d4PD111AAA", "kid": "ins_1", "typ": "JWT"}
    head = _b64(json.dumps(header, separators=(",", ":")).encode())
    made: list[str] = []
    for number in range(count):
        claims: dict[str, Any] = {
            "azp": PARTY,
            "exp": now + 3600,
            "fva": [1, -1],
            "iat": now,
            "iss": "https://clerk.example.com",
            "jti": f"{number:020x}",
            "nbf": now - 10,
            "sid": f"sess_{number:027d}",
            "sts": "active",
            "sub": "user_000000000000000000000000001",
            "v": 2,
        }
        if with_organization:
            claims |= _organization(number)
        signed = f"{head}.{_b64(json.dumps(claims, separators=(',', ':')).encode())}"
        signature = key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        made.append(f"{signed}.{_b64(signature)}")
    return public, pem, made


def _verifier_of(client: str, public: Any, pem: str) -> Callable[[str], object]:
    match client:
        case "clerk_async":
            from clerk_async import TokenVerifier  # noqa: PLC0415

            return TokenVerifier(jwt_key=pem, authorized_parties=[PARTY]).verify
        case "clerk-backend-api":
            from clerk_backend_api.security import verify_token  # noqa: PLC0415
            from clerk_backend_api.security.types import VerifyTokenOptions  # noqa: PLC0415

            options = VerifyTokenOptions(jwt_key=pem, authorized_parties=[PARTY])
            # its own PEM parsing fails on line breaks, but not if the key is set afterwards
            options.jwt_key = pem
            return lambda token: verify_token(token, options)
        case "PyJWT":
            import jwt  # noqa: PLC0415

            return lambda token: jwt.decode(token, public, algorithms=["RS256"])
        case "joserfc":
            from joserfc import jwt as jose  # noqa: PLC0415
            from joserfc.jwk import RSAKey  # noqa: PLC0415
            from joserfc.jws import JWSRegistry  # noqa: PLC0415

            key = RSAKey.import_key(pem)
            lenient = JWSRegistry(algorithms=["RS256"], strict_check_header=False)  # Clerk's `cat`
            return lambda token: jose.decode(token, key, registry=lenient)
        case _:
            return _bare_check(public)


def _bare_check(public: Any) -> Callable[[str], object]:
    """Return a check of the signature alone, with everything decoded beforehand."""
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import padding  # noqa: PLC0415

    verify, scheme, digest = public.verify, padding.PKCS1v15(), hashes.SHA256()
    return lambda parts: verify(parts[1], parts[0], scheme, digest)


def run_tokens(job: Job) -> Sample:
    """Verify tokens, each one new (`token-first…`) or the same one again (`token-again…`)."""
    again = job.case.startswith("token-again")
    public, pem, tokens = _tokens(
        WARM_UP + (0 if again else job.count), with_organization=job.case == "token-first-org"
    )
    verify: Callable[[Any], object] = _verifier_of(job.client, public, pem)
    inputs: list[Any] = list(tokens)
    if job.client.startswith("bare"):
        inputs = []
        for token in tokens:
            signed, _, signature = token.rpartition(".")
            raw = base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
            inputs.append((signed.encode(), raw))
    for each in inputs[:WARM_UP]:
        verify(each)
    inputs = inputs[:1] * job.count if again else inputs[WARM_UP:]
    return timed(verify, inputs) if job.concurrency == 1 else _from_threads(job, verify, inputs)


def _from_threads(job: Job, verify: Callable[[Any], object], inputs: list[Any]) -> Sample:
    start = threading.Barrier(job.concurrency + 1)

    def work(mine: list[Any]) -> None:
        start.wait()
        for each in mine:
            verify(each)

    threads = [
        threading.Thread(target=work, args=(inputs[number :: job.concurrency],))
        for number in range(job.concurrency)
    ]
    for thread in threads:
        thread.start()
    start.wait()
    watch = Stopwatch()
    for thread in threads:
        thread.join()
    return watch.stop(len(inputs))


def run_requests(job: Job) -> Sample:
    """Authenticate a request repeatedly: a browser's, or an app's with a bearer token."""
    import httpx  # noqa: PLC0415

    _, pem, [token] = _tokens(1, with_organization=False)
    headers = {
        "Host": "app.example.com",
        "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:146.0) Gecko/20100101 Firefox/146.0",
        "Accept": "application/json",
        "Accept-Language": "en",
        "Accept-Encoding": "gzip, deflate, br, zstd",
    }
    if job.case == "request-bearer":
        headers["Authorization"] = f"Bearer {token}"
    else:
        now = int(time.time()) - 60
        headers["Cookie"] = (
            f"theme=dark; _ga=GA1.1.123456789.1764000000; __client_uat={now}; "
            f"__client_uat_AbCd1234={now}; __session={token}; __session_AbCd1234={token}"
        )
    request = httpx.Request("GET", f"{PARTY}/invoices?page=2", headers=headers)
    authenticate = _authenticator_of(job.client, pem)
    for _ in range(WARM_UP):
        assert authenticate(request).is_signed_in
    return timed(authenticate, [request] * job.count)


def _authenticator_of(client: str, pem: str) -> Callable[[Any], Any]:
    if client == "clerk_async":
        from clerk_async import TokenVerifier  # noqa: PLC0415

        return TokenVerifier(jwt_key=pem, authorized_parties=[PARTY]).authenticate_request
    from clerk_backend_api.security import authenticate_request  # noqa: PLC0415
    from clerk_backend_api.security.types import AuthenticateRequestOptions  # noqa: PLC0415

    options = AuthenticateRequestOptions(jwt_key=pem, authorized_parties=[PARTY])
    options.jwt_key = pem
    return lambda request: authenticate_request(request, options)
