"""Estimators of others by one flag: estimate, scene and views use the weights that are named."""

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_estimators import depth_anything, depth_pro, install_geocalib, install_moge

from zeronvs.recipes import presets


def make_model(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if kind == "moge":
        return install_moge(monkeypatch, folder)
    if kind == "depth pro":
        return depth_pro(folder / "weights")
    return depth_anything(folder / "weights", kind, licence="cc-by-nc-4.0")


@pytest.mark.parametrize("kind", ["relative", "metric", "depth pro", "moge"])
def test_a_depth_model_is_used_and_named_with_its_licence(
    kind, zeronvs, photo_path, tmp_path, monkeypatch, capsys
):
    model = make_model(kind, tmp_path, monkeypatch)
    capsys.readouterr()
    assert zeronvs("estimate", photo_path, "--depth-model", model, "-o", tmp_path / "out") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    rows = {line.split()[0]: line for line in printed.out.splitlines() if line.strip()}
    assert "median depth of the centre" in rows["scene_scale"]
    titles = {"depth pro": "Depth Pro", "moge": "MoGe-2"}
    (licence,) = [line for line in printed.out.splitlines() if "weights" in line and "code" in line]
    assert licence.startswith(f"note: {titles.get(kind, f'Depth Anything ({kind})')}: code")
    if kind in ("relative", "metric"):
        assert "weights cc-by-nc-4.0" in licence
    else:  # these predict the field of view
        assert f"{titles[kind]} (" in rows["fov_deg"]
    assert ("One scene unit is" in printed.out) == (kind != "relative")
    with Image.open(tmp_path / "out" / "overlay.png") as overlay:
        assert overlay.size == (768, 384)


def test_metres_are_those_of_the_model(zeronvs, photo_path, tmp_path, monkeypatch, capsys):
    model = install_moge(monkeypatch, tmp_path)  # 4 m at the left to 8 m at the right
    words = ("--depth-model", model, "--scene-scale", 0.5)
    assert zeronvs("estimate", photo_path, *words) == 0
    # The nearest fifth ends 0.5 scene units away; of every fourth row and column, that is 5.01 m.
    assert "One scene unit is 10 m, by MoGe-2." in capsys.readouterr().out


def test_geocalib_gives_the_tilt_and_a_leaning_photograph_is_named(
    zeronvs, photo_path, tmp_path, monkeypatch, capsys
):
    up = (math.cos(0.3) * math.sin(0.2), -math.cos(0.3) * math.cos(0.2), -math.sin(0.3))
    weights = install_geocalib(monkeypatch, tmp_path, up, vfov=0.9)
    words = ("--depth-model", "none", "--camera-model", weights, "-o", tmp_path / "out")
    assert zeronvs("estimate", photo_path, *words) == 0
    numbers = json.loads((tmp_path / "out" / "estimate.json").read_text())
    assert numbers["elevation_deg"]["value"] == pytest.approx(math.degrees(0.3), abs=1e-3)
    assert numbers["elevation_deg"]["source"] == "GeoCalib"
    printed = capsys.readouterr().out
    assert "leans by 11 degrees" in printed
    assert "note: GeoCalib: code Apache-2.0, weights CC-BY-4.0" in printed


def test_a_draft_of_a_scene_has_the_depth_and_camera_of_the_models(
    zeronvs, photo_path, tmp_path, monkeypatch, tiny_presets, capsys
):
    monkeypatch.setattr(presets, "DRAFT", presets.PRESETS["preview"])
    depth, up = install_moge(monkeypatch, tmp_path), (0.0, -math.cos(0.3), -math.sin(0.3))
    camera = install_geocalib(monkeypatch, tmp_path, up, vfov=0.9)
    out = tmp_path / "out"
    words = ("--draft", "--depth-model", depth, "--camera-model", camera, "--device", "cpu")
    assert zeronvs("scene", photo_path, "-o", out, *words, "--scene-scale", 0.5) == 0
    printed = capsys.readouterr().out
    assert "depth_model" in printed
    assert "code Apache-2.0, weights CC-BY-4.0" in printed
    record = json.loads((out / "run.json").read_text())
    settings = {row["name"]: row["value"] for row in record["settings"]}
    assert (settings["depth_model"], settings["camera_model"]) == ("MoGe-2", "GeoCalib")
    pose = torch.tensor(record["input_camera"]["camera_to_world"])
    # Above the origin, at which it looks, by the elevation.
    assert math.asin(float(pose[2, 3])) == pytest.approx(0.3, abs=1e-3)
    with Image.open(sorted((out / "depth").glob("*.png"))[0]) as depth_map:
        assert depth_map.getextrema()[0] > 0


def test_views_take_the_same_flags(zeronvs, photo_path, model_folder, tmp_path, capsys):
    depth = depth_anything(tmp_path / "weights")
    words = ("--frames", 2, "--steps", 1, "--model", model_folder, "--depth-model", depth)
    assert zeronvs("views", photo_path, "-o", tmp_path / "out", *words, "--device", "cpu") == 0
    assert "Depth Anything (relative)" in capsys.readouterr().out
    assert len(list((tmp_path / "out" / "views").glob("*.png"))) == 2


@pytest.mark.parametrize(
    ("verb", "words", "says"),
    [
        ("estimate", ("--depth-model", "no-such-folder"), "--depth-model: no-such-folder"),
        ("estimate", ("--camera-model", "no.tar"), "--camera-model: no.tar: there is no such file"),
        ("scene", ("--depth-model", "none"), "--depth-model: this needs depth"),
        ("views", ("--depth-model", "someone/depth"), "hf download someone/depth"),
    ],
)
def test_a_model_that_is_not_here_is_one_line_and_leaves_nothing(
    verb, words, says, zeronvs, photo_path, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert zeronvs(verb, photo_path, "-o", tmp_path / "out", *words) == 2
    printed = capsys.readouterr().err
    assert says in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()
