"""Progress events of long-running work; the callback decides how to display them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


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
