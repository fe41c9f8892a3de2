"""Networkless verification of session tokens.

`jose` knows the form of a token, `keys` what checks a signature, `rules` what claims must hold,
`claims` what they mean. `jwks` decides when keys are fetched, `cache` remembers verified tokens.
`steps` puts these together without any I/O, `requests` does so for whole requests (read by
`credentials`). `verifier` and `sync_verifier` meet what the steps ask for; `settings` is what both
are made from.
"""
