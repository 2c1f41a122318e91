"""Random cameras start at the photo, spread to the published ranges, and look at the scene."""

import math

import pytest
import torch

from zeronvs._core.random import seeded_generator
from zeronvs.distillation.viewpoints import (
    ViewpointConfig,
    Viewpoints,
    default_elevation_range,
    random_viewpoints,
    reached_range,
)

DEGREE = math.pi / 180


def draw(step, count=2000, elevation_deg=20.0, **settings):
    return random_viewpoints(
        ViewpointConfig(**settings),
        count,
        step,
        input_elevation_rad=elevation_deg * DEGREE,
        generator=seeded_generator(1),
    )


def test_the_first_cameras_stand_at_the_azimuth_and_elevation_of_the_photo():
    views = draw(step=0)
    assert views.azimuth_rad.abs().max() == 0
    torch.testing.assert_close(views.elevation_rad, torch.full((2000,), 20 * DEGREE))
    assert 0.8 <= views.distance.min() < 0.81
    assert 1.79 < views.distance.max() <= 1.8


@pytest.mark.parametrize(("step", "share"), [(250, 0.25), (1000, 1.0), (3000, 1.0)])
def test_the_ranges_grow_linearly_to_the_published_ones(step, share):
    views = draw(step)
    assert views.azimuth_rad.abs().max() == pytest.approx(share * math.pi, rel=0.01)
    low, high = reached_range(default_elevation_range(20 * DEGREE), 20 * DEGREE, step, 1000)
    assert views.elevation_rad.min() == pytest.approx(low, abs=0.02)
    assert views.elevation_rad.max() == pytest.approx(high, abs=0.02)


@pytest.mark.parametrize(
    ("elevation_deg", "expected"),
    [(20, (5, 70)), (60, (30, 80)), (0, (0, 50)), (-60, (-60, 5)), (85, (55, 80))],
)
def test_the_default_elevations_are_clipped_as_published(elevation_deg, expected):
    low, high = default_elevation_range(elevation_deg * DEGREE)
    assert (low / DEGREE, high / DEGREE) == pytest.approx(expected)


def test_cameras_on_the_sphere_are_uniform_in_height():
    views = draw(step=1000, sphere_probability=1.0, elevation_range_rad=(-0.5, 1.2), count=20000)
    height = views.elevation_rad.sin()
    expected = 0.5 * (math.sin(-0.5) + math.sin(1.2))
    assert height.mean() == pytest.approx(expected, abs=0.01)


def test_all_cameras_look_at_the_origin_with_the_field_of_view_of_the_photo():
    views = draw(step=1000, count=32)
    camera = views.cameras(0.7, (24, 24))
    torch.testing.assert_close(camera.position.norm(dim=-1), views.distance)
    forward = -camera.camera_to_world[:, :3, 2]
    torch.testing.assert_close(forward * views.distance[:, None], -camera.position)
    torch.testing.assert_close(camera.fov_y_rad, torch.full((32,), 0.7))


def test_the_distance_in_azimuth_is_symmetric_and_wraps():
    azimuth = torch.tensor([0.5, -0.5, math.pi, 2 * math.pi - 0.5])
    views = Viewpoints(azimuth, torch.zeros(4), torch.ones(4))
    torch.testing.assert_close(
        views.azimuth_distance_rad, torch.tensor([0.5, 0.5, math.pi, 0.5]), atol=1e-5, rtol=0
    )


def test_compressing_moves_the_end_of_the_progress():
    assert ViewpointConfig().compressed(0.25).progressive_until_step == 250


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_a_share_of_the_cameras_is_uniform_on_the_sphere_and_the_rest_in_degrees(probability):
    low, high = 0.0, 80 * DEGREE
    views = draw(
        step=1000,
        count=40_000,
        sphere_probability=probability,
        elevation_range_rad=(low, high),
    )
    on_sphere = 0.5 * (math.sin(low) + math.sin(high))
    in_degrees = (math.cos(low) - math.cos(high)) / (high - low)
    expected = probability * on_sphere + (1 - probability) * in_degrees
    assert views.elevation_rad.sin().mean() == pytest.approx(expected, abs=6e-3)


def test_half_of_the_cameras_are_on_the_sphere_by_default():
    config = ViewpointConfig()
    assert config.sphere_probability == 0.5
    assert config.azimuth_range_rad == (-math.pi, math.pi)
    assert config.distance_range == (0.8, 1.8)
    assert config.progressive_until_step == 1000


def test_distances_are_in_units_of_the_distance_of_the_photo():
    views = random_viewpoints(
        ViewpointConfig(distance_range=(0.5, 2.0)),
        2000,
        1000,
        input_elevation_rad=0.2,
        input_distance=3.0,
        generator=seeded_generator(0),
    )
    assert 1.5 <= views.distance.min() < 1.52
    assert 5.97 < views.distance.max() <= 6.0


def test_ranges_that_are_not_progressive_are_whole_from_the_start():
    assert reached_range((-1.0, 2.0), 0.5, 0, 0) == (-1.0, 2.0)
    assert reached_range((-1.0, 2.0), 0.5, 0, 10) == (0.5, 0.5)
    assert reached_range((-1.0, 2.0), 0.5, 5, 10) == (-0.25, 1.25)
