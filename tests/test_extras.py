"""Optional extras: one that is missing is named, and one that is broken is not called missing."""

from __future__ import annotations

import pytest
from programs import run_program

BREAK = """
import logging, sys
from importlib.machinery import ModuleSpec
class PanicException(BaseException):
    __module__ = "pyo3_runtime"
class Broken:
    module, error = "", None
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name == self.module else None
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        raise self.error
broken = Broken()
sys.meta_path.insert(0, broken)
ERRORS = [
    ImportError("version GLIBC_2.99 not found"),
    ImportError("DLL load failed while importing _x", name="a_module_of_it"),
    ModuleNotFoundError("No module named '_cffi'", name="_cffi"),
    OSError("cannot open shared object file"),
    AttributeError("partially initialized module"),
    PanicException("Python API call failed"),
]
def use():
    try:
        start()
    except error_type as error:
        return str(error)
    raise SystemExit("no error")
def check(*modules):
    for broken.module in modules:
        for broken.error in ERRORS:
            loaded = set(sys.modules)
            said = use()
            assert "is installed but can't be loaded" in said, said
            assert f"({type(broken.error).__name__}: {broken.error})" in said, said
            assert "pip" not in said, said
            for name in set(sys.modules) - loaded:  # of the broken library
                del sys.modules[name]
    broken.module = ""
    for name in [name for name in sys.modules if name.split(".")[0] == top]:
        del sys.modules[name]
    sys.modules[top] = None
    said = use()
    assert f"pip install 'clerk-async[{extra}]'" in said, said
    assert "which is not installed" in said, said
"""
USES = {
    "verifiers": """
from clerk_async import AsyncTokenVerifier, ConfigurationError as error_type, TokenVerifier
top, extra = "cryptography", "jwt"
logging.disable()
def start():
    TokenVerifier(issuer="https://clerk.example.com")
check("cryptography.hazmat.bindings._rust", "cryptography.hazmat.primitives.hashes")
def start():
    AsyncTokenVerifier(jwt_key="x")
del sys.modules["cryptography"]
check("cryptography.hazmat.primitives.serialization")
""",
    "shared state": """
from clerk_async import ConfigurationError as error_type, SessionsApi
top, extra = "redis", "redis"
def start():
    SessionsApi("sk_test_x", shared_state="redis://cache:6379/0")
check("redis", "redis.backoff")
""",
    "webhooks": """
from clerk_async import ConfigurationError as error_type, SessionsApi, WebhookReceiver
top, extra = "standardwebhooks", "webhooks"
sessions = SessionsApi("sk_test_x")
def start():
    WebhookReceiver(sessions=sessions, signing_secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
check("standardwebhooks", "standardwebhooks.webhooks")
""",
    "FakeClerk": """
from clerk_async.testing import FakeClerk
top, extra, error_type = "cryptography", "jwt", RuntimeError
fake = FakeClerk()
def start():
    fake.jwt_key
check("cryptography.exceptions", "cryptography.hazmat.primitives.serialization")
""",
    "the command line": """
import io
from clerk_async.cli import main
top, extra, error_type = "click", "cli", RuntimeError
def start():
    sys.stderr = io.StringIO()
    code, said, sys.stderr = main(["--version"]), sys.stderr.getvalue(), sys.__stderr__
    assert (code, said.count("\\n")) == (2, 1), (code, said)
    raise RuntimeError(said)
check("click", "click.core")
""",
    "a table": """
from datetime import UTC, datetime
from clerk_async import ConfigurationError as error_type
from clerk_async.cli.output import Output
from clerk_async.cli.rows import table
top, extra = "rich", "cli"
def start():
    table([], Output(), now=datetime.now(UTC))
check("rich", "rich.cells")
""",
}


@pytest.mark.promise("extras")
@pytest.mark.parametrize("use", USES)
def test_a_broken_extra_is_not_called_missing(use: str) -> None:
    """The message says what went wrong; only a missing one sends the user to pip."""
    ended = run_program(BREAK + USES[use], None)
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.promise("extras")
def test_the_remains_of_an_extra_are_not_called_missing() -> None:
    """A folder that `pip uninstall` has left behind is a module without content."""
    program = """
        import sys, types
        from clerk_async import ConfigurationError, SessionsApi, WebhookReceiver
        sys.modules["standardwebhooks"] = types.ModuleType("standardwebhooks")
        sessions = SessionsApi("sk_test_x")
        try:
            WebhookReceiver(sessions=sessions)
        except ConfigurationError as error:
            assert "is installed but can't be loaded (AttributeError" in str(error), error
        else:
            raise SystemExit("no error")
    """
    ended = run_program(program, None)
    assert (ended.code, ended.err) == (0, "")
