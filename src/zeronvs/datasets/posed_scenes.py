"""Folders of posed photographs: `scene.json` beside its frames.

`scene.json` holds `frames[]`, each with `file, w, h, fx, fy, cx, cy` (pixels) and `c2w` (3x4 OpenCV
camera-to-world). Beside a frame `0000.jpg` may lie `0000_depth.png` (uint16, depth = value /
`depth_png_units_per_scene_unit`, 0 = unknown) and `0000_teacher.jpg` (relative disparity of a
monocular network, any size); beside the scene, `sparse.npz` (`frame`, `uv`, `depth_z`: triangulated
points as a structure-from-motion tool has them).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from zeronvs._core.errors import InputError
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.scene_scale import fit_disparity
from zeronvs.cameras.view import View

MIN_SPARSE_POINTS = 12
"""Fewer triangulated points do not fix scale and shift of a monocular disparity."""
FAR_FACTOR = 2.5
"""Infilled depth is at most this many times the 98 % quantile of the known depth."""


@dataclass(frozen=True)
class PosedScene:
    """One folder of posed photographs; frames are read when asked for."""

    folder: Path
    frames: tuple[dict, ...]
    depth_units: float
    sparse_frame: np.ndarray
    sparse_uv_px: np.ndarray
    sparse_depth_z: np.ndarray

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.frames)

    def view(self, index: int) -> View:
        """Return one frame with its camera and a dense depth map (all 0 if none is known).

        Raises:
            InputError: The picture, its depth or its disparity cannot be read.
        """
        frame = self.frames[index]
        size = (int(frame["h"]), int(frame["w"]))
        pixels = _read_pixels(self.folder / frame["file"], "RGB", size)
        image = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)
        return View(image, _camera(frame), self._depth(index, size))

    def _depth(self, index: int, size: tuple[int, int]) -> Float[Tensor, "h w"]:
        frame = self.frames[index]
        stem = Path(frame["file"]).stem
        measured = torch.zeros(size)
        depth_path = self.folder / f"{stem}_depth.png"
        if depth_path.exists():
            values = _read_pixels(depth_path, None, size).astype(np.float32)
            measured = torch.from_numpy(values / self.depth_units)
        teacher_path = self.folder / f"{stem}_teacher.jpg"
        if not teacher_path.exists():
            return measured
        values = _read_pixels(teacher_path, "L", None)
        disparity = torch.from_numpy(values.astype(np.float32) / 255)
        disparity = F.interpolate(disparity[None, None], size, mode="bilinear")[0, 0]
        chosen = self.sparse_frame == index
        uv = torch.from_numpy(self.sparse_uv_px[chosen].astype(np.int64))
        known = torch.from_numpy(self.sparse_depth_z[chosen])
        row = uv[:, 1].clamp(0, size[0] - 1)
        column = uv[:, 0].clamp(0, size[1] - 1)
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
        content = json.loads((folder / "scene.json").read_text())
        frames = tuple(content["frames"])
        for frame in frames:
            if Path(frame["file"]).name != frame["file"] or frame["file"] in ("", ".."):
                raise InputError(f"{folder}/scene.json names a file outside its folder")
            _camera(frame)
    except InputError:
        raise
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        reason = f"{type(error).__name__} {error}".splitlines()[0]
        raise InputError(f"{folder} is not a posed scene: scene.json: {reason}") from error
    units = float(content.get("depth_png_units_per_scene_unit", 1.0))
    empty = np.zeros(0, np.float32)
    sparse_frame, sparse_uv, sparse_depth = empty.astype(np.int64), empty.reshape(0, 2), empty
    if (folder / "sparse.npz").exists():
        with np.load(folder / "sparse.npz", allow_pickle=False) as stored:
            sparse_frame = stored["frame"].astype(np.int64)
            sparse_uv = stored["uv"].astype(np.float32)
            sparse_depth = stored["depth_z"].astype(np.float32)
    return PosedScene(folder, frames, units, sparse_frame, sparse_uv, sparse_depth)


def _read_pixels(path: Path, mode: str | None, size: tuple[int, int] | None) -> np.ndarray:
    try:
        with Image.open(path) as opened:
            pixels = np.asarray(opened if mode is None else opened.convert(mode))
    except (OSError, ValueError) as error:
        reason = f"{type(error).__name__} {error}".splitlines()[0]
        raise InputError(f"{path} cannot be read: {reason}") from error
    if size is not None and pixels.shape[:2] != size:
        height, width = pixels.shape[:2]
        raise InputError(
            f"{path} is {width}x{height} px; its scene.json says {size[1]}x{size[0]} px"
        )
    return pixels


def _camera(frame: dict) -> Camera:
    pose = torch.eye(4)
    pose[:3] = torch.tensor(frame["c2w"], dtype=torch.float32)
    pose[:3, 1:3] *= -1  # OpenCV axes to OpenGL axes
    intrinsics_px = torch.tensor(
        [[frame["fx"], 0.0, frame["cx"]], [0.0, frame["fy"], frame["cy"]], [0.0, 0.0, 1.0]]
    )
    return Camera(pose, intrinsics_px, (int(frame["h"]), int(frame["w"])))


def crop_square(view: View, size_px: int) -> View:
    """Return the centre square of a view, resized; the camera changes with the pixels."""
    height_px, width_px = view.camera.image_size_px
    side = min(height_px, width_px)
    top, left = (height_px - side) // 2, (width_px - side) // 2
    image = view.image[..., top : top + side, left : left + side]
    image = resize_area(image, size_px)
    depth_z = None
    if view.depth_z is not None:
        depth_z = view.depth_z[..., top : top + side, left : left + side]
        depth_z = F.interpolate(depth_z[None, None], (size_px, size_px), mode="nearest")[0, 0]
    camera = view.camera.cropped(top, left, side, side).resized(size_px, size_px)
    return View(image.clamp(0, 1), camera, depth_z)


def resize_area(image: Float[Tensor, "c h w"], size_px: int) -> Float[Tensor, "c s s"]:
    """Resize to a square: each pixel is the mean of what it covers, sharper than a tent filter."""
    if min(image.shape[-2:]) >= size_px:
        return F.interpolate(image[None], (size_px, size_px), mode="area")[0]
    return F.interpolate(image[None], (size_px, size_px), mode="bilinear")[0]
