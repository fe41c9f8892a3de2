"""What claims allow: permissions, plans, features, roles, and when reverification is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from token_samples import OURS, Clock, claims, token

from clerk_async import InvalidArgumentError, TokenVerifier, reverification_error
from clerk_async.tokens.access import granted_permissions, is_entitled, needs_reverification

if TYPE_CHECKING:
    from clerk_async import SessionClaims

VERIFIER = TokenVerifier(jwt_key=OURS.public_pem, clock=Clock())


def verified(**changes: Any) -> SessionClaims:
    """Verify a token with these changes."""
    return VERIFIER.verify(token(claims(**changes)))


@pytest.mark.parametrize(
    ("features", "permissions", "feature_map", "granted"),
    [
        ("o:a", "read", "1", ["org:a:read"]),
        ("o:a,o:b", "x,y,z", "5,2", ["org:a:x", "org:a:z", "org:b:y"]),
        ("u:p,o:a", "read", "1,1", ["org:a:read"]),  # fpm has one entry for each entry of fea
        ("u:p,o:a", "read", "0,1", ["org:a:read"]),
        ("uo:a,ou:b", "read", "1,1", ["org:a:read", "org:b:read"]),
        ("u:a", "read", "1", []),
        ("o:a", "read", "-1", []),
        ("o:a", "read", "-3", []),
        ("o:a", "read", "254", []),
        ("o:a", "read", "255", ["org:a:read"]),
        ("o:a", "read", "x", []),
        ("o:a,o:b", "read", "x,1", ["org:b:read"]),
        ("o:a", "read", "1.0", []),
        ("o:a", "read", " 1", []),
        ("o:a", "read", "+1", []),
        ("o:a", "read", "0x1", []),
        ("o:a", "read", "1_1", []),
        ("o:a", "read", "\N{FULLWIDTH DIGIT ONE}", []),
        ("o:a", "read", "\N{SUPERSCRIPT ONE}", []),
        ("o:a", "read", "9" * 5000, []),
        # One number for each feature of the organization, not for each feature.
        ("u:basic,o:dashboard", "read", "1", ["org:dashboard:read"]),
        ("o:dashboard,u:basic", "read", "1", ["org:dashboard:read"]),
        ("u:x,o:a,u:y,uo:b,u:z", "x,y", "2,3", ["org:a:y", "org:b:x", "org:b:y"]),
        ("u:x,o:a,o:b", "read", "1,0", ["org:a:read"]),
        # The count fits neither, so the numbers can't be assigned.
        ("o:a", "read", "1,1,1", []),
        ("o:a,o:b", "read", "1", []),
        ("o:sso,o:dashboard,o:teams", "manage,read", "2,3", []),
        ("u:x,o:a,o:b", "read", "1", []),
        ("u:x,o:a,o:b", "read", "1,1,1,1", []),
        ("", "read", "1,1", []),
        ("u:a,u:b", "read", "1", []),
        # Scopes are whole words.
        ("foo:a", "read", "1", []),
        ("org:a", "read", "1", []),
        ("oo:a", "read", "1", []),
        ("a", "read", "1", []),
        ("o:", "read", "1", []),
        ("", "read", "1", []),
        ("o:a", "", "1", []),
        ("o:a", "read", "", []),
        ("o:a", ",read", "3", ["org:a:read"]),
        ("o:a:b", "read", "1", ["org:a:b:read"]),
    ],
)
def test_permission_bits_are_decoded(
    features: str, permissions: str, feature_map: str, granted: list[str]
) -> None:
    """Bits grant what they mean, and anything but a plain number grants nothing."""
    assert granted_permissions(features, permissions, feature_map) == granted


WORDS = st.text("abcxyz_", min_size=1, max_size=6)


@given(
    st.lists(
        st.tuples(st.sampled_from(["o", "u", "uo"]), WORDS, st.sets(st.integers(0, 5))), max_size=5
    ),
    st.lists(WORDS, min_size=1, max_size=6, unique=True),
)
def test_permissions_survive_encoding_and_decoding(
    features: list[tuple[str, str, set[int]]], names: list[str]
) -> None:
    """Encoding permissions as bits and decoding them yields those of the organization."""
    fea = ",".join(f"{scope}:{name}" for scope, name, _ in features)
    fpm = ",".join(str(sum(1 << bit for bit in bits)) for _, _, bits in features)
    expected = {
        f"org:{feature}:{names[bit]}"
        for scope, feature, bits in features
        for bit in bits
        if "o" in scope and bit < len(names)
    }
    assert set(granted_permissions(fea, ",".join(names), fpm)) == expected


@pytest.mark.promise("token-versions")
@given(
    st.lists(
        st.tuples(st.sampled_from(["o", "u", "uo"]), WORDS, st.sets(st.integers(0, 5))), max_size=5
    ),
    st.lists(WORDS, min_size=1, max_size=6, unique=True),
)
def test_permissions_without_entries_for_the_users_features_are_decoded(
    features: list[tuple[str, str, set[int]]], names: list[str]
) -> None:
    """They come from an encoder that writes no number for a user's features."""
    fea = ",".join(f"{scope}:{name}" for scope, name, _ in features)
    masks = [sum(1 << bit for bit in bits) for scope, _, bits in features if "o" in scope]
    if not masks:
        return
    expected = {
        f"org:{feature}:{names[bit]}"
        for scope, feature, bits in features
        for bit in bits
        if "o" in scope and bit < len(names)
    }
    assert set(granted_permissions(fea, ",".join(names), ",".join(map(str, masks)))) == expected


