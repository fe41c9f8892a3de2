"""Help and completion as whole programs: fast, and also without the optional extras."""

from __future__ import annotations

import os
import shlex
import shutil
import statistics
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest
from cli_programs import Terminal, environment, run

from clerk_async.cli.app import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from clerk_async.testing import FakeClerk

pytestmark = pytest.mark.slow

MOST: float = 3.0
"""The CPU time of help, compared with that of a Python program that only imports click."""


def _cpu_seconds(run_it: Callable[[], object]) -> float:
    """Return the CPU time of the programs that a function runs."""
    before = os.times()
    run_it()
    after = os.times()
    user = after.children_user - before.children_user
    return user + after.children_system - before.children_system


@pytest.mark.promise("help-and-completion")
@pytest.mark.parametrize("arguments", [("--help",), ("revoke", "--help"), ("demo", "--help")])
def test_help_is_printed_at_once(fake: FakeClerk, arguments: tuple[str, ...]) -> None:
    """CPU time counts, because other tests share the machine; median of five."""
    bare = [sys.executable, "-c", "import click"]
    took: list[float] = []
    for _ in range(5):
        help_took = _cpu_seconds(lambda: run(fake, *arguments))
        bare_took = _cpu_seconds(lambda: subprocess.run(bare, check=True, env=environment(fake)))
        took.append(help_took / max(bare_took, 0.01))
    assert statistics.median(took) < MOST, took


@pytest.mark.promise("help-and-completion")
def test_help_loads_neither_aiohttp_nor_rich_nor_asyncio() -> None:
    """The help of a command doesn't either: its code is imported when it runs."""
    program = """
        import sys
        from clerk_async.cli import main
        for command in ([], *([name] for name in sys.argv[1:])):
            assert main([*command, "--help"]) == 0
            heavy = {"aiohttp", "rich", "asyncio", "attrs", "cryptography"} & set(sys.modules)
            assert not heavy, (command, heavy)
    """
    line = [
        sys.executable,
        "-c",
        textwrap.dedent(program),
        *(name for rows in COMMANDS.values() for name in rows),
    ]
    subprocess.run(line, check=True, timeout=20, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("encoding", ["ascii", "cp437", "latin-1"])
def test_help_can_be_written_in_any_encoding(encoding: str) -> None:
    """For example, in that of a Windows console."""
    program = """
        import sys
        from clerk_async.cli import main
        for command in ([], *([name] for name in sys.argv[1:])):
            assert main([*command, "--help"]) == 0
    """
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(program),
            *(name for rows in COMMANDS.values() for name in rows),
        ],
        check=True,
        timeout=50,
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": f"{encoding}:strict"},
    )
    assert b"--suffixed-cookies" in ended.stdout
    assert b"\\u" not in ended.stdout


def test_verify_token_with_a_key_loads_nothing_of_a_client(fake: FakeClerk) -> None:
    """Neither an event loop nor TLS, because it asks nobody."""
    program = """
        import sys
        from clerk_async.cli import main
        assert main(["verify-token", *sys.argv[1:]]) == 0
        heavy = {"aiohttp", "asyncio", "ssl", "rich", "csv", "clerk_async.sessions"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
    """
    token = fake.mint(fake.add_session())
    line = [sys.executable, "-c", textwrap.dedent(program), token]
    subprocess.run(
        [*line, "--authorized-party", "http://localhost:3000"],
        check=True,
        timeout=50,
        stdout=subprocess.DEVNULL,
        env=environment(fake) | {"CLERK_JWT_KEY": fake.jwt_key},
    )


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_its_extra_the_program_says_how_to_install_it(missing: str) -> None:
    """Exit code 2, one line."""
    program = f"""
        import sys
        class Missing:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == {missing!r}:
                    raise ModuleNotFoundError(name)
        import importlib.util
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, package=None: (
            None if name == {missing!r} else find(name, package)
        )
        sys.meta_path.insert(0, Missing())
        from clerk_async.cli import main
        sys.exit(main(["get", "sess_1"]))
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert ended.returncode == 2
    assert "pip install 'clerk-async[cli]'" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code"), [(["verify-token", "a.b.c"], 2), (["demo", "--sessions", "20"], 0)]
)
def test_without_the_extra_jwt_only_verify_token_fails(
    fake: FakeClerk, arguments: list[str], code: int
) -> None:
    """verify-token says how to install it; the demo doesn't need it."""
    program = f"""
        import sys
        class Missing:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "cryptography":
                    raise ModuleNotFoundError(name, name=name)
        sys.meta_path.insert(0, Missing())
        from clerk_async.cli import main
        sys.exit(main({arguments!r}))
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        env=environment(fake),
    )
    assert ended.returncode == code, ended.stderr
    assert ("pip install 'clerk-async[jwt]'" in ended.stderr) is (code == 2)


def needs(shell: str) -> pytest.MarkDecorator:
    """Skip a test if its shell isn't installed."""
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"there is no {shell} here")


