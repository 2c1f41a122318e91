"""Splats made from a field look like the field."""

import math
from dataclasses import replace

import pytest
import torch

from zeronvs._core.errors import HealthError
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.exports.field_splats import FieldSplatsConfig, splat_psnr, splats_from_scene
from zeronvs.scene.field import FieldConfig
from zeronvs.scene.field_scene import FieldScene
from zeronvs.scene.hash_grid import HashGridConfig
from zeronvs.scene.proposal import ProposalConfig
from zeronvs.scene.rasterizer import rasterize
from zeronvs.scene.renderer import RenderConfig

GRID = HashGridConfig(levels=3, log2_table_size=10, base_resolution=4, growth=1.6)


def ball_scene():
    """A smooth scene: a ball around the origin with colours that change slowly over it."""
    scene = FieldScene(
        FieldConfig(grid=GRID, hidden_width=8, blob_strength=60.0, blob_radius=0.45),
        RenderConfig(near=0.3, far=4.0, proposal_samples=0, final_samples=64),
        ProposalConfig(grid=GRID, hidden_width=8),
        generator=torch.Generator().manual_seed(0),
    )
    torch.nn.init.normal_(scene.field.grid.table, generator=torch.Generator().manual_seed(1))
    return scene


def orbit_cameras(count, size=(40, 40)):
    azimuth = torch.arange(count) * (6.2832 / count)
    poses = orbit_pose(azimuth, 0.3 * torch.sin(3 * azimuth), torch.full((count,), 1.6))
    return Camera.from_fov(poses, 0.8, size)


def test_splats_of_a_smooth_scene_look_like_it_from_new_sides():
    scene = ball_scene()
    config = FieldSplatsConfig(max_splats=2000, refine_steps=24)
    cameras, new_sides = orbit_cameras(5, (32, 32)), orbit_cameras(7, (32, 32))[1:3]
    raw = splats_from_scene(scene, cameras, replace(config, refine_steps=0))
    refined = splats_from_scene(scene, cameras, config)
    assert len(raw) == len(refined) <= 2000
    assert splat_psnr(refined, scene, new_sides) > 28.0
    assert splat_psnr(refined, scene, cameras) > splat_psnr(raw, scene, cameras)


def test_the_number_of_splats_keeps_to_the_budget():
    config = FieldSplatsConfig(max_splats=150, refine_steps=0)
    splats = splats_from_scene(ball_scene(), orbit_cameras(3, (24, 24)), config)
    assert 20 < len(splats) <= 150


def test_the_same_seed_gives_the_same_splats():
    config = FieldSplatsConfig(max_splats=300, refine_steps=3)
    first, second = (
        splats_from_scene(ball_scene(), orbit_cameras(3, (16, 16)), config, seed=4)
        for _ in range(2)
    )
    assert torch.equal(first.means, second.means)
    assert torch.equal(first.colors, second.colors)


def test_progress_is_told_of_both_stages():
    events = []
    config = FieldSplatsConfig(max_splats=100, refine_steps=2)
    splats_from_scene(ball_scene(), orbit_cameras(2, (16, 16)), config, progress=events.append)
    assert [event.stage for event in events] == ["look at the field"] * 2 + ["refine splats"] * 2


def test_an_empty_field_is_told_with_a_remedy():
    scene = ball_scene()
    empty = FieldScene(
        replace(scene.field.config, blob_strength=0.0, density_bias=-80.0),
        scene.render_config,
        scene.proposal.config,
    )
    with pytest.raises(HealthError, match="Train longer"):
        splats_from_scene(empty, orbit_cameras(2, (8, 8)))


def test_the_defaults_are_those_the_numbers_were_measured_with():
    assert FieldSplatsConfig() == FieldSplatsConfig(
        max_splats=60_000, cube_px=1.0, smallest_opacity=0.1, refine_steps=150
    )


def test_splats_are_as_large_as_the_pixels_that_see_them():
    """A splat's deviation is 0.4 sides of a cube, and a cube measures half a pixel to one pixel."""
    scene, cameras = ball_scene(), orbit_cameras(4, (32, 32))
    config = FieldSplatsConfig(max_splats=100_000, refine_steps=0)
    splats = splats_from_scene(scene, cameras, config)
    focal_px = float(cameras.intrinsics_px[0, 1, 1]) / 1.15  # looked at with a wider view
    nearest, farthest = (1.6 - 1.0) / focal_px, (1.6 + 2.4) / focal_px
    assert float(splats.scales.max()) <= 0.4 * farthest
    assert float(splats.scales.min()) >= 0.4 * 0.5 * nearest
    double = splats_from_scene(scene, cameras, replace(config, cube_px=2.0))
    assert float(double.scales.mean()) == pytest.approx(2 * float(splats.scales.mean()), rel=0.05)
    assert len(double) < len(splats)


def test_only_rays_that_meet_something_give_splats():
    scene, cameras = ball_scene(), orbit_cameras(2, (24, 24))
    few, all_of_them = (
        splats_from_scene(scene, cameras, FieldSplatsConfig(refine_steps=0, smallest_opacity=least))
        for least in (0.9, 0.0)
    )
    assert len(few) < 0.8 * len(all_of_them)


def test_psnr_of_splats_is_that_of_their_images():
    scene, cameras = ball_scene(), orbit_cameras(2, (20, 20))
    splats = splats_from_scene(scene, cameras, FieldSplatsConfig(refine_steps=0))
    grey = torch.full((3,), 0.5)
    expected = []
    for index in range(2):
        camera = cameras[[index]]
        with torch.no_grad():
            error = rasterize(splats, camera, grey)[0] - scene.render(camera, background=grey).rgb
        expected.append(-10 * math.log10(float(error.square().mean())))
    found = splat_psnr(splats, scene, cameras, grey)
    assert found == pytest.approx(sum(expected) / 2, rel=1e-4)


def test_refined_splats_have_unit_rotations_and_lie_near_where_they_were():
    config = FieldSplatsConfig(max_splats=300, refine_steps=8)
    cameras = orbit_cameras(3, (16, 16))
    raw = splats_from_scene(ball_scene(), cameras, replace(config, refine_steps=0))
    refined = splats_from_scene(ball_scene(), cameras, config)
    torch.testing.assert_close(refined.rotations.norm(dim=-1), torch.ones(len(refined)))
    assert not torch.equal(refined.rotations, raw.rotations)
    assert not torch.equal(refined.means, raw.means)
    assert float((refined.means - raw.means).norm(dim=-1).max()) < float(raw.scales.max()) * 10
    assert not refined.means.requires_grad
