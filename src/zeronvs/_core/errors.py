"""Errors for the user; their messages state the problem, the observed value and the remedy."""

from typing import Literal


class InputError(ValueError):
    """The input cannot be used as it is; the message is one line for the person who gave it."""

    def __init__(self, message: str, *, argument: str | None = None) -> None:
        """Keep the message and the name of the argument that is wrong, where it is one.

        Args:
            message: The problem, the observed value and the remedy.
            argument: Name of the Python argument; the command line prints its flag instead.
        """
        super().__init__(message if argument is None else f"{argument}: {message}")
        self.message = message
        self.argument = argument


class HealthError(RuntimeError):
    """A run went wrong (NaN, black frames, no gradient, ...); the message names a remedy."""


class Cancelled(Exception):
    """Raised by a progress callback to cancel a run; finished work is kept and can be resumed."""


def memory_used_up(error: BaseException) -> Literal["gpu", "machine"] | None:
    """Return which memory an error says is used up; None: it says something else.

    By names and words, since not every library raises torch's own class: cuBLAS and cuDNN fail to
    allocate their workspaces, Warp its arrays, and Apple's GPUs raise a plain RuntimeError.
    """
    text = str(error).lower()
    if isinstance(error, MemoryError):
        return "machine"
    if type(error).__name__ == "OutOfMemoryError":
        return "gpu"
    if not isinstance(error, RuntimeError):
        return None
    fails_to_allocate = "failed to allocate" in text  # Warp
    if "can't allocate memory" in text or (fails_to_allocate and "device 'cpu'" in text):
        return "machine"
    if "out of memory" in text or "_alloc_failed" in text or fails_to_allocate:
        return "gpu"
    return None


class ReadingErrors:
    """Context manager that turns exceptions of some kinds into an `InputError`.

    Its message is "<message>: <kind of the exception> <first line>"; an `InputError` raised inside
    passes unchanged.
    """

    def __init__(self, message: str, *kinds: type[Exception]) -> None:
        self.message, self.kinds = message, kinds or (Exception,)

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Raise the `InputError`."""
        if isinstance(error, self.kinds) and not isinstance(error, InputError):
            reason = " ".join(f"{type(error).__name__} {error}".split())[:160]
            raise InputError(f"{self.message}: {reason}") from error
