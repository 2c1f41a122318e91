"""Photographs: everything a phone, a scanner or a web page may hand over."""

import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from zeronvs._core.errors import InputError
from zeronvs.photo.photo import load_photo, photo_from_image

LEFT, RIGHT = (200, 40, 20), (20, 60, 180)


def two_halves(width: int = 96, height: int = 80) -> Image.Image:
    """Return a picture whose left half is red and whose right half is blue."""
    image = Image.new("RGB", (width, height), LEFT)
    image.paste(RIGHT, (width // 2, 0, width, height))
    return image


def corner_colours(photo) -> tuple[torch.Tensor, torch.Tensor]:
    return photo.image[:, 10, 10] * 255, photo.image[:, 10, -10] * 255


def assert_two_halves(photo, tolerance: float = 4.0) -> None:
    left, right = corner_colours(photo)
    torch.testing.assert_close(left, torch.tensor(LEFT).float(), atol=tolerance, rtol=0)
    torch.testing.assert_close(right, torch.tensor(RIGHT).float(), atol=tolerance, rtol=0)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "bmp", "gif", "ppm", "tga"])
def test_common_formats_give_the_same_picture(tmp_path: Path, suffix: str):
    path = tmp_path / f"photo.{suffix}"
    two_halves().save(path)
    photo = load_photo(path)
    assert photo.image.shape == (3, 80, 96)
    assert photo.image.dtype == torch.float32
    assert_two_halves(photo)
    assert photo.notes == ()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int):
    upright = two_halves()
    undo = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = upright
    for step in undo.get(orientation, []):
        stored = stored.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.jpg", exif=exif, quality=95)
    photo = load_photo(tmp_path / "photo.jpg")
    assert photo.source_size_px == (80, 96)
    assert_two_halves(photo)


def test_print_colours_become_screen_colours(tmp_path: Path):
    two_halves().convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    photo = load_photo(tmp_path / "print.jpg")
    assert_two_halves(photo, tolerance=12)
    assert any("CMYK" in note for note in photo.notes)


def test_sixteen_bit_grey_keeps_its_brightness(tmp_path: Path):
    values = np.full((80, 96), 16384, dtype=np.uint16)
    values[:, 48:] = 49152
    Image.fromarray(values).save(tmp_path / "deep.png")
    photo = load_photo(tmp_path / "deep.png")
    assert photo.image.shape == (3, 80, 96)
    assert photo.image[:, 5, 5].tolist() == pytest.approx([0.25] * 3, abs=1e-4)
    assert photo.image[:, 5, -5].tolist() == pytest.approx([0.75] * 3, abs=1e-4)


@pytest.mark.parametrize("mode", ["I;16", "L", "1", "P", "LA", "RGBA", "F", "CMYK"])
def test_every_pixel_mode_can_be_reduced(tmp_path: Path, mode: str):
    values = np.full((1700, 1600), 16384, dtype=np.uint16)
    image = Image.fromarray(values) if mode == "I;16" else two_halves(1600, 1700).convert(mode)
    image.save(tmp_path / "large.tiff")
    assert load_photo(tmp_path / "large.tiff").image.shape == (3, 1632, 1536)


def test_float_grey_without_a_range_takes_its_brightest_pixel_as_white(tmp_path: Path):
    values = np.full((80, 96), 2.0, dtype=np.float32)
    values[:, 48:] = 8.0
    values[0, 0] = np.nan
    Image.fromarray(values).save(tmp_path / "float.tiff")
    photo = load_photo(tmp_path / "float.tiff")
    assert float(photo.image[0, 5, 5]) == pytest.approx(0.25)
    assert photo.notes


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "YCbCr"])
def test_every_pixel_mode_becomes_three_channels(tmp_path: Path, mode: str):
    suffix = "jpg" if mode == "YCbCr" else "png"
    two_halves().convert(mode).save(tmp_path / f"photo.{suffix}")
    assert load_photo(tmp_path / f"photo.{suffix}").image.shape == (3, 80, 96)


def test_transparent_parts_are_laid_on_white(tmp_path: Path):
    image = two_halves().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 255))
    image.paste((0, 0, 0, 0), (0, 0, 48, 80))
    image.save(tmp_path / "cut_out.png")
    photo = load_photo(tmp_path / "cut_out.png")
    left, right = corner_colours(photo)
    assert left.tolist() == [255.0] * 3
    assert right.tolist() == list(RIGHT)
    assert any("white" in note for note in photo.notes)


