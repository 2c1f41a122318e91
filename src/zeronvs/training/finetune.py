"""The training loop: the same for one process and for many, on accelerate.

A step takes `accumulation` batches of every process. The state is kept every so many steps; a run
that was stopped at any moment goes on from the last one with the losses of an uninterrupted run.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from zeronvs._core.errors import HealthError, InputError
from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs.cameras.embedding import Representation
from zeronvs.protocols import GeometryEstimator
from zeronvs.shards.loader import PairBatch
from zeronvs.training.average import WeightAverage
from zeronvs.training.export import export_pipeline
from zeronvs.training.finetune_config import FinetuneConfig
from zeronvs.training.lora import add_lora
from zeronvs.training.objective import TrainedDenoiser, make_examples, no_scale
from zeronvs.training.out_of_memory import advice, is_out_of_memory
from zeronvs.training.starting_weights import StartingPoint
from zeronvs.training.training_log import STAGE, TrainingLog
from zeronvs.training.training_state import (
    FILE_NAME,
    TrainingState,
    capture_tensors,
    check_same_run,
    load_state,
    restore_tensors,
    save_state,
    trained_parameters,
)
from zeronvs.training.validation import validate, write_sheet

RISE_FROM = 1e-6
"""Share of the learning rate that the first step has (published code, zeronvs_config.yaml)."""


@runtime_checkable
class PairSource(Protocol):
    """Where batches of pairs come from without end: each process has its own."""

    def __iter__(self) -> Iterator[PairBatch]:
        """Yield batches, from the place on that was loaded last."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the place after the batches that were taken, as JSON can hold it."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a place."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingRun:
    """Everything that a run is made of."""

    start: StartingPoint
    pairs: PairSource
    config: FinetuneConfig
    out: Path
    accelerator: Accelerator
    """Made with `gradient_accumulation_steps` as the configuration has it for its processes."""
    pair_seed: int = 0
    """Seed of `pairs`: places in the data are of this seed only."""
    validation: PairBatch | None = None
    geometry_estimator: GeometryEstimator | None = None
    """Completes the depth of input views, where the model needs depth."""
    tensorboard: bool = False
    origin: dict[str, Any] = field(default_factory=dict)
    """Where weights and pairs come from; a run goes on only with the same."""
    progress: Progress = silent


def finetune(run: TrainingRun) -> Path:
    """Train, or go on; return the folder of the pipeline.

    Raises:
        InputError: The settings do not fit, or the folder holds another run.
        HealthError: The loss is not finite, or the memory is used up.
    """
    try:
        return _Trainer(run).work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        accelerator = run.accelerator
        line = advice(run.config, accelerator.device, accelerator.num_processes)
        raise HealthError(line) from error


def learning_rate_share(step: int, warmup_steps: int) -> float:
    """Return the share of the learning rate that the step has, `step` counted from 0."""
    if step >= warmup_steps:
        return 1.0
    return RISE_FROM + (1 - RISE_FROM) * step / warmup_steps


