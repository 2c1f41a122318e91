"""Pairs that other papers publish: pixelSplat's evaluation index, SEVA's splits.

    INDEX.json                      {clip: null or {"context": [i, j], "target": [a, b, c]}}
    SCENE/train_test_split_1.json   {"train_ids": [i], "test_ids": [a, b, ...]}

The first is of clips in pixelSplat's chunks, the second lies beside `transforms.json`. Numbers
count frames from 0, in the order of the clip or of `transforms.json`, as the published readers do.
Both are for methods with several inputs, too; here the input is the first context frame, or the
only train id.

Such data has cameras without depth. That of the input is predicted, and fitted to corners that are
triangulated from all frames of its scene: it gives the scale of the scene, as in other pairs.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs._core.files import read_json
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.conventions import check_rigid
from zeronvs.cameras.view import View
from zeronvs.datasets.framing import Framing, frame_to, half_slopes
from zeronvs.datasets.sources.nerfstudio import NerfstudioSource
from zeronvs.datasets.sources.pixelsplat import PixelSplatSource
from zeronvs.datasets.sources.scene_source import (
    SceneFrame,
    SceneViews,
    clean_name,
    find_scene_folders,
    inside,
)
from zeronvs.datasets.triangulate import triangulate
from zeronvs.evaluation.held_out import (
    MIN_KNOWN_POINTS,
    HeldOutPair,
    HeldOutScenes,
    PairName,
    PairReader,
    fitted_depth,
    read_pair_names,
    scaled_pair,
)
from zeronvs.evaluation.protocols.protocol import spread_evenly
from zeronvs.formats.images import from_bytes
from zeronvs.protocols import GeometryEstimator

SPLIT_FILE = "train_test_split_1.json"
CLASS = "all"
"""Published pairs have no classes of motion."""


@dataclass(frozen=True, eq=False)
class HeldOutData:
    """Pairs and what reads them."""

    names: list[PairName]
    reader: PairReader
    notes: tuple[str, ...] = ()
    """Sentences for the report."""


def open_pairs(
    folder: Path,
    size_px: int,
    geometry_estimator: GeometryEstimator | None,
    *,
    whole: bool = False,
    limit: int | None = None,
    split: Path | None = None,
) -> HeldOutData:
    """Open a folder of posed scenes with `pairs.json`, or one with pairs that a paper publishes.

    Args:
        folder: With `split`: pixelSplat's chunks. Else posed scenes with a `pairs.json`, or scenes
            with `transforms.json` and `train_test_split_1.json`.
        size_px: Shorter side of the views.
        geometry_estimator: Predicts depth of inputs that have none.
        whole: Views are whole frames, not their central squares.
        limit: At most so many pairs, spread evenly over the list.
        split: pixelSplat's evaluation index.

    Raises:
        InputError: The list of pairs cannot be read, or is of other scenes than the folder's.
    """
    folders = {} if split or (folder / "pairs.json").is_file() else _split_scenes(folder)
    if split is not None:
        pairs = _indexed_clips(folder, split)
    elif folders:
        pairs = _split_folders(folders)
    else:
        reader = HeldOutScenes(folder, size_px, geometry_estimator, whole=whole)
        return HeldOutData(read_pair_names(folder, limit), reader)
    reader = PublishedScenes(pairs.load, size_px, geometry_estimator, whole=whole)
    return HeldOutData(spread_evenly(pairs.names, limit), reader, pairs.notes)


@dataclass(frozen=True, eq=False)
class _Published:
    """Pairs, and how their scenes are loaded."""

    names: list[PairName]
    load: Callable[[str], SceneViews]
    notes: tuple[str, ...] = ()


def _indexed_clips(folder: Path, index: Path) -> _Published:
    """Return the pairs of the clips of an evaluation index that are in a folder of chunks."""
    all_names = read_evaluation_index(index)
    source = PixelSplatSource(folder)
    clips = {scene_id.split("/")[-1]: scene_id for scene_id in source.scene_ids()}
    names = [name for name in all_names if name.scene in clips]
    if not names:
        raise InputError(f"{folder} has none of the clips of {index}", argument="split")
    notes = ()
    if len(names) < len(all_names):
        there = f"{len(names)} of its {len(all_names)} pairs"
        notes = (f"Not the whole split: {there} are of clips in {folder}.",)
    return _Published(names, lambda scene: source.load(clips[scene]), notes)


def _split_folders(folders: Mapping[str, Path]) -> _Published:
    """Return the pairs of scenes by the split in the folder of each."""
    names = [name for scene, folder in folders.items() for name in read_split(folder, scene)]
    return _Published(names, lambda scene: _load_whole(folders[scene]))


def read_evaluation_index(path: Path) -> list[PairName]:
    """Read pixelSplat's evaluation index; clips that it leaves out (null) have no pairs.

    Raises:
        InputError: It is no such file, or holds no pairs.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} is not an object of clips", argument="split")
    names = []
    for clip, entry in content.items():
        if entry is not None:
            names += _pairs(entry, clean_name(clip), "context", "target", f"{path}: clip {clip!r}")
    if not names:
        raise InputError(f"{path} holds no pairs", argument="split")
    return names


