"""Progress events of long-running work; the callback decides how to display them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from tqdm import tqdm


@dataclass(frozen=True)
class ProgressEvent:
    """One step of long work."""

    stage: str
    """Name of the stage, e.g. "sample anchors"."""
    step: int
    """Steps done, counted from 1; 0 announces the stage."""
    total: int | None = None
    """Steps in the stage, where known."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Numbers worth showing, e.g. {"loss": 0.1}."""


@runtime_checkable
class Progress(Protocol):
    """Callback for progress events."""

    def __call__(self, event: ProgressEvent) -> None:
        """Take one event; must return quickly."""
        ...


def silent(event: ProgressEvent) -> None:
    """Ignore the event (the default listener)."""


class ProgressLine:
    """One line on stderr for each stage, with the time left: readable in a notebook, too.

    A listener to give to `reconstruct` and others: `progress=ProgressLine()`. The line goes back to
    its beginning and never up: notebooks cannot move the cursor up.
    """

    def __init__(self) -> None:
        self._stage = ""
        self._line: tqdm[Any] | None = None

    def __call__(self, event: ProgressEvent) -> None:
        """Move the line of the event's stage; a new stage begins a new line."""
        from tqdm import tqdm

        if self._line is None or event.stage != self._stage:
            self.close()
            self._stage = event.stage
            self._line = tqdm(desc=event.stage, total=event.total, dynamic_ncols=True)
        self._line.total = event.total
        if event.values:
            self._line.set_postfix(event.values, refresh=False)
        self._line.update(event.step - self._line.n)
        if event.total is not None and event.step >= event.total:
            self.close()

    def close(self) -> None:
        """End the line of a stage that was given up."""
        if self._line is not None:
            self._line.close()
            self._line, self._stage = None, ""
