"""The image of an estimate: horizon and ground where the camera puts them, depth in colours."""

import math

import pytest
import torch

from zeronvs.exports.overlay import GROUND_RGB, HORIZON_RGB, depth_colours, estimate_overlay


def horizon_rows(overlay: torch.Tensor) -> list[int]:
    line = (overlay[:, :, 0] - torch.tensor(HORIZON_RGB)[:, None]).abs().amax(dim=0) < 1e-6
    return line.nonzero()[:, 0].tolist()


@pytest.mark.parametrize("elevation_deg", [-10.0, 0.0, 12.0])
def test_the_horizon_is_drawn_above_the_middle_of_a_camera_that_looks_down(elevation_deg):
    elevation_rad = math.radians(elevation_deg)
    image = torch.full((3, 60, 90), 0.5)
    overlay = estimate_overlay(image, fov_y_rad=1.0, elevation_rad=elevation_rad, size_px=100)
    assert overlay.shape == (3, 100, 100)
    # The horizon lies tan(e) / tan(fov / 2) half heights above the middle.
    row = 50 - 50 * math.tan(elevation_rad) / math.tan(0.5)
    assert horizon_rows(overlay) == [round(row) - 1, round(row)]


def test_a_camera_that_looks_up_sees_neither_horizon_nor_ground():
    image = torch.full((3, 60, 60), 0.5)
    overlay = estimate_overlay(image, fov_y_rad=0.5, elevation_rad=-1.2, size_px=64)
    torch.testing.assert_close(overlay, torch.full((3, 64, 64), 0.5))


def test_the_ground_seen_from_above_is_a_grid_of_six_squares():
    overlay = estimate_overlay(
        torch.zeros(3, 300, 300), fov_y_rad=1.0, elevation_rad=math.pi / 2, size_px=300
    )
    drawn = overlay[0] > 0
    for axis in (0, 1):
        lines = drawn.float().mean(axis).gt(0.9).nonzero().flatten()
        assert sorted({round(line / 50) for line in lines.tolist()} - {0, 6}) == [1, 2, 3, 4, 5]
    torch.testing.assert_close(overlay[:, 10, 150], 0.6 * torch.tensor(GROUND_RGB))


def test_lines_of_the_ground_lie_where_a_camera_sees_them_and_below_the_horizon():
    elevation_rad, size_px = math.radians(30), 400
    overlay = estimate_overlay(
        torch.zeros(3, 50, 50), fov_y_rad=0.8, elevation_rad=elevation_rad, size_px=size_px
    )
    focal_px = 0.5 * size_px / math.tan(0.4)
    nearest = 1 / math.tan(elevation_rad + 0.4)  # of the ground, below the lower border
    cell = 2 * math.tan(0.4) * math.hypot(1, nearest) * math.cos(0.4) / 6
    for across, along in ((1, 2), (-2, 4), (0, 1)):
        # A corner of squares one unit below the camera, in its axes (x right, y down, z forward).
        forward = nearest + along * cell
        down = math.cos(elevation_rad) - forward * math.sin(elevation_rad)
        ahead = forward * math.cos(elevation_rad) + math.sin(elevation_rad)
        column = 0.5 * size_px + focal_px * across * cell / ahead
        row = 0.5 * size_px + focal_px * down / ahead
        at = (slice(round(row) - 1, round(row) + 2), slice(round(column) - 1, round(column) + 2))
        assert float(overlay[0, *at].sum()) > 2.5, (across, along)
    rows = (overlay[0] > 0).any(1).nonzero().flatten()
    horizon_row = 0.5 * size_px - focal_px * math.tan(elevation_rad)
    assert horizon_row < float(rows.min())


@pytest.mark.parametrize("size", [(40, 100), (100, 40)])
def test_the_central_square_is_shown(size: tuple[int, int]):
    image = torch.zeros(3, *size)
    image[:, size[0] // 2 - 20 : size[0] // 2 + 20, size[1] // 2 - 20 : size[1] // 2 + 20] = 0.7
    overlay = estimate_overlay(image, fov_y_rad=0.5, elevation_rad=-1.2, size_px=40)
    torch.testing.assert_close(overlay, torch.full((3, 40, 40), 0.7))


def test_depth_is_shown_beside_the_image_where_it_is_known():
    image, depth = torch.full((3, 50, 50), 0.5), torch.linspace(1, 4, 64).expand(64, 64)
    overlay = estimate_overlay(
        image, fov_y_rad=0.5, elevation_rad=1.2, relative_depth=depth.contiguous(), size_px=64
    )
    assert overlay.shape == (3, 64, 128)
    torch.testing.assert_close(overlay[:, :, 64:], depth_colours(depth, 64))


def test_near_is_yellow_far_is_violet_and_the_mean_disparity_is_teal():
    depth = torch.tensor([[1.0, 2.0 / 1.5, 2.0], [1.0, 2.0 / 1.5, 2.0], [1.0, 2.0 / 1.5, 2.0]])
    colours = depth_colours(depth, 3)[:, 1]
    expected = torch.tensor([[0.99, 0.91, 0.14], [0.13, 0.57, 0.55], [0.27, 0.0, 0.33]])
    torch.testing.assert_close(colours.T, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(depth_colours(7.0 * depth, 3), depth_colours(depth, 3))


def test_an_even_depth_has_one_colour():
    colours = depth_colours(torch.full((4, 4), 3.0), 4)
    assert colours.isfinite().all()
    assert float(colours.flatten(1).std(dim=1).max()) < 1e-6
