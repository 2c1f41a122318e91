"""`zeronvs estimate`, and with it what any verb does with a bad photograph."""

import json
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pillars import FOCAL_PX, SIZE_PX, pillars

from zeronvs.cli import main


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["estimate", *words, "--depth-model", "none"])
    return caught.value.code


def noise(path: Path, **settings) -> Path:
    values = np.random.default_rng(0).integers(0, 255, (80, 96, 3), dtype=np.uint8)
    Image.fromarray(values).save(path, **settings)
    return path


def test_every_number_has_a_spread_a_source_and_a_flag(tmp_path, capsys):
    assert run(str(noise(tmp_path / "photo.png"))) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["fov_deg", "elevation_deg", "scene_scale"]
    for line, flag in zip(
        lines[1:4], ("--fov-deg", "--elevation-deg", "--scene-scale"), strict=True
    ):
        assert line.endswith(flag)
        assert "default" in line


def test_the_lens_in_the_file_is_used(tmp_path, capsys):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 26
    assert run(str(noise(tmp_path / "photo.jpg", exif=exif))) == 0
    assert "EXIF FocalLengthIn35mmFilm" in capsys.readouterr().out


def test_vertical_lines_in_the_photograph_are_used(tmp_path, capsys):
    path = tmp_path / "hall.png"
    Image.fromarray((pillars(24) * 255).round().byte().permute(1, 2, 0).numpy()).save(path)
    fov_deg = math.degrees(2 * math.atan(0.5 * SIZE_PX[0] / FOCAL_PX))
    assert run(str(path), "--fov-deg", f"{fov_deg:.2f}") == 0
    (line,) = [row for row in capsys.readouterr().out.splitlines() if "elevation_deg" in row]
    assert "vertical lines" in line
    assert float(line.split()[1]) == pytest.approx(24, abs=1.5)


def test_the_overlay_and_the_numbers_are_written_on_request(tmp_path):
    photo = noise(tmp_path / "photo.png")
    assert run(str(photo), "-o", str(tmp_path / "out"), "--fov-deg", "60") == 0
    numbers = json.loads((tmp_path / "out" / "estimate.json").read_text())
    assert numbers["fov_deg"] == {"value": pytest.approx(60), "spread": 0.0, "source": "given"}
    with Image.open(tmp_path / "out" / "overlay.png") as overlay:
        assert overlay.size == (384, 384)


def bad_photo(kind: str, folder: Path) -> Path:
    path = folder / "photo.png"
    if kind == "not an image":
        path.write_text("hello")
    elif kind == "truncated":
        path.write_bytes(noise(path).read_bytes()[:4000])
    elif kind == "1x1":
        Image.new("RGB", (1, 1)).save(path)
    elif kind == "a bomb":
        header = b"IHDR" + struct.pack(">IIBBBBB", 50000, 50000, 8, 2, 0, 0, 0)
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header
            + struct.pack(">I", zlib.crc32(header))
        )  # fmt: skip
    elif kind == "a folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    "kind", ["missing", "not an image", "truncated", "1x1", "a bomb", "a folder"]
)
def test_a_bad_photograph_gives_one_line_and_code_two_and_no_output(kind, tmp_path, capsys):
    photo = bad_photo(kind, tmp_path)
    assert run(str(photo), "-o", str(tmp_path / "out")) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("zeronvs: error: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fov", ["-20", "0", "180", "nan", "1e9"])
def test_an_impossible_field_of_view_gives_one_line_and_code_two(fov, tmp_path, capsys):
    assert run(str(noise(tmp_path / "photo.png")), "--fov-deg", fov) == 2
    printed = capsys.readouterr().err
    assert "--fov-deg" in printed
    assert printed.count("\n") == 1


def test_an_output_that_cannot_be_made_gives_one_line_and_code_two(tmp_path, capsys):
    photo = noise(tmp_path / "photo.png")
    (tmp_path / "file").write_text("x")
    assert run(str(photo), "-o", str(tmp_path / "file" / "out")) == 2
    assert capsys.readouterr().err.count("\n") == 1
