"""Clerk's own JavaScript SDK works unchanged against a FakeClerk.

Needs node and the package @clerk/backend, as .ci/run installs it:

    npm install --prefix .cache/npm @clerk/backend
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from clerk_async.testing import FakeClerk

ROOT: Final = Path(__file__).parent.parent
ORIGIN: Final = "http://localhost:3000"
PROGRAM: Final = """
import { createRequire } from 'node:module';
const [modules, text] = process.argv.slice(2);
const { createClerkClient, verifyToken } = createRequire(modules + '/x.js')('@clerk/backend');
const { apiUrl, secretKey, publishableKey, jwtKey, parties, steps } = JSON.parse(text);
const clerk = createClerkClient({ apiUrl, secretKey, publishableKey });
const plain = value => JSON.parse(JSON.stringify(value ?? null));
const told = error => ({
  status: error.status, code: error.errors?.[0]?.code, reason: error.reason ?? String(error),
});
const does = {
  sessions: ([name, ...rest]) => clerk.sessions[name](...rest),
  verify: ([token, more]) => verifyToken(token, { ...more }),
  key: ([token]) => verifyToken(token, { jwtKey, authorizedParties: parties }),
  fetch: ([token]) => verifyToken(token, { apiUrl, secretKey, authorizedParties: parties }),
  authenticate: async ([headers, more]) => {
    const state = await clerk.authenticateRequest(
      new Request('http://localhost:3000/', { headers }), { authorizedParties: parties, ...more });
    const auth = state.toAuth();
    return {
      status: state.status, reason: state.reason, token: state.token,
      cookies: state.headers.getSetCookie(),
      auth: auth && { userId: auth.userId, sessionId: auth.sessionId, orgId: auth.orgId },
      has: more?.has?.map(question => auth?.has(question)),
    };
  },
};
const answers = [];
for (const [name, ...args] of steps) {
  try { answers.push(plain(await does[name](args))); } catch (error) { answers.push(told(error)); }
}
console.log(JSON.stringify(answers));
"""


def node_modules() -> Path | None:
    """Return the folder where .ci/run or the user has installed the package."""
    places = [ROOT / ".cache" / "npm"]
    if "CLERK_TESTS_NPM" in os.environ:
        places.insert(0, Path(os.environ["CLERK_TESTS_NPM"]))
    for place in places:
        if (place / "node_modules" / "@clerk" / "backend" / "package.json").exists():
            return place / "node_modules"
    return None


NODE: Final = shutil.which("node")
MODULES: Final = node_modules()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NODE is None, reason="node is not installed"),
    pytest.mark.skipif(
        MODULES is None, reason="npm install --prefix .cache/npm @clerk/backend was not run"
    ),
]


class JavaScript:
    """Runs calls of the SDK, one after the other, in one program."""

    def __init__(self, fake: FakeClerk, program: Path) -> None:
        self.fake = fake
        self.program = program
        program.write_text(PROGRAM, encoding="utf-8")

    def __call__(self, *steps: list[Any]) -> list[Any]:
        """Return the result of each call, or its error."""
        told = {
            "apiUrl": self.fake.base_url.removesuffix("/v1"),
            "secretKey": self.fake.secret_key,
            "publishableKey": self.fake.publishable_key,
            "jwtKey": self.fake.jwt_key,
            "parties": [ORIGIN],
            "steps": steps,
        }
        done = subprocess.run(
            [str(NODE), str(self.program), str(MODULES), json.dumps(told)],
            capture_output=True,
            timeout=40,
            check=False,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        answers: list[Any] = json.loads(done.stdout.splitlines()[-1])
        return answers


@pytest.fixture
def sdk(fake: FakeClerk, tmp_path: Path) -> JavaScript:
    """Run the SDK of a production instance, configured only with the address and its keys."""
    fake.production = True
    return JavaScript(fake, tmp_path / "sdk.mjs")


def cookies(**values: str) -> dict[str, str]:
    """Return a browser's headers."""
    return {"cookie": "; ".join(f"{name}={value}" for name, value in values.items())}


