"""Shards: tar files of posed frames in the published layout, scene after scene.

    <category>/<scene>/frame000001.png          or .jpg, .webp; short side 256 pixels
    <category>/<scene>/frame000001_depth.png    16-bit PNG whose bits are float16 depth; 0 = unknown
    <category>/<scene>/frame000001_metadata.json

The authors' shards are read here, and the authors' reader reads ours where images are PNG: the
camera is RealEstate10K JSON of the centre square (see `metadata`). This module writes them;
`scene` reads them scene by scene, `index` frame by frame.
"""

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from zeronvs._core.errors import InputError
from zeronvs._core.files import write_aside
from zeronvs.cameras.camera import Camera
from zeronvs.cameras.embedding import Representation
from zeronvs.datasets.framing import SHORT_SIDE_PX
from zeronvs.shards.images import (
    ImageFormat,
    centre_square,
    encode_depth,
    encode_image,
    round_depth,
)
from zeronvs.shards.metadata import (
    Manifest,
    SceneEntry,
    ShardEntry,
    finite_or_none,
    re10k_metadata,
    read_manifest,
    write_manifest,
)
from zeronvs.shards.scene import ShardFrame, ShardScene, read_shard, stored_depth_statistics
from zeronvs.shards.statistics import aggregate_scale, camera_radius, depth_statistics
from zeronvs.shards.tar import ShardDamage

__all__ = [
    "Manifest",
    "SceneEntry",
    "ShardDamage",
    "ShardEntry",
    "ShardFrame",
    "ShardScene",
    "ShardWriter",
    "encode_frame",
    "read_manifest",
    "read_shard",
    "write_manifest",
    "write_scene",
]

FOCAL_TOLERANCE = 0.01
"""fx and fy may differ by this fraction; the mean is written."""
CENTRE_TOLERANCE_PX = 1.01
"""The principal point may lie this far from the middle of the centre square."""


def encode_frame(
    image: UInt8[np.ndarray, "h w 3"],
    camera: Camera,
    depth_z: Float[np.ndarray, "h w"] | None,
    *,
    name: str,
    image_format: ImageFormat = "jpg",
    disparity: Float[np.ndarray, "s s"] | None = None,
    square: bool = False,
    quality: int = 95,
    extra: dict[str, Any] | None = None,
) -> ShardFrame:
    """Turn one frame into what a shard holds, statistics of its depth included.

    Args:
        image: RGB, short side 256 (see `zeronvs.datasets.framing`).
        camera: A single camera with square pixels and a centred principal point.
        depth_z: Along the optical axis, scene units; 0 = unknown. None is written as unknown
            everywhere, because the published reader needs a depth map for each frame.
        name: E.g. "frame000012"; published shards count from 1.
        disparity: Disparity of the centre square by a monocular network: fills sparse depth for the
            viewer scale (see `depth_statistics`).
        square: Keep the centre square only: all that training reads, and the same to the published
            reader.

    Raises:
        InputError: The short side is not 256, or the camera is not centred with square pixels.
    """
    height_px, width_px = image.shape[:2]
    if min(height_px, width_px) != SHORT_SIDE_PX:
        raise InputError(f"{name} is {width_px}x{height_px} px; its short side must be 256")
    if depth_z is None:
        depth_z = np.zeros((height_px, width_px), np.float32)
    focal_px, principal_px = _centred(camera, (height_px, width_px), name)
    depth_z = round_depth(depth_z)
    statistics = depth_statistics(centre_square(depth_z), disparity)
    own: dict[str, Any] = {
        "principal_px": list(principal_px),
        "viewer_scale": finite_or_none(statistics.viewer_scale),
        "aggregate_near": finite_or_none(statistics.aggregate_near),
        "depth_quantiles": [finite_or_none(value) for value in statistics.depth_quantiles],
        "known_fraction": statistics.known_fraction,
    }
    if square:
        image, depth_z = centre_square(image), centre_square(depth_z)
    pose = camera.camera_to_world.double().numpy()
    return ShardFrame(
        name,
        encode_image(
            np.ascontiguousarray(image),
            image_format,
            quality=quality,
        ),
        image_format,
        encode_depth(depth_z),
        re10k_metadata(pose, focal_px, SHORT_SIDE_PX, {**(extra or {}), **own}),
    )


