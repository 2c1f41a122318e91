"""A server on loopback that serves files with ranges, and misbehaves as told."""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STALL_S = 1.0


@dataclass
class FlakyServer:
    """What is served, how, and what was asked for."""

    files: dict[str, bytes]
    faults: list[str] = field(default_factory=list)
    """One for each request to come, then none: "cut" and "stall" in the middle, "whole" whatever
    range is asked for, "shift" the range, "page", "unannounced", or an error code."""
    ranges: list[str | None] = field(default_factory=list)
    """The range of each request so far."""
    address: str = ""


class _Handler(BaseHTTPRequestHandler):
    server_state: FlakyServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        state = self.server_state
        fault = state.faults.pop(0) if state.faults else ""
        asked = self.headers.get("Range")
        state.ranges.append(asked)
        content = state.files.get(self.path)
        if content is None or fault.isdigit():
            self.send_error(404 if content is None else int(fault))
            return
        tag = f'"{hashlib.sha1(content).hexdigest()}"'
        start = 0
        if asked and fault != "whole" and self.headers.get("If-Range") in (None, tag):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        if start:
            told = start + (fault == "shift")
            self.send_header("Content-Range", f"bytes {told}-{len(content) - 1}/{len(content)}")
        if fault != "unannounced":
            self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Content-Type", "text/html" if fault == "page" else "application/x")
        self.send_header("ETag", tag)
        self.end_headers()
        rest = content[start:]
        if fault in ("cut", "stall"):
            self.wfile.write(rest[: len(rest) // 2])
            self.wfile.flush()
            time.sleep(STALL_S if fault == "stall" else 0)
            self.close_connection = True
            return
        self.wfile.write(rest)


@contextmanager
def flaky_server(files: dict[str, bytes], *faults: str) -> Iterator[FlakyServer]:
    """Serve files by path."""
    state = FlakyServer(files, list(faults))
    handler = type("Handler", (_Handler,), {"server_state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
