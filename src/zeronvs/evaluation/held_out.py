"""Pairs of frames that numbers are reported on: `pairs.json` in a folder of posed scenes.

`pairs.json` is a list of `scene` (a folder next to it), `input` and `target` (files of that scene)
and `motion_class` (small, medium, large, or any other name). Of both frames the centre square is
taken, resized by area; cameras change with the crop. The scene scale is given: the 20 % quantile of
the input's depth, which is a monocular disparity aligned to the scene's triangulated points.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs._core.files import read_json
from zeronvs.cameras.scene_scale import viewer_scale
from zeronvs.cameras.view import View
from zeronvs.datasets.sources.posed import (
    PosedScene,
    align_disparity,
    crop_square,
    open_posed_scene,
)
from zeronvs.evaluation.protocols.protocol import spread_evenly
from zeronvs.protocols import GeometryEstimator

CLASS_ORDER = ("small", "medium", "large")
KEYS = ("scene", "input", "target", "motion_class")
MIN_KNOWN_POINTS = 12


@dataclass(frozen=True)
class PairName:
    """One line of `pairs.json`."""

    scene: str
    input: str
    target: str
    motion_class: str


@dataclass(frozen=True, eq=False)
class HeldOutPair:
    """One pair, read."""

    name: PairName
    input_view: View
    """With dense depth: what the warp baseline moves along."""
    target_view: View
    scene_scale: float
    """Scene units per model unit."""


@runtime_checkable
class PairReader(Protocol):
    """Reads pairs of one data set."""

    def pair(self, name: PairName) -> HeldOutPair:
        """Read one pair.

        Raises:
            InputError: A scene or frame is missing, or the depth of the input is unknown.
        """
        ...


def read_pair_names(folder: Path, limit: int | None = None) -> list[PairName]:
    """Read `pairs.json`; `limit` takes so many, spread evenly over the list.

    Raises:
        InputError: The file is missing, or is not such a list.
    """
    path = folder / "pairs.json"
    if not path.exists():
        raise InputError(
            f"{folder} has no pairs.json (and no scene with train_test_split_1.json); name a "
            "folder of posed scenes that has one"
        )
    content: Any = read_json(path)
    try:
        names = [PairName(*(str(entry[key]) for key in KEYS)) for entry in content]
    except (TypeError, KeyError) as error:
        raise InputError(
            f"{path} is not a list of pairs with {', '.join(KEYS)}: {error!r}"
        ) from error
    if not names:
        raise InputError(f"{path} holds no pairs")
    for name in names:
        if Path(name.scene).name != name.scene or name.scene == "..":
            raise InputError(f"{path} names a scene outside its folder: {name.scene!r}")
    return spread_evenly(names, limit)


def motion_classes(names: Sequence[PairName]) -> list[str]:
    """Return the classes that occur: small, medium, large, then others by name."""
    classes = {name.motion_class for name in names}
    known = [name for name in CLASS_ORDER if name in classes]
    return known + sorted(classes - set(known))


class HeldOutScenes:
    """The scenes of a folder; each is opened once."""

    def __init__(
        self,
        folder: Path,
        size_px: int,
        geometry_estimator: GeometryEstimator | None = None,
        *,
        whole: bool = False,
    ) -> None:
        """Remember the folder.

        Args:
            folder: Scenes and `pairs.json`.
            size_px: Shorter side of the views.
            geometry_estimator: For frames that come without a monocular disparity and without
                measured depth.
            whole: Views are whole frames, not their central squares.
        """
        self.folder, self.size_px, self.whole = folder, size_px, whole
        self._estimator = geometry_estimator
        self._scenes: dict[str, PosedScene] = {}

    def pair(self, name: PairName) -> HeldOutPair:
        """Read one pair.

        Raises:
            InputError: A scene or frame is missing, or the depth of the input is unknown.
        """
        scene, index = self._find(name.scene, name.input)
        source = self._framed(scene.view(index))
        if source.depth_z is None or not bool((source.depth_z > 0).any()):
            source = View(source.image, source.camera, self._estimated(scene, index, source))
        scene, index = self._find(name.scene, name.target)
        return scaled_pair(name, source, self._framed(scene.view(index)))

    def _framed(self, view: View) -> View:
        """Return a frame at the size that is measured."""
        if not self.whole:
            return crop_square(view, self.size_px)
        factor = self.size_px / min(view.camera.image_size_px)
        height_px, width_px = (round(side * factor) for side in view.camera.image_size_px)
        return view.resized(height_px, width_px)

    def _find(self, name: str, file: str) -> tuple[PosedScene, int]:
        if name not in self._scenes:
            self._scenes[name] = open_posed_scene(self.folder / name)
        scene = self._scenes[name]
        for index, frame in enumerate(scene.frames):
            if frame["file"] == file:
                return scene, index
        raise InputError(f"pairs.json names {file} of {name}, which that scene does not have")

    def _estimated(self, scene: PosedScene, index: int, view: View) -> Tensor:
        """Align the depth of the estimator to the triangulated points of a frame."""
        frame = scene.frames[index]
        chosen = scene.sparse_frame == index
        uv_px = torch.from_numpy(scene.sparse_uv_px[chosen])
        depth_z = torch.from_numpy(scene.sparse_depth_z[chosen])
        frame_px = torch.tensor([frame["w"], frame["h"]])
        seen_px = frame_px if self.whole else frame_px.amin().expand(2)
        size_px = torch.tensor([view.camera.image_size_px[1], view.camera.image_size_px[0]])
        corner = (frame_px - seen_px) // 2
        pixel = torch.floor((uv_px - corner) * size_px / seen_px).long()
        inside = ((pixel >= 0) & (pixel < size_px)).all(-1)
        if self._estimator is None or int(inside.sum()) < MIN_KNOWN_POINTS:
            raise InputError(
                f"the depth of {frame['file']} of {scene.folder.name} is unknown: it has no depth "
                "map, and no disparity (or depth network) with enough points in sparse.npz"
            )
        pixel, depth_z = pixel[inside], depth_z[inside]
        return fitted_depth(self._estimator, view, pixel[:, 1], pixel[:, 0], depth_z)


def scaled_pair(name: PairName, source: View, target: View) -> HeldOutPair:
    """Return a pair with the scene scale that the depth of its input gives."""
    assert source.depth_z is not None
    known = source.depth_z > 0
    scale = viewer_scale(source.depth_z) if bool(known.all()) else None
    if scale is None:
        scale = torch.quantile(source.depth_z[known], 0.2)
    return HeldOutPair(name, source, target, float(scale))


def fitted_depth(
    estimator: GeometryEstimator,
    view: View,
    row: Int[Tensor, " n"],
    column: Int[Tensor, " n"],
    known_depth_z: Float[Tensor, " n"],
) -> Float[Tensor, "h w"]:
    """Return the predicted depth of a view, its scale and shift fitted to known depths."""
    disparity = 1 / estimator.estimate(view.image[None]).depth_z[0].cpu()
    return align_disparity(disparity, row, column, known_depth_z)