class ShardWriter:
    """Writes scenes into numbered shards of a folder, and their manifest.

    A shard is written aside and renamed when it is full; the manifest follows. A stopped
    conversion is resumed by opening the folder again and leaving out `done_scene_ids`.
    Use as a context manager: leaving it by an exception drops the unfinished shard.
    """

    def __init__(
        self,
        folder: Path,
        prefix: str = "shard",
        *,
        split: str = "train",
        source: str = "",
        licence: str | None = None,
        max_scenes_per_shard: int | None = None,
        max_bytes: int = 512 * 2**20,
    ) -> None:
        """Open a folder, new or with finished shards.

        Args:
            prefix: Shards are called `<prefix>-000000.tar` and so on.
            max_scenes_per_shard: A shard is full with so many scenes.
            max_bytes: A shard is full when it is at least so large.

        Raises:
            InputError: The folder holds a manifest that cannot be read, or of another split.
        """
        folder.mkdir(parents=True, exist_ok=True)
        stored = read_manifest(folder) or Manifest(split, source, (), licence)
        if stored.split != split:
            raise InputError(f"{folder} holds the split {stored.split!r}, not {split!r}")
        whole = tuple(shard for shard in stored.shards if _is_whole(folder, shard))
        self.manifest = Manifest(split, source or stored.source, whole, licence or stored.licence)
        self._folder, self._prefix = folder, prefix
        self._max_scenes, self._max_bytes = max_scenes_per_shard, max_bytes
        self._number = 0
        self._open: _OpenShard | None = None

    @property
    def done_scene_ids(self) -> set[str]:
        """Scenes that lie in finished shards."""
        return self.manifest.scene_ids

    def add(self, scene: ShardScene) -> None:
        """Append a scene; a full shard is finished.

        Raises:
            InputError: A name or a camera of the scene would not be read back.
        """
        entry = scene_entry(scene)
        if self._open is None:
            self._open = _OpenShard(self._next_path())
        self._open.add(scene, entry)
        too_many = self._max_scenes is not None and len(self._open.scenes) >= self._max_scenes
        if too_many or self._open.bytes >= self._max_bytes:
            self.finish_shard()

    def finish_shard(self) -> None:
        """Finish the open shard, if there is one, and write the manifest."""
        if self._open is not None:
            shard, self._open = self._open, None
            path = shard.finish()
            entry = ShardEntry(path.name, path.stat().st_size, tuple(shard.scenes))
            shards = (*(s for s in self.manifest.shards if s.file != path.name), entry)
            self.manifest = Manifest(
                self.manifest.split, self.manifest.source, shards, self.manifest.licence
            )
        write_manifest(self._folder, self.manifest)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Finish the last shard, or drop it where an exception ended the work."""
        if kind is None:
            self.finish_shard()
        elif self._open is not None:
            self._open.drop()

    def _next_path(self) -> Path:
        taken = {shard.file for shard in self.manifest.shards}
        while f"{self._prefix}-{self._number:06d}.tar" in taken:
            self._number += 1
        return self._folder / f"{self._prefix}-{self._number:06d}.tar"


class _OpenShard:
    """A shard that is being written, aside of its name."""

    def __init__(self, path: Path) -> None:
        self._path, self.scenes = path, list[SceneEntry]()
        self._aside = write_aside(path)
        self._part = self._aside.__enter__()
        self._tar = tarfile.open(self._part, "w", format=tarfile.USTAR_FORMAT)

    @property
    def bytes(self) -> int:
        """Bytes written so far."""
        return self._tar.offset

    def add(self, scene: ShardScene, entry: SceneEntry) -> None:
        write_scene(self._tar, scene)
        self.scenes.append(entry)

    def finish(self) -> Path:
        self._tar.close()
        self._aside.__exit__(None, None, None)
        return self._path

    def drop(self) -> None:
        self._tar.close()
        error = RuntimeError("dropped")
        try:
            self._aside.__exit__(RuntimeError, error, None)
        except RuntimeError as raised:
            if raised is not error:
                raise


def scene_entry(scene: ShardScene) -> SceneEntry:
    """Return the manifest entry of a scene, from the metadata of its frames.

    Raises:
        InputError: The scene is empty, or a camera cannot be read.
    """
    if not scene.frames:
        raise InputError(f"{scene.scene_id} has no frames")
    stored = [stored_depth_statistics(frame.camera) for frame in scene.frames]
    near = np.array([np.nan if s is None else s.aggregate_near for s in stored])
    viewer = np.array([np.nan if s is None else s.viewer_scale for s in stored])
    table = np.array([s.depth_quantiles for s in stored if s is not None])
    radius = camera_radius(scene.camera_to_world)
    scales = {
        Representation.SIX_DOF_NORM.official_mode: finite_or_none(radius),
        Representation.SIX_DOF_AGG.official_mode: finite_or_none(aggregate_scale(near)),
        Representation.SIX_DOF_VIEWER.official_mode: finite_or_none(_median(viewer)),
    }
    fov_y_deg = float(np.rad2deg(float(scene.camera(0).fov_y_rad)))
    quantiles = tuple(finite_or_none(_median(column)) for column in table.T)
    return SceneEntry(scene.scene_id, len(scene), fov_y_deg, quantiles, scales)


def write_scene(tar: tarfile.TarFile, scene: ShardScene) -> None:
    """Append a scene to an open tar, byte for byte the same whenever it is written.

    Raises:
        InputError: The scene's or a frame's name would not be read back.
    """
    if not re.fullmatch(r"[\w\-]+/[\w\-]+", scene.scene_id, re.ASCII):
        raise InputError(
            f'scene id {scene.scene_id!r} is not "category/scene" of letters, digits, - and _'
        )
    for frame in scene.frames:
        if not re.fullmatch(r"frame\d{6}", frame.name, re.ASCII):
            raise InputError(f'frame name {frame.name!r} is not "frame" and six digits')
        stem = f"{scene.scene_id}/{frame.name}"
        _append(tar, f"{stem}.{frame.image_extension}", frame.image)
        if frame.depth is not None:
            _append(tar, f"{stem}_depth.png", frame.depth)
        metadata = json.dumps(frame.metadata, allow_nan=False).encode()
        _append(tar, f"{stem}_metadata.json", metadata)


def _append(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o444
    tar.addfile(member, io.BytesIO(content))


def _centred(
    camera: Camera, size_px: tuple[int, int], name: str
) -> tuple[
    float,  # focal length, pixels
    tuple[float, float],  # principal point in the centre square, pixels
]:
    """Return the intrinsics of a camera with a centred principal point."""
    if camera.batch_shape != () or camera.image_size_px != size_px:
        raise InputError(
            f"{name}: the camera is of {camera.image_size_px} px (height, width), the image of "
            f"{size_px}"
        )
    fx, fy = float(camera.intrinsics_px[0, 0]), float(camera.intrinsics_px[1, 1])
    if abs(fx - fy) > FOCAL_TOLERANCE * max(fx, fy):
        raise InputError(f"{name}: pixels are not square (fx {fx:.2f}, fy {fy:.2f}); fit the frame")
    square = camera.center_square()
    cx, cy = float(square.intrinsics_px[0, 2]), float(square.intrinsics_px[1, 2])
    middle = 0.5 * SHORT_SIDE_PX
    if max(abs(cx - middle), abs(cy - middle)) > CENTRE_TOLERANCE_PX:
        raise InputError(
            f"{name}: the principal point lies {cx - middle:+.1f}, {cy - middle:+.1f} px off the "
            "middle of the centre square; fit the frame"
        )
    return 0.5 * (fx + fy), (cx, cy)


def _is_whole(folder: Path, shard: ShardEntry) -> bool:
    path = folder / shard.file
    return path.is_file() and path.stat().st_size == shard.bytes


def _median(values: Float[np.ndarray, " n"]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else float("nan")
