from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from tiny_pipelines import FixedGeometry, input_view, orbit, views
from torch.testing import assert_close
from transformers import CLIPVisionModelWithProjection

import zeronvs
from zeronvs._core.errors import InputError
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.view import View
from zeronvs.diffusion.condition import join_conditions
from zeronvs.diffusion.pipeline import ZeroNVSPipeline


def test_a_sample_is_the_same_alone_and_in_a_batch(pipe):
    together = views(pipe, batch_size=3)
    alone = views(pipe, batch_size=1)
    assert_close(together, alone, atol=1e-4, rtol=1e-4)
    last = pipe(
        input_view(), orbit(3)[2], num_inference_steps=4, output_type="pt", generator=[9]
    ).images
    assert_close(together[2:], last, atol=1e-4, rtol=1e-4)


def test_another_seed_gives_another_sample_and_the_same_seed_the_same(pipe):
    assert torch.equal(views(pipe), views(pipe))
    assert not torch.allclose(views(pipe), views(pipe, generator=8), atol=1e-3)


def test_the_noise_of_every_step_comes_from_the_seed(pipe):
    deterministic = views(pipe, eta=0.0)
    noisy = views(pipe, eta=1.0)
    assert not torch.allclose(deterministic, noisy, atol=1e-3)
    assert torch.equal(noisy, views(pipe, eta=1.0))


def test_several_samples_of_a_camera_stand_side_by_side(pipe):
    images = views(pipe, count=2, num_images_per_camera=2, generator=[1, 2, 1, 2])
    assert images.shape[0] == 4
    first = views(pipe, count=2, generator=[1, 1])
    assert_close(images[::2], first, atol=1e-4, rtol=1e-4)


def test_saved_and_loaded_pipelines_predict_bit_for_bit_the_same(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    assert not list(tmp_path.rglob("*.bin"))
    loaded = ZeroNVSPipeline.from_pretrained(tmp_path)
    assert torch.equal(views(pipe), views(loaded))
    assert loaded.cc_projection.config["representation"] == "6DoF+1, viewer"


def test_a_saved_pipeline_is_read_by_stock_diffusers_and_transformers(released_pipe, tmp_path):
    released_pipe.save_pretrained(tmp_path)
    unet = UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet")
    vae = AutoencoderKL.from_pretrained(tmp_path, subfolder="vae")
    clip = CLIPVisionModelWithProjection.from_pretrained(tmp_path / "image_encoder")
    scheduler = DDIMScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    for loaded, own in (
        (unet, released_pipe.unet),
        (vae, released_pipe.vae),
        (clip, released_pipe.image_encoder),
    ):
        own_weights = own.state_dict()
        assert all(torch.equal(own_weights[name], w) for name, w in loaded.state_dict().items())
    assert scheduler.config["steps_offset"] == 1


def test_a_dtype_can_be_given_and_float32_is_the_default(released_pipe, tmp_path):
    released_pipe.to(torch.float16, silence_dtype_warnings=True).save_pretrained(tmp_path)
    assert ZeroNVSPipeline.from_pretrained(tmp_path).unet.dtype == torch.float32
    loaded = ZeroNVSPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert loaded.unet.dtype == torch.bfloat16
    assert loaded.image_encoder.dtype == torch.bfloat16


def test_a_bfloat16_denoiser_works_on_float32_latents(pipe):
    exact = views(pipe)
    pipe.unet.to(torch.bfloat16)
    rounded = views(pipe)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).abs().mean() < 0.05


def test_guidance_mixes_with_a_zero_token_and_zero_channels(pipe):
    camera_condition = pipe.prepare(pipe.encode(input_view(), 0.7), orbit(2))
    noisy = torch.randn(2, pipe.unet.config.out_channels, 8, 8)
    timestep = torch.tensor([3, 400])
    null = pipe.predict_noise(noisy, timestep, camera_condition.null(), 1.0)
    unguided = pipe.predict_noise(noisy, timestep, camera_condition, 0.0)
    guided = pipe.predict_noise(noisy, timestep, camera_condition, 3.0)
    conditional = pipe.predict_noise(noisy, timestep, camera_condition, 1.0)
    assert not camera_condition.null().tokens.any()
    assert not camera_condition.null().concat.any()
    assert_close(unguided, null, atol=1e-5, rtol=1e-5)
    assert_close(guided, null + 3.0 * (conditional - null), atol=1e-4, rtol=1e-4)


