"""A headless Chromium that tests drive over its debugging pipe, without any further package."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_SECONDS = 60.0


def find_chromium() -> str | None:
    """Return the browser's program, None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((found for name in names if (found := shutil.which(name))), None)


needs_chromium = pytest.mark.skipif(find_chromium() is None, reason="Chromium is not installed")


class Chromium:
    """One tab; what it logs and asks for is kept.

    Args:
        send: descriptor that commands are written to.
        receive: descriptor that answers and events are read from.
    """

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive = send, receive
        self._left = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """Send a command of the DevTools protocol and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + _SECONDS
        while (answer := self._next(end)).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression, awaited where it is a promise."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, expression: str, seconds: float = _SECONDS) -> Any:
        """Return the value of an expression as soon as it is true."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < end, f"{expression} did not become true; {self.complaints()}"
            time.sleep(0.05)
        return value

    def open(self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False, phone: bool = False) -> None:
        """Show a page in a window of this size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'")

    def complaints(self) -> list[str]:
        """Return the errors and warnings that the page logged, and what it threw."""
        said = []
        for event in self.events:
            method, about = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                said.append(json.dumps(about["exceptionDetails"])[:500])
            if method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
                said.append(json.dumps(about["args"])[:500])
            if method == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
                said.append(json.dumps(about["entry"])[:500])
        return said

    def requests(self) -> list[str]:
        """Return the addresses that the page asked for, data in them left out."""
        asked = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith("data:")]

    def drag(self, *points: tuple[float, float], touch: bool = False) -> None:
        """Press at the first point, move over the others, let go at the last."""
        for number, (x, y) in enumerate(points):
            if touch:
                kind = "touchMove" if number else "touchStart"
                self.call("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y}])
            else:
                kind = "mouseMoved" if number else "mousePressed"
                self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
        x, y = points[-1]
        if touch:
            self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        else:
            self.call("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, code: str = "", text: str = "") -> None:
        """Press a key and let it go."""
        about = {"key": key, "code": code or key, "windowsVirtualKeyCode": _KEYS.get(key, 0)}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **about, text=text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def screenshot(self, path: Path) -> None:
        """Write the whole page as a PNG file."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._receive], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"Chromium did not answer within {_SECONDS:g} s"
            part = os.read(self._receive, 1 << 20)
            assert part, "Chromium has ended"
            self._left += part
        message, _, self._left = self._left.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer


_KEYS = {"Tab": 9, " ": 32, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Delete": 46}


@contextmanager
def chromium(*flags: str) -> Iterator[Chromium]:
    """Start a browser with an empty profile, and end it.

    Args:
        flags: of its command line, besides those that a test always needs.
    """
    program = find_chromium()
    assert program is not None
    to_browser, from_browser = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            program,
            "--headless=new",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
            "--no-sandbox",  # containers have no user namespaces; what is opened is the test's own page
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--hide-scrollbars",
            *flags,
        ]
        # The browser reads from descriptor 3 and writes to 4, whatever numbers the pipes have here.
        shell = 'exec "$@" 3<&"$READ" 4>&"$WRITE"'
        read, write = to_browser[0], from_browser[1]
        process = subprocess.Popen(
            ["bash", "-c", shell, "chromium", *command],
            env={**os.environ, "READ": str(read), "WRITE": str(write)},
            pass_fds=(read, write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read)
        os.close(write)
        try:
            yield Chromium(to_browser[1], from_browser[0])
        finally:
            os.close(to_browser[1])
            os.close(from_browser[0])
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
