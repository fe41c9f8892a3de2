"""Which tokens sign a browser in: their kind, the cookies beside them, their authorized party."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

import pytest
from token_samples import (
    GONE,
    ISSUER,
    NOW,
    OTHER,
    OURS,
    PARTY,
    AsyncStub,
    Clock,
    SyncStub,
    claims,
    header,
    token,
)

from clerk_async import (
    AsyncTokenVerifier,
    ConfigurationError,
    InvalidArgumentError,
    TokenVerificationError,
    TokenVerifier,
)
from clerk_async import TokenVerificationReason as Reason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from clerk_async import RequestState

SESSION, TEMPLATE, MACHINE, NEUTRAL = (
    "cl_B7d4PD111AAA",
    "cl_B7d4PD222AAA",
    "cl_B7d4PD333AAA",
    "cl_I7d4PD111III",
)
HOST = {"host": "app.example.com"}
GOOD = token()
TEMPLATE_TOKEN = token(claims(sid=None), head=header(cat=TEMPLATE))
EXPIRED_AT = {"exp": NOW - 60, "iat": NOW - 120, "nbf": NOW - 130}


def verifier_of(stub: SyncStub | None = None, **settings: Any) -> TokenVerifier:
    """Make a verifier that accepts only PARTY."""
    settings = {"authorized_parties": [PARTY], "clock": Clock(), **settings}
    if stub is not None:
        return TokenVerifier(sessions=stub, **settings)
    return TokenVerifier(jwt_key=OURS.jwk, **settings)


def bearer(made: str) -> dict[str, str]:
    """Make an Authorization header."""
    return {"authorization": f"Bearer {made}"}


def cookies(*pairs: str) -> dict[str, str]:
    """Make a Cookie header."""
    return {**HOST, "cookie": "; ".join(pairs)}


def session_cookie(made: str) -> dict[str, str]:
    """Make a Cookie header with only the token."""
    return cookies(f"__session={made}")


def bare(made: str) -> dict[str, str]:
    """Make an Authorization header without a scheme."""
    return {"authorization": made}


def signed_out(state: RequestState) -> Reason | None:
    """Return the reason of a state that signs nobody in."""
    assert (state.status, state.token, state.claims) == ("signed_out", None, None)
    return state.reason


# --- kinds of tokens ---

TEMPLATE_CLAIMS = dict.fromkeys(("azp", "fva", "sid", "sts", "v"), GONE)
OTHER_KINDS: dict[str, str] = {
    "template": token(claims(**TEMPLATE_CLAIMS), head=header(cat=TEMPLATE)),
    "template with azp": token(
        claims(**{**TEMPLATE_CLAIMS, "azp": PARTY}), head=header(cat=TEMPLATE)
    ),
    "template that holds a sid": token(head=header(cat=TEMPLATE)),
    "template that lives for years": token(
        claims(**TEMPLATE_CLAIMS, exp=NOW + 10**8), head=header(cat=TEMPLATE)
    ),
    "expired template": token(
        claims(**{**TEMPLATE_CLAIMS, **EXPIRED_AT}), head=header(cat=TEMPLATE)
    ),
    "template without a category": token(claims(**TEMPLATE_CLAIMS), head=header(cat=GONE)),
    "template of a neutral category": token(claims(**TEMPLATE_CLAIMS), head=header(cat=NEUTRAL)),
    "session's category, no sid": token(claims(sid=GONE)),
    "sid null": token(claims(sid=None)),
    "sid empty": token(claims(sid="")),
    "machine": token(head=header(cat=MACHINE)),
    "machine's subject": token(claims(sub="mch_1")),
    "OAuth access token": token(head=header(typ="at+jwt")),
    "category of tomorrow": token(head=header(cat="cl_B7d4PD444AAA")),
    "category in lower case": token(head=header(cat=SESSION.lower())),
    "category empty": token(head=header(cat="")),
    "category null": token(head=header(cat=None)),
    "category a number": token(head=header(cat=1)),
    "category a list": token(head=header(cat=[SESSION])),
}


@pytest.mark.promise("token-kinds")
@pytest.mark.parametrize("place", [bearer, session_cookie])
@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_no_other_kind_of_token_signs_in(kind: str, place: Callable[[str], dict[str, str]]) -> None:
    """One key signs all kinds: the category and the session id distinguish them."""
    all_settings: list[dict[str, Any]] = [
        {},
        {"allow_missing_azp": True},
        {"authorized_parties": None},
    ]
    for settings in all_settings:
        state = verifier_of(**settings).authenticate_request(place(OTHER_KINDS[kind]))
        assert signed_out(state) is Reason.TOKEN_TYPE_MISMATCH


@pytest.mark.parametrize("category", [SESSION, NEUTRAL, GONE])
def test_session_tokens_of_each_category_sign_in(category: Any) -> None:
    """Older tokens have no category, and some instances give all tokens the same one."""
    made = token(head=header(cat=category))
    verifier = verifier_of()
    assert verifier.authenticate_request(bearer(made)).is_signed_in
    assert verifier.authenticate_request(cookies(f"__session={made}")).is_signed_in


def test_only_verify_accepts_template_tokens() -> None:
    """In a request, a template token signs nobody in, even if `verify` has cached it."""
    verifier = verifier_of(allow_missing_azp=True)
    made = OTHER_KINDS["template"]
    for _ in range(2):
        assert verifier.verify(made).session_id is None
        state = verifier.authenticate_request(bearer(made))
        assert signed_out(state) is Reason.TOKEN_TYPE_MISMATCH
    assert verifier.key_status().cached_tokens == 1


@pytest.mark.parametrize("kind", ["machine", "machine's subject", "OAuth access token"])
def test_verify_rejects_machine_tokens(kind: str) -> None:
    """A machine is not a user."""
    with pytest.raises(TokenVerificationError) as caught:
        verifier_of().verify(OTHER_KINDS[kind])
    assert caught.value.reason is Reason.TOKEN_TYPE_MISMATCH


def test_no_other_kind_of_token_is_refreshed() -> None:
    """An expired template token is not exchanged for a session token."""
    stub = SyncStub()
    request = cookies(f"__session={OTHER_KINDS['expired template']}", "__refresh=r1")
    state = verifier_of(stub).authenticate_request(request, refresh_if_expired=True)
    assert signed_out(state) is Reason.TOKEN_TYPE_MISMATCH
    assert not stub.refreshes


def test_a_refresh_that_returns_another_kind_signs_nobody_in() -> None:
    """The returned token is checked like the one in the request."""
    stub = SyncStub(cookies=(f"__session={OTHER_KINDS['template that holds a sid']}",))
    request = cookies(f"__session={token(claims(**EXPIRED_AT))}", "__refresh=r1")
    state = verifier_of(stub).authenticate_request(request, refresh_if_expired=True)
    assert signed_out(state) is Reason.TOKEN_TYPE_MISMATCH


def test_a_session_cookie_beside_a_template_token_signs_in() -> None:
    """The first cookie with a session token counts."""
    request = cookies(f"__session={OTHER_KINDS['template']}", f"__session_abcdefgh={GOOD}")
    assert verifier_of().authenticate_request(request).token == GOOD


# --- __client_uat ---

UAT: dict[str, tuple[list[str], Reason | None]] = {
    "as old as the token": ([f"__client_uat={NOW}"], None),
    "older": ([f"__client_uat={NOW - 1}"], None),
    "zero": (["__client_uat=0"], Reason.SESSION_TOKEN_WITHOUT_CLIENT_UAT),
    "zeros": (["__client_uat=000"], Reason.SESSION_TOKEN_WITHOUT_CLIENT_UAT),
    "zero, quoted": (['__client_uat="0"'], Reason.SESSION_TOKEN_WITHOUT_CLIENT_UAT),
    "later": ([f"__client_uat={NOW + 1}"], Reason.SESSION_TOKEN_IAT_BEFORE_CLIENT_UAT),
    "much later": (["__client_uat=" + "9" * 30], Reason.SESSION_TOKEN_IAT_BEFORE_CLIENT_UAT),
    "empty": (["__client_uat="], None),
    "no number": (["__client_uat=abc"], None),
    "negative": (["__client_uat=-1"], None),
    "other digits": (["__client_uat=\N{ARABIC-INDIC DIGIT ZERO}"], None),
    "a suffixed one does not count for a plain token": (["__client_uat_abcdefgh=0"], None),
    "the first of two": ([f"__client_uat={NOW}", "__client_uat=0"], None),
    "of another name": (["client_uat=0", "x__client_uat=0", "__client_uat2=0"], None),
    "within another cookie": (["a=__client_uat=0", "b= __client_uat=0"], None),
}


@pytest.mark.promise("client-uat")
@pytest.mark.parametrize("case", UAT)
def test_client_uat_decides_whether_a_token_is_stale(case: str) -> None:
    """0 means signed out, a later time means a new sign-in; absent or unreadable is ignored."""
    others, reason = UAT[case]
    for pairs in ([f"__session={GOOD}", *others], [*others, f"__session={GOOD}"]):
        state = verifier_of().authenticate_request(cookies(*pairs))
        assert state.reason is reason
        assert state.is_signed_in is (reason is None)


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        (["__client_uat_abcdefgh=0"], Reason.SESSION_TOKEN_WITHOUT_CLIENT_UAT),
        (
            ["__client_uat=0"],
            Reason.SESSION_TOKEN_WITHOUT_CLIENT_UAT,
        ),  # the only one
        ([f"__client_uat_abcdefgh={NOW}", "__client_uat=0"], None),
        (
            ["__client_uat_abcdefgh=0", f"__client_uat={NOW}"],
            Reason.SESSION_TOKEN_WITHOUT_CLIENT_UAT,
        ),
        (["__client_uat_zzzzzzzz=0"], None),
        (["__client_uat_abcdefgh=abc", "__client_uat=0"], Reason.SESSION_TOKEN_WITHOUT_CLIENT_UAT),
    ],
)
def test_the_client_uat_with_the_same_suffix_wins(others: list[str], reason: Reason | None) -> None:
    """Several instances may share a domain."""
    state = verifier_of().authenticate_request(cookies(f"__session_abcdefgh={GOOD}", *others))
    assert state.reason is reason


def test_each_session_cookie_has_its_own_client_uat() -> None:
    """A plain cookie that was signed out doesn't affect a suffixed one."""
    newer = token(claims(jti="suffixed"))
    request = cookies(
        f"__session={GOOD}",
        "__client_uat=0",
        f"__session_abcdefgh={newer}",
        f"__client_uat_abcdefgh={NOW}",
    )
    assert verifier_of().authenticate_request(request).token == newer


