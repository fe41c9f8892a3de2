"""The table of promises is current, and a test proves each promise."""

from __future__ import annotations

from promises import PROMISES, README, proofs, written


def test_the_table_is_current() -> None:
    """The README names the marked tests: run `python tests/promises.py` if it doesn't."""
    assert README.read_text(encoding="utf-8") == written()


def test_each_promise_has_a_test_and_each_mark_a_promise() -> None:
    """A promise without a test would be empty, and a mark without a promise would go unread."""
    keys = [key for promises in PROMISES.values() for key in promises]
    assert len(set(keys)) == len(keys)
    assert set(proofs()) == set(keys)