def read_split(folder: Path, scene: str) -> list[PairName]:
    """Read the split of a scene's folder for one input.

    Raises:
        InputError: It is no such file, or has more than one input.
    """
    path = folder / SPLIT_FILE
    content = read_json(path)
    names = _pairs(content, scene, "train_ids", "test_ids", str(path))
    if len(content["train_ids"]) > 1:
        raise InputError(f"{path} has {len(content['train_ids'])} train_ids; one input is one")
    return names


def _pairs(entry: Any, scene: str, inputs: str, targets: str, where: str) -> list[PairName]:
    """Return the pairs of the first input with each target."""
    found: list[list[int]] = []
    for key in (inputs, targets):
        values = entry.get(key) if isinstance(entry, dict) else None
        if not (isinstance(values, list) and values and all(map(_is_frame_number, values))):
            raise InputError(
                f"{where} should have '{inputs}' and '{targets}': lists of frame numbers from 0"
            )
        found.append(values)
    return [PairName(scene, str(found[0][0]), str(target), CLASS) for target in found[1]]


def _is_frame_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _split_scenes(folder: Path) -> dict[str, Path]:
    """Return the folders with a split for one input by name; none if there are none."""
    try:
        found = find_scene_folders(folder, lambda f: (f / SPLIT_FILE).is_file(), what=SPLIT_FILE)
    except InputError:
        return {}
    return {scene_id.split("/")[-1]: path for scene_id, path in found.items()}


def _load_whole(folder: Path) -> SceneViews:
    """Return the scene of a `transforms.json`, all of whose frames must be there."""
    source = NerfstudioSource(folder / "transforms.json")
    scene = source.load(source.scene_ids()[0])
    if scene.left_out:
        raise InputError(
            f"{folder}: {scene.notes[0]}; a split counts all frames, so all are needed"
        )
    for frame in scene.frames:
        inside(folder, frame.name)
    return scene


class PublishedScenes:
    """Reads pairs of posed scenes without depth; a scene and an input are read once in a row."""

    def __init__(
        self,
        load: Callable[[str], SceneViews],
        size_px: int,
        geometry_estimator: GeometryEstimator | None,
        *,
        whole: bool = False,
    ) -> None:
        """Remember how scenes are loaded.

        Args:
            load: Returns a scene by its name in pairs.
            size_px: Shorter side of the views.
            geometry_estimator: Predicts the depth of inputs.
            whole: Views are whole frames, not their central squares.
        """
        self._load, self._estimator = load, geometry_estimator
        self.size_px, self.whole = size_px, whole
        self._last_scene: tuple[str, SceneViews] | None = None
        self._last_input: tuple[tuple[str, str], View] | None = None

    def pair(self, name: PairName) -> HeldOutPair:
        """Read one pair.

        Raises:
            InputError: A scene or frame is missing, or the depth of the input is unknown.
        """
        if self._last_scene is None or self._last_scene[0] != name.scene:
            self._last_scene = (name.scene, self._load(name.scene))
        scene = self._last_scene[1]
        for number in (name.input, name.target):
            if int(number) >= len(scene.frames):
                raise InputError(
                    f"the split names frame {number} of {name.scene}, which has "
                    f"{len(scene.frames)} frames"
                )
        target = self._view(scene.frames[int(name.target)])
        key = (name.scene, name.input)
        if self._last_input is None or self._last_input[0] != key:
            view = self._view(scene.frames[int(name.input)])
            depth_z = self._depth(scene, int(name.input), view)
            self._last_input = (key, View(view.image, view.camera, depth_z))
        return scaled_pair(name, self._last_input[1], target)

    def _camera(self, frame: SceneFrame) -> Camera:
        """Return the camera of a frame as it is measured: about its principal point."""
        check_rigid(frame.camera.camera_to_world, where=f"{frame.name}: ")
        half_slope = min(half_slopes(frame.camera, frame.lens))
        return frame_to(
            frame.camera,
            frame.lens,
            half_slope=half_slope,
            short_side_px=self.size_px,
            square=not self.whole,
        ).target

    def _pixels(self, frame: SceneFrame) -> UInt8[ndarray, "h w 3"]:
        """Return the pixels that its camera sees."""
        pixels = frame.read().image
        stored = frame.camera_for((pixels.shape[0], pixels.shape[1]))
        return Framing(stored, frame.lens, self._camera(frame)).image(pixels)

    def _view(self, frame: SceneFrame) -> View:
        return View(from_bytes(self._pixels(frame)), self._camera(frame))

    def _depth(self, scene: SceneViews, index: int, view: View) -> Float[Tensor, "h w"]:
        """Fit the depth of the estimator to corners triangulated from the frames of the scene."""
        usable: dict[int, Camera] = {}
        for k, frame in enumerate(scene.frames):
            with suppress(InputError):
                usable[k] = self._camera(frame)
        frames = [scene.frames[k] for k in usable]
        (sparse,) = triangulate(
            lambda place: self._pixels(frames[place]),
            list(usable.values()),
            only=[list(usable).index(index)],
        )
        depth_z = torch.from_numpy(sparse)
        row, column = torch.nonzero(depth_z, as_tuple=True)
        if self._estimator is None or len(row) < MIN_KNOWN_POINTS:
            raise InputError(
                f"the depth of frame {index} of {scene.scene_id} is unknown: {len(row)} points "
                f"were triangulated, {MIN_KNOWN_POINTS} and a depth network are needed"
            )
        return fitted_depth(self._estimator, view, row, column, depth_z[row, column])
