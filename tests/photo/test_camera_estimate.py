"""Estimates: exact on exact depth, honest where nothing can be known, and never above the user."""

import math

import pytest
import torch

from zeronvs._core.errors import InputError
from zeronvs.photo.camera_estimate import estimate_camera
from zeronvs.photo.estimates import (
    Estimate,
    averaged,
    estimate_elevation,
    estimate_fov_y,
    estimate_scene_scale,
    fit_ground_plane,
)
from zeronvs.protocols import Geometry

FOV = math.radians(50)


def room_depth(elevation_deg: float, *, roll_deg: float = 0.0, size: int = 48) -> torch.Tensor:
    """Depth of a floor 1 below a camera tilted down, closed by a wall at depth 6."""
    focal = 0.5 * size / math.tan(0.5 * FOV)
    pixels = torch.arange(size) + 0.5
    y, x = torch.meshgrid(
        (0.5 * size - pixels) / focal, (pixels - 0.5 * size) / focal, indexing="ij"
    )
    elevation, roll = math.radians(elevation_deg), math.radians(roll_deg)
    up = (
        math.sin(roll) * math.cos(elevation),
        math.cos(roll) * math.cos(elevation),
        math.sin(elevation),
    )
    fall = -(up[0] * x + up[1] * y - up[2])
    return torch.where(fall > 1 / 6, 1 / fall.clamp_min(1e-6), 6.0)


def geometry_of(depth: torch.Tensor, fov_rad: float | None = None) -> Geometry:
    """What a depth model predicts that knows one image, and perhaps its lens."""
    known = fov_rad is not None
    return Geometry(
        depth_z=(depth / depth.flatten().quantile(0.2))[None],
        kind="relative",
        fov_y_rad=torch.tensor([fov_rad]) if known else None,
        fov_spread_rad=torch.tensor([1e-3]) if known else None,
    )


@pytest.mark.parametrize("elevation_deg", [20.0, 35.0, 50.0])
def test_the_ground_plane_gives_the_tilt_of_the_camera(elevation_deg: float):
    plane = fit_ground_plane(room_depth(elevation_deg), FOV)
    assert plane is not None
    assert math.degrees(plane.elevation_rad) == pytest.approx(elevation_deg, abs=0.5)
    assert plane.inlier_fraction > 0.8  # the rest lies above the horizon


def test_the_ground_plane_does_not_depend_on_the_unit_of_depth():
    one = fit_ground_plane(room_depth(30), FOV)
    other = fit_ground_plane(room_depth(30) * 37.0, FOV)
    assert one is not None
    assert other is not None
    torch.testing.assert_close(one.up, other.up)


def test_a_thing_that_stands_on_the_ground_hardly_moves_the_plane():
    depth = room_depth(30)
    depth[30:40, 10:20] = 0.8
    plane = fit_ground_plane(depth, FOV)
    assert plane is not None
    assert math.degrees(plane.elevation_rad) == pytest.approx(30, abs=1.5)


def test_the_estimate_lies_between_the_plane_and_the_default():
    estimate = estimate_elevation(FOV, room_depth(40))
    assert 5 < math.degrees(estimate.value) < 40
    assert estimate.spread < estimate_elevation(FOV).spread
    assert "ground" in estimate.source


@pytest.mark.parametrize(
    "depth",
    [
        None,
        room_depth(30, roll_deg=40),
        torch.rand(48, 48, generator=torch.Generator().manual_seed(0)) + 0.1,
        torch.zeros(48, 48),
        torch.full((48, 48), torch.nan),
        torch.ones(48, 48),
    ],
    ids=["no depth", "leaning", "noise", "nothing known", "not a number", "a wall"],
)
def test_without_a_clear_ground_the_default_is_given_with_a_wide_spread(depth):
    estimate = estimate_elevation(FOV, depth)
    assert math.degrees(estimate.value) == pytest.approx(5)
    assert "default" in estimate.source
    assert math.degrees(estimate.spread) >= 10


def test_the_scale_puts_the_photographed_thing_at_distance_one():
    depth = torch.full((30, 30), 4.0)
    depth[10:20, 10:20] = 1.6
    estimate = estimate_scene_scale(depth)
    assert estimate.value * 1.6 == pytest.approx(1.0)