def test_a_velocity_prediction_implies_its_noise(warp_pipe):
    camera_condition = warp_pipe.prepare(warp_pipe.encode(input_view(), 0.7), orbit(1))
    noisy = torch.randn(1, 12, 8, 8)
    timestep = torch.tensor([500])
    noise = warp_pipe.predict_noise(noisy, timestep, camera_condition, 1.0)
    inputs = torch.cat([noisy, camera_condition.concat], 1)
    velocity = warp_pipe.unet(
        inputs, timestep, encoder_hidden_states=camera_condition.tokens
    ).sample
    alpha_bar = warp_pipe.alphas_cumprod[500]
    clean = alpha_bar.sqrt() * noisy - (1 - alpha_bar).sqrt() * velocity
    rebuilt = alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise
    assert_close(rebuilt, noisy, atol=1e-4, rtol=1e-4)


def test_the_warp_kind_is_conditioned_on_the_warped_input(warp_pipe):
    condition = warp_pipe.encode(input_view(), 0.7)
    camera_condition = warp_pipe.prepare(condition, orbit(2))
    latent, warped, mask = camera_condition.concat.split([12, 12, 4], dim=1)
    assert_close(latent[:1], condition.latent)
    assert_close(warped[0], latent[0], atol=0.1, rtol=0.0)
    assert mask[0].mean() > 0.9
    assert mask[1].mean() < 0.95
    assert set(mask.unique().tolist()) <= {0.0, 1.0}


def test_missing_depth_comes_from_the_estimator_in_units_of_the_scene_scale(warp_pipe):
    photo = View(input_view().image, input_view().camera)
    with pytest.raises(InputError, match="geometry_estimator") as caught:
        warp_pipe(photo, orbit(1))
    assert "\n" not in str(caught.value)
    relative = FixedGeometry(lambda image: torch.full_like(image[:, 0], 2.0))
    depth_z = warp_pipe.encode(photo, 0.5, relative).view.depth_z
    assert_close(depth_z, torch.full((1, 16, 16), 1.0))
    metric = replace(relative, kind="metric")
    assert_close(warp_pipe.encode(photo, 0.5, metric).view.depth_z, torch.full((1, 16, 16), 0.5))
    given = warp_pipe.encode(input_view(), 0.5, relative).view.depth_z
    assert_close(given, input_view().depth_z[None])


def test_the_pose_reaches_the_token_only_through_the_projection(pipe):
    condition = pipe.encode(input_view(), 0.7)
    camera_condition = pipe.prepare(condition, orbit(3))
    assert not torch.allclose(camera_condition.tokens[0], camera_condition.tokens[2])
    camera_condition.tokens.sum().backward()
    assert pipe.cc_projection.projection.weight.grad is not None
    assert all(weight.grad is None for weight in pipe.image_encoder.parameters())


def test_conditions_can_be_joined_and_picked_per_camera(pipe):
    first = pipe.encode(input_view(), 0.7)
    other = pipe.encode(View(1 - input_view().image, orbit(2)[1], input_view().depth_z), 0.9)
    both = join_conditions([first, other])
    picked = pipe.prepare(both[[1, 0, 1]], orbit(3))
    assert_close(picked[1].tokens, pipe.prepare(first, orbit(3))[1].tokens)
    assert_close(picked[2].concat, pipe.prepare(other, orbit(3))[2].concat)


def test_latents_are_differentiable_in_the_image_and_fitted_to_the_model(pipe):
    image = torch.rand(2, 3, 10, 10, requires_grad=True)
    latent = pipe.to_latent(image)
    assert latent.shape == (2, pipe.unet.config.out_channels, 8, 8)
    latent.square().sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0


def test_the_pixel_autoencoder_loses_nothing(warp_pipe):
    image = torch.rand(2, 3, 16, 16)
    assert_close(warp_pipe.to_image(warp_pipe.to_latent(image)), image)


@pytest.mark.parametrize("kind", ["pil", "file", "array", "tensor"])
def test_images_of_every_kind_give_the_same_views(released_pipe, kind, tmp_path):
    array = (input_view().image.movedim(0, -1).numpy() * 255).round().astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "photo.png")
    input_image = {
        "pil": Image.fromarray(array),
        "file": tmp_path / "photo.png",
        "array": array,
        "tensor": torch.from_numpy(array).movedim(-1, 0) / 255.0,
    }[kind]
    settings = {"num_inference_steps": 2, "generator": 1, "output_type": "np"}
    camera = orbit(1)
    images = released_pipe(input_image, camera, input_camera=camera[0], **settings).images
    expected = released_pipe(Image.fromarray(array), camera, input_camera=camera, **settings).images
    assert images.shape == (1, 16, 16, 3)
    np.testing.assert_allclose(images, expected, atol=1e-5)


