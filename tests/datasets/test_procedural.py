"""Procedural scenes: exact depth, and images that agree between cameras."""

import math

import pytest
import torch

from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import look_at
from zeronvs.cameras.view import View
from zeronvs.cameras.warp import warp_view
from zeronvs.datasets.procedural import ProceduralScene, random_cameras, random_scene


def smooth_textures(count=4, size=32) -> torch.Tensor:
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")


def one_ball(texture=None) -> ProceduralScene:
    textures = torch.full((2, 3, 4, 4), 0.8) if texture is None else texture
    return ProceduralScene(
        torch.tensor([[0.0, 0.0, 2.0]]),
        torch.tensor([[3.0, 3.0, 2.0]]),
        torch.zeros(1),
        torch.tensor([[0.0, 0.0, 1.0]]),
        torch.tensor([0.5]),
        textures,
        torch.ones(2),
        torch.tensor([0.0, 0.0, 1.0]),
    )


def test_the_depth_of_a_known_ball_and_room_is_exact():
    pose = look_at(torch.tensor([2.0, 0.0, 1.0]), torch.tensor([0.0, 0.0, 1.0]))
    view = one_ball().render(Camera.from_fov(pose, math.pi / 2, (65, 65)))
    assert float(view.depth_z[32, 32]) == pytest.approx(1.5, abs=1e-4)
    # Beside the ball the far wall at x = -3; depth along the axis is the same all over it.
    torch.testing.assert_close(view.depth_z[28:37, 16], torch.full((9,), 5.0))
    # The ball's outline: sin(angle) = 0.5 / 2, so tan(angle) = 0.2582, times the focal length.
    edge = round(0.2582 * 32.5)
    assert float(view.depth_z[32, 32 + edge - 1]) < 2.0
    assert float(view.depth_z[32, 32 + edge + 2]) == pytest.approx(5.0, abs=1e-3)


def test_light_from_above_leaves_the_underside_darker():
    pose = look_at(torch.tensor([2.0, 0.0, 1.0]), torch.tensor([0.0, 0.0, 1.0]))
    image = one_ball().render(Camera.from_fov(pose, 0.6, (33, 33))).image
    assert float(image[0, 8, 16]) > float(image[0, 24, 16]) + 0.1


@pytest.mark.parametrize("seed", range(3))
def test_two_views_of_one_scene_agree_where_both_see_it(seed: int):
    generator = torch.Generator().manual_seed(seed)
    scene = random_scene(generator, smooth_textures())
    cameras = random_cameras(generator, 2, 0.9, (64, 64))
    source, target = scene.render(cameras[0]), scene.render(cameras[1])
    batch = View(source.image[None], cameras[[0]], source.depth_z[None])
    moved, validity = warp_view(batch, cameras[[1]])
    known = validity[0, 0] > 0
    assert float(known.float().mean()) > 0.2
    ratio = (moved.depth_z[0] / target.depth_z)[known]
    # Occlusion edges and surfaces hidden from one side are off; everything else is the same place.
    agrees = (ratio - 1).abs() < 0.05
    assert float(agrees.float().mean()) > 0.65
    error = (moved.image[0] - target.image).abs().mean(0)[known][agrees]
    assert float(error.median()) < 0.02


def test_a_scene_is_a_function_of_its_generator():
    def draw(seed: int) -> View:
        generator = torch.Generator().manual_seed(seed)
        scene = random_scene(generator, smooth_textures())
        return scene.render(random_cameras(generator, 1, 0.9, (16, 16))[0])

    torch.testing.assert_close(draw(1).image, draw(1).image)
    assert not torch.equal(draw(1).image, draw(2).image)


@pytest.mark.parametrize("seed", range(5))
def test_cameras_stand_inside_the_room_and_see_finite_depth(seed: int):
    generator = torch.Generator().manual_seed(seed)
    scene = random_scene(generator, smooth_textures())
    cameras = random_cameras(generator, 4, 0.9, (12, 12))
    for index in range(4):
        view = scene.render(cameras[index])
        assert bool(((view.depth_z > 0) & (view.depth_z < 20)).all())
        assert bool(((view.image >= 0) & (view.image <= 1)).all())
        assert float(cameras.position[index, 2]) > 0
