"""A run folder that one process at a time works in, and that a later process can resume."""

import errno
import json
import os
import re
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from zeronvs._core.errors import InputError
from zeronvs._core.files import read_json, write_json

LOCK_FILE = ".lock"
LEFT_BEHIND = re.compile(r"\.(tmp[0-9A-Za-z]{6}|.+\.[0-9a-f]{8}\.part(\..*)?)")
"""Names that safetensors (`.tmpAbC123`) and `write_aside` give to files not yet complete."""


class ResumableRun:
    """Exclusive use of a run folder, and the settings that define its run.

    As a context manager: `with ResumableRun(folder) as run: run.claim({"seed": 1})`. The lock is
    the operating system's: it ends with the process, however that ends. Where the file system has
    no locks, the run goes without one.
    """

    def __init__(self, folder: Path, *, settings_file: str = "settings.json") -> None:
        """Lock the folder, made if missing, and remove incomplete files of a killed process.

        Raises:
            InputError: Another process works in the folder, or it is a file.
        """
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; a run needs a folder")
        self.folder, self.settings_path = folder, folder / settings_file
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / LOCK_FILE
        was_locked_before = path.exists()  # else its files may be those of other programs
        self._handle = path.open("ab")
        try:
            _lock(self._handle)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                self.close()
                line = f"another process is working in {folder}. Wait, or name another folder"
                raise InputError(line) from error
        if hasattr(os, "register_at_fork"):
            # Forked children share the lock; without this they could hold it longer than we live.
            mine = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: (run := mine()) and run.close())
        for left in folder.rglob(".*") if was_locked_before else ():
            if LEFT_BEHIND.fullmatch(left.name) and left.is_file():
                left.unlink(missing_ok=True)

    def __enter__(self) -> "ResumableRun":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the folder; a second call does nothing."""
        self._handle.close()

    def claim(self, settings: Mapping[str, Any]) -> bool:
        """Record the settings of a new run, or compare them with those of the run to resume.

        Args:
            settings: Everything that changes the result of the run, as JSON can represent it.

        Returns:
            Whether the folder already has a run with these settings.

        Raises:
            InputError: It has a run with other settings; the message names each that differs.
        """
        if not self.settings_path.exists():
            write_json(self.settings_path, settings)
            return False
        saved = read_json(self.settings_path)
        different = differences(saved, json.loads(json.dumps(settings)))
        if different:
            raise InputError(
                f"{self.folder} has a run with other settings ({'; '.join(different)}). Give the "
                "same settings to resume it, or name another folder"
            )
        return True


def differences(saved: Any, current: Any, name: str = "") -> list[str]:
    """Return a phrase such as "lr: 0.1, now 0.2" for each leaf of two JSON values that differs."""
    if isinstance(saved, dict) and isinstance(current, dict):
        phrases = []
        for key in sorted({*saved, *current}):
            inner = f"{name}.{key}" if name else key
            phrases += differences(saved.get(key), current.get(key), inner)
        return phrases
    return [] if saved == current else [f"{name or 'settings'}: {saved}, now {current}"]


def checked_step(value: Any, path: Path) -> int:
    """Return a number of steps read from a file.

    Raises:
        InputError: It is not a whole number of at least 0.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(f"{path}: the step is {value!r}, not a whole number of at least 0")
    return value


def _lock(handle: BinaryIO) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
