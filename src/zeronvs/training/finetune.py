"""The training loop of every model of the package, on accelerate: one process or many.

A step takes `accumulation` batches of every process. The state is saved every few steps; a run that
was stopped at any moment resumes from the last one with the losses of an uninterrupted run. Losses
are logged to `log.jsonl`, and to TensorBoard on request.
"""

import importlib
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import UInt8
from torch import Tensor

from zeronvs._core.errors import HealthError, InputError, memory_used_up
from zeronvs._core.files import append_lines, truncate_log
from zeronvs._core.optional import require
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs._core.resumable import ResumableRun
from zeronvs.formats.images import write_image
from zeronvs.training.finetune_config import FinetuneConfig, memory_advice
from zeronvs.training.objective import Batch, BatchStream, Objective
from zeronvs.training.training_state import (
    FILE_NAME,
    TrainingState,
    WeightAverage,
    capture_tensors,
    load_state,
    restore_tensors,
    save_state,
)

FIRST_SHARE = 1e-6
"""Share of the peak learning rate at the first step (published code, zeronvs_config.yaml)."""
STAGE = "train"
"""Name of the stage in progress events."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingRun:
    """Inputs of a training run."""

    objective: Objective
    data: BatchStream
    config: FinetuneConfig
    out: Path
    accelerator: Accelerator
    """Made with `gradient_accumulation_steps` as the configuration has it for its processes."""
    data_seed: int = 0
    """Seed of `data`: positions in the data are valid for this seed only."""
    start_average: tuple[dict[str, Tensor], int] | None = None
    """Moving average to start from, by the objective's names, and its number of updates."""
    validation: Batch | None = None
    tensorboard: bool = False
    origin: dict[str, Any] = field(default_factory=dict)
    """Origin of weights and data; a run resumes only with the same one."""
    folder: ResumableRun | None = None
    """`out`, opened by the first process; None: opened here."""
    progress: Progress = silent


def finetune(run: TrainingRun) -> Path:
    """Train, or resume training; return the path of the trained model.

    Raises:
        InputError: The settings do not fit, or the folder holds another run.
        HealthError: The loss is not finite, or the memory is used up.
    """
    try:
        with ExitStack() as stack:
            return _Trainer(run, stack).work()
    except (RuntimeError, MemoryError) as error:
        if memory_used_up(error) is None:
            raise
        accelerator = run.accelerator
        line = memory_advice(run.config, accelerator.device, accelerator.num_processes)
        raise HealthError(line) from error


def learning_rate_share(step: int, config: FinetuneConfig) -> float:
    """Return the share of the peak learning rate at a step counted from 0."""
    share = 1.0
    if step < config.warmup_steps:
        share = FIRST_SHARE + (1 - FIRST_SHARE) * step / config.warmup_steps
    left = config.steps - step
    if left < config.decay_steps:
        share *= 0.5 - 0.5 * math.cos(math.pi * left / config.decay_steps)
    return share


