"""Tasks that wait for each other, each in a process of its own.

One process is kept ready: it has imported and loaded what tasks need, takes one task, and ends with
it. So a task begins at once, and what it does to its process (memory, a crash in a decoder) is
gone with it. A task can be cancelled, has a limited time, and ends when this process ends, however
that happens.
"""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Generic, Literal, TypeVar

from zeronvs._core.errors import HealthError, InputError
from zeronvs._core.progress import Progress, ProgressEvent

Task = TypeVar("Task")

State = Literal["waiting", "running", "done", "failed", "cancelled"]
BUG = "something went wrong inside the program; its terminal has the details"

ENDING_S = 10.0
"""Longest time to wait for a process that is being ended."""


@dataclass(frozen=True, kw_only=True)
class TaskStatus:
    """Where a task stands."""

    state: State
    ahead: int = 0
    """Tasks before it, where it is waiting."""
    event: ProgressEvent | None = None
    """The last progress."""
    message: str | None = None
    """Why it failed."""


class TaskQueue(Generic[Task]):
    """Runs tasks in the order in which they come, some at a time."""

    def __init__(
        self,
        make_worker: Callable[[], Callable[[Task, Progress], None]],
        *,
        limit_s: float,
        at_once: int = 1,
        changed: Callable[[str, TaskStatus], None] = lambda key, status: None,
    ) -> None:
        """Keep the settings; `with queue:` runs it.

        Args:
            make_worker: Picklable; called once in each process, returns what does a task.
            limit_s: Seconds after which a task is ended.
            at_once: Number of tasks at a time.
            changed: Called from a thread of the queue when a task begins and when it ends, but not
                when the queue is closed: what was running then is to be given again.
        """
        self._make_worker, self._limit_s, self._changed = make_worker, limit_s, changed
        self._condition = threading.Condition()
        self._items: dict[str, _Item[Task]] = {}
        self._waiting: deque[_Item[Task]] = deque()
        self._closing = False
        self._threads = [threading.Thread(target=self._slot) for _ in range(at_once)]

    def __enter__(self) -> "TaskQueue[Task]":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End all processes; tasks that run are not reported as ended."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.join()

    def put(self, key: str, task: Task) -> None:
        """Let a task wait for its turn; one that waits or runs under this name stays."""
        with self._condition:
            if key in self._items and self._items[key].status.state in ("waiting", "running"):
                return
            self._items[key] = item = _Item(key, task)
            self._waiting.append(item)
            self._condition.notify()

    def cancel(self, key: str) -> None:
        """Cancel a task that waits or runs, and wait until it has ended."""
        with self._condition:
            item = self._items.get(key)
            if item is None or item.status.state not in ("waiting", "running"):
                return
            item.status = TaskStatus(state="cancelled")
            if item in self._waiting:
                self._waiting.remove(item)
                item.ended.set()
        item.ended.wait(ENDING_S)
        self._changed(key, item.status)

    def forget(self, start: str) -> None:
        """Cancel all tasks whose names begin so, and drop what is known of them."""
        with self._condition:
            keys = [key for key in self._items if key.startswith(start)]
        for key in keys:
            self.cancel(key)
            with self._condition:
                self._items.pop(key, None)

    def status(self, key: str) -> TaskStatus | None:
        """Return where a task stands; None for an unknown one."""
        with self._condition:
            item = self._items.get(key)
            if item is None or item.status.state != "waiting":
                return item and item.status
            running = sum(item.status.state == "running" for item in self._items.values())
            return replace(item.status, ahead=self._waiting.index(item) + running)

    def __len__(self) -> int:
        """Return the number of tasks that wait or run."""
        with self._condition:
            states = [item.status.state for item in self._items.values()]
        return states.count("waiting") + states.count("running")

    def _slot(self) -> None:
        """Run one task after another, with a process kept ready for the next."""
        process = _Process(self._make_worker)
        while (item := self._next()) is not None:
            self._changed(item.key, item.status)
            status = self._run(item, process)
            process.end()
            item.ended.set()
            if status is None:
                return
            with self._condition:
                ended = item.status.state == "running"  # else it was cancelled
                item.status = status if ended else item.status
            if ended:
                self._changed(item.key, status)
            process = _Process(self._make_worker)
        process.end()

    def _next(self) -> "_Item[Task] | None":
        """Wait for a task; None when the queue closes."""
        with self._condition:
            while not self._waiting and not self._closing:
                self._condition.wait()
            if self._closing:
                return None
            item = self._waiting.popleft()
            item.status = TaskStatus(state="running")
            return item

    def _run(self, item: "_Item[Task]", process: "_Process") -> TaskStatus | None:
        """Run a task to its end; None where the queue closes before."""
        deadline = time.monotonic() + self._limit_s
        try:
            process.connection.send(item.task)
            while True:
                ready = process.connection.poll(0.1)
                received = process.connection.recv() if ready else None
                if isinstance(received, TaskStatus):
                    return received
                with self._condition:
                    if self._closing:
                        return None
                    if item.status.state == "cancelled":
                        return item.status
                    if isinstance(received, ProgressEvent):
                        item.status = replace(item.status, event=received)
                if time.monotonic() > deadline:
                    message = f"it took longer than {self._limit_s / 60:g} minutes"
                    return TaskStatus(state="failed", message=message)
        except (EOFError, OSError):
            message = "its process was ended from outside, perhaps for lack of memory"
            return TaskStatus(state="failed", message=message)


class _Item(Generic[Task]):
    """A task and where it stands."""

    def __init__(self, key: str, task: Task) -> None:
        self.key, self.task = key, task
        self.status = TaskStatus(state="waiting")
        self.ended = threading.Event()
        """Set when nothing of it runs any more."""


class _Process:
    """A process that is getting ready for one task."""

    def __init__(self, make_worker: Callable[[], Callable[..., None]]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self._process = context.Process(target=_work, args=(other, make_worker), daemon=True)
        self._process.start()
        other.close()

    def end(self) -> None:
        """End the process, by force where it is in the midst of something."""
        self.connection.close()
        self._process.join(0.2)
        self._process.kill()
        self._process.join()
        self._process.close()


def _work(connection: Connection, make_worker: Callable[[], Callable[..., None]]) -> None:
    """Get ready, do one task, and tell how it went."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process
    try:
        worker = make_worker()
        task = connection.recv()
    except (EOFError, OSError):
        return
    threading.Thread(target=_end_with_main_process, args=(connection,), daemon=True).start()
    try:
        worker(task, connection.send)
        status = TaskStatus(state="done")
    except (InputError, HealthError) as error:
        status = TaskStatus(state="failed", message=getattr(error, "message", str(error)))
    except MemoryError:
        status = TaskStatus(state="failed", message="the memory of this machine is used up")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        status = TaskStatus(
            state="failed", message=f"a file could not be read or written: {reason}"
        )
    except Exception:
        logging.getLogger(__name__).exception("A task has failed in an unexpected way.")
        status = TaskStatus(state="failed", message=BUG)
    connection.send(status)


def _end_with_main_process(connection: Connection) -> None:
    """Wait until the main process has closed its end, or has been killed, and end at once."""
    try:
        connection.recv()
    except (EOFError, OSError):
        os._exit(1)
