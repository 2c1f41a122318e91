"""Training the small depth and field-of-view network from teacher disparities and posed frames.

Two kinds of truth: depth of posed frames, right up to scale; disparity of a teacher on single
photographs, right up to scale and shift. The losses are invariant to just that much.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from zeronvs._core.progress import Progress, ProgressEvent, silent
from zeronvs.depth.builtin import DepthNet
from zeronvs.training.compact_state import load_state, save_state
from zeronvs.training.pack import TrainingPack


@dataclass(frozen=True, kw_only=True)
class DepthTrainingConfig:
    """Settings of one run."""

    steps: int = 4500
    posed_batch: int = 6
    photo_batch: int = 10
    learning_rate: float = 1e-3
    encoder_learning_rate: float = 2e-4
    frozen_stages: int = 2
    """The encoder's stem and first stages stay as they are: most of the time, least to learn."""
    fov_weight: float = 0.05
    gradient_weight: float = 2.0
    min_crop_fraction: float = 0.65
    mixed_precision: bool = False
    """bfloat16 where it is safe: for GPUs. On a CPU float32 with channels last is faster."""
    checkpoint_steps: int = 200
    """Steps between two stored states; a run goes on from the last."""
    seed: int = 0


def train_depth(
    net: DepthNet,
    pack: TrainingPack,
    config: DepthTrainingConfig,
    state_dir: Path,
    progress: Progress = silent,
) -> DepthNet:
    """Train `net` in place and return it; batch statistics of the encoder stay as they are.

    Args:
        net: The network with its start weights.
        pack: Training images.
        config: Settings.
        state_dir: The state is kept here; a run goes on from it.
        progress: Told of every step.
    """
    net.stem.requires_grad_(False)
    net.stages[: config.frozen_stages].requires_grad_(False)
    encoder = [*net.stages[config.frozen_stages :].parameters()]
    rest = [
        parameter
        for name, parameter in net.named_parameters()
        if not name.startswith(("stem.", "stages."))
    ]
    optimizer = torch.optim.AdamW([{"params": encoder}, {"params": rest}], weight_decay=0.01)
    scenes = [torch.nonzero(pack.frame_scene == s)[:, 0] for s in pack.frame_scene.unique()]
    # Scenes with many frames repeat themselves: weight by the root of their length.
    scene_weight = torch.tensor([len(frames) ** 0.5 for frames in scenes])
    net.eval().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    step = load_state(state_dir, net, dict(net.state_dict()), optimizer)
    while step < config.steps:
        rates = (config.encoder_learning_rate, config.learning_rate)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * _rate(step, config.steps)
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        losses = _losses(net, pack, config, scenes, scene_weight, generator)
        loss = losses["posed"] + losses["photo"] + config.fov_weight * losses["fov"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % config.checkpoint_steps == 0 or step == config.steps:
            save_state(state_dir, net, dict(net.state_dict()), optimizer, step)
        values = {name: float(value.detach()) for name, value in losses.items()}
        progress(ProgressEvent("train depth", step, config.steps, values))
    net.requires_grad_(True)
    return net


def _rate(step: int, steps: int) -> float:
    """Return the share of the learning rate: up over a twentieth of the steps, down by a cosine."""
    warm_steps = max(1, steps // 20)
    if step < warm_steps:
        return (step + 1) / warm_steps
    return 0.5 + 0.5 * math.cos(math.pi * (step - warm_steps) / max(1, steps - warm_steps))


def _losses(
    net: DepthNet,
    pack: TrainingPack,
    config: DepthTrainingConfig,
    scenes: list[Tensor],
    scene_weight: Float[Tensor, " s"],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    chosen = torch.multinomial(scene_weight, config.posed_batch, True, generator=generator)
    frames = torch.stack(
        [scenes[s][torch.randint(len(scenes[s]), (), generator=generator)] for s in chosen]
    )
    photos = torch.randint(len(pack.photo_image), (config.photo_batch,), generator=generator)
    size_px = net.config["input_size_px"]
    images, targets, crop_fraction = [], [], []
    for number in range(config.posed_batch + config.photo_batch):
        posed = number < config.posed_batch
        index = frames[number] if posed else photos[number - config.posed_batch]
        image = (pack.frame_image if posed else pack.photo_image)[index].float() / 255
        target = (pack.frame_depth_z if posed else pack.photo_disparity)[index].float()
        image, target, fraction = _augment(image, target, size_px, posed, config, generator)
        images.append(image)
        targets.append(target)
        crop_fraction.append(fraction)
    with torch.autocast(net.device.type, torch.bfloat16, enabled=config.mixed_precision):
        disparity, fov = net(torch.stack(images).to(net.device))
    disparity, fov = disparity.float().cpu(), fov.float().cpu()
    target = torch.stack(targets)
    posed = config.posed_batch
    tangent = 0.5 * pack.frame_image.shape[-1] / pack.frame_intrinsics_px[frames, 1, 1]
    log_tangent = (tangent * torch.tensor(crop_fraction[:posed])).log()
    log_spread = fov[:posed, 1].clamp(-4, 2)
    error = (fov[:posed, 0] - log_tangent).abs()
    return {
        "posed": _posed_loss(disparity[:posed], target[:posed], config.gradient_weight),
        "photo": _photo_loss(disparity[posed:], target[posed:], config.gradient_weight),
        "fov": (error * (-log_spread).exp() + log_spread).mean(),
    }


def _augment(
    image: Float[Tensor, "3 h w"],
    target: Float[Tensor, "h w"],
    size_px: int,
    posed: bool,
    config: DepthTrainingConfig,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "3 s s"], Float[Tensor, "s2 s2"], float]:
    side = image.shape[-1]
    low = config.min_crop_fraction
    fraction = low + (1 - low) * float(torch.rand((), generator=generator))
    crop = int(side * fraction)
    # A crop off the centre would move the principal point, which the field of view leaves out:
    # photographs have no field of view to learn.
    room = (side - crop) // 2 * 2
    top, left = (
        room // 2 if posed else int(torch.randint(room + 1, (), generator=generator))
        for _ in range(2)
    )
    window = (slice(top, top + crop), slice(left, left + crop))
    image = F.interpolate(image[None, :, *window], (size_px, size_px), mode="bilinear")[0]
    # Depth of posed frames has gaps (0), which must not be mixed with what is known.
    target = F.interpolate(
        target[None, None, *window],
        (size_px // 2, size_px // 2),
        mode="nearest-exact" if posed else "area",
    )[0, 0]
    if torch.rand((), generator=generator) < 0.5:
        image, target = image.flip(-1), target.flip(-1)
    gains = 1 + 0.3 * (torch.rand(3, 1, 1, generator=generator) - 0.5)
    gamma = 0.7 + 0.7 * float(torch.rand((), generator=generator))
    return (image.clamp_min(1e-4) ** gamma * gains).clamp(0, 1), target, crop / side


def _posed_loss(
    disparity: Float[Tensor, "b h w"], depth: Float[Tensor, "b h w"], gradient_weight: float
) -> Float[Tensor, ""]:
    known = depth > 0
    error = -disparity.log() - depth.clamp_min(1e-3).log()
    masked = torch.where(known, error.detach(), torch.full_like(error, torch.nan))
    # Where nothing is known the median is NaN, and even times 0 it would stay so.
    error = error - masked.flatten(1).nanmedian(dim=1).values.nan_to_num()[:, None, None]
    return _robust(error, known) + gradient_weight * _gradient(error, known)


def _photo_loss(
    disparity: Float[Tensor, "b h w"], teacher: Float[Tensor, "b h w"], gradient_weight: float
) -> Float[Tensor, ""]:
    error = _standardized(disparity) - _standardized(teacher)
    known = torch.ones_like(error, dtype=torch.bool)
    return _robust(error, known) + gradient_weight * _gradient(error, known)


def _standardized(values: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    flat = values.flatten(1)
    flat = flat - flat.median(dim=1, keepdim=True).values
    return (flat / flat.abs().mean(dim=1, keepdim=True).clamp_min(1e-4)).view_as(values)


def _robust(error: Float[Tensor, "b h w"], known: Tensor) -> Float[Tensor, ""]:
    return (error.abs() * known).sum() / known.sum().clamp_min(1)


def _gradient(error: Float[Tensor, "b h w"], known: Tensor) -> Float[Tensor, ""]:
    total = error.new_zeros(())
    for scale in (1, 2, 4, 8):
        part, mask = error[:, ::scale, ::scale], known[:, ::scale, ::scale]
        across = (part[:, :, 1:] - part[:, :, :-1]).abs() * (mask[:, :, 1:] & mask[:, :, :-1])
        down = (part[:, 1:] - part[:, :-1]).abs() * (mask[:, 1:] & mask[:, :-1])
        total = total + (across.sum() + down.sum()) / mask.sum().clamp_min(1)
    return total / 4
