"""A worker of tiny tasks, for processes that import nothing heavy.

Run as `python task_work.py FOLDER`, it is a main process with one endless task.
"""

import os
import sys
import time
from pathlib import Path

from zeronvs._core.errors import InputError
from zeronvs._core.progress import Progress, ProgressEvent
from zeronvs.web.task_queue import TaskQueue


def make_worker():
    """Return what does a task of `do`."""
    return do


def make_idle_worker():
    """Return what does any task by doing nothing."""
    return do_nothing


def do_nothing(task: object, progress: Progress) -> None:
    """Do nothing, where the work is not what is tested."""


def do(task: tuple[str, Path], progress: Progress) -> None:
    """Do a task: a word, and a file to write."""
    word, path = task
    progress(ProgressEvent(word, 1, 2))
    path.write_text(str(os.getpid()), encoding="utf-8")
    match word:
        case "sleep":
            time.sleep(600)
        case "refuse":
            raise InputError("it is no photograph", argument="photo")
        case "break":
            raise ZeroDivisionError("a bug")
        case "die":
            os._exit(9)


def main(folder: Path) -> None:
    with TaskQueue(make_worker, limit_s=600.0) as queue:
        queue.put("endless", ("sleep", folder / "pid"))
        time.sleep(600)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
