"""Anchors are spaced evenly, and views are conditioned on the one nearest in orientation."""

import math

import pytest
import torch
from sphere_world import ELEVATION_RAD, FOV_Y_RAD, ring_cameras

from zeronvs._core.random import seeded_generator
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.distillation.anchors import (
    AnchorConfig,
    anchor_azimuths_rad,
    anchor_cameras,
    anchor_gate,
    choose_conditions,
    nearest_view,
    quantized,
    sample_anchors,
)
from zeronvs.scene.field_scene import FieldScene


def cameras_of(count):
    return anchor_cameras(
        count,
        elevation_rad=ELEVATION_RAD,
        distance=1.0,
        fov_y_rad=FOV_Y_RAD,
        image_size_px=(16, 16),
    )


def test_two_anchors_stand_at_120_and_240_degrees():
    degrees = anchor_azimuths_rad(2) * 180 / math.pi
    torch.testing.assert_close(degrees, torch.tensor([120.0, 240.0]))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_anchors_and_photo_split_the_circle_evenly_at_the_photos_height(count):
    cameras = cameras_of(count)
    ring = ring_cameras(torch.arange(1, count + 1) * 2 * math.pi / (count + 1), size_px=16)
    torch.testing.assert_close(cameras.camera_to_world, ring.camera_to_world)
    torch.testing.assert_close(cameras.intrinsics_px, ring.intrinsics_px)


def test_the_nearest_view_is_the_one_that_looks_the_same_way_wherever_it_stands():
    known = torch.cat([ring_cameras([0.0]).camera_to_world, cameras_of(2).camera_to_world])
    azimuth_rad = torch.tensor([10.0, 59.0, 61.0, 130.0, 250.0, 301.0, -70.0]) * math.pi / 180
    elevation_rad = torch.full_like(azimuth_rad, ELEVATION_RAD)
    targets = orbit_pose(azimuth_rad, elevation_rad, torch.linspace(0.1, 50.0, 7))
    assert nearest_view(targets, known).tolist() == [0, 0, 1, 1, 2, 0, 2]


def test_a_view_is_conditioned_on_its_nearest_anchor_half_of_the_time():
    nearest = torch.tensor([0, 1, 2]).repeat(2000)
    chosen = choose_conditions(nearest, 0.5, seeded_generator(0))
    assert bool(((chosen == nearest) | (chosen == 0)).all())
    share = (chosen == nearest)[nearest > 0].float().mean()
    assert share == pytest.approx(0.5, abs=0.03)
    assert torch.equal(choose_conditions(nearest, 1.0, seeded_generator(0)), nearest)


def test_near_pixels_of_views_that_face_an_anchor_are_left_to_the_photo():
    depth_z = torch.tensor([[[0.5, 1.5]], [[0.5, 1.5]]])
    passes = anchor_gate(torch.tensor([0, 2]), depth_z, 1.0)
    assert passes.tolist() == [[[True, True]], [[False, True]]]


@pytest.mark.parametrize(
    ("depth", "shares"),
    [("accumulated_distance", [0.0, 0.0, 0.08, 0.15]), ("depth_z", [0.0, 0.0, 0.68, 1.0])],
)
def test_the_gate_at_the_start_of_a_run_is_the_recorded_one(depth, shares):
    """Pixels that pass in a fresh published field, 120 degrees from the photo, fov 52.55 degrees.

    At distances .8, 1, 1.3 and 1.8. The first row is the published gate: `depth` of
    renderers/nerf_volume_renderer.py, which is not divided by the opacity.
    """
    distance = torch.tensor([0.8, 1.0, 1.3, 1.8])
    poses = orbit_pose(torch.full((4,), 2 * math.pi / 3), torch.full((4,), 0.54), distance)
    cameras = Camera.from_fov(poses, math.radians(52.55), (24, 24))
    with torch.no_grad():
        rendering = FieldScene(generator=seeded_generator(0)).render(cameras)
    passes = anchor_gate(torch.ones(4, dtype=torch.long), getattr(rendering, depth), 1.0)
    share = passes.float().mean(dim=(1, 2))
    torch.testing.assert_close(share, torch.tensor(shares), atol=0.03, rtol=0)


def test_an_anchor_depends_on_its_seed_and_not_on_its_neighbours(pipe, input_view):
    config = AnchorConfig(num_inference_steps=2)
    view, cameras = input_view.batched(), cameras_of(2)
    both = sample_anchors(pipe, view, 0.7, cameras, config=config, seeds=[5, 6])
    second = sample_anchors(pipe, view, 0.7, cameras[[1]], config=config, seeds=[6])
    torch.testing.assert_close(both.image[1], second.image[0], atol=1.01 / 255, rtol=0)
    assert torch.equal(both.image, quantized(both.image))
