"""Tiny pipelines of both kinds, with the real classes and random weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.view import View
from zeronvs.diffusion.autoencoder import PixelShuffleAutoencoder
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.diffusion.projection import CameraProjection
from zeronvs.protocols import Geometry


@dataclass(frozen=True)
class FixedGeometry:
    """Predicts the same depth for every image: `depth` of an image batch, or 1 everywhere."""

    depth: Callable[[torch.Tensor], torch.Tensor] = lambda image: torch.ones_like(image[:, 0])
    kind: Literal["relative", "metric"] = "relative"

    def estimate(self, image: torch.Tensor) -> Geometry:
        return Geometry(depth_z=self.depth(image), kind=self.kind)


def tiny_image_encoder() -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
            projection_dim=12,
        )
    )


def tiny_unet(in_channels: int, out_channels: int, sample_size: int = 8) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=in_channels,
        out_channels=out_channels,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=12,
    )


def tiny_released(seed: int = 1) -> ZeroNVSPipeline:
    """Return a model of the released kind: images of 16 pixels, latents of 4x8x8."""
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    projection = CameraProjection(image_embed_dim=12, cross_attention_dim=12)
    return evaluated(
        ZeroNVSPipeline(vae, tiny_image_encoder(), tiny_unet(8, 4), scheduler, projection)
    )


def tiny_warp(
    seed: int = 2,
    prediction_type: str = "v_prediction",
    downscale: int = 2,
) -> ZeroNVSPipeline:
    """Return a model of the warp kind: latents of 8x8, with `downscale` pixels a side each."""
    torch.manual_seed(seed)
    scheduler = DDIMScheduler(
        clip_sample=False,
        prediction_type=prediction_type,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    projection = CameraProjection(image_embed_dim=12, cross_attention_dim=12)
    cells = downscale**2
    vae, unet = PixelShuffleAutoencoder(downscale), tiny_unet(10 * cells, 3 * cells)
    return evaluated(ZeroNVSPipeline(vae, tiny_image_encoder(), unet, scheduler, projection))


def evaluated(pipe: ZeroNVSPipeline) -> ZeroNVSPipeline:
    for component in (pipe.vae, pipe.image_encoder, pipe.unet, pipe.cc_projection):
        component.eval()
    return pipe


def orbit(count: int, size_px: int = 16) -> Camera:
    azimuth_rad = torch.linspace(0.0, 0.5, count)
    pose = orbit_pose(azimuth_rad, torch.full((count,), 0.2), torch.ones(count))
    return Camera.from_fov(pose, 0.9, (size_px, size_px))


def input_view(size_px: int = 16) -> View:
    ramp = torch.linspace(0.1, 0.9, size_px)
    image = torch.stack(
        [ramp.expand(size_px, -1), ramp[:, None].expand(-1, size_px), ramp * ramp[:, None]]
    )
    return View(image, orbit(1, size_px)[0], torch.full((size_px, size_px), 1.0))


def views(pipe, count=3, **settings):
    settings = {"num_inference_steps": 4, "output_type": "pt", "generator": 7} | settings
    return pipe(input_view(), orbit(count), **settings).images
