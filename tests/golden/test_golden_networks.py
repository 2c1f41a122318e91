"""The networks of the published code, under its own weights: every answer within 1e-3."""

import numpy as np
import pytest
import torch
from torch import Tensor

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View
from zeronvs.checkpoints.convert import convert_checkpoint, export_checkpoint
from zeronvs.diffusion.condition import CameraCondition, Condition
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.diffusion.sampling import ddim_sample, ddim_timesteps

TOLERANCE = 1e-3


def assert_near(answer: Tensor, expected: Tensor) -> None:
    """Compare to 1e-3 of the largest expected number."""
    assert answer.shape == expected.shape
    error = (answer - expected).abs().max() / expected.abs().max()
    assert error < TOLERANCE, f"relative error {error:.2e}"


@pytest.fixture(scope="module")
def golden(golden_dir) -> dict[str, Tensor]:
    arrays = np.load(golden_dir / "tiny_outputs.npz")
    return {name: torch.from_numpy(arrays[name]) for name in arrays}


@pytest.fixture(scope="module")
def converted(golden_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "first"
    convert_checkpoint(golden_dir / "tiny.ckpt", folder)
    return folder


@pytest.fixture(scope="module", params=["converted", "converted there and back"])
def pipe(request, converted, tmp_path_factory) -> ZeroNVSPipeline:
    folder = converted
    if request.param != "converted":
        place = tmp_path_factory.mktemp("round_trip")
        export_checkpoint(folder, place / "again.ckpt")
        convert_checkpoint(place / "again.ckpt", place / "second")
        folder = place / "second"
    return ZeroNVSPipeline.from_pretrained(folder)


@pytest.fixture(scope="module")
def condition(pipe, golden) -> Condition:
    image = golden["photo"].movedim(-1, 0).float() / 255.0
    camera = Camera.from_fov(torch.eye(4), 1.0, tuple(image.shape[-2:]))
    return pipe.encode(View(image, camera), 0.7)


@pytest.fixture(scope="module")
def told(golden) -> CameraCondition:
    """What the published code told its denoiser, from the golden itself."""
    count = len(golden["token"])
    return CameraCondition(golden["token"], golden["latent_mode"].expand(count, -1, -1, -1))


def test_the_clip_embedding_is_the_published_one(condition, golden):
    assert_near(condition.image_embedding, golden["clip_embedding"].squeeze(1))


def test_the_input_latent_is_the_published_one(condition, golden):
    assert_near(condition.latent, golden["latent_mode"])


@torch.no_grad()
def test_the_token_is_the_published_one(pipe, golden):
    pose = golden["pose_embedding"]
    embedding = golden["clip_embedding"].squeeze(1).expand(len(pose), -1)
    assert_near(pipe.cc_projection(embedding, pose), golden["token"])


@torch.no_grad()
def test_the_predicted_noise_is_the_published_one(pipe, golden, told):
    answer = pipe.predict_noise(golden["x_t"], golden["t"], told, 1.0)
    assert_near(answer, golden["eps_cond"])


@torch.no_grad()
def test_the_predicted_noise_of_the_null_condition_is_the_published_one(pipe, golden, told):
    answer = pipe.predict_noise(golden["x_t"], golden["t"], told, 0.0)
    assert_near(answer, golden["eps_uncond"])


@torch.no_grad()
def test_the_decoded_image_is_the_published_one(pipe, golden):
    scaling = pipe.vae.config["scaling_factor"]
    assert_near(pipe.vae.decode(golden["z"] / scaling).sample, golden["decoded"])
    expected = (golden["decoded"] * 0.5 + 0.5).clamp(0.0, 1.0)
    assert_near(pipe.to_image(golden["z"]), expected)


@torch.no_grad()
def test_a_ddim_run_ends_where_the_published_one_does(pipe, golden, told):
    steps = len(golden["ddim_timesteps"])
    assert torch.equal(ddim_timesteps(pipe.scheduler, steps), golden["ddim_timesteps"])
    answer = ddim_sample(
        lambda latent, timestep: pipe.predict_noise(latent, timestep, told, 3.0),
        pipe.scheduler,
        golden["ddim_init"],
        [],
        num_inference_steps=steps,
        eta=0.0,
    )
    assert_near(answer, golden["ddim_final"])


@torch.no_grad()
def test_the_distillation_gradient_is_the_published_one(pipe, golden, told):
    latent, noise, timestep = golden["sds_latents"], golden["sds_noise"], golden["sds_t"]
    alpha_bar = pipe.alphas_cumprod[timestep][:, None, None, None]
    noisy = alpha_bar.sqrt() * latent + (1.0 - alpha_bar).sqrt() * noise
    predicted = pipe.predict_noise(noisy, timestep, told, 7.5)
    assert_near((1.0 - alpha_bar) * (predicted - noise), golden["sds_grad"])
