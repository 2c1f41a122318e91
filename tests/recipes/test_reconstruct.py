"""One view to a scene: what is kept in the run folder, and what is refused."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sphere_world import ring_cameras, sphere_views
from tiny_pipelines import FixedGeometry, tiny_warp

from zeronvs._core.errors import InputError
from zeronvs._core.progress import ProgressEvent
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.poses import orbit_pose
from zeronvs.cameras.view import View
from zeronvs.distillation.view_files import load_supervised
from zeronvs.recipes.far_path import FarPath, PathChoice
from zeronvs.recipes.presets import FIELD, PRESETS, LiftRecipe, OutputConfig, Recipe
from zeronvs.recipes.reconstruct import model_view, reconstruct
from zeronvs.scene.field_scene import FieldScene
from zeronvs.scene.hash_grid import HashGridConfig
from zeronvs.scene.lift import LiftConfig, lift_view
from zeronvs.scene.splat_scene import SplatScene


def tiny_recipe() -> Recipe:
    """Return a field of a few steps, sampled around by two views."""
    assert FIELD.surround is not None
    distill = FIELD.distill.with_steps(3)
    grid = HashGridConfig(levels=3, log2_table_size=10, base_resolution=8, growth=1.6)
    distill = replace(
        distill,
        field_config=replace(distill.field_config, grid=grid, hidden_width=8),
        proposal_config=replace(distill.proposal_config, grid=grid, hidden_width=8),
        render_config=replace(distill.render_config, proposal_samples=8, final_samples=8),
        stages=(replace(distill.stages[0], reference_size_px=16),),
        reference_rays=32,
        supervised_rays=32,
    )
    surround = replace(FIELD.surround, count=2, num_inference_steps=1)
    return Recipe(distill=distill, surround=surround, outputs=OutputConfig(size_px=16))


def photo() -> View:
    return sphere_views(ring_cameras([0.0], 32))[0]


def made(run_dir: Path | None, **settings) -> FieldScene:
    pipe = tiny_warp(prediction_type="sample", downscale=4)
    scene = reconstruct(
        photo(),
        pipe,
        tiny_recipe(),
        scene_scale=0.7,
        geometry_estimator=FixedGeometry(),
        run_dir=run_dir,
        **settings,
    )
    assert isinstance(scene, FieldScene)
    return scene


def test_sampled_views_are_kept_whole_and_read_by_a_resumed_run(tmp_path: Path):
    first = made(tmp_path)
    kept = load_supervised(tmp_path / "sampled")
    assert kept is not None
    assert len(kept.views) == 2
    assert kept.views.depth_z is not None
    (tmp_path / "sampled" / "000.png").touch()
    events: list[ProgressEvent] = []
    again = made(tmp_path, resume=True, progress=events.append)
    assert "sample views around" not in {event.stage for event in events}
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_without_a_run_folder_nothing_is_left_behind(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    scene = made(None)
    assert list(tmp_path.iterdir()) == []
    same = made(tmp_path / "run")
    for one, other in zip(scene.parameters(), same.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda view: View.stack([view, view]), "one view is needed, not a batch of 2"),
        (lambda view: view.with_depth(None), "the view has none"),
        (
            lambda view: replace(view, camera=view.camera.with_poses(turned(0.1))),
            "from azimuth 0",
        ),
    ],
    ids=["a batch", "no depth", "azimuth"],
)
def test_views_that_no_scene_can_be_made_of_are_refused(tmp_path: Path, change, message):
    pipe = tiny_warp(prediction_type="sample", downscale=4)
    with pytest.raises(InputError, match=message):
        reconstruct(change(photo()), pipe, tiny_recipe(), scene_scale=0.7, run_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_field_needs_a_model(tmp_path: Path):
    with pytest.raises(InputError, match="diffusion model"):
        reconstruct(photo(), None, tiny_recipe(), scene_scale=0.7)


def test_splats_need_depth_at_every_pixel():
    view = photo()
    assert view.depth_z is not None
    hole = view.depth_z.clone()
    hole[3, 4] = 0
    for wrong in (view.with_depth(None), view.with_depth(hole)):
        with pytest.raises(InputError, match="depth at every pixel"):
            reconstruct(wrong, None, "preview", scene_scale=0.7)


def test_a_preset_is_fitted_to_the_model_and_a_recipe_is_not(tmp_path: Path, monkeypatch):
    pipe = tiny_warp(prediction_type="sample", downscale=4)
    plain = tiny_recipe()
    fitted = plain.fitted_to(pipe)
    assert fitted.distill.identity() != plain.distill.identity()
    monkeypatch.setitem(PRESETS, "field", plain)
    settings = {"scene_scale": 0.7, "geometry_estimator": FixedGeometry(), "run_dir": tmp_path}
    reconstruct(photo(), pipe, "field", **settings)
    reconstruct(photo(), pipe, fitted, resume=True, **settings)
    with pytest.raises(InputError, match="guidance_scale"):
        reconstruct(photo(), pipe, plain, resume=True, **settings)


def test_the_model_sees_the_central_square():
    pipe = tiny_warp(prediction_type="sample", downscale=4)
    camera = photo().camera
    wide = sphere_views(Camera.from_fov(camera.camera_to_world, camera.fov_y_rad, (32, 48)))
    view = model_view(wide, pipe)
    assert view.camera.image_size_px == (pipe.image_size_px, pipe.image_size_px)
    torch.testing.assert_close(view.camera.fov_y_rad, camera.fov_y_rad)
    expected = photo().resized(pipe.image_size_px, pipe.image_size_px, "bicubic")
    torch.testing.assert_close(view.image, expected.image, atol=1e-4, rtol=0)


@pytest.mark.parametrize("path", ["around", "orbit"])
def test_splats_are_those_of_lifting_the_view_with_the_seed_and_its_surroundings(
    path: FarPath, monkeypatch
):
    choice = PathChoice(path, "a test")
    monkeypatch.setattr("zeronvs.recipes.reconstruct.suggest_path", lambda _: choice)
    lift = LiftConfig(fill_side_px=24, surround_width_px=48, color_steps=1)
    view = photo()
    made = reconstruct(view, None, LiftRecipe(lift=lift), scene_scale=0.7, seed=3)
    assert isinstance(made, SplatScene)
    assert made.focal_px == float(view.camera.intrinsics_px[1, 1])
    enclosed = path == "around"
    expected = lift_view(view, lift, enclosed=enclosed, seed=3)
    for name, part in vars(made.splats).items():
        assert torch.equal(part, getattr(expected, name)), name
    for other in (
        lift_view(view, lift, enclosed=not enclosed, seed=3),
        lift_view(view, lift, enclosed=enclosed, seed=0),
    ):
        assert not torch.equal(other.colors, expected.colors)


def turned(azimuth_rad: float) -> torch.Tensor:
    return orbit_pose(*(torch.tensor(value) for value in (azimuth_rad, 0.2, 1.0)))
