"""What every format becomes: scenes of posed frames whose pixels are read when asked for.

A frame is known by its camera before its pixels are read, so that one field of view can be chosen
for a whole scene while the memory holds one frame. Files come from strangers: nothing outside the
folder is opened, sizes are bounded, and nothing that could run code is read.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image

from zeronvs._core.errors import InputError
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.lens import Lens

MOST_JSON_BYTES = 512 * 2**20
MOST_PIXELS = 120_000_000
SIZE_TOLERANCE = 0.02
"""The two sides of a smaller copy may shrink by factors that differ by this much (rounding)."""


@dataclass(frozen=True, eq=False)
class FramePixels:
    """What one frame shows; maps may have another size than the image, but the same view."""

    image: UInt8[ndarray, "h w 3"]
    depth_z: Float[ndarray, "dh dw"] | None = None
    """Known depth, scene units; 0 = unknown; may be sparse."""
    points: Float[ndarray, "n 3"] | None = None
    """World points that structure from motion saw in this frame, scene units."""
    disparity: Float[ndarray, "mh mw"] | None = None
    """Relative inverse depth of a monocular network, up to scale and shift."""
    foreground: Float[ndarray, "fh fw"] | None = None
    """Mask of the object in [0, 1]."""


@dataclass(frozen=True, eq=False)
class SceneFrame:
    """One posed frame; `read` gives its pixels."""

    name: str
    """File name or time stamp in the source, for messages."""
    camera: Camera
    """OpenGL camera-to-world; intrinsics in pixels of the size that the source states."""
    read: Callable[[], FramePixels]
    lens: Lens = field(default_factory=Lens)
    size_is_nominal: bool = False
    """The source states no size: the camera's is a unit square to be stretched onto the image."""

    def camera_for(self, size_px: tuple[int, int]) -> Camera:
        """Return the camera of the image as it is stored, which may be a smaller copy.

        Raises:
            InputError: The image has another shape than the camera.
        """
        height, width = self.camera.image_size_px
        ratio = (size_px[0] / height) / (size_px[1] / width)
        if not self.size_is_nominal and abs(math.log(ratio)) > SIZE_TOLERANCE:
            raise InputError(
                f"{self.name}: the image is {size_px[1]}x{size_px[0]} px, but its camera says "
                f"{width}x{height} px, which is another shape"
            )
        return self.camera.resized(*size_px)


@dataclass(frozen=True, eq=False)
class SceneViews:
    """A scene whose frames are read one by one, in their order."""

    scene_id: str
    """`category/scene`."""
    frames: tuple[SceneFrame, ...]
    notes: tuple[str, ...] = ()
    """What was left out and why, a sentence each."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Facts for the manifest (licence, address, ...)."""


@runtime_checkable
class SceneSource(Protocol):
    """A data set: which scenes it has, and each as posed frames."""

    def scene_ids(self, split: str | None = None) -> list[str]:
        """Return the names of all scenes, or of those of a split.

        Raises:
            InputError: The data set has no such split.
        """
        ...

    def load(self, scene_id: str, split: str | None = None) -> SceneViews:
        """Return one scene; of a split, only the frames that belong to it.

        Raises:
            InputError: The scene cannot be read.
        """
        ...


def inside(folder: Path, relative: str) -> Path:
    """Return a path of a stranger's file within its folder.

    Raises:
        InputError: The path would leave the folder, or is none.
    """
    if not relative or "\x00" in relative:
        raise InputError(f"{folder.name} names an empty path")
    path = folder / relative.replace("\\", "/")
    root = folder.resolve()
    if Path(relative).is_absolute() or not path.resolve().is_relative_to(root):
        raise InputError(f"{relative!r} leads out of the folder {folder.name}; it is not read")
    return path


def read_json(path: Path) -> Any:
    """Return the content of a JSON file of bounded size.

    Raises:
        InputError: It is missing, too large, or no JSON.
    """
    try:
        if path.stat().st_size > MOST_JSON_BYTES:
            raise InputError(f"{path.name} is larger than {MOST_JSON_BYTES >> 20} MiB")
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path.name} is not valid JSON: {error}") from error


