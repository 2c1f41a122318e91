"""Focal length in pixels from EXIF data, and when the recorded lens does not apply."""

import math
import re
from dataclasses import dataclass, replace

from PIL import ExifTags, Image

_DIAGONAL_35MM = math.hypot(36.0, 24.0)
_MM_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0}  # FocalPlaneResolutionUnit: inch, cm, mm
_LEAST_ZOOM = 1.02
_MAX_LENS_RATIO = 2.4
"""Sensors and their in-camera crops are at most 21:9; a wider image was stitched or cropped."""
_PANORAMA_XMP = b"ns.google.com/photos/1.0/panorama"
_PROJECTION = re.compile(rb"ProjectionType\s*(?:=\s*[\"']|>)\s*([A-Za-z]+)")
_STITCHERS = re.compile(
    r"hugin|ptgui|autopano|autostitch|image composite editor|panorama|photo ?sphere|pano2vr|"
    r"insta360|kolor",
    re.IGNORECASE,
)
_APPLE_PANORAMA = 6
"""Value of EXIF CustomRendered; the standard has 0 and 1 only."""
_DNG_VERSION, _XMP_IN_TIFF = 50706, 700
RAW_SUFFIXES = frozenset(
    ".dng .nef .nrw .cr2 .cr3 .crw .arw .srf .sr2 .orf .rw2 .raf .pef .srw .3fr .iiq .rwl".split()
)


@dataclass(frozen=True, kw_only=True)
class ExifFocal:
    """A focal length and its source; `focal_px` is None where nothing usable is recorded."""

    focal_px: float | None = None
    """Focal length in pixels of the file at full size."""
    source: str | None = None
    note: str | None = None
    """Why a recorded lens was not used, or what was assumed of it."""


def focal_px_from_exif(image: Image.Image, file_size: tuple[int, int]) -> ExifFocal:
    """Read the focal length of an image.

    First from the 35-mm equivalent, which compares diagonals (CIPA DC-008), then from the focal
    length in mm and the pixel pitch of the sensor, times the digital zoom. An image whose aspect
    ratio differs from the one recorded by the camera was cropped by an unknown amount, so its focal
    length is unknown.

    Args:
        image: An opened image.
        file_size: (width, height) of the file, before any reduction at decoding.
    """
    numbers = _exif_tags(image)
    exception = non_pinhole_kind(image)
    if exception is not None:
        return ExifFocal(note=f"By its metadata it is {exception}; lens data was not used.")
    recorded = _size(numbers)
    if recorded is not None and _was_cropped(recorded, file_size):
        return ExifFocal(note="It was cropped after it was taken, so its lens data was not used.")
    equivalent_mm = _number(numbers.get(ExifTags.Base.FocalLengthIn35mmFilm))
    has_lens = equivalent_mm or _number(numbers.get(ExifTags.Base.FocalLength))
    ratio = max(file_size) / min(file_size)
    if has_lens and ratio > _MAX_LENS_RATIO:
        return ExifFocal(
            note=f"Its aspect ratio is {ratio:.1f} to 1, that of a panorama or a cropped strip, "
            "so its lens data was not used."
        )
    zoom = max(1.0, _number(numbers.get(ExifTags.Base.DigitalZoomRatio)) or 1.0)
    if equivalent_mm is not None:
        focal = _checked(
            equivalent_mm / _DIAGONAL_35MM * math.hypot(*file_size),
            "EXIF FocalLengthIn35mmFilm",
            file_size,
        )
        if zoom > _LEAST_ZOOM and focal.note is None:
            note = f"It was taken with a digital zoom of {zoom:.1f}; its FocalLengthIn35mmFilm is "
            return replace(focal, note=note + "taken to include that, which not every phone does.")
        return focal
    focal_mm = _number(numbers.get(ExifTags.Base.FocalLength))
    resolution = _number(numbers.get(ExifTags.Base.FocalPlaneXResolution))
    unit = _number(numbers.get(ExifTags.Base.FocalPlaneResolutionUnit)) or 2
    if focal_mm is None or resolution is None or int(unit) not in _MM_PER_UNIT:
        return ExifFocal()
    resized = max(file_size) / max(recorded) if recorded else 1.0
    focal_px = focal_mm * resolution / _MM_PER_UNIT[int(unit)] * resized * zoom
    return _checked(focal_px, "EXIF FocalLength and FocalPlaneXResolution", file_size)


