"""`zeronvs view`: look around in a finished scene, on a page served on this machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from zeronvs.cli.arguments import check_port, parse

RENDER_LIMIT_S = 3600.0
"""Seconds after which a video is given up."""


@dataclass(frozen=True, kw_only=True)
class ViewArguments:
    """Look around in a finished scene: views, cameras, depth, paths to play, record and render."""

    run_dir: tyro.conf.Positional[Path]
    """The folder that `zeronvs scene` made."""
    host: str = "127.0.0.1"
    """Address to serve at; with 0.0.0.0 others in the network can look and render, too."""
    port: int = 8040
    """Port to serve at; 0 takes any that is free."""


def run(words: Sequence[str]) -> None:
    """Parse the arguments and serve the page until interrupted."""
    arguments = parse(ViewArguments, words, "view")
    check_port(arguments.port)
    from tempfile import TemporaryDirectory

    from zeronvs.cli.report import print_address, progress_bar
    from zeronvs.recipes.run_folder import open_run
    from zeronvs.web.look import write_look_page
    from zeronvs.web.look_routes import Place, look_router
    from zeronvs.web.server import make_app, serve
    from zeronvs.web.task_queue import TaskQueue
    from zeronvs.web.work import Worker

    run = open_run(arguments.run_dir)
    with TemporaryDirectory(prefix="zeronvs-") as folder:
        place = Place(arguments.run_dir, Path(folder) / "look.html")
        with progress_bar() as progress:
            write_look_page(run, place.page, progress=progress)
        with TaskQueue(Worker, limit_s=RENDER_LIMIT_S) as queue:
            app = make_app([look_router("", lambda: place, queue)], host=arguments.host)
            serve(app, host=arguments.host, port=arguments.port, started=print_address)
