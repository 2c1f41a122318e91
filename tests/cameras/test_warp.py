"""Laws of moving pixels along their depth."""

import math

import pytest
import torch

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import look_at
from zeronvs.cameras.view import View
from zeronvs.cameras.warp import (
    continue_image,
    fill_holes,
    fill_nearest,
    forward_warp,
    join_points,
    project,
    splat_points,
    surface_points,
    unproject,
    warp_view,
)

SIZE_PX = (24, 32)


def batch(view: View) -> View:
    camera = view.camera
    return View(
        view.image[None],
        Camera(camera.camera_to_world[None], camera.intrinsics_px[None], camera.image_size_px),
        None if view.depth_z is None else view.depth_z[None],
    )


def random_image(size=SIZE_PX, seed=0):
    return torch.rand(3, *size, generator=torch.Generator().manual_seed(seed))


def plane_view(depth=2.0, size=SIZE_PX, pose=None):
    camera = Camera.from_fov(torch.eye(4) if pose is None else pose, math.pi / 2, size)
    return batch(View(random_image(size), camera, torch.full(size, depth)))


def moved_camera(view: View, x=0.0, y=0.0, z=0.0) -> Camera:
    pose = view.camera.camera_to_world.clone()
    pose[:, :3, 3] += torch.tensor([x, y, z])
    return Camera(pose, view.camera.intrinsics_px, view.camera.image_size_px)


@pytest.mark.parametrize("seed", range(3))
def test_a_view_warped_into_its_own_camera_is_itself_whatever_its_depth(seed):
    generator = torch.Generator().manual_seed(seed)
    pose = look_at(torch.randn(3, generator=generator) + 2)
    camera = Camera.from_fov(pose, 0.9, SIZE_PX)
    depth = 1 + 4 * torch.rand(SIZE_PX, generator=generator)
    view = batch(View(random_image(seed=seed), camera, depth))
    image, validity = forward_warp(view, view.camera)
    torch.testing.assert_close(image, view.image, atol=2e-3, rtol=0)
    torch.testing.assert_close(validity, torch.ones_like(validity))


@pytest.mark.parametrize(("x", "y", "pixels"), [(0.5, 0, (0, 3)), (0, -0.5, (3, 0))])
def test_a_plane_seen_from_a_shifted_camera_moves_by_focal_times_shift_over_depth(x, y, pixels):
    view = plane_view(depth=2.0)  # the focal length is 12 px: 12 * 0.5 / 2 = 3 pixels
    moved, validity = warp_view(view, moved_camera(view, x=x, y=y))
    down, right = pixels
    height, width = SIZE_PX
    seen = moved.image[..., : height - down, : width - right]
    torch.testing.assert_close(seen, view.image[..., down:, right:], atol=1e-3, rtol=0)
    assert bool((validity[..., : height - down, : width - right] == 1).all())
    # A surface reaches half a pixel past its last pixel centre, so one more may count as seen.
    assert not bool(validity[..., height - down + 1 :, :].any() and down)
    assert not bool(validity[..., width - right + 1 :].any() and right)
    known = moved.depth_z[..., : height - down, : width - right]
    torch.testing.assert_close(known, torch.full_like(known, 2.0))


def test_stepping_towards_a_plane_leaves_no_cracks():
    view = plane_view(depth=2.0)
    moved, validity = warp_view(view, moved_camera(view, z=-0.95))
    assert bool((validity == 1).all())
    torch.testing.assert_close(moved.depth_z, torch.full_like(moved.depth_z, 1.05))


def test_the_nearer_surface_wins():
    uv = torch.tensor([[[2.5, 1.5], [2.5, 1.5], [2.5, 1.5]]])
    depth = torch.tensor([[3.0, 1.0, 2.0]])
    values = torch.tensor([[[0.3], [0.1], [0.2]]])
    image, validity = splat_points(uv, depth, values, torch.ones(1, 3, dtype=torch.bool), (4, 5))
    assert float(image[0, 0, 1, 2]) == pytest.approx(0.1)
    assert float(validity.sum()) == 1


