"""A headless Chromium that pages are opened in, driven through its DevTools pipe with the standard library alone."""

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_PATIENCE = 60  # seconds; the machine may be busy
_CODES = {"Tab": 9, " ": 32, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Delete": 46}


def find_chromium() -> str | None:
    """Return the program, or None where there is none."""
    named = os.environ.get("CHROMIUM")
    return next((found for name in ([named] if named else _NAMES) if (found := shutil.which(name))), None)


def why_chromium_cannot_run() -> str | None:
    """Return what is missing, or None where nothing is."""
    if os.name == "nt":
        return "Chromium is driven through file descriptors 3 and 4, which Windows does not hand on"
    return (
        None
        if find_chromium()
        else "pages are looked at in Chromium, and there is none; install it or name it in CHROMIUM"
    )


needs_chromium = pytest.mark.skipif(why_chromium_cannot_run() is not None, reason=str(why_chromium_cannot_run()))


@contextmanager
def chromium() -> Iterator["Chromium"]:
    """Start a browser with a profile of its own, and end it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Chromium(Path(profile))
        try:
            yield browser
        finally:
            browser.close()


class Chromium:
    """A browser with one page, which reaches this machine alone.

    Args:
        folder: of its profile.
    """

    def __init__(self, folder: Path) -> None:
        program = find_chromium()
        assert program is not None
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        command = [
            *(program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server"),
            *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--hide-scrollbars"),
            "--remote-debugging-pipe",
            *(f"--user-data-dir={folder}", "about:blank"),
        ]
        # Its two ends are to be 3 and 4: handed on as its input and output, and put there by a shell.
        self._process = subprocess.Popen(
            ["sh", "-c", 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null', "sh", *command],
            stdin=theirs_in,
            stdout=theirs_out,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for each in (theirs_in, theirs_out):
            os.close(each)
        self._buffer, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = next(each for each in self.call("Target.getTargets")["targetInfos"] if each["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """End the browser and whatever it started."""
        os.close(self._out)
        os.close(self._in)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return what a DevTools method answers."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(f"an answer to {method}")
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _next(self, what: str) -> dict[str, Any]:
        deadline = time.monotonic() + _PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0, deadline - time.monotonic()))
            chunk = os.read(self._in, 1 << 20) if ready else b""
            if not chunk:
                raise RuntimeError(f"Chromium has ended, or gave no {what} in {_PATIENCE} s")
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def open(
        self, page: Path | str, *, width: int = 1280, height: int = 900, dark: bool = False, phone: bool | None = None
    ) -> None:
        """Open a file or an address in a window of this size, a phone's where it is narrow, and wait for it to load."""
        phone = width < 600 if phone is None else phone
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.events.clear()
        self.call("Page.navigate", url=page if isinstance(page, str) else page.absolute().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next("loaded page"))

    def evaluate(self, script: str) -> Any:
        """Return what an expression of JavaScript in the page comes to, a promise's value waited for."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"].get("exception", found["exceptionDetails"])))
        return found["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """Return the value of an expression as soon as it is true."""
        deadline = time.monotonic() + _PATIENCE
        while not (value := self.evaluate(script)):
            assert time.monotonic() < deadline, f"{script} did not become true; {self.complaints()}"
            time.sleep(0.05)
        return value

    def press(self, key: str, code: str = "", text: str = "") -> None:
        """Press a key and let it go; `text` is what it types."""
        about = {"key": key, "code": code or key, "windowsVirtualKeyCode": _CODES.get(key, 0)}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **about, text=text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

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

    def point_at(self, x: float, y: float) -> None:
        """Move the pointer to a place in the window."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def complaints(self) -> list[str]:
        """Return what the console and the log said since the page was opened: errors, warnings, refusals."""
        found = []
        for event in self.events:
            said = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(str(said["exceptionDetails"].get("text")))
            elif event.get("method") == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
                found.append(str(said["args"]))
            elif event.get("method") == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
                found.append(said["entry"]["text"])
        return found

    def requests(self) -> list[str]:
        """Return what was asked for since the page was opened, but for embedded data."""
        asked = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith("data:")]

    def screenshot(self, out: Path, *, whole: bool = True) -> None:
        """Write what is seen as a PNG, the whole page or the window."""
        options: dict[str, Any] = {"format": "png", "captureBeyondViewport": whole}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            options["clip"] = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        out.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", **options)["data"]))