def read_image(source: Any, name: str, *, least_px: int | None = None) -> UInt8[ndarray, "h w 3"]:
    """Return the pixels of a picture as they are stored (no EXIF turn: cameras mean these pixels).

    Args:
        source: A path or a binary file.
        name: For messages.
        least_px: JPEGs may be decoded at a smaller scale whose short side keeps at least this.

    Raises:
        InputError: It cannot be decoded, or is too large.
    """
    try:
        with Image.open(source) as opened:
            if opened.format in ("EPS", "WMF"):
                raise InputError(f"{name} is a drawing ({opened.format}), not a photograph")
            if opened.width * opened.height > MOST_PIXELS:
                raise InputError(f"{name} has more than {MOST_PIXELS // 10**6} megapixels")
            if least_px is not None:
                _decode_smaller(opened, least_px)
            if opened.mode.startswith(("I", "F")):
                deep = np.asarray(opened, np.float32)
                grey = (deep / max(float(deep.max()), 1.0) * 255).astype(np.uint8)
                return np.repeat(grey[:, :, None], 3, axis=2)
            if opened.has_transparency_data:
                white = Image.new("RGBA", opened.size, (255, 255, 255, 255))
                return np.asarray(Image.alpha_composite(white, opened.convert("RGBA")))[..., :3]
            return np.asarray(opened.convert("RGB"))
    except InputError:
        raise
    except Exception as error:  # a damaged file can raise anything in a decoder
        raise InputError(f"{name} cannot be read: {_reason(error)}") from error


def image_size(path: Path, name: str) -> tuple[int, int]:
    """Return (width, height) of a picture without decoding it.

    Raises:
        InputError: It is no picture.
    """
    try:
        with Image.open(path) as opened:
            return opened.size
    except Exception as error:  # a damaged file can raise anything in a decoder
        raise InputError(f"{name} cannot be read: {_reason(error)}") from error


def read_map(path: Path, name: str) -> ndarray:
    """Return a one-channel picture (depth, mask, disparity) with its own numbers.

    Raises:
        InputError: It cannot be decoded, is too large, or has colours.
    """
    try:
        with Image.open(path) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise InputError(f"{name} has more than {MOST_PIXELS // 10**6} megapixels")
            values = np.asarray(opened.convert("L") if opened.mode in ("P", "1") else opened)
    except InputError:
        raise
    except Exception as error:  # a damaged file can raise anything in a decoder
        raise InputError(f"{name} cannot be read: {_reason(error)}") from error
    return values if values.ndim == 2 else values[..., 0]


def read_array(path: Path, name: str) -> ndarray:
    """Return a two-dimensional array of a `.npy` file; pickled objects are refused.

    Raises:
        InputError: It is no such array.
    """
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{name} cannot be read: {_reason(error)}") from error
    squeezed = np.squeeze(values) if isinstance(values, ndarray) else None
    if squeezed is None or squeezed.ndim != 2 or squeezed.size > MOST_PIXELS:
        raise InputError(f"{name} does not hold a depth map (two axes of numbers)")
    return np.asarray(squeezed, np.float32)


def pinhole(
    camera_to_world: Any,
    focal_px: tuple[float, float],
    centre_px: tuple[float, float],
    image_size_px: tuple[int, int],
) -> Camera:
    """Return a single camera from numbers; poses may come as nested lists with 3 or 4 rows."""
    pose = torch.eye(4)
    rows = torch.as_tensor(camera_to_world, dtype=torch.float64)
    pose[:3] = rows[:3].float()
    matrix = torch.tensor(
        [[focal_px[0], 0.0, centre_px[0]], [0.0, focal_px[1], centre_px[1]], [0.0, 0.0, 1.0]]
    )
    return Camera(pose, matrix, image_size_px)


def find_image(path: Path) -> Path | None:
    """Return the picture at a path, which may lack its ending or lie in a smaller copy's folder.

    Data sets are handed on with `images_2`, `images_4` or `images_8` in the place of `images`.
    """
    if path.is_file():
        return path
    folders = [path.parent]
    folders += [path.parent.with_name(f"{path.parent.name}_{factor}") for factor in (2, 4, 8)]
    for folder in folders:
        for name in (path.name, *(f"{path.stem}{end}" for end in IMAGE_ENDINGS)):
            for candidate in (folder / name, folder / f"{path.name}{Path(name).suffix}"):
                if candidate.suffix.lower() in IMAGE_ENDINGS and candidate.is_file():
                    return candidate
    return None


IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".JPG", ".PNG", ".webp")


def _decode_smaller(opened: Image.Image, least_px: int) -> None:
    """Let the JPEG decoder shrink by a power of two, where the sides divide evenly."""
    for factor in (8, 4, 2):
        even = opened.width % factor == 0 and opened.height % factor == 0
        if even and min(opened.size) // factor >= least_px:
            opened.draft("RGB", (opened.width // factor, opened.height // factor))
            return


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())[:160]
