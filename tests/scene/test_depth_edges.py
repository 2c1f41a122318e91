"""Depth edges follow the image's edges, and ramps between surfaces become steps."""

import torch

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View
from zeronvs.scene.depth_edges import (
    grown,
    nearest_pixels,
    refine_depth,
    sharpen_steps,
    smooth_surfaces,
    steps,
    weighted_median,
    without_speckle,
)

SIZE_PX = (64, 96)


def two_halves(at: int) -> torch.Tensor:
    """Return an image that is dark to the left of a column, and bright to the right."""
    bright = (torch.arange(SIZE_PX[1]) >= at).float().expand(SIZE_PX)
    return (0.2 + 0.6 * bright).expand(3, -1, -1).clone()


def ramp(centre: float, width: float) -> torch.Tensor:
    """Return disparity that falls from 1 to 0.4 over a ramp."""
    share = ((torch.arange(SIZE_PX[1]) - centre) / width + 0.5).clamp(0, 1)
    return (1 - 0.6 * share).expand(SIZE_PX).clone()


def test_a_blurred_edge_moves_to_where_the_image_has_one():
    view = View(two_halves(45), Camera.from_fov(torch.eye(4), 0.9, SIZE_PX), 1 / ramp(47, 8))
    disparity = 1 / refine_depth(view).depth_z
    near, far = disparity[8:-8, 30:43], disparity[8:-8, 47:60]
    assert float((near - 1).abs().amax()) < 0.08
    assert float((far - 0.4).abs().amax()) < 0.08


def test_a_smooth_slope_stays_what_it_is():
    slope = torch.linspace(0.5, 1.0, SIZE_PX[1]).expand(SIZE_PX)
    view = View(
        torch.full((3, *SIZE_PX), 0.5), Camera.from_fov(torch.eye(4), 0.9, SIZE_PX), 1 / slope
    )
    refined = 1 / refine_depth(view).depth_z
    assert float((refined - slope)[:, 8:-8].abs().amax()) < 0.03
    assert torch.equal(sharpen_steps(slope)[:, 8:-8], slope[:, 8:-8])


def test_the_texture_of_a_slanted_plane_is_not_copied_into_its_depth():
    rows = torch.arange(96.0)[:, None].expand(96, 96)
    image = (torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    camera = Camera.from_fov(torch.eye(4), 0.9, (96, 96))
    depth_z = 1 / (0.2 + 0.02 * rows)
    refined = refine_depth(View(image, camera, depth_z)).depth_z
    assert refined is not None
    inner = (slice(12, 84), slice(12, 84))
    torch.testing.assert_close(refined[inner], depth_z[inner], rtol=1e-3, atol=0)


def test_a_slope_is_no_edge():
    rows = torch.arange(48.0)[:, None].expand(48, 64)
    assert not steps(1.0 + 0.5 * rows, 100.0, 0.3)[1:-1].any()


def test_a_constant_depth_needs_no_median():
    flat = torch.full(SIZE_PX, 0.7)
    assert torch.equal(weighted_median(flat, two_halves(40), 5), flat)


def test_an_edge_is_a_step_that_motion_opens():
    disparity = torch.full((8, 12), 0.5)
    disparity[:, :6] = 0.6
    edge = steps(disparity, focal_px=100.0, motion=0.3)  # a gap of 3 pixels
    assert edge[:, 5].all()  # the near side
    assert int(edge.sum()) == 8
    assert not steps(disparity, focal_px=100.0, motion=0.15).any()


def test_the_nearest_pixel_of_a_mask_is_found_and_a_mask_grows():
    mask = torch.zeros(5, 7, dtype=torch.bool)
    mask[1, 2] = mask[4, 6] = True
    distance, row, column = nearest_pixels(mask)
    assert (int(row[0, 0]), int(column[0, 0])) == (1, 2)
    assert float(distance[4, 5]) == 1
    assert int(grown(mask, 1).sum()) == 5 + 3


def test_what_lies_on_a_ramp_goes_to_one_of_both_surfaces():
    """Hair between a face and a wall, on the ramp of the predicted depth."""
    column = torch.arange(SIZE_PX[1])
    grey = torch.where(column < 40, 0.8, torch.where(column < 50, 0.1, 0.5))
    image = grey.expand(3, *SIZE_PX).clone()
    view = View(image, Camera.from_fov(torch.eye(4), 0.9, SIZE_PX), 1 / ramp(47, 8))
    disparity = 1 / refine_depth(view).depth_z
    hair = disparity[8:-8, 41:49]
    assert float((hair - 1).abs().amax()) < 0.1
    assert float((disparity[8:-8, 52:60] - 0.4).abs().amax()) < 0.1


def test_a_textured_floor_that_curves_away_is_no_edge():
    """Its disparity changes fourfold, but over a quarter of the image."""
    size_px = (96, 96)
    rows = torch.arange(96.0)[:, None].expand(size_px)
    disparity = 0.2 + 0.6 * torch.sigmoid((rows - 48) / 6)
    image = (torch.rand(3, *size_px, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    camera = Camera.from_fov(torch.eye(4), 0.9, size_px)
    refined = 1 / refine_depth(View(image, camera, 1 / disparity)).depth_z
    inner = (slice(12, 84), slice(12, 84))
    torch.testing.assert_close(refined[inner], disparity[inner], rtol=0.02, atol=0)


def test_small_surfaces_are_speckle_and_large_ones_stay():
    disparity = torch.full((200, 300), 0.5)
    disparity[40:160, 100:200] = 1.0
    clean = disparity.clone()
    disparity[80:83, 120:123] = 0.6  # in the middle of the nearer surface
    disparity[20, 30] = 0.9
    assert torch.equal(without_speckle(disparity), clean)
    assert torch.equal(without_speckle(clean), clean)


def test_a_step_that_hides_nothing_becomes_a_slope_and_an_edge_stays():
    disparity = torch.full((16, 40), 0.5)
    disparity[:, 20:] = 0.505  # one percent
    smooth = smooth_surfaces(disparity)
    assert float(smooth.diff(dim=1).max()) < 0.4 * 0.005
    assert float(smooth.min()) >= 0.5 - 1e-6
    assert float(smooth.max()) <= 0.505 + 1e-6
    camera = Camera.from_fov(torch.eye(4), 0.9, (16, 40))
    refined = refine_depth(View(torch.full((3, 16, 40), 0.5), camera, 1 / disparity)).depth_z
    assert refined is not None
    assert float((1 / refined).diff(dim=1).max()) < 0.4 * 0.005
    disparity[:, 20:] = 0.55
    torch.testing.assert_close(smooth_surfaces(disparity), disparity, rtol=1e-3, atol=0)


def test_the_refined_depth_of_a_photograph_has_no_speckle_beside_an_edge():
    """Texture beside a blurred edge: the median alone copies it into the depth."""
    size_px = (128, 192)
    column = torch.arange(192.0).expand(size_px)
    noise = torch.rand(3, *size_px, generator=torch.Generator().manual_seed(1))
    image = torch.where(column < 96, 0.1 + 0.5 * noise, 0.3 + 0.6 * noise)
    share = ((column - 96) / 12 + 0.5).clamp(0, 1)
    view = View(image, Camera.from_fov(torch.eye(4), 0.9, size_px), 1 / (1 - 0.6 * share))
    disparity = 1 / refine_depth(view).depth_z
    inner = disparity[16:-16, 16:-16]
    # Every row falls once, from the near to the far surface.
    jumps = (inner.log().diff(dim=1).abs() > 0.1).sum(1)
    assert float((jumps <= 2).float().mean()) > 0.9
