"""Error handling shared by all subcommands: exception to one-line message and exit code."""

import os
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from zeronvs._core.errors import HealthError, InputError, memory_used_up

DONE, WENT_WRONG, WRONG_INPUT, STOPPED = 0, 1, 2, 130
RESUMED_BY_FLAG = ("scene", "views")
"""Subcommands that resume a stopped run with --resume."""
RESUMED = ("train", "data", "model fetch", "app", "study build", "study serve")
"""Subcommands that resume a stopped run when called again."""
COMMANDS = {
    "zeronvs.shards.convert": "zeronvs data convert",
    "zeronvs.datasets.check": "zeronvs data check",
    "zeronvs.checkpoints.convert": "zeronvs model convert",
}
"""Subcommands of the modules that messages name."""
_LESS_MEMORY = {
    "scene": "a smaller --resolution, e.g. 512",
    "views": "a smaller --batch-size, e.g. 1",
    "evaluate views": "a smaller --batch-size, e.g. 1",
    "evaluate scenes": "a smaller --size-px, e.g. 128",
    "evaluate fig7": "a smaller --size-px, e.g. 128",
    "train": "a smaller --batch, e.g. 1",
    "render": "a smaller --size, e.g. 256",
    "study build": "a smaller --size, e.g. 256",
}
"""What needs less memory, by subcommand."""
_FIELD_WORDS = ("field", "fast", "paper", "--model")
"""Arguments with which a scene is a radiance field."""


def guarded(work: Callable[[], None], words: Sequence[str]) -> int:
    """Run a subcommand and return the exit code; user errors become one line on stderr.

    Unexpected exceptions keep their traceback: they are bugs to be reported.

    Args:
        words: The command line, for the hint how to resume.
    """
    _quieten()
    try:
        try:
            work()
        except SystemExit:  # of the argument parser, after help or a wrong flag
            _flush_output()
            raise
        _flush_output()
    except KeyboardInterrupt:
        return fail(_how_to_resume(words), STOPPED, label="stopped")
    except BrokenPipeError:  # whoever read our output has seen enough
        _abandon(sys.stdout)
        return DONE
    except Exception as error:
        known = explained(error, words)
        if known is None:
            raise
        return fail(*known)
    return DONE


def explained(error: Exception, words: Sequence[str]) -> tuple[str, int] | None:
    """Return the line for the user and the exit code of an error; None where it is a bug."""
    if isinstance(error, InputError):
        return _with_flag(error), WRONG_INPUT
    if isinstance(error, HealthError):
        return str(error), WENT_WRONG
    if isinstance(error, OSError):
        return _os_error(error), WRONG_INPUT
    memory = memory_used_up(error)
    if memory is not None:
        where = "the GPU" if memory == "gpu" else "this machine"
        advice = _less_memory(words, on_gpu=memory == "gpu")
        return f"the memory of {where} is used up{advice}", WENT_WRONG
    if isinstance(error, ImportError):
        return (str(error), WRONG_INPUT) if "pip install" in str(error) else None
    return _library_error(error)


def _with_flag(error: InputError) -> str:
    """Return the message with the flag of the argument that is wrong."""
    if error.argument is None:
        return str(error)
    from zeronvs.cli.report import flag

    return f"{flag(error.argument)}: {error.message}"


def fail(message: str, code: int, *, label: str = "error") -> int:
    """Print one line to stderr, with subcommands for modules, and return the exit code."""
    for module, command in COMMANDS.items():
        message = message.replace(module, command)
    try:
        _flush_output()
    except OSError:
        _abandon(sys.stdout)
    try:
        print(f"zeronvs: {label}: {' '.join(message.split())}", file=sys.stderr, flush=True)
    except OSError:
        _abandon(sys.stderr)
    return code


def _flush_output() -> None:
    """Flush stdout while an error of it (a full disk, a closed pipe) can still be reported."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _abandon(stream: TextIO) -> None:
    """Redirect a broken stream to the null device, so that Python can flush it at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError):
        pass


def _how_to_resume(words: Sequence[str]) -> str:
    verbs = {" ".join(words[:count]) for count in (1, 2)}
    if not verbs & {*RESUMED_BY_FLAG, *RESUMED}:
        return "nothing half-written is left"
    flag = ["--resume"] if words[0] in RESUMED_BY_FLAG and "--resume" not in words else []
    again = [*words, *flag]
    return f"finished work is kept; resume with: zeronvs {shlex.join(again)}"


def _less_memory(words: Sequence[str], *, on_gpu: bool) -> str:
    """Return "; try ..." with the flag of this command that helps most, or nothing."""
    verbs = [" ".join(words[:count]) for count in (1, 2)]
    advice = [_LESS_MEMORY.get(verb) for verb in verbs]
    parts = {part for word in words for part in word.split("=", 1)}
    if not {"scene", "evaluate table1", "evaluate table2"}.isdisjoint(verbs):
        if not parts.isdisjoint(_FIELD_WORDS):
            advice = ["--preset preview (no diffusion model)"]
    if on_gpu and words[:1] != ["train"]:
        advice.append("--device cpu")
    tried = " or ".join(one for one in advice if one)
    return f"; try {tried}" if tried else ""


def _library_error(error: Exception) -> tuple[str, int] | None:
    """Recognise exceptions of libraries by name, since importing the libraries is slow."""
    kind, text = type(error).__name__, str(error)
    full_for_torch = "inline_container" in text or "PytorchStreamWriter" in text
    if full_for_torch or (kind == "SafetensorError" and "os error" in text):
        return "a file could not be written; the disk may be full, or may not be writable", 2
    return None


def _os_error(error: OSError) -> str:
    """Return the file and the system's message."""
    reason = (error.strerror or str(error)).lower()
    if not error.filename:
        return reason
    path = Path(os.fsdecode(error.filename))
    return f"{path.parent if '.part' in path.name else path}: {reason}"


def _quieten() -> None:
    """Keep the messages of libraries off the terminal."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
