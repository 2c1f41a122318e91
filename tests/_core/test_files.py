"""Files are whole or not there, and as readable as the user's other files."""

import json

import pytest
import torch
from safetensors.torch import save_file

from zeronvs._core.files import write_aside, write_bytes, write_json


def write_half_and_fail(path):
    with write_aside(path) as aside:
        aside.write_bytes(b"half of the n")
        raise OSError("disk full")


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
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
