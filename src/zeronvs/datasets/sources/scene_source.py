"""Common interface of all data sets: scenes of posed frames whose pixels are read on demand.

The camera of a frame is known before its pixels are read, so that one field of view can be chosen
for a whole scene with one frame in memory. Sizes are bounded, and nothing that could run code is
read. The user's own files are trusted to be where they say; paths in data sets that are downloaded
whole (CO3D, pixelSplat's chunks) must stay inside the data set.
"""

import io
import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import ExifTags, Image, ImageOps

from zeronvs._core.errors import InputError, ReadingErrors
from zeronvs.cameras.camera import Camera, intrinsics_matrix
from zeronvs.cameras.lens import Lens

MAX_PIXELS = 120_000_000
SIZE_TOLERANCE = 0.02
"""The two sides of a smaller copy may shrink by factors that differ by this much (rounding)."""
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".JPG", ".PNG", ".webp")
MOST_FOLDERS = 500_000


@dataclass(frozen=True, eq=False)
class FramePixels:
    """Pixels of one frame; maps may have another size than the image, but the same view."""

    image: UInt8[ndarray, "h w 3"]
    depth_z: Float[ndarray, "dh dw"] | None = None
    """Known depth, scene units; 0 = unknown; may be sparse."""
    points: Float[ndarray, "n 3"] | None = None
    """World points that structure from motion observed in this frame, scene units."""
    disparity: Float[ndarray, "mh mw"] | None = None
    """Relative inverse depth of a monocular network, up to scale and shift."""
    foreground: Float[ndarray, "fh fw"] | None = None
    """Mask of the object in [0, 1]."""


@dataclass(frozen=True, eq=False)
class SceneFrame:
    """One posed frame; `read` returns its pixels."""

    name: str
    """File name or time stamp in the source, for messages."""
    camera: Camera
    """Intrinsics are in pixels of the size that the source states."""
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
                f"{self.name}: the image is {size_px[1]}x{size_px[0]} px (and no EXIF orientation "
                f"makes it fit), but its camera is of {width}x{height} px, which is another shape"
            )
        return self.camera.resized(*size_px)


@dataclass(frozen=True, eq=False)
class SceneViews:
    """A scene, its frames in order; their pixels are read one by one."""

    scene_id: str
    """`category/scene`."""
    frames: tuple[SceneFrame, ...]
    notes: tuple[str, ...] = ()
    """Skipped parts of the data set with the reason, one sentence each."""
    left_out: int = 0
    """Frames of the source that are not among `frames`."""


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
    """Return a path that a downloaded data set names within its folder; links are followed.

    Raises:
        InputError: The path is absolute, leads upwards, or is empty.
    """
    parts = relative.replace("\\", "/").split("/")
    if not relative or "\x00" in relative:
        raise InputError(f"{folder.name} names an empty path")
    if ".." in parts or parts[0] == "" or Path(relative).is_absolute():
        raise InputError(f"{relative!r} leads out of the folder {folder.name}; it is not read")
    return folder / "/".join(parts)


def read_image(
    source: Path | io.BytesIO,
    name: str,
    *,
    least_px: int | None = None,
    camera_size_px: tuple[int, int] | None = None,
) -> UInt8[ndarray, "h w 3"]:
    """Return the pixels of an image.

    Cameras belong to the stored pixels or, with tools that honour EXIF, to the upright ones. The
    EXIF orientation is applied where the upright shape fits the camera and the stored one does not.

    Args:
        least_px: JPEGs may be decoded at a smaller scale whose short side keeps at least this.
        camera_size_px: (height, width) of the image's camera.

    Raises:
        InputError: It cannot be decoded, or is too large.
    """
    # A damaged file can raise anything in a decoder, here and below.
    with _opened(source, name) as opened, ReadingErrors(f"{name} cannot be read"):
        transposed = _fits_transposed(opened, camera_size_px)
        if least_px is not None:
            _decode_smaller(opened, least_px)
        return _rgb(ImageOps.exif_transpose(opened) if transposed else opened, name)


def _fits_transposed(opened: Image.Image, camera_size_px: tuple[int, int] | None) -> bool:
    """Return whether an image fits its camera only after its EXIF orientation is applied."""
    if camera_size_px is None:
        return False
    orientation = opened.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation not in (5, 6, 7, 8):  # those that exchange width and height
        return False
    aspect = math.log(camera_size_px[1] / camera_size_px[0])
    stored = math.log(opened.width / opened.height)
    return abs(stored - aspect) > SIZE_TOLERANCE >= abs(-stored - aspect)


def _rgb(image: Image.Image, name: str) -> UInt8[ndarray, "h w 3"]:
    """Convert to 8-bit RGB by a fixed range, so that frames of a scene keep their exposure."""
    if image.mode.startswith(("I", "F")):
        deep = np.nan_to_num(np.asarray(image, np.float64), posinf=0.0, neginf=0.0)
        white = 1.0 if image.mode == "F" else 65535.0
        if deep.max(initial=0.0) > white:
            raise InputError(f"{name} has values above {white:g}, so its white is not known")
        grey = (deep.clip(0.0) / white * 255).round().astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return np.asarray(Image.alpha_composite(white, image.convert("RGBA")))[..., :3]
    return np.asarray(image.convert("RGB"))


