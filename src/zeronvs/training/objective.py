"""Interface between the training loop and a kind of model: examples, loss, validation, export."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from zeronvs.cameras.view import resize_image
from zeronvs.training.training_state import WeightAverage, trained_parameters


@runtime_checkable
class Batch(Protocol):
    """A batch of training data."""

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with its tensors on `device`."""
        ...


@runtime_checkable
class BatchStream(Protocol):
    """An endless stream of batches; each process of a training has its own."""

    def __iter__(self) -> Iterator[Any]:
        """Yield batches, from the state on that was loaded last."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state after the batches taken so far, as JSON can represent it."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        ...


class NumberedStream(ABC):
    """A stream whose batch k depends on the seed and on k alone, so that its state is a count."""

    def __init__(self, rank: int, processes: int) -> None:
        """Start at the first batch; processes that train together take the batches in turn."""
        self.rank, self.processes, self.taken = rank, processes, 0

    @abstractmethod
    def read(self, index: int) -> Any:
        """Return batch `index` of this process."""

    def __iter__(self) -> Iterator[Any]:
        """Yield batches, from the loaded state on."""
        while True:
            self.taken += 1
            yield self.read(self.taken - 1)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of batches taken."""
        return {"taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self.taken = int(state["taken"])


@dataclass(frozen=True, eq=False)
class ValidationResult:
    """Result of one validation."""

    loss: float
    """Mean loss at fixed noise; lower is better, and comparable over the steps of one run."""
    sheet: UInt8[Tensor, "3 h w"] | None = None
    """One row per example, e.g. input, truth, sample."""


class Objective(nn.Module, ABC):
    """Trained modules and their loss; the loop does everything else.

    Parameters that require gradients are trained. All modules of the model are attributes, but only
    those with trained parameters need to be registered.
    """

    def place(self, device: torch.device) -> None:
        """Move all modules to the device."""
        self.to(device)

    @abstractmethod
    def draw_examples(self, batch: Any, numbers: list[int]) -> Any:
        """Turn a batch into examples, with everything random about them; without gradients.

        Args:
            batch: From the stream, on the device.
            numbers: Number of each example in the run, counted over all processes; everything
                random about example k comes from (seed, k).
        """

    @property
    def no_usable_examples(self) -> str:
        """One line for data of which no example is usable."""
        return "no training example has everything that the model needs"

    def usable(self, examples: Any) -> Float[Tensor, " n"]:
        """Return 0 for examples to be ignored, else 1."""
        return torch.ones(1, device=next(self.parameters()).device)

    @abstractmethod
    def forward(self, examples: Any) -> dict[str, Float[Tensor, " n"]]:
        """Return the weighted terms of the loss, each per example; their sum is minimised."""

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return groups for the optimiser: "params" and "peak_lr"."""

    def averaged(self) -> dict[str, nn.Parameter]:
        """Return the parameters whose moving average is kept."""
        return trained_parameters(self)

    def validate(self, batch: Any, average: WeightAverage | None) -> ValidationResult:
        """Evaluate the averaged weights on a fixed batch, always with the same noise."""
        raise NotImplementedError(f"{type(self).__name__} has no validation")

    @abstractmethod
    def export(self, average: WeightAverage | None, out: Path) -> Path:
        """Write the trained model, with averaged weights if there are any; return its path."""


def validation_sheet(columns: Sequence[Tensor]) -> UInt8[Tensor, "3 h w"]:
    """Arrange batches of images in [0, 1] as columns, one example per row, at the last's size."""
    side = int(columns[-1].shape[-1])
    resized = [resize_image(images.float().cpu().clamp(0, 1), (side, side)) for images in columns]
    rows = torch.cat(resized, dim=-1)  # n 3 side (columns side)
    return (torch.cat(list(rows), dim=-2) * 255).round().to(torch.uint8)
