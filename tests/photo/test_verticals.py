"""How far a camera looks down, from the vertical lines of a photograph."""

import math

import pytest
import torch
from pillars import FOCAL_PX, SIZE_PX, pillars

from zeronvs.photo.camera_estimate import estimate_camera
from zeronvs.photo.estimates import Estimate, estimate_elevation
from zeronvs.photo.verticals import tilt_of_verticals


@pytest.mark.parametrize("tilt_deg", [-20, -6, 0, 9, 24, 38])
@pytest.mark.parametrize("roll_deg", [-3, 0])
def test_vertical_lines_tell_the_tilt(tilt_deg: float, roll_deg: float):
    estimate = tilt_of_verticals(pillars(tilt_deg, roll_deg), FOCAL_PX)
    assert estimate is not None
    assert math.degrees(estimate.value) == pytest.approx(tilt_deg, abs=1.5)
    assert estimate.source == "vertical lines"


def test_a_large_photograph_tells_the_same():
    large = torch.nn.functional.interpolate(pillars(24)[None], scale_factor=3, mode="bicubic")[0]
    estimate = tilt_of_verticals(large, 3 * FOCAL_PX)
    assert estimate is not None
    assert math.degrees(estimate.value) == pytest.approx(24, abs=1.5)


def test_texture_rows_and_nothing_tell_none():
    noise = torch.rand(3, *SIZE_PX, generator=torch.Generator().manual_seed(0))
    rows = (torch.arange(SIZE_PX[0]) // 9 % 2).float()[:, None].expand(3, *SIZE_PX)
    for image in (noise, rows, torch.full((3, *SIZE_PX), 0.5), torch.rand(3, 4, 4)):
        assert tilt_of_verticals(image, FOCAL_PX) is None


def test_the_frame_of_a_scan_is_no_vertical_line():
    image = torch.full((3, *SIZE_PX), 0.9)
    image[:, :, :5] = image[:, :, -5:] = 0.1
    assert tilt_of_verticals(image, FOCAL_PX) is None


def ground_from(elevation_deg: float, size_px: int = 48, fov_rad: float = 0.9) -> torch.Tensor:
    """Return depth of a plane below a camera: disparity is linear in the image."""
    focal_px = 0.5 * size_px / math.tan(0.5 * fov_rad)
    down = (torch.arange(size_px) + 0.5 - 0.5 * size_px) / focal_px
    tilt = math.radians(elevation_deg)
    disparity = down * math.cos(tilt) + math.sin(tilt)
    return (1.0 / disparity.clamp_min(0.02))[:, None].repeat(1, size_px)


def test_vertical_lines_win_unless_they_lie_on_the_ground():
    lines = Estimate(value=0.1, source="vertical lines", spread=0.05)
    assert estimate_elevation(0.9, ground_from(40), lines) == lines
    assert estimate_elevation(0.9, None, lines) == lines
    # A facade photographed level: its depth is that of a ground, its lines are parallel.
    assert estimate_elevation(0.9, ground_from(68), lines) == lines
    # The edges of a table seen from above converge upwards.
    edges = Estimate(value=math.radians(-25), source="vertical lines", spread=0.05)
    assert "ground plane" in estimate_elevation(0.9, ground_from(68), edges).source
    assert estimate_elevation(0.9, ground_from(40), edges) == edges


def test_the_camera_of_a_photograph_uses_them():
    image = pillars(24)
    fov_rad = 2 * math.atan(0.5 * SIZE_PX[0] / FOCAL_PX)
    found = estimate_camera(SIZE_PX, image=image, fov_y_rad=fov_rad).elevation_rad
    assert math.degrees(found.value) == pytest.approx(24, abs=1.5)
    given = estimate_camera(SIZE_PX, image=image, elevation_rad=0.3).elevation_rad
    assert given.value == 0.3