class _Trainer:
    """The parts of a run while it works."""

    def __init__(self, run: TrainingRun) -> None:
        config, accelerator = run.config, run.accelerator
        config.check()
        self.run, self.config, self.accelerator = run, config, accelerator
        self.accumulation = config.accumulation(accelerator.num_processes)
        if accelerator.gradient_accumulation_steps != self.accumulation:
            raise ValueError(f"the accelerator must accumulate {self.accumulation} batches")
        self.pipe = run.start.pipe.to(accelerator.device)
        self._choose_what_is_trained()
        model = TrainedDenoiser(self.pipe, config).train()
        self.model = model
        self.average = self._make_average()
        self.optimizer = torch.optim.AdamW(self._groups(), weight_decay=config.weight_decay)
        self.step, self.seconds = 0, 0.0
        self._resume()
        self.prepared, self.prepared_optimizer = accelerator.prepare(model, self.optimizer)
        self.log: TrainingLog | None = None
        if accelerator.is_main_process:
            self.log = TrainingLog(
                run.out, step=self.step, total=config.steps, tensorboard=run.tensorboard
            )

    def work(self) -> Path:
        """Do the steps that are left."""
        config, stream = self.config, iter(self.run.pairs)
        self.run.progress(ProgressEvent(STAGE, self.step, config.steps))
        pending: list[Tensor] = []
        began, began_at = time.monotonic(), self.step
        while self.step < config.steps:
            pending.append(self._one_step(stream))
            self.step += 1
            done = self.step == config.steps
            keeps = done or self.step % config.checkpoint_every == 0
            if keeps or self.step % config.log_every == 0:
                rate = (self.step - began_at) / max(time.monotonic() - began, 1e-9)
                self._tell(pending, rate)
                pending = []
            if self._looks(done):
                self._validate()
            if keeps:
                self._keep(self.seconds + time.monotonic() - began)
        self._export()
        if self.log is not None:
            self.log.close()
        self.accelerator.wait_for_everyone()
        return self.run.out / "pipeline"

    def _one_step(self, stream: Iterator[PairBatch]) -> Tensor:
        """Take one step of the optimiser.

        Returns:
            Mean loss, and share of pairs that counted, of this process, on its device.
        """
        config, accelerator = self.config, self.accelerator
        share = learning_rate_share(self.step, config.warmup_steps)
        for group in self.prepared_optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share
        told = []
        for part in range(self.accumulation):
            batch = next(stream).to(accelerator.device)
            with accelerator.accumulate(self.prepared):
                with accelerator.autocast():
                    examples = make_examples(
                        self.pipe,
                        batch,
                        self._numbers(part),
                        config,
                        self.run.geometry_estimator,
                    )
                losses_of_pairs = self.prepared(examples) * examples.usable
                usable = examples.usable.sum()
                loss = losses_of_pairs.sum() / usable.clamp_min(1)
                accelerator.backward(loss)
                if accelerator.sync_gradients and config.max_gradient_norm is not None:
                    accelerator.clip_grad_norm_(self.model.parameters(), config.max_gradient_norm)
                self.prepared_optimizer.step()
                self.prepared_optimizer.zero_grad()
            told.append(torch.stack([loss.detach(), usable / config.batch]))
        if self.average is not None:
            self.average.update()
        return torch.stack(told).mean(dim=0)

    def _numbers(self, part: int) -> list[int]:
        """Number the pairs of a batch over the run, as one process with all of them would."""
        config, accelerator = self.config, self.accelerator
        first = self.step * config.effective_batch
        first += (part * accelerator.num_processes + accelerator.process_index) * config.batch
        return list(range(first, first + config.batch))

    def _choose_what_is_trained(self) -> None:
        pipe, config = self.pipe, self.config
        frozen = [pipe.vae, pipe.image_encoder]
        for part in frozen:
            if isinstance(part, torch.nn.Module):
                part.requires_grad_(False)
                part.eval()
        pipe.unet.requires_grad_(True)
        pipe.cc_projection.requires_grad_(True)
        if config.lora_rank is not None:
            add_lora(pipe.unet, config.lora_rank, config.seed)
        if config.trains_image_encoder:
            pipe.image_encoder.requires_grad_(True)
        if config.gradient_checkpointing:
            pipe.unet.enable_gradient_checkpointing()

    def _make_average(self) -> WeightAverage | None:
        if self.config.ema_decay is None:
            return None
        names = trained_parameters(self.model)
        of_unet = {name: value for name, value in names.items() if name.startswith("unet.")}
        average = WeightAverage(of_unet, self.config.ema_decay)
        start = self.run.start
        if start.average is not None and self.config.lora_rank is None:
            stored = {f"unet.{name}": tensor for name, tensor in start.average.items()}
            average.load(stored, start.average_updates)
        return average

    def _groups(self) -> list[dict[str, Any]]:
        config, parameters = self.config, trained_parameters(self.model)
        projection = [value for name, value in parameters.items() if name.startswith("cc_")]
        others = [value for name, value in parameters.items() if not name.startswith("cc_")]
        rate = config.learning_rate
        return [
            {"params": others, "lr": rate, "peak_lr": rate},
            {"params": projection, "lr": rate, "peak_lr": rate * config.projection_rate},
        ]

    @property
    def _identity(self) -> dict[str, Any]:
        config = self.config
        return {
            "effective_batch": config.effective_batch,
            "learning_rate": config.learning_rate,
            "projection_rate": config.projection_rate,
            "ema_decay": config.ema_decay,
            "dropout": config.dropout,
            "lora": config.lora_rank,
            "trains_image_encoder": config.trains_image_encoder,
            "seed": config.seed,
            **self.run.origin,
        }

    @property
    def _layout(self) -> dict[str, int]:
        return {
            "batch": self.config.batch,
            "processes": self.accelerator.num_processes,
            "pair_seed": self.run.pair_seed,
        }

    def _resume(self) -> None:
        path = self.run.out / FILE_NAME
        found = gather_object([path.exists()])
        if not any(found):
            return
        if not all(found):
            raise InputError(
                f"{path} is not seen by every process; -o must name a folder that all machines "
                "share"
            )
        state = load_state(path)
        check_same_run(state.identity, self._identity, self.run.out)
        restore_tensors(state, self.model, self.average, self.optimizer)
        if self.accelerator.scaler is not None and state.scaler is not None:
            self.accelerator.scaler.load_state_dict(state.scaler)
        self.step, self.seconds = state.step, state.seconds
        if state.layout == self._layout:  # else: see `pair_seed_of`
            self.run.pairs.load_state_dict(state.places[self.accelerator.process_index])

    def _tell(self, pending: list[Tensor], steps_per_second: float) -> None:
        """Share the losses of the last steps between the processes, and log them."""
        shared: Any = self.accelerator.reduce(torch.stack(pending), reduction="mean")
        values, usable = shared[:, 0].tolist(), float(shared[:, 1].mean())
        if usable == 0:
            name = self.pipe.cc_projection.config["representation"]
            raise InputError(no_scale(Representation(name)))
        if not all(map(_finite, values)):
            raise HealthError(
                f"the loss is not a number at step {self.step}. Go on from the last state with a "
                "lower --learning-rate, or with --mixed-precision no, in another folder"
            )
        if self.log is None:
            return
        told = {
            "pairs_per_s": steps_per_second * self.config.effective_batch,
            "eta_s": (self.config.steps - self.step) / steps_per_second,
        }
        if usable < 1:
            told["without_scale"] = 1 - usable
        self.log.steps(self.step - len(values) + 1, values, told, self.run.progress)

    def _looks(self, done: bool) -> bool:
        every = self.config.validate_every
        return bool(every) and (done or self.step % every == 0) and self.run.validation is not None

    def _validate(self) -> None:
        if self.log is not None and self.run.validation is not None:
            batch = self.run.validation.to(self.accelerator.device)
            result = validate(
                self.model, batch, self.average, self.config, self.run.geometry_estimator
            )
            write_sheet(self.run.out / "views" / f"step_{self.step:06d}.png", result.sheet)
            self.log.validation(self.step, result.loss, result.sheet)
        self.accelerator.wait_for_everyone()

    def _keep(self, seconds: float) -> None:
        """Write the state, by the first process, with the places in the data of all."""
        places = gather_object([self.run.pairs.state_dict()])
        scaler = self.accelerator.scaler
        if self.accelerator.is_main_process:
            state = TrainingState(
                step=self.step,
                seconds=seconds,
                identity=self._identity,
                layout=self._layout,
                places=places,
                average_updates=0 if self.average is None else self.average.updates,
                scaler=None if scaler is None else dict(scaler.state_dict()),
                tensors=capture_tensors(self.model, self.average, self.optimizer),
            )
            save_state(self.run.out / FILE_NAME, state)
            if self.step < self.config.steps:
                self._export()
        self.accelerator.wait_for_everyone()

    def _export(self) -> None:
        if self.accelerator.is_main_process:
            has_lora = self.config.lora_rank is not None
            export_pipeline(self.pipe, self.average, self.run.out, has_lora=has_lora)


def _finite(value: float) -> bool:
    return value - value == 0.0
