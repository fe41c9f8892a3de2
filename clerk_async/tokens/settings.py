"""The settings of a verifier: checked once, the same for the async and the sync one."""

from __future__ import annotations

import logging
import math
import os
import time
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import urlsplit

from clerk_async.config import is_loopback
from clerk_async.errors import ConfigurationError
from clerk_async.tokens.key_set import FetchedKeys, KeySetStatus
from clerk_async.tokens.keys import key_from, require_cryptography
from clerk_async.tokens.rules import Rules
from clerk_async.tokens.sources import FixedKey
from clerk_async.tokens.verification import Verification

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

logger: logging.Logger = logging.getLogger("clerk_async.tokens")

SourceT = TypeVar("SourceT")


class Verifier(Generic[SourceT]):
    """What the async and the sync verifier have in common: how they are made and looked at."""

    _client: str
    _is_async: bool

    def __init__(
        self,
        *,
        jwt_key: str | bytes | Mapping[str, Any] | None = None,
        sessions: SourceT | None = None,
        issuer: str | None = None,
        authorized_parties: Iterable[str] | None = None,
        audience: str | Iterable[str] | None = None,
        clock_skew: float = 5.0,
        accept_pending: bool = False,
        key_ttl: float = 300.0,
        key_max_age: float = 3600.0,
        kid_cooldown: float = 5.0,
        token_cache_size: int = 4096,
        clock: Callable[[], float] | None = None,
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        """Make a verifier; nothing is fetched yet. Times are seconds.

        Args:
            jwt_key: The instance's public key, as a PEM (from the dashboard's API keys page) or
                a JWK dict; then no key is ever fetched. Where it, `sessions` and `issuer` are all
                left out, the environment's `CLERK_JWT_KEY` takes its place.
            sessions: An `AsyncSessionsApi`, or for the sync verifier a `SessionsApi`; keys are
                fetched through it (GET /jwks, with its pool and its retries). Beside `jwt_key`
                it only serves `check_session` and `refresh_if_expired`. It is not closed here.
            issuer: The instance's Frontend API URL, such as `https://clerk.example.com`. Tokens
                must come from it; where it is the only source, keys are fetched from its public
                `/.well-known/jwks.json`, without a secret key.
            authorized_parties: The origins that tokens may be made for (`azp`); a token without one
                is then refused. None leaves it unchecked, with one warning in the log.
            audience: The accepted values of `aud`; None ignores that claim.
            clock_skew: By how much this machine's clock and the service's may differ.
            accept_pending: Whether sessions with tasks left are let in.
            key_ttl: How long fetched keys count as fresh; they are renewed before, unnoticed.
            key_max_age: How long they may serve while fetches fail.
            kid_cooldown: The least time between two fetches for unknown key ids.
            token_cache_size: How many verified tokens are remembered; 0 for none.
            clock: The wall clock, in Unix time; None for `time.time`.
            monotonic: The clock that keys age by; None for `time.monotonic`.

        Raises:
            ConfigurationError: If a setting is wrong, no keys can be had from any of the sources,
                `jwt_key` is no public key that can be used, or the extra `jwt` is not installed.
        """
        fetch = None if sessions is None else getattr(sessions, "_fetch_jwks", None)
        if sessions is not None and (
            fetch is None or iscoroutinefunction(fetch) is not self._is_async
        ):
            raise ConfigurationError(
                f"{type(self).__name__} needs {self._client} as sessions, "
                f"not {type(sessions).__name__}."
            )
        self._verification = _verification_from(
            jwt_key=jwt_key,
            has_sessions=sessions is not None,
            issuer=issuer,
            authorized_parties=authorized_parties,
            audience=audience,
            clock_skew=clock_skew,
            accept_pending=accept_pending,
            key_ttl=key_ttl,
            key_max_age=key_max_age,
            kid_cooldown=kid_cooldown,
            token_cache_size=token_cache_size,
            clock=clock,
            monotonic=monotonic,
        )
        self._sessions = sessions
        self._refreshes: dict[Any, Any] = {}  # under way, each for all the requests that need it
        self._issuer = self._verification.rules.issuer or ""
        self._at_once = self._verification.at_once

    def __repr__(self) -> str:
        return f"<{type(self).__name__} with keys from {self.key_status().source}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError(
            f"{type(self).__name__} can't be pickled or copied, as tasks and threads share its "
            "keys: make one in each process"
        )

    def key_status(self) -> KeySetStatus:
        """Tell where the keys come from, how old they are and how often they were fetched."""
        return self._verification.status()

    @property
    def _fetched(self) -> FetchedKeys:
        keys = self._verification.keys
        assert isinstance(keys, FetchedKeys)  # noqa: S101 - only fetched keys need anything
        return keys


