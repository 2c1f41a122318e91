"""The scenes of a shard, read in sequence; images are decoded on demand.

Shards may be downloaded: names in them never reach the file system, sizes are bounded, damage is
reported and never fatal. The layout is documented in `zeronvs.shards.writer`. `ShardSource` gives
shards, ours or the authors', the interface of a data set.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from zeronvs._core.errors import InputError
from zeronvs.cameras.camera import Camera, intrinsics_matrix
from zeronvs.cameras.conventions import LARGEST_NUMBER
from zeronvs.cameras.view import View
from zeronvs.datasets.sources.scene_source import (
    FramePixels,
    SceneFrame,
    SceneViews,
    check_split,
    choose,
)
from zeronvs.shards.images import ImageFormat, decode_depth, decode_image, image_size
from zeronvs.shards.metadata import FrameCamera, frame_camera, parse_metadata
from zeronvs.shards.statistics import DEPTH_QUANTILES, DepthStatistics
from zeronvs.shards.tar import (
    Member,
    OnDamage,
    ShardDamage,
    complete_frames,
    open_tar,
    read_member,
    scan_members,
    shard_paths,
)


@dataclass(frozen=True, eq=False)
class ShardFrame:
    """One frame of a shard, as encoded bytes."""

    name: str
    """E.g. "frame000012"."""
    image: bytes
    image_extension: ImageFormat
    depth: bytes | None
    """16-bit PNG whose bits are float16 depth along the optical axis; 0 = unknown."""
    metadata: dict[str, Any]
    """The JSON."""

    @cached_property
    def image_size_px(self) -> tuple[int, int]:
        """(height, width) of the stored image."""
        return image_size(self.image)

    @cached_property
    def camera(self) -> FrameCamera:
        """The camera in the JSON."""
        return frame_camera(self.metadata, self.image_size_px)


@dataclass(frozen=True, eq=False)
class ShardScene:
    """One scene of a shard; images are decoded on demand."""

    scene_id: str
    """ "category/scene"."""
    frames: tuple[ShardFrame, ...]

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def published_fov_rad(self) -> float:
        """The field of view that the published reader passes to the model: the first frame's."""
        return self.frames[0].camera.published_fov_rad

    @property
    def scale_adjustment(self) -> float:
        """Scene units per unit of the stored depth: of the first frame, as published."""
        return self.frames[0].camera.scale_adjustment

    @property
    def camera_to_world(self) -> Float[np.ndarray, "n 4 4"]:
        """OpenGL poses of all frames, float64, scene units."""
        return np.stack([frame.camera.camera_to_world for frame in self.frames])

    def camera(self, index: int) -> Camera:
        """Return the camera of one frame's centre square."""
        camera = self.frames[index].camera
        side_px = min(self.frames[index].image_size_px)
        intrinsics_px = intrinsics_matrix(*torch.tensor([camera.focal_px, camera.principal_px]))
        pose = torch.from_numpy(camera.camera_to_world).float()
        return Camera(pose, intrinsics_px, (side_px, side_px))

    def cameras(self) -> Camera:
        """Return the cameras of all frames' centre squares, a batch.

        Raises:
            InputError: The frames have short sides of different lengths.
        """
        cameras = [self.camera(index) for index in range(len(self))]
        if len({camera.image_size_px for camera in cameras}) != 1:
            raise InputError(f"{self.scene_id}: frames have short sides of different lengths")
        return Camera.stack(cameras)

    def image(self, index: int) -> UInt8[Tensor, "3 s s"]:
        """Return the centre square of one frame."""
        pixels = decode_image(self.frames[index].image)
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1)

    def depth_z(self, index: int) -> Float[Tensor, "s s"] | None:
        """Return the depth of one frame's centre square, scene units; 0 = unknown."""
        depth = self.frames[index].depth
        if depth is None:
            return None
        return torch.from_numpy(decode_depth(depth) * np.float32(self.scale_adjustment))

    def view(self, index: int) -> View:
        """Return the centre square of one frame with its camera and its depth."""
        image = self.image(index).float() / 255
        return View(image, self.camera(index), self.depth_z(index))


def read_shard(path: Path, on_damage: OnDamage | None = None) -> Iterator[ShardScene]:
    """Read the scenes of a shard in sequence; one scene is in memory at a time.

    Args:
        on_damage: Called for damage. Unusable parts are left out: a frame without image or
            metadata, a member of an odd size, the scene in which a truncated tar ends.

    Raises:
        ShardDamage: There was damage and no `on_damage`; raised after the last whole scene.
    """
    damages: list[ShardDamage] = []
    on_damage = damages.append if on_damage is None else on_damage
    try:
        with open_tar(path) as tar:
            for scene_id, members in scan_members(path, on_damage):
                scene = _scene(path, tar, scene_id, members, on_damage)
                if scene is not None:
                    yield scene
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    if damages:
        raise damages[0]


