"""`zeronvs model`: what a model is, and which files are refused."""

import pytest


def test_info_names_the_parts_and_the_representation(zeronvs, model_folder, capsys):
    assert zeronvs("model", "info", model_folder) == 0
    printed = capsys.readouterr().out
    for name in ("vae", "image_encoder", "unet", "scheduler", "cc_projection"):
        assert name in printed
    assert "image size: 32 px" in printed
    assert "6DoF+1, viewer" in printed


@pytest.mark.parametrize("kind", ["missing", "text", "a folder that is no model"])
def test_what_is_no_checkpoint_is_refused_in_one_line(kind, zeronvs, tmp_path, capsys):
    source = tmp_path / "model.ckpt"
    if kind == "text":
        source.write_text("hello")
    elif kind == "a folder that is no model":
        source.mkdir()
    assert zeronvs("model", "convert", source, "-o", tmp_path / "out") == 2
    printed = capsys.readouterr().err
    assert printed.startswith("zeronvs: error: ")
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_not_overwritten(zeronvs, tmp_path, capsys):
    (tmp_path / "model.ckpt").write_text("x")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    assert zeronvs("model", "convert", tmp_path / "model.ckpt", "-o", tmp_path / "out") == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "out" / "mine").read_text() == "x"


def test_a_third_word_is_refused(zeronvs, capsys):
    assert zeronvs("model", "burn") == 2
    assert "model convert" in capsys.readouterr().err


def test_a_checkpoint_becomes_a_folder_and_a_checkpoint_again(
    zeronvs, golden_dir, tmp_path, capsys
):
    folder, back = tmp_path / "folder", tmp_path / "back.ckpt"
    assert zeronvs("model", "convert", golden_dir / "tiny.ckpt", "-o", folder) == 0
    assert "EMA" in capsys.readouterr().out
    assert zeronvs("model", "info", folder) == 0
    assert zeronvs("model", "convert", folder, "-o", back) == 0
    assert back.stat().st_size > 0