def test_an_animation_gives_its_first_picture_and_says_so(tmp_path: Path):
    first, second = two_halves(), Image.new("RGB", (96, 80), (0, 255, 0))
    first.save(tmp_path / "moving.gif", save_all=True, append_images=[second])
    photo = load_photo(tmp_path / "moving.gif")
    assert_two_halves(photo)
    assert any("first" in note for note in photo.notes)


def test_a_colour_profile_that_is_damaged_is_passed_over(tmp_path: Path):
    two_halves().save(tmp_path / "photo.png", icc_profile=b"nonsense")
    photo = load_photo(tmp_path / "photo.png")
    assert_two_halves(photo)
    assert any("profile" in note for note in photo.notes)


def test_a_colour_profile_is_applied(tmp_path: Path):
    # The sRGB profile with its red and blue primaries exchanged must exchange red and blue.
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace("sRGB".encode("utf-16-be"), "sBGR".encode("utf-16-be"))
    for old, new in ((b"rXYZ", b"????"), (b"bXYZ", b"rXYZ"), (b"????", b"bXYZ")):
        profile = profile.replace(old, new)
    red, green, blue = two_halves().split()
    Image.merge("RGB", (blue, green, red)).save(tmp_path / "photo.png", icc_profile=profile)
    photo = load_photo(tmp_path / "photo.png")
    assert photo.notes == ()
    assert_two_halves(photo)


def test_a_hundred_megapixels_are_read(tmp_path: Path):
    two_halves(12000, 9000).save(tmp_path / "huge.jpg", quality=90)
    photo = load_photo(tmp_path / "huge.jpg")
    assert photo.image.shape == (3, 1536, 2048)
    assert photo.source_size_px == (9000, 12000)
    assert_two_halves(photo)


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that promises a size and holds no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def bad_file(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.png"
    if kind == "truncated":
        noise = np.random.default_rng(0).integers(0, 255, (80, 96, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "truncated_jpeg":
        noise = np.random.default_rng(0).integers(0, 255, (80, 96, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "whole.jpg")
        path.write_bytes((folder / "whole.jpg").read_bytes()[:3000])
    elif kind == "text":
        path.write_text("this is no picture")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.mkdir()
    elif kind == "one_pixel":
        Image.new("RGB", (1, 1)).save(path)
    elif kind == "sliver":
        Image.new("RGB", (2000, 63)).save(path)
    elif kind == "bomb":
        path.write_bytes(png_header(60000, 60000))
    elif kind == "heic":
        path.write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(64))
    elif kind == "raw":
        path = path.with_suffix(".cr3")
        path.write_bytes(b"\x00\x00\x00\x18ftypcrx " + bytes(64))
    elif kind == "video":
        path.write_bytes(b"\x00\x00\x00\x14ftypqt  " + bytes(64))
    elif kind == "webm":
        path.write_bytes(b"\x1aE\xdf\xa3" + bytes(64))
    elif kind == "avif":
        path.write_bytes(b"\x00\x00\x00\x18ftypavif" + bytes(64))
    elif kind == "drawing":
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 90\n%%EndComments\n")
    elif kind == "pipe":
        os.mkfifo(path)
    return path  # "missing" stays missing


BAD = {
    "missing": "no such file",
    "folder": "folder",
    "empty": "empty",
    "text": "not an image",
    "truncated": "damaged or cut short",
    "truncated_jpeg": "damaged or cut short",
    "one_pixel": "1x1",
    "sliver": "shorter side",
    "bomb": "too large",
    "heic": "HEIC",
    "raw": "raw file",
    "video": "is a video",
    "webm": "is a video",
    "avif": "not an image",
    "drawing": "drawing",
    "pipe": "not an ordinary file",
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_photograph_is_refused_in_one_line(tmp_path: Path, kind: str):
    with pytest.raises(InputError) as caught:
        load_photo(bad_file(kind, tmp_path))
    message = str(caught.value)
    assert BAD[kind] in message
    assert "\n" not in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path):
    path = tmp_path / "secret.png"
    two_halves().save(path)
    path.chmod(0)
    with pytest.raises(InputError, match="permission denied"):
        load_photo(path)


def test_a_name_that_is_too_long_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="cannot be read"):
        load_photo(tmp_path / ("x" * 5000))


def test_a_large_photograph_is_reduced_and_its_lens_with_it(tmp_path: Path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 26  # FocalLengthIn35mmFilm
    two_halves(4000, 3200).save(tmp_path / "large.jpg", exif=exif)
    photo = load_photo(tmp_path / "large.jpg")
    assert photo.image.shape == (3, 1536, 1920)
    assert photo.source_size_px == (3200, 4000)
    assert_two_halves(photo)
    assert photo.focal_px == pytest.approx(26 / math.hypot(36, 24) * math.hypot(1920, 1536))


def test_the_lens_is_not_used_after_a_crop(tmp_path: Path):
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0xA405: 26, 0xA002: 4000, 0xA003: 3000})
    two_halves(96, 96).save(tmp_path / "cropped.jpg", exif=exif)
    photo = load_photo(tmp_path / "cropped.jpg")
    assert photo.focal_px is None
    assert any("cropped" in note for note in photo.notes)


def test_the_lens_is_read_from_millimetres_and_pixel_pitch(tmp_path: Path):
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0x920A: 4.0, 0xA20E: 100.0, 0xA210: 4})
    two_halves(400, 300).save(tmp_path / "pitch.jpg", exif=exif)
    assert load_photo(tmp_path / "pitch.jpg").focal_px == pytest.approx(400.0)


