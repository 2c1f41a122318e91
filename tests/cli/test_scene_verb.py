"""`zeronvs scene`, `render` and `export`: from a photograph to files, with a tiny model."""

import json
from pathlib import Path

import av
import pytest
from PIL import Image

from zeronvs.recipes.presets import Recipe


@pytest.fixture(autouse=True)
def tiny_preset(tiny_preview: Recipe) -> Recipe:
    """Use the tiny preview in every test here."""
    return tiny_preview


def test_a_photograph_becomes_a_run_folder_that_renders_and_exports(
    zeronvs, photo_path, model_folder, tmp_path, capsys
):
    out = tmp_path / "out"
    words = ("scene", photo_path, "-o", out, "--model", model_folder, "--device", "cpu")
    assert zeronvs(*words) == 0
    printed = capsys.readouterr().out
    assert "--fov-deg" in printed
    assert "orbit.mp4" in printed
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "complete"
    for name in ("scene/scene.safetensors", "scene/scene.ply", "views.mp4", "log.jsonl"):
        assert (out / name).stat().st_size > 0, name
    with av.open(str(out / "orbit.mp4")) as video:
        assert len(list(video.decode(video=0))) == 4
    assert not [path for path in out.rglob("*") if ".part" in path.name]

    # A finished run is not written over, renders, and exports.
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert zeronvs(*words) == 2
    assert "--resume" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert zeronvs("render", out, "--path", "spiral", "--frames", 3, "--device", "cpu") == 0
    video_path = Path(capsys.readouterr().out.splitlines()[-1])
    with av.open(str(video_path)) as video:
        assert len(list(video.decode(video=0))) == 3
    elsewhere = tmp_path / "elsewhere"
    assert zeronvs("export", out, "--format", "nerfstudio", "-o", elsewhere) == 0
    transforms = json.loads((elsewhere / "cameras" / "transforms.json").read_text())
    for frame in transforms["frames"]:
        with Image.open(elsewhere / "cameras" / frame["file_path"]) as view:
            assert view.size == (32, 32)


def test_a_flag_overrides_the_preset_and_is_printed_as_source(
    zeronvs, photo_path, model_folder, tmp_path, capsys
):
    words = ("scene", photo_path, "-o", tmp_path / "out", "--model", model_folder, "--dry-run")
    assert zeronvs(*words, "--preset", "preview", "--anchors", 3) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["anchors"] == ["3", "given", "--anchors"]
    assert rows["steps"] == ["20", "preset", "preview", "--steps"]
    assert rows["preset"][:2] == ["preview", "given"]


@pytest.mark.parametrize("verb", ["render", "export"])
@pytest.mark.parametrize("kind", ["missing", "a file", "empty"])
def test_what_is_no_run_folder_is_refused_in_one_line(verb, kind, zeronvs, tmp_path, capsys):
    folder = tmp_path / "run"
    if kind == "a file":
        folder.write_text("x")
    elif kind == "empty":
        folder.mkdir()
    assert zeronvs(verb, folder) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("zeronvs: error: ")
    assert printed.count("\n") == 1
