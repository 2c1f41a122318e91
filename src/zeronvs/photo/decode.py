"""Opening an image file: with Pillow, and four formats that need more.

JPEG files above Pillow's limit of pixels are reduced while they are decoded; TIFF files with
floating-point colours are decoded by PyAV; HEIC, which phones write, needs an optional package; raw
files are refused with an explanation.
"""

import importlib
from pathlib import Path

import numpy as np
from PIL import Image, JpegImagePlugin, TiffImagePlugin

from zeronvs._core.errors import InputError
from zeronvs.photo.colour import float_to_rgb
from zeronvs.photo.exif import RAW_SUFFIXES

MAX_JPEG_PX = 300_000_000
"""Phones take 200 megapixels. Decoding a progressive JPEG needs some 3 bytes per pixel."""
MAX_FLOAT_PX = 60_000_000
_HEIF_PACKAGES = ("pi_heif", "pillow_heif")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def open_image(path: Path, notes: list[str]) -> Image.Image:
    """Open an image file; most formats are decoded lazily, on first access to the pixels.

    Args:
        path: A regular, readable file.
        notes: A sentence for the user is appended for each assumed conversion.

    Raises:
        InputError: No decoder reads it, or it is too large.
    """
    with path.open("rb") as handle:
        start = handle.read(16)
    is_heif = start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS
    if is_heif:
        _register_heif(path)
    try:
        return Image.open(path)
    except Image.DecompressionBombError:
        return _large_jpeg(path)
    except Image.UnidentifiedImageError as error:
        if path.suffix.lower() in RAW_SUFFIXES:
            raise InputError(
                f"{path.name} is a raw file of a camera, which is not read here. Develop it to a "
                "JPEG, PNG or TIFF file."
            ) from error
        if start[:4] in _TIFF_STARTS:
            return _tiff(path, notes)
        if is_heif:
            raise InputError(f"{path.name} is a damaged HEIC file. Give a whole one.") from error
        if _is_video(start):
            raise InputError(
                f"{path.name} is a video. Give one frame of it as an image, for instance from: "
                f"ffmpeg -i {path.name} -frames:v 1 frame.png"
            ) from error
        raise InputError(
            f"{path.name} is not an image that can be read (tried every format of Pillow). "
            "Give a JPEG, PNG, WebP or TIFF file."
        ) from error


def _is_video(start: bytes) -> bool:
    """Return whether a file that is no image begins as MP4, MOV, Matroska, WebM or AVI do."""
    is_mp4 = start[4:8] == b"ftyp" and start[8:12] not in _AVIF_BRANDS
    return is_mp4 or start[:4] == b"\x1aE\xdf\xa3" or (start[:4], start[8:12]) == (b"RIFF", b"AVI ")


def _register_heif(path: Path) -> None:
    for name in _HEIF_PACKAGES:
        try:
            importlib.import_module(name).register_heif_opener()
        except ImportError:
            continue
        return
    raise InputError(
        f"{path.name} is a HEIC image, for which a package is missing. Run: pip install "
        "'zeronvs[heic]'. Or save it as JPEG, or set the phone to take JPEG (most compatible)."
    )


def _large_jpeg(path: Path) -> Image.Image:
    """Open a JPEG that will be decoded at half its size or less, which bounds its memory."""
    try:
        image = JpegImagePlugin.JpegImageFile(path)
    except SyntaxError as error:
        raise _too_large(path, "178 megapixels, or 300 as JPEG") from error
    if image.width * image.height > MAX_JPEG_PX:
        image.close()
        raise _too_large(path, "300 megapixels")
    return image


def _too_large(path: Path, limit: str) -> InputError:
    return InputError(f"{path.name} is too large: over {limit}. Give a smaller copy of it.")


def _tiff(path: Path, notes: list[str]) -> Image.Image:
    """Decode a TIFF with floating-point colours, in the layouts that PyAV reads."""
    advice = "Save it as a TIFF or PNG of 8 or 16 bits."
    try:
        with path.open("rb") as handle:
            header = handle.read(16)
            is_big = header[2:3] == b"+" or header[3:4] == b"+"
            tags = TiffImagePlugin.ImageFileDirectory_v2(header[: 16 if is_big else 8])
            handle.seek(tags.next)
            tags.load(handle)
        width_px, height_px = int(tags[256]), int(tags[257])
        bits, kinds = tags[258], tags.get(339, (1,))
        orientation = int(tags.get(274, 1))
    except Exception as error:  # a damaged directory can raise anything
        raise InputError(f"{path.name} is a damaged TIFF. Give a whole file.") from error
    kind = f"{path.name} is a TIFF with pixels of {len(bits)} x {bits[0]} bits"
    kind += " (floating point)" if 3 in kinds else ""
    if width_px * height_px > MAX_FLOAT_PX:
        raise InputError(f"{kind} and {width_px}x{height_px} pixels, too large to decode. {advice}")
    import av

    try:
        with av.open(str(path), format="tiff_pipe") as container:
            frame = next(container.decode(video=0))
            values = frame.to_ndarray()
    except Exception as error:  # FFmpeg has its own exceptions for unsupported layouts
        raise InputError(f"{kind} in a layout that cannot be read. {advice}") from error
    if values.dtype.kind != "f" or values.ndim not in (2, 3):
        raise InputError(f"{kind} in a layout that cannot be read. {advice}")
    image = float_to_rgb(values.astype(np.float32), notes)
    image.getexif()[274] = orientation
    return image
