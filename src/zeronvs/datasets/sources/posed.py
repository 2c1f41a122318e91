"""Folders of posed photographs: `scene.json` and its frames.

`scene.json` has `frames[]`, each with `file, w, h, fx, fy, cx, cy` (pixels) and `c2w` (3x4 OpenCV
camera-to-world). A frame `0000.jpg` may come with `0000_depth.png` (uint16, depth = value /
`depth_png_units_per_scene_unit`, 0 = unknown) and `0000_teacher.jpg` (relative disparity of a
monocular network, any size); the scene with `sparse.npz` (`frame`, `uv`, `depth_z`: triangulated
points of structure from motion).
"""

import math
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor
from torch.nn import functional as F

from zeronvs._core.errors import InputError, ReadingErrors
from zeronvs._core.files import read_json
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.conventions import LARGEST_NUMBER, check_rigid, opengl_from_opencv
from zeronvs.cameras.scene_scale import fit_disparity
from zeronvs.cameras.view import View
from zeronvs.datasets.sources.scene_source import (
    FramePixels,
    SceneFrame,
    SceneViews,
    check_split,
    choose,
    find_scene_folders,
    pinhole,
    read_image,
    read_map,
)
from zeronvs.formats.images import from_bytes

MAX_SIDE_PX = 65_536
MAX_SPARSE_BYTES = 2**30
MIN_SPARSE_POINTS = 12
"""Fewer triangulated points do not fix scale and shift of a monocular disparity."""
FAR_FACTOR = 2.5
"""Infilled depth is at most this many times the 98 % quantile of the known depth."""


@dataclass(frozen=True)
class PosedScene:
    """One folder of posed photographs; frames are read on demand."""

    folder: Path
    frames: tuple[dict, ...]
    depth_units: float
    sparse_frame: np.ndarray
    sparse_uv_px: np.ndarray
    sparse_depth_z: np.ndarray

    def __len__(self) -> int:
        return len(self.frames)

    def camera(self, index: int) -> Camera:
        """Return the camera of one frame."""
        return _camera(self.frames[index])

    def image_path(self, index: int) -> Path:
        """Return the path of one frame's image, next to which its depth and disparity are."""
        return self.folder / self.frames[index]["file"]

    def view(self, index: int) -> View:
        """Return one frame with its camera and a dense depth map (all 0 if none is known).

        Raises:
            InputError: The image, its depth or its disparity cannot be read, or its pose is not
                rigid.
        """
        camera = self.camera(index)
        check_rigid(camera.camera_to_world, where=f"{self.image_path(index)}: ")
        return View(from_bytes(self.image(index)), camera, self._dense_depth(index))

    def image(self, index: int) -> UInt8[ndarray, "h w 3"]:
        """Return the pixels of one frame.

        Raises:
            InputError: They cannot be read, or are not of the size in `scene.json`.
        """
        path, size_px = self.image_path(index), self.camera(index).image_size_px
        pixels = read_image(path, str(path), camera_size_px=size_px)
        return _of_size(pixels, size_px, path)

    def measured_depth(self, index: int) -> Float[ndarray, "h w"]:
        """Return the measured depth of one frame, scene units; 0 = unknown.

        Raises:
            InputError: It cannot be read, or has another size than the image.
        """
        size_px = self.camera(index).image_size_px
        path = self.image_path(index)
        path = path.with_name(f"{path.stem}_depth.png")
        if not path.exists():
            return np.zeros(size_px, np.float32)
        values = _of_size(read_map(path, str(path)), size_px, path)
        return values.astype(np.float32) / np.float32(self.depth_units)

    def disparity(self, index: int) -> Float[ndarray, "mh mw"] | None:
        """Return the relative disparity of a monocular network, of any size, if there is one.

        Raises:
            InputError: It cannot be read.
        """
        path = self.image_path(index)
        path = path.with_name(f"{path.stem}_teacher.jpg")
        return read_map(path, str(path)).astype(np.float32) / 255 if path.exists() else None

    def sparse_points(
        self, index: int
    ) -> tuple[
        Int[ndarray, " n"],  # row of each point, pixels
        Int[ndarray, " n"],  # column
        Float[ndarray, " n"],  # depth along the optical axis, scene units
    ]:
        """Return the triangulated points of one frame."""
        height, width = self.camera(index).image_size_px
        chosen = self.sparse_frame == index
        uv = self.sparse_uv_px[chosen].astype(np.int64)
        row, column = np.clip(uv[:, 1], 0, height - 1), np.clip(uv[:, 0], 0, width - 1)
        return row, column, self.sparse_depth_z[chosen]

    def _dense_depth(self, index: int) -> Float[Tensor, "h w"]:
        measured = torch.from_numpy(self.measured_depth(index))
        relative = self.disparity(index)
        if relative is None:
            return measured
        disparity = torch.from_numpy(relative)[None, None]
        disparity = F.interpolate(disparity, tuple(measured.shape), mode="bilinear")[0, 0]
        row, column, known = (torch.from_numpy(values) for values in self.sparse_points(index))
        if (measured > 0).float().mean() > 0.2:
            row, column = torch.nonzero(measured > 0, as_tuple=True)
            known = measured[row, column]
        if len(known) < MIN_SPARSE_POINTS:
            return measured
        dense = align_disparity(disparity, row, column, known)
        return torch.where(measured > 0, measured, dense)


