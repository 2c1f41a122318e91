"""Sampling around on a scene whose every view and depth is known."""

import math

import pytest
import torch
from sphere_world import ELEVATION_RAD, FOV_Y_RAD, ring_cameras, sphere_views
from tiny_pipelines import tiny_released, tiny_warp

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.view import View
from zeronvs.cameras.warp import project
from zeronvs.diffusion.pipeline import ZeroNVSPipeline
from zeronvs.distillation.surround import (
    SurroundConfig,
    free_orbit,
    sample_surround,
    surround_azimuths_rad,
)
from zeronvs.protocols import Geometry

SIZE = 32


class WarpedOnly(ZeroNVSPipeline):
    """A model that returns what is known of each view, and grey where nothing is."""

    def sample(self, condition, cameras, seeds, *, warped=None, **settings):
        image, validity = warped
        self.known.append(validity)
        self.seeds.append(seeds)
        return torch.where(validity > 0, image, 0.5)


class ExactDepth:
    """A depth model that knows the scene: the depth of the camera that comes next, up to scale."""

    def __init__(self, cameras: Camera, factor: float = 0.6):
        self.depths = iter(sphere_views(cameras).depth_z)
        self.factor = factor

    def estimate(self, image: torch.Tensor) -> Geometry:
        return Geometry(depth_z=self.factor * next(self.depths)[None], kind="relative")


@pytest.fixture
def pipe() -> WarpedOnly:
    pipe = WarpedOnly(**tiny_warp(downscale=4).components)
    pipe.known, pipe.seeds = [], []
    assert pipe.image_size_px == SIZE
    return pipe


def sampled(pipe, tmp_path, count: int = 7, **settings):
    view = sphere_views(ring_cameras([0.0], SIZE))[0]
    config = SurroundConfig(count=count, max_depth=10.0)
    cameras = free_orbit(view, torch.tensor(surround_azimuths_rad(count)), config)
    result = sample_surround(
        pipe,
        view,
        1.0,
        config,
        geometry_estimator=ExactDepth(cameras),
        seed=5,
        folder=tmp_path,
        **settings,
    )
    return result, cameras


def test_the_nearest_views_come_first_and_go_all_the_way_round():
    azimuths = surround_azimuths_rad(5)
    assert [round(math.degrees(a)) for a in azimuths] == [60, -60, 120, -120, 180]


def test_the_first_view_agrees_with_the_known_scene(pipe, tmp_path):
    # Later views show invented content, too: only the first is known from the photo alone.
    result, cameras = sampled(pipe, tmp_path, count=11)
    truth = sphere_views(cameras)
    known = pipe.known[0][0, 0] > 0
    assert float(known.float().mean()) > 0.5
    error = (result.views.image[0] - truth.image[0]).abs().mean(0)[known]
    assert float(error.median()) < 0.02
    assert truth.depth_z is not None
    assert result.views.depth_z is not None
    ratio = (result.views.depth_z[0] / truth.depth_z[0])[known]
    assert float(ratio.log().abs().median()) < 0.02


def test_depth_of_new_content_continues_the_known_depth(pipe, tmp_path):
    result, cameras = sampled(pipe, tmp_path, count=5)
    truth = sphere_views(cameras)
    assert truth.depth_z is not None
    assert result.views.depth_z is not None
    # The estimator's unit is another one: only a fit to the known depth makes the new depth right.
    new = pipe.known[0][0, 0] == 0
    assert 0.02 < float(new.float().mean()) < 0.9
    ratio = (result.views.depth_z[0] / truth.depth_z[0])[new]
    assert float(ratio.log().abs().median()) < 0.15


def test_known_pixels_are_trusted_more_than_new_ones(pipe, tmp_path):
    result, _ = sampled(pipe, tmp_path, count=3)
    assert result.confidence is not None
    known = pipe.known[0][0, 0] > 0
    assert bool((result.confidence[0][known] == 1.0).all())
    assert bool((result.confidence[0][~known] == SurroundConfig().new_trust).all())


