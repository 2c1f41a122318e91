import math

import pytest
import torch

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import look_at
from zeronvs.cameras.rays import camera_rays, pixel_rays
from zeronvs.cameras.warp import project


def random_cameras(count, image_size_px=(6, 8)):
    generator = torch.Generator().manual_seed(count)
    position = torch.randn(count, 3, generator=generator, dtype=torch.float64) + 2
    return Camera.from_fov(look_at(position), 0.9, image_size_px)


def test_the_middle_ray_is_the_optical_axis():
    camera = random_cameras(1, (5, 7))[0]
    rays = camera_rays(camera)
    torch.testing.assert_close(rays.directions[2, 3], -camera.camera_to_world[:3, 2])
    assert rays.z_per_unit_distance[2, 3] == pytest.approx(1.0)


def test_pixel_centres_lie_at_half_integers_and_rows_run_down():
    camera = Camera.from_fov(torch.eye(4), math.pi / 2, (2, 2))
    rays = camera_rays(camera)
    top_left = rays.directions[0, 0] / -rays.directions[0, 0, 2]
    torch.testing.assert_close(top_left, torch.tensor([-0.5, 0.5, -1.0]))


def test_directions_are_unit_vectors_and_origins_the_camera():
    cameras = random_cameras(3)
    rays = camera_rays(cameras)
    assert rays.directions.shape == (3, 6, 8, 3)
    ones = torch.ones(3, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(rays.directions.norm(dim=-1), ones)
    torch.testing.assert_close(rays.origins[1, 4, 5], cameras.position[1])


def test_projecting_points_along_rays_gives_pixels_and_depth_back():
    cameras = random_cameras(4)
    rays = camera_rays(cameras)
    points = rays.origins + 3.0 * rays.directions
    uv_px, depth_z = project(points.reshape(4, -1, 3), cameras)
    assert uv_px[0, 0].tolist() == pytest.approx([0.5, 0.5])
    assert uv_px[2, -1].tolist() == pytest.approx([7.5, 5.5])
    torch.testing.assert_close(depth_z, 3.0 * rays.z_per_unit_distance.reshape(4, -1))


def test_some_pixels_are_a_subset_of_all_pixels():
    cameras = random_cameras(2)
    every = camera_rays(cameras)
    uv_px = torch.tensor([[3.5, 2.5], [0.5, 5.5]], dtype=torch.float64)
    some = pixel_rays(cameras, uv_px)
    torch.testing.assert_close(some.directions[:, 0], every.directions[:, 2, 3])
    torch.testing.assert_close(some.directions[:, 1], every.directions[:, 5, 0])
    each_its_own = pixel_rays(cameras, uv_px[:, None])
    torch.testing.assert_close(each_its_own.directions[1, 0], every.directions[1, 5, 0])


def test_a_window_of_the_image_sees_the_rays_of_the_window():
    camera = random_cameras(1, (8, 8))[0]
    window = camera_rays(camera.cropped(2, 3, 4, 5))
    torch.testing.assert_close(window.directions, camera_rays(camera).directions[2:6, 3:8])


def test_batches_of_cameras_agree_with_single_ones():
    cameras = random_cameras(3)
    alone = Camera.stack([cameras[k] for k in range(3)])
    torch.testing.assert_close(camera_rays(alone).directions, camera_rays(cameras).directions)
