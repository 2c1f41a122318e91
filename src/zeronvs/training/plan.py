"""What a training would cost, before it begins: sizes, memory, steps an hour.

Memory is counted (weights, gradients, AdamW, average, activations). Speed is measured on two
batches of made-up pairs where the model fits into memory, and else estimated from the operations
of the U-Net and the speed of a matrix product here; the plan says which.
"""

import math
import os
import time
from dataclasses import dataclass, replace

import torch
from torch import nn

from zeronvs.cameras.embedding import Representation
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.shards.loader import PairBatch
from zeronvs.training.finetune_config import FinetuneConfig
from zeronvs.training.lora import TARGETS
from zeronvs.training.model_sizes import work_of_pair
from zeronvs.training.objective import TrainedDenoiser, make_examples

BYTES = 4
"""Of a float32, which weights, gradients, optimiser and average are kept in."""
RECOMPUTED_AT_ONCE = 0.1
"""Share of the activations that checkpointing holds again while it computes one part anew."""
REACHED_SHARE = 0.4
"""Share of the speed of a large matrix product that a U-Net reaches, where it is not measured."""
FITS_SHARE = 0.8
"""A model is tried out if it needs less than this share of the memory,"""
PATIENCE_S = 30.0
"""and if a batch of it should take no longer than this."""


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What a training would cost in one process of several."""

    parameters: int
    """Of all parts."""
    trained_parameters: int
    weight_bytes: float
    gradient_bytes: float
    optimizer_bytes: float
    average_bytes: float
    activation_bytes: float
    """Of one batch."""
    device: str
    device_bytes: float
    """Memory of the device, in all."""
    accumulation: int
    """Batches of every process in one step."""
    seconds_per_step: float
    measured: bool
    """Whether the time was measured; else it is estimated."""

    @property
    def memory_bytes(self) -> float:
        """Everything together."""
        parts = (self.weight_bytes, self.gradient_bytes, self.optimizer_bytes)
        return sum(parts) + self.average_bytes + self.activation_bytes


def make_plan(
    pipe: ZeroNVSPipeline, config: FinetuneConfig, *, device: torch.device, processes: int = 1
) -> TrainingPlan:
    """Work out what training costs.

    Args:
        pipe: A hollow pipeline (`hollow_pipeline`); it may be filled with made-up numbers.
        config: Settings.
        device: Where it would be trained.
        processes: Processes that would train together.

    Raises:
        InputError: The settings mean nothing.
    """
    config.check()
    accumulation = config.accumulation(processes)
    parts = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    everything = sum(_count(part) for part in parts)
    of_unet = _lora_count(pipe.unet, config.lora_rank) if config.lora_rank else _count(pipe.unet)
    trained = of_unet + _count(pipe.cc_projection)
    trained += _count(pipe.image_encoder) if config.trains_image_encoder else 0
    pipe.unet.train()
    work = work_of_pair(pipe)
    kept = work.activation_bytes
    if config.gradient_checkpointing:
        pipe.unet.enable_gradient_checkpointing()
        checkpointed = work_of_pair(pipe).activation_bytes
        kept = checkpointed + RECOMPUTED_AT_ONCE * (kept - checkpointed)
    half = config.mixed_precision in ("bf16", "fp16")
    plan = TrainingPlan(
        parameters=everything,
        trained_parameters=trained,
        weight_bytes=float(BYTES * everything),
        gradient_bytes=float(BYTES * trained),
        optimizer_bytes=2.0 * BYTES * trained,
        average_bytes=0.0 if config.ema_decay is None else float(BYTES * of_unet),
        activation_bytes=kept * config.batch * (0.5 if half else 1.0),
        device=str(device),
        device_bytes=memory_of(device),
        accumulation=accumulation,
        seconds_per_step=math.nan,
        measured=False,
    )
    passes = 4 if config.gradient_checkpointing else 3
    operations = (passes * work.forward_flops + work.frozen_flops) * config.batch
    seconds = operations / (REACHED_SHARE * product_speed(device, half=half))
    fits = plan.memory_bytes < FITS_SHARE * plan.device_bytes
    if fits and seconds < PATIENCE_S:
        measured = measure_batch(pipe, config, device) * accumulation
        return replace(plan, seconds_per_step=measured, measured=True)
    return replace(plan, seconds_per_step=seconds * accumulation)


def measure_batch(
    pipe: ZeroNVSPipeline, config: FinetuneConfig, device: torch.device, batches: int = 2
) -> float:
    """Fill a hollow pipeline with small numbers and return the seconds that one batch takes.

    The optimiser's own work is left out; with published sizes it is under a tenth.
    """
    generator = torch.Generator().manual_seed(0)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.to_empty(device=device)
            for tensor in [*part.parameters(), *part.buffers()]:
                values = torch.zeros_like(tensor, device="cpu")
                if tensor.is_floating_point():
                    values.uniform_(-0.02, 0.02, generator=generator)
                tensor.data.copy_(values)
            _count_positions(part)
            part.requires_grad_(False)
    pipe.unet.requires_grad_(True)
    pipe.cc_projection.requires_grad_(True)
    model = TrainedDenoiser(pipe, config).train()
    batch = made_up_pairs(config.batch, pipe.image_size_px).to(device)
    took = []
    for number in range(batches + 1):
        began = time.perf_counter()
        half = config.mixed_precision in ("bf16", "fp16")
        kind = torch.float16 if config.mixed_precision == "fp16" else torch.bfloat16
        with torch.autocast(device.type, kind, enabled=half):
            numbers = list(range(number * config.batch, (number + 1) * config.batch))
            loss = model(make_examples(pipe, batch, numbers, config)).mean()
        loss.backward()
        float(loss)  # waits for the device
        took.append(time.perf_counter() - began)
    return min(took[1:])


def made_up_pairs(count: int, size_px: int) -> PairBatch:
    """Return pairs of grey noise with cameras a step apart, with depth."""
    image = torch.randint(0, 256, (count, 3, size_px, size_px), dtype=torch.uint8)
    pose = torch.eye(4).repeat(count, 1, 1)
    moved = pose.clone()
    moved[:, 0, 3] = 0.1
    ones = torch.ones(count)
    return PairBatch(
        input_image=image,
        target_image=image.flip(-1),
        input_to_world=pose,
        target_to_world=moved,
        fov_y_rad=0.9 * ones,
        scene_scale={representation: ones for representation in Representation},
        input_depth_z=torch.ones(count, size_px, size_px),
    )


def product_speed(device: torch.device, *, half: bool) -> float:
    """Measure floating-point operations a second of a large matrix product."""
    side = 1024 if device.type == "cpu" else 8192
    kind = torch.bfloat16 if half else torch.float32
    matrix = torch.ones(side, side, device=device, dtype=kind)
    best = math.inf
    for _ in range(4):
        began = time.perf_counter()
        float((matrix @ matrix)[0, 0])
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def memory_of(device: torch.device) -> float:
    """Return the memory of a device in bytes."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _count(part: nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


def _lora_count(unet: nn.Module, rank: int) -> int:
    layers = [
        module
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(tuple(f".{name}" for name in TARGETS))
    ]
    return sum(rank * (layer.in_features + layer.out_features) for layer in layers)


def _count_positions(part: nn.Module) -> None:
    """Give index buffers (CLIP's positions) their meaning back."""
    for name, buffer in part.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.numel(), device=buffer.device).expand_as(buffer))