def test_a_near_object_hides_the_wall_behind_it_from_a_shifted_camera():
    view = plane_view(depth=4.0)
    image, depth = torch.zeros_like(view.image), view.depth_z.clone()
    image[..., 8:16, 12:20] = 1.0
    depth[..., 8:16, 12:20] = 2.0
    view = View(image, view.camera, depth)
    moved, validity = warp_view(view, moved_camera(view, x=1.0))
    # Near moves by 6 pixels, far by 3: the object lies at columns 6 to 14, then a hole up to 17.
    assert bool((moved.image[..., 9:15, 7:13] > 0.99).all())
    assert bool((moved.depth_z[..., 9:15, 7:13] < 2.1).all())
    assert not bool(validity[..., 9:15, 15].any())
    assert bool(validity[..., 9:15, 17:28].all())


def test_surfaces_seen_from_behind_are_left_out():
    view = plane_view(depth=2.0)
    behind = look_at(torch.tensor([0.0, 0.0, -4.0]), torch.zeros(3), (0.0, 1.0, 0.0))
    camera = Camera(behind[None], view.camera.intrinsics_px, SIZE_PX)
    _, validity = forward_warp(view, camera)
    assert not bool(validity.any())
    assert bool(surface_points(view).known.all())


def test_points_behind_the_camera_are_not_seen():
    view = plane_view(depth=2.0)
    _, validity = forward_warp(view, moved_camera(view, z=-3.0))
    assert not bool(validity.any())


def test_unknown_depth_becomes_a_hole_filled_between_the_colours_around_it():
    view = plane_view()
    depth = view.depth_z.clone()
    depth[..., 6:14, 10:20] = 0
    view = View(0.2 + 0.5 * view.image, view.camera, depth)
    image, validity = forward_warp(view, view.camera)
    assert not bool(validity[..., 7:13, 11:19].any())
    assert bool(validity[..., :5, :].all())
    inside = image[..., 7:13, 11:19]
    assert float(inside.min()) >= 0.2
    assert float(inside.max()) <= 0.7


@pytest.mark.parametrize("size", [(16, 16), (13, 31), (1, 8), (4, 64)])
def test_smooth_filling_continues_a_flat_colour_and_keeps_what_is_known(size):
    image = torch.full((1, 2, *size), 0.3)
    validity = torch.zeros(1, 1, *size)
    validity[..., 0, 0] = 1
    torch.testing.assert_close(fill_holes(image, validity), image)
    known = random_image(size)[None]
    validity = (torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    filled = continue_flat(known * validity, validity)
    torch.testing.assert_close(filled * validity, known * validity)


def continue_flat(image, validity):
    return continue_image(image, validity, torch.ones_like(validity[:, 0]))


@pytest.mark.parametrize("fill", [fill_holes, fill_nearest, continue_flat])
def test_nothing_known_becomes_mid_grey(fill):
    empty = torch.zeros(2, 3, 8, 8)
    torch.testing.assert_close(fill(empty, empty[:, :1]), torch.full_like(empty, 0.5))


@pytest.mark.parametrize("share", [0.5, 0.05, 0.01])
def test_nearest_filling_takes_a_pixel_that_is_as_near_as_any(share):
    height, width = 20, 27
    generator = torch.Generator().manual_seed(3)
    validity = (torch.rand(1, 1, height, width, generator=generator) < share).float()
    validity[..., 4, 5] = 1
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([row, column])[None].float()
    taken = fill_nearest(place, validity)
    distance = (taken - place).norm(dim=1).flatten()
    points = place[0].flatten(1).T
    best = torch.cdist(points, points[validity.flatten() > 0]).amin(1)
    # Jump flooding may miss by a little where two seeds are almost equally near.
    assert bool((distance >= best - 1e-4).all())
    assert float((distance > best + 1e-4).float().mean()) < 0.01


def test_a_hole_is_filled_by_reflection():
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 16, 16, generator=rng)
    validity = torch.ones(1, 1, 16, 16)
    validity[..., 11:] = 0
    filled = continue_flat(image * validity, validity)
    assert torch.equal(filled[..., :11], image[..., :11])
    # Column 10 is the border: 11 mirrors 9, 12 mirrors 8 and so on.
    mirror = image[..., 5:10].flip(-1)
    border = image[..., 10:11].expand_as(mirror)
    torch.testing.assert_close(filled[..., 11:], 0.5 * (mirror + border))


