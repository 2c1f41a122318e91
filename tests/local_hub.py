"""A model hub on loopback that serves one folder, as far as the hub's client asks."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "a" * 40


class _Handler(BaseHTTPRequestHandler):
    folder: Path
    hub_id: str
    answer: bytes | None
    posted: list[dict]

    def do_GET(self) -> None:
        self._respond(with_body=True)

    def do_HEAD(self) -> None:
        self._respond(with_body=False)

    def do_POST(self) -> None:
        """Take a repository and a commit, whose files are written to the folder."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        name = f"/api/models/{self.hub_id}"
        if self.path == "/api/repos/create":
            self.posted.append(json.loads(body))
            answer = {"url": f"http://{self.headers['Host']}/{self.hub_id}"}
        elif self.path == "/api/validate-yaml":
            answer = {"errors": [], "warnings": []}
        elif self.path.startswith(f"{name}/preupload/"):
            paths = [file["path"] for file in json.loads(body)["files"]]
            kinds = {"uploadMode": "regular", "shouldIgnore": False}
            answer = {"files": [{"path": path, **kinds} for path in paths]}
        elif self.path.startswith(f"{name}/commit/"):
            for line in map(json.loads, body.splitlines()):
                self.posted.append({line["key"]: line["value"].get("path", line["value"])})
                if line["key"] == "file":
                    path = self.folder / line["value"]["path"]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(base64.b64decode(line["value"]["content"]))
            answer = {"commitUrl": f"http://{self.headers['Host']}/{self.hub_id}/commit/{COMMIT}"}
            answer |= {"commitOid": COMMIT}
        else:
            self.send_error(404)
            return
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

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
        main = f"/datasets/{self.hub_id}/resolve/main/"
        if path == api.removesuffix("/"):
            return self.answer or self._metadata()
        if path.startswith(main):
            files = main
        if path.startswith(f"{api}revision/"):
            return self.answer or json.dumps({"id": self.hub_id, "sha": COMMIT}).encode()
        if path.startswith(f"{api}tree/"):
            if self.answer is not None:
                return self.answer
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

    def _metadata(self) -> bytes:
        siblings = []
        for file in sorted(self.folder.rglob("*")):
            if file.is_file():
                content = file.read_bytes()
                digest = hashlib.sha256(content).hexdigest()
                lfs = {"sha256": digest, "size": len(content), "pointerSize": 100}
                name = file.relative_to(self.folder).as_posix()
                siblings.append({"rfilename": name, "size": len(content), "lfs": lfs})
        tags = ["diffusers", "license:mit"]
        return json.dumps(
            {"id": self.hub_id, "sha": COMMIT, "siblings": siblings, "tags": tags}
        ).encode()


@contextmanager
def local_hub(
    folder: Path, hub_id: str, *, answer: bytes | None = None, posted: list[dict] | None = None
) -> Iterator[str]:
    """Serve a folder under a hub id, and take commits to it; yield the address of the hub.

    Args:
        answer: What it says about the repository, instead of the truth.
        posted: What clients post is appended.
    """
    posted = [] if posted is None else posted
    members = {"folder": folder, "hub_id": hub_id, "answer": answer, "posted": posted}
    handler = type("Handler", (_Handler,), members)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use_hub(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Let the hub's client ask this hub, as HF_ENDPOINT does for a new process."""
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
