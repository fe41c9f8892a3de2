"""How a call becomes requests, and how responses become values.

`operations` says what to send, `retry` when to retry, `clerk_async.pacing` when a bulk run may
send, and `decode` what a response means; all four are pure. Only `transport`, `connections` and
`failures` use aiohttp.
"""
