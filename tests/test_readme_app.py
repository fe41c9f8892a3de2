"""The README's FastAPI app, in a real server and with the README's own test."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from served_apps import APPS, ask, served

if TYPE_CHECKING:
    from clerk_async.testing import FakeClerk

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
ORIGIN = "http://localhost:3000"


@pytest.mark.promise("readme-app")
def test_the_readmes_app_does_what_it_says(fake: FakeClerk) -> None:
    """Five routes, and errors as 401, 403, 404 and 503, in uvicorn."""
    pytest.importorskip("uvicorn")
    mine = [
        fake.add_session(
            user_id="user_1",
            organization_id="org_1",
            permissions=["org:invoices:read"],
            activity={"browser_name": "Firefox", "city": "Oslo"},
        )
        for _ in range(3)
    ]
    theirs = fake.add_session(user_id="user_2")
    command = ["-m", "uvicorn", "--fd", "{fd}", "--log-level", "warning", "account_app:app"]
    with served(command, fake) as app:
        status, sessions = ask(app, "GET", "/sessions", mine[0], fake)
        assert (status, len(sessions)) == (200, 3)
        assert sessions[0]["latest_activity"]["city"] == "Oslo"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", sessions[0]["created_at"])
        assert ask(app, "DELETE", f"/sessions/{mine[1].id}", mine[0], fake) == (204, None)
        assert ask(app, "DELETE", f"/sessions/{theirs.id}", mine[0], fake)[0] == 404
        assert (mine[1].status, theirs.status) == ("revoked", "active")
        assert ask(app, "POST", "/sign-out-elsewhere", mine[0], fake) == (200, {"ended": 1})
        assert mine[0].status == "active"
        assert ask(app, "POST", "/hasura-token", mine[0], fake)[0] == 200
        assert ask(app, "GET", "/invoices", mine[0], fake) == (200, ["No. 1"])
        assert ask(app, "GET", "/invoices", theirs, fake)[0] == 403
        assert ask(app, "GET", "/invoices", mine[1], fake)[0] == 401, "it was revoked"
        assert ask(app, "GET", "/sessions", None, fake)[0] == 401
        schema = ask(app, "GET", "/openapi.json", None, fake)[1]
        assert "Session" in json.dumps(schema["paths"]["/sessions"])
        fake.stop()
        assert ask(app, "GET", "/sessions", mine[0], fake)[0] == 503
        app.assert_clean()


@pytest.mark.promise("readme-app")
def test_the_readmes_test_of_the_app_passes(tmp_path: Path) -> None:
    """As pasted, beside the app."""
    pytest.importorskip("httpx")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```python\n(from account_app import app\n.*?)```", readme, re.DOTALL)
    (tmp_path / "test_app.py").write_text(block, encoding="utf-8")
    (tmp_path / "account_app.py").write_text((APPS / "account_app.py").read_text(encoding="utf-8"))
    (tmp_path / "pytest.ini").write_text("[pytest]\nclerk_fake = true\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("CLERK_")},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
