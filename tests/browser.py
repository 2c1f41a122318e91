"""A headless Chromium, driven through its debugging pipe: pages, pixels, input, the console."""

import base64
import contextlib
import io
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """Return the program, or None where the machine has none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One tab of a headless Chromium that draws WebGL in software."""

    def __init__(self, profile: Path, *flags: str) -> None:
        # Chromium reads commands from descriptor 3 and answers on 4.
        read_commands, self._commands = os.pipe()
        self._answers, write_answers = os.pipe()
        program = find_chromium()
        assert program is not None
        words = [program, "--headless", "--no-sandbox", "--remote-debugging-pipe"]
        words += ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--hide-scrollbars"]
        words += [f"--user-data-dir={profile}", "--force-prefers-reduced-motion", *flags]
        shell = 'exec 3<&"$0" 4>&"$1"; shift; exec "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, str(read_commands), str(write_answers), *words],
            pass_fds=(read_commands, write_answers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(read_commands)
        os.close(write_answers)
        self._buffer, self._number, self._session = b"", 0, None
        self.served = "file:"
        """What the addresses of requests may begin with that are no complaint."""
        self.complaints: list[str] = []
        """Errors and warnings of the page, and requests that it made."""
        self.new_visitor()

    def new_visitor(self) -> None:
        """Go on in a tab of a new visitor, without the cookies of others."""
        self._session = None
        context = self.call("Target.createBrowserContext")["browserContextId"]
        options = {"url": "about:blank", "browserContextId": context}
        target = self.call("Target.createTarget", **options)["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.show_tab(attached["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")

    @property
    def tab(self) -> str:
        """The tab in use, for `show_tab`."""
        assert self._session is not None
        return self._session

    def show_tab(self, tab: str) -> None:
        """Go on in a tab that was opened before."""
        self._session = tab

    def close(self) -> None:
        """End the program, and every process that it started."""
        os.close(self._commands)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        with contextlib.suppress(ProcessLookupError):  # none of the group is left
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._answers)

    def call(self, method: str, **parameters) -> dict:
        """Send one command of the DevTools protocol and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(30.0)
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def open(self, path: Path, *, width_px: int, height_px: int, before: str = "") -> None:
        """Open a file, after running `before` in the new page, and wait until it is ready."""
        self.complaints.clear()
        self.resize(width_px, height_px)
        script = self.call("Page.addScriptToEvaluateOnNewDocument", source=before)["identifier"]
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait_for("['ready', 'failed'].includes(document.documentElement?.dataset.state)")
        self.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script)

    def visit(self, address: str, *, width_px: int, height_px: int, touch: bool = False) -> None:
        """Open a served page; requests to its server are no complaint."""
        self.complaints.clear()
        self.served = "/".join(address.split("/")[:3]) + "/"
        self.resize(width_px, height_px, touch=touch)
        self.call("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete' && location.protocol === 'http:'")

    def click(self, selector: str) -> None:
        """Click in the middle of an element, after scrolling to it."""
        script = (
            "(() => { const e = document.querySelector(%s); e.scrollIntoView({ block: 'center' }); "
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; "
            "})()"
        )
        x, y = self.evaluate(script % json.dumps(selector))
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, button="left", clickCount=1)

    def choose_file(self, selector: str, path: Path) -> None:
        """Choose a file in an input element."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def resize(self, width_px: int, height_px: int, ratio: float = 1, touch: bool = False) -> None:
        """Set the size of the window."""
        size = {"width": width_px, "height": height_px, "deviceScaleFactor": ratio}
        self.call("Emulation.setDeviceMetricsOverride", mobile=touch, **size)
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)

    def evaluate(self, expression: str):
        """Return the value of a JavaScript expression; promises are awaited."""
        options = {"returnByValue": True, "awaitPromise": True}
        result = self.call("Runtime.evaluate", expression=expression, **options)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_for(self, condition: str, seconds: float = 30.0) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < end, f"waited in vain for {condition}: {self.complaints}"
            time.sleep(0.05)

    def pixels(self, *, bare: bool = False) -> torch.Tensor:
        """Return what is on the screen, "3 h w" in [0, 1]; bare: without what lies over it."""
        if bare:
            self.evaluate(
                "document.head.insertAdjacentHTML('beforeend', "
                "'<style>.over, #cover { display: none } canvas { outline: none !important }')"
            )
        data = self.call("Page.captureScreenshot", format="png")["data"]
        image = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
        return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255

    def mouse(self, kind: str, x: float, y: float, **more) -> None:
        """Send a mouse event: mousePressed, mouseMoved, mouseReleased or mouseWheel."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def drag(self, start: tuple[int, int], end: tuple[int, int], button: str = "left") -> None:
        """Drag with a mouse button, in some steps."""
        held = {"button": button, "buttons": 2 if button == "right" else 1, "clickCount": 1}
        self.mouse("mousePressed", *start, **held)
        for step in range(1, 9):
            x, y = (a + (b - a) * step // 8 for a, b in zip(start, end, strict=True))
            self.mouse("mouseMoved", x, y, **held)
        self.mouse("mouseReleased", *end, **held | {"buttons": 0})

    def key(self, code: str, seconds: float = 0.0) -> None:
        """Press a key and release it some time later."""
        self.call("Input.dispatchKeyEvent", type="keyDown", code=code)
        time.sleep(seconds)
        self.call("Input.dispatchKeyEvent", type="keyUp", code=code)

    def _next(self, seconds: float) -> dict:
        """Return the next message; remember what it says against the page."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], seconds)
            assert ready, f"the browser has been silent for {seconds} s"
            received = os.read(self._answers, 1 << 20)
            assert received, "the browser has ended"
            self._buffer += received
        message, self._buffer = self._buffer.split(b"\0", 1)
        answer = json.loads(message)
        given = answer.get("params", {})
        match answer.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(given["exceptionDetails"])[:400])
            case "Runtime.consoleAPICalled" if given["type"] in ("error", "warning", "assert"):
                self.complaints.append(json.dumps(given["args"])[:400])
            case "Log.entryAdded":
                self.complaints.append(given["entry"]["text"])
            case "Network.requestWillBeSent":
                address = given["request"]["url"]
                if not address.startswith((self.served, "data:", "blob:", "about:")):
                    self.complaints.append(f"requested {address}")
        return answer
