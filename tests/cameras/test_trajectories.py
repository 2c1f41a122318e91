import math

import pytest
import torch

from zeronvs._core.errors import InputError
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import look_at, orbit_pose, rotation_angle_rad
from zeronvs.cameras.trajectories import TRAJECTORIES, make_trajectory
from zeronvs.cameras.warp import project

MOVES = [name for name in TRAJECTORIES if name.startswith("move-")]
ZOOMS = [name for name in TRAJECTORIES if "zoom" in name]


def input_camera():
    angles = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    return Camera.from_fov(orbit_pose(*angles), 0.9, (12, 16))


def tilted_camera():
    """A rolled camera that does not look at the origin."""
    position = torch.tensor([1.2, -0.5, 0.7], dtype=torch.float64)
    target = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    return Camera.from_fov(look_at(position, target, (0.2, 0.1, 1.0)), 0.9, (12, 16))


def turned_rad(cameras):
    """The angle between each camera and the next, the first again after the last."""
    pose = cameras.camera_to_world
    return rotation_angle_rad(pose, pose.roll(-1, dims=0))


@pytest.mark.parametrize("name", TRAJECTORIES)
@pytest.mark.parametrize("camera", [input_camera(), tilted_camera()])
def test_every_path_starts_at_the_input_camera_and_has_the_given_frames(name, camera):
    for frames in (1, 7):
        cameras = make_trajectory(name, camera, frames)
        assert len(cameras) == frames
        torch.testing.assert_close(cameras[0].camera_to_world, camera.camera_to_world)
        torch.testing.assert_close(cameras[0].intrinsics_px, camera.intrinsics_px)
        assert cameras.image_size_px == camera.image_size_px


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_every_path_is_of_rigid_poses_and_moves(name):
    cameras = make_trajectory(name, tilted_camera(), 9)
    rotation = cameras.camera_to_world[:, :3, :3]
    eye = torch.eye(3, dtype=torch.float64).expand(9, 3, 3)
    torch.testing.assert_close(rotation @ rotation.mT, eye)
    torch.testing.assert_close(torch.linalg.det(rotation), eye[:, 0, 0])
    still = torch.equal(cameras.camera_to_world[4], cameras.camera_to_world[0])
    same_lens = torch.equal(cameras.intrinsics_px[4], cameras.intrinsics_px[0])
    assert not (still and same_lens)
    assert same_lens == (name not in ZOOMS)


def test_orbit_is_evenly_spaced_over_the_full_circle_without_a_repeated_frame():
    cameras = make_trajectory("orbit", input_camera(), 8)
    azimuth = torch.atan2(cameras.position[:, 1], cameras.position[:, 0])
    expected = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
    torch.testing.assert_close(azimuth.remainder(2 * math.pi), expected)
    zero = torch.zeros(8, dtype=torch.float64)
    on_circle = orbit_pose(expected, zero + 0.4, zero + 1.0)
    torch.testing.assert_close(cameras.camera_to_world, on_circle)


def test_part_of_an_orbit_includes_its_end_and_negative_turns_go_the_other_way():
    cameras = make_trajectory("orbit", input_camera(), 4, turns=-0.25)
    azimuth = torch.atan2(cameras.position[:, 1], cameras.position[:, 0])
    assert azimuth.tolist() == pytest.approx([0, -math.pi / 6, -math.pi / 3, -math.pi / 2])


@pytest.mark.parametrize("name", ["orbit", "roll"])
def test_a_full_circle_closes_with_the_same_step_as_all_others(name):
    steps = turned_rad(make_trajectory(name, tilted_camera(), 10))
    torch.testing.assert_close(steps, steps[:1].expand(10))


def test_roll_stays_in_place_and_looks_the_same_way():
    cameras = make_trajectory("roll", tilted_camera(), 6)
    torch.testing.assert_close(cameras.position, cameras.position[:1].expand(6, 3))
    backward = cameras.camera_to_world[:, :3, 2]
    torch.testing.assert_close(backward, backward[:1].expand(6, 3))