# --- plans, features and roles ---


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("pro", True),
        ("free", True),
        ("o:pro", True),
        ("org:pro", True),
        ("organization:pro", True),
        ("u:pro", False),
        ("user:pro", False),
        ("u:free", True),
        ("user:free", True),
        ("org:free", False),
        ("gold", False),
        ("", False),
        ("o:", False),
        (":pro", False),
        ("team:pro", False),
        ("uo:pro", False),
        ("PRO", False),
        ("u:free,o:pro", False),
    ],
)
def test_has_plan_checks_user_and_organization_plans(asked: str, answer: bool) -> None:
    """A token may have a user's and an organization's plan; each is asked for by name."""
    assert verified(pla="u:free,o:pro").has_plan(asked) is answer


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("export", True),
        ("o:export", True),
        ("u:export", True),
        ("org:export", True),
        ("user:export", True),
        ("dashboard", True),
        ("org:dashboard", True),
        ("user:dashboard", False),
        ("beta", True),
        ("org:beta", False),
        ("user:beta", True),
        ("both", True),
        ("org:both", True),
        ("user:both", True),
        ("exp", False),
        ("strange", False),
        ("x:strange", False),
        ("bare", False),
    ],
)
def test_has_feature_checks_both_scopes(asked: str, answer: bool) -> None:
    """A feature of both scopes counts for each, and an unknown scope for none."""
    told = verified(fea="o:dashboard,uo:export,ou:both,u:beta,x:strange,bare")
    assert told.has_feature(asked) is answer


def test_without_grants_every_question_is_answered_no() -> None:
    """Without plans, features or an organization."""
    told = verified()
    assert not told.has_plan("pro")
    assert not told.has_feature("export")
    assert not told.has_role("admin")
    assert not told.has_permission("org:a:b")


@pytest.mark.parametrize("spelled", ["admin", "org:admin"])
@pytest.mark.parametrize(
    "organization",
    [
        {"o": {"id": "org_1", "rol": "admin"}},
        {"v": 1, "org_id": "org_1", "org_role": "admin"},
        {"v": 1, "org_id": "org_1", "org_role": "org:admin"},
    ],
)
def test_a_role_may_be_given_in_short_form(spelled: str, organization: dict[str, Any]) -> None:
    """`admin` is `org:admin`, in both versions of the token."""
    told = verified(**organization)
    assert told.has_role(spelled)
    assert not told.has_role("member")
    assert not told.has_role("")


def test_a_permission_may_be_given_in_short_form() -> None:
    """`teams:read` is `org:teams:read`."""
    told = verified(fea="o:teams", o={"id": "org_1", "per": "read", "fpm": "1"})
    assert told.has_permission("org:teams:read")
    assert told.has_permission("teams:read")
    assert not told.has_permission("read")


def test_an_organization_without_a_role_matches_no_role() -> None:
    """No argument matches a role that is not there."""
    told = verified(o={"id": "org_1"})
    assert not any(told.has_role(role) for role in ("", "org:", "admin"))


@pytest.mark.parametrize("wrong", [None, 5, b"pro", ["pro"]])
def test_an_invalid_name_raises(wrong: Any) -> None:
    """A mistake in the program is reported as one, not as a missing permission."""
    told = verified(
        pla="o:pro", fea="o:teams", o={"id": "org_1", "rol": "admin", "per": "read", "fpm": "1"}
    )
    for ask in (told.has_plan, told.has_feature, told.has_role, told.has_permission):
        with pytest.raises(InvalidArgumentError, match="must be a str"):
            ask(wrong)


@given(st.lists(st.text("ou:ab,", max_size=5), max_size=5), st.text("ou:ab,", max_size=6))
def test_any_question_gets_an_answer(entries: list[str], asked: str) -> None:
    """Whatever the claims and the question, the answer is yes only for real grants."""
    if is_entitled(entries, asked):
        name = asked.partition(":")[2] or asked
        assert any(entry.partition(":")[2] == name for entry in entries)


# --- reverification ---

