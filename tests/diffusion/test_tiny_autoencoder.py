"""The convolutional autoencoder of the built-in model."""

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from zeronvs.cameras.view import resize_image
from zeronvs.diffusion.autoencoder import TinyAutoencoder, latent_space
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.formats.images import from_bytes

EXAMPLE = Path(__file__).parents[2] / "examples" / "coffee.png"


def test_eight_by_eight_pixels_are_a_cell():
    vae = TinyAutoencoder(latent_channels=6, width=8, scaling_factor=1.5)
    image = torch.rand(2, 3, 32, 48) * 2 - 1
    latent = vae.encode(image).latent_dist.mode()
    assert latent.shape == (2, 6, 4, 6)
    assert vae.decode(latent).sample.shape == image.shape
    space = latent_space(vae)
    assert (space.channels, space.pixels_per_cell, space.is_exact) == (6, 8, False)
    assert space.scaling_factor == 1.5


def test_the_shipped_autoencoder_returns_a_photograph():
    pipe = ZeroNVSPipeline.from_pretrained("builtin")
    with Image.open(EXAMPLE) as image:
        photo = from_bytes(np.array(image.convert("RGB")))[None, :, :400, 100:500]
    photo = resize_image(photo, (256, 256)).clamp(0, 1)
    with torch.no_grad():
        latent = pipe.to_latent(photo)
        error = float((pipe.to_image(latent) - photo).square().mean())
    assert -10 * math.log10(error) > 29
    assert 0.7 < float(latent.std()) < 1.4  # the scaling factor: about unit variance
