"""Random cameras start at the photo, spread to the published ranges, and look at the scene."""

import math

import pytest
import torch

from zeronvs._core.random import seeded_generator
from zeronvs.distillation.viewpoints import (
    ViewpointConfig,
    Viewpoints,
    elevation_range_around,
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
    views = draw(step=0, sphere_sampling="uniform")
    assert views.azimuth_rad.abs().max() == 0
    torch.testing.assert_close(views.elevation_rad, torch.full((2000,), 20 * DEGREE))
    assert 0.8 <= views.distance.min() < 0.81
    assert 1.79 < views.distance.max() <= 1.8


@pytest.mark.parametrize(("step", "share"), [(250, 0.25), (1000, 1.0), (3000, 1.0)])
def test_the_ranges_grow_linearly_to_the_published_ones(step, share):
    views = draw(step, sphere_sampling="uniform")
    assert views.azimuth_rad.abs().max() == pytest.approx(share * math.pi, rel=0.01)
    low, high = reached_range((5 * DEGREE, 80 * DEGREE), 20 * DEGREE, step, 1000)
    assert views.elevation_rad.min() == pytest.approx(low, abs=0.02)
    assert views.elevation_rad.max() == pytest.approx(high, abs=0.02)


@pytest.mark.parametrize(
    ("elevation_deg", "expected"),
    [(20, (5, 70)), (60, (30, 80)), (0, (0, 50)), (-60, (-60, 5)), (85, (55, 80))],
)
def test_elevations_around_the_photo_are_clipped_as_published(elevation_deg, expected):
    low, high = elevation_range_around(elevation_deg * DEGREE)
    assert (low / DEGREE, high / DEGREE) == pytest.approx(expected)
    views = draw(
        1000, elevation_deg=elevation_deg, elevation_range_rad=None, sphere_probability=0.0
    )
    assert views.elevation_rad.min() / DEGREE == pytest.approx(expected[0], abs=0.2)
    assert views.elevation_rad.max() / DEGREE == pytest.approx(expected[1], abs=0.2)


@pytest.mark.parametrize("elevation_deg", [-20.0, 0.0, 31.0, 60.0])
def test_elevations_of_ones_own_photo_do_not_depend_on_it(elevation_deg):
    """Quantiles of the published sampler in a finished range: 5, 18, 33, 52, 77 degrees."""
    views = torch.cat(
        [
            random_viewpoints(
                ViewpointConfig(),
                6,
                1000,
                input_elevation_rad=elevation_deg * DEGREE,
                generator=seeded_generator(seed),
            ).elevation_rad
            for seed in range(1500)
        ]
    )
    quantiles = views.quantile(torch.tensor([0.02, 0.25, 0.5, 0.75, 0.98])) / DEGREE
    torch.testing.assert_close(
        quantiles, torch.tensor([5.0, 18.5, 33.5, 52.0, 77.0]), atol=1.5, rtol=0
    )


def test_the_published_sphere_takes_bounds_over_90_degrees_for_their_sine():
    """So 5 to 80 degrees become 3.2 to 62.7, and the first step of a photo at 31 is at 20.1."""
    views = draw(step=1000, sphere_probability=1.0, count=20000)
    assert views.elevation_rad.min() / DEGREE == pytest.approx(3.185, abs=0.05)
    assert views.elevation_rad.max() / DEGREE == pytest.approx(62.73, abs=0.05)
    sine = views.elevation_rad.sin()
    assert sine.mean() == pytest.approx(0.5 * (5 + 80) / 90, abs=0.01)
    first = draw(step=0, sphere_probability=1.0, elevation_deg=31.0).elevation_rad / DEGREE
    torch.testing.assert_close(first, torch.full((2000,), 20.147), atol=1e-2, rtol=0)


def test_one_draw_decides_for_all_published_cameras_of_a_step():
    def kinds(sampling):
        """Return the steps, of 200, whose first cameras are all, in part, or not on the sphere."""
        views = [
            random_viewpoints(
                ViewpointConfig(sphere_sampling=sampling, elevation_range_rad=(0.3, 0.3)),
                6,
                1000,
                input_elevation_rad=0.3,
                generator=seeded_generator(seed),
            )
            for seed in range(200)
        ]
        on_sphere = math.asin(0.3 / (0.5 * math.pi))
        return [int(torch.isclose(v.elevation_rad, torch.tensor(on_sphere)).sum()) for v in views]

    counts = kinds("published")
    assert set(counts) == {0, 6}
    assert 80 < counts.count(6) < 120
    assert set(kinds("uniform")) == {0}  # the sine of the one elevation is that elevation's


def test_uniform_cameras_on_the_sphere_are_uniform_in_height():
    views = draw(
        step=1000,
        sphere_probability=1.0,
        sphere_sampling="uniform",
        elevation_range_rad=(-0.5, 1.2),
        count=20000,
    )
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
        sphere_sampling="uniform",
        elevation_range_rad=(low, high),
    )
    on_sphere = 0.5 * (math.sin(low) + math.sin(high))
    in_degrees = (math.cos(low) - math.cos(high)) / (high - low)
    expected = probability * on_sphere + (1 - probability) * in_degrees
    assert views.elevation_rad.sin().mean() == pytest.approx(expected, abs=6e-3)


def test_half_of_the_cameras_are_on_the_sphere_by_default():
    config = ViewpointConfig()
    assert config.sphere_probability == 0.5
    assert config.sphere_sampling == "published"
    assert config.elevation_range_rad == pytest.approx((5 * DEGREE, 80 * DEGREE))
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