def test_client_uat_does_not_apply_to_bearer_tokens() -> None:
    """Cookies have no effect on a token in the Authorization header, or on `verify`."""
    verifier = verifier_of()
    assert verifier.authenticate_request({**cookies("__client_uat=0"), **bearer(GOOD)}).is_signed_in
    assert verifier.verify(GOOD)


def test_a_signed_out_browser_is_never_refreshed() -> None:
    """Not even with an expired token; and its key is not even fetched."""
    stub = SyncStub()
    for made in (GOOD, token(claims(**EXPIRED_AT)), token(key=OTHER), "junk"):
        request = cookies(f"__session={made}", "__refresh=r1", "__client_uat=0")
        state = verifier_of(stub).authenticate_request(request, refresh_if_expired=True)
        assert signed_out(state) is Reason.SESSION_TOKEN_WITHOUT_CLIENT_UAT
    assert (stub.refreshes, stub.fetches) == ([], 0)


def test_a_refresh_replaces_a_token_from_before_the_sign_in() -> None:
    """The new token counts; without a refresh cookie the old one stays rejected."""
    new = token(claims(jti="new"))
    stub = SyncStub(cookies=(f"__session={new}", "__client_uat=5"))
    pairs = [f"__session={token(claims(iat=NOW - 30))}", f"__client_uat={NOW}"]
    state = verifier_of(stub).authenticate_request(
        cookies(*pairs, "__refresh=r1"), refresh_if_expired=True
    )
    assert (state.status, state.token) == ("signed_in", new)
    state = verifier_of(stub).authenticate_request(cookies(*pairs), refresh_if_expired=True)
    assert signed_out(state) is Reason.SESSION_TOKEN_IAT_BEFORE_CLIENT_UAT
    assert len(stub.refreshes) == 1


