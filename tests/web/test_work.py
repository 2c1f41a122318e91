"""What is done in processes: estimates and what shows them, and photographs that are refused."""

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import photo_pixels
from PIL import Image
from tiny_pipelines import FixedGeometry

from zeronvs._core.errors import InputError
from zeronvs._core.files import read_json
from zeronvs._core.progress import silent
from zeronvs.web.tasks import EstimateTask
from zeronvs.web.work import FARTHEST, NEAREST, estimate


def encoded(kind: str = "PNG", pixels: np.ndarray | None = None) -> bytes:
    file = io.BytesIO()
    Image.fromarray(photo_pixels() if pixels is None else pixels).save(file, kind)
    return file.getvalue()


def test_depth_png_holds_the_logarithm_of_the_depth(tmp_path: Path):
    (tmp_path / "photo").write_bytes(encoded())
    far_right = FixedGeometry(lambda image: 1.0 + 3.0 * (image[:, 2] > 0.5).float())
    task = EstimateTask(photo=tmp_path / "photo", out=tmp_path, max_px=96 * 72)
    estimate(task, far_right, silent)
    found = read_json(tmp_path / "estimate.json")
    assert found["fov_deg"]["value"] == pytest.approx(50.0)
    assert found["elevation_deg"]["spread"] > 1.0
    assert found["depth_range"] == [NEAREST, FARTHEST]
    with Image.open(tmp_path / "depth.png") as image:
        share = np.asarray(image).astype(float) / 255
    depth_z = NEAREST * (FARTHEST / NEAREST) ** share
    assert depth_z[60, 90] / depth_z[60, 5] == pytest.approx(4.0, rel=0.06)


def chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return len(content).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")


def bomb(side_px: int) -> bytes:
    """Return a small PNG file that claims to be very large."""
    header = side_px.to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (bomb(1001), "1001x1001 pixels; at most 1 megapixels"),
        (bomb(60_000), "too large"),
        (encoded()[:-40], "cut short"),
        (encoded("JPEG")[:300], "cut short"),
        (b"\xff\xd8\xff" + bytes(500), "not an image"),
        (b"\x89PNG\r\n\x1a\n" + b"<script>alert(1)</script>", "not an image"),
        (b"\0\0\0\x18ftypheic" + bytes(200), "HEIC"),
        (b"RIFF\0\0\0\0WEBP" + bytes(100), "not an image"),
        (encoded(pixels=photo_pixels()[:20, :20].copy()), "must have at least 64"),
    ],
)
def test_a_broken_or_giant_photograph_is_refused_in_one_line(content, says, tmp_path: Path):
    (tmp_path / "photo").write_bytes(content)
    task = EstimateTask(photo=tmp_path / "photo", out=tmp_path, max_px=1_000_000)
    with pytest.raises(InputError, match=says) as caught:
        estimate(task, FixedGeometry(), silent)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["photo"]
