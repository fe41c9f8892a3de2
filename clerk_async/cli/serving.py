"""`fake-server`: a Clerk Sessions service with a made-up company, or with given sessions."""

from __future__ import annotations

import json
import random
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeAlias, cast

import click

from clerk_async.cli.exits import Refused
from clerk_async.cli.output import harmless, shell_variable
from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from clerk_async.config import RateLimit

Template: TypeAlias = tuple[str, str]
"""A name, and the file with its claims."""
Latency: TypeAlias = float | tuple[float, float]

_SESSIONS_PER_USER: Final = 4
_USERS_PER_ORGANIZATION: Final = 12
_DAY: Final = 86_400_000
_STATUSES: Final = {
    "active": 0.78,
    "pending": 0.04,
    "ended": 0.07,
    "expired": 0.05,
    "revoked": 0.03,
    "removed": 0.02,
    "abandoned": 0.01,
}
_IMPERSONATED: Final = 0.02
_TIMES: Final = ("created_at", "updated_at", "last_active_at", "expire_at", "abandon_at")
_AS_THEY_ARE: Final = ("actor", "latest_activity", "tasks", "last_active_organization_id")
_DEVICES: Final = (
    ("Macintosh", "Safari", "26.1", False),
    ("Macintosh", "Chrome", "142.0.0.0", False),
    ("Windows", "Edge", "142.0.0.0", False),
    ("Windows", "Firefox", "145.0", False),
    ("Linux", "Firefox", "145.0", False),
    ("iPhone", "Safari", "26.1", True),
    ("Android", "Chrome", "142.0.0.0", True),
)
_PLACES: Final = (
    ("Berlin", "DE"),
    ("Lisbon", "PT"),
    ("London", "GB"),
    ("Nairobi", "KE"),
    ("New York", "US"),
    ("Oslo", "NO"),
    ("Osaka", "JP"),
    ("São Paulo", "BR"),
    ("Toronto", "CA"),
    ("Zürich", "CH"),
)
_ROLES: Final = {
    "org:admin": ("org:billing:manage", "org:reports:read", "org:reports:write"),
    "org:member": ("org:reports:read",),
}


def make_fake(
    *,
    port: int,
    sessions: int,
    seed_file: IO[str] | None,
    templates: Sequence[Template],
    faults: Sequence[Fault],
    rate: RateLimit | None,
    latency: Latency,
    seed: int,
    production: bool,
) -> FakeClerk:
    """Create a fake with the requested content; it is not started yet.

    Raises:
        Refused: If a file is invalid.
    """
    fake = FakeClerk(
        port=port,
        rate_limit=rate,
        latency=latency,
        seed=seed,
        production=production,
        keep_requests=0,  # nothing can read them, and it may run for days
    )
    for name, file in templates:
        fake.add_template(name, _claims_in(file))
    if seed_file is not None:
        _add_given(fake, seed_file)
    _add_made_up(fake, sessions, seed)
    if faults:
        fake.inject(*faults)
    return fake


# --- a company ---


def _add_made_up(fake: FakeClerk, count: int, seed: int) -> None:
    """Add sessions, four per user, with devices, places, organizations and impersonators."""
    chance = random.Random(f"company {seed}")  # noqa: S311 - a story, no secret
    now = int(datetime.now(UTC).timestamp() * 1000)
    support = f"user_{_letters(chance)}"
    statuses, weights = list(_STATUSES), list(_STATUSES.values())
    user_id, organization, role = "", "", ""
    for index in range(count):
        if index % _SESSIONS_PER_USER == 0:
            if index % (_SESSIONS_PER_USER * _USERS_PER_ORGANIZATION) == 0:
                organization = f"org_{_letters(chance)}"
            user_id = f"user_{_letters(chance)}"
            role = chance.choice(["org:admin", "org:member", "org:member", ""])
        status = chance.choices(statuses, weights)[0]
        # The newest come last, because the list operation shows them first.
        created = now - (count - index) * 1000 - chance.randrange(1000)
        last_active = min(now, created + chance.randrange(1000))
        is_over = status not in {"active", "pending"}
        if not is_over:
            created -= chance.randrange(30 * _DAY)
            last_active = now - min(chance.randrange(20 * _DAY), now - created)
        device, browser, version, is_mobile = chance.choice(_DEVICES)
        city, country = chance.choice(_PLACES)
        fake.add_session(
            user_id=user_id,
            status=status,
            organization_id=organization if role else None,
            role=role or None,
            permissions=_ROLES.get(role),
            plan="o:pro" if role else "u:free",
            actor={"sub": support} if chance.random() < _IMPERSONATED else None,
            created_at=created,
            last_active_at=last_active,
            updated_at=last_active,
            expire_at=now - 1000 if status == "expired" else now + 7 * _DAY,
            abandon_at=now + 30 * _DAY,
            tasks=[{"key": "choose-organization"}] if status == "pending" else None,
            activity={
                "device_type": device,
                "browser_name": browser,
                "browser_version": version,
                "is_mobile": is_mobile,
                "ip_address": f"203.0.113.{chance.randrange(1, 255)}",  # RFC 5737: documentation
                "city": city,
                "country": country,
            },
        )