def test_a_token_without_iat_is_rejected_only_by_client_uat_0() -> None:
    """It can't be compared with any other time."""
    made = token(claims(iat=GONE))
    request = cookies(f"__session={made}", f"__client_uat={NOW + 9}")
    assert verifier_of().authenticate_request(request).is_signed_in


# --- authorized parties ---

AZP_LESS, FOREIGN = token(claims(azp=GONE)), token(claims(azp="https://evil.example"))


@pytest.mark.promise("missing-azp")
@pytest.mark.parametrize("place", [bearer, session_cookie])
def test_a_missing_azp_is_rejected_unless_it_is_allowed(
    place: Callable[[str], dict[str, str]],
) -> None:
    """A foreign one is always rejected, in requests and by `verify`."""
    strict, lenient = verifier_of(), verifier_of(allow_missing_azp=True)
    reason = Reason.TOKEN_INVALID_AUTHORIZED_PARTIES
    refused = strict.authenticate_request(place(AZP_LESS))
    assert signed_out(refused) is reason
    assert "allow_missing_azp" in str(refused.message)
    for _ in range(2):  # cached, too
        assert lenient.authenticate_request(place(AZP_LESS)).is_signed_in
        assert lenient.verify(AZP_LESS).authorized_party is None
        for verifier in (strict, lenient):
            for made in (FOREIGN, token(claims(azp=""))):
                assert signed_out(verifier.authenticate_request(place(made))) is reason
                with pytest.raises(TokenVerificationError):
                    verifier.verify(made)
    with pytest.raises(TokenVerificationError):
        strict.verify(AZP_LESS)


