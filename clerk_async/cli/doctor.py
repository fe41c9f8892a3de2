"""`doctor`: checks everything that a run needs before an incident, with one line per check."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import attrs
import click

from clerk_async.cli.client import (
    KEY_VARIABLE,
    ask_instance,
    endpoint,
    key_ending,
    key_in_words,
    key_kind,
    make_client,
    secret_key,
)
from clerk_async.cli.exits import DONE, FAILED, KEY_REFUSED, OUT_OF_REACH, USAGE, exit_code_of
from clerk_async.cli.messages import error_text
from clerk_async.cli.output import cell
from clerk_async.cli.progress import duration, number
from clerk_async.cli.rates import default_rate_limit
from clerk_async.config import SHARED_STATE_VARIABLE
from clerk_async.errors import ClerkError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from clerk_async.cli.app import Settings
    from clerk_async.cli.client import Instance
    from clerk_async.config import Endpoint

CLOCK_OFF: Final = 5.0
"""Seconds by which a clock may be off before tokens are misjudged: the verifier's clock skew."""
PATIENCE: Final = 5.0
"""Seconds that each network check may take."""
_EXAMPLE: Final = 10_000
_PORTS: Final = {"http": 80, "https": 443}


@attrs.frozen
class Finding:
    """The result of one check.

    Attributes:
        name: What was checked.
        told: What was found.
        code: The exit code for this result alone; None if the check was skipped.
    """

    name: str
    told: str
    code: int | None = DONE

    @property
    def status(self) -> str:
        """The result as one word for programs."""
        if self.code is None:
            return "skipped"
        return "ok" if self.code == DONE else "failed"


@attrs.define
class _FailedError(Exception):
    """A check failed; attributes as in `Finding`."""

    told: str
    code: int


