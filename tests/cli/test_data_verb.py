"""`zeronvs data`: from a folder of strangers' files to shards, by the command line."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "data"))

from foreign_files import make_world, write_nerfstudio


@pytest.fixture(scope="module")
def nerfstudio_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nerfstudio(tmp_path_factory.mktemp("data") / "scene", make_world(2))


def test_convert_then_check(zeronvs, nerfstudio_folder, tmp_path, capsys):
    out = tmp_path / "shards"
    words = ("data", "convert", "nerfstudio", nerfstudio_folder, "-o", out, "--workers", 1)
    assert zeronvs(*words) == 0
    printed = capsys.readouterr().out
    assert "1 of 1" in printed
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["shards"][0]["scenes"][0]["frames"] == 2
    assert zeronvs(*words) == 0  # nothing is left to do
    zeronvs("data", "check", out, "-o", tmp_path / "check", "--workers", 1, "--depth", "none")
    report = json.loads((tmp_path / "check" / "report.json").read_text())
    assert report["scenes"][0]["frames"] == 2


def test_the_format_is_found_by_the_files(zeronvs, nerfstudio_folder, tmp_path, capsys):
    words = ("--workers", 1, "--depth", "none", "--image-format", "webp", "--full-frame")
    assert zeronvs("data", "convert", "auto", nerfstudio_folder, "-o", tmp_path / "o", *words) == 0
    assert "nerfstudio" in (tmp_path / "o" / "manifest.json").read_text()
    (tmp_path / "empty").mkdir()
    assert zeronvs("data", "convert", "auto", tmp_path / "empty", "-o", tmp_path / "x") == 2
    assert "the format is not known" in capsys.readouterr().err


def test_a_scene_that_is_left_out_changes_the_exit_code(zeronvs, tmp_path, capsys):
    for name in ("a", "b"):
        write_nerfstudio(tmp_path / "set" / name, make_world(2))
    (tmp_path / "set" / "a" / "transforms.json").write_text("{")
    words = ("data", "convert", "nerfstudio", tmp_path / "set", "-o", tmp_path / "o")
    assert zeronvs(*words, "--workers", 1, "--depth", "none") == 1
    captured = capsys.readouterr()
    assert "left out: set/a" in captured.out
    assert captured.err.splitlines()[-1].startswith("zeronvs: error: 1 scenes were left out")


def test_procedural_scenes_by_one_command(zeronvs, tmp_path, capsys):
    words = ("data", "synth", "-o", tmp_path / "o", "--scenes", 2, "--frames", 2, "--workers", 1)
    assert zeronvs(*words) == 0
    assert "2 of 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("data", "burn"), "data convert, data check, data synth"),
        (("data", "convert", "posed", "nowhere", "-o", "x"), "no such file"),
        (("data", "synth", "-o", "x", "--scenes", "0"), "--scenes is 0"),
        (("data", "synth", "-o", "x", "--photos", "nowhere"), "no such folder"),
        (("data", "convert", "posed", ".", "-o", "x", "--quality", "0"), "--quality"),
    ],
)
def test_wrong_words_are_refused_in_one_line(zeronvs, words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert zeronvs(*words) == 2
    printed = capsys.readouterr().err
    assert says in printed
    assert printed.count("\n") == 1
