"""Progress as events: long work tells what it does, and whoever listens decides how to show it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class ProgressEvent:
    """One step of long work."""

    stage: str
    """What is being done, e.g. "sample anchors"."""
    step: int
    """Steps done, counted from 1; 0 announces the stage."""
    total: int | None = None
    """Steps in the stage, where known."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Numbers worth showing, e.g. {"loss": 0.1}."""


@runtime_checkable
class Progress(Protocol):
    """Anything that can be told of progress."""

    def __call__(self, event: ProgressEvent) -> None:
        """Take one event; must return quickly."""
        ...


def silent(event: ProgressEvent) -> None:
    """Ignore the event (the default listener)."""
