"""A headless chromium driven over the Chrome DevTools Protocol, for tests of pages."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
    # WebGL on the processor.
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
)  # fmt: skip


class Page:
    """One page of the browser.

    Attributes:
        errors: what the page wrote on its console as errors, and exceptions that nothing caught.
    """

    def __init__(self, socket: Any) -> None:
        self.errors: list[str] = []
        self._socket, self._numbers = socket, itertools.count(1)
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command, and its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        method, content = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(content["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and content["type"] in ("error", "assert"):
            self.errors.append(json.dumps([one.get("value", one.get("description")) for one in content["args"]]))
        elif method == "Log.entryAdded" and content["entry"]["level"] == "error":
            self.errors.append(f"{content['entry']['text']} {content['entry'].get('url', '')}")

    def evaluate(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_for(self, expression: str, timeout_s: float = 60.0) -> Any:
        """The first value of the expression that is true."""
        end = time.monotonic() + timeout_s
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < end, f"{expression} is not true after {timeout_s} s: {self.evaluate(TEXT)[:2000]}"
            time.sleep(0.1)
        return value

    def wait_for_text(self, text: str, timeout_s: float = 60.0) -> None:
        self.wait_for(f"{TEXT}.includes({json.dumps(text)})", timeout_s)

    def click(self, x: float, y: float) -> None:
        for kind, buttons in (("mouseMoved", 0), ("mousePressed", 1), ("mouseReleased", 0)):
            self.call(
                "Input.dispatchMouseEvent", type=kind, x=x, y=y, buttons=buttons, clickCount=1,
                button="none" if kind == "mouseMoved" else "left",
            )  # fmt: skip
            time.sleep(0.05)

    def screenshot(self, path: Path) -> Path:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        return path


TEXT = '(document.body?.innerText ?? "")'


@contextmanager
def open_page(url: str, profile: Path, *, width: int = 1200, height: int = 750) -> Iterator[Page]:
    """A page at an address; skips the test where there is no chromium or no client for its protocol."""
    websocket = pytest.importorskip("websocket", reason="needs the package websocket-client to drive a browser")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs chromium, a browser, to look at pages: apt-get install chromium")
    command = [
        program, *FLAGS, f"--window-size={width},{height}", f"--user-data-dir={profile}", "--remote-debugging-port=0",
        "--remote-allow-origins=*", "about:blank",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            port_file, end = profile / "DevToolsActivePort", time.monotonic() + 30
            while not (port_file.exists() and port_file.read_text().count("\n")):
                assert process.poll() is None, f"chromium ended with status {process.returncode}"
                assert time.monotonic() < end, "chromium does not start"
                time.sleep(0.05)
            port = int(port_file.read_text().split()[0])
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=10) as answer:
                target = next(one for one in json.load(answer) if one["type"] == "page")
            socket = websocket.create_connection(target["webSocketDebuggerUrl"], timeout=60)
            try:
                page = Page(socket)
                page.call(
                    "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
                )
                page.call("Page.navigate", url=url)
                yield page
            finally:
                socket.close()
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
