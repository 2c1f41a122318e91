"""What a denoiser is trained to do: say the noise (or the clean image) in noisy target views.

Everything random about pair k of a run comes from (seed, k) alone, so that a run that goes on, and
a run on other processes, draw what one uninterrupted process would have drawn.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zeronvs._core.errors import InputError
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.embedding import LEAST_SCALE, Representation
from zeronvs.cameras.scene_scale import align_disparity, fill_depth
from zeronvs.cameras.view import View
from zeronvs.diffusion.condition import CameraCondition, clip_pixels
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.protocols import GeometryEstimator
from zeronvs.shards.loader import PairBatch
from zeronvs.training.finetune_config import FinetuneConfig

NO_SCALE = (Representation.THREE_DOF, Representation.SIX_DOF)
"""Representations that take no account of a scale."""
VIEWER = Representation.SIX_DOF_VIEWER
FEW_KNOWN = 16
"""With fewer known pixels than this, a depth map does not fix scale and shift of an estimate."""


@dataclass(frozen=True, eq=False)
class Examples:
    """A batch of pairs as the model takes them, and the targets as clean latents."""

    input_view: View
    target_camera: Camera
    scene_scale: Float[Tensor, " n"]
    """Scene units per model unit, of the model's representation."""
    usable: Float[Tensor, " n"]
    """0 where the scene has no such scale, so that the pair must not count, else 1."""
    clean_latent: Float[Tensor, "n c h w"]
    noise: Float[Tensor, "n c h w"]
    timestep: Int[Tensor, " n"]
    keeps_image: Float[Tensor, " n"]
    """0 where the image embedding is dropped, else 1."""
    keeps_channels: Float[Tensor, " n"]
    """0 where the image channels are dropped, else 1."""


class TrainedDenoiser(nn.Module):
    """The trained parts of a pipeline and their loss, as one module to be wrapped and averaged."""

    def __init__(self, pipe: ZeroNVSPipeline, config: FinetuneConfig) -> None:
        """Take the parts of a pipeline that is trained; the pipeline stays the owner.

        Args:
            pipe: A pipeline of either kind.
            config: Says whether the image encoder is trained, and how the loss is weighted.
        """
        super().__init__()
        self.unet = pipe.unet
        self.cc_projection = pipe.cc_projection
        self.image_encoder = pipe.image_encoder if config.trains_image_encoder else None
        self.pipe = pipe  # not a module: its other parts are not registered here
        self.max_loss_weight = config.max_loss_weight

    def forward(self, examples: Examples) -> Float[Tensor, " n"]:
        """Return the loss of each pair, without unit."""
        pipe = self.pipe
        signal = pipe.alphas_cumprod[examples.timestep][:, None, None, None]
        clean, noise = examples.clean_latent, examples.noise
        noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
        predicted = pipe.predict(noisy, examples.timestep, self._told(examples)).float()
        kind = pipe.scheduler.config["prediction_type"]
        if kind == "epsilon":
            error = (predicted - noise) ** 2
        elif kind == "v_prediction":
            wanted = signal.sqrt() * noise - (1 - signal).sqrt() * clean
            error = (predicted - wanted) ** 2
        else:
            weight = (1 / (1 - signal)).clamp_max(self.max_loss_weight)
            error = weight * (predicted - clean) ** 2
        return error.mean(dim=(1, 2, 3))

    def _told(self, examples: Examples) -> CameraCondition:
        """Say the cameras to the denoiser, some of it dropped; the pose never is.

        A dropped image leaves [0, pose] to the projection (published code, ddpm.py, `get_input`).
        """
        condition = self.pipe.encode(examples.input_view, examples.scene_scale)
        embedding = condition.image_embedding
        if self.image_encoder is not None:
            size_px: Any = self.image_encoder.config.image_size
            pixels = clip_pixels(condition.view.image, size_px)
            embedding = self.image_encoder(pixels).image_embeds.float()
        embedding = embedding * examples.keeps_image[:, None]
        # Poses and warps need all their digits, whatever the network computes in.
        with torch.autocast(embedding.device.type, enabled=False):
            told = self.pipe.prepare(
                replace(condition, image_embedding=embedding), examples.target_camera
            )
        keeps = examples.keeps_channels[:, None, None, None]
        return CameraCondition(told.tokens, told.concat * keeps)


