import math

import pytest
import torch
from foreign_cameras import colmap_pose, opencv_pose, pytorch3d_numbers, re10k_numbers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.conventions import (
    camera_from_dtu,
    camera_from_projection,
    camera_from_pytorch3d,
    camera_from_re10k,
    opengl_from_colmap,
    opengl_from_opencv,
    quaternion,
    rotation_matrix,
)
from zeronvs.cameras.poses import invert_pose, look_at, rotation_angle_rad
from zeronvs.cameras.warp import project

NDC = pytest.mark.parametrize("ndc", ["short_side", "image_bounds"])


def random_cameras(count=5, image_size_px=(30, 40)):
    """Cameras with unequal focal lengths and a principal point off the middle."""
    generator = torch.Generator().manual_seed(count)
    ends = torch.randn(2, count, 3, generator=generator, dtype=torch.float64)
    intrinsics_px = torch.eye(3, dtype=torch.float64).repeat(count, 1, 1)
    intrinsics_px[:, 0, 0], intrinsics_px[:, 1, 1] = 35.0, 38.0
    intrinsics_px[:, 0, 2], intrinsics_px[:, 1, 2] = 18.0, 16.0
    up = (0.3, 0.2, 1.0)
    return Camera(look_at(ends[0], ends[1], up), intrinsics_px, image_size_px)


def points_ahead(cameras):
    generator = torch.Generator().manual_seed(7)
    local = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    local[:, 2] = -3.0 - local[:, 2].abs()
    rotation = cameras.camera_to_world[:, :3, :3]
    return local @ rotation.mT + cameras.position[:, None]


def assert_same_camera(ours, theirs):
    torch.testing.assert_close(ours.camera_to_world, theirs.camera_to_world)
    torch.testing.assert_close(ours.intrinsics_px, theirs.intrinsics_px)
    assert ours.image_size_px == theirs.image_size_px


def test_opencv_looks_the_same_way_with_y_down():
    pose = random_cameras().camera_to_world
    theirs = opencv_pose(pose)
    torch.testing.assert_close(theirs[..., :3, 2], -pose[..., :3, 2])
    torch.testing.assert_close(theirs[..., :3, 1], -pose[..., :3, 1])
    torch.testing.assert_close(theirs[..., :3, 3], pose[..., :3, 3])
    torch.testing.assert_close(opengl_from_opencv(theirs), pose)


def test_colmap_pose_moves_points_into_a_camera_that_looks_along_z():
    cameras = random_cameras()
    qvec, tvec = colmap_pose(cameras.camera_to_world)
    points = points_ahead(cameras)
    local = points @ rotation_matrix(qvec).mT + tvec[:, None]
    pixels = local @ cameras.intrinsics_px.mT
    uv_px, depth_z = project(points, cameras)
    torch.testing.assert_close(pixels[..., :2] / pixels[..., 2:], uv_px)
    torch.testing.assert_close(local[..., 2], depth_z)


def test_colmap_poses_make_the_round_trip():
    pose = random_cameras().camera_to_world
    torch.testing.assert_close(opengl_from_colmap(*colmap_pose(pose)), pose)
    qvec, tvec = colmap_pose(pose)
    torch.testing.assert_close(opengl_from_colmap(-3 * qvec, tvec), pose)


def test_re10k_intrinsics_are_shares_of_the_image():
    cameras = random_cameras()
    intrinsics, world_to_camera = re10k_numbers(cameras)
    assert intrinsics[0].tolist() == pytest.approx([35 / 40, 38 / 30, 18 / 40, 16 / 30])
    bottom = torch.tensor([0, 0, 0, 1.0], dtype=torch.float64).expand(5, 1, 4)
    expected = invert_pose(opencv_pose(cameras.camera_to_world))
    torch.testing.assert_close(torch.cat([world_to_camera, bottom], dim=1), expected)


def test_re10k_cameras_make_the_round_trip():
    cameras = random_cameras()
    assert_same_camera(camera_from_re10k(*re10k_numbers(cameras), (30, 40)), cameras)


@NDC
def test_pytorch3d_cameras_make_the_round_trip(ndc):
    cameras = random_cameras()
    back = camera_from_pytorch3d(*pytorch3d_numbers(cameras, ndc), (30, 40), ndc=ndc)
    assert_same_camera(back, cameras)


@NDC
def test_pytorch3d_projects_rows_with_x_to_the_left(ndc):
    cameras = random_cameras()
    rotation, translation, focal, principal = pytorch3d_numbers(cameras, ndc)
    points = points_ahead(cameras)
    local = points @ rotation + translation[:, None]
    ndc_xy = focal[:, None] * local[..., :2] / local[..., 2:] + principal[:, None]
    half_px = torch.tensor([20.0, 15.0], dtype=torch.float64)
    unit_px = half_px if ndc == "image_bounds" else half_px.min()
    uv_px, depth_z = project(points, cameras)
    torch.testing.assert_close(half_px - ndc_xy * unit_px, uv_px)
    torch.testing.assert_close(local[..., 2], depth_z)


@pytest.mark.parametrize("factor", [1.0, -0.37])
def test_projections_come_apart_whatever_their_scale_and_sign(factor):
    cameras = random_cameras()
    world_to_camera = invert_pose(opencv_pose(cameras.camera_to_world))[:, :3]
    projection = factor * cameras.intrinsics_px @ world_to_camera
    assert_same_camera(camera_from_projection(projection, (30, 40)), cameras)


def test_dtu_scale_matrix_normalises_the_scene():
    cameras = random_cameras()
    world_mat = torch.eye(4, dtype=torch.float64).repeat(5, 1, 1)
    world_to_camera = invert_pose(opencv_pose(cameras.camera_to_world))
    world_mat[:, :3] = cameras.intrinsics_px @ world_to_camera[:, :3]
    scale_mat = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
    scale_mat[:3, 3] = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    camera = camera_from_dtu(world_mat, scale_mat.expand(5, 4, 4), (30, 40))
    expected = (cameras.position - scale_mat[:3, 3]) / 2
    flip = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(camera.position, expected * flip)
    torch.testing.assert_close(camera.intrinsics_px, cameras.intrinsics_px)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4))
def test_quaternions_make_the_round_trip(numbers):
    q = torch.tensor(numbers, dtype=torch.float64)
    assume(q.norm() > 1e-3)
    rotation = rotation_matrix(q)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64))
    again = quaternion(rotation)
    assert again[0] >= 0
    torch.testing.assert_close(rotation_matrix(again), rotation)


@pytest.mark.parametrize("axis", range(3))
def test_half_turns_have_accurate_quaternions(axis):
    q = torch.zeros(4)
    q[0], q[1 + axis] = 1e-6, 1.0
    turn = torch.eye(4)
    turn[:3, :3] = rotation_matrix(quaternion(rotation_matrix(q)))
    assert rotation_angle_rad(torch.eye(4), turn).item() == pytest.approx(math.pi, abs=1e-5)
