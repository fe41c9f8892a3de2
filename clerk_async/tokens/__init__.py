"""Networkless verification of session tokens.

`jose` knows the form of a token, `keys` what checks a signature, `rules` what claims must hold,
`claims` what they mean, and `access` what they allow. `key_set` decides when keys are fetched,
`sources` knows where from. `verification` puts these together without any I/O and remembers
verified tokens; `denied` knows which are refused all the same, `refusals` makes and counts the
errors. `requests` does so for whole requests, read by `credentials`, whose expired tokens are
exchanged by `refreshing`. `verifier` and `sync_verifier` meet what these ask for; `settings` is
what both are made from.
"""
