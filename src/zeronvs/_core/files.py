"""Reading text and JSON with bounds; writing files atomically; the `log.jsonl` of a run.

Text is UTF-8 whatever the locale, with or without a byte order mark. JSON is strict: bounded in
size and depth, without NaN, infinity or numbers that overflow a float. A log has one JSON object
per line and is truncated to the checkpoint when a run resumes.
"""

import json
import math
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zeronvs._core.errors import InputError

MAX_JSON_BYTES = 512 * 2**20
MAX_JSON_DEPTH = 64
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{8}\.part(\..*)?", re.DOTALL)
"""Names that `write_aside` gives."""


def read_bytes(path: Path, *, max_bytes: int) -> bytes:
    """Return the content of an ordinary file of bounded size.

    Raises:
        InputError: It is missing, not an ordinary file (a pipe would never end), or too large.
    """
    try:
        if not path.exists():
            raise InputError(f"{path}: there is no such file")
        if not path.is_file():
            raise InputError(f"{path} is not a file")
        if path.stat().st_size > max_bytes:
            raise InputError(f"{path} is larger than {max_bytes >> 20} MiB")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read: {reason}") from error


def read_text(path: Path, *, max_bytes: int = 256 * 2**20) -> str:
    """Return the text of a UTF-8 file of bounded size, without its byte order mark.

    Raises:
        InputError: It cannot be read (see `read_bytes`), or is not text.
    """
    try:
        return read_bytes(path, max_bytes=max_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text") from error


def read_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Return the content of a JSON file; see `parse_json`.

    Raises:
        InputError: It cannot be read, is too large, or is no strict JSON.
    """
    return parse_json(read_bytes(path, max_bytes=max_bytes), str(path))


def parse_json(content: bytes | str, name: str) -> Any:
    """Return what strict JSON holds.

    Args:
        content: UTF-8, with or without a byte order mark.

    Raises:
        InputError: It is no JSON, nested too deeply, or holds a number that is not finite.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        value = json.loads(
            text, parse_float=_finite, parse_int=_bounded_int, parse_constant=_refuse
        )
    except RecursionError as error:
        raise InputError(f"{name} is not valid JSON: it is nested too deeply") from error
    except ValueError as error:
        raise InputError(f"{name} is not valid JSON: {_short(error)}") from error
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_JSON_DEPTH):
        inner = (v for held in level for v in (held.values() if isinstance(held, dict) else held))
        level = [v for v in inner if isinstance(v, dict | list)]
        if not level:
            return value
    raise InputError(f"{name} is not valid JSON: it is nested too deeply")


@contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well.

    The temporary name keeps the suffix, so that writers which choose a format by suffix work.
    If the block raises, the temporary file is removed and `path` is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")
    try:
        # Some writers (safetensors) leave files that only their owner can read: restore the mode.
        aside.touch()
        mode = aside.stat().st_mode
        yield aside
        aside.chmod(mode)
        with aside.open("rb") as handle:
            os.fsync(handle.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def sweep_temporary(folder: Path) -> None:
    """Remove the temporary files of `write_aside` that a killed process left in a folder.

    Call it where no other process writes to the folder.
    """
    if folder.is_dir():
        for path in list(folder.iterdir()):
            if _TEMPORARY.fullmatch(path.name) and not path.is_dir():
                path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with write_aside(path) as aside:
        aside.write_bytes(content)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all; NaN and infinity are refused."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    write_bytes(path, (text + "\n").encode())


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:20]} is too large")
    return value


def _bounded_int(digits: str) -> int:
    if len(digits) > 300:  # more digits than a float has range
        raise ValueError(f"the number {digits[:20]}... is too large")
    return int(digits)


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def append_lines(path: Path, lines: Iterable[Mapping[str, int | float]]) -> None:
    """Append one line for each mapping.

    Args:
        lines: Finite numbers; "step" among them counts from 1.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as handle:
        for values in lines:
            handle.write(json.dumps(values, allow_nan=False) + "\n")


def truncate_log(path: Path, step: int) -> None:
    """Drop the lines of later steps than `step`, and a last line that was cut off by a kill."""
    if not path.is_file():
        return
    kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step(line) <= step]
    write_bytes(path, "".join(line + "\n" for line in kept).encode())


def _step(line: str) -> int | float:
    """Return the step of a line; infinity where the line is incomplete."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return float("inf")
