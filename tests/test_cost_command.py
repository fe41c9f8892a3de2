"""The command that measures: its output is complete, even if a library is missing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

import clerk_async

ROOT = Path(clerk_async.__file__).parent.parent
OUTPUTS = (
    "README.md",
    "benchmarks/README.md",
    "benchmarks/results/benchmarks.svg",
    "benchmarks/results/benchmarks.md",
)


def _run(*command: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONDEVMODE"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=clean,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def _benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    return _run("-m", "benchmarks", "--rounds", "1", "--scale", "0.001", *arguments)


@pytest.mark.slow
def test_one_command_measures_and_writes_table_json_and_chart(tmp_path: Path) -> None:
    """It uses the fallback server, which every machine has."""
    done = _benchmarks(
        *("--only", "async-revoke-64", "--only", "sync-revoke", "--no-nginx"),
        *("--client", "clerk_async", "--client", "aiohttp", "--client", "http.client"),
        *("--json", str(tmp_path / "a.json"), "--svg", str(tmp_path / "a.svg")),
        *("--markdown", str(tmp_path / "a.md")),
    )
    assert done.returncode in {0, 1}, done.stderr  # 1: a bound was missed
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


def test_a_signal_ends_its_server_too() -> None:
    """Neither the server nor the measured program keeps running."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "--only", "async-revoke-64"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as command:
        assert command.stderr is not None
        assert any("round 1" in line for line in command.stderr)
        command.terminate()
        command.stderr.read()
        assert command.wait(timeout=20) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.killpg(command.pid, 0)


@pytest.mark.slow
def test_a_missing_library_is_skipped_with_a_hint_how_to_install_it() -> None:
    """A newcomer without the extra learns what is missing; the rest is measured."""
    program = (
        "import sys; sys.modules['httpx'] = sys.modules['uvloop'] = None\n"
        "sys.argv[1:] = ['--only', 'construct', '--only', '*-1-uvloop', '--rounds', '1',"
        " '--scale', '0.01', '--client', 'clerk_async', '--client', 'httpx']\n"
        "from benchmarks.__main__ import main\n"
        "main()"
    )
    done = _run("-c", program)
    assert "not installed, so skipped: httpx, uvloop" in done.stderr
    assert "pip install -e '.[bench]'" in done.stderr
    assert "construct: clerk_async, round 1" in done.stderr
    assert "uvloop, round" not in done.stderr
    assert "httpx, round" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--only", "nothing-like-it"), "async-revoke-64"),
        (("--client", "nobody"), "clerk-backend-api"),
        (("--rounds", "0"), "at least 1"),
        (("--scale", "0"), "above 0"),
        (("--readme", "--only", "sync*"), "the README shows everything"),
    ],
)
def test_a_mistyped_argument_is_rejected_before_anything_starts(
    arguments: tuple[str, ...], told: str
) -> None:
    """The message says what is valid; the README can't be written from a part."""
    done = _benchmarks(*arguments)
    assert done.returncode in {1, 2}
    assert told in done.stderr
    assert done.stdout == ""


@pytest.mark.promise("readme-figures")
def test_the_readmes_figures_are_those_of_the_results(tmp_path: Path) -> None:
    """Regenerating README, chart and table from the JSON changes nothing."""
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks")
    shutil.copy(ROOT / "README.md", tmp_path)
    done = _run("-m", "benchmarks", "--redraw", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in OUTPUTS:
        assert (tmp_path / name).read_text() == (ROOT / name).read_text(), name
