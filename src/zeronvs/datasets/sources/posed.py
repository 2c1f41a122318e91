"""Folders of posed photographs with a `scene.json` (see `zeronvs.datasets.posed_scenes`)."""

from functools import partial
from pathlib import Path

import numpy as np

from zeronvs.datasets.posed_scenes import PosedScene, open_posed_scene
from zeronvs.datasets.sources.folders import check_split, choose, find_scene_folders
from zeronvs.datasets.sources.scene_source import FramePixels, SceneFrame, SceneViews


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
