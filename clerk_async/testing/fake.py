"""FakeClerk: what tests hold in their hands."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import define

from .faults import Armed, Fault, Injected
from .limits import LimitLike, SlidingWindow, read_limit
from .minting import Minting
from .operations import Operations, Rules
from .served import Served
from .state import FakeSession, State
from .wire import Wire

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from .record import ReceivedRequest

SECRET_KEY = "sk_test_FakeClerkFakeClerkFakeClerkFakeClerk00"  # noqa: S105 - opens nothing but fakes
LIVE_SECRET_KEY = "sk_live_FakeClerkFakeClerkFakeClerkFakeClerk00"  # noqa: S105 - likewise
ORIGIN = "http://localhost:3000"
_SESSIONS_PER_USER = 4


class Sessions(Mapping[str, FakeSession]):
    """The sessions by id, safe to walk through while the fake serves."""

    def __init__(self, state: State) -> None:
        self._state = state

    def __getitem__(self, session_id: str) -> FakeSession:
        session = self._state.find(session_id)
        if session is None:
            raise KeyError(session_id)
        return session

    def __iter__(self) -> Iterator[str]:
        with self._state.lock:
            return iter(list(self._state.sessions))

    def __len__(self) -> int:
        return len(self._state.sessions)

    def __repr__(self) -> str:
        return f"<{len(self)} sessions>"


@define
class _Settings:
    latency: float
    issuer: str | None


class FakeClerk(Served, Minting):
    """A stateful Clerk instance on loopback, in a thread and event loop of its own.

    Any Clerk SDK that is pointed at `base_url` with `secret_key` works against it. It serves sync
    and async tests alike: `with` and `async with` both start and stop it.

    Args:
        secret_key: The only key that it lets in.
        rate_limit: How many requests it takes in how many seconds: a `RateLimit`, or a pair;
            None for any number. `GET /jwks` is never limited.
        sessions: How many sessions it starts with, four to a user.
        seed: Makes ids, and what happens by probability, the same in every run.
        port: The port; 0 for a free one. A fake that is started again keeps its port.
        production: Is it a production instance? They refuse to create sessions. By default the
            kind of the secret key says so.
        latency: Seconds that each answer takes, besides its faults.
        revoke_inactive: What revoking a session that is not live answers, which is documented
            nowhere: `bad_request` or `ok` (200 with the session as it is).
        refresh_max_age: How old a token may be that is refreshed, in seconds from its `iat`.
        issuer: The `iss` of its tokens; its own root by default, which publishes the key set
            under `/.well-known/jwks.json`.
        kid: The id of its first signing key; made up by default.
        keep_requests: How many requests `requests` keeps, the newest ones; None for all.
        compress: Are answers compressed for those who accept that?
        ssl_context: Serves https with it.
        clock: The wall clock, in seconds: sessions and tokens go by it.
        monotonic: The clock of the rate limit and of `requests`, in seconds.

    Attributes:
        secret_key: The key that it lets in.
        requests: What arrived, oldest first: a list that grows, and may be cleared.
        production: Is it a production instance?

    Raises:
        ValueError: If `rate_limit` or `revoke_inactive` makes no sense.
    """

    def __init__(
        self,
        *,
        secret_key: str | None = None,
        rate_limit: LimitLike | None = None,
        sessions: int = 0,
        seed: int = 0,
        port: int = 0,
        production: bool | None = None,
        latency: float = 0.0,
        revoke_inactive: str = "bad_request",
        refresh_max_age: float = 86_400.0,
        issuer: str | None = None,
        kid: str | None = None,
        keep_requests: int | None = None,
        compress: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if revoke_inactive not in {"bad_request", "ok"}:
            raise ValueError(f"revoke_inactive must be bad_request or ok, not {revoke_inactive!r}")
        if secret_key is None:
            secret_key = LIVE_SECRET_KEY if production else SECRET_KEY
        self.secret_key = secret_key
        self.production: bool = (
            secret_key.startswith("sk_live_") if production is None else production
        )
        self._settings = _Settings(latency=latency, issuer=issuer)
        self.requests: list[ReceivedRequest] = []
        self._keep_requests = keep_requests
        self._monotonic = monotonic
        self._compress = compress
        Served.__init__(self, port, ssl_context)
        Minting.__init__(self, State(seed=seed, clock=clock), seed=seed, kid=kid)
        self._armed = Armed(random.Random(f"faults {seed}"))  # noqa: S311 - a seed repeats them
        self._rules = Rules(
            production=self.production,
            revoke_inactive=revoke_inactive,
            refresh_max_age=refresh_max_age,
            cookie_suffix=f"{random.Random(seed).getrandbits(32):08x}",  # noqa: S311
        )
        self._rate_limit: LimitLike | None = None
        self._window: SlidingWindow | None = None
        self.rate_limit = rate_limit
        self._fill(sessions)

    def _fill(self, count: int) -> None:
        now = self._state.now()
        user_id = client_id = ""
        for number in range(count):
            if number % _SESSIONS_PER_USER == 0:
                user_id, client_id = self._state.new_id("user"), self._state.new_id("client")
            self.add_session(
                user_id=user_id, client_id=client_id, created_at=now - (count - number) * 1000
            )

    def _make_wire(self) -> Wire:
        # The server knows nothing of the fake itself, which can so go when its user drops it.
        settings, root = self._settings, self._root
        wire = Wire(
            operations=Operations(
                self._state, self._mint, self._rules, lambda: settings.issuer or root
            ),
            secret_key=self.secret_key,
            armed=self._armed,
            gauges=self._gauges,
            log=self.requests,
            log_size=self._keep_requests,
            monotonic=self._monotonic,
            latency=lambda: settings.latency,
            compress=self._compress,
        )
        wire.window = self._window
        return wire

    def __repr__(self) -> str:
        where = self._root if self.port else "not started"
        return f"<FakeClerk {where} sessions={len(self._state.sessions)}>"

    @property
    def issuer(self) -> str:
        """The `iss` of tokens signed from now on."""
        return self._settings.issuer or self._root

    @issuer.setter
    def issuer(self, issuer: str | None) -> None:
        self._settings.issuer = issuer

    @property
    def latency(self) -> float:
        """Seconds that each answer takes."""
        return self._settings.latency

    @latency.setter
    def latency(self, seconds: float) -> None:
        self._settings.latency = seconds

    @property
    def rate_limit(self) -> LimitLike | None:
        """How many requests it takes in how many seconds; None for any number.

        Assigning starts an empty window.
        """
        return self._rate_limit

    @rate_limit.setter
    def rate_limit(self, limit: LimitLike | None) -> None:
        figures = read_limit(limit)
        self._rate_limit = limit
        self._window = None if figures is None else SlidingWindow(*figures)
        if self._thread.wire is not None:
            self._thread.wire.window = self._window

    # What it holds

    @property
    def sessions(self) -> Mapping[str, FakeSession]:
        """The sessions by id, as they are now."""
        return Sessions(self._state)

    def add_session(
        self,
        *,
        user_id: str | None = None,
        status: str = "active",
        client_id: str | None = None,
        session_id: str | None = None,
        actor: dict[str, Any] | None = None,
        created_at: datetime | int | None = None,
        last_active_at: datetime | int | None = None,
        updated_at: datetime | int | None = None,
        expire_at: datetime | int | None = None,
        abandon_at: datetime | int | None = None,
        last_active_organization_id: str | None = None,
        latest_activity: dict[str, Any] | None = None,
        tasks: list[dict[str, Any]] | None = None,
        authorized_party: str | None = ORIGIN,
        claims: Mapping[str, Any] | None = None,
    ) -> FakeSession:
        """Put a session in, and its user with it.

        Args:
            user_id: Whose it is; somebody new by default.
            status: Any text, also one that Clerk does not know.
            client_id: Its client; a new one by default.
            session_id: Its id; made up by default.
            actor: The impersonator, as the service sends it.
            created_at: When it was created: an aware datetime, or Unix milliseconds; now by
                default. So the other times, which follow from it.
            last_active_at: When it was last active.
            updated_at: When it was last changed.
            expire_at: When it expires; in a week by default.
            abandon_at: When it counts as abandoned; in thirty days by default.
            last_active_organization_id: Its active organization; its tokens carry it.
            latest_activity: The latest activity, as the service sends it.
            tasks: The tasks that keep a session pending, as the service sends them.
            authorized_party: The `azp` of its tokens; None for none.
            claims: Claims that its tokens carry over the usual ones; None removes one.

        Returns:
            The session itself: it shows what is now, and assigning to it changes that.

        Raises:
            ValueError: If there is a session of that id, or a time has no time zone.
        """
        return self._state.add(
            user_id=user_id,
            client_id=client_id,
            session_id=session_id,
            status=status,
            created_at=created_at,
            times={
                "last_active_at": last_active_at,
                "updated_at": updated_at,
                "expire_at": expire_at,
                "abandon_at": abandon_at,
            },
            rest={
                "actor": actor,
                "last_active_organization_id": last_active_organization_id,
                "latest_activity": latest_activity,
                "tasks": tasks,
                "authorized_party": authorized_party,
                "claims": dict(claims or {}),
            },
        )

    def remove_session(self, session_id: str) -> None:
        """Purge a session, as the service does with old ones; an unknown id is ignored."""
        self._state.remove(session_id)

    def add_user(self, user_id: str | None = None) -> str:
        """Make a user known, so that sessions can be created; gives back the id."""
        with self._state.lock:
            known = user_id or self._state.new_id("user")
            self._state.users.add(known)
            return known

    def remove_user(self, user_id: str) -> None:
        """Forget a user; the sessions stay."""
        with self._state.lock:
            self._state.users.discard(user_id)

    def add_template(self, name: str, claims: Mapping[str, Any], *, lifetime: int = 60) -> None:
        """Define a JWT template; `{{user.id}}`, `{{session.id}}` and `{{org.id}}` are filled in."""
        with self._state.lock:
            self._state.templates[name] = (dict(claims), lifetime)

    # Faults

    def inject(self, *faults: Fault) -> Injected:
        """Arm faults, after those that are armed; the last one's handle comes back."""
        if not faults:
            raise TypeError("inject() needs a Fault")
        return [self._armed.add(fault) for fault in faults][-1]

    def clear_faults(self) -> None:
        """Disarm every fault; what is held stays so until `release`."""
        self._armed.clear()

    def release(self) -> None:
        """Answer the requests that `Fault.hold` keeps waiting now."""
        wire = self._thread.wire
        if wire is not None:
            self._thread.call(wire.let_go)