def align_disparity(
    disparity: Float[Tensor, "h w"],
    row: Tensor,
    column: Tensor,
    known_depth_z: Float[Tensor, " n"],
) -> Float[Tensor, "h w"]:
    """Fit scale and shift of a relative disparity to known depths; return dense depth."""
    scale, shift = fit_disparity(disparity[row, column], 1.0 / known_depth_z)
    far = FAR_FACTOR * float(torch.quantile(known_depth_z[:100_000], 0.98))
    near = 0.5 * float(torch.quantile(known_depth_z[:100_000], 0.02))
    return 1.0 / (scale * disparity + shift).clamp(1.0 / far, 1.0 / near)


def open_posed_scene(folder: Path) -> PosedScene:
    """Open a folder that holds `scene.json`.

    Raises:
        InputError: There is no readable `scene.json`, or it lacks what a frame needs.
    """
    try:
        content = read_json(folder / "scene.json")
    except InputError as error:
        raise InputError(f"{folder} is not a posed scene: {error}") from error
    kinds = (KeyError, ValueError, TypeError, RuntimeError, OverflowError)
    with ReadingErrors(f"{folder} is not a posed scene: scene.json", *kinds):
        frames = tuple(content["frames"])
        for frame in frames:
            if Path(frame["file"]).name != frame["file"] or frame["file"] in ("", ".."):
                raise InputError(f"{folder}/scene.json names a file outside its folder")
            _camera(frame)
        units = float(content.get("depth_png_units_per_scene_unit", 1.0))
        if not 0 < units < math.inf:
            raise ValueError(f"depth_png_units_per_scene_unit is {units:g}, not above 0")
    return PosedScene(folder, frames, units, *_sparse(folder / "sparse.npz"))


def _sparse(path: Path) -> tuple[ndarray, ndarray, ndarray]:
    """Return frame, pixel position and depth of the triangulated points; none without a file."""
    if not path.is_file():
        return np.zeros(0, np.int64), np.zeros((0, 2), np.float32), np.zeros(0, np.float32)
    with ReadingErrors(f"{path} cannot be read"):  # a damaged archive can raise anything
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_SPARSE_BYTES:
                raise ValueError(f"it is larger than {MAX_SPARSE_BYTES >> 20} MiB when unpacked")
        with np.load(path, allow_pickle=False) as stored:
            frame = stored["frame"].astype(np.int64)
            uv_px = stored["uv"].astype(np.float32)
            depth_z = stored["depth_z"].astype(np.float32)
    if frame.ndim != 1 or uv_px.shape != (len(frame), 2) or depth_z.shape != frame.shape:
        raise InputError(f"{path}: 'frame', 'uv' and 'depth_z' should be n, n x 2 and n numbers")
    good = np.isfinite(uv_px).all(1) & (np.abs(uv_px) <= MAX_SIDE_PX).all(1)
    good &= np.isfinite(depth_z) & (depth_z > 0)
    return frame[good], uv_px[good], depth_z[good]