def _verification_from(
    *,
    jwt_key: str | bytes | Mapping[str, Any] | None,
    has_sessions: bool,
    issuer: str | None,
    authorized_parties: Iterable[str] | None,
    audience: str | Iterable[str] | None,
    clock_skew: float,
    accept_pending: bool,
    key_ttl: float,
    key_max_age: float,
    kid_cooldown: float,
    token_cache_size: int,
    clock: Callable[[], float] | None,
    monotonic: Callable[[], float] | None,
) -> Verification:
    """Check a verifier's settings and make what it runs on.

    Raises:
        ConfigurationError: If one of them is wrong, or the extra `jwt` is missing.
    """
    require_cryptography()
    named = "jwt_key"
    if jwt_key is None and not has_sessions and issuer is None:
        named = "CLERK_JWT_KEY"
        jwt_key = os.environ.get(named, "").strip() or None
    if jwt_key is None and not has_sessions and issuer is None:
        raise ConfigurationError(
            "The verifier needs keys: hand it jwt_key= (the PEM of the dashboard; the "
            "environment's CLERK_JWT_KEY will do), sessions= (a client) or issuer= (the "
            "instance's Frontend API URL)."
        )
    _seconds("clock_skew", clock_skew, least=0.0)
    _seconds("kid_cooldown", kid_cooldown, least=0.0)
    _seconds("key_ttl", key_ttl, least=0.0, beyond=True)
    _seconds("key_max_age", key_max_age, least=key_ttl)
    if type(token_cache_size) is not int or token_cache_size < 0:
        raise ConfigurationError("token_cache_size must be an integer of at least 0 (0: no cache).")
    rules = Rules(
        authorized_parties=_names("authorized_parties", authorized_parties),
        audience=_names("audience", audience),
        issuer=None if issuer is None else _checked_issuer(issuer),
        clock_skew=float(clock_skew),
        accept_pending=accept_pending,
    )
    if rules.authorized_parties is None:
        logger.warning(
            "authorized_parties is not set: tokens made for any origin are accepted; list your "
            "frontend's origins to keep out cookies that leak from other subdomains"
        )
    if jwt_key is None and not has_sessions:
        _check_trustworthy(rules.issuer or "")
    keys = (
        FixedKey(key_from(jwt_key, named=named))
        if jwt_key is not None
        else FetchedKeys(
            source="sessions" if has_sessions else "issuer",
            key_ttl=float(key_ttl),
            key_max_age=float(key_max_age),
            kid_cooldown=float(kid_cooldown),
            clock=monotonic or time.monotonic,
        )
    )
    return Verification(
        rules=rules,
        keys=keys,
        cache_size=token_cache_size,
        can_look_up=has_sessions,
        clock=clock or time.time,
    )


def _checked_issuer(issuer: object) -> str:
    if not isinstance(issuer, str):
        raise ConfigurationError("issuer must be a str, such as https://clerk.example.com.")
    try:
        parts = urlsplit(issuer)
        well_formed = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        well_formed = False
    else:
        well_formed = well_formed and not (parts.query or parts.fragment or parts.username)
    if not well_formed:
        raise ConfigurationError("issuer must be a URL, such as https://clerk.example.com.")
    return issuer.rstrip("/")


def _check_trustworthy(issuer: str) -> None:
    parts = urlsplit(issuer)
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        raise ConfigurationError("issuer must be an https:// URL: its keys decide who gets in.")


def _names(setting: str, value: str | Iterable[str] | None) -> frozenset[str] | None:
    """Read a list of accepted names; an empty one would let nobody in, or be taken for None."""
    if value is None:
        return None
    try:
        names = [value] if isinstance(value, str) else list(value)
    except TypeError:  # not iterable
        names = []
    if not names or not all(isinstance(name, str) and name for name in names):  # pyright: ignore[reportUnnecessaryIsInstance] - users without a type checker
        raise ConfigurationError(
            f"{setting} must hold at least one non-empty string; leave it out to not check it."
        )
    return frozenset(names)


def _seconds(setting: str, value: float, *, least: float, beyond: bool = False) -> None:
    try:
        fits = math.isfinite(value) and (value > least if beyond else value >= least)
    except (TypeError, OverflowError):
        fits = False
    if not fits:
        bound = "more than" if beyond else "at least"
        raise ConfigurationError(f"{setting} must be {bound} {least:g} seconds, not {value!r}.")
