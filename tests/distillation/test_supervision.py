"""Random pixels carry the ray, the colour and the depth of where they were drawn."""

import pytest
import torch
from sphere_world import intersect_sphere, ring_cameras, sphere_views

from zeronvs._core.random import seeded_generator
from zeronvs.cameras.poses import rotation_angle_rad
from zeronvs.distillation.supervision import (
    SupervisedViews,
    digest_view,
    jittered,
    random_pixels,
    resized_view,
)


def test_the_colour_and_depth_of_a_pixel_are_what_its_ray_meets():
    views = sphere_views(ring_cameras([0.0, 2.0], size_px=16))
    pixels = random_pixels(SupervisedViews(views), 400, seeded_generator(0))
    distance, point = intersect_sphere(pixels.origins, pixels.directions, 0.3)
    hit = distance.isfinite()
    assert 20 < int(hit.sum()) < 380
    torch.testing.assert_close(pixels.rgb[hit], 0.5 + 0.4 * point[hit] / 0.3, atol=1e-4, rtol=0)
    depth_z = distance * pixels.z_per_unit_distance
    torch.testing.assert_close(pixels.depth_z[hit], depth_z[hit], atol=1e-4, rtol=0)


def test_trust_is_that_of_the_view_times_that_of_the_pixel():
    views = sphere_views(ring_cameras([0.0, 2.0], size_px=4))
    confidence = torch.zeros(2, 4, 4)
    confidence[0] = 0.5
    supervised = SupervisedViews(views, torch.tensor([3.0, 7.0]), confidence)
    trust = random_pixels(supervised, 200, seeded_generator(0)).trust
    assert trust.unique().tolist() == [0.0, 1.5]


def test_jitter_moves_the_camera_a_little_and_keeps_it_rigid():
    camera = ring_cameras([0.0, 1.0])
    moved = jittered(camera, 2e-3, seeded_generator(0))
    shift = (moved.position - camera.position).norm(dim=-1)
    turn = rotation_angle_rad(moved.camera_to_world, camera.camera_to_world)
    assert 0 < shift.max() < 0.02
    assert 0 < turn.max() < 0.02
    rotation = moved.camera_to_world[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(2, 3, 3))


def test_a_resized_view_keeps_its_field_of_view_and_its_depths():
    view = sphere_views(ring_cameras([0.0], size_px=24))[0]
    small = resized_view(view, 12)
    assert small.camera.image_size_px == (12, 12) == tuple(small.image.shape[-2:])
    assert small.camera.fov_y_rad == pytest.approx(view.camera.fov_y_rad.item())
    assert set(small.depth_z.flatten().tolist()) <= set(view.depth_z.flatten().tolist())


def test_the_fingerprint_of_a_view_changes_with_one_pixel():
    view = sphere_views(ring_cameras([0.0], size_px=8))[0]
    before = digest_view(view)
    assert digest_view(view.batched()[0]) == before
    view.image[0, 3, 3] += 1e-3
    assert digest_view(view) != before
