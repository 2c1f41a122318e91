"""What surrounds every verb: one clear line and the right exit code, whatever happens."""

import os
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from zeronvs._core.errors import HealthError, InputError

DONE, WENT_WRONG, WRONG_INPUT, STOPPED = 0, 1, 2, 130
RESUMED_BY_FLAG = ("scene", "views")
"""Verbs whose stopped run goes on with --resume."""
RESUMED = ("train", "data")
"""Verbs whose stopped run goes on with the same command."""
_LESS_MEMORY = "try --preset preview for a scene, a smaller --batch-size for views"


def guarded(work: Callable[[], None], words: Sequence[str]) -> int:
    """Run a verb and return the exit code; what the user can mend becomes one line on stderr.

    Anything unforeseen keeps its traceback: that is a bug to be reported.

    Args:
        work: The verb.
        words: The command line, for the hint how to go on.
    """
    _quieten()
    try:
        try:
            work()
        except SystemExit:  # of the argument parser, after help or a wrong flag
            _flush_output()
            raise
        _flush_output()
    except InputError as error:
        return fail(_with_flag(error), WRONG_INPUT)
    except HealthError as error:
        return fail(str(error), WENT_WRONG)
    except KeyboardInterrupt:
        return fail(_how_to_go_on(words), STOPPED, label="stopped")
    except BrokenPipeError:  # whoever read our output has seen enough
        _abandon(sys.stdout)
        return DONE
    except OSError as error:
        return fail(_os_error(error), WRONG_INPUT)
    except MemoryError:
        return fail(f"the memory of this machine is used up; {_LESS_MEMORY}", WENT_WRONG)
    except ImportError as error:
        if "pip install" not in str(error):
            raise
        return fail(str(error), WRONG_INPUT)
    except Exception as error:
        told = _library_error(error)
        if told is None:
            raise
        return fail(*told)
    return DONE


def _with_flag(error: InputError) -> str:
    """Return the message with the flag of the argument that is wrong."""
    if error.argument is None:
        return str(error)
    from zeronvs.cli.report import flag

    return f"{flag(error.argument)}: {error.message}"


def fail(message: str, code: int, *, label: str = "error") -> int:
    """Print one line to stderr and return the exit code."""
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
    """Write out what was printed, while an error of it can still be reported."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _abandon(stream: TextIO) -> None:
    """Send the rest of a stream to nowhere, so that Python does not fail on it when it ends."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError):
        pass


def _how_to_go_on(words: Sequence[str]) -> str:
    if not words or words[0] not in (*RESUMED_BY_FLAG, *RESUMED):
        return "nothing half-written is left"
    flag = ["--resume"] if words[0] in RESUMED_BY_FLAG and "--resume" not in words else []
    again = [*words, *flag]
    return f"what is done is kept; go on with: zeronvs {shlex.join(again)}"


def _library_error(error: Exception) -> tuple[str, int] | None:
    """Recognise by name what libraries raise in their own way; importing them here is slow."""
    kind, said = type(error).__name__, str(error)
    if kind == "OutOfMemoryError":
        line = f"the memory of the GPU is used up; {_LESS_MEMORY}, or --device cpu"
        return line, WENT_WRONG
    full_for_torch = "inline_container" in said or "PytorchStreamWriter" in said
    if full_for_torch or (kind == "SafetensorError" and "os error" in said):
        return "a file could not be written; the disk may be full, or may not be writable", 2
    return None


def _os_error(error: OSError) -> str:
    """Say what the system said, and about which file."""
    said = (error.strerror or str(error)).lower()
    if not error.filename:
        return said
    path = Path(os.fsdecode(error.filename))
    return f"{path.parent if '.part' in path.name else path}: {said}"


def _quieten() -> None:
    """Keep the messages of libraries off the terminal."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
