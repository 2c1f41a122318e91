"""Folders with nerfstudio's `transforms.json` (also instant-ngp's, the first NeRF's, DL3DV's).

OpenCV and fisheye distortion is undone. `applied_transform` is how the world was rotated, which
changes neither relative poses nor depth. A sparse `.ply` is not read: it lacks the visibility of
its points.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zeronvs._core.errors import InputError
from zeronvs.datasets.sources.scene_source import (
    FramePixels,
    SceneFrame,
    SceneViews,
    check_split,
    choose,
    find_image,
    find_scene_folders,
    image_size,
    read_array,
    read_image,
    read_map,
)
from zeronvs.formats.transforms_json import frame_camera, frame_lens, read_frames

FILES = ("transforms.json", "nerfstudio/transforms.json")
SPLIT_FILES = ("transforms_train.json", "transforms_val.json", "transforms_test.json")
DEPTH_UNIT = 1e-3
"""Default scene units per unit of a depth PNG: millimetres, as in nerfstudio."""


class NerfstudioSource:
    """Folders with a `transforms.json`."""

    def __init__(self, root: Path, *, depth_unit: float | None = None) -> None:
        """Find the scenes.

        Args:
            root: One scene (the folder, or the JSON file itself), or a folder of scenes.
            depth_unit: Scene units per unit of a depth file; by default the file's, else 0.001.
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
        paths = [self._file] if self._file else [folder / name for name in FILES]
        if split is not None:
            paths = [folder / f"transforms_{split}.json"]
        elif not any(path.is_file() for path in paths):
            paths = [folder / name for name in SPLIT_FILES]
        paths = [path for path in paths if path.is_file()]
        frames, notes, left_out = [], [], 0
        if split is None and len(paths) > 1 and paths[0].name in FILES:
            notes.append(
                f"{paths[1].parent.name}/{paths[1].name} left out: {paths[0].name} is read"
            )
            paths = paths[:1]
        for path in paths:
            for number, entry in enumerate(read_frames(path)):
                name = str(entry.get("file_path", f"frame {number}"))
                try:
                    frames.append(self._frame(path.parent, entry, name))
                except InputError as error:
                    notes.append(f"{name} left out: {error}")
                    left_out += 1
        return SceneViews(scene_id, tuple(frames), tuple(notes), left_out)

    def _frame(self, folder: Path, entry: dict[str, Any], name: str) -> SceneFrame:
        path = _find(folder, entry.get("file_path"))
        if path is None:
            raise InputError("there is no such image")
        stated = entry.get("w") is not None or entry.get("h") is not None
        size_px = None if stated else image_size(path, path.name)
        camera = frame_camera(entry, "its entry", image_size_px=size_px)
        depth_path = None
        if entry.get("depth_file_path"):
            depth_path = folder / str(entry["depth_file_path"]).replace("\\", "/")
        unit = entry.get("depth_unit_scale_factor", DEPTH_UNIT)
        if self._depth_unit is not None:
            unit = self._depth_unit
        if isinstance(unit, bool) or not isinstance(unit, int | float) or unit <= 0:
            raise InputError(f"depth_unit_scale_factor is {unit!r}; it should be above 0")
        read = partial(_read, path, name, camera.image_size_px, depth_path, float(unit))
        return SceneFrame(name, camera, read, frame_lens(entry, "its entry"))


def _find(folder: Path, file_path: Any) -> Path | None:
    """Return the path of a frame's image."""
    if not isinstance(file_path, str) or not file_path or "\x00" in file_path:
        return None
    return find_image(folder / file_path.replace("\\", "/"))


def is_nerfstudio(folder: Path) -> bool:
    """Return whether a folder contains a scene of this format."""
    return any((folder / name).is_file() for name in (*FILES, *SPLIT_FILES))


def _read(
    path: Path, name: str, size_px: tuple[int, int], depth_path: Path | None, unit: float
) -> FramePixels:
    depth_z = None
    if depth_path is not None and depth_path.is_file():
        values = read_array if depth_path.suffix == ".npy" else read_map
        depth_z = values(depth_path, depth_path.name).astype(np.float32) * unit
    return FramePixels(read_image(path, name, least_px=512, camera_size_px=size_px), depth_z)
