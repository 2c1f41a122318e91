"""Bringing any pixels to sRGB: bit depths, palettes, print colours, transparency, profiles."""

import io

import numpy as np
from PIL import Image, ImageCms


def to_srgb(image: Image.Image, *, icc_profile: bytes | None, notes: list[str]) -> Image.Image:
    """Return the picture in mode RGB, or in mode F (grey, in [0, 1]) for more than 8 bits.

    Args:
        image: A loaded picture in any mode.
        icc_profile: The colour profile in the file, if any.
        notes: Sentences are appended for what its owner may want to know.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(image, notes)
    image = _without_alpha(image, notes)
    if image.mode == "L":
        return image.convert("RGB")
    converted = _by_profile(image, icc_profile, notes) if icc_profile else None
    if converted is None and image.mode == "CMYK":
        notes.append("It is in print colours (CMYK); they were converted without a profile.")
    return converted or image.convert("RGB")


def _deep_grey(image: Image.Image, notes: list[str]) -> Image.Image:
    """Map 16-bit, 32-bit and float grey to [0, 1]."""
    usual_white = 1.0 if image.mode == "F" else 65535.0
    return Image.fromarray(_to_unit_range(np.asarray(image), usual_white, notes))


def float_to_rgb(values: np.ndarray, notes: list[str]) -> Image.Image:
    """Return floats "h w" or "h w 3 (or 4)" as a picture in mode RGB; a fourth is left out.

    Args:
        values: sRGB in [0, 1], or of any range, whose brightest is then white.
        notes: A sentence is appended where the range had to be found.
    """
    unit = _to_unit_range(values[..., :3] if values.ndim == 3 else values, 1.0, notes)
    return Image.fromarray((unit * 255.0).round().astype(np.uint8)).convert("RGB")


def _to_unit_range(values: np.ndarray, usual_white: float, notes: list[str]) -> np.ndarray:
    values = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    values = np.maximum(values, 0.0)
    white, highest = usual_white, float(values.max(initial=0.0))
    if highest > usual_white:
        white = highest
        notes.append("Its brightness has no fixed range; its brightest pixel was taken as white.")
    return (values / white).astype(np.float32)


def _without_alpha(image: Image.Image, notes: list[str]) -> Image.Image:
    """Lay transparent parts on white."""
    if not image.has_transparency_data:
        return image.convert("RGB") if image.mode == "P" else image
    image = image.convert("RGBA")
    if image.getchannel("A").getextrema() != (255, 255):
        notes.append("Its transparent parts were laid on white.")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _by_profile(image: Image.Image, icc_profile: bytes, notes: list[str]) -> Image.Image | None:
    """Convert by the embedded profile; None where it is damaged or does not fit the pixels."""
    if image.mode not in ("RGB", "CMYK", "LAB"):
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
        if image.mode == "RGB" and "srgb" in ImageCms.getProfileDescription(source).lower():
            return image
        return ImageCms.profileToProfile(
            image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except Exception:  # littleCMS raises its own kinds for a damaged profile
        notes.append("Its colour profile is damaged and was not used.")
        return None