@attrs.define
class Doctor:
    """One run of all checks.

    Attributes:
        settings: The global options.
        findings: The results so far.
        facts: The same for programs.
    """

    settings: Settings
    findings: list[Finding] = attrs.field(factory=list[Finding], init=False)
    facts: dict[str, Any] = attrs.field(factory=dict[str, Any], init=False)

    async def examine(self) -> int:
        """Make one check after the other, and return the exit code."""
        where = self._endpoint()
        shared = DONE
        if os.environ.get(SHARED_STATE_VARIABLE):
            shared = await self._check("shared state", self._shared_state)
        if where is None:
            self._skip("name", "TLS", "key accepted", "instance", "clock", "pace")
        elif await self._check("name", lambda: self._name(where)):
            self._skip("TLS", "key accepted", "instance", "clock")
        elif await self._check("TLS", lambda: self._tls(where)) or shared == USAGE:
            self._skip("key accepted", "instance", "clock")
        else:
            await self._service()
        if where is not None:
            await self._check("pace", lambda: self._pace(where))
        self.findings.sort(key=lambda finding: finding.name == "shared state")  # put it last
        return self._tell()

    def _endpoint(self) -> Endpoint | None:
        settings = self.settings
        try:
            key = secret_key(settings)
        except click.ClickException as error:
            self._add("key", error.format_message(), USAGE)
            return None
        self.facts["key"] = {
            "kind": key_kind(key),
            "ends_in": key_ending(key),
            "from": settings.key_file or KEY_VARIABLE,
        }
        try:
            where = endpoint(settings)
        except ClerkError as error:
            told = error_text(error)
            if not told.startswith(("--base-url", "CLERK_API_URL")):
                self._add("key", told, USAGE)
                return None
            self._add("key", key_in_words(settings))
            self._add("base URL", told, USAGE)
            return None
        self._add("key", key_in_words(settings))
        source = "the default"
        if settings.base_url is not None:
            source = "from --base-url"
        elif os.environ.get("CLERK_API_URL"):
            source = "from CLERK_API_URL"
        self.facts["base_url"] = where.base_url
        self._add("base URL", f"{where.base_url}, {source}")
        return where

    async def _name(self, where: Endpoint) -> str:
        host, port = _address(where.base_url)
        if (proxy := _proxy(where)) is not None:
            return f"the proxy {proxy} looks up {host}"
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PATIENCE):
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except TimeoutError:
            raise _FailedError(f"{host}: no answer within {PATIENCE:g} s", OUT_OF_REACH) from None
        except OSError as error:
            raise _FailedError(f"{host}: {error.strerror or error}", OUT_OF_REACH) from None
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        self.facts["addresses"] = addresses
        more = f" and {len(addresses) - 1} more" if len(addresses) > 1 else ""
        return f"{host} is {addresses[0]}{more}"

    async def _tls(self, where: Endpoint) -> str:
        host, port = _address(where.base_url)
        if where.base_url.startswith("http://"):
            return f"none: http to {host}, which is this machine"
        if _proxy(where) is not None:
            return "through the proxy"
        try:
            async with asyncio.timeout(PATIENCE):
                _, writer = await asyncio.open_connection(
                    host, port, ssl=ssl.create_default_context()
                )
        except TimeoutError:
            raise _FailedError(f"no connection within {PATIENCE:g} s", OUT_OF_REACH) from None
        except ssl.SSLError as error:
            why = getattr(error, "verify_message", None) or error.reason or str(error)
            raise _FailedError(
                f"{why} (if your network has its own certificate authority, set SSL_CERT_FILE)",
                OUT_OF_REACH,
            ) from None
        except OSError as error:
            raise _FailedError(f"can't connect: {error.strerror or error}", OUT_OF_REACH) from None
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        version = tls.version() or "TLS"
        until = (tls.getpeercert() or {}).get("notAfter", "")
        writer.transport.abort()
        self.facts["tls"] = version
        return f"{version}, certificate valid until {until}" if until else version

    async def _service(self) -> None:
        """Fetch the instance, which also checks the key and the clock."""
        try:
            async with make_client(self.settings) as sessions:
                instance = await ask_instance(sessions)
        except ClerkError as error:
            code = exit_code_of(error)
            self.facts["key_accepted"] = False if code == KEY_REFUSED else None
            self._add("key accepted", error_text(error), code)
            self._skip("instance", "clock")
            return
        self.facts["key_accepted"] = True
        self._add("key accepted", "yes")
        self.facts["instance_id"] = instance.id
        self._add("instance", instance.id or "the service doesn't name it")
        self._clock(instance)

    def _clock(self, instance: Instance) -> None:
        ahead = instance.clock_ahead
        self.facts["clock_ahead"] = None if ahead is None else round(ahead, 1)
        if ahead is None:
            self._add("clock", "the service's response has no date", None)
            return
        side = "ahead of" if ahead > 0 else "behind"
        if abs(ahead) <= 1:  # the response's date has whole seconds
            self._add("clock", "the same as the service's, to the second")
        elif abs(ahead) <= CLOCK_OFF:
            self._add("clock", f"{abs(ahead):.0f} s {side} the service's")
        else:
            told = f"{duration(abs(ahead))} {side} the service's: valid tokens may be refused"
            self._add("clock", told, FAILED)

    async def _pace(self, where: Endpoint) -> str:
        limit = default_rate_limit(where)
        self.facts["pace"] = {"count": limit.count, "per": limit.per}
        took = duration(max(0, _EXAMPLE - limit.count) * limit.per / limit.count)
        return (
            f"bulk runs send at most {number(limit.count)} requests in {limit.per:g} s: "
            f"{number(_EXAMPLE)} sessions take about {took}"
        )

    async def _shared_state(self) -> str:
        from clerk_async.shared.connection import AwayError, RedisConnection  # noqa: PLC0415
        from clerk_async.shared.state import resolve_shared_state  # noqa: PLC0415

        self.facts["shared_state"] = False
        try:
            connection = RedisConnection(resolve_shared_state(None))
        except ClerkError as error:
            told = error_text(error).replace("shared_state", SHARED_STATE_VARIABLE, 1)
            raise _FailedError(told, USAGE) from None
        try:
            await connection.command("PING")
        except AwayError as error:
            told = f"{SHARED_STATE_VARIABLE} is set, but Redis is unreachable: {error}"
            raise _FailedError(told, OUT_OF_REACH) from None
        finally:
            await connection.close()
        self.facts["shared_state"] = True
        return f"connected, from {SHARED_STATE_VARIABLE}"

    async def _check(self, name: str, look: Callable[[], Awaitable[str]]) -> int:
        """Make a check, and return the exit code for its result."""
        try:
            told = await look()
        except _FailedError as failure:
            self._add(name, failure.told, failure.code)
            return failure.code
        self._add(name, told)
        return DONE

    def _add(self, name: str, told: str, code: int | None = DONE) -> None:
        self.findings.append(Finding(name, told, code))

    def _skip(self, *names: str) -> None:
        for name in names:
            self._add(name, "not checked", None)

    def _tell(self) -> int:
        out = self.settings.out
        code = next((finding.code for finding in self.findings if finding.code), DONE)
        if out.is_json:
            checks = [
                {"name": finding.name, "status": finding.status, "detail": finding.told}
                for finding in self.findings
            ]
            out.record({"ok": code == DONE, "exit_code": code, **self.facts, "checks": checks})
            return code
        good, bad = ("✓", "✗") if out.out.has_unicode else ("ok", "NO")
        width = max(len(finding.name) for finding in self.findings)
        for finding in self.findings:
            mark = {"ok": out.good(good), "failed": out.bad(bad)}.get(finding.status, "-")
            if finding.status == "failed" or not out.is_quiet:
                out.result(f"{mark} {finding.name.ljust(width)}  {cell(finding.told)}")
        return code


def _address(url: str) -> tuple[str, int]:
    """Return the host and port of a base URL, which has been validated."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or _PORTS[parts.scheme]


def _proxy(where: Endpoint) -> str | None:
    from clerk_async.http.settings import proxy_of_environment  # noqa: PLC0415 - not for help

    proxy = proxy_of_environment(where.base_url)
    return None if proxy is None else urlsplit(str(proxy.url)).netloc
