"""Architecture of the built-in denoiser."""

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from zeronvs.diffusion.autoencoder import PixelShuffleAutoencoder
from zeronvs.diffusion.conditioning_kind import ConcatWarp
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.diffusion.projection import CameraProjection


def make_builtin_pipeline(seed: int = 0) -> ZeroNVSPipeline:
    """Return the built-in architecture with random weights: 128 px, 32x32 cells of 4x4 pixels."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=32,
        in_channels=48 * 3 + 16,
        out_channels=48,
        block_out_channels=(96, 160, 224, 224),
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=8,
        norm_num_groups=16,
    )
    # The network starts by predicting the warped input itself.
    for parameter in unet.conv_out.parameters():
        nn.init.zeros_(parameter)
    image_encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=128,
            intermediate_size=256,
            projection_dim=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=64,
            patch_size=8,
        )
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="sample",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )
    return ZeroNVSPipeline(
        vae=PixelShuffleAutoencoder(downscale=4, scaling_factor=1.0),
        image_encoder=image_encoder,
        unet=unet,
        scheduler=scheduler,
        cc_projection=CameraProjection(128, 19, 128, conditioning=ConcatWarp.name),
    )