@pytest.mark.promise("any-sdk")
def test_operations_work(fake: FakeClerk, sdk: JavaScript) -> None:
    """Sessions are listed, read and revoked; tokens are created."""
    session = fake.add_session(user_id="user_1", activity={"city": "Oslo"})
    ended = fake.add_session(user_id="user_1", status="ended")
    listed, read, token, template, revoked, missing = sdk(
        ["sessions", "getSessionList", {"userId": "user_1", "status": "active"}],
        ["sessions", "getSession", session.id],
        ["sessions", "getToken", session.id],
        ["sessions", "getToken", session.id, "custom_hasura"],
        ["sessions", "revokeSession", session.id],
        ["sessions", "getSession", "sess_no"],
    )
    assert [each["id"] for each in listed["data"]] == [session.id]
    assert ended.id not in json.dumps(listed)
    assert (read["userId"], read["latestActivity"]["city"]) == ("user_1", "Oslo")
    assert (fake.read_token(token["jwt"]) or {})["sid"] == session.id
    assert "sid" not in (fake.read_token(template["jwt"]) or {})
    assert (revoked["status"], session.status) == ("revoked", "revoked")
    assert (missing["status"], missing["code"]) == (404, "resource_not_found")


@pytest.mark.promise("any-sdk")
def test_tokens_are_verified(fake: FakeClerk, sdk: JavaScript) -> None:
    """With the public key and with fetched keys; a token without a party is rejected."""
    session = fake.add_session(user_id="user_1")
    browsers, template = fake.mint(session), fake.mint(session, template="custom_hasura")
    made = sdk(["sessions", "getToken", session.id])[0]["jwt"]
    by_key, by_fetch, of_template, without_party, expired = sdk(
        ["key", browsers],
        ["fetch", browsers],
        ["key", template],
        ["key", made],
        ["key", fake.expired_token(session)],
    )
    assert by_key["sid"] == by_fetch["sid"] == session.id
    assert (of_template["sub"], "sid" in of_template) == ("user_1", False)
    assert without_party["reason"] == "token-invalid-authorized-parties"
    assert expired["reason"] == "token-expired"


@pytest.mark.promise("any-sdk")
def test_a_browsers_requests_are_authenticated(fake: FakeClerk, sdk: JavaScript) -> None:
    """By header and by cookies, suffixed ones too; a template's token signs nobody in."""
    session = fake.add_session(
        user_id="user_1",
        organization_id="org_1",
        role="org:billing",
        permissions=["org:invoices:create"],
        features=["u:export"],
        created_at=int(time.time() - 300) * 1000,
    )
    token, suffix, uat = fake.mint(session), fake.cookie_suffix, str(session.created_at // 1000)
    questions = [
        {"role": "org:billing"},
        {"permission": "org:invoices:create"},
        {"permission": "org:invoices:read"},
        {"feature": "user:export"},
        {"feature": "org:export"},
    ]
    plain = {"__session": token, "__client_uat": uat}
    suffixed = {f"__session_{suffix}": token, f"__client_uat_{suffix}": uat}
    states = sdk(
        ["authenticate", {"authorization": f"Bearer {token}"}, {"has": questions}],
        ["authenticate", cookies(**plain)],
        ["authenticate", cookies(**suffixed)],
        ["authenticate", {"authorization": f"Bearer {fake.mint(session, template=HASURA)}"}],
        ["authenticate", cookies(**{**plain, "__client_uat": "0"})],
    )
    assert states[0]["has"] == [True, True, False, True, False]
    for state in states[:3]:
        assert state["status"] == "signed-in", state
        assert state["auth"] == {"userId": "user_1", "sessionId": session.id, "orgId": "org_1"}
    assert [state["status"] for state in states[3:]] == ["signed-out", "signed-out"]
    assert states[3]["reason"] == "token-type-mismatch"
    assert states[4]["reason"] == "session-token-but-no-client-uat"


@pytest.mark.promise("any-sdk")
@pytest.mark.parametrize("is_suffixed", [False, True])
def test_an_expired_token_is_refreshed(fake: FakeClerk, sdk: JavaScript, is_suffixed: bool) -> None:
    """The SDK requests cookies, which are suffixed if the request's were."""
    began = int(time.time() - 900)
    session = fake.add_session(user_id="user_1", created_at=began * 1000)
    suffix = f"_{fake.cookie_suffix}" if is_suffixed else ""
    session_cookie, uat_cookie = f"__session{suffix}", f"__client_uat{suffix}"
    refresh_cookie = f"__refresh_{fake.cookie_suffix}"
    sent = {
        session_cookie: fake.expired_token(session),
        refresh_cookie: session.refresh_token,
        uat_cookie: str(began),
    }
    [state] = sdk(["authenticate", cookies(**sent)])
    assert state["status"] == "signed-in", state
    assert [line.partition("=")[0] for line in state["cookies"]] == [
        session_cookie,
        refresh_cookie,
        uat_cookie,
    ]
    assert (fake.read_token(state["token"]) or {})["azp"] == ORIGIN
    assert [request.operation for request in fake.requests].count("refresh") == 1


HASURA: Final = "custom_hasura"