def image_size(path: Path, name: str) -> tuple[int, int]:
    """Return (height, width) of an image as it is stored, without decoding it.

    Raises:
        InputError: It is no image.
    """
    with _opened(path, name) as opened:
        return opened.height, opened.width


def read_map(path: Path, name: str) -> ndarray:
    """Return a one-channel image (depth, mask, disparity) with its own numbers.

    Raises:
        InputError: It cannot be decoded, or is too large.
    """
    with _opened(path, name) as opened, ReadingErrors(f"{name} cannot be read"):
        values = np.asarray(opened.convert("L") if opened.mode in ("P", "1") else opened)
    return values if values.ndim == 2 else values[..., 0]


def _opened(source: Path | io.BytesIO, name: str) -> Image.Image:
    """Open an image without decoding it; its kind and its size are checked."""
    if isinstance(source, Path) and not source.is_file():
        raise InputError(f"{name} cannot be read: there is no such file")
    with ReadingErrors(f"{name} cannot be read"), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        opened = Image.open(source)
    if opened.format in ("EPS", "WMF"):  # Pillow would run another program on them
        raise InputError(f"{name} is a drawing ({opened.format}), not a photograph")
    if opened.width * opened.height > MAX_PIXELS:
        raise InputError(f"{name} has more than {MAX_PIXELS // 10**6} megapixels")
    return opened


def read_array(path: Path, name: str) -> ndarray:
    """Return a two-dimensional array of a `.npy` file; pickled objects are refused.

    Raises:
        InputError: It is no such array.
    """
    if not path.is_file():
        raise InputError(f"{name} cannot be read: there is no such file")
    with ReadingErrors(f"{name} cannot be read", OSError, ValueError, EOFError):
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    squeezed = np.squeeze(values) if isinstance(values, ndarray) else None
    if squeezed is None or squeezed.ndim != 2 or squeezed.size > MAX_PIXELS:
        raise InputError(f"{name} does not hold a depth map (a two-dimensional array)")
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
    intrinsics_px = intrinsics_matrix(*torch.tensor([focal_px, centre_px]).float())
    return Camera(pose, intrinsics_px, image_size_px)


def find_image(path: Path) -> Path | None:
    """Return the image at a path, which may lack its ending or lie in a smaller copy's folder.

    Data sets are published with `images_2`, `images_4` or `images_8` in the place of `images`.
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


def _decode_smaller(opened: Image.Image, least_px: int) -> None:
    """Let the JPEG decoder shrink by a power of two, where the sides divide evenly."""
    for factor in (8, 4, 2):
        even = opened.width % factor == 0 and opened.height % factor == 0
        if even and min(opened.size) // factor >= least_px:
            opened.draft("RGB", (opened.width // factor, opened.height // factor))
            return


def find_scene_folders(
    root: Path, marks: Callable[[Path], bool], *, what: str, depth: int = 3
) -> dict[str, Path]:
    """Return the folders that hold a scene, by the scene's name `category/scene`.

    Args:
        root: A scene itself, or a folder of folders of scenes.
        what: Kind of scene identifier, for the message.

    Raises:
        InputError: There is no such folder, or no scene in it.
    """
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder")
    root = root.resolve()
    if marks(root):
        return {f"{clean_name(root.parent.name)}/{clean_name(root.name)}": root}
    by_name: dict[str, Path] = {}
    level = [root]
    for _ in range(depth):
        level = [path for folder in level for path in sorted(folder.iterdir()) if path.is_dir()]
        if len(level) > MOST_FOLDERS:
            raise InputError(f"{root} holds more than {MOST_FOLDERS} folders; give a part of it")
        scenes = [path for path in level if marks(path)]
        for path in scenes:
            inner = "_".join(path.relative_to(root).parts)
            add_scene(by_name, f"{clean_name(root.name)}/{clean_name(inner)}", path)
        level = [path for path in level if path not in scenes]
    if not by_name:
        raise InputError(f"{root}: there is no scene in it (a scene is a folder with {what})")
    return dict(sorted(by_name.items()))


def add_scene(scenes: dict[str, Path], scene_id: str, path: Path) -> None:
    """Add a scene under a name that no other has."""
    name, number = scene_id, 2
    while name in scenes:
        name, number = f"{scene_id}_{number}", number + 1
    scenes[name] = path


def clean_name(name: str) -> str:
    """Return a name that every file system and WebDataset's keys can take (no dots, no spaces)."""
    cleaned = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")
    return cleaned[:120] or "scene"


def check_split(split: str | None, known: tuple[str, ...]) -> None:
    """Refuse a split that a data set does not have.

    Raises:
        InputError: It has other ones, or none.
    """
    if split is not None and split not in known:
        there = f"it has: {', '.join(known)}" if known else "it has no splits"
        raise InputError(f"the data set has no split {split!r}; {there}")


def choose(scenes: dict[str, Path], scene_id: str) -> Path:
    """Return the path of a scene.

    Raises:
        InputError: There is no scene of this name.
    """
    if scene_id not in scenes:
        raise InputError(f"there is no scene {scene_id!r}")
    return scenes[scene_id]
