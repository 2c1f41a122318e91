"""The photo page in a process of its own, which may be killed: python photo_process.py FOLDER."""

import json
import sys
from functools import partial
from pathlib import Path

from conftest import LIMITS, TINY

from zeronvs.web.jobs import Jobs
from zeronvs.web.photo_page import make_photo_app
from zeronvs.web.server import serve
from zeronvs.web.work import Worker


def main(out: Path) -> None:
    """Serve, and print the address as JSON."""

    def started(address: str) -> None:
        print(json.dumps(address.rstrip("/")), flush=True)

    with Jobs(out, partial(Worker, TINY), limits=LIMITS) as jobs:
        serve(make_photo_app(jobs, host=""), host="127.0.0.1", port=0, started=started)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(130)
