"""Training objective and data of the small depth and field-of-view network.

Two kinds of targets: depth of posed frames, known up to scale; disparity of a teacher on single
photographs, known up to scale and shift. The losses are invariant to exactly that.
"""

import copy
import math
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.nn import functional as F

from zeronvs.depth.builtin import DepthNet
from zeronvs.training.export import replace_folder, without_source_path
from zeronvs.training.finetune_config import FinetuneConfig
from zeronvs.training.objective import NumberedStream, Objective
from zeronvs.training.pack import TrainingPack
from zeronvs.training.training_state import WeightAverage

FOLDER = "depth"


@dataclass(frozen=True, kw_only=True)
class DepthTrainingConfig:
    """Settings beyond those of every training."""

    posed_share: float = 0.375
    """Share of posed frames in a batch; the others are photographs."""
    encoder_rate: float = 0.2
    """Learning rate of the encoder relative to that of the decoder."""
    frozen_stages: int = 2
    """Stem and first stages of the encoder are frozen: they take most time and change least."""
    fov_weight: float = 0.05
    gradient_weight: float = 2.0
    min_crop_fraction: float = 0.65
    pasted_share: float = 0.4
    """Share of photographs with a piece of another one pasted in front (`paste`)."""


@dataclass(frozen=True, eq=False)
class DepthBatch:
    """Augmented images and their targets, posed frames first."""

    image: Float[Tensor, "n 3 s s"]
    target: Float[Tensor, "n s2 s2"]
    """Depth of posed frames (0 = unknown) and disparity of photographs, at half the resolution."""
    log_tangent: Float[Tensor, " posed"]
    """Logarithm of the tangent of half the field of view of the posed frames."""

    def to(self, device: torch.device) -> "DepthBatch":
        """Return the batch with its tensors on `device`."""
        return DepthBatch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


