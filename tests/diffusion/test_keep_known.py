"""What the warped input knows passes into samples untouched."""

import pytest
import torch
from diffusers import DDIMScheduler

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View
from zeronvs.diffusion.pipeline import ZeroNVSPipeline


@pytest.fixture
def answers_difference(warp_pipe: ZeroNVSPipeline) -> ZeroNVSPipeline:
    scheduler = DDIMScheduler.from_config(warp_pipe.scheduler.config, prediction_type="sample")
    warp_pipe.register_modules(scheduler=scheduler)
    return warp_pipe


def known_view() -> View:
    """Return a view with depth 1 on its left half and unknown depth on its right."""
    depth = torch.ones(1, 16, 16)
    depth[..., 8:] = 0
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return View(image, Camera.from_fov(torch.eye(4)[None], 0.9, (16, 16)), depth)


def test_known_pixels_are_the_input_and_holes_are_sampled(answers_difference: ZeroNVSPipeline):
    view = known_view()
    condition = answers_difference.encode(view, 1.0)
    one, other = (
        answers_difference.sample(condition, view.camera, [seed], num_inference_steps=2)
        for seed in (1, 2)
    )
    # Three pixels beside the hole pass over; the splat may also reach half a pixel into it.
    torch.testing.assert_close(one[..., :4], view.image[..., :4], atol=2e-3, rtol=0)
    assert float((one - other)[..., 10:].abs().mean()) > 1e-3


def test_other_kinds_of_network_are_left_alone(pipe: ZeroNVSPipeline):
    view = known_view()
    told = pipe.prepare(pipe.encode(view, 1.0), view.camera)
    image = torch.rand(1, 3, 16, 16)
    assert pipe.conditioning.keep_known(image, told, pipe.to_image) is image


def test_known_pixels_fade_into_a_hole_over_three_pixels(answers_difference: ZeroNVSPipeline):
    view = known_view()
    condition = answers_difference.encode(view, 1.0)
    known = torch.ones(1, 1, 16, 16)
    known[..., 10:] = 0
    warped = (torch.ones(1, 3, 16, 16), known)
    prepared = answers_difference.prepare(condition, view.camera, warped=warped)
    kept = answers_difference.conditioning.keep_known(
        torch.zeros(1, 3, 16, 16), prepared, answers_difference.to_image
    )
    shares = torch.tensor([1.0] * 7 + [6 / 7, 5 / 7, 4 / 7] + [0.0] * 6)
    inner = kept[:, :, 3:-3]  # what lies outside of the image counts as known
    torch.testing.assert_close(inner, shares.expand_as(inner), atol=1e-5, rtol=0)
    assert bool((kept[..., 0, 7:10] > shares[7:10]).all())