@pytest.mark.parametrize("party", [GONE, "https://evil.example", PARTY])
@pytest.mark.parametrize("status", ["active", "pending"])
def test_expiry_is_checked_first(party: Any, status: str) -> None:
    """The reason is then the true one, whatever else is wrong with a token."""
    made = token(claims(azp=party, sts=status, **EXPIRED_AT))
    verifier = verifier_of()
    assert signed_out(verifier.authenticate_request(bearer(made))) is Reason.TOKEN_EXPIRED
    with pytest.raises(TokenVerificationError) as caught:
        verifier.verify(made)
    assert caught.value.reason is Reason.TOKEN_EXPIRED


@pytest.mark.parametrize(
    ("party", "refreshes"), [(GONE, 1), (None, 1), (PARTY, 1), ("https://evil.example", 0), ("", 0)]
)
def test_an_expired_token_without_azp_is_refreshed_and_a_foreign_one_is_not(
    party: Any, refreshes: int
) -> None:
    """A foreign one was leaked from elsewhere; one without azp may get it with its refresh."""
    new = token(claims(jti="new"))
    stub = SyncStub(cookies=(f"__session={new}",))
    request = cookies(f"__session={token(claims(azp=party, **EXPIRED_AT))}", "__refresh=r1")
    state = verifier_of(stub).authenticate_request(request, refresh_if_expired=True)
    assert len(stub.refreshes) == refreshes
    assert state.is_signed_in is bool(refreshes)
    assert state.reason is (None if refreshes else Reason.TOKEN_EXPIRED)


