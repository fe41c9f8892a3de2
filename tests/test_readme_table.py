"""The table of promises names tests that exist, and a test for each promise."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).parent
TABLE: Final = (TESTS / "README.md").read_text(encoding="utf-8")
NAMED: Final = re.findall(r"`(test_\w+\.py)::(test_\w+)`", TABLE)


def test_each_test_of_the_table_exists() -> None:
    """A test that is renamed or removed takes its promise along: the table would say nothing."""
    assert NAMED
    missing = [f"{file}::{name}" for file, name in NAMED if name not in names_in(file)]
    assert not missing


def test_each_promise_has_a_test() -> None:
    """Every row of the table that isn't a heading names a test."""
    rows = [row for row in TABLE.splitlines() if row.startswith("| ")][1:]
    bare = [row for row in rows if "::" not in row and not row.startswith("| **")]
    assert not bare


def names_in(file: str) -> set[str]:
    """Give the names of the tests in a file."""
    path = TESTS / file
    if not path.exists():
        return set()
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.name for node in nodes if isinstance(node, functions)}
