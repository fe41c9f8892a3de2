"""The reasons for rejecting a session token; they match those of Clerk's SDKs, if these exist."""

# ruff: noqa: S105 - the names of reasons, not passwords

from enum import StrEnum, unique


@unique
class TokenVerificationReason(StrEnum):
    """The reason of a `TokenVerificationError` and of a signed-out `RequestState`.

    Each member equals its string. If Clerk's JavaScript and Python SDKs have the same reason, it is
    the same string, so that dashboards and alerts built on theirs keep working.
    """

    TOKEN_EXPIRED = "token-expired"
    """`exp` has passed, beyond the allowed clock skew."""
    TOKEN_INVALID = "token-invalid"
    """This isn't a session token: its format, its header or the type of a claim is wrong."""
    TOKEN_INVALID_ALGORITHM = "token-invalid-algorithm"
    """The header names an algorithm that the key isn't for, such as `none` or HS256."""
    TOKEN_INVALID_AUDIENCE = "token-invalid-audience"
    """`aud` is missing or contains none of the expected audiences."""
    TOKEN_INVALID_AUTHORIZED_PARTIES = "token-invalid-authorized-parties"
    """`azp` is missing or isn't an authorized party."""
    TOKEN_INVALID_ISSUER = "token-invalid-issuer"
    """`iss` is missing or isn't the expected issuer: the token is from another instance."""
    TOKEN_INVALID_SIGNATURE = "token-invalid-signature"
    """The signature doesn't match the token and the key."""
    TOKEN_IAT_IN_THE_FUTURE = "token-iat-in-the-future"
    """`iat` is in the future, beyond the allowed clock skew."""
    TOKEN_NOT_ACTIVE_YET = "token-not-active-yet"
    """`nbf` is in the future, beyond the allowed clock skew."""
    TOKEN_TYPE_MISMATCH = "token-type-mismatch"
    """A genuine token of another kind: made from a JWT template, or for a machine."""
    JWK_FAILED_TO_LOAD = "jwk-failed-to-load"
    """The keys could not be fetched, so the token was not checked."""
    JWK_FAILED_TO_RESOLVE = "jwk-failed-to-resolve"
    """The key that the token names is in the key set but can't be used."""
    JWK_KID_MISMATCH = "jwk-kid-mismatch"
    """The token names a key that the instance doesn't have, or names none and needs one."""
    SESSION_TOKEN_MISSING = "session-token-missing"
    """The request has no session token: neither a bearer header nor a `__session` cookie."""
    SESSION_TOKEN_WITHOUT_CLIENT_UAT = "session-token-but-no-client-uat"
    """The `__client_uat` cookie is 0: this browser has signed out, and its token is left over."""
    SESSION_TOKEN_IAT_BEFORE_CLIENT_UAT = "session-token-iat-before-client-uat"
    """This browser has signed in again, elsewhere, since the token was issued."""
    SESSION_REVOKED = "session-revoked"
    """Some process denied the token: its session was revoked, or `deny` was called."""
    DENIALS_UNAVAILABLE = "denials-unavailable"
    """The denials of other processes aren't known, so the token can't be accepted."""
    SESSION_PENDING = "session-pending"
    """`sts` is pending: the user has tasks left, and `accept_pending` isn't set."""
    SESSION_INACTIVE = "session-inactive"
    """`check_session` found the session revoked, ended, expired or gone."""
    SESSION_CHECK_FAILED = "session-check-failed"
    """`check_session` could not reach the service, so the session's status is unknown."""
    SESSION_REFRESH_FAILED = "session-refresh-failed"
    """The token has expired, and the service could not be reached for a new one."""
    SESSION_REFRESH_REFUSED = "session-refresh-refused"
    """The token has expired, and the service refused a new one for a reason not listed here."""

    # The service's own error codes for `refresh`. Each means: sign in again, or let the browser do
    # Clerk's handshake.
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
