"""What a run tells of itself: `log.jsonl` always, TensorBoard on request, progress events."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from zeronvs._core.optional import require
from zeronvs._core.progress import Progress, ProgressEvent
from zeronvs._core.run_log import append_lines, cut_back

STAGE = "train"


class TrainingLog:
    """The log of one run, kept by its first process."""

    def __init__(self, out: Path, *, step: int, total: int, tensorboard: bool) -> None:
        """Open the log of a run that begins, or goes on, after `step`.

        Args:
            out: The run's folder.
            step: Steps done; what the log has of later ones is dropped.
            total: Steps in the run.
            tensorboard: Also write events for TensorBoard, to its folder `tensorboard`.

        Raises:
            ImportError: tensorboard is not installed; the message has the command.
        """
        self.path, self.total = out / "log.jsonl", total
        cut_back(self.path, step)
        self.board: Any = None
        if tensorboard:
            require("tensorboard", "train")
            writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
            self.board = writer(str(out / "tensorboard"), purge_step=step + 1 if step else None)

    def steps(
        self, first: int, losses: list[float], values: Mapping[str, float], progress: Progress
    ) -> None:
        """Take the losses of steps `first`, `first` + 1, ... and numbers that hold for the last."""
        lines: list[dict[str, int | float]] = [
            {"step": first + index, "loss": loss} for index, loss in enumerate(losses)
        ]
        lines[-1] |= values
        append_lines(self.path, lines)
        last = lines[-1]
        if self.board is not None:
            for line in lines:
                self.board.add_scalar("loss", line["loss"], line["step"])
            for name, value in values.items():
                self.board.add_scalar(name, value, last["step"])
        mean = sum(losses) / len(losses)
        shown = {"loss": mean} | {name: float(value) for name, value in values.items()}
        progress(ProgressEvent(STAGE, int(last["step"]), self.total, shown))

    def validation(self, step: int, loss: float, sheet: UInt8[Tensor, "3 h w"]) -> None:
        """Take the result of a validation."""
        append_lines(self.path, [{"step": step, "validation_loss": loss}])
        if self.board is not None:
            self.board.add_scalar("validation_loss", loss, step)
            self.board.add_image("input, truth, sample", sheet.numpy(), step)

    def close(self) -> None:
        """Write what is left."""
        if self.board is not None:
            self.board.close()