@pytest.mark.parametrize("name", ["spiral", "lemniscate"])
@pytest.mark.parametrize("camera", [input_camera(), tilted_camera()])
def test_swaying_paths_keep_the_origin_near_where_it_was_in_the_image(name, camera):
    cameras = make_trajectory(name, camera, 16)
    uv_px, _ = project(torch.zeros(16, 1, 3, dtype=torch.float64), cameras)
    assert (uv_px - uv_px[:1]).norm(dim=-1).max() < 2.5
    reach = (cameras.position - camera.position).norm(dim=-1).max() / camera.position.norm()
    assert 0.1 < reach < 0.3


@pytest.mark.parametrize("name", ["spiral", "lemniscate"])
def test_swaying_paths_close_without_a_repeated_frame(name):
    position = make_trajectory(name, input_camera(), 24).position
    step = (position - position.roll(-1, dims=0)).norm(dim=-1)
    assert step.min() > 0
    assert step[-1] < 2 * step.mean()


@pytest.mark.parametrize("name", MOVES)
def test_moves_follow_their_axis_by_the_given_fraction(name):
    camera = tilted_camera()
    cameras = make_trajectory(name, camera, 5, move_fraction=0.5)
    local = (cameras.position - camera.position) @ camera.camera_to_world[:3, :3]
    reach = 0.5 * camera.position.norm().item()
    axis = {"left": 0, "right": 0, "up": 1, "down": 1, "forward": 2, "backward": 2}
    sign = -1 if name in ("move-left", "move-down", "move-forward") else 1
    expected = torch.zeros(5, 3, dtype=torch.float64)
    expected[:, axis[name.removeprefix("move-")]] = sign * torch.linspace(0, reach, 5).double()
    torch.testing.assert_close(local, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(turned_rad(cameras), torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize(("name", "ratio"), [("zoom-in", 2.0), ("zoom-out", 0.5)])
def test_zooms_change_the_focal_length_alone(name, ratio):
    cameras = make_trajectory(name, input_camera(), 5, zoom_factor=2)
    first, last = cameras[0], cameras[4]
    torch.testing.assert_close(last.camera_to_world, first.camera_to_world)
    focal_ratio = last.intrinsics_px[[0, 1], [0, 1]] / first.intrinsics_px[[0, 1], [0, 1]]
    assert focal_ratio.tolist() == pytest.approx([ratio, ratio])
    torch.testing.assert_close(last.intrinsics_px[:, 2], first.intrinsics_px[:, 2])


@pytest.mark.parametrize("name", ["dolly-zoom-in", "dolly-zoom-out"])
def test_dolly_zooms_keep_the_size_of_what_stands_at_the_origin(name):
    camera = input_camera()
    right = 0.1 * camera.camera_to_world[:3, 0]
    cameras = make_trajectory(name, camera, 6)
    points = torch.stack([torch.zeros_like(right), right]).expand(6, 2, 3)
    uv_px, depth_z = project(points, cameras)
    torch.testing.assert_close(uv_px, uv_px[:1].expand(6, 2, 2))
    narrows = cameras.fov_y_rad[-1] < cameras.fov_y_rad[0]
    retreats = depth_z[-1, 0] > depth_z[0, 0]
    assert bool(narrows) == bool(retreats) == (name == "dolly-zoom-in")


def test_unknown_paths_are_refused_with_the_known_ones():
    with pytest.raises(InputError, match="lemniscate"):
        make_trajectory("figure-eight", input_camera(), 4)


@pytest.mark.parametrize(
    "amounts", [{"frames": 0}, {"zoom_factor": 0}, {"turns": math.nan}, {"move_fraction": math.inf}]
)
def test_amounts_that_make_no_path_are_refused(amounts):
    with pytest.raises(InputError):
        make_trajectory("zoom-in", input_camera(), **{"frames": 4, **amounts})


def test_a_camera_at_the_origin_may_turn_but_has_no_unit_to_move_by():
    camera = Camera.from_fov(torch.eye(4), 0.9, (4, 4))
    assert len(make_trajectory("orbit", camera, 4)) == 4
    for name in ("spiral", "move-left", "dolly-zoom-in"):
        with pytest.raises(InputError, match="origin"):
            make_trajectory(name, camera, 4)


def test_a_batch_is_not_a_starting_point():
    with pytest.raises(ValueError, match="batch of 4"):
        make_trajectory("orbit", make_trajectory("orbit", input_camera(), 4), 4)
