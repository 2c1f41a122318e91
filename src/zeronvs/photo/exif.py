"""What a camera wrote about its lens, as a focal length in pixels."""

import math
from dataclasses import dataclass

from PIL import ExifTags, Image

_DIAGONAL_35MM = math.hypot(36.0, 24.0)
_MM_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0}  # FocalPlaneResolutionUnit: inch, cm, mm


@dataclass(frozen=True, kw_only=True)
class ExifFocal:
    """A focal length with where it comes from; `focal_px` None where nothing usable is recorded."""

    focal_px: float | None = None
    """In pixels of the whole file."""
    source: str | None = None
    note: str | None = None
    """Why a recorded lens was not used."""


def focal_px_from_exif(image: Image.Image, file_size: tuple[int, int]) -> ExifFocal:
    """Read the focal length of a picture.

    First the 35-mm equivalent, which compares diagonals (CIPA DC-008), then the focal length in mm
    with the pixel pitch of the sensor. A picture whose proportions differ from those that the
    camera recorded was cropped by an unknown amount: its lens says nothing any more.

    Args:
        image: An opened picture.
        file_size: (width, height) of the file, before any reduction at decoding.
    """
    try:
        tags = image.getexif().get_ifd(ExifTags.IFD.Exif)
        numbers = {int(tag): value for tag, value in tags.items()}
    except Exception:  # EXIF blocks are often damaged
        return ExifFocal()
    recorded = _size(numbers)
    if recorded is not None and _was_cropped(recorded, file_size):
        return ExifFocal(note="It was cropped after it was taken, so its lens data was not used.")
    equivalent_mm = _number(numbers.get(ExifTags.Base.FocalLengthIn35mmFilm))
    if equivalent_mm is not None:
        return _checked(
            equivalent_mm / _DIAGONAL_35MM * math.hypot(*file_size),
            "EXIF FocalLengthIn35mmFilm",
            file_size,
        )
    focal_mm = _number(numbers.get(ExifTags.Base.FocalLength))
    resolution = _number(numbers.get(ExifTags.Base.FocalPlaneXResolution))
    unit = _number(numbers.get(ExifTags.Base.FocalPlaneResolutionUnit)) or 2
    if focal_mm is None or resolution is None or int(unit) not in _MM_PER_UNIT:
        return ExifFocal()
    resized = max(file_size) / max(recorded) if recorded else 1.0
    focal_px = focal_mm * resolution / _MM_PER_UNIT[int(unit)] * resized
    return _checked(focal_px, "EXIF FocalLength and FocalPlaneXResolution", file_size)


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
    """Compare proportions, whichever way the picture was turned since."""
    recorded_ratio = max(recorded) / min(recorded)
    file_ratio = max(file_size) / min(file_size)
    return abs(recorded_ratio / file_ratio - 1.0) > 0.03


def _checked(focal_px: float, source: str, file_size: tuple[int, int]) -> ExifFocal:
    """Refuse what no lens has: outside 5 to 150 degrees along the shorter side."""
    fov_deg = math.degrees(2.0 * math.atan(0.5 * min(file_size) / focal_px))
    if not 5.0 <= fov_deg <= 150.0:
        return ExifFocal(note=f"Its {source} is not plausible and was not used.")
    return ExifFocal(focal_px=focal_px, source=source)
