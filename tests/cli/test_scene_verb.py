"""`zeronvs scene`, `render` and `export`: from a photograph to files, with a tiny model."""

import json
from pathlib import Path

import av
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def tiny(tiny_presets: None) -> None:
    """Use tiny presets in every test here."""


@pytest.mark.parametrize("preset", ["preview", "field"])
def test_a_photograph_becomes_a_run_folder_that_renders_and_exports(
    preset, zeronvs, photo_path, model_folder, tmp_path, capsys
):
    out = tmp_path / "out"
    model = ("--model", model_folder) if preset == "field" else ()
    words = ("scene", photo_path, "-o", out, "--preset", preset, *model, "--path", "orbit")
    assert zeronvs(*words, "--device", "cpu") == 0
    printed = capsys.readouterr().out
    assert "--fov-deg" in printed
    assert "orbit.mp4" in printed
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "complete"
    for name in ("scene/scene.safetensors", "scene/scene.ply", "views.mp4", "first_look.png"):
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
    # A field's splats are kept: what is exported later is what was fitted.
    assert (out / "scene" / "splats.safetensors").exists() == (preset == "field")
    if preset == "preview":
        assert zeronvs("export", out, "--format", "glb", "-o", tmp_path / "mesh") == 0
        assert (tmp_path / "mesh" / "scene" / "mesh.glb").read_bytes().startswith(b"glTF")
    elsewhere = tmp_path / "elsewhere"
    assert zeronvs("export", out, "--format", "nerfstudio", "-o", elsewhere) == 0
    transforms = json.loads((elsewhere / "cameras" / "transforms.json").read_text())
    # The preview shows the whole photograph of 96 x 80, a field its central square.
    size = (32, 27) if preset == "preview" else (32, 32)
    for frame in transforms["frames"]:
        with Image.open(elsewhere / "cameras" / frame["file_path"]) as view:
            assert view.size == size


@pytest.mark.parametrize(
    "words", [("--steps", 5), ("--anchors", 2), ("--model", "builtin"), ("--guidance-scale", 2)]
)
def test_settings_of_a_diffusion_model_are_refused_by_the_preview(
    words, zeronvs, photo_path, tmp_path, capsys
):
    out = tmp_path / "out"
    assert zeronvs("scene", photo_path, "-o", out, "--preset", "preview", *words) == 2
    assert f"{words[0]} is a setting of score distillation" in capsys.readouterr().err
    assert not out.exists()


def test_a_flag_overrides_the_preset_and_is_printed_as_source(
    zeronvs, photo_path, model_folder, tmp_path, capsys
):
    words = ("scene", photo_path, "-o", tmp_path / "out", "--model", model_folder, "--dry-run")
    assert zeronvs(*words, "--preset", "field", "--anchors", 3) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["anchors"] == ["3", "given", "--anchors"]
    assert rows["steps"] == ["20", "preset", "field", "--steps"]
    assert rows["preset"][:2] == ["field", "given"]


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