@pytest.mark.parametrize(("depth", "bound"), [(0.1, 1.0), (50.0, 0.3)])
def test_an_odd_depth_does_not_give_an_odd_scale(depth: float, bound: float):
    estimate = estimate_scene_scale(torch.full((30, 30), depth))
    assert estimate.value == bound
    assert "bounded" in estimate.source


def test_without_depth_the_scale_is_the_published_one():
    assert estimate_scene_scale().value == 0.7


def test_a_recorded_lens_gives_the_field_of_view_of_the_short_side():
    estimate = estimate_fov_y(1000, 500.0, "EXIF")
    assert estimate.value == pytest.approx(math.pi / 2)
    assert estimate.source == "EXIF"
    assert estimate.spread < estimate_fov_y(1000).spread


def test_what_the_user_gives_always_wins():
    estimate = estimate_camera(
        (60, 80),
        focal_px=70.0,
        geometry=geometry_of(room_depth(40)),
        fov_y_rad=1.0,
        elevation_rad=-0.2,
        scene_scale=0.5,
    )
    assert (estimate.fov_y_rad.value, estimate.fov_y_rad.source) == (1.0, "given")
    assert (estimate.elevation_rad.value, estimate.elevation_rad.source) == (-0.2, "given")
    assert (estimate.scene_scale.value, estimate.scene_scale.source) == (0.5, "given")


def test_the_whole_estimate_uses_the_depth_model():
    estimate = estimate_camera((48, 48), fov_y_rad=FOV, geometry=geometry_of(room_depth(40)))
    assert estimate.relative_depth is not None
    assert estimate.relative_depth.shape == (128, 128)
    assert "ground" in estimate.elevation_rad.source
    assert "median" in estimate.scene_scale.source


def test_only_the_central_square_of_a_wide_image_is_used():
    wide = torch.nn.functional.pad(room_depth(40), (20, 20), value=1e3)
    estimate = estimate_camera((48, 88), fov_y_rad=FOV, geometry=geometry_of(wide))
    of_square = estimate_camera((48, 48), fov_y_rad=FOV, geometry=geometry_of(room_depth(40)))
    assert estimate.elevation_rad.value == pytest.approx(of_square.elevation_rad.value, abs=1e-4)


def test_a_predicted_field_of_view_is_averaged_with_the_default():
    estimate = estimate_camera((60, 60), geometry=geometry_of(room_depth(40), 0.7)).fov_y_rad
    assert 0.7 < estimate.value < math.radians(50)
    assert estimate.spread < math.radians(12)
    assert "depth model" in estimate.source


def test_the_predicted_field_of_view_of_a_tall_image_is_reduced_to_its_square():
    tall = estimate_camera((120, 60), geometry=geometry_of(room_depth(40), 1.2)).fov_y_rad
    slope = math.tan(0.6) / 2
    square = geometry_of(room_depth(40), 2 * math.atan(slope))
    of_square = estimate_camera((60, 60), geometry=square).fov_y_rad
    assert tall.value == pytest.approx(of_square.value, abs=1e-6)


def test_a_recorded_lens_counts_more_than_a_prediction():
    estimate = estimate_camera((60, 80), geometry=geometry_of(room_depth(40), 0.7), focal_px=30.0)
    assert estimate.fov_y_rad.value == pytest.approx(math.pi / 2)


@pytest.mark.parametrize(
    ("number", "value"),
    [
        ("fov_y_rad", -1.0),
        ("fov_y_rad", 0.0),
        ("fov_y_rad", 3.1),
        ("fov_y_rad", math.nan),
        ("elevation_rad", 2.0),
        ("elevation_rad", -math.inf),
        ("scene_scale", 0.0),
        ("scene_scale", -0.7),
        ("scene_scale", math.nan),
        ("scene_scale", math.inf),
    ],
)
def test_numbers_that_no_camera_has_are_refused_by_name(number: str, value: float):
    with pytest.raises(InputError) as caught:
        estimate_camera((60, 80), **{number: value})
    assert caught.value.argument == number
    assert "--" not in str(caught.value)


