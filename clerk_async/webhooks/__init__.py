"""Clerk's webhooks, which are verified, read, and turned into denials.

`receiver` checks the signature and applies an event; `events` reads what an event says.
"""
