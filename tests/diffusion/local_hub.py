"""A model hub on loopback that serves one folder, as far as the hub's client asks."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "a" * 40


class _Handler(BaseHTTPRequestHandler):
    folder: Path
    hub_id: str

    def do_GET(self) -> None:
        self._respond(with_body=True)

    def do_HEAD(self) -> None:
        self._respond(with_body=False)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _respond(self, *, with_body: bool) -> None:
        content = self._content(self.path.split("?")[0])
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def _content(self, path: str) -> bytes | None:
        api, files = f"/api/models/{self.hub_id}/", f"/{self.hub_id}/resolve/{COMMIT}/"
        if path.startswith(f"{api}revision/"):
            return json.dumps({"id": self.hub_id, "sha": COMMIT}).encode()
        if path.startswith(f"{api}tree/"):
            found = [file for file in sorted(self.folder.rglob("*")) if file.is_file()]
            names = [file.relative_to(self.folder).as_posix() for file in found]
            sizes = [file.stat().st_size for file in found]
            return json.dumps(
                [
                    {"type": "file", "path": name, "size": size, "oid": "0" * 40}
                    for name, size in zip(names, sizes, strict=True)
                ]
            ).encode()
        if path.startswith(files) and (self.folder / path.removeprefix(files)).is_file():
            return (self.folder / path.removeprefix(files)).read_bytes()
        return None


@contextmanager
def local_hub(folder: Path, hub_id: str) -> Iterator[str]:
    """Serve a folder under a hub id; yield the address of the hub."""
    handler = type("Handler", (_Handler,), {"folder": folder, "hub_id": hub_id})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
