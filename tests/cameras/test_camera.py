import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import look_at
from zeronvs.cameras.view import View


def some_cameras(count=3, image_size_px=(6, 8)):
    generator = torch.Generator().manual_seed(count)
    position = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return Camera.from_fov(look_at(position), 0.9, image_size_px)


def test_a_camera_of_the_wrong_shape_is_refused():
    with pytest.raises(TypeCheckError):
        Camera(torch.eye(4)[:3], torch.eye(3), (4, 4))
    with pytest.raises(TypeCheckError):
        Camera(torch.eye(4).expand(2, 4, 4), torch.eye(3).expand(3, 3, 3), (4, 4))


def test_a_camera_is_a_value_that_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        some_cameras().image_size_px = (1, 1)


@settings(deadline=None, max_examples=20)
@given(st.floats(0.01, 3.1), st.integers(1, 512), st.integers(1, 512))
def test_field_of_view_makes_the_round_trip(fov_y_rad, height_px, width_px):
    eye = torch.eye(4, dtype=torch.float64)
    camera = Camera.from_fov(eye, fov_y_rad, (height_px, width_px))
    assert camera.fov_y_rad.item() == pytest.approx(fov_y_rad)
    assert camera.intrinsics_px[0, 0] == camera.intrinsics_px[1, 1]


def test_each_camera_of_a_batch_may_have_its_own_field_of_view():
    poses = torch.eye(4).expand(2, 4, 4)
    camera = Camera.from_fov(poses, torch.tensor([0.5, 1.0]), (4, 4))
    torch.testing.assert_close(camera.fov_y_rad, torch.tensor([0.5, 1.0]))


def test_resizing_keeps_the_field_of_view_and_leaves_the_original_alone():
    camera = some_cameras()
    before = camera.intrinsics_px.clone()
    torch.testing.assert_close(camera.resized(60, 80).fov_y_rad, camera.fov_y_rad)
    torch.testing.assert_close(
        camera.resized(60, 80).resized(6, 8).intrinsics_px, camera.intrinsics_px
    )
    camera.cropped(1, 2, 3, 4)
    assert torch.equal(camera.intrinsics_px, before)


def test_crops_of_crops_add_up():
    camera = some_cameras()
    twice = camera.cropped(1, 2, 5, 5).cropped(0.5, 1, 3, 4)
    once = camera.cropped(1.5, 3, 3, 4)
    torch.testing.assert_close(twice.intrinsics_px, once.intrinsics_px)
    assert twice.image_size_px == (3, 4)


def test_stacking_undoes_indexing():
    cameras = some_cameras()
    again = Camera.stack([cameras[k] for k in range(len(cameras))])
    torch.testing.assert_close(again.camera_to_world, cameras.camera_to_world)
    assert len(cameras[1:]) == 2
    with pytest.raises(TypeError, match="single camera"):
        len(cameras[0])


def test_cameras_of_different_sizes_do_not_stack():
    with pytest.raises(ValueError, match="one image size"):
        Camera.stack([some_cameras()[0], some_cameras(3, (4, 4))[0]])


def test_a_view_is_indexed_with_its_camera_and_depth():
    view = View(torch.rand(3, 3, 6, 8), some_cameras(), torch.rand(3, 6, 8))
    assert len(view) == 3
    assert view[1].image.shape == (3, 6, 8)
    assert torch.equal(view[1].depth_z, view.depth_z[1])
    assert torch.equal(view[1].camera.camera_to_world, view.camera.camera_to_world[1])
    assert View(view.image, view.camera)[0].depth_z is None
