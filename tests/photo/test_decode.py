"""Files that phones, 360-degree cameras and renderers write."""

import base64
import importlib.util
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from zeronvs._core.errors import InputError
from zeronvs.photo import decode
from zeronvs.photo.photo import load_photo

PANO = "http://ns.google.com/photos/1.0/panorama/"
SPHERE = f'<x xmlns:GPano="{PANO}" GPano:ProjectionType="equirectangular"/>'
CYLINDER = f'<x xmlns:p="{PANO}"><p:ProjectionType> cylindrical</p:ProjectionType></x>'
LENS_MM = 0xA405

HEIC = """
eNpjYGCQSSupLMhIzUxmAILczDRDEDs3MzGNgYFxYW5qSSIDBChmpOQUQdkMBZnJJQxowCQzJx9siIsDAxMDI4jFeBRCA8FC
oBgQMKXBRZyA2CIzMy8NzAPJigI5qWBlQDUZZcmGDEiCjCAlrhWZYOV8BZkluQxQlQwPMguKCoD0gcyC5HwgXQHU68zIDBKa
AFYk94Hhz98fPxgY+JkTgDokHBh5GP//BylgBqlgBiG5XUwOiUBJbSdGRjSZBRqNrdNeeWquy2OS4uEACZ0AERwOSUD17C6M
B4s2KDkArRFOzs8pykvOqQAK8zKwNQCFRDKLC1KhHg4A4gQgFijIrMgECTBzcABNY+DMLMovAdrEIJFZkAsLbkYGRtZGJmaW
ViBbKrMoNQ0qzpecUpwMDl+Qz1/npiSCImKuBuN6zgfHxS1L4///vZv/vn5CUv1/kzlznM0FPvXp3xfY/m/WBu2/rEr83cW5
y/44Jdh+OcMXsljjkfajuP2FvGoODs/Vj6an3twSb/0j12rqlBWue5KfxC+Ql1dm5zrjW/RcVG3V4cMCnjk5Upp3Nr3huq+v
fXtq/qKXPLMqrX9yHHpyrZ3pder+OiGX6Yefm/bInw4+1P1jvq102uMD1zr/aGeDwoENEnO+vgxaQB4HAxOjEChwgZ5gY2Bo
z2RggUalGsTzS1ihslIQXwMAWmye7A==
"""
"""Red beside blue, 96x80, stored on its side (EXIF orientation 6), with a lens of 26 mm."""


def picture(width: int = 192, height: int = 96) -> Image.Image:
    ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3)
    return Image.fromarray(ramp.astype(np.uint8))


def with_lens(**tags: object) -> Image.Exif:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[LENS_MM] = 26
    for name, value in tags.items():
        if name == "CustomRendered":
            exif.get_ifd(0x8769)[0xA401] = value
        else:
            exif[{"Software": 305, "NewSubfileType": 254}[name]] = value
    return exif


@pytest.mark.parametrize("xmp", [SPHERE, CYLINDER, SPHERE.encode("utf-16")])
@pytest.mark.parametrize("suffix", ["jpg", "webp", "tiff", "png"])
def test_the_lens_of_a_photo_sphere_is_not_believed_and_that_is_said(
    tmp_path: Path, suffix: str, xmp: str | bytes
):
    path = tmp_path / f"photo.{suffix}"
    data = xmp.encode() if isinstance(xmp, str) else xmp
    if suffix == "png":
        if isinstance(xmp, bytes):
            pytest.skip("PNG holds text")
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp)
        picture().save(path, pnginfo=info, exif=with_lens())
    elif suffix == "tiff":
        picture().save(path, tiffinfo={700: data}, exif=with_lens())
    else:
        picture().save(path, xmp=data, exif=with_lens())
    photo = load_photo(path)
    assert photo.focal_px is None
    assert any("panorama" in note and "GPano" in note for note in photo.notes)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"CustomRendered": 6}, "stitched"),
        ({"Software": "Hugin 2022.0"}, "Hugin"),
        ({"Software": "PTGui Pro"}, "PTGui"),
        ({"NewSubfileType": 1}, "raw"),
    ],
)
def test_the_lens_of_a_stitched_or_reduced_picture_is_not_believed(tmp_path: Path, tags, said):
    picture().save(tmp_path / "photo.jpg", exif=with_lens(**tags))
    photo = load_photo(tmp_path / "photo.jpg")
    assert photo.focal_px is None
    assert any(said in note for note in photo.notes)


def test_the_preview_in_a_raw_file_is_named_as_what_it_is(tmp_path: Path):
    picture().save(tmp_path / "photo.tiff", tiffinfo={50706: b"\x01\x04\x00\x00", 254: 1})
    (tmp_path / "photo.tiff").rename(tmp_path / "IMG_1.DNG")
    assert any("preview" in note for note in load_photo(tmp_path / "IMG_1.DNG").notes)


def test_the_lens_of_a_picture_far_wider_than_any_sensor_is_not_believed(tmp_path: Path):
    picture(400, 100).save(tmp_path / "wide.jpg", exif=with_lens())
    photo = load_photo(tmp_path / "wide.jpg")
    assert photo.focal_px is None
    assert any("4.0 to 1" in note for note in photo.notes)


