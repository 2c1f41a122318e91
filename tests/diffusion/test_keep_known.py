"""What the warped input knows passes into samples untouched."""

import pytest
import torch
from diffusers import DDIMScheduler

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View
from zeronvs.diffusion.pipeline import ZeroNVSPipeline


@pytest.fixture(params=["sample", "v_prediction"])
def known_pipe(request, warp_pipe: ZeroNVSPipeline) -> ZeroNVSPipeline:
    scheduler = DDIMScheduler.from_config(warp_pipe.scheduler.config, prediction_type=request.param)
    warp_pipe.register_modules(scheduler=scheduler)
    return warp_pipe


def known_view() -> View:
    """Return a view with depth 1 on its left half and unknown depth on its right."""
    depth = torch.ones(1, 16, 16)
    depth[..., 8:] = 0
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return View(image, Camera.from_fov(torch.eye(4)[None], 0.9, (16, 16)), depth)


def test_known_pixels_are_the_input_and_holes_are_sampled(known_pipe: ZeroNVSPipeline):
    view = known_view()
    condition = known_pipe.encode(view, 1.0)
    one, other = (
        known_pipe.sample(condition, view.camera, [seed], num_inference_steps=2) for seed in (1, 2)
    )
    # Three pixels beside the hole pass over; the splat may also reach half a pixel into it.
    torch.testing.assert_close(one[..., :4], view.image[..., :4], atol=2e-3, rtol=0)
    assert float((one - other)[..., 10:].abs().mean()) > 1e-3


def test_a_kind_that_knows_no_pixels_leaves_samples_alone(released_pipe: ZeroNVSPipeline):
    view = known_view()
    told = released_pipe.prepare(released_pipe.encode(view, 1.0), view.camera)
    image = torch.rand(1, 3, 16, 16)
    assert told.warped is None
    assert released_pipe.conditioning.keep_known(image, told) is image


def test_known_pixels_fade_into_a_hole_over_three_pixels(known_pipe: ZeroNVSPipeline):
    view = known_view()
    condition = known_pipe.encode(view, 1.0)
    known = torch.ones(1, 1, 16, 16)
    known[..., 10:] = 0
    warped = (torch.ones(1, 3, 16, 16), known)
    prepared = known_pipe.prepare(condition, view.camera, warped=warped)
    kept = known_pipe.conditioning.keep_known(torch.zeros(1, 3, 16, 16), prepared)
    shares = torch.tensor([1.0] * 7 + [6 / 7, 5 / 7, 4 / 7] + [0.0] * 6)
    inner = kept[:, :, 3:-3]  # what lies outside of the image counts as known
    torch.testing.assert_close(inner, shares.expand_as(inner), atol=1e-5, rtol=0)
    assert bool((kept[..., 0, 7:10] > shares[7:10]).all())


def test_what_filled_a_hole_is_no_condition(warp_pipe: ZeroNVSPipeline):
    view, known = known_view(), torch.ones(1, 1, 16, 16)
    known[..., 10:] = 0
    condition = warp_pipe.encode(view, 1.0)
    stripes = torch.rand(1, 3, 16, 16)
    one, other = (
        warp_pipe.prepare(
            condition, view.camera, warped=(torch.where(known > 0, view.image, fill), known)
        )
        for fill in (stripes, torch.zeros(()))
    )
    assert one.warped is not None
    assert torch.equal(one.concat, other.concat)
    hole = one.warped[0][..., 11:]
    assert float(hole.diff(dim=-1).abs().max()) < 0.1  # smooth, whatever is beside it
