"""Random access to the frames of a shard: byte spans, cameras and depth statistics.

An index is built by one pass over the tar's headers and metadata and stored next to the shard as
`<shard>.index` (safetensors, memory-mapped when read), where the folder can be written. An index
that does not fit its shard, or holds numbers that no camera has, is made anew.
"""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from zeronvs._core.errors import InputError
from zeronvs._core.files import parse_json, write_aside
from zeronvs.cameras.conventions import LARGEST_NUMBER
from zeronvs.shards.images import (
    IMAGE_EXTENSIONS,
    MAX_IMAGE_BYTES,
    MAX_SIDE_PX,
    decode_depth,
    image_size,
)
from zeronvs.shards.metadata import FrameCamera, frame_camera, parse_metadata
from zeronvs.shards.scene import stored_depth_statistics
from zeronvs.shards.statistics import (
    DEPTH_QUANTILES,
    UNKNOWN_DEPTH,
    DepthStatistics,
    aggregate_scale,
    camera_radius,
    depth_statistics,
)
from zeronvs.shards.tar import (
    Member,
    OnDamage,
    ShardDamage,
    complete_frames,
    open_tar,
    read_member,
    scan_members,
)

SUFFIX = ".index"
FORMAT = "zeronvs shard index 1"
ROTATION_TOLERANCE = 1e-2
HEAD_BYTES = 4096
"""The size of an image is in these first bytes, except for very long headers."""
_FRAME_FIELDS = {
    "image_span": (torch.int64, (2,)),
    "depth_span": (torch.int64, (2,)),
    "extension": (torch.int64, ()),
    "image_size_px": (torch.int64, (2,)),
    "number": (torch.int64, ()),
    "camera_to_world": (torch.float64, (4, 4)),
    "focal_px": (torch.float64, (2,)),
    "principal_px": (torch.float64, (2,)),
    "published_fov_rad": (torch.float64, ()),
    "depth": (torch.float32, (3 + len(DEPTH_QUANTILES),)),
}
_SCENE_FIELDS = {
    "radius": (torch.float64, ()),
    "aggregate_scale": (torch.float64, ()),
    "scale_adjustment": (torch.float64, ()),
}


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """The scenes (s) and frames (f) of one shard, in the order of the tar."""

    path: Path
    """The tar."""
    scene_ids: tuple[str, ...]
    scene_start: Int[np.ndarray, " starts"]
    """Scene k holds frames scene_start[k] to scene_start[k + 1]."""
    image_span: Int[np.ndarray, "f 2"]
    """First byte and number of bytes in the tar."""
    depth_span: Int[np.ndarray, "f 2"]
    """The same of the depth map; 0 bytes where there is none."""
    extension: Int[np.ndarray, " f"]
    """Index into `IMAGE_EXTENSIONS`."""
    image_size_px: Int[np.ndarray, "f 2"]
    """(height, width) as stored."""
    number: Int[np.ndarray, " f"]
    """12 for "frame000012"."""
    camera_to_world: Float[np.ndarray, "f 4 4"]
    """OpenGL, scene units."""
    focal_px: Float[np.ndarray, "f 2"]
    """(fx, fy), pixels of the stored image."""
    principal_px: Float[np.ndarray, "f 2"]
    """(cx, cy) in the centre square of the stored image, pixels."""
    published_fov_rad: Float[np.ndarray, " f"]
    """Field of view as the published reader computes it, radians (see `FrameCamera`)."""
    depth: Float[np.ndarray, "f q"]
    """`DepthStatistics` in scene units: viewer scale, near, known fraction, quantiles. The known
    fraction is NaN where the depth map has not been decoded."""
    radius: Float[np.ndarray, " s"]
    """Mean distance of the cameras to their centroid, scene units."""
    aggregate_scale: Float[np.ndarray, " s"]
    """NaN where it is not known."""
    scale_adjustment: Float[np.ndarray, " s"]
    """Scene units per unit of the stored depth."""

    def __len__(self) -> int:
        return len(self.scene_ids)

    @property
    def knows_depth(self) -> bool:
        """Whether the statistics of every depth map are known."""
        return not bool(np.isnan(self.depth[:, 2]).any())

    def depth_of(self, frame: int) -> DepthStatistics | None:
        """Return the depth statistics of one frame; None where it is not decoded yet."""
        viewer, near, known, *quantiles = (float(value) for value in self.depth[frame])
        if np.isnan(known):
            return None
        return DepthStatistics(viewer, near, tuple(quantiles), known)


