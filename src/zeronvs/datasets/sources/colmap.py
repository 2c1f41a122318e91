"""COLMAP models with their images, also in the folders of DL3DV: sparse points become depth.

A scene is a folder with a model (`sparse/0`, `sparse`, `colmap/sparse/0`, or the folder itself) and
its images (`images`, or a smaller copy `images_2`, `images_4`, `images_8`; or the folder itself).
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from zeronvs._core.errors import InputError
from zeronvs.cameras.conventions import opengl_from_colmap
from zeronvs.datasets.sources.scene_source import (
    IMAGE_ENDINGS,
    FramePixels,
    SceneFrame,
    SceneViews,
    check_split,
    choose,
    find_image,
    find_scene_folders,
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
            images: Folder of the images, absolute or within a scene; found if not given.
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
            raise InputError(f"{folder} has no COLMAP model")
        model = read_model(model_folder)
        frames, paths, notes = [], set[Path](), _other_models(model_folder)
        for image in sorted(model.images, key=lambda image: image.name):
            path = self._find(folder, image.name)
            if path is None:
                notes.append(f"{image.name} left out: there is no such image")
                continue
            paths.add(path)
            try:
                frames.append(_frame(model, image, path))
            except (InputError, KeyError, ValueError) as error:
                notes.append(f"{image.name} left out: {error}")
        notes += _without_pose(paths)
        left_out = len(model.images) - len(frames)
        return SceneViews(scene_id, tuple(frames), tuple(notes), left_out)

    def _find(self, folder: Path, name: str) -> Path | None:
        """Return an image of the model; an absolute folder or name is taken as it is."""
        if not name or "\x00" in name:
            return None
        for images in (self._images,) if self._images else IMAGE_FOLDERS:
            path = find_image(folder / images / name)
            if path is not None:
                return path
        return None


def is_colmap(folder: Path) -> bool:
    """Return whether a folder contains a COLMAP scene."""
    return _model_folder(folder) is not None


def _model_folder(folder: Path) -> Path | None:
    return next((folder / part for part in MODEL_FOLDERS if model_files(folder / part)), None)


def _other_models(model_folder: Path) -> list[str]:
    """Name the other models of the scene (COLMAP splits what it cannot join)."""
    if not model_folder.name.isdigit():
        return []
    siblings = sorted(path for path in model_folder.parent.iterdir() if path != model_folder)
    names = [path.name for path in siblings if model_files(path)]
    read = f"{model_folder.parent.name}/{model_folder.name}"
    return [f"model {name} left out: only {read} is read" for name in names]


def _without_pose(paths: set[Path]) -> list[str]:
    """Count the images in the same folders that COLMAP could not register."""
    folders = {path.parent for path in paths}
    present = (path for folder in folders for path in folder.iterdir())
    rest = sorted(
        path.name for path in present if path.suffix in IMAGE_ENDINGS and path not in paths
    )
    return [f"{len(rest)} images without a pose left out, e.g. {rest[0]}"] if rest else []


def _frame(model: ColmapModel, image: ColmapImage, path: Path) -> SceneFrame:
    camera = model.cameras[image.camera_id]
    lens = camera.lens()
    fx, fy, centre_x, centre_y = camera.intrinsics()
    pose = torch.tensor([*image.qvec, *image.tvec], dtype=torch.float64)
    if not bool(torch.isfinite(pose).all()) or float(pose[:4].norm()) < 1e-6:
        raise InputError("the pose is not finite")
    camera_to_world = opengl_from_colmap(pose[:4], pose[4:])
    posed = pinhole(camera_to_world, (fx, fy), (centre_x, centre_y), (camera.height, camera.width))
    points = model.points_of(image)
    read = partial(_read, path, image.name, posed.image_size_px, points)
    return SceneFrame(image.name, posed, read, lens)


def _read(path: Path, name: str, size_px: tuple[int, int], points: np.ndarray) -> FramePixels:
    return FramePixels(read_image(path, name, least_px=512, camera_size_px=size_px), points=points)
