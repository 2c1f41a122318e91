"""An application, and serving it until it is stopped."""

import signal
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import uvicorn
from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException

from zeronvs._core.errors import InputError
from zeronvs.web.guard import Guard, answer_http_error, answer_input_error

MAX_CONNECTIONS = 200


def make_app(routers: Iterable[APIRouter], *, host: str) -> FastAPI:
    """Return an application of some routes, guarded.

    Args:
        routers: The routes.
        host: The address or name that is served.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    for router in routers:
        app.include_router(router)
    app.add_middleware(Guard, host=host)
    app.add_exception_handler(InputError, answer_input_error)
    app.add_exception_handler(HTTPException, answer_http_error)
    return app


def serve(app: FastAPI, *, host: str, port: int, started: Callable[[str], None]) -> None:
    """Serve an application until the process is interrupted.

    Args:
        app: From `make_app`.
        host: Address or name of this machine.
        port: 0 takes any that is free.
        started: Called with the address of the page once it answers.

    Raises:
        InputError: The address cannot be used.
        KeyboardInterrupt: The process was interrupted or asked to end; everything was answered.
    """
    if threading.current_thread() is threading.main_thread():
        # Asked to end, it ends as after Ctrl-C: what holds processes and files can let them go.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    with closing(listening_socket(host, port)) as listener:
        found = listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            ws="none",
            http="h11",
            loop="asyncio",
            limit_concurrency=MAX_CONNECTIONS,
            server_header=False,
            timeout_graceful_shutdown=3,
        )
        server = _Server(config, lambda: started(f"http://{shown}:{found}/"))
        server.run(sockets=[listener])


class _Server(uvicorn.Server):
    """A server that tells when it answers."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to answer, then tell so."""
        await super().startup(sockets)
        if self.started:
            self._tell()


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket at an address.

    Raises:
        InputError: It is not of this machine, or in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise InputError(f"{host!r} is no address of this machine", argument="host") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        reason = (error.strerror or str(error)).lower()
        raise InputError(
            f"{port} of {host} cannot be served ({reason}); choose another", argument="port"
        ) from error
    return listener


def page_source(name: str) -> str:
    """Return the text of a file in pages/."""
    return (Path(__file__).parent / "pages" / name).read_text(encoding="utf-8")


def file_inside(folder: Path, *parts: str) -> Path:
    """Return a file in a folder; a link that leads out of it counts as missing.

    Raises:
        HTTPException: There is no such file.
    """
    path = folder.joinpath(*parts)
    if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        raise HTTPException(404, "there is no such file")
    return path
