"""The pytest plugin and the testing package are cheap until used, and say what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, ClassVar

import pytest
from fake_calls import get, post
from programs import without_slowness

import clerk_async.testing
from clerk_async.testing import FakeClerk, Fault

if TYPE_CHECKING:
    from pathlib import Path


def run(program: str) -> str:
    """Return what a fresh interpreter prints for a program, with warnings as errors."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program],
        capture_output=True,
        timeout=30,
        check=True,
        text=True,
    )
    assert without_slowness(done.stderr) == ""
    return done.stdout.strip()


PYTEST = [sys.executable, "-X", "dev", "-m", "pytest", "-q", "-p", "no:cacheprovider"]


class Suite:
    """A user's test suite, run as users run it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, **files: str) -> None:
        """Write its files; `ini` is pytest's configuration."""
        for name, text in files.items():
            path = self.root / ("pytest.ini" if name == "ini" else f"{name}.py")
            path.write_text(textwrap.dedent(text).lstrip(), encoding="utf-8")

    def run(self, *arguments: str, env: dict[str, str] | None = None) -> str:
        """Run it, check that it passes, and return what pytest prints."""
        done = subprocess.run(
            [*PYTEST, *arguments],
            cwd=self.root,
            capture_output=True,
            timeout=50,
            check=False,
            text=True,
            env={**os.environ, "CLERK_SECRET_KEY": "sk_test_of_the_shell", **(env or {})},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """Return a suite with an app that makes sync and async clients when it is imported."""
    made = Suite(tmp_path)
    made.write(
        ini="""
            [pytest]
            clerk_fake = true
            asyncio_mode = auto
            asyncio_default_fixture_loop_scope = function
            filterwarnings = error
        """,
        app="""
            import os
            from clerk_async import AsyncSessionsApi, AsyncTokenVerifier, SessionsApi, TokenVerifier

            PARTIES = ["http://localhost:3000"]
            sessions = SessionsApi()
            verifier = TokenVerifier(sessions=sessions, authorized_parties=PARTIES)
            by_key = TokenVerifier(authorized_parties=PARTIES)
            async_sessions = AsyncSessionsApi()
            async_verifier = AsyncTokenVerifier(
                sessions=async_sessions, authorized_parties=PARTIES)
            ADDRESS = os.environ["CLERK_API_URL"]
        """,
        conftest="""
            import app
        """,
    )
    return made


@pytest.mark.slow
class TestSetting:
    """`clerk_fake = true` in pytest's configuration."""

    @pytest.mark.promise("fake-plugin")
    @pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["", "xdist"])
    def test_clients_made_at_import_work(self, suite: Suite, workers: tuple[str, ...]) -> None:
        """In conftests too, sync and async, in every worker, whatever the shell has set."""
        suite.write(
            test_app="""
                import os
                import pytest
                import app

                @pytest.mark.parametrize("turn", range(3))
                def test_sync(fake_clerk, turn):
                    session = fake_clerk.add_session(user_id="user_1")
                    assert app.sessions.get(session.id).user_id == "user_1"
                    for verifier in (app.verifier, app.by_key):
                        assert verifier.verify(fake_clerk.mint(session)).user_id == "user_1"

                @pytest.mark.parametrize("turn", range(3))
                async def test_async(fake_clerk, turn):
                    session = fake_clerk.add_session(user_id="user_1")
                    token = fake_clerk.mint(session)
                    assert (await app.async_verifier.verify(token)).user_id == "user_1"
                    assert (await app.async_sessions.revoke(session.id)).status == "revoked"

                def test_the_address_is_the_same(fake_clerk):
                    assert fake_clerk.base_url == app.ADDRESS + "/v1"
                    assert os.environ["CLERK_SECRET_KEY"] == fake_clerk.secret_key
            """
        )
        assert "7 passed" in suite.run(*workers)

    @pytest.mark.promise("fake-plugin")
    @pytest.mark.parametrize("order", [("test_a.py", "test_b.py"), ("test_b.py", "test_a.py")])
    def test_each_test_starts_fresh(self, suite: Suite, order: tuple[str, str]) -> None:
        """No test sees what another did to the service, or what clients remember of it."""
        meddle = """
            from datetime import UTC, datetime
            import pytest
            from clerk_async import RateLimitedError, TokenVerificationError
            from clerk_async.testing import Fault
            import app

            @pytest.mark.parametrize("turn", range(2))
            def test_it(fake_clerk, turn):
                fake = fake_clerk
                assert not fake.sessions and not fake.requests and fake.latency == 0
                assert fake.rate_limit is None
                assert app.sessions.shared_status().denied == 0
                assert app.verifier.key_status().fetches == 0
                session = fake.add_session(user_id="user_1")
                token = fake.mint(session)
                assert app.verifier.verify(token).user_id == "user_1"
                assert app.by_key.verify(token).user_id == "user_1"
                assert app.sessions.get(session.id).status == "active"
                ids = [fake.add_session(user_id="user_1").id for _ in range(20)]
                assert app.sessions.revoke_many(ids, concurrency=20).revoked == 20
                assert [request.operation for request in fake.requests].count("jwks") == 1
                # and now whatever may be remembered
                app.sessions.deny(user_id="user_1")
                app.sessions.deny(everyone=True, signed_in_before=datetime.now(UTC))
                with pytest.raises(TokenVerificationError):
                    app.verifier.verify(fake.mint(session))
                assert app.sessions.shared_status().denied > 20
                fake.rotate_keys(keep_old=False)
                fake.latency, fake.rate_limit = (0.0, 0.001), (1, 1000.0)
                fake.add_template("mine", {})
                fake.issuer = "https://elsewhere.example"
                fake.inject(Fault.status(429, retry_after=60))
                with pytest.raises(RateLimitedError):
                    app.sessions.get(session.id)
                assert app.sessions.shared_status().paused_for > 1
                for _ in range(60):
                    fake.inject(Fault.status(500, count=None))
                fake.secret_key = "sk_test_another"
                fake.stop()
        """
        suite.write(test_a=meddle, test_b=meddle)
        assert "4 passed" in suite.run(*order)

    def test_a_held_request_does_not_outlive_its_test(self, suite: Suite) -> None:
        """A fixture of the app that waits for the response gets it."""
        suite.write(
            test_held="""
                import threading
                import pytest
                from clerk_async.testing import Fault
                import app

                @pytest.fixture
                def asking(fake_clerk):
                    fake_clerk.inject(Fault.hold(count=None))
                    thread = threading.Thread(target=app.sessions.list, kwargs={"user_id": "u"})
                    thread.start()
                    yield
                    thread.join(30)
                    assert not thread.is_alive()

                def test_it(fake_clerk, asking):
                    fake_clerk.wait_for(lambda: fake_clerk.held == 1)

                def test_another(fake_clerk):
                    assert fake_clerk.held == 0
            """
        )
        assert "2 passed" in suite.run()

    def test_without_the_setting_the_environment_is_unchanged(self, suite: Suite) -> None:
        """Nothing is imported either."""
        suite.write(
            ini="""
                [pytest]
            """,
            conftest="",
            test_nothing="""
                import os, sys

                def test_it():
                    assert os.environ["CLERK_SECRET_KEY"] == "sk_test_of_the_shell"
                    assert "CLERK_API_URL" not in os.environ
                    assert "clerk_async.testing.fake" not in sys.modules
                    assert "clerk_async.under_test" not in sys.modules
            """,
        )
        assert "1 passed" in suite.run()

    def test_the_environment_is_restored_at_the_end(self, suite: Suite) -> None:
        """For programs that run pytest within a program, or within pytest; also on errors."""
        suite.write(
            test_app="""
                def test_it(fake_clerk):
                    assert fake_clerk.add_session().id
            """,
            program="""
                import os, sys, threading
                import pytest
                before = dict(os.environ)
                for arguments in (["test_app.py"], ["--co"], ["--no-such-option"]):
                    pytest.main(["-q", "-p", "no:cacheprovider", *arguments])
                    names = [thread.name for thread in threading.enumerate()]
                    assert not [name for name in names if name.startswith("FakeClerk")], names
                changed = {n for n in {*before, *os.environ} if before.get(n) != os.environ.get(n)}
                assert not [name for name in changed if name.startswith("CLERK")], changed
            """,
        )
        done = subprocess.run(
            [sys.executable, "program.py"],
            cwd=suite.root,
            capture_output=True,
            timeout=50,
            check=False,
            text=True,
            env={**os.environ, "CLERK_SECRET_KEY": "sk_test_of_the_shell"},
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def test_a_plugin_named_in_a_conftest_works_too(self, suite: Suite) -> None:
        """If plugins are not loaded automatically; it acts before the test modules are imported."""
        suite.write(
            conftest="""
                pytest_plugins = ["clerk_async.testing.plugin"]
            """,
            ini="""
                [pytest]
                clerk_fake = true
            """,
            test_app="""
                import app

                def test_it(fake_clerk):
                    session = fake_clerk.add_session()
                    assert app.sessions.get(session.id).id == session.id
            """,
        )
        assert "1 passed" in suite.run(env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})


