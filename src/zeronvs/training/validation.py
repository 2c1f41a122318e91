"""Looking at a model while it trains: the same few pairs again and again."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from zeronvs._core.files import write_aside
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.embedding import Representation
from zeronvs.cameras.view import View, resize_image
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.protocols import GeometryEstimator
from zeronvs.shards.loader import PairBatch
from zeronvs.training.average import WeightAverage
from zeronvs.training.finetune_config import FinetuneConfig
from zeronvs.training.objective import TrainedDenoiser, input_depth, make_examples, scale_of

DRAWS = 4
"""Noise levels that the validation loss looks at, for each pair."""


@dataclass(frozen=True, eq=False)
class ValidationResult:
    """How the model does on the validation pairs."""

    loss: float
    """Mean loss at fixed noise; lower is better, and comparable over the steps of one run."""
    sheet: UInt8[Tensor, "3 h w"]
    """A row for each pair: input, truth, sample."""


def validate(
    model: TrainedDenoiser,
    batch: PairBatch,
    average: WeightAverage | None,
    config: FinetuneConfig,
    geometry_estimator: GeometryEstimator | None = None,
) -> ValidationResult:
    """Sample the validation pairs with the averaged weights, always with the same noise.

    Args:
        model: What is trained; its pipeline samples.
        batch: The pairs, on the device of the pipeline.
        average: Takes the place of the weights, where there is one.
        config: Says the seed.
        geometry_estimator: See `input_depth`.
    """
    count = len(batch.fov_y_rad)
    # Other noise than in training, nothing dropped.
    fixed = replace(config, seed=config.seed + 1, dropout=0.0)
    was_training = model.training
    model.eval()
    with average.in_place() if average is not None else nullcontext(), torch.no_grad():
        losses = []
        for draw in range(DRAWS):
            numbers = [draw * count + k for k in range(count)]
            examples = make_examples(model.pipe, batch, numbers, fixed, geometry_estimator)
            losses.append(model(examples))
        sampled = sample_pairs(
            model.pipe,
            batch,
            list(range(count)),
            config.validation_sampling_steps,
            geometry_estimator,
        )
    model.train(was_training)
    loss = float(torch.cat(losses).mean())
    return ValidationResult(loss, sheet_of([batch.input_image, batch.target_image, sampled]))


def sample_pairs(
    pipe: ZeroNVSPipeline,
    batch: PairBatch,
    seeds: list[int],
    steps: int | None = None,
    geometry_estimator: GeometryEstimator | None = None,
) -> Float[Tensor, "n 3 H W"]:
    """Sample the target views of pairs; the model's own number of steps where none is given."""
    height, width = (int(side) for side in batch.input_image.shape[-2:])
    image = batch.input_image.float() / 255
    camera = Camera.from_fov(batch.input_to_world, batch.fov_y_rad, (height, width))
    view = View(image, camera, input_depth(pipe, batch, image, geometry_estimator))
    representation = Representation(pipe.cc_projection.config["representation"])
    scale = torch.nan_to_num(scale_of(batch, representation), nan=1.0)
    condition = pipe.encode(view, scale)
    targets = Camera.from_fov(batch.target_to_world, batch.fov_y_rad, (height, width))
    return pipe.sample(condition, targets, seeds, num_inference_steps=steps)


def sheet_of(columns: Sequence[Tensor]) -> UInt8[Tensor, "3 h w"]:
    """Lay batches of images side by side, one pair a row, all at the size of the last batch."""
    side = int(columns[-1].shape[-1])
    shown = []
    for images in columns:
        values = images.float() / 255 if images.dtype == torch.uint8 else images
        shown.append(resize_image(values.cpu().clamp(0, 1), (side, side)))
    rows = torch.cat(shown, dim=-1)  # n 3 side (columns side)
    return (torch.cat(list(rows), dim=-2) * 255).round().to(torch.uint8)


def write_sheet(path: Path, sheet: UInt8[Tensor, "3 h w"]) -> None:
    """Write a sheet as PNG."""
    with write_aside(path) as aside:
        Image.fromarray(sheet.permute(1, 2, 0).numpy()).save(aside)
