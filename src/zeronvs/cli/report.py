"""Terminal output of the subcommands: progress bars with an ETA, and tables of results."""

import contextlib
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from zeronvs._core.progress import Progress, ProgressEvent, ProgressLine

if TYPE_CHECKING:
    from zeronvs.recipes.write_run import RunResult

FLAGS = {
    "fov_y_rad": "--fov-deg",
    "elevation_rad": "--elevation-deg",
    "formats": "--format",
    "out": "-o",
}
"""Flags whose name is not simply that of the setting."""
PLAIN_INTERVAL_S = 15.0


@contextlib.contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show progress on stderr: bars in a terminal, a line every few seconds in a log.

    Commands of a notebook (`!zeronvs ...`) get a terminal in which the cursor cannot move up: bars
    would be printed again and again. They get one line for each stage.
    """
    console = Console(stderr=True)
    if console.is_terminal and in_notebook():
        with contextlib.closing(ProgressLine()) as line:
            yield line
        return
    if not console.is_terminal:
        yield PlainLines()
        return
    with Bars(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[values]}"),
        console=console,
    ) as bars:
        yield StageBars(bars)


def in_notebook() -> bool:
    """Return whether the kernel of a notebook started this program."""
    return "JPY_PARENT_PID" in os.environ or "inline" in os.environ.get("MPLBACKEND", "")


class StageBars:
    """One bar for each stage, in the order in which they begin."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks = {}

    def __call__(self, event: ProgressEvent) -> None:
        """Move the bar of the event's stage."""
        if event.stage not in self._tasks:
            self._tasks[event.stage] = self._bars.add_task(event.stage, values="")
        self._bars.update(
            self._tasks[event.stage],
            completed=event.step,
            total=event.total,
            values=format_values(event),
        )


class PlainLines:
    """Prints a line when a stage begins and ends, and every few seconds in between."""

    def __init__(self) -> None:
        self._stage = ""
        self._began = self._printed = time.monotonic()

    def __call__(self, event: ProgressEvent) -> None:
        """Print the event if it begins or ends a stage, or the last line is old enough."""
        now = time.monotonic()
        new = event.stage != self._stage
        last = event.total is not None and event.step >= event.total
        if new:
            self._stage, self._began = event.stage, now
        if not (new or last or now - self._printed > PLAIN_INTERVAL_S):
            return
        self._printed = now
        counted = f" {event.step}/{event.total}" if event.total else ""
        spent = now - self._began
        left = ""
        if event.total and event.step and not last:
            left = f", {spent * (event.total - event.step) / event.step:.0f} s left"
        values = format_values(event)
        print(
            f"{event.stage}{counted}: {spent:.0f} s{left}{'  ' if values else ''}{values}",
            file=sys.stderr,
            flush=True,
        )


def format_values(event: ProgressEvent) -> str:
    """Return the event's numbers as short text."""
    return "  ".join(f"{name} {value:.3g}" for name, value in event.values.items())


def print_settings(rows: Iterable[tuple[str, object, str]]) -> None:
    """Print settings with where each comes from and the flag that overrides it."""
    lines = [(*readable(name, value), source, flag(name)) for name, value, source in rows]
    print_table([("setting", "value", "from", "flag"), *lines])


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns; a line is never broken, so that it can be searched and cut."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def readable(name: str, value: object) -> tuple[str, str]:
    """Return a setting's name and value for display: angles in degrees."""
    if name.endswith("_rad") and isinstance(value, float):
        return name.removesuffix("_rad").replace("_y", "") + "_deg", f"{math.degrees(value):.1f}"
    return name, f"{value:.4g}" if isinstance(value, float) else str(value)


def flag(name: str) -> str:
    """Return the flag that sets a setting."""
    return FLAGS.get(name, "--" + name.replace("_", "-"))


def print_address(address: str) -> None:
    """Print where a page is served, at once: the program then waits."""
    print(f"Open {address} in a browser. Ctrl-C ends it.", flush=True)


def print_result(result: "RunResult") -> None:
    """Print what was made."""
    for note in result.notes:
        print(f"note: {note}")
    print(f"\n{result.run_dir} ({result.seconds:.0f} s)")
    for path in result.files:
        print(f"  {path.relative_to(result.run_dir)}")
