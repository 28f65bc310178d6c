"""Headless Chromium, controlled through its DevTools protocol over a pair of pipes."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Self

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = "Chromium isn't installed; on Debian and Ubuntu: apt-get install --no-install-recommends chromium"


class Browser:
    """A browser process with one page; a context manager. Waiting longer than `patience` seconds is an error."""

    def __init__(self, folder: Path, width: int = 1440, height: int = 1000, patience: float = 600.0) -> None:
        self.patience, self._count, self._buffer = patience, 0, b""
        self.errors: list[str] = []
        """Uncaught exceptions of the page's scripts."""
        # Chromium reads commands from file descriptor 3 and writes answers to 4, so no port or handshake is needed.
        theirs, self._out = os.pipe()
        self._in, answers = os.pipe()
        options = ["--headless=new", "--remote-debugging-pipe", f"--user-data-dir={folder}", "--no-first-run"]
        options += ["--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--mute-audio"]
        options += [
            "--disable-background-networking",
            "--disable-component-update",
            "--autoplay-policy=no-user-gesture-required",
        ]
        # Pretend that there is a mouse: without one, charts show their buttons at all times.
        options += [
            "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4"
        ]
        options += ["--no-sandbox"] if os.geteuid() == 0 else []
        assert CHROMIUM is not None, MISSING
        launch = f'exec "$@" 3<&{theirs} 4>&{answers}'
        self._process = subprocess.Popen(
            ["bash", "-c", launch, "bash", CHROMIUM, *options, f"--window-size={width},{height}", "about:blank"],
            pass_fds=(theirs, answers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs)
        os.close(answers)
        targets = self.call("Target.getTargets", session=False)["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True, session=False)["sessionId"]
        for domain in ("Page", "Runtime"):
            self.call(f"{domain}.enable")
        self.resize(width, height)

    def call(self, method: str, *, session: bool = True, **params: Any) -> Any:
        """Send a command of the protocol and return its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        message |= {"sessionId": self._session} if session else {}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + self.patience
        while True:
            answer = self._receive(deadline)
            if answer.get("method") == "Runtime.exceptionThrown":
                details = answer["params"]["exceptionDetails"]
                self.errors.append(details.get("exception", {}).get("description", details["text"]))
            if answer.get("id") == self._count:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"Chromium said nothing for {self.patience} s"
            some = os.read(self._in, 1 << 20)
            assert some, "Chromium ended"
            self._buffer += some
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def at_start(self, script: str) -> None:
        """Run a script in every page before the page's own scripts."""
        self.call("Page.addScriptToEvaluateOnNewDocument", source=script)

    def open(self, url: str) -> None:
        """Navigate to a page; use `wait` to wait for content that it loads afterwards."""
        # Applications that route by the URL's fragment (after #) don't reload when only the fragment changes.
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)

    def js(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; if it is a promise, the value that it resolves to."""
        got = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in got, got["exceptionDetails"]
        return got["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Evaluate a JavaScript expression until its value is truthy; return that value."""
        deadline = time.monotonic() + self.patience
        while not (value := self.js(expression)):
            if time.monotonic() > deadline:
                raise AssertionError(f"never true: {expression}\nThe page says:\n{self.text()[:3000]}")
            time.sleep(0.1)
        return value

    def wait_for(self, *texts: str) -> str:
        """Wait until the page shows all these texts; return all of its text."""
        for text in texts:
            self.wait(f"document.body && document.body.innerText.includes({json.dumps(text)})")
        return self.text()

    def text(self) -> str:
        """Return the text that a user can read, without titles inside charts."""
        return str(self.js("document.body ? document.body.innerText : ''"))

    def click(self, text: str, selector: str = "*") -> None:
        """Click the innermost element that shows this text."""
        found = (
            f"[...document.querySelectorAll({json.dumps(selector)})]"
            f".filter(e => e.innerText && e.innerText.trim() === {json.dumps(text)}).pop()"
        )
        self.wait(f"!!({found})")
        self.js(f"({found}).click()")

    def resize(self, width: int, height: int) -> None:
        """Change the size of the page."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def screenshot(self, path: Path, **clip: float) -> Path:
        """Save the visible part of the page, or the rectangle `x`, `y`, `width`, `height`, as a PNG file."""
        area: dict[str, Any] = {"clip": {**clip, "scale": 1}} if clip else {}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png", **area)["data"]))
        return path

    def close(self) -> None:
        """End the browser and its children."""
        with contextlib.suppress(AssertionError, OSError):
            self.call("Browser.close", session=False)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
