"""Doing many independent pieces in several processes, so that one bad piece stops nothing.

Each worker makes its own tools once (a source, a network), then takes piece after piece. A worker
that dies, for instance because the system took its memory away, costs the piece that it held; a new
one takes its place. Workers end when the main process does, however it ends.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

Piece = TypeVar("Piece")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Outcome(Generic[Piece, Answer]):
    """What became of one piece."""

    piece: Piece
    answer: Answer | None
    error: str | None = None
    """Why there is no answer."""


def do_pieces(
    tools: Callable[[], Callable[[Piece], Answer]], pieces: Sequence[Piece], *, workers: int
) -> Iterator[Outcome[Piece, Answer]]:
    """Yield the outcome of each piece as it is done, in no particular order.

    Args:
        tools: Called once in each process; returns what does a piece. Can be pickled, as can be
            the pieces and the answers.
        pieces: What is to be done.
        workers: Processes; 1 does it in this one.
    """
    if workers <= 1 or len(pieces) <= 1:
        do = tools()
        for piece in pieces:
            yield _attempt(do, piece)
        return
    context = multiprocessing.get_context("spawn")
    waiting = list(reversed(pieces))
    crew: dict[Any, _Worker[Piece]] = {}
    try:
        while waiting or crew:
            while waiting and len(crew) < workers:
                worker = _Worker(context, tools)
                crew[worker.connection] = worker
                worker.give(waiting.pop())
            for connection in wait(list(crew)):
                worker = crew[connection]
                piece = worker.piece
                try:
                    outcome = worker.connection.recv()
                except (EOFError, OSError):
                    del crew[connection]
                    worker.process.join(5)
                    yield Outcome(
                        piece,
                        None,
                        f"the process that did it ended (exit code {worker.process.exitcode}); "
                        "it may have needed more memory than there is: use fewer --workers",
                    )
                    continue
                if waiting:
                    worker.give(waiting.pop())
                else:
                    worker.dismiss()
                    del crew[connection]
                yield outcome
    finally:
        for worker in crew.values():
            worker.process.terminate()


class _Worker(Generic[Piece]):
    """One process and the piece that it holds."""

    def __init__(self, context: Any, tools: Callable[[], Any]) -> None:
        self.connection, other = context.Pipe()
        self.piece: Any = None
        self.process: BaseProcess = context.Process(target=_work, args=(other, tools), daemon=True)
        self.process.start()
        other.close()

    def give(self, piece: Piece) -> None:
        self.piece = piece
        self.connection.send(piece)

    def dismiss(self) -> None:
        self.connection.close()
        self.process.join(10)


def _work(connection: Connection, tools: Callable[[], Callable[[Any], Any]]) -> None:
    """Take pieces until the main process hangs up."""
    import torch

    torch.set_num_threads(1)  # the processes are the parallelism
    do, failed = None, None
    while True:
        try:
            piece = connection.recv()
        except (EOFError, OSError, KeyboardInterrupt):
            return
        try:
            if do is None and failed is None:
                do = tools()
        except Exception as error:  # told for each piece, as any other error
            failed = _said(error)
        try:
            outcome = Outcome(piece, None, failed) if do is None else _attempt(do, piece)
            connection.send(outcome)
        except (BrokenPipeError, KeyboardInterrupt):
            return


def _attempt(do: Callable[[Any], Any], piece: Any) -> Outcome[Any, Any]:
    try:
        return Outcome(piece, do(piece))
    except Exception as error:  # a bad piece is told and passed over, whatever is wrong with it
        return Outcome(piece, None, _said(error))


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    kind = type(error).__name__
    return text if kind == "InputError" and text else f"{kind}: {text}"