@torch.no_grad()
def make_examples(
    pipe: ZeroNVSPipeline,
    batch: PairBatch,
    numbers: list[int],
    config: FinetuneConfig,
    geometry_estimator: GeometryEstimator | None = None,
) -> Examples:
    """Turn a batch of pairs into examples, with all that is drawn for them.

    Args:
        pipe: The pipeline that is trained, on its device.
        batch: Pairs, on the same device.
        numbers: Number of each pair in the run, counted over all processes.
        config: Says the seed and the shares that are dropped.
        geometry_estimator: See `input_depth`.

    Raises:
        InputError: The pairs lack what the model needs altogether.
    """
    device = batch.input_image.device
    size = (int(batch.input_image.shape[-2]), int(batch.input_image.shape[-1]))
    generators = [pair_generator(config.seed, number) for number in numbers]
    # The order of the draws is part of what makes runs repeatable.
    draws = torch.stack([torch.rand(2, generator=generator) for generator in generators])
    steps = len(pipe.alphas_cumprod)
    timestep = (draws[:, 0] * steps).long().clamp_max(steps - 1).to(device)
    clean = target_latent(pipe, batch.target_image.float() / 255, generators)
    noise = torch.stack([torch.randn(clean.shape[1:], generator=g) for g in generators])
    keeps_image, keeps_channels = kept(draws[:, 1], config.dropout)
    image = batch.input_image.float() / 255
    camera = Camera.from_fov(batch.input_to_world, batch.fov_y_rad, size)
    scale = scale_of(batch, Representation(pipe.cc_projection.config["representation"]))
    return Examples(
        input_view=View(image, camera, input_depth(pipe, batch, image, geometry_estimator)),
        target_camera=Camera.from_fov(batch.target_to_world, batch.fov_y_rad, size),
        scene_scale=torch.nan_to_num(scale, nan=1.0),
        usable=scale.isfinite().float(),
        clean_latent=clean,
        noise=noise.to(clean),
        timestep=timestep,
        keeps_image=keeps_image.to(device),
        keeps_channels=keeps_channels.to(device),
    )


def pair_generator(seed: int, number: int) -> torch.Generator:
    """Return the generator of everything that is drawn for one pair of a run."""
    return torch.Generator().manual_seed((seed * 1_000_000_007 + number) % 2**63)


def kept(
    draw: Float[Tensor, " n"], dropout: float
) -> tuple[
    Float[Tensor, " n"],  # 1 where the image embedding stays
    Float[Tensor, " n"],  # 1 where the image channels stay
]:
    """Drop the embedding alone, both, or the channels alone, in three equal shares.

    One uniform number decides (published code, ddpm.py, `get_input`): u < 2p drops the embedding,
    p <= u < 3p the channels.
    """
    image = (draw >= 2 * dropout).float()
    channels = ((draw < dropout) | (draw >= 3 * dropout)).float()
    return image, channels


def target_latent(
    pipe: ZeroNVSPipeline, image: Float[Tensor, "n 3 H W"], generators: list[torch.Generator]
) -> Float[Tensor, "n c h w"]:
    """Return scaled latents drawn from the autoencoder's posterior, one generator per image."""
    return pipe.to_latent(image, generators)


def scale_of(batch: PairBatch, representation: Representation) -> Float[Tensor, " n"]:
    """Return the scale of the representation for each pair, scene units per model unit.

    Returns:
        NaN where a scene has none: viewer and agg need depth.

    Raises:
        InputError: The pairs do not tell this scale.
    """
    if representation in NO_SCALE:
        return torch.ones_like(batch.fov_y_rad)
    scale = batch.scene_scale.get(representation)
    if scale is None:
        raise InputError(no_scale(representation))
    if representation is Representation.SIX_DOF_AGG:
        scale = torch.nan_to_num(scale, nan=1.0)  # as published
    return torch.where(scale.isfinite(), scale.clamp_min(LEAST_SCALE), torch.nan)


def no_scale(representation: Representation) -> str:
    """Say in one line that no scene has the scale of a representation."""
    return (
        f'the pairs lack the scale of --representation "{representation}": their scenes have no '
        "depth. Convert them with depth, or train another representation, such as "
        '--representation "6DoF+1, norm", which needs cameras only'
    )


def input_depth(
    pipe: ZeroNVSPipeline,
    batch: PairBatch,
    image: Float[Tensor, "n 3 h w"],
    geometry_estimator: GeometryEstimator | None = None,
) -> Float[Tensor, "n h w"] | None:
    """Return the dense depth of the input views where the model warps them, scene units.

    Known depth is kept and holes are filled with the estimate aligned to it in disparity (paper,
    A.1); without known depth, the estimate is scaled by the viewer's quantile.
    """
    if not pipe.conditioning.needs_depth:
        return None
    known = batch.input_depth_z
    if geometry_estimator is None:
        if known is None:
            raise InputError(
                "this model warps the input view, and the pairs have no depth. Convert the scenes "
                "with depth"
            )
        return known
    estimate = geometry_estimator.estimate(image).scaled_depth(1.0)
    viewer = batch.scene_scale.get(VIEWER)
    scaled = None
    if viewer is not None:  # pairs without a viewer scale do not count, see `Examples.usable`
        scale = torch.nan_to_num(viewer, nan=1.0).clamp_min(LEAST_SCALE)
        scaled = estimate.to(image) * scale[:, None, None]
    if known is None:
        if scaled is None:
            raise InputError(
                "this model warps the input view and its scenes have neither depth nor a viewer "
                "scale. Convert the scenes with depth"
            )
        return scaled
    aligned = align_disparity(1 / estimate.to(image).clamp_min(1e-3), known)
    enough = (known != 0).flatten(1).sum(-1) >= FEW_KNOWN
    if scaled is not None:
        aligned = torch.where(enough[:, None, None], aligned, scaled)
    return fill_depth(known, aligned)