def test_authorized_parties_may_be_a_function() -> None:
    """It is called each time, even for a cached token, and never without an origin."""
    asked: list[str] = []
    accepted = {PARTY}

    def is_ours(origin: str) -> bool:
        asked.append(origin)
        return origin in accepted

    verifier = verifier_of(authorized_parties=is_ours)
    assert verifier.verify(GOOD)
    assert verifier.authenticate_request(bearer(GOOD)).is_signed_in
    accepted.clear()
    with pytest.raises(TokenVerificationError) as caught:
        verifier.verify(GOOD)
    assert caught.value.reason is Reason.TOKEN_INVALID_AUTHORIZED_PARTIES
    for party in (GONE, 5, [PARTY]):
        with pytest.raises(TokenVerificationError):
            verifier.verify(token(claims(azp=party)))
    assert asked == [PARTY] * 3


class AsyncCallable:
    async def __call__(self, origin: str) -> bool:
        return bool(origin)


async def _coroutine(origin: str) -> bool:
    return bool(origin)


@pytest.mark.parametrize("verifier", [TokenVerifier, AsyncTokenVerifier])
@pytest.mark.parametrize("wrong", [_coroutine, AsyncCallable(), str, bool])
def test_a_function_that_would_accept_everything_is_rejected(verifier: Any, wrong: Any) -> None:
    """A coroutine is truthy, and so is an instance of a class."""
    with pytest.raises(ConfigurationError, match="authorized_parties"):
        verifier(jwt_key=OURS.jwk, authorized_parties=wrong)


def test_a_function_that_returns_a_coroutine_accepts_nobody() -> None:
    """It is detected at the first token."""

    def hidden(origin: str) -> object:
        return _coroutine(origin)

    verifier = verifier_of(authorized_parties=hidden)
    with pytest.raises(ConfigurationError, match="coroutine"):
        verifier.verify(GOOD)
    with pytest.raises(ConfigurationError, match="coroutine"):
        verifier.authenticate_request(bearer(GOOD))


def test_a_generator_function_accepts_nobody() -> None:
    """A generator is truthy too, whatever it would yield."""

    def yields(_: str) -> Iterator[bool]:
        yield False

    async def yields_later(_: str) -> AsyncIterator[bool]:
        yield False

    for wrong in (yields, yields_later):
        with pytest.raises(ConfigurationError, match="generator"):
            verifier_of(authorized_parties=wrong).verify(GOOD)


@pytest.mark.parametrize("name", ["accept_pending", "allow_missing_azp", "check_denials"])
@pytest.mark.parametrize("verifier", [TokenVerifier, AsyncTokenVerifier])
def test_a_flag_that_is_not_a_bool_is_rejected(verifier: Any, name: str) -> None:
    """The text "false", from an environment variable, would count as true."""
    with pytest.raises(ConfigurationError, match=f"{name} must be True or False"):
        verifier(jwt_key=OURS.jwk, authorized_parties=[PARTY], **{name: "false"})


async def test_an_option_of_a_call_that_is_not_a_bool_is_rejected() -> None:
    """Before anything is checked, in both verifiers."""
    pending, wrong = token(claims(sts="pending")), cast("Any", "false")
    verifier = verifier_of(SyncStub())
    with pytest.raises(InvalidArgumentError, match="accept_pending"):
        verifier.verify(pending, accept_pending=wrong)
    with pytest.raises(InvalidArgumentError, match="accept_pending"):
        verifier.verify(pending, check_session=True, accept_pending=wrong)
    other = AsyncTokenVerifier(jwt_key=OURS.jwk, authorized_parties=[PARTY], clock=Clock())
    with pytest.raises(InvalidArgumentError, match="accept_pending"):
        await other.verify(pending, accept_pending=wrong)
    with pytest.raises(InvalidArgumentError, match="accept_pending"):
        await other.authenticate_request(bearer(pending), accept_pending=wrong)
    with pytest.raises(InvalidArgumentError, match="refresh_if_expired"):
        verifier.authenticate_request(bearer(pending), refresh_if_expired=wrong)


