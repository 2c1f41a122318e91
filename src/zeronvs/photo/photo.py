"""Reading a photograph: from any file to an upright sRGB image, or an error in one line.

`load_photo` opens an image file (`decode`), applies its orientation, converts it to sRGB
(`colour`) and reads the focal length that the camera recorded (`exif`).
"""

import stat
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs.photo.colour import to_srgb
from zeronvs.photo.decode import open_image
from zeronvs.photo.exif import focal_px_from_exif

PHOTO_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .mpo .png .webp .avif .tif .tiff .heic .heif .bmp .gif .jp2".split()
)
"""By which photographs in a folder are known; a file that is named may have any."""
MIN_SIDE_PX = 64
"""Smallest short side that is accepted."""
MAX_SHORT_SIDE_PX = 1536
"""Larger photographs are downscaled to this short side, which bounds time and memory."""
MAX_LONG_SIDE_PX = 8192
"""Larger photographs are downscaled to this long side, which bounds the memory of panoramas."""


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
    """Conversions and assumptions to show to the user, one sentence each."""


def load_photo(path: Path | str) -> Photo:
    """Read a photograph.

    Applied: the EXIF rotation, the embedded colour profile, white behind transparent parts, the
    first frame of an animation, 16-bit to float, and a reduction of very large files.

    Args:
        path: A file in any format that Pillow reads; HEIC with the extra `heic`.

    Raises:
        InputError: There is no such file, it cannot be read, it is truncated, or it is
            smaller than 64 px or larger than 178 megapixels (300 as JPEG).
    """
    path = Path(path)
    _check_file(path)
    try:
        with warnings.catch_warnings():
            # Pillow warns of imperfect files; it raises for unusable ones, which is handled below.
            warnings.simplefilter("ignore")
            return _read(path)
    except InputError:
        raise
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
    """Raise `InputError` unless the path is a readable, non-empty regular file."""
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({_reason(error)})") from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path}: is a folder; give one photograph of it")
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


def _read(path: Path) -> Photo:
    """Decode the file; any error of the decoder passes through."""
    notes: list[str] = []
    with open_image(path, notes) as image:
        if image.format in ("EPS", "WMF"):  # Pillow would run another program on EPS
            raise InputError(f"{path.name} is a drawing ({image.format}), not a photograph")
        return _decoded(image, path.name, notes)


def _decoded(image: Image.Image, name: str, notes: list[str]) -> Photo:
    """Decode an open image, downscale it, apply its orientation and convert it to sRGB."""
    _check_size(name, image.size)
    if getattr(image, "is_animated", False) and image.format != "MPO":
        notes.append("It holds several images; the first one is used.")
    file_size = image.size
    image.draft("RGB", (2 * MAX_SHORT_SIDE_PX, 2 * MAX_SHORT_SIDE_PX))
    if Image.MAX_IMAGE_PIXELS and image.width * image.height > 2 * Image.MAX_IMAGE_PIXELS:
        raise InputError(f"{name} is too large to decode. Give a smaller copy of it.")
    image.load()
    focal = focal_px_from_exif(image, file_size)
    pixels = _upright(_reduced(image, notes), notes)
    pixels = to_srgb(pixels, icc_profile=image.info.get("icc_profile"), notes=notes)
    turned = (pixels.width > pixels.height) != (file_size[0] > file_size[1])
    upright_size = file_size[::-1] if turned else file_size
    _check_size(name, pixels.size)
    tensor = _to_tensor(pixels)
    if float(tensor.std()) < 0.01:
        notes.append("It is one flat colour, so other views of it show nothing else.")
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
    """Apply the EXIF orientation; damaged EXIF data is ignored with a note."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF blocks are often damaged, the pixels are not
        notes.append("Its EXIF data is damaged and was not used: the image may lie on its side.")
        return image


def _to_tensor(image: Image.Image) -> Float[Tensor, "3 h w"]:
    array = np.array(image, dtype=np.float32)
    if image.mode == "F":
        array = np.repeat(array[:, :, None], 3, axis=2)
    else:
        array /= 255.0
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()
