"""The settings of a verifier: checked when it is created, the same for async and sync."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from clerk_async.errors import ConfigurationError
from clerk_async.redaction import sealed
from clerk_async.tokens.denied import DenialCheck, LookUps, checked_max_age
from clerk_async.tokens.key_set import FetchedKeys, KeySetStatus
from clerk_async.tokens.keys import key_from, require_cryptography
from clerk_async.tokens.refusals import logger
from clerk_async.tokens.rules import Rules, check_flag
from clerk_async.tokens.sources import FixedKey
from clerk_async.tokens.verification import Verification
from clerk_async.under_test import monotonic as real_monotonic
from clerk_async.under_test import wall_clock

if TYPE_CHECKING:
    import asyncio

    from clerk_async.denials.table import Denials
    from clerk_async.shared.link import Link
    from clerk_async.tokens.keys import VerificationKey
    from clerk_async.tokens.refreshing import Recent
    from clerk_async.tokens.rules import Parties
    from clerk_async.tokens.sources import Keys

SourceT = TypeVar("SourceT")

KEY_VARIABLE: Final = "CLERK_JWT_KEY"


class Verifier(Generic[SourceT]):
    """The base of both verifiers: their settings and their status."""

    _client: str
    _is_async: bool
    if TYPE_CHECKING:  # so that users' tools can resolve the type hints of a verifier
        _recent: Recent
    _authenticate: Callable[..., Any] | None = None

    @staticmethod
    def _home() -> asyncio.AbstractEventLoop | None:
        """Return the event loop that a fetch runs in; None if it runs in a separate thread."""
        return None

    @sealed
    def __init__(
        self,
        *,
        jwt_key: str | bytes | Mapping[str, Any] | None = None,
        sessions: SourceT | None = None,
        issuer: str | Iterable[str] | None = None,
        authorized_parties: Iterable[str] | Callable[[str], object] | None = None,
        allow_missing_azp: bool = False,
        audience: str | Iterable[str] | None = None,
        clock_skew: float = 5.0,
        accept_pending: bool = False,
        key_ttl: float = 300.0,
        key_max_age: float = 3600.0,
        kid_cooldown: float = 5.0,
        token_cache_size: int = 4096,
        check_denials: bool = True,
        denials_max_age: float | None = None,
        clock: Callable[[], float] | None = None,
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        """Create a verifier; this fetches nothing yet. Times are in seconds.

        Args:
            jwt_key: The instance's public key, as a PEM (from the dashboard's API keys page) or
                a JWK dict; with it, the verifier never fetches keys. Without `jwt_key`, `sessions`
                and `issuer`, the environment variable `CLERK_JWT_KEY` is read when the first token
                is verified; if it is missing, a `ConfigurationError` is raised then.
            sessions: An `AsyncSessionsApi`, or a `SessionsApi` for the sync verifier. The verifier
                fetches keys through it (GET /jwks, with its pool and retries). With `jwt_key`, it
                is only used for `check_session` and `refresh_if_expired`. The verifier does not
                close it.
            issuer: The instance's Frontend API URL, such as `https://clerk.example.com`, or a list
                of them (one for each domain of an instance with satellite domains). Tokens must
                come from one of them. If it is the only source, the verifier fetches keys from the
                public `/.well-known/jwks.json` of the first, without a secret key.
            authorized_parties: The origins that tokens may be issued for (`azp`), or a function
                that takes an origin and returns whether it is one of them (not a coroutine
                function). Tokens without `azp` are then rejected. None disables the check and logs
                a warning once.
            allow_missing_azp: Whether to accept tokens without `azp`. Clerk issues such tokens
                through its Backend API, for native apps, and after a navigation without an Origin
                header (https://clerk.com/docs/guides/sessions/session-tokens). A token with an
                `azp` that is not authorized is still rejected.
            audience: The accepted values of `aud`; None ignores that claim.
            clock_skew: By how much this machine's clock and the service's may differ.
            accept_pending: Whether sessions with unfinished tasks are accepted by default.
            key_ttl: How long fetched keys count as fresh; they are renewed earlier, in the
                background.
            key_max_age: How long keys may be used while fetches fail.
            kid_cooldown: The minimum time between two fetches for unknown key ids.
            token_cache_size: How many verified tokens to cache; 0 for none.
            check_denials: Whether to reject tokens (`session-revoked`) that the client passed as
                `sessions` has denied: by `revoke`, a bulk run, `deny` or a webhook, in this process
                or, with shared state, in another one.
            denials_max_age: With shared state, how old the known denials of other processes may
                be. If Redis is unavailable for longer, the verifier raises
                `DenialsUnavailableError`, and `RequestState.status` is `unknown`. None keeps using
                what is known.
            clock: The wall clock, in Unix time; None for the system's.
            monotonic: The clock that measures the age of keys; None for the system's monotonic
                clock.

        Raises:
            ConfigurationError: If a setting is invalid, `jwt_key` is not a usable public key, or
                the extra `jwt` is not installed.
        """
        fetch = None if sessions is None else getattr(sessions, "_fetch_jwks", None)
        if sessions is not None and (
            fetch is None or iscoroutinefunction(fetch) is not self._is_async
        ):
            raise ConfigurationError(
                f"{type(self).__name__} needs {self._client} as sessions, "
                f"not {type(sessions).__name__}."
            )
        issuers = _issuers(issuer)
        link: Link | None = getattr(sessions, "_link", None)
        checked_max_age(denials_max_age, link, checks_denials=check_denials)
        require_cryptography()
        check_flag("allow_missing_azp", allow_missing_azp)
        check_flag("accept_pending", accept_pending)
        check_flag("check_denials", check_denials)
        _seconds("clock_skew", clock_skew, least=0.0)
        _seconds("kid_cooldown", kid_cooldown, least=0.0)
        _seconds("key_ttl", key_ttl, least=0.0, beyond=True)
        _seconds("key_max_age", key_max_age, least=key_ttl)
        if type(token_cache_size) is not int or token_cache_size < 0:
            raise ConfigurationError(
                "token_cache_size must be an integer of at least 0 (0: no cache)."
            )
        rules = Rules(
            authorized_parties=_parties(authorized_parties),
            allow_missing_azp=allow_missing_azp,
            audience=_names("audience", audience),
            issuers=None if issuers is None else frozenset(issuers),
            clock_skew=float(clock_skew),
            accept_pending=accept_pending,
        )
        if rules.authorized_parties is None:
            logger.warning(
                "authorized_parties is not set: tokens issued for any origin are accepted; list "
                "your frontend's origins to reject cookies that leak from other subdomains"
            )
        ages = monotonic or real_monotonic
        keys: Keys
        if jwt_key is not None:
            keys = FixedKey(partial(key_from, jwt_key, named="jwt_key"), is_settled=True)
        elif sessions is None and issuers is None:
            keys = FixedKey(_key_of_environment, is_settled=False)
        else:
            if issuers is not None and sessions is None:
                _check_trustworthy(issuers[0])
            keys = FetchedKeys(
                source="issuer" if sessions is None else "sessions",
                key_ttl=float(key_ttl),
                key_max_age=float(key_max_age),
                kid_cooldown=float(kid_cooldown),
                clock=ages,
                home=self._home,
            )
        denials: Denials | None = getattr(sessions, "_denials", None) if check_denials else None
        self._look_ups = LookUps(ages)
        self._verification = Verification(
            rules=rules,
            keys=keys,
            cache_size=token_cache_size,
            can_look_up=sessions is not None,
            clock=clock or wall_clock,
            look_ups=self._look_ups,
            denial_check=None
            if denials is None
            else DenialCheck(denials, rules.clock_skew, link, denials_max_age),
        )
        self._sessions = sessions
        self._link = link if check_denials else None
        self._under_way: dict[Any, Any] = {}  # requests in flight, shared by all callers
        if sessions is not None:
            from clerk_async.tokens.refreshing import Recent  # noqa: PLC0415 - seldom needed

            self._recent = Recent(ages)
        self._issuer = issuers[0] if issuers else ""
        self._at_once = self._verification.at_once

    def __repr__(self) -> str:
        return f"<{type(self).__name__} with keys from {self.key_status().source}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError(
            f"{type(self).__name__} can't be pickled or copied, because tasks and threads share "
            "its keys: make one in each process"
        )

    def key_status(self) -> KeySetStatus:
        """Return the source and age of the keys, and counts of accepted and rejected tokens."""
        return self._verification.status()

    def _check_knowledge(self) -> None:
        check = self._verification.denial_check
        if check is not None:
            check.check_knowledge()

    def _load_authenticate(self) -> Callable[..., Any]:
        """Import the request reader on the first request, because `verify` doesn't need it."""
        from clerk_async.tokens.requests import authenticate  # noqa: PLC0415

        self._authenticate = authenticate
        return authenticate

    @property
    def _fetched(self) -> FetchedKeys:
        keys = self._verification.keys
        assert isinstance(keys, FetchedKeys)  # noqa: S101 - only fetched keys need a fetch
        return keys


def _key_of_environment() -> VerificationKey | None:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    return key_from(key, named=KEY_VARIABLE) if key else None


def _issuers(issuer: str | Iterable[str] | None) -> tuple[str, ...] | None:
    """Check the issuers and keep their order, because keys are fetched from the first.

    Raises:
        ConfigurationError: If one is not a URL, or there is none.
    """
    if issuer is None:
        return None
    issuers = [issuer] if isinstance(issuer, str) else _listed(issuer)
    if not issuers:
        raise ConfigurationError("issuer must be one or more URLs like https://clerk.example.com.")
    if len(issuers) > 1 and isinstance(issuer, AbstractSet):
        raise ConfigurationError("issuer must be a list: keys are fetched from its first entry.")
    return tuple(map(_checked_issuer, issuers))


def _checked_issuer(issuer: object) -> str:
    from clerk_async.config import check_url  # noqa: PLC0415 - heavy, seldom needed

    check_url("issuer", issuer)
    return str(issuer).strip().rstrip("/")  # as it is written: tokens must have the same


def _check_trustworthy(issuer: str) -> None:
    from clerk_async.config import is_in_the_clear  # noqa: PLC0415 - heavy, seldom needed

    if is_in_the_clear(issuer):
        raise ConfigurationError("issuer must be an https:// URL: its keys decide who gets in.")


def _parties(value: Iterable[str] | Callable[[str], object] | None) -> Parties | None:
    if value is None or not callable(value):
        return _names("authorized_parties", value)
    if isinstance(value, Iterable):  # an enum class is both callable and iterable
        return _names("authorized_parties", list(cast("Iterable[str]", value)))
    is_async = iscoroutinefunction(value) or iscoroutinefunction(getattr(value, "__call__", None))  # noqa: B004 - what it is, not whether it is there
    if is_async or isinstance(value, type):
        kind = "coroutine function" if is_async else "class"
        raise ConfigurationError(
            "authorized_parties must be origins, or a plain function that takes an origin and "
            f"returns whether it is one of them, not a {kind}."
        )
    return value


def _names(setting: str, value: str | Iterable[str] | None) -> frozenset[str] | None:
    """Read the accepted names; reject an empty list, because its meaning would be unclear."""
    if value is None:
        return None
    names = [value] if isinstance(value, str) else _listed(value)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigurationError(
            f"{setting} must have at least one non-empty string; leave it out to skip the check."
        )
    return frozenset(cast("list[str]", names))


def _listed(value: object) -> list[object]:
    return list(cast("Iterable[object]", value)) if isinstance(value, Iterable) else []


def _seconds(setting: str, value: float, *, least: float, beyond: bool = False) -> None:
    try:
        fits = math.isfinite(value) and (value > least if beyond else value >= least)
    except (TypeError, OverflowError):
        fits = False
    if not fits:
        bound = "more than" if beyond else "at least"
        raise ConfigurationError(f"{setting} must be {bound} {least:g} seconds, not {value!r}.")