# --- issuers ---


def test_tokens_may_come_from_several_issuers() -> None:
    """Each satellite domain has its own; a trailing slash makes no difference."""
    satellite = "https://clerk.satellite.example"
    verifier = verifier_of(issuer=[ISSUER, f"{satellite}/"])
    assert verifier.verify(GOOD)
    assert verifier.verify(token(claims(iss=satellite))).issuer == satellite
    for issuer in ("https://clerk.evil.example", GONE, [ISSUER], f"{ISSUER}, {satellite}"):
        with pytest.raises(TokenVerificationError) as caught:
            verifier.verify(token(claims(iss=issuer)))
        assert caught.value.reason is Reason.TOKEN_INVALID_ISSUER


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        "",
        (),
        [""],
        ["clerk.example.com"],
        [ISSUER, 5],
        5,
        b"https://a",
        {ISSUER, "https://b.c"},
    ],
)
def test_unusable_issuers_are_rejected(wrong: Any) -> None:
    """An empty list would otherwise mean that nobody, or everybody, may issue tokens."""
    with pytest.raises(ConfigurationError, match="issuer"):
        TokenVerifier(issuer=wrong, jwt_key=OURS.jwk, authorized_parties=[PARTY])


# --- pending sessions ---


@pytest.mark.promise("pending")
def test_pending_sessions_are_accepted_by_setting_or_by_call() -> None:
    """The call's argument overrides the verifier's, in requests and in `verify`."""
    made = token(claims(sts="pending"))
    for setting in (False, True):
        verifier = verifier_of(accept_pending=setting)
        for asked in (None, False, True, None):
            let_in = setting if asked is None else asked
            state = verifier.authenticate_request(bearer(made), accept_pending=asked)
            assert state.is_signed_in is let_in
            if let_in:
                assert state.pending_claims is None
                assert verifier.verify(made, accept_pending=asked).status == "pending"
            else:
                assert (state.reason, state.claims) == (Reason.SESSION_PENDING, None)
                assert state.pending_claims is not None
                assert state.pending_claims.user_id == "user_1"
                with pytest.raises(TokenVerificationError) as caught:
                    verifier.verify(made, accept_pending=asked)
                assert caught.value.reason is Reason.SESSION_PENDING


@pytest.mark.parametrize(
    "made",
    [
        GOOD,
        FOREIGN,
        token(claims(sts="pending", **EXPIRED_AT)),
        token(claims(sts="pending", azp="https://evil.example")),
        token(claims(sts="pending"), key=OTHER, head=header(OTHER, kid=OURS.kid)),
        token(claims(sts="pending"), head=header(cat=TEMPLATE)),
    ],
)
def test_only_a_pending_session_has_pending_claims(made: str) -> None:
    """A token that is rejected for another reason reveals nothing about its user."""
    assert verifier_of().authenticate_request(bearer(made)).pending_claims is None


@pytest.mark.parametrize("first", [token(key=OTHER, head=header()), "junk", TEMPLATE_TOKEN])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_pending_session_is_named_beside_a_foreign_cookie(first: str, is_first: bool) -> None:
    """Of several rejected tokens, a genuine one decides: the app can show the tasks."""
    pairs = [f"__session={first}", f"__session_abcdefgh={token(claims(sts='pending'))}"]
    state = verifier_of().authenticate_request(cookies(*(pairs if is_first else pairs[::-1])))
    assert state.reason is Reason.SESSION_PENDING
    assert state.pending_claims is not None


def test_a_session_found_pending_at_the_service_has_them_too() -> None:
    """`check_session` sees it, and accepts it if that is requested."""
    verifier = verifier_of(SyncStub(sessions={"sess_1": "pending"}))
    state = verifier.authenticate_request(bearer(GOOD), check_session=True)
    assert (state.reason, state.claims) == (Reason.SESSION_PENDING, None)
    assert state.pending_claims is not None
    state = verifier.authenticate_request(bearer(GOOD), check_session=True, accept_pending=True)
    assert state.is_signed_in
    assert verifier.verify(GOOD, check_session=True, accept_pending=True)
    with pytest.raises(TokenVerificationError):
        verifier.verify(GOOD, check_session=True)