def test_estimates_are_averaged_by_their_inverse_variances():
    first = Estimate(value=1.0, source="a", spread=0.1)
    second = Estimate(value=2.0, source="b", spread=0.2)
    mean = averaged(first, second, "both")
    assert mean.value == pytest.approx((100 * 1.0 + 25 * 2.0) / 125)
    assert mean.spread == pytest.approx(125**-0.5)
    assert mean.source == "both"


def test_without_any_knowledge_these_are_the_defaults():
    estimate = estimate_camera((60, 80))
    assert math.degrees(estimate.fov_y_rad.value) == pytest.approx(50)
    assert math.degrees(estimate.fov_y_rad.spread) == pytest.approx(12)
    assert math.degrees(estimate.elevation_rad.value) == pytest.approx(5)
    assert math.degrees(estimate.elevation_rad.spread) == pytest.approx(15)
    assert estimate.scene_scale.value == 0.7
    assert estimate.relative_depth is None


def test_a_ground_plane_counts_more_than_the_default_by_their_spreads():
    plane = fit_ground_plane(room_depth(40), FOV)
    assert plane is not None
    estimate = estimate_elevation(FOV, room_depth(40))
    weights = 1 / 10**2, 1 / 15**2
    degrees = (weights[0] * math.degrees(plane.elevation_rad) + weights[1] * 5) / sum(weights)
    assert math.degrees(estimate.value) == pytest.approx(degrees, abs=0.01)
    assert math.degrees(estimate.spread) == pytest.approx(sum(weights) ** -0.5)


def test_a_lens_is_believed_to_two_degrees_and_a_prediction_to_ten_at_best():
    assert math.degrees(estimate_fov_y(1000, 500.0).spread) == pytest.approx(2)
    sure = Estimate(value=math.radians(40), source="network", spread=math.radians(1))
    estimate = estimate_fov_y(1000, guess=sure)
    weights = 1 / 5**2, 1 / 12**2
    degrees = (weights[0] * 40 + weights[1] * 50) / sum(weights)
    assert math.degrees(estimate.value) == pytest.approx(degrees)
    # Their errors are larger together than two independent estimates would have it.
    assert math.degrees(estimate.spread) == pytest.approx(10)
    unsure = Estimate(value=math.radians(40), source="network", spread=math.radians(12))
    assert math.degrees(estimate_fov_y(1000, guess=unsure).value) == pytest.approx(45)


def test_the_scale_is_one_over_the_median_of_the_central_ninth():
    depth = torch.full((30, 30), 4.0)
    depth[10:20, 10:20] = torch.linspace(1.2, 2.2, 100).view(10, 10)
    assert estimate_scene_scale(depth).value == pytest.approx(1 / 1.7, rel=0.01)
    depth[12:15, 12:15] = 0.0  # unknown
    assert 1.2 < 1 / estimate_scene_scale(depth).value < 2.2
    assert estimate_scene_scale(torch.zeros(30, 30)).value == 0.7


@pytest.mark.parametrize(
    ("number", "low", "high"),
    [
        ("fov_y_rad", math.radians(5), math.radians(150)),
        ("elevation_rad", math.radians(-89), math.radians(89)),
        ("scene_scale", 0.01, 100.0),
    ],
)
def test_numbers_at_the_ends_of_their_range_are_taken_and_none_beyond(number, low, high):
    width = high - low
    for value in (low, high):
        assert getattr(estimate_camera((60, 80), **{number: value}), number).value == value
    for value in (low - 0.005 * width / 10, high + 0.005 * width):
        with pytest.raises(InputError):
            estimate_camera((60, 80), **{number: value})


def test_the_ground_must_be_seen_in_most_of_the_image_and_may_lie_steeply_below():
    for elevation_deg, source in ((70.0, "ground"), (82.0, "default")):
        assert source in estimate_elevation(FOV, room_depth(elevation_deg)).source
    level = estimate_elevation(FOV, room_depth(30, roll_deg=10))
    assert "ground" in level.source
    leaning = estimate_elevation(FOV, room_depth(30, roll_deg=20))
    assert "no clear verticals or ground" in leaning.source