def non_pinhole_kind(image: Image.Image) -> str | None:
    """Describe an image that is not a pinhole image of the recorded lens; None for a photograph.

    Recognised by metadata: a photo sphere (GPano), a panorama stitched by a phone or a program, and
    the preview in a raw file.
    """
    xmp = _xmp(image)
    if _PANORAMA_XMP in xmp:
        found = _PROJECTION.search(xmp)
        kind = f"GPano, {found[1].decode().lower()}" if found else "GPano"
        return f"a panorama ({kind}), not a perspective image: render a perspective view of it"
    base = _tags(image)
    if _exif_tags(image).get(ExifTags.Base.CustomRendered) == _APPLE_PANORAMA:
        return "a panorama stitched by the phone (EXIF CustomRendered)"
    for tag in (ExifTags.Base.Software, ExifTags.Base.ProcessingSoftware):
        if isinstance(name := base.get(tag), str) and _STITCHERS.search(name):
            return f"a panorama (written by {' '.join(name.split())[:40]})"
    reduced = base.get(ExifTags.Base.NewSubfileType, 0)
    suffix = str(getattr(image, "filename", "")).lower()
    if (
        (isinstance(reduced, int) and reduced & 1)
        or _DNG_VERSION in base
        or suffix.endswith(tuple(RAW_SUFFIXES))
    ):
        return "the small preview in a raw file: develop the raw file to a JPEG or TIFF"
    return None


def _tags(image: Image.Image) -> dict[int, object]:
    try:
        return {int(tag): value for tag, value in image.getexif().items()}
    except Exception:  # EXIF blocks are often damaged
        return {}


def _exif_tags(image: Image.Image) -> dict[int, object]:
    try:
        tags = image.getexif().get_ifd(ExifTags.IFD.Exif)
        return {int(tag): value for tag, value in tags.items()}
    except Exception:  # EXIF blocks are often damaged
        return {}


def _xmp(image: Image.Image) -> bytes:
    """Return the XMP block, without the zero bytes of UTF-16."""
    for value in (
        image.info.get("xmp"),
        image.info.get("XML:com.adobe.xmp"),
        _tags(image).get(_XMP_IN_TIFF),
    ):
        if isinstance(value, str):
            value = value.encode("utf-8", "replace")
        if isinstance(value, bytes) and value:
            return value.replace(b"\0", b"")
    return b""


def _number(value: object) -> float | None:
    """Return a positive finite number, or None for anything else that EXIF can hold."""
    try:
        number = float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return number if math.isfinite(number) and number > 0.0 else None


def _size(tags: dict[int, object]) -> tuple[float, float] | None:
    width = _number(tags.get(ExifTags.Base.ExifImageWidth))
    height = _number(tags.get(ExifTags.Base.ExifImageHeight))
    return None if width is None or height is None else (width, height)


def _was_cropped(recorded: tuple[float, float], file_size: tuple[int, int]) -> bool:
    """Compare aspect ratios, regardless of a rotation by 90 degrees."""
    recorded_ratio = max(recorded) / min(recorded)
    file_ratio = max(file_size) / min(file_size)
    return abs(recorded_ratio / file_ratio - 1.0) > 0.03


def _checked(focal_px: float, source: str, file_size: tuple[int, int]) -> ExifFocal:
    """Reject focal lengths outside 5 to 150 degrees along the shorter side."""
    fov_deg = math.degrees(2.0 * math.atan(0.5 * min(file_size) / focal_px))
    if not 5.0 <= fov_deg <= 150.0:
        return ExifFocal(note=f"Its {source} is not plausible and was not used.")
    return ExifFocal(focal_px=focal_px, source=source)
