"""Batches of training pairs, and their decoding from shards."""

import math
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from zeronvs._core.errors import HealthError, InputError
from zeronvs.cameras.embedding import Representation
from zeronvs.shards.images import IMAGE_EXTENSIONS, ImageDecoder, decode_depth
from zeronvs.shards.index import ShardIndex
from zeronvs.shards.overlap import SourceTable
from zeronvs.shards.sampler import FramePair, PairSampler
from zeronvs.shards.statistics import DepthStatistics, depth_statistics, scene_scales
from zeronvs.shards.tar import ShardDamage

MAX_OPEN_SHARDS = 64
"""A process keeps no more tar files open."""
MAX_REPLACEMENTS = 16
"""Maximum number of replacement pairs tried per undecodable pair."""

_WITHOUT_DEPTH = (Representation.THREE_DOF, Representation.SIX_DOF, Representation.SIX_DOF_NORM)


@dataclass(frozen=True, eq=False)
class PairBatch:
    """Pairs of views of one scene each; images stay bytes until they are on the device."""

    input_image: UInt8[Tensor, "b 3 s s"]
    target_image: UInt8[Tensor, "b 3 s s"]
    input_to_world: Float[Tensor, "b 4 4"]
    """OpenGL, scene units."""
    target_to_world: Float[Tensor, "b 4 4"]
    fov_y_rad: Float[Tensor, " b"]
    """Field of view of the square images, radians."""
    scene_scale: dict[Representation, Float[Tensor, " b"]]
    """Scene units per model unit."""
    input_depth_z: Float[Tensor, "b s s"] | None = None
    """Depth of the input images, scene units; 0 = unknown. Only with `input_depth`."""
    keys: tuple[str, ...] = ()
    """Names of the pairs: "category/scene input-frame target-frame"."""

    def __len__(self) -> int:
        return len(self.fov_y_rad)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "PairBatch":
        """Return the batch with its tensors on `device`."""
        changed: dict[str, object] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                changed[field.name] = value.to(device, non_blocking=non_blocking)
        scales = self.scene_scale.items()
        changed["scene_scale"] = {
            kind: scale.to(device, non_blocking=non_blocking) for kind, scale in scales
        }
        return replace(self, **changed)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, kw_only=True)
class PairReading:
    """Fields of a pair to read."""

    size_px: int = 256
    """Side of the images."""
    representations: tuple[Representation, ...] = (Representation.SIX_DOF_VIEWER,)
    """Scene scales are returned for these, and for all that need no depth."""
    input_depth: bool = False
    """Whether the input's depth map is decoded too."""
    fov: Literal["square", "published"] = "square"
    """Field of view of the square image, or as the published reader computes it: they differ where
    RealEstate10K JSON holds the intrinsics of a whole landscape image."""


