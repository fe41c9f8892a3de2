"""The installed package: the wheel, its metadata and its entry points."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import clerk_async

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_version_is_the_installed_one() -> None:
    """`__version__` and the metadata agree."""
    assert metadata.version("clerk-async") == clerk_async.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+(\w+)?", clerk_async.__version__)


def test_dependencies_have_lower_bounds_and_no_upper_caps() -> None:
    """A cap without a reason breaks other people's installs."""
    wanted = [*PROJECT["dependencies"]]
    for extra in ("jwt", "cli"):
        wanted += PROJECT["optional-dependencies"][extra]
    names = {re.split(r"[^\w-]", requirement)[0] for requirement in wanted}
    assert names >= {"aiohttp", "anyio", "attrs", "cattrs"}
    for requirement in wanted:
        assert re.fullmatch(r"[\w-]+>=[\d.]+", requirement), requirement
    assert PROJECT["requires-python"] == ">=3.11"


def test_entry_points_can_be_loaded() -> None:
    """The command and the pytest plugin are installed."""
    found = {
        (point.group, point.name): point
        for point in metadata.distribution("clerk-async").entry_points
    }
    assert callable(found["console_scripts", "clerk-async"].load())
    assert hasattr(found["pytest11", "clerk_async"].load(), "fake_clerk")


@pytest.mark.slow
def test_the_wheel_contains_only_the_package(tmp_path: Path) -> None:
    """It has py.typed, the licence and every module, but no tests and benchmarks."""
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
        env={**__import__("os").environ, "PYTHONDEVMODE": "0", "PYTHONWARNINGS": "ignore"},
    )
    if "No matching distribution" in built.stderr or "No module named pip" in built.stderr:
        pytest.skip("no package index is reachable from here")
    assert built.returncode == 0, built.stderr
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        [meta] = [name for name in names if name.endswith("METADATA")]
        [points] = [name for name in names if name.endswith("entry_points.txt")]
        text = archive.read(meta).decode()
        entries = archive.read(points).decode()
    assert "clerk_async/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"clerk_async"}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "clerk_async").rglob("*.py")}
    assert modules <= names
    assert "clerk-async = clerk_async.cli:main" in entries
    assert "clerk_async = clerk_async.testing.plugin" in entries
    assert "Requires-Python: >=3.11" in text
    assert "License-Expression: MIT" in text
    for extra in ("jwt", "cli", "dev"):
        assert f"Provides-Extra: {extra}" in text
