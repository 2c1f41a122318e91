import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zeronvs.cameras.scene_scale import (
    align_disparity,
    fill_depth,
    fit_disparity,
    viewer_scale,
)


def random_depth(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return 0.5 + 4.0 * torch.rand(*shape, generator=generator, dtype=torch.float64)


def sparse(depth_z, seed, share=0.2):
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(depth_z.shape, generator=generator) < share
    return torch.where(keep, depth_z, 0.0)


@settings(deadline=None, max_examples=20)
@given(st.floats(0.01, 100.0))
def test_the_viewer_scale_grows_with_the_scene(factor):
    depth_z = random_depth(0, 3, 16, 16)
    torch.testing.assert_close(viewer_scale(factor * depth_z), factor * viewer_scale(depth_z))


def test_viewer_scale_is_the_quantile_of_every_fourth_pixel():
    depth_z = random_depth(2, 3, 32, 24)
    expected = depth_z[:, ::4, ::4].reshape(3, -1).quantile(0.2, dim=1)
    torch.testing.assert_close(viewer_scale(depth_z), expected)
    torch.testing.assert_close(viewer_scale(depth_z[1]), expected[1])
    assert viewer_scale(torch.full((2, 2), 3.0)) == 3.0


def test_quantiles_take_more_pixels_than_torch_quantile():
    depth_z = torch.linspace(0, 1, 2**24 + 2**12).reshape(4096, -1)
    assert viewer_scale(depth_z, stride=1).item() == pytest.approx(0.2)


@settings(deadline=None, max_examples=20)
@given(st.floats(0.1, 10.0), st.floats(-0.1, 5.0))
def test_alignment_undoes_any_scale_and_shift_of_disparity(scale, shift):
    depth_z = random_depth(3, 2, 16, 16)
    aligned = align_disparity(scale / depth_z + shift, sparse(depth_z, 4))
    torch.testing.assert_close(aligned, depth_z)


def test_alignment_stays_in_range_and_does_not_hang_on_too_few_points():
    disparity = random_depth(5, 3, 8, 8)
    known = torch.zeros_like(disparity)
    known[1, 2, 3] = 2.0
    aligned = align_disparity(disparity, known)
    assert aligned.isfinite().all()
    assert (aligned <= 1e3).all()
    assert (aligned >= 1e-3).all()


def test_filling_keeps_what_is_known():
    depth_z = random_depth(6, 2, 8, 8)
    known = sparse(depth_z, 7)
    filled = fill_depth(known, torch.full_like(depth_z, 9.0))
    assert torch.equal(filled[known > 0], known[known > 0])
    assert (filled[known == 0] == 9.0).all()


def test_a_robust_fit_of_disparity_is_not_moved_by_strong_outliers():
    """Three in ten matches are wrong, all on one side and far off."""
    generator = torch.Generator().manual_seed(0)
    relative = 0.5 + torch.rand(400, generator=generator)
    wanted = 0.7 * relative + 0.1
    wanted[:120] += 5.0 + 5.0 * torch.rand(120, generator=generator)
    scale, shift = fit_disparity(relative, wanted)
    assert scale == pytest.approx(0.7, abs=0.03)
    assert shift == pytest.approx(0.1, abs=0.04)


def test_a_fit_that_would_turn_near_and_far_around_is_the_median():
    relative = torch.linspace(1.0, 2.0, 11)
    assert fit_disparity(relative, 3.0 - relative) == (0.0, pytest.approx(1.5))
