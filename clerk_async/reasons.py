"""Why a session token was not accepted, in the words of Clerk's own SDKs where they have one."""

# ruff: noqa: S105 - the names of reasons, not passwords

from enum import StrEnum, unique


@unique
class TokenVerificationReason(StrEnum):
    """The reason on a `TokenVerificationError` and on a signed-out `RequestState`.

    Each member is its string, the same one that Clerk's JavaScript and Python SDKs use where they
    have one, so that dashboards and alerts built on those keep working.
    """

    TOKEN_EXPIRED = "token-expired"
    """`exp` has passed, beyond the clock skew allowed."""
    TOKEN_INVALID = "token-invalid"
    """Not a session token at all: its form, its header or the type of a claim is wrong."""
    TOKEN_INVALID_ALGORITHM = "token-invalid-algorithm"
    """The header names an algorithm that the key is not for (`none` and HS256 among them)."""
    TOKEN_INVALID_AUDIENCE = "token-invalid-audience"
    """`aud` is missing or holds none of the audiences expected."""
    TOKEN_INVALID_AUTHORIZED_PARTIES = "token-invalid-authorized-parties"
    """`azp` is missing or is none of the authorized parties."""
    TOKEN_INVALID_ISSUER = "token-invalid-issuer"
    """`iss` is missing or is not the issuer expected: a token of another instance."""
    TOKEN_INVALID_SIGNATURE = "token-invalid-signature"
    """The signature does not belong to this token and key."""
    TOKEN_IAT_IN_THE_FUTURE = "token-iat-in-the-future"
    """`iat` lies in the future, beyond the clock skew allowed."""
    TOKEN_NOT_ACTIVE_YET = "token-not-active-yet"
    """`nbf` lies in the future, beyond the clock skew allowed."""
    TOKEN_TYPE_MISMATCH = "token-type-mismatch"
    """A genuine token of another kind: made from a JWT template, or for a machine."""
    JWK_FAILED_TO_LOAD = "jwk-failed-to-load"
    """The keys could not be had: nothing is known about the token."""
    JWK_FAILED_TO_RESOLVE = "jwk-failed-to-resolve"
    """The key that the token names is in the key set, but can't be used."""
    JWK_KID_MISMATCH = "jwk-kid-mismatch"
    """The token names a key that the instance does not have, or no key where one is needed."""
    SESSION_TOKEN_MISSING = "session-token-missing"
    """The request carries no session token: neither bearer header nor `__session` cookie."""
    SESSION_TOKEN_WITHOUT_CLIENT_UAT = "session-token-but-no-client-uat"
    """The cookie `__client_uat` is 0: this browser has signed out, and its token is left over."""
    SESSION_TOKEN_IAT_BEFORE_CLIENT_UAT = "session-token-iat-before-client-uat"
    """This browser has signed in anew, elsewhere, since the token was made."""
    SESSION_REVOKED = "session-revoked"
    """It was denied here or in another process: its session was revoked, or `deny` was called."""
    DENIALS_UNAVAILABLE = "denials-unavailable"
    """What other processes have denied isn't known: nothing is known about the token."""
    SESSION_PENDING = "session-pending"
    """`sts` is pending: the user has tasks left, and `accept_pending` is not set."""
    SESSION_INACTIVE = "session-inactive"
    """`check_session` found the session revoked, ended, expired or gone."""
    SESSION_CHECK_FAILED = "session-check-failed"
    """`check_session` could not ask the service: nothing is known about the session."""
    SESSION_REFRESH_FAILED = "session-refresh-failed"
    """The token has expired, and the service could not be asked for a new one."""
    SESSION_REFRESH_REFUSED = "session-refresh-refused"
    """The token has expired, and the service refused a new one for a reason not listed here."""

    # What the service answers to `refresh`, in its own spelling. Each means: sign in again, or
    # let the browser take Clerk's handshake.
    REFRESH_REQUEST_ORIGIN_INVALID = "refresh_request_origin_invalid"
    REFRESH_REQUEST_ORIGIN_AZP_MISMATCH = "refresh_request_origin_azp_mismatch"
    REFRESH_SID_MISMATCH = "refresh_sid_mismatch"
    REFRESH_TOKEN_NOT_FOUND = "refresh_token_not_found"
    EXPIRED_SESSION_TOKEN_INVALID = "expired_session_token_invalid"
    EXPIRED_SESSION_TOKEN_MISSING_AZP = "expired_session_token_missing_azp"
    EXPIRED_SESSION_TOKEN_MISSING_SID = "expired_session_token_missing_sid"
    REFRESH_SESSION_NOT_FOUND = "session_refresh_session_not_found"
    REFRESH_INACTIVE_SESSION = "session_refresh_inactive_session"
    REFRESH_USER_NOT_FOUND = "session_refresh_user_not_found"
    REFRESH_CANNOT_DETERMINE_AGE = "session_refresh_cannot_determine_session_token_age"
    REFRESH_TOKEN_TOO_OLD = "session_refresh_expired_session_token_too_old"
    REFRESH_TOKEN_MISSING_IAT = "session_refresh_expired_session_token_missing_iat"
    REFRESH_TOKEN_CONSUMED = "session_refresh_expired_session_token_consumed"
    REFRESH_TOKEN_INELIGIBLE = "session_refresh_session_token_ineligible"
