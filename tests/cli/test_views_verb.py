"""`zeronvs views` from a photograph to files, and what both long verbs do with bad input."""

import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from zeronvs.diffusion.loading import COMPONENTS


def test_views_come_with_a_sheet_a_video_and_cameras(zeronvs, photo_path, model_folder, tmp_path):
    out = tmp_path / "out"
    words = ("views", photo_path, "-o", out, "--model", model_folder, "--frames", 3, "--steps", 2)
    assert zeronvs(*words) == 0
    with av.open(str(out / "views.mp4")) as video:
        assert len(list(video.decode(video=0))) == 3
    transforms = json.loads((out / "cameras" / "transforms.json").read_text())
    assert len(transforms["frames"]) == 3
    for frame in transforms["frames"]:
        with Image.open(out / "cameras" / frame["file_path"]) as view:
            assert view.size == (frame["w"], frame["h"])
    record = json.loads((out / "run.json").read_text())
    assert record["estimates"]["fov_y_rad"]["source"]
    assert (out / "sheet.png").exists()
    assert not [path for path in out.rglob("*") if ".part" in path.name]


def test_the_same_seed_gives_the_same_views(zeronvs, photo_path, model_folder, tmp_path):
    words = ("views", photo_path, "--model", model_folder, "--frames", 2, "--steps", 2)
    for out, seed in (("a", 5), ("b", 5), ("c", 6)):
        assert zeronvs(*words, "-o", tmp_path / out, "--seed", seed) == 0
    first, second, other = ((tmp_path / out / "views" / "001.png").read_bytes() for out in "abc")
    assert first == second
    assert first != other


def test_a_stopped_run_keeps_its_views_and_resumes(zeronvs, photo_path, model_folder, tmp_path):
    words = ("views", photo_path, "--model", model_folder, "--frames", 3, "--steps", 2)
    assert zeronvs(*words, "-o", tmp_path / "whole") == 0
    assert zeronvs(*words, "-o", tmp_path / "cut") == 0
    cut = tmp_path / "cut"
    # As a kill leaves it: some views, and a record of a run that is not done.
    for name in ("views/001.png", "views.mp4", "sheet.png", "cameras/transforms.json"):
        (cut / name).unlink()
    record = json.loads((cut / "run.json").read_text())
    (cut / "run.json").write_text(json.dumps(record | {"status": "running"}))
    assert zeronvs(*words, "-o", cut, "--resume") == 0
    for name in ("views/000.png", "cameras/transforms.json"):
        assert (cut / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    # Drawn in another batch, whose last bit may round a pixel to the next grey level.
    for name in ("views/001.png", "sheet.png"):
        resumed, whole = (
            np.asarray(Image.open(folder / name)).astype(int)
            for folder in (cut, tmp_path / "whole")
        )
        assert np.abs(resumed - whole).max() <= 1
    assert json.loads((cut / "run.json").read_text())["status"] == "complete"


def test_a_run_is_not_resumed_with_other_settings(
    zeronvs, photo_path, model_folder, tmp_path, capsys
):
    words = ("views", photo_path, "-o", tmp_path / "out", "--model", model_folder, "--frames", 2)
    assert zeronvs(*words, "--steps", 2) == 0
    before = (tmp_path / "out" / "run.json").read_bytes()
    assert zeronvs(*words, "--steps", 2, "--seed", 4, "--resume") == 2
    assert "seed: 0, now 4" in capsys.readouterr().err
    assert (tmp_path / "out" / "run.json").read_bytes() == before


@pytest.mark.parametrize("verb", ["scene", "views"])
def test_a_dry_run_prints_every_setting_and_writes_nothing(
    verb, zeronvs, photo_path, model_folder, tmp_path, capsys
):
    words = (verb, photo_path, "-o", tmp_path / "out", "--model", model_folder, "--dry-run")
    assert zeronvs(*words, "--fov-deg", 60) == 0
    printed = capsys.readouterr().out
    assert "fov_deg" in printed
    assert "60.0" in printed
    assert "given" in printed
    assert "--scene-scale" in printed
    assert not (tmp_path / "out").exists()


def bad_photo(kind: str, good: Path) -> Path:
    if kind == "truncated":
        good.write_bytes(good.read_bytes()[:3000])
    elif kind == "not an image":
        good.write_text("hello")
    elif kind == "1x1":
        Image.new("RGB", (1, 1)).save(good)
    elif kind == "missing":
        good.unlink()
    elif kind == "a folder":
        good.unlink()
        good.mkdir()
    return good


@pytest.mark.parametrize("verb", ["scene", "views"])
@pytest.mark.parametrize("kind", ["truncated", "not an image", "1x1", "missing", "a folder"])
def test_a_bad_photograph_leaves_nothing_behind(verb, kind, zeronvs, photo_path, tmp_path, capsys):
    assert zeronvs(verb, bad_photo(kind, photo_path), "-o", tmp_path / "out") == 2
    printed = capsys.readouterr().err
    assert printed.startswith("zeronvs: error: ")
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["scene", "views"])
@pytest.mark.parametrize(
    "words",
    [
        ("--fov-deg", "-20"),
        ("--fov-deg", "nan"),
        ("--elevation-deg", "95"),
        ("--scene-scale", "0"),
        ("--scene-scale", "-0.7"),
        ("--steps", "0"),
        ("--device", "cuda:77"),
        ("--model", "no/such/model"),
        ("--guidance-scale", "nan"),
        ("--guidance-scale", "-3"),
        ("--seed", "-1"),
    ],
    ids=" ".join,
)
def test_an_impossible_setting_leaves_nothing_behind(
    verb, words, zeronvs, photo_path, model_folder, tmp_path, capsys
):
    model = () if "--model" in words else ("--model", model_folder)
    assert zeronvs(verb, photo_path, "-o", tmp_path / "out", *model, *words) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("zeronvs: error: ")
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_unknown_path_names_the_paths_that_there_are(
    zeronvs, photo_path, model_folder, tmp_path, capsys
):
    words = ("views", photo_path, "-o", tmp_path / "out", "--model", model_folder)
    assert zeronvs(*words, "--path", "obrit") == 2
    assert "orbit" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["views", "scene"])
@pytest.mark.parametrize("model", ["no_such_folder", "evil", "file.ckpt"])
def test_a_model_that_cannot_be_used_is_refused_before_torch_is_imported(verb, model, tmp_path):
    (tmp_path / "file.ckpt").write_bytes(b"x")
    (tmp_path / "evil").mkdir()
    index = {name: ["diffusers", "X"] for name in COMPONENTS} | {"x": ["zeronvs.cli.__main__", "X"]}
    (tmp_path / "evil" / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    program = "import sys; from zeronvs.cli import guarded, _run; words = sys.argv[1:]; "
    program += "code = guarded(lambda: _run(words), words); print(code, 'torch' in sys.modules)"
    words = [verb, "photo.jpg", "-o", "out", "--model", model]
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["2", "False"]
    assert done.stderr.startswith("zeronvs: error: ")
    assert model in done.stderr
    assert done.stderr.count("\n") == 1