@pytest.mark.parametrize("software", ["Adobe Lightroom 6", "17.4.1", "HDR+ 1.0.345"])
def test_the_lens_of_an_ordinary_photograph_is_believed(tmp_path: Path, software: str):
    picture(128, 96).save(tmp_path / "p.jpg", exif=with_lens(Software=software, CustomRendered=1))
    photo = load_photo(tmp_path / "p.jpg")
    assert photo.focal_px is not None
    assert photo.notes == ()


def float_tiff(path: Path, values: np.ndarray, *, bits: int = 32, orientation: int = 1) -> None:
    """Write an uncompressed little-endian TIFF of floats "h w channels"."""
    height, width, channels = values.shape
    pixels = values.astype(f"<f{bits // 8}").tobytes()
    extra = struct.pack(f"<{2 * channels}H", *([bits] * channels + [3] * channels))
    after = 8 + 2 + 11 * 12 + 4
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, channels, after),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, after + len(extra)),
        (274, 3, 1, orientation),
        (277, 3, 1, channels),
        (278, 4, 1, height),
        (279, 4, 1, len(pixels)),
        (339, 3, channels, after + 2 * channels),
    ]
    directory = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    path.write_bytes(head + directory + bytes(4) + extra + pixels)


def test_float_colours_of_a_tiff_are_read(tmp_path: Path):
    values = np.random.default_rng(0).random((80, 96, 3))
    float_tiff(tmp_path / "render.tif", values)
    photo = load_photo(tmp_path / "render.tif")
    np.testing.assert_allclose(photo.image.permute(1, 2, 0), values, atol=0.5 / 255 + 1e-6)
    assert photo.notes == ()


def test_float_colours_without_a_range_take_the_brightest_as_white(tmp_path: Path):
    values = np.random.default_rng(0).random((80, 96, 3)) * 4
    values[0, 0] = np.nan
    values[0, 1] = np.inf
    float_tiff(tmp_path / "render.tif", values, orientation=6)
    photo = load_photo(tmp_path / "render.tif")
    assert photo.image.shape == (3, 96, 80)
    finite = values[1:]
    expected = np.rot90(finite / finite.max(), -1)
    np.testing.assert_allclose(photo.image[:, :, :-1].permute(1, 2, 0), expected, atol=3e-3)
    assert any("brightest" in note for note in photo.notes)


def test_a_tiff_in_a_layout_that_is_not_read_is_called_a_tiff(tmp_path: Path):
    float_tiff(tmp_path / "half.tif", np.zeros((80, 96, 3)), bits=16)
    with pytest.raises(InputError, match=r"is a TIFF with pixels of 3 x 16 bits \(floating point"):
        load_photo(tmp_path / "half.tif")
    path = tmp_path / "cut.tif"
    path.write_bytes((tmp_path / "half.tif").read_bytes()[:60])
    with pytest.raises(InputError, match="damaged TIFF"):
        load_photo(path)


def test_a_jpeg_above_the_limit_of_pillow_is_reduced_while_it_is_decoded(tmp_path, monkeypatch):
    picture(7000, 6600).save(tmp_path / "huge.jpg", exif=with_lens())
    wanted = load_photo(tmp_path / "huge.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6_000_000)  # refused above twice as many
    photo = load_photo(tmp_path / "huge.jpg")
    assert photo.image.equal(wanted.image)
    assert (photo.focal_px, photo.notes) == (wanted.focal_px, wanted.notes)


def test_what_cannot_be_reduced_while_it_is_decoded_is_refused(tmp_path: Path, monkeypatch):
    picture(1000, 900).save(tmp_path / "large.png")
    picture(1000, 900).save(tmp_path / "large.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300_000)
    for name in ("large.png", "large.jpg"):  # the JPEG is too small for a reduction
        with pytest.raises(InputError, match="too large"):
            load_photo(tmp_path / name)
    monkeypatch.setattr(decode, "MAX_JPEG_PX", 800_000)
    with pytest.raises(InputError, match="over 300 megapixels"):
        load_photo(tmp_path / "large.jpg")


def test_heic_is_read_where_its_package_is_installed_and_else_said_how_to_get_it(tmp_path: Path):
    from zeronvs.photo.decode import _HEIF_PACKAGES

    path = tmp_path / "photo.heic"
    path.write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(64))
    installed = any(importlib.util.find_spec(name) for name in _HEIF_PACKAGES)
    said = "damaged" if installed else "pip install 'zeronvs\\[heic\\]'"
    with pytest.raises(InputError, match=said):
        load_photo(path)


def test_a_photograph_of_a_phone_in_heic_is_upright_with_its_lens(tmp_path: Path):
    from zeronvs.photo.decode import _HEIF_PACKAGES

    if not any(importlib.util.find_spec(name) for name in _HEIF_PACKAGES):
        pytest.skip("needs a reader of HEIC, the extra heic")
    (tmp_path / "IMG_0001.HEIC").write_bytes(zlib.decompress(base64.b64decode(HEIC)))
    photo = load_photo(tmp_path / "IMG_0001.HEIC")
    assert photo.image.shape == (3, 80, 96)
    for column, colour in ((10, (200, 40, 20)), (-10, (20, 60, 180))):
        seen = photo.image[:, 40, column] * 255
        torch.testing.assert_close(seen, torch.tensor(colour).float(), atol=4.0, rtol=0)
    assert photo.focal_px == pytest.approx(26 / math.hypot(36, 24) * math.hypot(96, 80), rel=1e-3)
