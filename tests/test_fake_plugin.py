"""The pytest plugin and the package cost nothing until they are used, and say what is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import clerk_async.testing
from clerk_async.testing import FakeClerk


def run(program: str) -> str:
    """What a fresh interpreter prints for a program, with warnings as errors."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program],
        capture_output=True,
        timeout=30,
        check=True,
        text=True,
    )
    assert done.stderr == ""
    return done.stdout.strip()


class TestPlugin:
    def test_its_fixture_is_a_running_fake_of_the_tests_own(self, fake_clerk: FakeClerk) -> None:
        assert isinstance(fake_clerk, FakeClerk)
        assert fake_clerk.base_url.startswith("http://127.0.0.1:")
        assert not fake_clerk.sessions
        assert not fake_clerk.requests

    @pytest.mark.slow
    @pytest.mark.parametrize("module", ["clerk_async.testing", "clerk_async.testing.plugin"])
    def test_importing_loads_nothing_heavy(self, module: str) -> None:
        heavy = "{'aiohttp', 'attrs', 'attr', 'msgspec', 'anyio', 'cryptography', 'asyncio'}"
        program = f"import sys, {module}; print({heavy} & set(sys.modules) - before)"
        pytest_loaded = "import sys, pytest; before = set(sys.modules); "
        assert run(pytest_loaded + program) == "set()"

    def test_every_public_name_is_there(self) -> None:
        for name in clerk_async.testing.__all__:
            assert getattr(clerk_async.testing, name).__name__ == name
            assert name in dir(clerk_async.testing)
        assert list(clerk_async.testing.__all__) == sorted(clerk_async.testing.__all__)
        with pytest.raises(AttributeError, match="FakeClark"):
            clerk_async.testing.FakeClark  # noqa: B018 - reading it is what raises


NO_CRYPTOGRAPHY = """
import sys, http.client, json
sys.modules["cryptography"] = None
from clerk_async.testing import FakeClerk
with FakeClerk(sessions=3) as fake:
    first = next(iter(fake.sessions))
    def ask(path):
        http_ = http.client.HTTPConnection("127.0.0.1", fake.port)
        http_.request("POST", path, headers={"Authorization": "Bearer " + fake.secret_key})
        reply = http_.getresponse()
        body = json.loads(reply.read())
        http_.close()
        return reply.status, body
    assert ask(f"/v1/sessions/{first}/revoke")[1]["status"] == "revoked"
    try:
        fake.jwt_key
    except RuntimeError as error:
        print(error)
    second = list(fake.sessions)[1]
    status, body = ask(f"/v1/sessions/{second}/tokens")
    print(status, body["errors"][0]["long_message"])
"""


class TestWithoutCryptography:
    @pytest.mark.slow
    def test_all_but_tokens_works_and_a_token_says_what_is_missing(self) -> None:
        said, answered = run(NO_CRYPTOGRAPHY).splitlines()
        assert "pip install 'clerk-async[jwt]'" in said
        assert answered.startswith("501 ")
        assert "pip install 'clerk-async[jwt]'" in answered