def read_scene(
    path: Path, scene_id: str, members: list[Member], on_damage: OnDamage
) -> ShardScene | None:
    """Read one scene whose members are known (see `tar.scan_members`).

    Returns:
        The scene; None where no frame of it can be used.

    Raises:
        OSError: The tar cannot be read.
    """
    with open_tar(path) as tar:
        return _scene(path, tar, scene_id, members, on_damage)


def _scene(
    path: Path, tar: BinaryIO, scene_id: str, members: list[Member], on_damage: OnDamage
) -> ShardScene | None:
    """Read one scene; incomplete frames are skipped."""
    frames = []
    for name, parts in complete_frames(path, scene_id, members, on_damage):
        content = {kind: read_member(tar, member) for kind, member in parts.items()}
        try:
            frame = ShardFrame(
                name,
                content["image"],
                parts["image"].extension,
                content.get("depth"),
                parse_metadata(content["metadata"]),
            )
            _ = frame.camera  # raises for a damaged header or camera, so that the frame is skipped
        except InputError as error:
            on_damage(ShardDamage(path, f"{scene_id}/{name}", str(error)))
            continue
        frames.append(frame)
    return ShardScene(scene_id, tuple(frames)) if frames else None


def stored_depth_statistics(camera: FrameCamera) -> DepthStatistics | None:
    """Return the depth statistics in our metadata; None in other or damaged metadata."""
    own = camera.own
    try:
        quantiles = tuple(_stored(value) for value in own["depth_quantiles"])
        if len(quantiles) != len(DEPTH_QUANTILES):
            return None
        return DepthStatistics(
            _stored(own["viewer_scale"]),
            _stored(own["aggregate_near"]),
            quantiles,
            _stored(own["known_fraction"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _stored(value: Any) -> float:
    """Return a number of our metadata: NaN for null, an error for what no depth can be."""
    if value is None:
        return math.nan
    number = float(value)
    if not 0 <= number < LARGEST_NUMBER:
        raise ValueError("not a depth")
    return number


class ShardSource:
    """A folder of shards, or one shard."""

    def __init__(self, root: Path) -> None:
        """Find the shards.

        Raises:
            InputError: There is none.
        """
        self._shards = shard_paths(root)
        if not self._shards:
            raise InputError(f"{root}: there is no shard (.tar) in it")
        self.damages: list[ShardDamage] = []
        """Damage found while the shards are listed."""
        self._members: dict[str, list[Member]] = {}
        self._shard_of_scene: dict[str, Path] | None = None

    def scene_ids(self, split: str | None = None) -> list[str]:
        """Return the names of all whole scenes; a folder of shards is one split."""
        check_split(split, ())
        return list(self._shard_of())

    def load(self, scene_id: str, split: str | None = None) -> SceneViews:
        """Return one scene."""
        check_split(split, ())
        damages: list[ShardDamage] = []
        shard = choose(self._shard_of(), scene_id)
        scene = read_scene(shard, scene_id, self._members[scene_id], damages.append)
        if scene is None:
            raise InputError(f"{scene_id} in {shard.name} has no whole frame")
        frames = tuple(_scene_frame(scene, index) for index in range(len(scene)))
        notes = tuple(f"{damage}: left out" for damage in damages)
        return SceneViews(scene_id, frames, notes, len(damages))

    def _shard_of(self) -> dict[str, Path]:
        if self._shard_of_scene is None:
            self._shard_of_scene = {}
            for shard in self._shards:
                for scene_id, members in scan_members(shard, self.damages.append):
                    if self._shard_of_scene.setdefault(scene_id, shard) == shard:
                        self._members[scene_id] = members
        return self._shard_of_scene


def is_shards(folder: Path) -> bool:
    """Return whether a path is a shard or a folder of shards."""
    return folder.suffix == ".tar" or (folder.is_dir() and any(folder.glob("*.tar")))


def _scene_frame(scene: ShardScene, index: int) -> SceneFrame:
    return SceneFrame(
        scene.frames[index].name, scene.camera(index), partial(_frame_pixels, scene, index)
    )


def _frame_pixels(scene: ShardScene, index: int) -> FramePixels:
    image = scene.image(index).permute(1, 2, 0).numpy()
    depth = scene.depth_z(index)
    return FramePixels(
        np.ascontiguousarray(image), None if depth is None else np.asarray(depth.numpy())
    )
