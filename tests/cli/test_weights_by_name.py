"""`zeronvs model list|fetch|import`, and --model NAME everywhere."""

import os
import subprocess
import sys

import pytest
from local_hub import local_hub
from tiny_checkpoint import official_state, save


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return save(folder / "mine.ckpt", official_state())


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cache_home(filled, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(filled))
    return filled


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_imported_model_is_listed_described_and_used_by_its_name(
    zeronvs, files, cache_home, photo_path, tmp_path, capsys
):
    assert zeronvs("model", "import", files) == 0
    printed = capsys.readouterr().out
    assert "6DoF+1, viewer" in printed
    assert "moving average (EMA)" in printed
    assert "use it with --model mine" in printed
    assert zeronvs("model", "list") == 0
    printed = capsys.readouterr().out
    assert "mine" in printed
    assert str(cache_home / "zeronvs") in printed
    assert "zeronvs: download zeronvs.ckpt" in printed
    assert zeronvs("model", "info", "mine") == 0
    assert "image size: 8 px" in capsys.readouterr().out
    out = tmp_path / "views"
    words = ("views", photo_path, "-o", out, "--model", "mine", "--frames", 2, "--steps", 1)
    assert zeronvs(*words, "--device", "cpu") == 0
    assert len(list((out / "views").glob("*.png"))) == 2
    back = tmp_path / "back.ckpt"
    assert zeronvs("model", "convert", "mine", "-o", back) == 0
    assert back.stat().st_size > 0


@pytest.mark.parametrize(
    "words",
    [
        ("views", "PHOTO", "-o", "OUT", "--model", "zeronvs"),
        ("scene", "PHOTO", "-o", "OUT", "--model", "zeronvs"),
        ("evaluate", "views", "FOLDER", "--model", "zeronvs"),
        ("train", "FOLDER", "-o", "OUT", "--from", "zeronvs"),
        ("train", "FOLDER", "-o", "OUT", "--from", "scratch:zeronvs"),
        ("model", "info", "zeronvs"),
        ("model", "fetch", "zeronvs"),
    ],
)
def test_a_name_that_is_not_here_says_how_to_get_it(
    words, zeronvs, empty_cache, photo_path, tmp_path, capsys
):
    places = {"PHOTO": photo_path, "OUT": tmp_path / "out", "FOLDER": tmp_path}
    assert zeronvs(*(places.get(word, word) for word in words)) == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert "drive.google.com" in printed[-1]
    assert "zeronvs model import FILE --name zeronvs" in printed[-1]
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_for_model_is_sent_to_the_import(
    zeronvs, empty_cache, files, photo_path, tmp_path, capsys
):
    assert zeronvs("views", photo_path, "-o", tmp_path / "out", "--model", files) == 2
    assert f"zeronvs model import {files}" in capsys.readouterr().err


def test_a_refused_import_is_one_line_with_the_flag(zeronvs, empty_cache, files, tmp_path, capsys):
    assert zeronvs("model", "import", files, "--name", "zero123-xl") == 2
    printed = capsys.readouterr().err.strip().splitlines()[-1]
    assert printed.startswith("zeronvs: error: --name: ")
    pointer = tmp_path / "zeronvs.ckpt"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 10\n")
    assert zeronvs("model", "import", pointer) == 2
    assert "git-lfs" in capsys.readouterr().err
    assert not (empty_cache / "zeronvs" / "models").exists()


def test_weights_of_a_hub_are_fetched_once_and_then_found_offline(
    zeronvs, files, empty_cache, tmp_path, capsys
):
    published = tmp_path / "hub" / "models"
    published.mkdir(parents=True)
    (published / "zeronvs_ft_mimicgen.ckpt").write_bytes(files.read_bytes())
    (published / "zeronvs_config.yaml").write_bytes(files.with_suffix(".yaml").read_bytes())
    with local_hub(tmp_path / "hub", "s-tian/VISTA_Data") as address:
        fetched = subprocess.run(
            [sys.executable, "-m", "zeronvs.cli", "model", "fetch", "vista"],
            env=os.environ | {"HF_ENDPOINT": address},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert fetched.returncode == 0, fetched.stderr
    assert "use it with --model vista" in fetched.stdout
    assert "download zeronvs_ft_mimicgen.ckpt" in fetched.stderr
    assert zeronvs("model", "info", "vista") == 0
    assert "image size: 8 px" in capsys.readouterr().out
