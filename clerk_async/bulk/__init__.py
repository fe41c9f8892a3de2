"""Bulk revocation: many ids, paced, journaled, one outcome each."""
