"""Measuring scenes made of one view at held-out cameras."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from perceptual_weights import FEATURE_CHANNELS, feature_weights
from pillars import FOCAL_PX, SIZE_PX, pillars

from zeronvs._core.errors import InputError
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.view import View
from zeronvs.cameras.warp import project, unproject
from zeronvs.evaluation.held_out import HeldOutScenes, read_pair_names
from zeronvs.evaluation.metrics import KID, WARP, WARP_TEXTURE, ImageFeatures, kernel_distance
from zeronvs.evaluation.scenes import (
    SCENE,
    VIEWS,
    ScenesEvaluationConfig,
    canonical_pair,
    evaluate_scenes,
)
from zeronvs.evaluation.views import COPY
from zeronvs.evaluation.views_report import markdown_table, write_views_report
from zeronvs.scene.lift import LiftConfig

SMALL = LiftConfig(refine_depth=False, fill_side_px=48, surround_width_px=64, color_steps=1)
CONFIG = ScenesEvaluationConfig(size_px=48, sheet_rows=1, lift=SMALL, whole_frames=True)


@pytest.fixture(scope="module")
def features() -> ImageFeatures:
    return ImageFeatures(feature_weights())


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("renders")


@pytest.fixture(scope="module")
def evaluation(held_out: Path, features: ImageFeatures, kept: Path):
    return evaluate_scenes(held_out, CONFIG, features=features, kept=kept)


def test_the_scene_shows_what_the_held_out_camera_saw(evaluation):
    assert evaluation.methods == (SCENE, WARP_TEXTURE, WARP, COPY)
    assert evaluation.metrics == ("PSNR", "SSIM", KID)
    scene, copied = (evaluation.mean("large", method, "PSNR") for method in (SCENE, COPY))
    assert scene > copied + 0.5
    (same,) = [pair for pair in evaluation.pairs if pair.name.input == pair.name.target]
    assert same.scores[SCENE]["PSNR"] > 22
    assert set(evaluation.input_psnr_db) == {"room/0.png", "room/1.png", "hall/0.png", "hall/2.png"}
    assert min(evaluation.input_psnr_db.values()) > 20


def test_the_views_of_a_model_stand_beside_the_scene_of_the_same_square(held_out: Path, warp_pipe):
    squares = dataclasses.replace(CONFIG, whole_frames=False, limit=1)
    found = evaluate_scenes(held_out, squares, pipe=warp_pipe)
    assert found.methods == (SCENE, VIEWS, WARP_TEXTURE, WARP, COPY)
    ((row,),) = found.sheets.values()
    assert row.shape == (6, 3, 48, 48)
    with pytest.raises(InputError, match="whole frames have no row of a model"):
        evaluate_scenes(held_out, CONFIG, pipe=warp_pipe)


def test_kept_renderings_are_taken_again(held_out: Path, evaluation, kept: Path, monkeypatch):
    assert (kept / "room_0_1.png").is_file()
    monkeypatch.setattr("zeronvs.evaluation.scenes.lift_view", None)  # is not called
    again = evaluate_scenes(held_out, dataclasses.replace(CONFIG, limit=2), kept=kept)
    expected = {pair.name: pair.scores[SCENE] for pair in evaluation.pairs}
    assert len(again.pairs) == 2
    for pair in again.pairs:
        assert pair.scores[SCENE] == pytest.approx(expected[pair.name])


def test_the_target_keeps_its_place_beside_the_input(held_out: Path):
    name = read_pair_names(held_out)[0]
    pair = HeldOutScenes(held_out, 48, whole=True).pair(name)
    view, target = canonical_pair(pair)
    assert view.image.shape == (3, 48, 58)  # the whole frame
    assert float(view.camera.position.norm()) == pytest.approx(1.0, abs=1e-5)
    assert math.atan2(float(view.camera.position[1]), float(view.camera.position[0])) == 0.0
    uv_px, depth_z = project(unproject(pair.input_view).view(-1, 3), pair.target_view.camera)
    moved_uv_px, moved_depth_z = project(unproject(view).view(-1, 3), target)
    torch.testing.assert_close(moved_uv_px, uv_px, atol=1e-2, rtol=1e-3)
    ratio = moved_depth_z / depth_z
    torch.testing.assert_close(ratio, ratio.median().expand_as(ratio), atol=0, rtol=1e-3)


def test_the_input_stands_upright_by_its_vertical_lines(held_out: Path):
    pair = HeldOutScenes(held_out, 48, whole=True).pair(read_pair_names(held_out)[0])
    pose, depth_z = pair.input_view.camera.camera_to_world, torch.ones(SIZE_PX)
    intrinsics_px = torch.tensor(
        [[FOCAL_PX, 0, SIZE_PX[1] / 2], [0, FOCAL_PX, SIZE_PX[0] / 2], [0, 0, 1]]
    )
    tilted = View(pillars(24), Camera(pose, intrinsics_px, SIZE_PX), depth_z)
    view, _ = canonical_pair(dataclasses.replace(pair, input_view=tilted))
    assert math.degrees(float(view.camera.elevation_rad)) == pytest.approx(24, abs=1.5)


def test_the_report_has_one_distance_for_each_class(evaluation, tmp_path: Path):
    files = write_views_report(
        tmp_path, evaluation, source="here", model="none", notes=evaluation.notes()
    )
    assert (tmp_path / "sheet_large.png") in files
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["settings"]["lift"]["fill_side_px"] == 48
    assert set(content["means"]["large"][SCENE]) == {"PSNR", "SSIM", KID}
    assert f"{KID}: lower is better" in markdown_table(evaluation)
    assert "the mean over 4 inputs" in (tmp_path / "table.md").read_text()


def test_the_kernel_distance_is_zero_of_equal_sets_and_grows_as_they_part():
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(200, 6, generator=generator)
    other = torch.randn(200, 6, generator=generator)
    assert kernel_distance(one, one) == pytest.approx(0.0, abs=1e-12)
    assert abs(kernel_distance(one, other)) < 0.05
    near, far = (kernel_distance(one, other + shift) for shift in (0.5, 1.0))
    assert 0.2 < near < far
    assert math.isnan(kernel_distance(one[:1], other[:1]))


def test_features_are_of_the_central_square_and_no_batch(features: ImageFeatures):
    image = torch.rand(2, 3, 40, 60, generator=torch.Generator().manual_seed(0))
    found = features(image)
    assert found.shape == (2, FEATURE_CHANNELS)
    torch.testing.assert_close(features(image[..., 10:50])[1:], found[1:], atol=1e-5, rtol=1e-5)


def test_other_weights_are_refused_in_one_line(tmp_path: Path):
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.ones(1)}, path)
    with pytest.raises(InputError, match="holds no EfficientNet-Lite0 weights") as caught:
        ImageFeatures.from_file(path)
    assert "\n" not in str(caught.value)
