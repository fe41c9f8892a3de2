"""The command that measures: its outputs are whole, whoever can't take part."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

import clerk_async

ROOT = Path(clerk_async.__file__).parent.parent


def _benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", "--rounds", "1", "--scale", "0.001", *arguments]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONDEVMODE"}
    return subprocess.run(
        command, cwd=ROOT, env=clean, capture_output=True, text=True, timeout=50, check=False
    )


@pytest.mark.slow
def test_one_command_measures_and_writes_table_json_and_chart(tmp_path: Path) -> None:
    """With the fallback server, which is there on every machine."""
    done = _benchmarks(
        *("--only", "async-revoke-64", "--only", "sync-revoke", "--no-nginx"),
        *("--client", "clerk_async", "--client", "aiohttp", "--client", "http.client"),
        *("--json", str(tmp_path / "a.json"), "--svg", str(tmp_path / "a.svg")),
        *("--markdown", str(tmp_path / "a.md")),
    )
    assert done.returncode in {0, 1}, done.stderr  # 1: a bar missed, which is no matter here
    assert "ceiling at least" in done.stdout
    assert "async revoke, 64 at once" in done.stdout
    results = json.loads((tmp_path / "a.json").read_text())
    assert {(each["case"], each["client"]) for each in results["results"]} == {
        ("async-revoke-64", "clerk_async"),
        ("async-revoke-64", "aiohttp"),
        ("sync-revoke", "clerk_async"),
        ("sync-revoke", "http.client"),
    }
    assert results["machine"]["command"].startswith("python -m benchmarks --rounds 1")
    assert ET.fromstring((tmp_path / "a.svg").read_text()).tag.endswith("svg")  # noqa: S314 - ours
    assert (tmp_path / "a.md").read_text().startswith("| case |")


@pytest.mark.slow
def test_an_unknown_case_is_refused_with_the_names_of_those_there_are() -> None:
    """Nothing is started for a typing error."""
    done = _benchmarks("--only", "nothing-like-it")
    assert done.returncode == 1
    assert "async-revoke-64" in done.stderr
