"""What a session may do: permissions, features, plans, and when the user must reverify.

Pure functions of the claims. They agree with Clerk's JavaScript SDK (`authorization.ts` and
`jwtPayloadParser.ts` of `@clerk/shared`) except in a few deliberate cases, which
`tests/test_tokens_javascript.py` lists.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from clerk_async.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable

_ORG: Final = "org:"
_CLAIMED_SCOPES: Final = {"o": "o", "u": "u", "ou": "ou", "uo": "ou"}
_MOST_DIGITS: Final = 600  # below any limit that Python can be set to for reading integers
_OF_ORGANIZATIONS: Final = frozenset({"o", "ou", "uo"})
_ASKED_SCOPES: Final = {"o": "o", "org": "o", "organization": "o", "u": "u", "user": "u"}

_PRESETS: Final[Mapping[str, tuple[str, float]]] = {
    "strict_mfa": ("multi_factor", 10),
    "strict": ("second_factor", 10),
    "moderate": ("second_factor", 60),
    "lax": ("second_factor", 1440),
}
"""https://clerk.com/docs/guides/secure/reverification"""
_LEVELS: Final = frozenset({"first_factor", "second_factor", "multi_factor"})
_NEVER: Final = -1


def with_org(name: str) -> str:
    """Return the full name of a role or permission, such as `org:admin`.

    Raises:
        InvalidArgumentError: If `name` is not a str.
    """
    _check_text(name)
    while name.startswith(_ORG):
        name = name[len(_ORG) :]
    return f"{_ORG}{name}"


def _check_text(name: object) -> None:
    if not isinstance(name, str):
        raise InvalidArgumentError(f"a name must be a str, not {type(name).__name__}")


def granted_permissions(features: str, permissions: str, feature_map: str) -> list[str]:
    """Decode the permissions of a version 2 token.

    Each number in `feature_map` belongs to one feature. Its bits, least significant first, say
    which of `permissions` are granted. Clerk's documentation pairs the numbers with all `features`;
    its encoder may leave out features that the organization has no permissions for, and its
    JavaScript SDK pairs them with the organization's features only. The count decides: if there
    are as many numbers as features, they pair with all of them; if there are as many as the
    organization has features, with those. Otherwise the pairing is unknown and nothing is granted.
    An entry that is not a plain decimal number grants nothing.

    Source: https://clerk.com/docs/guides/sessions/session-tokens
    """
    entries = features.split(",") if features else []
    masks = feature_map.split(",")
    if len(masks) != len(entries):
        entries = [entry for entry in entries if entry.partition(":")[0] in _OF_ORGANIZATIONS]
        if len(masks) != len(entries):
            return []
    names = permissions.split(",")
    granted: list[str] = []
    for entry, digits in zip(entries, masks, strict=True):
        scope, _, feature = entry.partition(":")
        if scope not in _OF_ORGANIZATIONS or not feature:
            continue
        if not (digits.isdigit() and digits.isascii() and len(digits) <= _MOST_DIGITS):
            continue
        mask = int(digits)
        prefix = f"{_ORG}{feature}:"
        for name in names:
            if mask & 1 and name:
                granted.append(prefix + name)
            mask >>= 1
    return granted


def is_entitled(entries: Iterable[str], asked: str) -> bool:
    """Return whether a claim lists a feature or plan, as `o:pro` or `uo:export` do.

    Args:
        entries: The entries of the claim `fea` or `pla`.
        asked: A name, such as `export`, for the user's or the organization's; or a name with a
            scope, such as `org:export` or `user:export`. `organization` and `o` also mean `org`,
            and `u` means `user`.

    Raises:
        InvalidArgumentError: If `asked` is not a str.
    """
    _check_text(asked)
    scope, colon, name = asked.partition(":")
    wanted = _ASKED_SCOPES.get(scope) if colon else ""
    name = name if colon else asked
    if wanted is None or not name:
        return False
    for entry in entries:
        scopes, _, slug = entry.partition(":")
        if slug == name and scopes in _CLAIMED_SCOPES and wanted in _CLAIMED_SCOPES[scopes]:
            return True
    return False


def needs_reverification(ages: tuple[int, int] | None, reverification: object) -> bool:
    """Return whether factors of these ages, in minutes, are too old; see `SessionClaims`.

    Raises:
        InvalidArgumentError: If `reverification` is neither a preset nor a level with minutes.
    """
    level, minutes = _level_and_minutes(reverification)
    if ages is None or min(ages) < _NEVER:
        return True
    first, second = (age if age != _NEVER else None for age in ages)
    if second is None or level == "first_factor":
        return first is None or first >= minutes
    if level == "second_factor":
        return second >= minutes
    return first is None or max(first, second) >= minutes


def reverification_error(
    reverification: str | Mapping[str, str | float],
) -> dict[str, dict[str, Any]]:
    """Return the body of a 403 that makes Clerk's front end reverify the user and try again.

    If `SessionClaims.needs_reverification` returns True, send this body as JSON with status 403;
    `useReverification()` in Clerk's front-end SDKs does the rest.

    Example:
        >>> from clerk_async import reverification_error
        >>> reverification_error("strict")["clerk_error"]["reason"]
        'reverification-error'

    Args:
        reverification: As for `needs_reverification`.

    Raises:
        InvalidArgumentError: If it is neither a preset nor a level with minutes.

    Source: https://clerk.com/docs/guides/secure/reverification
    """
    _level_and_minutes(reverification)
    return {
        "clerk_error": {
            "type": "forbidden",
            "reason": "reverification-error",
            "metadata": {
                "reverification": reverification
                if isinstance(reverification, str)
                else dict(reverification)
            },
        }
    }


def _level_and_minutes(reverification: object) -> tuple[str, float]:
    if isinstance(reverification, str):
        preset = _PRESETS.get(reverification)
        if preset is None:
            raise InvalidArgumentError(
                f"reverification must be one of {', '.join(_PRESETS)}, or a mapping with level "
                "and afterMinutes"
            )
        return preset
    if not isinstance(reverification, Mapping):
        raise InvalidArgumentError(
            "reverification must be the name of a preset or a mapping with level and "
            f"afterMinutes, not {type(reverification).__name__}"
        )
    settings = cast("Mapping[object, object]", reverification)
    level, minutes = settings.get("level"), settings.get("afterMinutes")
    if set(settings) != {"level", "afterMinutes"} or not (
        isinstance(level, str) and level in _LEVELS
    ):
        raise InvalidArgumentError(
            f"reverification must have a level ({', '.join(sorted(_LEVELS))}) and afterMinutes, "
            "and nothing else"
        )
    if (
        isinstance(minutes, bool)
        or not isinstance(minutes, int | float)
        or not 0 < minutes < math.inf
    ):
        raise InvalidArgumentError("reverification: afterMinutes must be a number greater than 0")
    return level, minutes