# --- mistakes ---


@pytest.mark.parametrize("key", ["sk_test_abc0123456789", "sk_live_abc0123456789"])
@pytest.mark.parametrize("place", [bearer, bare])
def test_a_secret_key_in_place_of_a_token_is_named_and_not_shown(
    key: str, place: Callable[[str], dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    """The message says what was pasted, without the key."""
    caplog.set_level(logging.DEBUG)
    state = verifier_of().authenticate_request(place(key))
    assert state.status == "signed_out"
    assert "secret key" in str(state.message)
    assert "abc0123456789" not in f"{state!r}{state.message}{state.error!r}{caplog.text}"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (GOOD, "without a scheme"),
        ("undefined", "without a scheme"),
        ("Bearer", "but no token"),
        ("Bearer ", "but no token"),
        ("Basic dTpw", "a scheme other than Bearer"),
        (f"Token {GOOD}", "a scheme other than Bearer"),
        ("", "neither"),
        (None, "neither"),
    ],
)
def test_a_wrong_authorization_header_is_explained(value: Any, told: str) -> None:
    """None of it is shown."""
    state = verifier_of().authenticate_request({"authorization": value})
    assert signed_out(state) is Reason.SESSION_TOKEN_MISSING
    assert told in str(state.message)
    assert "eyJ" not in str(state.message)


# --- counts and log lines ---


async def test_verifications_are_counted_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each rejection is one DEBUG line with its reason; each call counts once."""
    caplog.set_level(logging.DEBUG, "clerk_async.tokens")
    stub = AsyncStub()
    verifier = AsyncTokenVerifier(sessions=stub, authorized_parties=[PARTY], clock=Clock())
    await verifier.verify(GOOD)
    await verifier.verify(GOOD)
    await verifier.authenticate_request(bearer(GOOD))
    with pytest.raises(TokenVerificationError):
        await verifier.verify(FOREIGN)
    await verifier.authenticate_request(bearer(FOREIGN))
    await verifier.authenticate_request({})
    await verifier.authenticate_request(cookies("__session=junk", f"__session={token(key=OTHER)}"))
    stub.sessions = {}
    with pytest.raises(TokenVerificationError):
        await verifier.verify(GOOD, check_session=True)
    await verifier.authenticate_request(bearer(GOOD), check_session=True)
    status = verifier.key_status()
    assert status.accepted == 3
    assert status.refused == {
        "token-invalid-authorized-parties": 2,
        "session-token-missing": 1,
        "token-invalid": 1,
        "session-inactive": 2,
    }
    lines = [record.getMessage() for record in caplog.records if record.levelname == "DEBUG"]
    assert len(lines) == 6
    for reason, count in status.refused.items():
        assert sum(line.startswith(f"refused: {reason}: ") for line in lines) == count
    assert "eyJ" not in caplog.text


def test_unknown_tokens_are_counted_too() -> None:
    """Both methods and both kinds of verifier count the same."""
    stub = SyncStub()
    stub.goes_down()
    verifier = verifier_of(stub)
    with pytest.raises(TokenVerificationError):
        verifier.verify(GOOD)
    assert verifier.authenticate_request(bearer(GOOD)).status == "unknown"
    assert verifier.key_status().refused == {"jwk-failed-to-load": 2}
    assert verifier.key_status().accepted == 0


def test_a_status_is_a_copy() -> None:
    """Changes by a health page have no effect."""
    verifier = verifier_of()
    verifier.authenticate_request({})
    before: Any = verifier.key_status().refused
    before.clear()
    assert verifier.key_status().refused == {"session-token-missing": 1}
    assert hash(verifier.key_status()) is not None
