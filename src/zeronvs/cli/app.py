"""`zeronvs app`: a page on which visitors make scenes of their photographs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from zeronvs._core.errors import InputError
from zeronvs.cli.arguments import check_port, parse


@dataclass(frozen=True, kw_only=True)
class AppArguments:
    """Serve a page on which a photograph becomes a scene: estimates, preview, look, download."""

    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")]
    """Where photographs and scenes are kept; a server started again there resumes its work."""
    host: str = "127.0.0.1"
    """Address to serve at. With 0.0.0.0 the network can use it, for instance a phone."""
    port: int = 8050
    """Port to serve at; 0 takes any that is free."""
    max_mb: float = 40.0
    """Largest file that is taken, in megabytes."""
    max_megapixels: float = 100.0
    """Largest photograph that is taken."""
    max_minutes: float = 30.0
    """Longest time for one scene."""


def run(words: Sequence[str]) -> None:
    """Parse the arguments and serve the page until interrupted."""
    arguments = parse(AppArguments, words, "app")
    check_port(arguments.port)
    for name in ("max_mb", "max_megapixels", "max_minutes"):
        value = getattr(arguments, name)
        if not 0 < value <= 10_000:
            raise InputError(f"it is {value:g}; it must be above 0", argument=name)
    from zeronvs.cli.report import print_address
    from zeronvs.web.jobs import Jobs, Limits
    from zeronvs.web.photo_page import make_photo_app
    from zeronvs.web.server import serve
    from zeronvs.web.work import Worker

    limits = Limits(
        upload_bytes=round(arguments.max_mb * 1e6),
        photo_px=round(arguments.max_megapixels * 1e6),
        job_s=60 * arguments.max_minutes,
    )
    with Jobs(arguments.out, Worker, limits=limits) as jobs:
        app = make_photo_app(jobs, host=arguments.host)
        serve(app, host=arguments.host, port=arguments.port, started=print_address)