def test_digital_zoom_lengthens_the_lens_where_the_record_leaves_it_out(tmp_path: Path):
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0x920A: 4.0, 0xA20E: 100.0, 0xA210: 4, 0xA404: 2.0})
    two_halves(400, 300).save(tmp_path / "pitch.jpg", exif=exif)
    assert load_photo(tmp_path / "pitch.jpg").focal_px == pytest.approx(800.0)


def test_the_35_mm_equivalent_is_taken_to_include_the_digital_zoom_and_that_is_said(tmp_path: Path):
    focal_px = {}
    for zoom in (1.0, 4.0):
        exif = Image.Exif()
        exif.get_ifd(0x8769).update({0xA405: 52, 0xA404: zoom})
        two_halves(96, 80).save(tmp_path / "zoom.jpg", exif=exif)
        photo = load_photo(tmp_path / "zoom.jpg")
        focal_px[zoom] = photo.focal_px
        assert any("digital zoom of 4.0" in note for note in photo.notes) == (zoom == 4.0)
    assert focal_px[1.0] == focal_px[4.0] == pytest.approx(52 / 43.27 * math.hypot(96, 80), 1e-3)


def test_an_implausible_lens_is_not_used(tmp_path: Path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 60000
    two_halves().save(tmp_path / "odd.jpg", exif=exif)
    photo = load_photo(tmp_path / "odd.jpg")
    assert photo.focal_px is None
    assert any("plausible" in note for note in photo.notes)


def test_damaged_exif_does_not_stop_a_good_picture(tmp_path: Path):
    two_halves().save(tmp_path / "photo.jpg", exif=b"Exif\x00\x00MM\x00*garbage-garbage-garbage")
    assert_two_halves(load_photo(tmp_path / "photo.jpg"))


def test_an_image_in_memory_is_read_as_the_file_is(tmp_path: Path):
    two_halves().save(tmp_path / "photo.png")
    with Image.open(tmp_path / "photo.png") as image:
        photo = photo_from_image(image)
    torch.testing.assert_close(photo.image, load_photo(tmp_path / "photo.png").image)
    with pytest.raises(InputError, match="64"):
        photo_from_image(Image.new("RGB", (20, 100)))


def test_a_photograph_of_one_colour_is_taken_with_a_note():
    flat = photo_from_image(Image.new("RGB", (80, 80), (90, 90, 90)))
    assert any("flat" in note for note in flat.notes)
    assert photo_from_image(two_halves()).notes == ()


def test_an_image_in_memory_has_no_name_but_keeps_its_size():
    photo = photo_from_image(two_halves(96, 80))
    assert photo.name == "the image"
    assert photo.source_size_px == (80, 96)
