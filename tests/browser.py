"""A headless Chromium, driven through its DevTools protocol."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp
from served_apps import LIMIT, until

if TYPE_CHECKING:
    from collections.abc import Generator

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS: Final = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --remote-debugging-port=0"
)


@contextlib.contextmanager
def chromium() -> Generator[str]:
    """Run a browser with an empty profile, and yield the URL of its DevTools."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, *FLAGS.split(), f"--user-data-dir={profile}", "about:blank"]
        address = Path(profile) / "DevToolsActivePort"
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                until(lambda: address.exists() and address.read_text().count("\n") == 1)
                port, path = address.read_text().splitlines()
                yield f"ws://127.0.0.1:{port}{path}"
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(LIMIT)
                except subprocess.TimeoutExpired:
                    process.kill()


class Browser:
    """The browser actions of a test; each tab has a DevTools session id."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._numbers = itertools.count(1)
        self._http = aiohttp.ClientSession()
        self._wire: aiohttp.ClientWebSocketResponse | None = None
        self._answers: dict[int, Any] = {}
        self._events: list[tuple[str, str | None]] = []

    async def __aenter__(self) -> Self:
        self._wire = await self._http.ws_connect(self._url, max_msg_size=0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def _send(self, method: str, tab: str | None, **told: Any) -> int:
        assert self._wire is not None
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": told}
        await self._wire.send_json(message | ({"sessionId": tab} if tab else {}))
        return number

    async def _answer(self, number: int) -> Any:
        """Wait for the response to one command, and keep the messages that come before it."""
        while number not in self._answers:
            await self._receive()
        answer = self._answers.pop(number)
        assert "error" not in answer, answer
        return answer["result"]

    async def _receive(self) -> None:
        assert self._wire is not None
        message = await self._wire.receive_json(timeout=LIMIT)
        if "id" in message:
            self._answers[message["id"]] = message
        else:
            self._events.append((message["method"], message.get("sessionId")))

    async def call(self, method: str, tab: str | None = None, **told: Any) -> Any:
        """Call a method of the protocol."""
        return await self._answer(await self._send(method, tab, **told))

    async def open(self, url: str) -> str:
        """Open a page in a new tab, and wait until it has loaded."""
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        tab: str = attached["sessionId"]
        await self.call("Page.enable", tab)
        self._events.clear()
        await self.call("Page.navigate", tab, url=url)
        while ("Page.loadEventFired", tab) not in self._events:
            await self._receive()
        return tab

    async def run(self, script: str, *tabs: str) -> list[Any]:
        """Run a script in several tabs at once, and wait for the value of its promise in each."""
        numbers = [
            await self._send(
                "Runtime.evaluate", tab, expression=script, awaitPromise=True, returnByValue=True
            )
            for tab in tabs
        ]
        results = [await self._answer(number) for number in numbers]
        for result in results:
            assert "exceptionDetails" not in result, result
        return [result["result"].get("value") for result in results]

    async def cookies(self) -> dict[str, str]:
        """Return the cookies that the browser keeps."""
        kept = (await self.call("Storage.getCookies"))["cookies"]
        return {cookie["name"]: cookie["value"] for cookie in kept}

    async def set_cookies(self, url: str, cookies: dict[str, str]) -> None:
        """Replace all cookies of the browser by these, for one site."""
        await self.call("Storage.clearCookies")
        told = [
            {"name": name, "value": value, "url": url, "secure": True, "sameSite": "Lax"}
            for name, value in cookies.items()
        ]
        await self.call("Storage.setCookies", cookies=told)
