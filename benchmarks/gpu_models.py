"""Models and inputs of `gpu.py`: random weights at the released and built-in sizes; a clock."""

import time
from collections.abc import Callable

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.view import View
from zeronvs.diffusion.autoencoder import PixelShuffleAutoencoder
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.diffusion.projection import CameraProjection
from zeronvs.diffusion.sampling import NoiseSchedule
from zeronvs.splats import GaussianSplats

diffusers_logging.set_verbosity_error()  # it warns of every change of precision


def synchronize(device: str) -> None:
    """Wait until the device has done its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def timed(run: Callable[[], object], device: str, repeats: int = 3, warm_up: int = 1) -> float:
    """Return the median of the seconds of some calls, after a few that are not timed."""
    for _ in range(warm_up):
        run()
    seconds = []
    for _ in range(repeats):
        synchronize(device)
        began = time.perf_counter()
        run()
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    return sorted(seconds)[len(seconds) // 2]


def peak_mib(device: str) -> float:
    """Return the peak of the allocated device memory since the last reset, MiB; 0 on a CPU."""
    return torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0.0


def reset_peak(device: str) -> None:
    """Start a new measurement of the peak."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _frozen(pipe: ZeroNVSPipeline) -> ZeroNVSPipeline:
    for part in (pipe.vae, pipe.image_encoder, pipe.unet, pipe.cc_projection):
        part.eval().requires_grad_(False)
    return pipe


def released_model(device: str, *, tiny: bool) -> ZeroNVSPipeline:
    """Return a model of the released kind with random weights, made on the device.

    Args:
        tiny: The same layers at small widths; otherwise the released sizes.
    """
    channels, vae_channels = (320, 640, 1280, 1280), (128, 256, 512, 512)
    clip = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 224,
    }
    if tiny:
        channels, vae_channels = (32, 64, 64, 64), (32, 32, 32, 32)
        clip = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
        }
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(
            sample_size=4 if tiny else 32,
            in_channels=8,
            out_channels=4,
            block_out_channels=channels,
            # 32 groups of two values, at the tiny model's lowest level of 1x1, would be their sign.
            norm_num_groups=8 if tiny else 32,
            cross_attention_dim=768,
            attention_head_dim=8,
        )
        vae = AutoencoderKL(
            block_out_channels=vae_channels,
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            sample_size=32 if tiny else 256,
        )
        config = CLIPVisionConfig(
            **clip, patch_size=14, projection_dim=768, hidden_act="quick_gelu"
        )
        encoder = CLIPVisionModelWithProjection(config)
        projection = CameraProjection()
    scheduler = DDIMScheduler(**NoiseSchedule().config())
    return _frozen(ZeroNVSPipeline(vae, encoder, unet, scheduler, projection))


def builtin_model(device: str, *, tiny: bool = False) -> ZeroNVSPipeline:
    """Return the built-in model.

    Args:
        tiny: A model of its kind with random weights and exact latents instead.
    """
    if not tiny:
        return _frozen(ZeroNVSPipeline.from_pretrained("builtin").to(device))
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=160,
        out_channels=48,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=16,
    )
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        projection_dim=16,
    )
    scheduler = DDIMScheduler(
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    pipe = ZeroNVSPipeline(
        PixelShuffleAutoencoder(4),
        CLIPVisionModelWithProjection(config),
        unet,
        scheduler,
        CameraProjection(16, 19, 16, conditioning="warp"),
    )
    return _frozen(pipe.to(device))


def orbit(count: int, size_px: int, turn_rad: float = 1.0) -> Camera:
    """Return cameras on an arc around the origin that starts at the canonical camera."""
    azimuth_rad = torch.linspace(0.0, turn_rad, count)
    poses = orbit_pose(azimuth_rad, torch.full((count,), 0.3), torch.ones(count))
    return Camera.from_fov(poses, 0.9, (size_px, size_px))


def smooth_images(count: int, size_px: int, seed: int = 0) -> Tensor:
    """Return random images of low frequency, "n 3 h w"."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    image = torch.nn.functional.interpolate(coarse, (size_px, size_px), mode="bicubic")
    return image.clamp(0.0, 1.0)


def photo_views(count: int, size_px: int, turn_rad: float = 1.0) -> View:
    """Return views of random images with a wall's depth, on an arc."""
    depth_z = 1.0 + 0.3 * smooth_images(count, size_px, seed=1)[:, 0]
    return View(smooth_images(count, size_px), orbit(count, size_px, turn_rad), depth_z)


def made_splats(count: int) -> GaussianSplats:
    """Return splats on a ball above a floor, as dense as pixels of a photograph."""
    generator = torch.Generator().manual_seed(0)
    ball = torch.nn.functional.normalize(torch.randn(count // 2, 3, generator=generator), dim=-1)
    floor = (torch.rand(count - count // 2, 3, generator=generator) - 0.5) * 4.0
    floor[:, 2] = -0.4
    return GaussianSplats(
        torch.cat([0.4 * ball, floor]),
        torch.full((count, 3), 0.9 * count**-0.5 * 2.0),
        torch.randn(count, 4, generator=generator),
        torch.full((count,), 0.8),
        torch.rand(count, 3, generator=generator),
    )
