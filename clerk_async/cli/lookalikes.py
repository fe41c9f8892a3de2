"""Recognizes ids that are not ids: e-mail addresses, user ids instead of session ids, and so on.

For an unknown id, the service responds with "not found" or an empty list, and both count as done.
So a run warns if an id that it did not find looks like something else.
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
    ("sess_", "a session id", "session ids"),
    ("user_", "a user id", "user ids"),
    ("org_", "an organization id", "organization ids"),
    ("client_", "a client id", "client ids"),
    ("ins_", "an instance id", "instance ids"),
    ("sk_", "a secret key", "secret keys"),
    ("pk_", "a publishable key", "publishable keys"),
    ("eyJ", "a token", "tokens"),
)
_MAIL: Final = ("an e-mail address", "e-mail addresses")
_PHONES: Final = ("a phone number", "phone numbers")
_SEVERAL_IDS: Final = ("several ids in one", "several ids in one")
_OTHERS: Final = ("something else", "something else")
_SEVERAL: Final = re.compile(r"[\s,;|]")
_PHONE: Final = re.compile(r"\+?[\d ()/.-]{7,}")
_LONGEST: Final = 60


def kind_of(value: str, wanted: Wanted) -> tuple[str, str] | None:
    """Return what this looks like, in singular and plural; None if it looks as wanted."""
    if value.startswith(wanted.prefix) and value.isascii() and not _SEVERAL.search(value):
        return None
    if "@" in value:
        return _MAIL
    if _SEVERAL.search(value):
        return _SEVERAL_IDS
    for prefix, one, several in _KINDS:
        if value.startswith(prefix) and prefix != wanted.prefix:
            return one, several
    return _PHONES if _PHONE.fullmatch(value) else _OTHERS


def hint(value: str, wanted: Wanted) -> str:
    """Return what an unknown id looks like, as a hint; an empty str if there is nothing to say."""
    kind = kind_of(value, wanted)
    if kind is None or kind == _OTHERS:
        return ""
    return f" (it looks like {kind[0]}; ids of {wanted.owner} begin with {wanted.prefix})"


@attrs.define
class Lookalikes:
    """Counts the ids that look like something else, by what they look like.

    Attributes:
        wanted: What the ids should be.
        command: The command that takes them.
    """

    wanted: Wanted
    command: str = attrs.field(default="revoke", kw_only=True)
    _found: dict[tuple[str, str], tuple[int, str]] = attrs.field(
        factory=dict[tuple[str, str], tuple[int, str]]
    )

    def note(self, value: str) -> None:
        """Count this id if it looks like something else."""
        kind = kind_of(value, self.wanted)
        if kind is not None:
            count, example = self._found.get(kind, (0, value))
            self._found[kind] = count + 1, example

    @property
    def warnings(self) -> list[str]:
        """Warnings: how many ids look like what, with an example, and what to do instead."""
        warnings: list[str] = []
        for (one, several), (count, example) in sorted(self._found.items()):
            looks = f"looks like {one}" if count == 1 else f"look like {several}, such as"
            told = f"{looks}{':' if count == 1 else ''} {cell(redact(example))[:_LONGEST]}"
            warnings.append(f"{count:,} of the {self.wanted.name} {told}{self._advice(several)}")
        return warnings

    @property
    def examples(self) -> dict[tuple[str, str], str]:
        """One example of each kind."""
        return {kind: example for kind, (_, example) in self._found.items()}

    def drop(self, kind: tuple[str, str]) -> None:
        """Forget a kind, because the service knows such ids."""
        del self._found[kind]

    @property
    def has_strangers(self) -> bool:
        """Whether an id is clearly something else, rather than merely odd."""
        return any(kind != _OTHERS for kind in self._found)

    def _advice(self, kind: str) -> str:
        if kind == "user ids":
            command = "revoke-all" if self.command == "revoke" else self.command
            return f" ({command} --user takes users)"
        if kind == "session ids":
            return f" ({self.command} takes sessions)"
        return f" (ids of {self.wanted.owner} begin with {self.wanted.prefix})"