def test_known_surfaces_are_not_added_again(pipe, tmp_path, monkeypatch):
    from zeronvs.distillation import surround

    clouds = []
    original = surround.surface_points

    def counted(view: View, *rest):
        clouds.append(view)
        return original(view, *rest)

    monkeypatch.setattr(surround, "surface_points", counted)
    sampled(pipe, tmp_path, count=3)
    for validity, view in zip(pipe.known, clouds[1:], strict=True):
        assert view.depth_z is not None
        known = validity[0, 0] > 0
        assert bool((view.depth_z[0][known] == 0).all())
        assert bool((view.depth_z[0][~known] > 0).all())


def test_each_view_has_a_seed_of_its_own_and_a_stopped_run_reads_its_views(pipe, tmp_path):
    first, _ = sampled(pipe, tmp_path, count=3)
    assert pipe.seeds == [[5000], [5001], [5002]]
    again, _ = sampled(pipe, tmp_path, count=3, resume=True)
    assert len(pipe.seeds) == 3  # nothing was sampled again
    torch.testing.assert_close(again.views.image, first.views.image)


def wall_view(distance: float, size: int = 24) -> View:
    """A photo of a wall, from distance 1 of the origin: the wall is `distance` from the camera."""
    camera = ring_cameras([0.0], size)[0]
    return View(torch.zeros(3, size, size), camera, torch.full((size, size), distance))


def test_without_depth_the_orbit_is_a_circle():
    view = wall_view(1.0)
    azimuth_rad = torch.arange(12) * (math.pi / 6)
    orbit = free_orbit(view.with_depth(None), azimuth_rad)
    expected = orbit_pose(azimuth_rad, torch.full((12,), ELEVATION_RAD), torch.ones(12))
    torch.testing.assert_close(orbit.camera_to_world, expected)
    assert float(orbit.fov_y_rad[0]) == pytest.approx(FOV_Y_RAD, abs=1e-6)


def test_cameras_behind_the_wall_of_the_photo_come_nearer():
    config = SurroundConfig()
    azimuth_rad = torch.arange(36) * (math.pi / 18)
    free = free_orbit(wall_view(5.0), azimuth_rad, config).position.norm(dim=-1)
    torch.testing.assert_close(free, torch.ones(36))
    tight = free_orbit(wall_view(1.6), azimuth_rad, config)
    distance = tight.position.norm(dim=-1)
    assert float(distance[0]) == pytest.approx(1.0)  # the photo stays where it was
    behind = float(distance[18])
    assert config.min_distance <= behind < 1.0
    # No camera that the photo shows stands beyond the clearance in front of the wall.
    uv_px, depth_z = project(tight.position, wall_view(1.6).camera)
    shown = (depth_z > 0) & ((uv_px >= 0) & (uv_px < 24)).all(-1)
    assert int(shown.sum()) > 3
    limited = distance > config.min_distance + 1e-3
    assert bool((depth_z[shown & limited] <= config.clearance * 1.6 + 0.02).all())
    assert bool((distance >= config.min_distance - 1e-6).all())


def test_the_orbit_before_a_wall_is_the_same_on_both_sides():
    azimuth_rad = torch.arange(1, 36) * (math.pi / 36)
    left = free_orbit(wall_view(1.6), azimuth_rad).position.norm(dim=-1)
    right = free_orbit(wall_view(1.6), -azimuth_rad).position.norm(dim=-1)
    assert float(left.amax() - left.amin()) > 0.1
    torch.testing.assert_close(left, right)


def test_every_view_is_reported_with_and_without_known_surfaces(pipe, tmp_path):
    view = sphere_views(ring_cameras([0.0], SIZE))[0]
    events = []
    sampled(pipe, tmp_path / "warped", count=3, progress=events.append)
    assert [(event.step, event.total) for event in events] == [(1, 3), (2, 3), (3, 3)]
    events.clear()
    config = SurroundConfig(count=3, num_inference_steps=2)
    other = tiny_released()
    sample_surround(
        other, view, 1.0, config, seed=5, folder=tmp_path / "plain", progress=events.append
    )
    assert [(event.step, event.total) for event in events] == [(1, 3), (2, 3), (3, 3)]
