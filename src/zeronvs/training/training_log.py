"""Log of a run: `log.jsonl` always, TensorBoard on request, and progress events."""

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
    """The log of one run, written by its first process."""

    def __init__(self, out: Path, *, step: int, total: int, tensorboard: bool) -> None:
        """Open the log of a run that starts, or resumes, after `step`.

        Args:
            out: The run's folder.
            step: Steps done; lines of later steps are dropped.
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
        """Log the losses of steps `first`, `first` + 1, ... and further values of the last."""
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

    def validation(self, step: int, loss: float, sheet: UInt8[Tensor, "3 h w"] | None) -> None:
        """Log the result of a validation."""
        append_lines(self.path, [{"step": step, "validation_loss": loss}])
        if self.board is not None:
            self.board.add_scalar("validation_loss", loss, step)
            if sheet is not None:
                self.board.add_image("validation", sheet.numpy(), step)

    def close(self) -> None:
        """Flush TensorBoard."""
        if self.board is not None:
            self.board.close()