def open_index(
    path: Path, *, with_depth: bool = False, on_damage: OnDamage | None = None
) -> ShardIndex:
    """Return the index of a shard: the stored one where it is valid, else a new one.

    Args:
        with_depth: Compute the statistics of every depth map: where metadata does not have them,
            all depth maps are decoded, once.
        on_damage: Called for each damage when a new index is made.

    Raises:
        InputError: The shard cannot be read.
    """
    try:
        fingerprint = shard_fingerprint(path)
        stored = _read_index(path, fingerprint)
        if stored is not None and (stored.knows_depth or not with_depth):
            return stored
        made = build_index(path, with_depth=with_depth, on_damage=on_damage)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        _write_index(made, fingerprint)
    except OSError:
        return made  # a folder that cannot be written: the index lives as long as the process
    return _read_index(path, fingerprint) or made


def build_index(
    path: Path, *, with_depth: bool = False, on_damage: OnDamage | None = None
) -> ShardIndex:
    """Make the index of a shard; see `open_index`."""
    report = on_damage or (lambda damage: None)
    scene_ids: list[str] = []
    counts: list[int] = []
    rows: list[dict[str, object]] = []
    scenes: list[dict[str, float]] = []
    with open_tar(path) as raw:
        for scene_id, members in scan_members(path, report):
            made = _index_scene(path, raw, scene_id, members, with_depth, report)
            if made:
                scene_ids.append(scene_id)
                counts.append(len(made))
                scenes.append(_scene_row(made))
                rows.extend(made)
    table = {"scene_start": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)}
    for fields, source in ((_FRAME_FIELDS, rows), (_SCENE_FIELDS, scenes)):
        for name, (dtype, shape) in fields.items():
            values = np.array([row[name] for row in source]).reshape(len(source), *shape)
            table[name] = values.astype(torch.empty(0, dtype=dtype).numpy().dtype)
    return ShardIndex(path, tuple(scene_ids), **table)


def _index_scene(
    path: Path,
    raw: BinaryIO,
    scene_id: str,
    members: list[Member],
    with_depth: bool,
    on_damage: OnDamage,
) -> list[dict[str, object]]:
    """Return a row for each usable frame of a scene."""
    rows, scale_adjustment = [], None
    for name, parts in complete_frames(path, scene_id, members, on_damage):
        try:
            size_px = _image_size(raw, parts["image"])
            camera = frame_camera(parse_metadata(read_member(raw, parts["metadata"])), size_px)
            scale_adjustment = scale_adjustment or camera.scale_adjustment
            statistics = _depth(raw, parts.get("depth"), camera, with_depth)
        except InputError as error:
            on_damage(ShardDamage(path, f"{scene_id}/{name}", str(error)))
            continue
        rows.append(_row(parts, size_px, camera, statistics, scale_adjustment))
    return rows


def _row(
    parts: dict[str, Member],
    size_px: tuple[int, int],
    camera: FrameCamera,
    statistics: DepthStatistics | None,
    scale_adjustment: float,
) -> dict[str, object]:
    image, depth = parts["image"], parts.get("depth")
    scene_units = statistics or UNKNOWN_DEPTH
    if statistics is not None and camera.scale_adjustment != 1:
        scene_units = scene_units.scaled(scale_adjustment)
    known = np.nan if statistics is None else scene_units.known_fraction
    return {
        "image_span": (image.offset, image.size),
        "depth_span": (depth.offset, depth.size) if depth is not None else (0, 0),
        "extension": IMAGE_EXTENSIONS.index(image.extension),
        "image_size_px": size_px,
        "number": int(image.frame.removeprefix("frame")),
        "camera_to_world": camera.camera_to_world,
        "focal_px": camera.focal_px,
        "principal_px": camera.principal_px,
        "published_fov_rad": camera.published_fov_rad,
        "depth": (
            scene_units.viewer_scale,
            scene_units.aggregate_near,
            known,
            *scene_units.depth_quantiles,
        ),
        "scale_adjustment": scale_adjustment,
    }


def _scene_row(rows: list[dict[str, object]]) -> dict[str, float]:
    poses = np.stack([np.asarray(row["camera_to_world"]) for row in rows])
    depth = np.array([row["depth"] for row in rows], dtype=np.float64)
    complete = not np.isnan(depth[:, 2]).any()
    return {
        "radius": camera_radius(poses),
        "aggregate_scale": aggregate_scale(depth[:, 1]) if complete else np.nan,
        "scale_adjustment": float(np.asarray(rows[0]["scale_adjustment"])),
    }


def _depth(
    raw: BinaryIO, member: Member | None, camera: FrameCamera, with_depth: bool
) -> DepthStatistics | None:
    """Return the statistics of a frame's stored depth; None if not decoded yet."""
    stored = stored_depth_statistics(camera)
    if stored is not None:
        return stored
    if member is None:
        return UNKNOWN_DEPTH
    return depth_statistics(decode_depth(read_member(raw, member))) if with_depth else None