FIRST, SECOND, MULTI = "first_factor", "second_factor", "multi_factor"


@pytest.mark.parametrize(
    ("ages", "preset", "needed"),
    [
        ((0, -1), "strict", False),  # without a second factor the first one counts
        ((9, -1), "strict", False),
        ((10, -1), "strict", True),  # fresh means younger than the limit
        ((11, -1), "strict", True),
        ((-1, -1), "strict", True),
        ((-1, 3), "strict", False),
        ((100, 9), "strict", False),
        ((0, 10), "strict", True),
        ((9, 9), "strict_mfa", False),
        ((9, 10), "strict_mfa", True),
        ((10, 9), "strict_mfa", True),
        ((9, -1), "strict_mfa", False),
        ((-1, 9), "strict_mfa", True),
        ((59, -1), "moderate", False),
        ((60, -1), "moderate", True),
        ((0, 59), "moderate", False),
        ((0, 60), "moderate", True),
        ((1439, -1), "lax", False),
        ((1440, -1), "lax", True),
        ((-1, -1), "lax", True),
        ((-5, 0), "lax", True),  # no age at all
        ((0, -2), "lax", True),
        ((5, 99), {"level": FIRST, "afterMinutes": 6}, False),
        ((6, 1), {"level": FIRST, "afterMinutes": 6}, True),
        ((-1, 1), {"level": FIRST, "afterMinutes": 6}, True),
        ((99, 5), {"level": SECOND, "afterMinutes": 5.5}, False),
        ((5, 6), {"level": MULTI, "afterMinutes": 6}, True),
    ],
)
@pytest.mark.promise("step-up")
def test_when_a_user_must_reverify(
    ages: tuple[int, int], preset: str | dict[str, Any], needed: bool
) -> None:
    """By level and minutes, as presets or custom; unknown ages need reverification."""
    assert verified(fva=list(ages)).needs_reverification(preset) is needed


@pytest.mark.parametrize("fva", [None, [], [1], [1, 2, 3], ["1", 2], [True, 1], [0.5, 1], "1,2"])
def test_a_token_without_factor_ages_needs_reverification(fva: Any) -> None:
    """Nothing unreadable counts as fresh."""
    assert verified(fva=fva).needs_reverification("lax")


@pytest.mark.parametrize(
    "wrong",
    [
        "stricter",
        "",
        "STRICT",
        None,
        10,
        ["strict"],
        {},
        {"level": SECOND},
        {"afterMinutes": 10},
        {"level": "third_factor", "afterMinutes": 10},
        {"level": ["second_factor"], "afterMinutes": 10},
        {"level": SECOND, "afterMinutes": 0},
        {"level": SECOND, "afterMinutes": -1},
        {"level": SECOND, "afterMinutes": True},
        {"level": SECOND, "afterMinutes": "10"},
        {"level": SECOND, "afterMinutes": float("nan")},
        {"level": SECOND, "afterMinutes": float("inf")},
        {"level": SECOND, "after_minutes": 10},
        {"level": SECOND, "afterMinutes": 10, "after": 1},
    ],
)
def test_an_unknown_preset_raises(wrong: Any) -> None:
    """A misspelt preset would otherwise ask never, or always."""
    for fva in ([0, 0], [999, 999], None):
        with pytest.raises(InvalidArgumentError, match="reverification"):
            verified(fva=fva).needs_reverification(wrong)
    with pytest.raises(InvalidArgumentError, match="reverification"):
        reverification_error(wrong)


@pytest.mark.parametrize("wanted", ["strict_mfa", "lax", {"level": MULTI, "afterMinutes": 30}])
def test_the_reverification_response_body_is_clerks(wanted: Any) -> None:
    """The module and the claims return the same body; a mapping is copied."""
    body = reverification_error(wanted)
    assert body == {
        "clerk_error": {
            "type": "forbidden",
            "reason": "reverification-error",
            "metadata": {"reverification": wanted},
        }
    }
    assert verified().reverification_error(wanted) == body
    assert body["clerk_error"]["metadata"]["reverification"] is not wanted or wanted is str(wanted)


@given(st.tuples(st.integers(-1, 100), st.integers(-1, 100)), st.integers(1, 99))
def test_a_longer_limit_never_asks_more(ages: tuple[int, int], minutes: int) -> None:
    """Ages within a limit are within each longer one, and multi_factor is the strictest."""
    for level in (FIRST, SECOND, MULTI):
        needed = needs_reverification(ages, {"level": level, "afterMinutes": minutes})
        assert needed or not needs_reverification(
            ages, {"level": level, "afterMinutes": minutes + 1}
        )
    if not needs_reverification(ages, {"level": MULTI, "afterMinutes": minutes}):
        assert not needs_reverification(ages, {"level": SECOND, "afterMinutes": minutes})