class _Trainer:
    """State of a run while it trains."""

    def __init__(self, run: TrainingRun, stack: ExitStack) -> None:
        config, accelerator = run.config, run.accelerator
        config.check()
        self.run, self.config, self.accelerator = run, config, accelerator
        self.accumulation = config.accumulation(accelerator.num_processes)
        if accelerator.gradient_accumulation_steps != self.accumulation:
            raise ValueError(f"the accelerator must accumulate {self.accumulation} batches")
        self._claim(stack)
        self.objective = run.objective
        self.objective.place(accelerator.device)
        self.objective.train()
        self.average = self._make_average()
        groups = self.objective.parameter_groups()
        self.optimizer = torch.optim.AdamW(
            [group | {"lr": group["peak_lr"]} for group in groups if group["params"]],
            weight_decay=config.weight_decay,
        )
        self.step, self.seconds = 0, 0.0
        self._resume()
        self.prepared, self.prepared_optimizer = accelerator.prepare(self.objective, self.optimizer)
        self.terms: list[str] = []
        self.log: TrainingLog | None = None
        if accelerator.is_main_process:
            self.log = TrainingLog(
                run.out, step=self.step, total=config.steps, tensorboard=run.tensorboard
            )
            stack.callback(self.log.close)

    def work(self) -> Path:
        """Run the remaining steps."""
        config, stream = self.config, iter(self.run.data)
        self.run.progress(ProgressEvent(STAGE, self.step, config.steps))
        pending: list[Tensor] = []
        began, began_at = time.monotonic(), self.step
        while self.step < config.steps:
            pending.append(self._one_step(stream))
            self.step += 1
            done = self.step == config.steps
            saves = done or self.step % config.checkpoint_every == 0
            if saves or self.step % config.log_every == 0:
                rate = (self.step - began_at) / max(time.monotonic() - began, 1e-9)
                self._log(pending, rate)
                pending = []
            if self._validates(done):
                self._validate()
            if saves:
                self._save(self.seconds + time.monotonic() - began)
        path = [None]
        if self.accelerator.is_main_process:
            path = [self.objective.export(self.average, self.run.out)]
        return gather_object(path)[0]

    def _one_step(self, stream: Iterator[Any]) -> Tensor:
        """Take one step of the optimiser.

        Returns:
            Mean loss, share of usable examples and mean of each term, of this process.
        """
        config, accelerator = self.config, self.accelerator
        share = learning_rate_share(self.step, config)
        for group in self.prepared_optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share
        parts = []
        for part in range(self.accumulation):
            batch = next(stream).to(accelerator.device)
            with accelerator.accumulate(self.prepared):
                with accelerator.autocast():
                    examples = self.objective.draw_examples(batch, self._numbers(part))
                losses = self.prepared(examples)
                usable = self.objective.usable(examples)
                count = usable.sum().clamp_min(1)
                terms = [(values * usable).sum() / count for values in losses.values()]
                loss = torch.stack(terms).sum()
                accelerator.backward(loss)
                if accelerator.sync_gradients and config.max_gradient_norm is not None:
                    accelerator.clip_grad_norm_(
                        self.objective.parameters(), config.max_gradient_norm
                    )
                self.prepared_optimizer.step()
                self.prepared_optimizer.zero_grad()
            self.terms = list(losses)
            parts.append(torch.stack([loss, usable.mean(), *terms]).detach())
        if self.average is not None:
            self.average.update()
        return torch.stack(parts).mean(dim=0)

    def _numbers(self, part: int) -> list[int]:
        """Number the examples of a batch over the run, as one process with all of them would."""
        config, accelerator = self.config, self.accelerator
        first = self.step * config.effective_batch
        first += (part * accelerator.num_processes + accelerator.process_index) * config.batch
        return list(range(first, first + config.batch))

    def _make_average(self) -> WeightAverage | None:
        if self.config.ema_decay is None:
            return None
        average = WeightAverage(self.objective.averaged(), self.config.ema_decay)
        if self.run.start_average is not None:
            average.load(*self.run.start_average)
        return average

    @property
    def _layout(self) -> dict[str, int]:
        return {
            "batch": self.config.batch,
            "processes": self.accelerator.num_processes,
            "data_seed": self.run.data_seed,
        }

    def _claim(self, stack: ExitStack) -> None:
        """Lock the folder and compare settings in the first process; broadcast the outcome."""
        problem = None
        if self.accelerator.is_main_process:
            try:
                folder = self.run.folder
                if folder is None:
                    folder = stack.enter_context(ResumableRun(self.run.out))
                if not (self.run.out / FILE_NAME).exists():
                    folder.settings_path.unlink(missing_ok=True)  # nothing to resume
                folder.claim(self.config.identity() | self.run.origin)
            except InputError as error:
                problem = str(error)
        problem = gather_object([problem])[0]
        if problem is not None:
            raise InputError(problem)

    def _resume(self) -> None:
        path = self.run.out / FILE_NAME
        exists = gather_object([path.exists()])
        if not any(exists):
            return
        if not all(exists):
            raise InputError(
                f"{path} is not visible to every process; out must name a folder that all machines "
                "share"
            )
        state = load_state(path)
        restore_tensors(state, self.objective, self.average, self.optimizer)
        if self.accelerator.scaler is not None and state.scaler is not None:
            self.accelerator.scaler.load_state_dict(state.scaler)
        self.step, self.seconds = state.step, state.seconds
        if state.layout == self._layout:  # else: see `data_seed_of`
            self.run.data.load_state_dict(state.data_states[self.accelerator.process_index])

    def _log(self, pending: list[Tensor], steps_per_second: float) -> None:
        """Average the losses of the last steps over the processes, and log them."""
        shared: Any = self.accelerator.reduce(torch.stack(pending), reduction="mean")
        losses, usable = shared[:, 0].tolist(), float(shared[:, 1].mean())
        if usable == 0:
            raise InputError(self.objective.no_usable_examples)
        if not all(map(math.isfinite, losses)):
            raise HealthError(
                f"the loss is not finite at step {self.step}. Resume in another folder from the "
                "last export with a lower learning_rate, or with mixed_precision=no"
            )
        if self.log is None:
            return
        values = {
            "examples_per_s": steps_per_second * self.config.effective_batch,
            "eta_s": (self.config.steps - self.step) / steps_per_second,
        }
        if len(self.terms) > 1:
            values |= dict(zip(self.terms, shared[:, 2:].mean(dim=0).tolist(), strict=True))
        if usable < 1:
            values["without_scale"] = 1 - usable
        self.log.steps(self.step - len(losses) + 1, losses, values, self.run.progress)

    def _validates(self, done: bool) -> bool:
        every = self.config.validate_every
        return bool(every) and (done or self.step % every == 0) and self.run.validation is not None

    def _validate(self) -> None:
        if self.log is not None and self.run.validation is not None:
            batch = self.run.validation.to(self.accelerator.device)
            result = self.objective.validate(batch, self.average)
            if result.sheet is not None:
                path = self.run.out / "views" / f"step_{self.step:06d}.png"
                write_image(path, result.sheet / 255)
            self.log.validation(self.step, result.loss, result.sheet)
        self.accelerator.wait_for_everyone()

    def _save(self, seconds: float) -> None:
        """Write the state, by the first process, with the data positions of all."""
        data_states = gather_object([self.run.data.state_dict()])
        scaler = self.accelerator.scaler
        if self.accelerator.is_main_process:
            state = TrainingState(
                step=self.step,
                seconds=seconds,
                layout=self._layout,
                data_states=data_states,
                average_updates=0 if self.average is None else self.average.updates,
                scaler=None if scaler is None else dict(scaler.state_dict()),
                tensors=capture_tensors(self.objective, self.average, self.optimizer),
            )
            save_state(self.run.out / FILE_NAME, state)
            if self.step < self.config.steps:
                self.objective.export(self.average, self.run.out)
        self.accelerator.wait_for_everyone()


class TrainingLog:
    """The log of one run, written by its first process."""

    def __init__(self, out: Path, *, step: int, total: int, tensorboard: bool) -> None:
        """Open the log of a run that starts, or resumes, after `step`.

        Args:
            step: Steps done; lines of later steps are dropped.
            tensorboard: Also write events for TensorBoard, to its folder `tensorboard`.

        Raises:
            ImportError: tensorboard is not installed; the message has the command.
        """
        self.path, self.total = out / "log.jsonl", total
        truncate_log(self.path, step)
        self.board: Any = None
        if tensorboard:
            require("tensorboard", "train")
            writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
            self.board = writer(str(out / "tensorboard"), purge_step=step + 1 if step else None)

    def steps(
        self, first: int, losses: list[float], values: Mapping[str, float], progress: Progress
    ) -> None:
        """Log the losses of steps `first`, `first` + 1, ...; `values` belong to the last."""
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
