"""How a call becomes requests, and answers become values.

`operations` says what to send, `retry` when to send it again, `pacing` when a bulk run may send,
`decode` what an answer means; all four are pure. `transport` alone touches aiohttp.
"""
