"""Files are whole or not there, and as readable as the user's other files."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from zeronvs._core.errors import InputError
from zeronvs._core.files import (
    parse_json,
    read_json,
    read_text,
    sweep_temporary,
    write_aside,
    write_bytes,
    write_json,
)


def write_half_and_fail(path):
    with write_aside(path) as aside:
        aside.write_bytes(b"half of the n")
        raise OSError("disk full")


def test_a_writer_that_fails_leaves_only_the_old_file(tmp_path):
    path = tmp_path / "kept.bin"
    write_bytes(path, b"old")
    with pytest.raises(OSError, match="disk full"):
        write_half_and_fail(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_seen_under_the_name_before_the_end(tmp_path):
    path = tmp_path / "folder" / "new.bin"
    with write_aside(path) as aside:
        aside.write_bytes(b"content")
        assert not path.exists()
        assert aside.parent == path.parent
        assert aside.suffix == path.suffix
    assert path.read_bytes() == b"content"


def test_others_may_read_what_safetensors_wrote_if_they_may_read_other_files(tmp_path):
    usual, path = tmp_path / "usual.txt", tmp_path / "weights.safetensors"
    usual.touch()
    with write_aside(path) as aside:
        save_file({"x": torch.zeros(1)}, aside)
    assert path.stat().st_mode == usual.stat().st_mode


def test_json_with_a_number_that_is_none_is_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"psnr_db": 20.0})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"psnr_db": float("nan")})
    assert json.loads(path.read_text()) == {"psnr_db": 20.0}


def test_json_is_read_as_utf_8_with_and_without_a_byte_order_mark(tmp_path):
    content = {"photo": "Álbum от Анны.jpg", "fov": 48.5, "k": [1, None, True]}
    write_json(tmp_path / "run.json", content)
    assert read_json(tmp_path / "run.json") == content
    marked = tmp_path / "marked.json"
    marked.write_text("\ufeff" + json.dumps(content, ensure_ascii=False), encoding="utf-8")
    assert read_json(marked) == content
    assert not read_text(marked).startswith("\ufeff")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "[" * 80 + "]" * 80,
        '{"a":' * 70 + "1" + "}" * 70,
        "[1e999]",
        "[-1e999]",
        "[NaN]",
        "[Infinity]",
        "[-Infinity]",
        "[" + "9" * 400 + "]",
        "[" + "9" * 10_000 + "]",
        "{",
        "",
        "[1] 2",
    ],
)
def test_json_that_is_not_strict_is_refused_in_one_line_that_names_the_file(tmp_path, text):
    path = tmp_path / "given.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"given\.json is not valid JSON") as refusal:
        read_json(path)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 400


def test_files_that_cannot_be_json_are_refused_in_one_line(tmp_path):
    (tmp_path / "large.json").write_text("[1, 2, 3]")
    with pytest.raises(InputError, match="larger than"):
        read_json(tmp_path / "large.json", max_bytes=4)
    (tmp_path / "latin.json").write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(InputError, match="not valid JSON"):
        read_json(tmp_path / "latin.json")
    with pytest.raises(InputError, match="no such file"):
        read_json(tmp_path / "missing.json")
    with pytest.raises(InputError, match="not a file"):
        read_json(tmp_path)
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(InputError, match="not a file"):
        read_json(tmp_path / "pipe.json")


def test_json_of_an_ordinary_depth_is_read():
    assert parse_json("[" * 20 + "]" * 20, "x")
    assert parse_json("3", "x") == 3


def test_what_a_killed_writer_left_is_swept_and_nothing_else(tmp_path):
    kept = [tmp_path / name for name in ("run.json", ".hidden", ".run.part.json", "a.part")]
    for path in kept:
        path.touch()
    for name in (".run.0123abcd.part.json", ".checkpoint.89abcdef.part", ".a b.00000000.part.png"):
        (tmp_path / name).touch()
    sweep_temporary(tmp_path)
    sweep_temporary(tmp_path / "missing")
    assert sorted(tmp_path.iterdir()) == sorted(kept)
