"""FakeClerk: what tests hold in their hands."""

from __future__ import annotations

import random
import weakref
from typing import TYPE_CHECKING, Any

import attrs

from .checks import function, json_object, must_be, number
from .faults import Armed, Fault, Injected
from .gauges import monotonic as monotonic_clock
from .operations import Operations
from .refresh import cookie_suffix, publishable_key
from .server import Server
from .settings import Settings
from .state import ORIGIN, Sessions, State, wall_clock
from .tokens import Tokens
from .webhooks import Webhooks
from .wire import Wire

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from .limits import LimitLike
    from .record import ReceivedRequest
    from .settings import Latency
    from .state import FakeSession

SECRET_KEY = "sk_test_FakeClerkFakeClerkFakeClerkFakeClerk00"  # noqa: S105 - opens nothing but fakes
LIVE_SECRET_KEY = "sk_live_FakeClerkFakeClerkFakeClerkFakeClerk00"  # noqa: S105 - likewise
_SESSIONS_PER_USER = 4


class FakeClerk(Server, Tokens, Webhooks):
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
        latency: Seconds that each answer takes, besides its faults; a pair, such as
            `(0.005, 0.15)`, draws them anew for each.
        revoke_inactive: What revoking a session that is not live answers, which is documented
            nowhere: `bad_request` or `ok` (200 with the session as it is).
        refresh_max_age: How old a token may be that is refreshed, in seconds from its `iat`.
        issuer: The `iss` of its tokens; its own root by default, which publishes the key set
            under `/.well-known/jwks.json`.
        kid: The id of its first signing key; made up by default.
        keep_requests: How many requests `requests` keeps, the newest ones; None for all.
        compress: Are answers compressed for those who accept that?
        ssl_context: Serves https with it.
        clock: The wall clock, in seconds: sessions and tokens go by it. The default follows
            freezegun and time-machine.
        monotonic: The clock of the rate limit and of `requests`, in seconds. The default runs on
            where time is frozen.

    Raises:
        TypeError: If a setting is of a wrong type, here or when it is assigned later.
        ValueError: If it makes no sense, likewise.
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
        latency: Latency = 0.0,
        revoke_inactive: str = "bad_request",
        refresh_max_age: float = 86_400.0,
        issuer: str | None = None,
        kid: str | None = None,
        keep_requests: int | None = None,
        compress: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = wall_clock,
        monotonic: Callable[[], float] = monotonic_clock,
    ) -> None:
        if secret_key is None:
            secret_key = LIVE_SECRET_KEY if production else SECRET_KEY
        self._settings = Settings(
            secret_key=secret_key,
            production=str(secret_key).startswith("sk_live_") if production is None else production,
            latency=latency,
            rate_limit=rate_limit,
            issuer=issuer,
            revoke_inactive=revoke_inactive,
            refresh_max_age=refresh_max_age,
        )
        must_be("seed", seed, int)
        must_be("kid", kid, str, None)
        if must_be("keep_requests", keep_requests, int, None) is not None:
            number("keep_requests", keep_requests or 0, least=0)
        self._keep_requests = keep_requests
        self._compress = must_be("compress", compress, bool)
        self._monotonic = function("monotonic", monotonic)
        self._requests: list[ReceivedRequest] = []
        Server.__init__(self, port, ssl_context)
        state = State(seed=seed, clock=function("clock", clock))
        Tokens.__init__(self, state, seed=seed, kid=kid)
        Webhooks.__init__(self, state, seed=seed)
        self._drawn_from = f"faults {seed}"
        self._drawn = random.Random(self._drawn_from)  # noqa: S311 - a seed repeats them
        self._armed = Armed(self._drawn)
        self._begins_with = int(number("sessions", must_be("sessions", sessions, int), least=0))
        self._begins_as = attrs.evolve(self._settings)
        self._fill(self._begins_with)

    def reset(self) -> None:
        """Begin anew, as it was made: sessions, users, templates, keys, settings, faults, log.

        What is held is let go. Its address stays the same, its connections stay open, and ids go
        on, so that no test meets one of another.
        """
        self.clear_faults()
        self.release()
        self._settings.become(self._begins_as)
        self._drawn.seed(self._drawn_from)
        self._back_to_the_first_key()
        self._gauges.begin()
        self._forget_webhooks()
        self._state.clear()
        self._requests.clear()
        self._fill(self._begins_with)

    def _fill(self, count: int) -> None:
        now = self._state.now()
        user_id = client_id = ""
        for index in range(count):
            if index % _SESSIONS_PER_USER == 0:
                user_id, client_id = self._state.new_id("user"), self._state.new_id("client")
            self.add_session(
                user_id=user_id, client_id=client_id, created_at=now - (count - index) * 1000
            )

    def _make_wire(self) -> Wire:
        # The server holds no fake, which so goes at once when its user drops it.
        return Wire(
            operations=Operations(self._state, weakref.proxy(self), self._settings),
            settings=self._settings,
            armed=self._armed,
            gauges=self._gauges,
            log=self._requests,
            log_size=self._keep_requests,
            monotonic=self._monotonic,
            random_=self._drawn,
            compress=self._compress,
        )

    def __repr__(self) -> str:
        where = self._root if self.port else "not started"
        return f"<FakeClerk {where} sessions={len(self._state.sessions)}>"

    # How it behaves

    @property
    def secret_key(self) -> str:
        """The only key that it lets in."""
        return self._settings.secret_key

    @secret_key.setter
    def secret_key(self, key: str) -> None:
        self._settings.secret_key = key

    @property
    def production(self) -> bool:
        """Whether it is a production instance."""
        return self._settings.production

    @production.setter
    def production(self, production: bool) -> None:
        self._settings.production = production

    @property
    def issuer(self) -> str:
        """The `iss` of tokens signed from now on; assigning None makes it the fake's own root."""
        return self._settings.issuer or self._root

    @issuer.setter
    def issuer(self, issuer: str | None) -> None:
        self._settings.issuer = issuer

    @property
    def publishable_key(self) -> str:
        """The key that Clerk's SDKs for front ends, and its JavaScript ones, are given."""
        return publishable_key(self.issuer, production=self.production)

    @property
    def cookie_suffix(self) -> str:
        """What the instance's suffixed cookies end with: `__session_…` and eight characters."""
        return cookie_suffix(self.publishable_key)

    @property
    def latency(self) -> Latency:
        """Seconds that each answer takes; a pair of seconds draws them anew for each."""
        return self._settings.latency

    @latency.setter
    def latency(self, seconds: Latency) -> None:
        self._settings.latency = seconds

    @property
    def rate_limit(self) -> LimitLike | None:
        """How many requests it takes in how many seconds; None for any number.

        Assigning starts an empty window.
        """
        return self._settings.rate_limit

    @rate_limit.setter
    def rate_limit(self, limit: LimitLike | None) -> None:
        self._settings.limit_to(limit)

    # What it holds

    @property
    def requests(self) -> list[ReceivedRequest]:
        """What arrived, oldest first: a list that grows, and may be cleared."""
        return self._requests

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
        organization_id: str | None = None,
        role: str | None = None,
        permissions: Iterable[str] | None = None,
        features: Iterable[str] | None = None,
        plan: str | None = None,
        activity: Mapping[str, Any] | None = None,
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
            organization_id: Its active organization; its tokens carry it.
            role: The user's role there, such as `org:admin` or `admin`. If none of `role`,
                `permissions`, `features` and `plan` is given, tokens are those of an administrator
                with a plan; else `org:member`.
            permissions: The user's permissions there, such as `org:invoices:create`. Tokens leave
                out Clerk's own ones (`org:sys_…`), as Clerk's do.
            features: The features of the plan, such as `o:export`, `u:export` or `uo:export`;
                without a scope, those of the organization if there is one, else of the user.
            plan: The plan, such as `o:pro`, or two: `u:free,o:pro`; without a scope likewise.
            activity: Device and place of the latest activity, by the names of `SessionActivity`:
                `{"city": "Berlin", "browser_name": "Firefox"}`.
            actor: The impersonator, as the service sends it.
            created_at: When it was created: an aware datetime, or Unix milliseconds; now by
                default. So the other times, which follow from it.
            last_active_at: When it was last active.
            updated_at: When it was last changed.
            expire_at: When it expires; in a week by default.
            abandon_at: When it counts as abandoned; in thirty days by default.
            last_active_organization_id: The same as `organization_id`, by the service's name.
            latest_activity: The latest activity, as the service sends it.
            tasks: The tasks that keep a session pending, as the service sends them.
            authorized_party: The `azp` of its browser's tokens; None for none.
            claims: Claims that its tokens carry over the usual ones; None removes one.

        Returns:
            The session itself: it shows what is now, and assigning to it changes that.

        Raises:
            TypeError: If something is of a wrong type, or both names of the organization or of the
                activity are used.
            ValueError: If there is a session of that id, or a time has no time zone, or a
                permission or feature is none.
        """
        if organization_id is not None and last_active_organization_id is not None:
            raise TypeError("organization_id and last_active_organization_id are the same")
        if activity is not None and latest_activity is not None:
            raise TypeError("activity and latest_activity are the same: use one of them")
        if activity is not None:
            latest_activity = self._state.activity(activity)
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
                "last_active_organization_id": (
                    last_active_organization_id if organization_id is None else organization_id
                ),
                "latest_activity": latest_activity,
                "tasks": tasks,
                "role": role,
                "permissions": permissions,
                "features": features,
                "plan": plan,
                "authorized_party": authorized_party,
                "claims": {} if claims is None else claims,
            },
        )

    def remove_session(self, session_id: str) -> None:
        """Purge a session, as the service does with old ones; an unknown id is ignored."""
        self._state.remove(session_id)

    def add_user(self, user_id: str | None = None) -> str:
        """Make a user known, so that sessions can be created; returns the id."""
        must_be("user_id", user_id, str, None)
        with self._state.lock:
            known = user_id or self._state.new_id("user")
            self._state.users.add(known)
            return known

    def remove_user(self, user_id: str) -> None:
        """Forget a user; the sessions stay."""
        self._state.remove_user(user_id)

    def add_template(self, name: str, claims: Mapping[str, Any], *, lifetime: int = 60) -> None:
        """Define a JWT template; `{{user.id}}`, `{{session.id}}` and `{{org.id}}` are filled in.

        Args:
            name: Its name.
            claims: Its own claims. The usual ones (`sub`, `iss`, `exp` …) are set over them.
            lifetime: How long its tokens live where nobody asks otherwise, in seconds.

        Raises:
            TypeError: If an argument is of a wrong type, or JSON can't carry the claims.
            ValueError: If the name is empty, or the lifetime less than a second.
        """
        if not must_be("name", name, str):
            raise ValueError("a template needs a name")
        number("lifetime", must_be("lifetime", lifetime, int), least=1)
        with self._state.lock:
            self._state.templates[name] = (json_object("claims", claims), lifetime)

    # Faults

    def inject(self, *faults: Fault) -> Injected:
        """Arm faults, after those that are armed; returns the last one's handle.

        Raises:
            TypeError: If one is no `Fault`, or there is none.
        """
        if not faults:
            raise TypeError("inject() needs a Fault")
        for fault in faults:
            must_be("what is injected", fault, Fault)
        return [self._armed.add(fault) for fault in faults][-1]

    def clear_faults(self) -> None:
        """Disarm every fault; what is held stays so until `release`."""
        self._armed.clear()

    def release(self) -> None:
        """Answer the requests that `Fault.hold` keeps waiting now."""
        run = self._running()
        if run is not None and run.wire is not None:
            run.call(run.wire.let_go)