class DepthObjective(Objective):
    """Train a depth network; batch statistics of the encoder are frozen."""

    def __init__(self, net: DepthNet, config: FinetuneConfig, depth: DepthTrainingConfig) -> None:
        super().__init__()
        self.net, self.config, self.depth = net, config, depth
        net.requires_grad_(True)
        net.stem.requires_grad_(False)
        net.stages[: depth.frozen_stages].requires_grad_(False)
        net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def train(self, mode: bool = True) -> "DepthObjective":
        """Keep the network in evaluation mode."""
        return super().train(False)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameters, with the encoder at its own rate."""
        encoder = [v for v in self.net.stages.parameters() if v.requires_grad]
        known = {id(value) for value in encoder}
        others = [v for v in self.parameters() if v.requires_grad and id(v) not in known]
        rate = self.config.learning_rate
        return [
            {"params": encoder, "peak_lr": rate * self.depth.encoder_rate},
            {"params": others, "peak_lr": rate},
        ]

    def draw_examples(self, batch: DepthBatch, numbers: list[int]) -> DepthBatch:
        """Return the batch: its augmentations were drawn with it."""
        return batch

    def forward(self, examples: DepthBatch) -> dict[str, Float[Tensor, " 1"]]:
        """Return the weighted terms of the loss of the whole batch."""
        # Float32 whatever the loop's precision: on a CPU, channels-last float32 is faster.
        with torch.autocast(examples.image.device.type, enabled=False):
            disparity, fov = self.net(examples.image)
        posed = len(examples.log_tangent)
        weight = self.depth.gradient_weight
        log_spread = fov[:posed, 1].clamp(-4, 2)
        error = (fov[:posed, 0] - examples.log_tangent).abs()
        # Negative log-likelihood of a Laplace distribution.
        likelihood = (error * (-log_spread).exp() + log_spread).mean()
        terms = {
            "posed": posed_loss(disparity[:posed], examples.target[:posed], weight),
            "photo": photo_loss(disparity[posed:], examples.target[posed:], weight),
            "fov": self.depth.fov_weight * likelihood,
        }
        return {name: term[None] for name, term in terms.items()}

    def export(self, average: WeightAverage | None, out: Path) -> Path:
        """Write `out/depth`."""
        dtype = torch.float16 if self.config.exports_half else torch.float32
        with average.in_place() if average is not None else nullcontext():
            copied: Any = copy.deepcopy(self.net)
        net = without_source_path(copied.to(dtype))
        return replace_folder(out / FOLDER, net.save_pretrained)


class DepthBatches(NumberedStream):
    """Batches for the depth network."""

    def __init__(
        self,
        pack: TrainingPack,
        config: FinetuneConfig,
        depth: DepthTrainingConfig,
        *,
        size_px: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        """Keep the images; nothing is drawn yet.

        Args:
            processes: Processes that train together, which take the batches in turn.
        """
        self.pack, self.config, self.depth, self.size_px = pack, config, depth, size_px
        super().__init__(rank, processes)
        self.seed, self.scenes = seed, pack.scenes()
        # Long recordings are redundant: weight by the square root of their length.
        self.scene_weight = torch.tensor([len(frames) ** 0.5 for frames in self.scenes])

    def read(self, index: int) -> DepthBatch:
        """Draw batch `index` of this process."""
        number = index * self.processes + self.rank
        generator = Generator().manual_seed((self.seed * 1_000_003 + number) % 2**63)
        pack, batch = self.pack, self.config.batch
        posed = min(max(1, round(self.depth.posed_share * batch)), batch)
        chosen = torch.multinomial(self.scene_weight, posed, True, generator=generator)
        scenes = [self.scenes[int(index)] for index in chosen]
        frames = torch.stack(
            [scene[torch.randint(len(scene), (), generator=generator)] for scene in scenes]
        )
        photos = torch.randint(len(pack.photo_image), (batch - posed,), generator=generator)
        examples = [
            self._example(pack.frame_image[i], pack.frame_depth_z[i], True, generator)
            for i in frames
        ] + [self._photograph(int(i), generator) for i in photos]
        images, targets, fractions = zip(*examples, strict=True)
        tangent = 0.5 * pack.frame_image.shape[-1] / pack.frame_intrinsics_px[frames, 1, 1]
        log_tangent = (tangent * torch.tensor(fractions[:posed])).log()
        return DepthBatch(torch.stack(images), torch.stack(targets), log_tangent)

    def _photograph(self, index: int, generator: Generator) -> tuple[Tensor, Tensor, float]:
        """Draw an example of one photograph, some with a piece of another one in front."""
        pack = self.pack
        image, target, fraction = self._example(
            pack.photo_image[index], pack.photo_disparity[index], False, generator
        )
        if torch.rand((), generator=generator) < self.depth.pasted_share:
            other = int(torch.randint(len(pack.photo_image), (), generator=generator))
            front = self._example(
                pack.photo_image[other], pack.photo_disparity[other], False, generator
            )
            image, target = paste(image, target, front[0], front[1], generator)
        return image, target, fraction

    def _example(
        self, image: Tensor, target: Tensor, is_posed: bool, generator: Generator
    ) -> tuple[Tensor, Tensor, float]:
        return augment(
            image.float() / 255,
            target.float(),
            self.size_px,
            is_posed=is_posed,
            min_crop_fraction=self.depth.min_crop_fraction,
            generator=generator,
        )


def augment(
    image: Float[Tensor, "3 h w"],
    target: Float[Tensor, "h w"],
    size_px: int,
    *,
    is_posed: bool,
    min_crop_fraction: float,
    generator: Generator,
) -> tuple[Float[Tensor, "3 s s"], Float[Tensor, "s2 s2"], float]:
    """Crop, mirror and recolour an image and its target.

    Returns:
        Image, target at half the resolution, and the side of the crop relative to the image's.
    """
    side, low = image.shape[-1], min_crop_fraction
    fraction = low + (1 - low) * float(torch.rand((), generator=generator))
    crop = int(side * fraction)
    # A crop off the centre moves the principal point, which the field of view does not describe;
    # photographs have no known field of view, so they may be cropped anywhere.
    room = (side - crop) // 2 * 2
    top, left = (
        room // 2 if is_posed else int(torch.randint(room + 1, (), generator=generator))
        for _ in range(2)
    )
    window = (slice(top, top + crop), slice(left, left + crop))
    image = F.interpolate(image[None, :, *window], (size_px, size_px), mode="bilinear")[0]
    # Depth of posed frames has gaps (0), which must not be mixed with known depth.
    target = F.interpolate(
        target[None, None, *window],
        (size_px // 2, size_px // 2),
        mode="nearest-exact" if is_posed else "area",
    )[0, 0]
    if torch.rand((), generator=generator) < 0.5:
        image, target = image.flip(-1), target.flip(-1)
    gains = 1 + 0.3 * (torch.rand(3, 1, 1, generator=generator) - 0.5)
    gamma = 0.7 + 0.7 * float(torch.rand((), generator=generator))
    return (image.clamp_min(1e-4) ** gamma * gains).clamp(0, 1), target, crop / side


def paste(
    image: Float[Tensor, "3 s s"],
    disparity: Float[Tensor, "s2 s2"],
    front_image: Float[Tensor, "3 s s"],
    front_disparity: Float[Tensor, "s2 s2"],
    generator: Generator,
) -> tuple[Float[Tensor, "3 s s"], Float[Tensor, "s2 s2"]]:
    """Return an image with a piece of another one in front of it, and its disparity.

    Disparities of a teacher have ramps where objects end; around the piece it has a step, which
    is where the image has its edge.

    Args:
        image: RGB in [0, 1].
        disparity: Of the image, up to scale and shift, at half the resolution.
        front_image: What the piece is cut from.
        front_disparity: Of that image; its relief is kept, flattened.
        generator: Draws the shape and the gap.
    """
    mask = random_shape(image.shape[-1], generator)
    inside = F.avg_pool2d(mask[None], 2)[0] > 0.5
    if not inside.any():
        return image, disparity
    spread = (disparity.quantile(0.9) - disparity.quantile(0.1)).clamp_min(1.0)
    relief = front_disparity - front_disparity[inside].min()
    # The piece keeps its relief, flattened, and stands in front of all that it covers.
    relief = relief * (0.3 * spread / relief[inside].max().clamp_min(1.0))
    gap = spread * (0.1 + 0.6 * torch.rand((), generator=generator))
    front = disparity[inside].max() + gap + relief
    return torch.lerp(image, front_image, mask), torch.where(inside, front, disparity)


def random_shape(side_px: int, generator: Generator) -> Float[Tensor, "s s"]:
    """Return the coverage, in [0, 1], of pixels by blobs, or by a few bars as thin as posts."""
    fine_px = 2 * side_px
    if torch.rand((), generator=generator) < 0.6:
        cells = int(torch.randint(3, 9, (), generator=generator))
        noise = torch.randn(1, 1, cells, cells, generator=generator)
        height = F.interpolate(noise, (fine_px, fine_px), mode="bicubic")[0]
        area = 0.03 + 0.32 * float(torch.rand((), generator=generator))
        shape = (height > height.quantile(1 - area)).float()
    else:
        shape = torch.zeros(1, fine_px, fine_px)
        axis = (torch.arange(fine_px) + 0.5) / fine_px
        for _ in range(int(torch.randint(1, 5, (), generator=generator))):
            x, y, turn, length, width = torch.rand(5, generator=generator)
            cosine, sine = (math.pi * turn).cos(), (math.pi * turn).sin()
            along = (axis - x) * cosine + (axis[:, None] - y) * sine
            across = (axis[:, None] - y) * cosine - (axis - x) * sine
            bar = (along.abs() < 0.1 + 0.4 * length) & (across.abs() < 0.005 + 0.03 * width)
            shape[0] = shape[0].maximum(bar.float())
    return F.avg_pool2d(shape, 2)[0]


def posed_loss(
    disparity: Float[Tensor, "b h w"], depth: Float[Tensor, "b h w"], gradient_weight: float
) -> Float[Tensor, ""]:
    """Return the scale-invariant loss: log errors about their median; depth 0 is unknown."""
    known = depth > 0
    error = -disparity.log() - depth.clamp_min(1e-3).log()
    masked = torch.where(known, error.detach(), torch.full_like(error, torch.nan))
    # An image without known depth has no median; NaN would survive even a weight of 0.
    error = error - masked.flatten(1).nanmedian(dim=1).values.nan_to_num()[:, None, None]
    return _robust(error, known) + gradient_weight * gradient_loss(error, known)


def photo_loss(
    disparity: Float[Tensor, "b h w"], teacher: Float[Tensor, "b h w"], gradient_weight: float
) -> Float[Tensor, ""]:
    """Return the scale- and shift-invariant loss: disparities are standardised (MiDaS)."""
    error = _standardized(disparity) - _standardized(teacher)
    known = torch.ones_like(error, dtype=torch.bool)
    return _robust(error, known) + gradient_weight * gradient_loss(error, known)


def gradient_loss(error: Float[Tensor, "b h w"], known: Bool[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """Return the mean absolute gradient of the error at four scales, which aligns edges."""
    total = error.new_zeros(())
    for scale in (1, 2, 4, 8):
        part, mask = error[:, ::scale, ::scale], known[:, ::scale, ::scale]
        across = (part[:, :, 1:] - part[:, :, :-1]).abs() * (mask[:, :, 1:] & mask[:, :, :-1])
        down = (part[:, 1:] - part[:, :-1]).abs() * (mask[:, 1:] & mask[:, :-1])
        total = total + (across.sum() + down.sum()) / mask.sum().clamp_min(1)
    return total / 4


def _standardized(values: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    flat = values.flatten(1)
    flat = flat - flat.median(dim=1, keepdim=True).values
    return (flat / flat.abs().mean(dim=1, keepdim=True).clamp_min(1e-4)).view_as(values)


def _robust(error: Float[Tensor, "b h w"], known: Bool[Tensor, "b h w"]) -> Float[Tensor, ""]:
    return (error.abs() * known).sum() / known.sum().clamp_min(1)