def test_a_wide_image_is_cut_to_its_central_square(released_pipe):
    image = torch.rand(3, 16, 24)
    camera = Camera.from_fov(orbit(1).camera_to_world[0], 0.9, (16, 24))
    whole = released_pipe.encode(View(image, camera), 0.7)
    square = released_pipe.encode(
        View(image[..., 4:20], Camera.from_fov(camera.camera_to_world, 0.9, (16, 16))), 0.7
    )
    assert_close(whole.latent, square.latent)
    assert_close(whole.view.camera.intrinsics_px, square.view.camera.intrinsics_px)


def test_the_callback_receives_every_step(released_pipe):
    events, steps = [], []
    condition = released_pipe.encode(input_view(), 0.7)
    released_pipe.sample(
        condition, orbit(3), [1, 2, 3], num_inference_steps=2, batch_size=2, callback=events.append
    )
    assert [(event.step, event.total) for event in events] == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def on_step_end(pipe, step, timestep, tensors):
        steps.append((step, timestep))
        return {"latents": torch.zeros_like(tensors["latents"])}

    images = views(released_pipe, count=1, callback_on_step_end=on_step_end)
    assert [step for step, _ in steps] == [0, 1, 2, 3]
    assert_close(images, released_pipe.to_image(torch.zeros(1, 4, 8, 8)))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"num_inference_steps": 1001}, "num_inference_steps"),
        ({"eta": 1.5}, "eta"),
        ({"scene_scale": 0.0}, "scene scale"),
        ({"scene_scale": float("nan")}, "scene scale"),
        ({"generator": [1]}, "1 seeds"),
        ({"batch_size": 0}, "batches"),
        ({"output_type": "gif"}, "output_type"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(released_pipe, settings, says):
    with pytest.raises(InputError, match=says) as caught:
        views(released_pipe, **settings)
    assert "\n" not in str(caught.value)


def test_components_that_do_not_fit_are_refused(released_pipe, warp_pipe):
    with pytest.raises(InputError, match="channels"):
        ZeroNVSPipeline(
            released_pipe.vae,
            released_pipe.image_encoder,
            warp_pipe.unet,
            released_pipe.scheduler,
            released_pipe.cc_projection,
        )


@pytest.mark.gpu
def test_a_gpu_gives_the_same_sample(pipe):
    on_cpu = views(pipe)
    assert_close(views(pipe.to("cuda")).cpu(), on_cpu, atol=1e-2, rtol=1e-2)


def test_the_package_exports_its_names_lazily():
    assert zeronvs.ZeroNVSPipeline is ZeroNVSPipeline
    assert "CameraProjection" in dir(zeronvs)
    with pytest.raises(AttributeError):
        _ = zeronvs.no_such_name


def test_views_have_the_size_of_their_cameras_and_none_other_is_made(released_pipe):
    for size_px in (8, 16, 40):
        images = released_pipe(
            input_view(), orbit(1, size_px), num_inference_steps=1, output_type="pt", generator=0
        ).images
        assert images.shape == (1, 3, size_px, size_px)
    wide = Camera.from_fov(orbit(1).camera_to_world, 0.9, (16, 24))
    with pytest.raises(InputError, match="16x24"):
        released_pipe(input_view(), wide)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_pipeline_of_half_precision_makes_views(pipe, dtype):
    exact = views(pipe, count=1)
    photo = View(input_view().image, input_view().camera)
    pipe.to(dtype, silence_dtype_warnings=True)
    images = pipe(
        photo,
        orbit(1),
        geometry_estimator=FixedGeometry(),
        num_inference_steps=4,
        output_type="pt",
        generator=7,
    ).images
    assert images.dtype == torch.float32
    assert (images - exact).abs().mean() < 0.1


def test_a_callback_may_return_nothing(released_pipe):
    expected = views(released_pipe, count=1)
    for returned in ({}, None):
        images = views(released_pipe, count=1, callback_on_step_end=lambda *_, r=returned: r)
        assert torch.equal(images, expected)


def test_by_default_the_photo_is_taken_at_distance_one_looking_at_the_origin(released_pipe):
    camera = orbit_pose(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(1.0))
    given = Camera.from_fov(camera, 0.9, (16, 16))
    image = input_view().image
    settings = {"num_inference_steps": 2, "output_type": "pt", "generator": 1}
    by_default = released_pipe(image, orbit(1), **settings).images
    assert_close(by_default, released_pipe(image, orbit(1), input_camera=given, **settings).images)
