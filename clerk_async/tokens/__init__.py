"""Networkless verification of session tokens.

- `jose` parses tokens, `keys` checks signatures, and `rules` checks the claims.
- `claims` turns claims into typed values, and `access` decides what they permit.
- `key_set` decides when to fetch keys, and `sources` where to fetch them from.
- `verification` combines all of these without any I/O and caches verified tokens; `denied` rejects
  tokens that were revoked, and `refusals` builds and counts the errors.
- `requests` verifies whole requests, which `credentials` reads; `refreshing` exchanges an expired
  session token for a new one.
- `verifier` and `sync_verifier` do the I/O. `settings` holds the arguments that both share.
"""
