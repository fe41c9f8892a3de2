"""A real browser with a real server: expired tokens, two tabs, and a sign-out in one of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import pytest
from browser import CHROMIUM, Browser, chromium
from served_apps import ServedApp, served
from test_servers_web import UVICORN

if TYPE_CHECKING:
    from collections.abc import Generator

    from clerk_async.testing import FakeClerk
    from clerk_async.testing.state import FakeSession

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]
WAVES: Final = """
(async () => {
  const ask = number => fetch(`/me?${number}`).then(answer => answer.status);
  const wave = () => Promise.all([...Array(20).keys()].map(ask));
  const first = wave();
  await new Promise(done => setTimeout(done, 200));
  return [...await first, ...await wave()];
})()
"""
"""Twenty concurrent requests, and twenty more after the first may have got its response."""
SIGN_OUT: Final = "fetch('/sign-out', {method: 'POST'}).then(answer => answer.status)"
ME: Final = "fetch('/me').then(async answer => `${answer.status} ${await answer.text()}`)"


@pytest.fixture(scope="module")
def devtools() -> Generator[str]:
    """Run one browser for all tests; each has its own cookies and tabs."""
    with chromium() as url:
        yield url


@pytest.fixture
def app(fake: FakeClerk) -> Generator[ServedApp]:
    """Run the app with the page on uvicorn."""
    with served((*UVICORN, "pages_app:app"), fake) as running:
        yield running
        running.stop()
        running.assert_clean()


def signed_in(
    fake: FakeClerk, origin: str, *, suffixed: bool, is_expired: bool
) -> tuple[FakeSession, dict[str, str]]:
    """Sign a user in a quarter of an hour ago, and return the cookies of their browser."""
    began = int(time.time() - 900)
    session = fake.add_session(user_id="user_1", authorized_party=origin, created_at=began * 1000)
    suffix = f"_{fake.cookie_suffix}" if suffixed else ""
    return session, {
        f"__session{suffix}": fake.expired_token(session) if is_expired else fake.mint(session),
        f"__client_uat{suffix}": str(began),
        f"__refresh_{fake.cookie_suffix}": session.refresh_token,
    }


def refreshes(fake: FakeClerk) -> int:
    """Return how often the service was asked for a new token."""
    return sum(request.operation == "refresh" for request in fake.requests)


@pytest.mark.promise("browser")
@pytest.mark.parametrize("suffixed", [False, True])
async def test_a_page_left_open_stays_signed_in(
    fake: FakeClerk, app: ServedApp, devtools: str, suffixed: bool
) -> None:
    """Eighty requests of two tabs with one expired token: one refresh, whose cookies are kept."""
    origin = f"http://localhost:{app.port}"
    session, cookies = signed_in(fake, origin, suffixed=suffixed, is_expired=True)
    async with Browser(devtools) as browser:
        await browser.set_cookies(origin, cookies)
        tabs = [await browser.open(f"{origin}/") for _ in "ab"]
        statuses = await browser.run(WAVES, *tabs)
        assert statuses == [[200] * 40] * 2
        assert refreshes(fake) == 1
        kept = await browser.cookies()
        assert set(kept) == set(cookies)
        [name] = [name for name in cookies if name.startswith("__session")]
        assert kept[name] != cookies[name]
        claims = fake.read_token(kept[name])
        assert claims is not None
        assert (claims["sid"], claims["azp"]) == (session.id, origin)
        assert claims["exp"] > time.time()
        # Even requests with the old cookies were not signed out, and caused no second refresh.
        await browser.set_cookies(origin, cookies)
        assert await browser.run(ME, *tabs) == ['200 "user_1"'] * 2
        assert refreshes(fake) == 1


@pytest.mark.promise("browser")
@pytest.mark.parametrize("suffixed", [False, True])
async def test_a_sign_out_in_one_tab_signs_out_the_other(
    fake: FakeClerk, app: ServedApp, devtools: str, suffixed: bool
) -> None:
    """At once, though the token would be valid for another minute; nothing is refreshed."""
    origin = f"http://localhost:{app.port}"
    session, cookies = signed_in(fake, origin, suffixed=suffixed, is_expired=False)
    async with Browser(devtools) as browser:
        await browser.set_cookies(origin, cookies)
        one, other = [await browser.open(f"{origin}/") for _ in "ab"]
        assert await browser.run(ME, one, other) == ['200 "user_1"'] * 2
        assert await browser.run(SIGN_OUT, one) == [204]
        assert session.status == "revoked"
        [name] = [name for name in cookies if name.startswith("__session")]
        assert (await browser.cookies())[name] == cookies[name]
        for answer in await browser.run(ME, one, other):
            assert answer == '401 {"detail":"session-token-but-no-client-uat"}'
        assert refreshes(fake) == 0


@pytest.mark.promise("browser")
async def test_a_newer_sign_in_makes_the_old_token_stale(
    fake: FakeClerk, app: ServedApp, devtools: str
) -> None:
    """The user signed in again elsewhere in the browser: the old token is refreshed, not used."""
    origin = f"http://localhost:{app.port}"
    session, cookies = signed_in(fake, origin, suffixed=True, is_expired=False)
    cookies[f"__session_{fake.cookie_suffix}"] = fake.mint(session, issued_at=time.time() - 30)
    cookies[f"__client_uat_{fake.cookie_suffix}"] = str(int(time.time() - 10))
    async with Browser(devtools) as browser:
        await browser.set_cookies(origin, cookies)
        tab = await browser.open(f"{origin}/")
        assert await browser.run(ME, tab) == ['200 "user_1"']
        assert refreshes(fake) == 1
