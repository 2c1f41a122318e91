"""What every request passes: the host it names, where it comes from, and headers of every answer.

A page of another site can make a browser send requests here. Its name may even resolve to this
machine (DNS rebinding). So a request must name this machine by an address or by a known name, and
whatever changes something must come from a page of ours.
"""

import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from fastapi import HTTPException, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from zeronvs._core.errors import InputError
from zeronvs._core.files import parse_json

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""Of every answer that does not set its own."""
SAFE_METHODS = ("GET", "HEAD")
MAX_JSON_BYTES = 4 * 2**20


class Guard:
    """Refuses requests of other sites, and adds the headers that protect ours."""

    def __init__(self, app: ASGIApp, *, host: str) -> None:
        """Wrap an application.

        Args:
            host: Address or name that is served; requests may name it, `localhost`, or any
                address (an address cannot be rebound to another machine).
        """
        self._app, self._host = app, host.lower()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope))
        app = self._app if refusal is None else JSONResponse({"error": refusal}, 403)
        await app(scope, receive, send_with_headers)

    def _refusal(self, method: str, headers: Headers) -> str | None:
        """Return why a request is refused; None where it is not."""
        host = headers.get("host", "")
        if not self._is_ours(host):
            return "this address is not served here; use the one that the program printed"
        if method not in SAFE_METHODS:
            origin = headers.get("origin", "")
            if not origin or urlsplit(origin).netloc.lower() != host.lower():
                return "only pages of this server may change something here"
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if name in ("localhost", self._host):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


async def read_json_body(request: Request) -> Any:
    """Return the JSON that a page has sent.

    Raises:
        HTTPException: It is of another type, or too large.
        InputError: It is no strict JSON.
    """
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise HTTPException(415, "the content must be application/json")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_JSON_BYTES:
            raise HTTPException(413, f"more than {MAX_JSON_BYTES >> 20} MiB were sent")
    return parse_json(bytes(body), "what the page has sent")


def answer_input_error(request: Request, error: Exception) -> JSONResponse:
    """Answer an `InputError` with its message."""
    message = error.message if isinstance(error, InputError) else str(error)
    return JSONResponse({"error": message}, 422)


def answer_http_error(request: Request, error: Exception) -> JSONResponse:
    """Answer an `HTTPException` in the form of all errors."""
    assert isinstance(error, StarletteHTTPException)
    return JSONResponse({"error": str(error.detail)}, error.status_code, headers=error.headers)
