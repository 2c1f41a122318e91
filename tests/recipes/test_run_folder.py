"""Cameras of a finished run, and what an unusable run folder is told."""

import base64
import io
import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from zeronvs._core.errors import InputError
from zeronvs.cameras.view import View
from zeronvs.recipes.prepare import canonical_camera
from zeronvs.recipes.run_folder import (
    export_cameras,
    export_run,
    open_run,
    orbit_distances,
    path_cameras,
    render_run,
)
from zeronvs.scene.field import FieldConfig
from zeronvs.scene.field_scene import FieldScene
from zeronvs.scene.hash_grid import HashGridConfig
from zeronvs.scene.splat_scene import SplatScene
from zeronvs.splats import GaussianSplats


def camera_at(distance: float, size_px: int = 24):
    camera = canonical_camera(0.8, 0.3, (size_px, size_px))
    pose = camera.camera_to_world.clone()
    pose[:3, 3] *= distance
    return camera.with_poses(pose)


@pytest.mark.parametrize("distance", [1.0, 2.0])
def test_the_orbit_keeps_the_given_distances_whatever_that_of_the_photo(distance: float):
    distances = torch.tensor([2.0, 1.2, 0.8, 1.6])
    orbit = path_cameras("orbit", camera_at(distance), 8, 32, distances)
    expected = torch.tensor([2.0, 1.6, 1.2, 1.0, 0.8, 1.2, 1.6, 1.8])  # linear in between
    torch.testing.assert_close(orbit.position.norm(dim=-1), expected)
    azimuth = torch.atan2(orbit.position[:, 1], orbit.position[:, 0])
    step = torch.arange(8) * (math.pi / 4)
    torch.testing.assert_close(torch.remainder(azimuth + 1e-4, 2 * math.pi), step + 1e-4)
    forward = -orbit.camera_to_world[:, :3, 2]
    torch.testing.assert_close(forward, torch.nn.functional.normalize(-orbit.position, dim=-1))
    torch.testing.assert_close(orbit.elevation_rad, torch.full((8,), 0.3))


def test_without_distances_the_orbit_is_a_circle_through_the_photo():
    orbit = path_cameras("orbit", camera_at(2.0), 6, 32)
    torch.testing.assert_close(orbit.position.norm(dim=-1), torch.full((6,), 2.0))
    torch.testing.assert_close(orbit.position[0], camera_at(2.0).position)
    assert orbit.image_size_px == (32, 32)


def test_exports_are_seen_from_the_orbit_and_from_near_the_photo():
    distances = torch.linspace(0.8, 1.5, 16)
    cameras = export_cameras(camera_at(2.0), distances, 20)
    assert len(cameras) == 24
    assert cameras.image_size_px == (20, 20)
    torch.testing.assert_close(cameras[:16].position.norm(dim=-1), distances)
    away = (cameras[16:].position - camera_at(2.0).position).norm(dim=-1)
    assert float(away.max()) < 1.0
    fov = cameras.fov_y_rad
    torch.testing.assert_close(fov, torch.full_like(fov, 0.8))


def test_orbit_distances_start_at_the_photo_and_stay_before_its_wall():
    camera = canonical_camera(0.8, 0.3, (24, 24))
    view = View(torch.zeros(3, 24, 24), camera, torch.full((24, 24), 1.6))
    distances = orbit_distances(view)
    assert len(distances) == 72
    assert float(distances[0]) == pytest.approx(1.0)
    assert 0.55 <= float(distances[36]) < 0.9
    open_space = orbit_distances(replace(view, depth_z=torch.full((24, 24), 9.0)))
    torch.testing.assert_close(open_space, torch.ones(72))


