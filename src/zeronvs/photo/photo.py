"""Reading a photograph: any image file to upright sRGB pixels, or one line that says why not.

`load_photo` opens what Pillow opens, applies the EXIF orientation and the colour profile, and keeps
the recorded focal length.
"""

import io
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs.photo.exif import focal_px_from_exif

MIN_SIDE_PX = 64
"""Smallest short side that is accepted."""
MAX_SHORT_SIDE_PX = 1536
"""Larger photographs are reduced to this short side: the model sees at most a few hundred."""
MAX_LONG_SIDE_PX = 8192
"""Bounds the memory of a panorama."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Photo:
    """One photograph, upright."""

    image: Float[Tensor, "3 h w"]
    """sRGB in [0, 1]; reduced where the file is larger than the bounds above."""
    name: str
    """File name, for messages."""
    source_size_px: tuple[int, int]
    """(height, width) of the file, upright."""
    focal_px: float | None = None
    """Focal length in pixels of `image`, where the camera recorded its lens."""
    focal_source: str | None = None
    """The EXIF field that `focal_px` comes from."""
    notes: tuple[str, ...] = ()
    """Conversions applied to the image that the user should know of, one sentence each."""


def load_photo(path: Path | str) -> Photo:
    """Read a photograph.

    Applied: the EXIF rotation, the embedded colour profile, white behind transparent parts, the
    first frame of an animation, 16-bit to float, and a reduction of very large files.

    Raises:
        InputError: There is no such file, it cannot be read, it is not a complete image, or it is
            smaller than 64 px or larger than about 180 megapixels.
    """
    path = Path(path)
    _check_file(path)
    try:
        with warnings.catch_warnings():
            # A warning of Pillow's is about the file's state: what is unusable raises instead.
            warnings.simplefilter("ignore")
            return _read(path)
    except InputError:
        raise
    except Image.UnidentifiedImageError as error:
        raise InputError(_not_a_picture(path)) from error
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{path.name} is too large: over 178 megapixels. Give a smaller copy of it."
        ) from error
    except MemoryError as error:
        raise InputError(f"{path.name} does not fit into memory. Give a smaller copy.") from error
    except Exception as error:  # a damaged file can raise anything in a decoder
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path.name} is damaged or cut short ({reason}). Give a whole file, "
            "for instance by opening it in a viewer and saving it again."
        ) from error


def photo_from_image(image: Image.Image) -> Photo:
    """Return an image in memory as a photograph: upright, in sRGB, with the lens in its EXIF data.

    Raises:
        InputError: It is smaller than 64 px or damaged.
    """
    try:
        return _decoded(image, getattr(image, "filename", "") or "the image", [])
    except InputError:
        raise
    except Exception as error:  # a damaged file can raise anything when it is decoded
        raise InputError(f"the image cannot be decoded ({error})") from error


def _check_file(path: Path) -> None:
    """Refuse a path that is not a readable, non-empty file."""
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({_reason(error)})") from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path}: is a folder; give one photograph")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: is not an ordinary file; give one photograph")
    if status.st_size == 0:
        raise InputError(f"{path}: is empty (0 bytes); give a whole file")
    try:
        path.open("rb").close()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


def _not_a_picture(path: Path) -> str:
    """Return the message for an undecodable file; HEIC, which phones write, has its own."""
    with path.open("rb") as handle:
        head = handle.read(16)
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"heim", b"hevc"):
        return (
            f"{path.name} is a HEIC picture, which cannot be read here. Save it as JPEG or PNG, "
            "or set the phone to take JPEG (most compatible)."
        )
    return (
        f"{path.name} is not a picture that can be read (tried every format of Pillow). "
        "Give a JPEG, PNG, WebP or TIFF file."
    )


def _read(path: Path) -> Photo:
    """Decode the file; any error of the decoder passes through."""
    notes: list[str] = []
    with Image.open(path) as image:
        if image.format in ("EPS", "WMF"):  # drawings: Pillow would run another program on them
            raise InputError(f"{path.name} is a drawing ({image.format}), not a photograph")
        return _decoded(image, path.name, notes)


def _decoded(image: Image.Image, name: str, notes: list[str]) -> Photo:
    """Decode an open image: reduced, upright, in sRGB."""
    _check_size(name, image.size)
    if getattr(image, "is_animated", False) and image.format != "MPO":
        notes.append("It holds several images; the first one is used.")
    file_size = image.size
    image.draft("RGB", (2 * MAX_SHORT_SIDE_PX, 2 * MAX_SHORT_SIDE_PX))
    image.load()
    focal = focal_px_from_exif(image, file_size)
    pixels = _upright(_reduced(image, notes), notes)
    pixels = to_srgb(pixels, icc_profile=image.info.get("icc_profile"), notes=notes)
    turned = (pixels.width > pixels.height) != (file_size[0] > file_size[1])
    upright_size = file_size[::-1] if turned else file_size
    _check_size(name, pixels.size)
    tensor = _to_tensor(pixels)
    if float(tensor.std()) < 0.01:
        notes.append("It is one flat color: there is nothing to see from another side.")
    scale = max(pixels.size) / max(file_size)
    if focal.note is not None:
        notes.append(focal.note)
    return Photo(
        image=tensor,
        name=name,
        source_size_px=(upright_size[1], upright_size[0]),
        focal_px=None if focal.focal_px is None else focal.focal_px * scale,
        focal_source=focal.source,
        notes=tuple(notes),
    )


def _check_size(name: str, size: tuple[int, int]) -> None:
    if min(size) < MIN_SIDE_PX:
        raise InputError(
            f"{name} is {size[0]}x{size[1]} px; the shorter side must have at least "
            f"{MIN_SIDE_PX}. Use a larger photograph."
        )


def _reduced(image: Image.Image, notes: list[str]) -> Image.Image:
    """Downscale a very large image to the bounds, keeping its aspect ratio."""
    factor = min(1.0, MAX_SHORT_SIDE_PX / min(image.size), MAX_LONG_SIDE_PX / max(image.size))
    if factor == 1.0:
        return image
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    notes.append(f"It is large; it was reduced to {size[0]}x{size[1]} px.")
    if image.mode in ("P", "PA", "1"):
        image = image.convert("RGBA")
    elif image.mode.startswith("I;"):
        image = image.convert("I")
    return image.resize(size, Image.Resampling.BOX, reducing_gap=2.0)


def _upright(image: Image.Image, notes: list[str]) -> Image.Image:
    """Apply the EXIF rotation; damaged EXIF data is passed over."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF blocks are often damaged, the pixels are not
        notes.append("Its EXIF data is damaged and was not used: the picture may lie on its side.")
        return image


def _to_tensor(image: Image.Image) -> Float[Tensor, "3 h w"]:
    array = np.array(image, dtype=np.float32)
    if image.mode == "F":
        array = np.repeat(array[:, :, None], 3, axis=2)
    else:
        array /= 255.0
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def to_srgb(image: Image.Image, *, icc_profile: bytes | None, notes: list[str]) -> Image.Image:
    """Return the image in mode RGB, or in mode F (grey, in [0, 1]) for more than 8 bits.

    Args:
        notes: Sentences about applied conversions are appended.
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
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
    values = np.maximum(values, 0.0)
    highest = float(values.max(initial=0.0))
    if image.mode == "F" and highest <= 1.0:
        white = 1.0
    elif image.mode != "F" and highest <= 65535.0:
        white = 65535.0
    else:
        white = highest
        notes.append("Its brightness has no fixed range; its brightest pixel was taken as white.")
    return Image.fromarray((values / white).astype(np.float32))


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
