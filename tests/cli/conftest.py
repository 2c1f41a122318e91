"""A tiny model folder with the real classes, and a photograph."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from zeronvs.cli import main
from zeronvs.diffusion.autoencoder import PixelShuffleAutoencoder
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.diffusion.projection import CameraProjection
from zeronvs.estimation.depth_net import DepthNet

IMAGE_SIZE_PX = 32


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model of the built-in kind with very narrow layers, untrained."""
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(0)
    encoder = CLIPVisionModelWithProjection(
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
    unet = UNet2DConditionModel(
        sample_size=IMAGE_SIZE_PX // 4,
        in_channels=3 * 48 + 16,
        out_channels=48,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=12,
    )
    pipe = ZeroNVSPipeline(
        PixelShuffleAutoencoder(),
        encoder,
        unet,
        DDIMScheduler(
            clip_sample=False,
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
        ),
        CameraProjection(image_embed_dim=12, cross_attention_dim=12),
        DepthNet(input_size_px=32, decoder_channels=8).eval(),
    )
    torch.random.set_rng_state(generator_state)
    folder = tmp_path_factory.mktemp("model")
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def photo_path(tmp_path: Path) -> Path:
    """Return a photograph of 96x80 noise."""
    values = np.random.default_rng(0).integers(0, 255, (80, 96, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def zeronvs(monkeypatch: pytest.MonkeyPatch):
    """Return the command line as a function from words to the exit code."""

    def run(*words: object) -> int:
        with pytest.raises(SystemExit) as caught:
            main([str(word) for word in words])
        return caught.value.code

    return run