def _letters(chance: random.Random) -> str:
    return "".join(
        chance.choices("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", k=27)
    )


# --- given sessions, templates and faults ---


def _add_given(fake: FakeClerk, file: IO[str]) -> None:
    """Add the sessions of a file, in the form of `list --json` or of the service."""
    try:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                _add_one(fake, json.loads(line))
            except (TypeError, ValueError, RecursionError) as error:
                told = "isn't JSON" if isinstance(error, json.JSONDecodeError) else str(error)
                raise Refused(f"{file.name}, line {number}: {harmless(told)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{file.name} can't be read: {error}") from None


def _add_one(fake: FakeClerk, record: object) -> None:
    if not isinstance(record, dict):
        raise TypeError("isn't a session (a JSON object)")
    told = cast("dict[str, Any]", record)
    if not isinstance(told.get("id"), str):
        raise TypeError("a session has no id")
    times: dict[str, Any] = {
        name: _time(name, told[name]) for name in _TIMES if told.get(name) is not None
    }
    fake.add_session(
        session_id=told["id"],
        user_id=told.get("user_id"),
        client_id=told.get("client_id"),
        status=told.get("status", "active"),
        **times,
        **{name: told.get(name) for name in _AS_THEY_ARE if told.get(name) is not None},
    )


def _time(name: str, value: object) -> datetime | int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        return datetime.fromisoformat(cast("str", value))
    except (TypeError, ValueError):
        raise ValueError(f"{name} isn't a time such as 2026-01-31T12:00:00.000Z") from None


def _claims_in(file: str) -> dict[str, Any]:
    try:
        claims: object = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{file} can't be read: {error}") from None
    except (ValueError, RecursionError):
        raise Refused(f"{file} isn't JSON") from None
    if not isinstance(claims, dict):
        raise Refused(f"{file} contains no claims (a JSON object)")
    return cast("dict[str, Any]", claims)


def read_template(
    context: click.Context, option: click.Parameter, values: Sequence[str]
) -> list[Template]:
    """Read `NAME=FILE`, any number of times.

    Raises:
        click.BadParameter: If a value has another form.
    """
    templates: list[Template] = []
    for value in values:
        name, equals, file = value.partition("=")
        if not (name and equals and file):
            raise click.BadParameter(f"{value!r} isn't NAME=FILE", context, option)
        templates.append((name, file))
    return templates


def read_fault(
    context: click.Context, option: click.Parameter, values: Sequence[str]
) -> list[Fault]:
    """Read `OPERATION:STATUS[:PROBABILITY]`, any number of times.

    Raises:
        click.BadParameter: If a value has another form.
    """
    faults: list[Fault] = []
    for value in values:
        match = re.fullmatch(r"(\w+):([1-9]\d\d)(?::(\d*\.?\d+))?", value)
        try:
            if match is None:
                raise ValueError("it isn't OPERATION:STATUS[:PROBABILITY]")  # noqa: TRY301
            faults.append(
                Fault.status(
                    status := int(match[2]),
                    operation=None if match[1] == "any" else match[1],
                    probability=float(match[3] or 1),
                    retry_after=1 if status == 429 else None,  # noqa: PLR2004 - Too Many Requests
                )
            )
        except ValueError as error:
            raise click.BadParameter(f"{value!r}: {error}", context, option) from None
    return faults


def read_latency(context: click.Context, option: click.Parameter, value: str | None) -> Latency:
    """Read `S` or `S-S`: seconds, or a range of seconds.

    Raises:
        click.BadParameter: If it is neither.
    """
    if value is None:
        return 0.0
    match = re.fullmatch(r"(\d*\.?\d+)(?:-(\d*\.?\d+))?", value)
    if match is None or (match[2] and float(match[2]) < float(match[1])):
        told = f"{value!r} isn't a number of seconds such as 0.05, or a range such as 0.005-0.15"
        raise click.BadParameter(told, context, option)
    return float(match[1]) if match[2] is None else (float(match[1]), float(match[2]))


# --- output ---


def write_lines(file: str, lines: Iterable[str]) -> None:
    """Write one id per line, for the commands that read such files.

    Raises:
        Refused: If the file can't be written.
    """
    try:
        Path(file).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise Refused(f"{file} can't be written: {error.strerror}") from None


def users_of(fake: FakeClerk) -> list[str]:
    """Return the users who have sessions, in the order of their first ones."""
    return list(dict.fromkeys(session.user_id for session in fake.sessions.values()))


def how_to_reach(fake: FakeClerk) -> Iterator[str]:
    """Return lines for a shell, with comments that describe the content."""
    yield shell_variable("CLERK_API_URL", fake.base_url.removesuffix("/v1"))
    yield shell_variable("CLERK_SECRET_KEY", fake.secret_key)
    users = users_of(fake)
    if users:
        yield f"# {len(fake.sessions)} sessions of {len(users)} users; the first is {users[0]}"
    yield "# Ctrl-C stops it"
