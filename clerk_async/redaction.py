"""Hides whatever is shaped like a secret: keys, tokens, cookies."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

REDACTED = "[redacted]"
_SHORTEST_SECRET = 4  # what is shorter hides nothing, and stands in the middle of plain words

# None gives back what it has read, nor begins amid a word where it could fail: linear time, always.
_KEY = re.compile(r"sk_(?:live|test)_[^\s\"'<>,;&]++")
_DOTTED = re.compile(r"(?<![\w-])[\w-]++(?:\.[\w-]*+)++")
_ASSIGNED = re.compile(r"(?<!\w)\w++=[^\s\"'<>,;&]++")
_COOKIE = re.compile(r"__(?:session|refresh|client)\w{0,64}=")


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Replace in `text` each of `secrets`, and whatever is shaped like a key, token or cookie."""
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, REDACTED)
    text = _KEY.sub(REDACTED, text)
    return _ASSIGNED.sub(_without_cookie, _DOTTED.sub(_without_token, text))


def _without_token(words: re.Match[str]) -> str:
    before, found, _ = words[0].partition("eyJ")  # what a JSON web token begins with
    return before + REDACTED if found else before


def _without_cookie(words: re.Match[str]) -> str:
    cookie = _COOKIE.search(words[0])
    return words[0] if cookie is None else words[0][: cookie.start()] + REDACTED
