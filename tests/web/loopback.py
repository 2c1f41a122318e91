"""A served application on loopback, and requests to it as a browser would send them."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI

from zeronvs.web.server import listening_socket


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Serve in a thread; yield the address."""
    with listening_socket("127.0.0.1", 0) as listener:
        config = uvicorn.Config(app, log_config=None, ws="none", http="h11", loop="asyncio")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        wait_for(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def wait_for(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self):
        return json.loads(self.content)


class Client:
    """A visitor: keeps its cookie, and names its origin as pages of the server do."""

    def __init__(self, address: str) -> None:
        self.address, self.cookie = address, None

    def __call__(self, method: str, path: str, body=None, **headers: str) -> Answer:
        """Send one request; a dictionary is sent as JSON, header names with _ for -."""
        sent = {"origin": self.address} if method not in ("GET", "HEAD") else {}
        if isinstance(body, dict | list):
            body, sent["content-type"] = json.dumps(body).encode(), "application/json"
        if self.cookie:
            sent["cookie"] = self.cookie
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {name: value for name, value in sent.items() if value is not None}
        connection = http.client.HTTPConnection(urlsplit(self.address).netloc, timeout=60)
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            answer = Answer(response.status, found, response.read())
        finally:
            connection.close()
        if "set-cookie" in answer.headers:
            self.cookie = answer.headers["set-cookie"].split(";")[0]
        return answer
