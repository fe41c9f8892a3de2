"""What ids are when they are not ids: e-mail addresses, users' ids in place of sessions', and such.

The service answers "not found", or with an empty list, to whatever it doesn't know, and both count
as done. So a run warns if what it didn't find looks like something else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import attrs

from clerk_async.cli.output import cell
from clerk_async.redaction import redact

if TYPE_CHECKING:
    from clerk_async.cli.columns import Wanted

_KINDS: Final = (
    ("sess_", "session ids"),
    ("user_", "user ids"),
    ("org_", "organization ids"),
    ("client_", "client ids"),
    ("ins_", "instance ids"),
    ("sk_", "secret keys"),
    ("pk_", "publishable keys"),
    ("eyJ", "tokens"),
)
_SEVERAL: Final = re.compile(r"[\s,;|]")
_PHONE: Final = re.compile(r"\+?[\d ()/.-]{7,}")
_OTHERS: Final = "something else"
_LONGEST: Final = 60


def kind_of(value: str, wanted: Wanted) -> str | None:
    """Name, in the plural, what this looks like; None if it looks like what is wanted."""
    if value.startswith(wanted.prefix) and value.isascii() and not _SEVERAL.search(value):
        return None
    if "@" in value:
        return "e-mail addresses"
    if _SEVERAL.search(value):
        return "several ids in one"
    for prefix, kind in _KINDS:
        if value.startswith(prefix) and prefix != wanted.prefix:
            return kind
    return "phone numbers" if _PHONE.fullmatch(value) else _OTHERS


@attrs.define
class Lookalikes:
    """What looked like something else, counted by what it looks like."""

    wanted: Wanted
    _found: dict[str, tuple[int, str]] = attrs.field(factory=dict[str, tuple[int, str]])

    def note(self, value: str) -> None:
        """Count this one, if it looks like something else."""
        kind = kind_of(value, self.wanted)
        if kind is not None:
            count, example = self._found.get(kind, (0, value))
            self._found[kind] = count + 1, example

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(count for count, _ in self._found.values())

    @property
    def warnings(self) -> list[str]:
        """Say how many look like what, with an example, and what to do instead."""
        return [
            f"{count:,} of the {self.wanted.name} {'looks' if count == 1 else 'look'} like {kind}, "
            f"such as {cell(redact(example))[:_LONGEST]}{self._advice(kind)}"
            for kind, (count, example) in sorted(self._found.items())
        ]

    def _advice(self, kind: str) -> str:
        if kind == "user ids":
            return ": revoke-all --user takes users"
        if kind == "session ids":
            return ": revoke takes sessions"
        return f": those of {self.wanted.owner} begin with {self.wanted.prefix}"
