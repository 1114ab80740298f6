"""Headless Chromium on a page, driven by the DevTools protocol."""

import base64
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

CHROMIUM = Path("/usr/bin/chromium")
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --remote-debugging-port=0"
)
#: what a page that is well does not cause: a message, an error, a dialogue
_COMPLAINTS = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Page.javascriptDialogOpening")


class Tab:
    """A tab. `events` holds all that the browser has told of it."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._session = socket, {}
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session["sessionId"] = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, until: str | None = None, **params: Any) -> dict[str, Any]:
        """The reply to a command; `until`: the event to wait for after it."""
        self._socket.send(json.dumps({"id": 1, "method": method, "params": params} | self._session))
        reply, seen = None, until is None
        while reply is None or not seen:
            message = json.loads(self._socket.recv(timeout=60))
            assert "error" not in message, message
            reply = message.get("result", reply)
            seen = seen or message.get("method") == until
            if "method" in message:
                self.events.append(message)
        return reply

    def open(self, url: str, width: int, dark: bool = False) -> None:
        """Load a page in a window of that width; below 700 pixels that of a phone."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        window = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 700}
        self.send("Emulation.setDeviceMetricsOverride", **window)
        self.send("Page.navigate", until="Page.loadEventFired", url=url)

    def evaluate(self, expression: str) -> Any:
        """What a JavaScript expression gives, as JSON."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, path: Path, height: int | None = None) -> None:
        """The page from its top as a PNG, whole or of that height."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": height or size["height"], "scale": 1}
        found = self.send("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(found["data"]))

    @property
    def complaints(self) -> list[dict[str, Any]]:
        """Messages in the console, errors and dialogues."""
        return [event for event in self.events if event["method"] in _COMPLAINTS]

    @property
    def requests(self) -> list[str]:
        """Every address that was asked for."""
        found = [event["params"] for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in found]


@contextmanager
def chromium(profile: Path) -> Iterator[Tab]:
    """A tab of a browser with an empty profile."""
    command = [str(CHROMIUM), *_FLAGS.split(), f"--user-data-dir={profile}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        address = next(line.split()[-1] for line in process.stderr if line.startswith("DevTools listening on"))
        with connect(address, max_size=None) as socket:
            yield Tab(socket)
    finally:
        process.terminate()
        process.wait()