def _image_size(raw: BinaryIO, member: Member) -> tuple[int, int]:
    raw.seek(member.offset)
    try:
        return image_size(raw.read(min(HEAD_BYTES, member.size)))
    except InputError:
        return image_size(read_member(raw, member))


def shard_fingerprint(path: Path) -> str:
    """Return a fingerprint of a shard: length and checksum of its first and last bytes."""
    with open_tar(path) as raw:
        length = raw.seek(0, 2)
        raw.seek(0)
        start = zlib.crc32(raw.read(65536))
        raw.seek(max(0, length - 65536))
        return f"{length} {zlib.crc32(raw.read(65536), start):08x}"


def _index_path(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


def _write_index(index: ShardIndex, fingerprint: str) -> None:
    names = ("scene_start", *_FRAME_FIELDS, *_SCENE_FIELDS)
    tensors = {name: torch.from_numpy(getattr(index, name)) for name in names}
    metadata = {
        "format": FORMAT,
        "shard": fingerprint,
        "scene_ids": json.dumps(index.scene_ids),
    }
    with write_aside(_index_path(index.path)) as aside:
        save_file(tensors, aside, metadata)


def _read_index(path: Path, fingerprint: str) -> ShardIndex | None:
    """Read the stored index of a shard; None where there is no valid one."""
    index_path = _index_path(path)
    if not index_path.is_file():
        return None
    try:
        with safe_open(index_path, "pt") as stored:
            metadata = stored.metadata() or {}
            if (metadata.get("format"), metadata.get("shard")) != (FORMAT, fingerprint):
                return None
            scene_ids = tuple(str(name) for name in parse_json(metadata["scene_ids"], "scenes"))
            table = {name: stored.get_tensor(name).numpy() for name in stored.keys()}
        return _checked(path, scene_ids, table)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _checked(
    path: Path, scene_ids: tuple[str, ...], table: dict[str, np.ndarray]
) -> ShardIndex | None:
    """Return an index whose numbers cannot lead outside the shard or its own tables, else None."""
    start = table["scene_start"]
    frames, length = int(start[-1]) if start.size else -1, path.stat().st_size
    # Every table has a row per frame or scene, of the expected type.
    for fields, rows in ((_FRAME_FIELDS, frames), (_SCENE_FIELDS, len(scene_ids))):
        for name, (dtype, shape) in fields.items():
            array = table[name]
            if array.shape != (rows, *shape) or torch.from_numpy(array[:0]).dtype != dtype:
                return None
    # Scenes are consecutive runs of frames.
    ordered = start.shape == (len(scene_ids) + 1,) and start[0] == 0 and (np.diff(start) > 0).all()
    # Byte spans (offset, size) end inside the file; compared without a sum that could overflow.
    spans = np.concatenate([table["image_span"], table["depth_span"]])
    inside = (spans >= 0).all() and (spans[:, 1] <= MAX_IMAGE_BYTES).all()
    inside = inside and (spans[:, 0] <= length - spans[:, 1]).all()
    known = (table["extension"] >= 0).all() and (table["extension"] < len(IMAGE_EXTENSIONS)).all()
    sizes = (table["image_size_px"] > 0).all() and (table["image_size_px"] <= MAX_SIDE_PX).all()
    if not (ordered and inside and known and sizes and _plausible(table)):
        return None
    return ShardIndex(path, scene_ids, **table)


def _plausible(table: dict[str, np.ndarray]) -> bool:
    """Return whether the numbers of an index are within the limits of `frame_camera`."""
    pose, depth = table["camera_to_world"], table["depth"]
    rotation = pose[:, :3, :3]
    rigid = np.abs(rotation.transpose(0, 2, 1) @ rotation - np.eye(3)) <= ROTATION_TOLERANCE
    bounded = (table["principal_px"], table["published_fov_rad"], pose)
    positive = (table["focal_px"], table["scale_adjustment"])
    # NaN means unknown in depth statistics and scales.
    statistics = (depth, table["radius"], table["aggregate_scale"])
    return bool(
        all((np.abs(values) < LARGEST_NUMBER).all() for values in bounded)
        and all(((values > 0) & (values < LARGEST_NUMBER)).all() for values in positive)
        and all((np.isnan(v) | ((v >= 0) & (v < LARGEST_NUMBER))).all() for v in statistics)
        and (np.isnan(depth[:, 2]) | (depth[:, 2] <= 1)).all()
        and np.isfinite(table["radius"]).all()
        and rigid.all()
        and (np.linalg.det(rotation) > 0).all()
        and (table["number"] >= 0).all()
    )
