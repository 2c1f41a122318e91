"""Dry run: parameters, memory and speed of a training before it starts."""

import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from zeronvs._core.errors import memory_used_up
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View
from zeronvs.training.denoising import DenoisingObjective
from zeronvs.training.finetune_config import FinetuneConfig
from zeronvs.training.session import TrainRequest, representation_named, with_precision
from zeronvs.training.starting_weights import load_start
from zeronvs.training.view_pairs import ViewPairs

BYTES = 4
"""Size of a float32; weights, gradients, optimiser and average are kept in it."""


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """Cost of a training in one process."""

    parameters: int
    """Parameters of all parts."""
    trained_parameters: int
    state_bytes: int
    """Weights, gradients, AdamW's two moments and moving average."""
    device: str
    device_bytes: float
    """Memory of the device."""
    seconds_per_step: float | None
    """Measured on synthetic pairs; None if a step does not fit into the memory."""


def plan_training(request: TrainRequest) -> TrainingPlan:
    """Load the start, count its memory and time two batches; nothing is written.

    Raises:
        InputError: The request cannot be used as it is.
    """
    device = torch.device("cpu")
    if request.device == "cuda" or (request.device is None and torch.cuda.is_available()):
        device = torch.device("cuda")
    config = with_precision(request.config, device)
    config.check()
    accumulation = config.accumulation(1)
    with tempfile.TemporaryDirectory() as folder:  # a checkpoint is converted there
        pipe = load_start(
            request.start,
            representation_named(request.representation),
            seed=config.seed,
            work_dir=Path(folder),
            takes_average=False,
        ).pipe
    objective = DenoisingObjective(pipe, replace(config, perceptual_weight=0.0))
    parts = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    count = sum(parameter.numel() for part in parts for parameter in part.parameters())
    trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    averaged = sum(p.numel() for p in objective.averaged().values())
    averaged = 0 if config.ema_decay is None else averaged
    state = BYTES * (count + 3 * trained + averaged)
    memory = memory_of(device)
    seconds = _seconds_per_batch(objective, config, device) if state < memory else None
    return TrainingPlan(
        parameters=count,
        trained_parameters=trained,
        state_bytes=state,
        device=str(device),
        device_bytes=memory,
        seconds_per_step=None if seconds is None else seconds * accumulation,
    )


def _seconds_per_batch(
    objective: DenoisingObjective, config: FinetuneConfig, device: torch.device
) -> float | None:
    """Return the time of the second of two batches, without the optimiser's own work."""
    seconds = None
    precision = torch.float16 if config.mixed_precision == "fp16" else torch.bfloat16
    try:
        objective.place(device)
        objective.train()
        pairs = synthetic_pairs(config.batch, objective.pipe.image_size_px).to(device)
        for number in range(2):
            began = time.perf_counter()
            with torch.autocast(device.type, precision, enabled=config.mixed_precision != "no"):
                numbers = list(range(number * config.batch, (number + 1) * config.batch))
                losses = objective(objective.draw_examples(pairs, numbers))
                loss = torch.stack(list(losses.values())).sum()
            loss.backward()
            float(loss.detach())  # waits for the device
            seconds = time.perf_counter() - began
    except (RuntimeError, MemoryError) as error:
        if memory_used_up(error) is None:
            raise
        return None
    return seconds


def synthetic_pairs(count: int, size_px: int) -> ViewPairs:
    """Return pairs of noise images from two nearby cameras, with depth."""
    image = torch.rand(count, 3, size_px, size_px)
    pose = torch.eye(4).repeat(count, 1, 1)
    nearby = pose.clone()
    nearby[:, 0, 3] = 0.1
    first, second = (Camera.from_fov(p, 0.9, (size_px, size_px)) for p in (pose, nearby))
    depth_z = torch.ones(count, size_px, size_px)
    return ViewPairs(View(image, first, depth_z), View(image, second), torch.ones(count))


def memory_of(device: torch.device) -> float:
    """Return the memory of a device in bytes; infinite where it is not known."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # Windows
        return float("inf")