class TestPlugin:
    seen: ClassVar[set[str]] = set()

    @pytest.mark.promise("fake-plugin")
    @pytest.mark.parametrize("turn", range(3))
    def test_its_fixture_is_one_server_that_is_reset(
        self, fake_clerk: FakeClerk, turn: int
    ) -> None:
        """The address never changes; nothing of another test is left; no id is used twice."""
        del turn
        assert isinstance(fake_clerk, FakeClerk)
        assert not fake_clerk.sessions
        assert not fake_clerk.requests
        session_id = fake_clerk.add_session().id
        assert get(fake_clerk, f"/sessions/{session_id}").status == 200
        assert session_id not in self.seen
        self.seen.update({session_id, fake_clerk.base_url})
        assert len({each for each in self.seen if each.startswith("http")}) == 1

    def change(self, fake: FakeClerk) -> None:
        """Set two settings."""
        fake.rate_limit, fake.latency = None, 0.0

    def test_reset_restores_a_fake_that_users_run_themselves(self) -> None:
        """It is as it was created, including its sessions."""
        with FakeClerk(sessions=5, rate_limit=(100, 1.0), latency=0.001, seed=3) as fake:
            first_key, port = fake.jwt_key, fake.port
            fake.rotate_keys(keep_old=False)
            fake.add_key(kid="ins_more")
            fake.production = True
            self.change(fake)
            fake.remove_session(next(iter(fake.sessions)))
            fake.add_user("user_more")
            fake.add_template("mine", {})
            session = fake.add_session()
            token = fake.expired_token(session)
            body = {
                "expired_token": token,
                "refresh_token": session.refresh_token,
                "request_origin": "http://localhost:3000",
            }
            assert post(fake, f"/sessions/{session.id}/refresh", body).status == 200
            fake.inject(Fault.status(500, count=None))
            fake.reset()
            assert (fake.jwt_key, fake.port) == (first_key, port)
            assert [key["kid"] for key in fake.jwk_set["keys"]] == [fake.signing_key.kid]
            assert fake.rate_limit == (100, 1.0)
            assert fake.latency == pytest.approx(0.001)
            assert not fake.production
            assert len(fake.sessions) == 5
            assert session.id not in fake.sessions
            assert get(fake, f"/sessions/{next(iter(fake.sessions))}").status == 200
            assert post(fake, "/sessions", {"user_id": "user_more"}).status == 404
            assert len(fake.requests) == 2
            with pytest.raises(KeyError):
                fake.mint(next(iter(fake.sessions)), template="mine")

    @pytest.mark.slow
    @pytest.mark.parametrize("module", ["clerk_async.testing", "clerk_async.testing.plugin"])
    def test_importing_loads_nothing_heavy(self, module: str) -> None:
        heavy = "{'aiohttp', 'attrs', 'attr', 'msgspec', 'anyio', 'cryptography', 'asyncio'}"
        program = f"import sys, {module}; print({heavy} & set(sys.modules) - before)"
        pytest_loaded = "import sys, pytest; before = set(sys.modules); "
        assert run(pytest_loaded + program) == "set()"

    def test_every_public_name_exists(self) -> None:
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
    def test_everything_but_tokens_works_without_the_extra(self) -> None:
        said, answered = run(NO_CRYPTOGRAPHY).splitlines()
        assert "pip install 'clerk-async[jwt]'" in said
        assert answered.startswith("501 ")
        assert "pip install 'clerk-async[jwt]'" in answered
