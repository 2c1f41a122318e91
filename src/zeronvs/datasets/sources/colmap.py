"""COLMAP models with their images, also in the folders of DL3DV: sparse points become depth.

A scene is a folder with a model (`sparse/0`, `sparse`, `colmap/sparse/0`, or the folder itself) and
its pictures (`images`, or a smaller copy `images_2`, `images_4`, `images_8`; or the folder itself).
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from zeronvs._core.errors import InputError
from zeronvs.cameras.conventions import opengl_from_colmap
from zeronvs.datasets.sources.folders import check_split, choose, find_scene_folders
from zeronvs.datasets.sources.scene_source import (
    FramePixels,
    SceneFrame,
    SceneViews,
    find_image,
    inside,
    pinhole,
    read_image,
)
from zeronvs.formats.colmap import ColmapImage, ColmapModel, model_files, read_model

MODEL_FOLDERS = ("sparse/0", "sparse", "colmap/sparse/0", "dense/sparse", "model", ".")
IMAGE_FOLDERS = ("images", "input", "dense/images", ".")


class ColmapSource:
    """Folders of COLMAP models."""

    def __init__(self, root: Path, *, images: str | None = None) -> None:
        """Find the scenes.

        Args:
            root: One scene, or a folder of scenes.
            images: Folder of the pictures within a scene; found if not given.
        """
        self._scenes = find_scene_folders(
            root, lambda folder: _model_folder(folder) is not None, what="sparse/0/cameras.bin"
        )
        self._images = images

    def scene_ids(self, split: str | None = None) -> list[str]:
        """Return the names of all scenes; the format has no splits."""
        check_split(split, ())
        return list(self._scenes)

    def load(self, scene_id: str, split: str | None = None) -> SceneViews:
        """Return one scene, its images in the order of their names."""
        check_split(split, ())
        folder = choose(self._scenes, scene_id)
        model_folder = _model_folder(folder)
        if model_folder is None:
            raise InputError(f"{folder} has no COLMAP model any more")
        model = read_model(model_folder)
        frames, notes = [], []
        for image in sorted(model.images, key=lambda image: image.name):
            path = self._find(folder, image.name)
            if path is None:
                notes.append(f"{image.name} left out: there is no such picture")
                continue
            try:
                frames.append(_frame(model, image, path))
            except (InputError, KeyError, ValueError) as error:
                notes.append(f"{image.name} left out: {error}")
        return SceneViews(scene_id, tuple(frames), tuple(notes))

    def _find(self, folder: Path, name: str) -> Path | None:
        wanted = (self._images,) if self._images else IMAGE_FOLDERS
        for images in wanted:
            found = find_image(inside(folder, f"{images}/{name}"))
            if found is not None:
                return found
        return None


def is_colmap(folder: Path) -> bool:
    """Tell whether a folder holds a COLMAP scene."""
    return _model_folder(folder) is not None


def _model_folder(folder: Path) -> Path | None:
    return next((folder / part for part in MODEL_FOLDERS if model_files(folder / part)), None)


def _frame(model: ColmapModel, image: ColmapImage, path: Path) -> SceneFrame:
    camera = model.cameras[image.camera_id]
    lens = camera.lens()
    fx, fy, centre_x, centre_y = camera.intrinsics()
    pose = torch.tensor([*image.qvec, *image.tvec], dtype=torch.float64)
    if not bool(torch.isfinite(pose).all()) or float(pose[:4].norm()) < 1e-6:
        raise InputError("its pose is not finite")
    camera_to_world = opengl_from_colmap(pose[:4], pose[4:])
    posed = pinhole(camera_to_world, (fx, fy), (centre_x, centre_y), (camera.height, camera.width))
    points = model.points_of(image)
    return SceneFrame(image.name, posed, partial(_read, path, image.name, points), lens)


def _read(path: Path, name: str, points: np.ndarray) -> FramePixels:
    return FramePixels(read_image(path, name, least_px=512), points=points)
