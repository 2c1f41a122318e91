"""`log.jsonl` of a run: one JSON object a line, cut back to the checkpoint when a run resumes."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from zeronvs._core.files import write_bytes


def append_lines(path: Path, lines: Iterable[Mapping[str, int | float]]) -> None:
    """Append one line for each mapping.

    Args:
        path: The log; made if missing.
        lines: Finite numbers; "step" among them counts from 1.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as handle:
        for values in lines:
            handle.write(json.dumps(values, allow_nan=False) + "\n")


def cut_back(path: Path, step: int) -> None:
    """Drop the lines of later steps than `step`, and a last line that was cut off by a kill."""
    if not path.is_file():
        return
    kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step(line) <= step]
    write_bytes(path, "".join(line + "\n" for line in kept).encode())


def _step(line: str) -> int | float:
    """Return the step that a line tells of; infinity where the line is not whole."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return float("inf")
