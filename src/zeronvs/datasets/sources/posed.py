"""Folders of posed photographs with a `scene.json` (see `zeronvs.datasets.posed_scenes`)."""

from functools import partial
from pathlib import Path

import numpy as np

from zeronvs._core.errors import InputError
from zeronvs.datasets.posed_scenes import PosedScene, open_posed_scene
from zeronvs.datasets.sources.folders import check_split, choose, find_scene_folders
from zeronvs.datasets.sources.scene_source import (
    FramePixels,
    SceneFrame,
    SceneViews,
    pinhole,
    read_image,
    read_map,
)


class PosedSource:
    """Folders with a `scene.json`."""

    def __init__(self, root: Path) -> None:
        """Find the scenes: one, or a folder of them."""
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
    """Tell whether a folder holds a scene of this format."""
    return (folder / "scene.json").is_file()


def _frame(scene: PosedScene, index: int) -> SceneFrame:
    frame = scene.frames[index]
    pose = np.eye(4)
    pose[:3] = np.asarray(frame["c2w"], dtype=np.float64)[:3]
    pose[:3, 1:3] *= -1  # OpenCV axes to OpenGL axes
    camera = pinhole(
        pose,
        (float(frame["fx"]), float(frame["fy"])),
        (float(frame["cx"]), float(frame["cy"])),
        (int(frame["h"]), int(frame["w"])),
    )
    return SceneFrame(frame["file"], camera, partial(_read, scene, index))


def _read(scene: PosedScene, index: int) -> FramePixels:
    frame = scene.frames[index]
    path = scene.folder / frame["file"]
    size = (int(frame["h"]), int(frame["w"]))
    depth_z = np.zeros(size, np.float32)
    chosen = scene.sparse_frame == index
    uv = np.nan_to_num(scene.sparse_uv_px[chosen]).astype(np.int64)
    row, column = np.clip(uv[:, 1], 0, size[0] - 1), np.clip(uv[:, 0], 0, size[1] - 1)
    depth_z[row, column] = scene.sparse_depth_z[chosen]
    measured_path = path.with_name(f"{path.stem}_depth.png")
    if measured_path.is_file():
        measured = read_map(measured_path, measured_path.name).astype(np.float32)
        if measured.shape != size:
            raise InputError(f"{measured_path.name} has another size than its picture")
        measured /= scene.depth_units
        depth_z = np.where(measured > 0, measured, depth_z)
    teacher_path = path.with_name(f"{path.stem}_teacher.jpg")
    disparity = None
    if teacher_path.is_file():
        disparity = read_map(teacher_path, teacher_path.name).astype(np.float32) / 255
    return FramePixels(read_image(path, frame["file"]), depth_z, disparity=disparity)
