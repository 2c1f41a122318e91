"""nerfstudio's `transforms.json` (also instant-ngp's and the first NeRF's), DL3DV's included.

Poses are OpenGL camera-to-world, as ours; intrinsics stand in the file or in each frame, as
`fl_x` or as `camera_angle_x`; OpenCV and fisheye distortion is undone. `applied_transform` says how
the world was turned, which changes neither relative poses nor depth. A sparse `.ply` is not read:
it does not say which view saw which point.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zeronvs._core.errors import InputError
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.lens import Lens
from zeronvs.datasets.sources.folders import check_split, choose, find_scene_folders
from zeronvs.datasets.sources.scene_source import (
    FramePixels,
    SceneFrame,
    SceneViews,
    find_image,
    image_size,
    inside,
    pinhole,
    read_array,
    read_image,
    read_json,
    read_map,
)

FILES = ("transforms.json", "nerfstudio/transforms.json")
SPLIT_FILES = ("transforms_train.json", "transforms_val.json", "transforms_test.json")
DEPTH_UNIT = 1e-3
"""Scene units per unit of a depth PNG where the file does not say: millimetres (nerfstudio)."""
BLIND = ("fisheye624", "equirect", "omnidirectional", "vr180", "ortho", "spherical")


class NerfstudioSource:
    """Folders with a `transforms.json`."""

    def __init__(self, root: Path, *, depth_unit: float | None = None) -> None:
        """Find the scenes.

        Args:
            root: One scene (the folder, or the JSON file itself), or a folder of scenes.
            depth_unit: Scene units per unit of a depth file; what the file says, else 1 / 1000.
        """
        self._file = root if root.is_file() else None
        folder = root.parent if root.is_file() else root
        self._scenes = find_scene_folders(folder, is_nerfstudio, what="transforms.json")
        if self._file:
            self._scenes = dict(list(self._scenes.items())[:1])
        self._depth_unit = depth_unit

    def scene_ids(self, split: str | None = None) -> list[str]:
        """Return the names of all scenes; a split is one of the first NeRF's three files."""
        known = tuple(name[11:-5] for name in SPLIT_FILES)
        check_split(split, known)
        return [
            scene_id
            for scene_id, folder in self._scenes.items()
            if split is None or (folder / f"transforms_{split}.json").is_file()
        ]

    def load(self, scene_id: str, split: str | None = None) -> SceneViews:
        """Return one scene, its frames in the order of the file."""
        folder = choose(self._scenes, scene_id)
        found = [self._file] if self._file else [folder / name for name in FILES]
        if split is not None:
            found = [folder / f"transforms_{split}.json"]
        elif not any(path.is_file() for path in found):
            found = [folder / name for name in SPLIT_FILES]
        frames, notes = [], []
        for path in [path for path in found if path.is_file()]:
            content = read_json(path)
            entries = content.get("frames") if isinstance(content, dict) else None
            if not isinstance(entries, list):
                raise InputError(f"{path} has no list 'frames'")
            shared = {k: v for k, v in content.items() if k not in ("frames", "transform_matrix")}
            for number, entry in enumerate(entries):
                name = str(entry.get("file_path", "?")) if isinstance(entry, dict) else str(number)
                try:
                    frames.append(self._frame(path.parent, {**shared, **entry}))
                except (InputError, KeyError, TypeError, ValueError, RuntimeError) as error:
                    said = " ".join(f"{error}".split())[:160]
                    notes.append(f"{name} left out: {said or type(error).__name__}")
            if split is None and path.name in FILES:
                break
        return SceneViews(scene_id, tuple(frames), tuple(notes))

    def _frame(self, folder: Path, entry: dict[str, Any]) -> SceneFrame:
        name = entry["file_path"]
        path = find_image(inside(folder, name))
        if path is None:
            raise InputError("there is no such picture")
        for key in ("camera_model", "camera_type"):
            if any(part in str(entry.get(key, "")).lower() for part in BLIND):
                raise InputError(f"cameras of the {key} {entry[key]} are not read")
        camera = _camera(entry, path)
        depth_path = None
        if entry.get("depth_file_path"):
            depth_path = inside(folder, entry["depth_file_path"])
        unit = self._depth_unit or float(entry.get("depth_unit_scale_factor", DEPTH_UNIT))
        read = partial(_read, path, str(name), depth_path, unit)
        return SceneFrame(str(name), camera, read, _lens(entry))


def is_nerfstudio(folder: Path) -> bool:
    """Tell whether a folder holds a scene of this format."""
    return any((folder / name).is_file() for name in (*FILES, *SPLIT_FILES))


def _camera(entry: dict[str, Any], image: Path) -> Camera:
    """Return the camera; the first NeRF's files have no size, which is then the picture's."""
    pose = np.asarray(entry["transform_matrix"], dtype=np.float64)
    if pose.shape not in ((4, 4), (3, 4)):
        raise InputError(f"transform_matrix should be 4x4, got {pose.shape}")
    width, height = float(entry.get("w", 0)), float(entry.get("h", 0))
    if min(width, height) < 1:
        width, height = (float(side) for side in image_size(image, image.name))
    focal_x, focal_y = _focal(entry, "x", width), _focal(entry, "y", height)
    if focal_x is None and focal_y is None:
        raise InputError("the lens is missing: expected 'fl_x' or 'camera_angle_x'")
    focal = (focal_x or focal_y or 0.0, focal_y or focal_x or 0.0)
    centre = (float(entry.get("cx", 0.5 * width)), float(entry.get("cy", 0.5 * height)))
    return pinhole(pose, focal, centre, (round(height), round(width)))


def _focal(entry: dict[str, Any], axis: str, side_px: float) -> float | None:
    if entry.get(f"fl_{axis}") is not None:
        return float(entry[f"fl_{axis}"])
    angle_rad = entry.get(f"camera_angle_{axis}")
    if angle_rad is None:
        return None
    if not 0 < float(angle_rad) < math.pi:
        raise InputError(f"camera_angle_{axis} is {angle_rad}; it should lie in (0, pi)")
    return 0.5 * side_px / math.tan(0.5 * float(angle_rad))


def _lens(entry: dict[str, Any]) -> Lens:
    def number(name: str) -> float:
        return float(entry.get(name) or 0.0)

    if "fisheye" in str(entry.get("camera_model", "")).lower() or entry.get("is_fisheye"):
        return Lens(radial=tuple(number(f"k{i}") for i in (1, 2, 3, 4)), fisheye=True)
    return Lens(
        radial=tuple(number(f"k{i}") for i in (1, 2, 3)),
        radial_divisor=(number("k4"), number("k5"), number("k6")),
        tangential=(number("p1"), number("p2")),
    )


def _read(path: Path, name: str, depth_path: Path | None, unit: float) -> FramePixels:
    depth_z = None
    if depth_path is not None and depth_path.is_file():
        values = read_array if depth_path.suffix == ".npy" else read_map
        depth_z = values(depth_path, depth_path.name).astype(np.float32) * unit
    return FramePixels(read_image(path, name, least_px=512), depth_z)