def test_a_path_that_is_neither_a_name_nor_a_file_is_refused_with_the_names():
    with pytest.raises(InputError, match="orbit") as caught:
        path_cameras("orbti", camera_at(1.0), 3, 16)
    assert caught.value.argument == "path"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Return a run folder with a scene and its record."""
    grid = HashGridConfig(levels=1, log2_table_size=8, base_resolution=4)
    scene = FieldScene.small()
    small = FieldConfig(grid=grid, hidden_width=4)
    scene = FieldScene(small, scene.render_config, scene.proposal.config)
    (tmp_path / "scene").mkdir()
    scene.save(tmp_path / "scene" / "scene.safetensors")
    camera = camera_at(1.0)
    record = {
        "input_camera": {
            "camera_to_world": camera.camera_to_world.tolist(),
            "fov_y_rad": 0.8,
            "height_px": 24,
            "width_px": 24,
        },
        "orbit_distances": [1.0, 0.9],
        "size_px": 48,
    }
    (tmp_path / "run.json").write_text(json.dumps(record))
    return tmp_path


def test_a_run_is_opened_as_it_was_recorded(run_dir: Path):
    run = open_run(run_dir)
    torch.testing.assert_close(run.input_camera.camera_to_world, camera_at(1.0).camera_to_world)
    assert float(run.input_camera.fov_y_rad) == pytest.approx(0.8)
    assert run.orbit_distances.tolist() == pytest.approx([1.0, 0.9])
    assert (run.size_px, run.input_camera.image_size_px) == (48, (24, 24))
    assert open_run(str(run_dir)).title == run.title  # as the README does


def test_a_run_whose_record_has_no_size_is_rendered_at_that_of_its_photograph(run_dir: Path):
    record = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
    del record["size_px"]
    (run_dir / "run.json").write_text(json.dumps(record), encoding="utf-8")
    assert open_run(run_dir).size_px == 24


def test_a_run_keeps_its_path_and_title(run_dir: Path):
    run = open_run(run_dir)
    assert (run.path, run.title) == ("orbit", run_dir.name)  # records without them
    record = json.loads((run_dir / "run.json").read_text())
    (run_dir / "run.json").write_text(json.dumps(record | {"path": "around", "title": "A cup"}))
    run = open_run(run_dir)
    assert (run.path, run.title) == ("around", "A cup")


@pytest.mark.parametrize(
    "change",
    [
        {"orbit_distances": []},
        {"orbit_distances": [1.0, -1.0]},
        {"orbit_distances": [1.0, 0.0]},
        {"orbit_distances": [[1.0]]},
        {"orbit_distances": [1.0, math.nan]},
        {"orbit_distances": [math.inf]},
        {"size_px": 0},
        {"size_px": 8193},
        {"size_px": "many"},
        {"input_camera": {}},
    ],
)
def test_a_record_with_numbers_out_of_range_is_refused(run_dir: Path, change: dict):
    record = json.loads((run_dir / "run.json").read_text()) | change
    (run_dir / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="not a run folder"):
        open_run(run_dir)


@pytest.mark.parametrize(
    "change",
    [{"fov_y_rad": 0.0}, {"fov_y_rad": 3.2}, {"height_px": 8193}, {"width_px": 0}],
)
def test_a_recorded_camera_out_of_range_is_refused(run_dir: Path, change: dict):
    record = json.loads((run_dir / "run.json").read_text())
    record["input_camera"] |= change
    (run_dir / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="not a run folder"):
        open_run(run_dir)


def test_a_run_without_its_scene_is_told_how_to_be_finished(run_dir: Path):
    (run_dir / "scene" / "scene.safetensors").unlink()
    with pytest.raises(InputError, match="--resume"):
        open_run(run_dir)


def test_a_video_of_a_run_has_the_frames_size_and_rate_that_are_given(run_dir: Path):
    path = render_run(open_run(run_dir), path="spiral", frames=3, size_px=16, frames_per_second=7)
    assert path == run_dir / "renders" / "spiral.mp4"
    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert stream.average_rate == 7
    assert [frame.shape for frame in frames] == [(16, 16, 3)] * 3
    elsewhere = run_dir / "mine.mp4"
    assert render_run(open_run(run_dir), frames=1, out=elsewhere) == elsewhere
    with av.open(str(elsewhere)) as video:
        assert video.streams.video[0].average_rate == 24
        (frame,) = video.decode(video=0)
        assert (frame.width, frame.height) == (48, 48)  # as the run was rendered


def save_ball(run_dir: Path) -> None:
    """Replace the scene by a white ball at the origin."""
    ball = GaussianSplats(
        torch.zeros(1, 3),
        torch.full((1, 3), 0.05),
        torch.tensor([[1.0, 0, 0, 0]]),
        torch.ones(1),
        torch.ones(1, 3),
    )
    SplatScene(ball).save(run_dir / "scene" / "scene.safetensors")


def test_the_page_of_a_run_starts_with_its_photograph(run_dir: Path):
    save_ball(run_dir)
    Image.new("RGB", (24, 24), (200, 40, 40)).save(run_dir / "input.png")
    (page,) = export_run(open_run(run_dir), ["html"])
    encoded = re.search(r"data:image/jpeg;base64,([^\"]+)", page.read_text(encoding="utf-8"))
    assert encoded is not None
    with Image.open(io.BytesIO(base64.b64decode(encoded[1]))) as poster:
        assert np.asarray(poster).reshape(-1, 3).mean(0) == pytest.approx([200, 40, 40], abs=6)


@pytest.mark.parametrize("kind", ["text", "cut", "pipe", "bomb"])
def test_a_photograph_that_cannot_be_used_is_refused_in_one_line(run_dir: Path, kind: str):
    save_ball(run_dir)
    path = run_dir / "input.png"
    Image.effect_noise((24, 24), 50).save(path)
    if kind == "text":
        path.write_text("this is no picture")
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:200])
    elif kind == "bomb":
        Image.new("1", (9000, 9000)).save(path)
    elif kind == "pipe":
        path.unlink()
        os.mkfifo(path)
    with pytest.raises(InputError, match=r"input\.png"):
        export_run(open_run(run_dir), ["html"])
    assert not (run_dir / "scene.html").exists()


def test_a_video_of_the_runs_own_orbit_keeps_its_distances(run_dir: Path):
    save_ball(run_dir)
    record = json.loads((run_dir / "run.json").read_text()) | {"orbit_distances": [1.0, 0.4]}
    (run_dir / "run.json").write_text(json.dumps(record))
    with av.open(str(render_run(open_run(run_dir), frames=2))) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    far, near = ((frame.mean(-1) > 190).sum() for frame in frames)  # the background is grey
    assert near > 3 * far > 0


def test_a_run_shows_its_page_in_a_notebook_or_why_there_is_none(run_dir: Path):
    run = open_run(run_dir)
    assert "there is no such file" in run._repr_html_()
    (run_dir / "scene.html").write_text('<p class="a">scene</p>', encoding="utf-8")
    assert 'srcdoc="&lt;p class=&quot;a&quot;&gt;scene&lt;/p&gt;"' in run._repr_html_()
