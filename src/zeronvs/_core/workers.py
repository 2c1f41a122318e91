"""Independent tasks in several processes, so that one bad task stops nothing.

Each process prepares its worker once (a source, a network), then takes task after task. A process
that dies, for instance because it ran out of memory, costs the task that it held; a new one takes
its place. Processes end when the main process does, however it ends.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

Task = TypeVar("Task")
Value = TypeVar("Value")


@dataclass(frozen=True)
class TaskResult(Generic[Task, Value]):
    """Result of one task."""

    task: Task
    value: Value | None
    error: str | None = None
    """One line why there is no value."""


def run_tasks(
    make_worker: Callable[[], Callable[[Task], Value]], tasks: Sequence[Task], *, workers: int
) -> Iterator[TaskResult[Task, Value]]:
    """Yield the result of each task as it is done, in no particular order.

    Args:
        make_worker: Picklable factory, called once in each process; returns the task function.
        tasks: Arguments of the task function; tasks and results must be picklable.
        workers: Number of processes; 1 runs the tasks in this one.
    """
    if workers <= 1 or len(tasks) <= 1:
        run = make_worker()
        for task in tasks:
            yield _attempt(run, task)
        return
    context = multiprocessing.get_context("spawn")
    waiting = list(reversed(tasks))
    pool: dict[Any, _Process[Task]] = {}
    try:
        while waiting or pool:
            while waiting and len(pool) < workers:
                process = _Process(context, make_worker)
                pool[process.connection] = process
                process.send(waiting.pop())
            for connection in wait(list(pool)):
                process = pool[connection]
                task = process.task
                try:
                    result = process.connection.recv()
                except (EOFError, OSError):
                    del pool[connection]
                    process.process.join(5)
                    yield TaskResult(
                        task,
                        None,
                        f"its process ended (exit code {process.process.exitcode}); it may have "
                        "run out of memory: use fewer workers",
                    )
                    continue
                if waiting:
                    process.send(waiting.pop())
                else:
                    process.close()
                    del pool[connection]
                yield result
    finally:
        for process in pool.values():
            process.process.terminate()


class _Process(Generic[Task]):
    """One process and the task that it holds."""

    def __init__(self, context: Any, make_worker: Callable[[], Any]) -> None:
        self.connection, other = context.Pipe()
        self.task: Any = None
        self.process: BaseProcess = context.Process(
            target=_serve, args=(other, make_worker), daemon=True
        )
        self.process.start()
        other.close()

    def send(self, task: Task) -> None:
        self.task = task
        self.connection.send(task)

    def close(self) -> None:
        self.connection.close()
        self.process.join(10)


def _serve(connection: Connection, make_worker: Callable[[], Callable[[Any], Any]]) -> None:
    """Run tasks until the main process closes the connection."""
    import torch

    torch.set_num_threads(1)  # the processes are the parallelism
    run, failure = None, None
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError, KeyboardInterrupt):
            return
        try:
            if run is None and failure is None:
                run = make_worker()
        except Exception as error:  # reported for each task, as any other error
            failure = _message(error)
        try:
            result = TaskResult(task, None, failure) if run is None else _attempt(run, task)
            connection.send(result)
        except (BrokenPipeError, KeyboardInterrupt):
            return


def _attempt(run: Callable[[Any], Any], task: Any) -> TaskResult[Any, Any]:
    try:
        return TaskResult(task, run(task))
    except Exception as error:  # a bad task is reported and skipped, whatever is wrong with it
        return TaskResult(task, None, _message(error))


def _message(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    kind = type(error).__name__
    return text if kind == "InputError" and text else f"{kind}: {text}"