class PairReader:
    """Reads batches of pairs; holds open files, so it is copied to each worker unopened."""

    def __init__(
        self, tables: Sequence[SourceTable], reading: PairReading, sampler: PairSampler
    ) -> None:
        """Prepare to read pairs of some sources; opens nothing yet.

        Args:
            sampler: Draws replacements for pairs that cannot be decoded.
        """
        self._files: OrderedDict[Path, int] = OrderedDict()
        self._process = os.getpid()
        self._tables, self._reading, self._sampler = tuple(tables), reading, sampler
        self._representations = frozenset({*_WITHOUT_DEPTH, *reading.representations})
        self._decoder: ImageDecoder | None = None

    def __getitem__(self, pairs: Sequence[FramePair]) -> tuple[PairBatch, list[ShardDamage]]:
        """Read a batch.

        Returns:
            The batch and the damage; a damaged pair is replaced by another.

        Raises:
            HealthError: No readable replacement was found for a damaged pair.
        """
        size_px, count = self._reading.size_px, len(pairs)
        images = np.empty((2, count, size_px, size_px, 3), np.uint8)
        depth = np.zeros((count, size_px, size_px), np.float32)
        damages: list[ShardDamage] = []
        rows = [
            self._readable_pair(pair, images[:, k], depth[k], damages)
            for k, pair in enumerate(pairs)
        ]
        image_pairs = torch.from_numpy(images).permute(0, 1, 4, 2, 3)
        poses = torch.from_numpy(np.stack([row.poses for row in rows])).float()
        batch = PairBatch(
            image_pairs[0],
            image_pairs[1],
            poses[:, 0],
            poses[:, 1],
            torch.tensor([row.fov_y_rad for row in rows]),
            {kind: torch.tensor([row.scales[kind] for row in rows]) for kind in rows[0].scales},
            torch.from_numpy(depth) if self._reading.input_depth else None,
            tuple(row.key for row in rows),
        )
        return batch, damages

    def _readable_pair(
        self,
        pair: FramePair,
        images: UInt8[np.ndarray, "2 s s 3"],
        depth: Float[np.ndarray, "s s"],
        damages: list[ShardDamage],
    ) -> "_PairRow":
        for attempt in range(MAX_REPLACEMENTS):
            try:
                return self._pair(pair, images, depth)
            except ShardDamage as damage:
                damages.append(damage)
                pair = self._sampler.replacement(pair, attempt)
        raise HealthError(
            f"{MAX_REPLACEMENTS} pairs in a row cannot be decoded, the last: {damages[-1]}; "
            "check the shards (zeronvs.datasets.check)"
        )

    def _pair(
        self,
        pair: FramePair,
        images: UInt8[np.ndarray, "2 s s 3"],
        depth: Float[np.ndarray, "s s"],
    ) -> "_PairRow":
        table = self._tables[pair.source]
        shard, first = table.first_frame(pair.scene)
        scene = int(table.scene_of[pair.scene])
        input_frame, target_frame = first + pair.input, first + pair.target
        frame = input_frame
        try:
            for image, frame in zip(images[::-1], (target_frame, input_frame), strict=True):
                self._image(shard, frame, image)
            if self._reading.input_depth:
                depth[...] = _resized_depth(self._depth(shard, scene, input_frame), len(depth))
            statistics = shard.depth_of(input_frame)
            if statistics is None:
                statistics = self._decoded_statistics(shard, scene, input_frame)
        except (InputError, OSError) as error:
            where = f"{shard.scene_ids[scene]}/frame{int(shard.number[frame]):06d}"
            raise ShardDamage(shard.path, where, str(error)) from error
        scales = scene_scales(
            float(shard.radius[scene]), float(shard.aggregate_scale[scene]), statistics.viewer_scale
        )
        return _PairRow(
            shard.camera_to_world[[input_frame, target_frame]],
            self._fov(shard, first, input_frame),
            {kind: scale for kind, scale in scales.items() if kind in self._representations},
            f"{shard.scene_ids[scene]} {shard.number[input_frame]} {shard.number[target_frame]}",
        )

    def _decoded_statistics(self, shard: ShardIndex, scene: int, frame: int) -> DepthStatistics:
        """Decode a depth map for the viewer scale, where it is needed and not in the index."""
        if Representation.SIX_DOF_VIEWER not in self._reading.representations:
            return depth_statistics(np.zeros((1, 1), np.float32))
        return depth_statistics(self._depth(shard, scene, frame))

    def _depth(self, shard: ShardIndex, scene: int, frame: int) -> Float[np.ndarray, "s s"]:
        if not shard.depth_span[frame, 1]:
            side_px = int(shard.image_size_px[frame].min())
            return np.zeros((side_px, side_px), np.float32)
        depth_z = decode_depth(self._bytes(shard, shard.depth_span[frame]))
        return depth_z * np.float32(shard.scale_adjustment[scene])

    def _image(self, shard: ShardIndex, frame: int, into: UInt8[np.ndarray, "s s 3"]) -> None:
        if self._decoder is None:
            self._decoder = ImageDecoder()
        content = self._bytes(shard, shard.image_span[frame])
        extension = IMAGE_EXTENSIONS[int(shard.extension[frame])]
        into[...] = self._decoder.square(content, extension, self._reading.size_px)

    def _fov(self, shard: ShardIndex, first: int, frame: int) -> float:
        if self._reading.fov == "published":
            return float(shard.published_fov_rad[first])
        side_px = float(shard.image_size_px[frame].min())
        return 2 * math.atan2(0.5 * side_px, float(shard.focal_px[frame, 1]))

    def _bytes(self, shard: ShardIndex, span: np.ndarray) -> bytes:
        if self._process != os.getpid():  # a forked worker shares offsets in files opened before
            self._files, self._process = OrderedDict(), os.getpid()
        opened = self._files.get(shard.path)
        if opened is None:
            if not shard.path.is_file():
                raise InputError("the shard is gone")
            opened = os.open(shard.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            self._files[shard.path] = opened
            if len(self._files) > MAX_OPEN_SHARDS:
                os.close(self._files.popitem(last=False)[1])
        else:
            self._files.move_to_end(shard.path)
        os.lseek(opened, int(span[0]), os.SEEK_SET)
        content = os.read(opened, int(span[1]))
        if len(content) != int(span[1]):
            raise InputError("the shard is shorter than it was")
        return content

    def close(self) -> None:
        """Close the files; reading opens them again."""
        while self._files and self._process == os.getpid():
            os.close(self._files.popitem()[1])

    def __del__(self) -> None:
        self.close()

    def __getstate__(self) -> dict[str, object]:
        """Pickle without open files and decoders."""
        return {**self.__dict__, "_files": OrderedDict(), "_decoder": None}


@dataclass(frozen=True, eq=False)
class _PairRow:
    """Numbers of one pair."""

    poses: Float[np.ndarray, "2 4 4"]
    fov_y_rad: float
    scales: dict[Representation, float]
    key: str


def _resized_depth(depth_z: Float[np.ndarray, "r r"], size_px: int) -> Float[np.ndarray, "s s"]:
    """Resize by nearest neighbour: depth must not be mixed across edges and holes."""
    if depth_z.shape[0] == size_px:
        return depth_z
    chosen = ((np.arange(size_px) + 0.5) * depth_z.shape[0] / size_px).astype(np.int64)
    return depth_z[np.ix_(chosen, chosen)]
