"""Conversion of decoded images to sRGB: bit depth, palette, CMYK, transparency, ICC profile."""

import io

import numpy as np
from PIL import Image, ImageCms


def to_srgb(image: Image.Image, *, icc_profile: bytes | None, notes: list[str]) -> Image.Image:
    """Convert an image to mode RGB, or to mode F (grey, in [0, 1]) for more than 8 bits.

    Args:
        image: A decoded image in any mode.
        icc_profile: The colour profile in the file, if any.
        notes: A sentence for the user is appended for each lossy or assumed conversion.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return _grey_to_unit_range(image, notes)
    image = _composite_on_white(image, notes)
    if image.mode == "L":
        return image.convert("RGB")
    converted = _apply_profile(image, icc_profile, notes) if icc_profile else None
    if converted is None and image.mode == "CMYK":
        notes.append("It is in CMYK without a usable profile; its colours are approximate.")
    return converted or image.convert("RGB")


def _grey_to_unit_range(image: Image.Image, notes: list[str]) -> Image.Image:
    """Map 16-bit, 32-bit and float grey to [0, 1]."""
    white = 1.0 if image.mode == "F" else 65535.0
    return Image.fromarray(_to_unit_range(np.asarray(image), white, notes))


def float_to_rgb(values: np.ndarray, notes: list[str]) -> Image.Image:
    """Convert a float array "h w", "h w 3" or "h w 4" to mode RGB; a fourth channel is dropped.

    Args:
        values: sRGB, nominally in [0, 1]; if a value exceeds 1, the maximum becomes white.
        notes: A sentence is appended if the array was rescaled.
    """
    unit = _to_unit_range(values[..., :3] if values.ndim == 3 else values, 1.0, notes)
    return Image.fromarray((unit * 255.0).round().astype(np.uint8)).convert("RGB")


def _to_unit_range(values: np.ndarray, white: float, notes: list[str]) -> np.ndarray:
    """Divide by the nominal white, or by the maximum where that is larger."""
    values = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    values = np.maximum(values, 0.0)
    highest = float(values.max(initial=0.0))
    if highest > white:
        white = highest
        notes.append("Its brightness has no fixed range; its brightest pixel was taken as white.")
    return (values / white).astype(np.float32)


def _composite_on_white(image: Image.Image, notes: list[str]) -> Image.Image:
    """Composite transparent pixels over white."""
    if not image.has_transparency_data:
        return image.convert("RGB") if image.mode == "P" else image
    image = image.convert("RGBA")
    if image.getchannel("A").getextrema() != (255, 255):
        notes.append("Its transparent parts were composited over white.")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _apply_profile(image: Image.Image, icc_profile: bytes, notes: list[str]) -> Image.Image | None:
    """Convert with the embedded profile; None where it is damaged or does not fit the pixels."""
    if image.mode not in ("RGB", "CMYK", "LAB"):
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
        if image.mode == "RGB" and "srgb" in ImageCms.getProfileDescription(source).lower():
            return image
        return ImageCms.profileToProfile(
            image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except Exception:  # littleCMS has its own exceptions for damaged profiles
        notes.append("Its colour profile is damaged and was not used.")
        return None