@pytest.fixture
def on_path(tmp_path: Path) -> dict[str, str]:
    """Put a `clerk-async` on the path, wherever it is installed, beside a file to complete."""
    (tmp_path / "leaked.txt").touch()
    program = tmp_path / "clerk-async"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m clerk_async "$@"\n')
    program.chmod(0o755)
    return {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "ZDOTDIR": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / ".config"),
    }


def asked(
    shell: Sequence[str], script: str, fake: FakeClerk, cwd: Path, env: Mapping[str, str]
) -> list[str]:
    """Run a script in a shell, check that it prints no errors, and return its lines."""
    ended = subprocess.run(
        [*shell, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        cwd=cwd,
        env=environment(fake, env),
    )
    assert ended.stderr == ""
    return ended.stdout.splitlines()


@pytest.mark.promise("help-and-completion")
@needs("bash")
def test_bash_completes_commands_options_values_and_files(
    fake: FakeClerk, tmp_path: Path, on_path: dict[str, str]
) -> None:
    """The script that `completion` prints runs in a real bash."""
    script = """
        eval "$(clerk-async completion bash)"
        complete -p clerk-async
        ask() {
            COMP_WORDS=(clerk-async "$@"); COMP_CWORD=$#; COMPREPLY=()
            _clerk_async_completion clerk-async
            echo "${COMPREPLY[*]}"
        }
        compopt() { echo "$@"; }  # bash has it inside of a completion alone
        ask rev; ask --js; ask revoke --jo; ask list --status ac; ask completion ''
        ask revoke --from leak; ask verify-token --jwt-key-file leak; ask get --key-file leak
    """
    assert asked(["bash", "--norc"], script, fake, tmp_path, on_path)[1:] == [
        "revoke revoke-all",
        "--json",
        "--journal",
        "active",
        "bash zsh fish",
        *["-o default", ""] * 3,
    ]


@pytest.mark.promise("help-and-completion")
@needs("fish")
def test_fish_completes_commands_options_values_and_files(
    fake: FakeClerk, tmp_path: Path, on_path: dict[str, str]
) -> None:
    """The same, from the file that fish reads."""
    completions = tmp_path / ".config" / "fish" / "completions"
    completions.mkdir(parents=True)
    (completions / "clerk-async.fish").write_text(run(fake, "completion", "fish").out)
    script = """
        for line in rev --js "revoke --jo" "list --status ac" "completion " "revoke --from leak"
            complete -C "clerk-async $line" | string split -f 1 \\t
        end
    """
    assert asked(["fish"], script, fake, tmp_path, on_path) == [
        *("revoke", "revoke-all"),
        "--json",
        "--journal",
        "active",
        *("bash", "fish", "zsh"),
        "leaked.txt",
    ]


@pytest.mark.promise("help-and-completion")
@needs("zsh")
def test_zsh_completes_commands_options_values_and_files(
    fake: FakeClerk, tmp_path: Path, on_path: dict[str, str]
) -> None:
    """The same, from its start-up file, with typed input."""
    lines = ["autoload -Uz compinit", "compinit -u -D", 'eval "$(clerk-async completion zsh)"']
    (tmp_path / ".zshrc").write_text("\n".join([*lines, "PS1='ready '", ""]))
    typed = {"revoke-a": "revoke-all", "list --status ac": "active", "get --key-file l": "leaked.t"}
    with Terminal(fake, program=["zsh", "-d", "-i"], env=on_path, cwd=tmp_path) as terminal:
        terminal.wait_for("ready ")
        for begun, completed in typed.items():
            terminal.type(f"clerk-async {begun}\t")
            terminal.wait_for(completed)
            terminal.type("\x15")  # deletes the whole line
        terminal.type("exit\n")
        assert terminal.end() == 0