def _of_size(pixels: ndarray, size_px: tuple[int, int], path: Path) -> ndarray:
    if pixels.shape[:2] != size_px:
        height, width = pixels.shape[:2]
        raise InputError(
            f"{path} is {width}x{height} px; in its scene.json it is {size_px[1]}x{size_px[0]} px"
        )
    return pixels


def _camera(frame: dict) -> Camera:
    fx, fy, cx, cy = (float(frame[key]) for key in ("fx", "fy", "cx", "cy"))
    if not all(abs(value) < LARGEST_NUMBER for value in (fx, fy, cx, cy)) or min(fx, fy) <= 0:
        raise ValueError(f"fx, fy, cx, cy are {fx:g}, {fy:g}, {cx:g}, {cy:g}: no camera's")
    size_px = (int(frame["h"]), int(frame["w"]))
    if not all(0 < side <= MAX_SIDE_PX for side in size_px):
        raise ValueError(f"w, h are {size_px[1]}, {size_px[0]}: no image's")
    camera = pinhole(frame["c2w"], (fx, fy), (cx, cy), size_px)
    return camera.with_poses(opengl_from_opencv(camera.camera_to_world))


def crop_square(view: View, size_px: int) -> View:
    """Return the centre square of a view, resized; the camera changes with the pixels."""
    square = view.center_square()
    depth_z = None
    if square.depth_z is not None:
        size = (size_px, size_px)
        depth_z = F.interpolate(square.depth_z[None, None], size, mode="nearest")[0, 0]
    image = resize_area(square.image, size_px).clamp(0, 1)
    return View(image, square.camera.resized(size_px, size_px), depth_z)


def resize_area(image: Float[Tensor, "c h w"], size_px: int) -> Float[Tensor, "c s s"]:
    """Resize to a square: each pixel is the mean of what it covers, sharper than a tent filter."""
    if min(image.shape[-2:]) >= size_px:
        return F.interpolate(image[None], (size_px, size_px), mode="area")[0]
    return F.interpolate(image[None], (size_px, size_px), mode="bilinear")[0]


class PosedSource:
    """Folders with a `scene.json`."""

    def __init__(self, root: Path) -> None:
        self._scenes = find_scene_folders(root, is_posed, what="scene.json")

    def scene_ids(self, split: str | None = None) -> list[str]:
        """Return the names of all scenes; the format has no splits."""
        check_split(split, ())
        return list(self._scenes)

    def load(self, scene_id: str, split: str | None = None) -> SceneViews:
        """Return one scene."""
        check_split(split, ())
        scene = open_posed_scene(choose(self._scenes, scene_id))
        frames = tuple(_frame(scene, index) for index in range(len(scene)))
        return SceneViews(scene_id, frames)


def is_posed(folder: Path) -> bool:
    """Return whether a folder contains a scene of this format."""
    return (folder / "scene.json").is_file()


def _frame(scene: PosedScene, index: int) -> SceneFrame:
    return SceneFrame(
        scene.image_path(index).name, scene.camera(index), partial(_read, scene, index)
    )


def _read(scene: PosedScene, index: int) -> FramePixels:
    row, column, known = scene.sparse_points(index)
    depth_z = np.zeros(scene.camera(index).image_size_px, np.float32)
    depth_z[row, column] = known
    measured = scene.measured_depth(index)
    depth_z = np.where(measured > 0, measured, depth_z)
    return FramePixels(scene.image(index), depth_z, disparity=scene.disparity(index))
