"""Tiny diffusion models of both kinds, and a scene whose every view is known."""

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from sphere_world import ring_cameras, sphere_views
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from zeronvs.cameras.view import View
from zeronvs.diffusion.autoencoder import PixelShuffleAutoencoder
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.diffusion.projection import CameraProjection
from zeronvs.distillation.anchors import AnchorConfig
from zeronvs.distillation.config import DistillConfig, RenderStage
from zeronvs.scene.field import FieldConfig
from zeronvs.scene.hash_grid import HashGridConfig
from zeronvs.scene.proposal import ProposalConfig
from zeronvs.scene.renderer import RenderConfig


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


def tiny_unet(in_channels: int, out_channels: int) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
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


def ready(pipe: ZeroNVSPipeline) -> ZeroNVSPipeline:
    with torch.no_grad():  # a fresh projection passes the image on and drops the camera
        for weight in pipe.cc_projection.parameters():
            weight.copy_(torch.randn(weight.shape) * 0.3)
    for component in (pipe.vae, pipe.image_encoder, pipe.unet, pipe.cc_projection):
        component.eval()
    return pipe


def flat_depth(image: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(image[:, 0])


@pytest.fixture(scope="session")
def pipe() -> ZeroNVSPipeline:
    """Return a tiny model of the released kind."""
    torch.manual_seed(7)
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
    return ready(ZeroNVSPipeline(vae, tiny_image_encoder(), tiny_unet(8, 4), scheduler, projection))


@pytest.fixture(scope="session")
def warp_pipe() -> ZeroNVSPipeline:
    """Return a tiny model of the warp kind."""
    torch.manual_seed(8)
    scheduler = DDIMScheduler(
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    projection = CameraProjection(image_embed_dim=12, cross_attention_dim=12)
    vae, unet = PixelShuffleAutoencoder(downscale=2), tiny_unet(3 * 12 + 4, 12)
    return ready(
        ZeroNVSPipeline(vae, tiny_image_encoder(), unet, scheduler, projection, flat_depth)
    )


@pytest.fixture(scope="session")
def input_view() -> View:
    return sphere_views(ring_cameras([0.0]))[0]


@pytest.fixture(scope="session")
def tiny_config() -> DistillConfig:
    """Return the published recipe with everything tiny: 4 steps, 8-pixel renders, 2 anchors."""
    grid = HashGridConfig(levels=3, log2_table_size=10, base_resolution=8, growth=1.6)
    return DistillConfig(
        steps=4,
        stages=(
            RenderStage(from_step=0, sds_views=2, sds_size_px=8, reference_size_px=8),
            RenderStage(from_step=2, sds_views=1, sds_size_px=12, reference_size_px=12),
        ),
        anchors=AnchorConfig(num_inference_steps=2),
        field_config=FieldConfig(grid=grid, hidden_width=8),
        proposal_config=ProposalConfig(grid=grid, hidden_width=8),
        render_config=RenderConfig(far=50.0, proposal_samples=12, final_samples=12),
        log_every=1,
    )
