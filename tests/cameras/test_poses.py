import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from zeronvs.cameras.poses import (
    invert_pose,
    look_at,
    orbit_pose,
    relative_pose,
    rotation_angle_rad,
)


def random_pose(seed):
    generator = torch.Generator().manual_seed(seed)
    position = torch.randn(3, generator=generator, dtype=torch.float64)
    target = torch.randn(3, generator=generator, dtype=torch.float64)
    return look_at(position, target)


def angles(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_shape_checking_is_switched_on():
    with pytest.raises(TypeCheckError):
        invert_pose(torch.eye(3))


def test_input_camera_is_on_plus_x_and_faces_the_origin():
    pose = orbit_pose(angles(0.0), angles(0.0), angles(1.0))[0]
    expected = torch.tensor(
        [[0, 0, 1, 1], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=torch.float64
    )
    torch.testing.assert_close(pose, expected)


@settings(deadline=None, max_examples=30)
@given(st.floats(-7, 7), st.floats(-1.5, 1.5), st.floats(0.1, 10))
def test_orbit_pose_is_look_at_from_its_position(azimuth_rad, elevation_rad, distance):
    pose = orbit_pose(angles(azimuth_rad), angles(elevation_rad), angles(distance))
    torch.testing.assert_close(look_at(pose[:, :3, 3]), pose)


@pytest.mark.parametrize("position", [(0, 0, 2), (0, 0, -2), (1, 2, 3), (-1, 0, 0)])
@pytest.mark.parametrize("up", [(0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 1.0, 1.0)])
def test_look_at_is_a_rotation_with_the_target_ahead(position, up):
    pose = look_at(torch.tensor(position, dtype=torch.float64), up=up)
    rotation = pose[:3, :3]
    torch.testing.assert_close(rotation.mT @ rotation, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones((), dtype=torch.float64))
    ahead = pose[:3, 3] - pose[:3, 2] * pose[:3, 3].norm()
    torch.testing.assert_close(ahead, torch.zeros(3, dtype=torch.float64))


def test_looking_straight_down_joins_the_orbit_smoothly():
    down = look_at(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    on_orbit = orbit_pose(angles(0.0), angles(math.pi / 2), angles(1.0))[0]
    torch.testing.assert_close(down, on_orbit)


def test_a_camera_cannot_look_at_its_own_position():
    with pytest.raises(ValueError, match="position of a camera equals its target"):
        look_at(torch.zeros(2, 3))


@pytest.mark.parametrize("seed", range(5))
def test_relative_pose_ignores_where_the_world_origin_lies(seed):
    target, source, world = (random_pose(seed * 3 + k) for k in range(3))
    moved = relative_pose(world @ target, world @ source)
    torch.testing.assert_close(moved, relative_pose(target, source))


def test_relative_poses_compose_and_vanish_for_one_camera():
    a, b, c = (random_pose(k) for k in range(3))
    torch.testing.assert_close(relative_pose(b, a) @ relative_pose(c, b), relative_pose(c, a))
    torch.testing.assert_close(relative_pose(a, a), torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(invert_pose(invert_pose(a)), a)


def test_relative_pose_takes_one_input_for_many_targets():
    targets = torch.stack([random_pose(k) for k in range(4)])
    together = relative_pose(targets, random_pose(9))
    apart = torch.stack([relative_pose(target, random_pose(9)) for target in targets])
    torch.testing.assert_close(together, apart)


@pytest.mark.parametrize("angle_rad", [0.0, 1e-5, 0.3, 2.0, 3.14159, math.pi])
def test_rotation_angle_is_the_angle_turned(angle_rad):
    start = orbit_pose(angles(0.4), angles(0.0), angles(1.0))
    end = orbit_pose(angles(0.4 + angle_rad), angles(0.0), angles(3.0))
    torch.testing.assert_close(rotation_angle_rad(start, end), angles(angle_rad))


def test_rotation_angle_is_a_distance():
    a, b, c = (random_pose(k) for k in range(3))
    torch.testing.assert_close(rotation_angle_rad(a, b), rotation_angle_rad(b, a))
    assert rotation_angle_rad(a, c) <= rotation_angle_rad(a, b) + rotation_angle_rad(b, c) + 1e-9
