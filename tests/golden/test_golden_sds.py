"""The score distillation gradient equals that of the published code, on its own tiny checkpoint."""

import numpy as np
import pytest
import torch

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View
from zeronvs.checkpoints.convert import convert_checkpoint
from zeronvs.diffusion.condition import CameraCondition
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.distillation.sds import sds_gradient, sds_loss

GUIDANCE_SCALE = 7.5  # of the recorded gradient
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def outputs(golden_dir):
    with np.load(golden_dir / "tiny_outputs.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="module")
def pipe(golden_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    convert_checkpoint(golden_dir / "tiny.ckpt", folder)
    return ZeroNVSPipeline.from_pretrained(folder)


@pytest.fixture(scope="module")
def told(pipe, outputs):
    """Return what the model is told of the photo and of the recorded pose embeddings."""
    image = outputs["photo"].permute(2, 0, 1)[None] / 255.0
    camera = Camera.from_fov(torch.eye(4)[None], 0.8, tuple(image.shape[-2:]))
    condition = pipe.encode(View(image, camera), 1.0)
    count = len(outputs["pose_embedding"])
    with torch.no_grad():
        embedding = condition.image_embedding.expand(count, -1)
        tokens = pipe.cc_projection(embedding, outputs["pose_embedding"].float())
    return CameraCondition(tokens, condition.latent.expand(count, -1, -1, -1))


def relative_error(value, expected):
    return float((value - expected).abs().max() / expected.abs().max())


def test_the_sds_gradient_is_the_published_one(pipe, outputs, told):
    gradient = sds_gradient(
        pipe, outputs["sds_latents"], outputs["sds_t"], outputs["sds_noise"], told, GUIDANCE_SCALE
    )
    assert relative_error(gradient, outputs["sds_grad"]) < TOLERANCE


def test_the_latent_receives_the_published_gradient_through_the_loss(pipe, outputs, told):
    latent = outputs["sds_latents"].clone().requires_grad_()
    gradient = sds_gradient(
        pipe, latent, outputs["sds_t"], outputs["sds_noise"], told, GUIDANCE_SCALE
    )
    sds_loss(latent, gradient).backward()
    assert latent.grad is not None
    assert relative_error(latent.grad * len(latent), outputs["sds_grad"]) < TOLERANCE