def test_a_hole_between_two_surfaces_continues_the_farther_one():
    image = torch.zeros(1, 3, 16, 16)
    depth_z = torch.ones(1, 16, 16)
    image[..., 10:], depth_z[..., 10:] = 1.0, 3.0  # white and far on the right
    validity = torch.ones(1, 1, 16, 16)
    validity[..., 6:10] = 0
    filled = continue_image(image * validity, validity, depth_z)
    assert torch.equal(filled[..., 6:10], torch.ones(1, 3, 16, 4))
    # On surfaces of one depth each side fills its half.
    filled = continue_flat(image * validity, validity)
    assert float(filled[..., 6:8].max()) == 0
    assert float(filled[..., 8:10].min()) == 1


def test_a_mirror_image_that_would_be_unknown_is_taken_from_nearer_the_border():
    image = torch.linspace(0, 1, 12).expand(1, 3, 12, 12)
    validity = torch.zeros(1, 1, 12, 12)
    validity[..., 5:8] = 1  # a stripe of three columns
    filled = continue_flat(image * validity, validity)
    # Column 11 lies 4 outside: the place 4 inside is a hole, that 2 inside is column 5.
    torch.testing.assert_close(filled[..., 11], 0.5 * (image[..., 7] + image[..., 5]))


def test_project_undoes_unproject():
    generator = torch.Generator().manual_seed(0)
    pose = look_at(torch.randn(4, 3, generator=generator) + 2)
    camera = Camera.from_fov(pose, 0.8, SIZE_PX)
    depth = 0.5 + torch.rand(4, *SIZE_PX, generator=generator)
    points = unproject(View(torch.zeros(4, 3, *SIZE_PX), camera, depth))
    uv, depth_z = project(points.flatten(1, 2), camera)
    torch.testing.assert_close(depth_z, depth.flatten(1), atol=1e-5, rtol=1e-5)
    row, column = torch.meshgrid(torch.arange(24) + 0.5, torch.arange(32) + 0.5, indexing="ij")
    expected = torch.stack([column, row], -1).flatten(0, 1).expand(4, -1, -1)
    torch.testing.assert_close(uv, expected, atol=1e-3, rtol=0)


def test_what_lies_in_a_batch_does_not_change_what_each_view_becomes():
    first, second = plane_view(2.0), plane_view(3.0)
    both = View(
        torch.cat([first.image, second.image.flip(-1)]),
        first.camera[[0, 0]],
        torch.cat([first.depth_z, second.depth_z]),
    )
    target = moved_camera(both, x=0.3, z=0.2)
    together, _ = forward_warp(both, target)
    for index in range(2):
        alone, _ = forward_warp(both[[index]], target[[index]])
        torch.testing.assert_close(together[[index]], alone)


def test_joined_clouds_show_what_either_has_seen():
    near, far = plane_view(2.0), plane_view(4.0)
    joined = join_points([surface_points(near), surface_points(far)])
    uv, depth = project(joined.position, near.camera)
    splatted, validity = splat_points(uv, depth, depth[..., None], joined.known, SIZE_PX)
    assert bool(validity.all())
    torch.testing.assert_close(splatted, torch.full_like(splatted, 2.0))


def test_a_view_without_depth_is_refused():
    view = plane_view()
    blind = View(view.image, view.camera)
    with pytest.raises(ValueError, match="depth"):
        forward_warp(blind, view.camera)
    with pytest.raises(ValueError, match="depth"):
        unproject(blind)
