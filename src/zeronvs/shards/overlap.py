"""The scenes of a source as sampling sees them, and how much two views of a scene share."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from zeronvs.shards.index import ShardIndex

OVERLAP_GRID = 6
"""Rays per side with which the overlap of two views is predicted."""


@dataclass(frozen=True, eq=False)
class SourceTable:
    """The scenes of one source, as far as sampling has to know them."""

    shards: tuple[ShardIndex, ...]
    shard_of: Int[np.ndarray, " s"]
    """Shard of each scene."""
    scene_of: Int[np.ndarray, " s"]
    """Place of each scene in its shard."""
    frames: Int[np.ndarray, " s"]
    """Frames of each scene, at least two."""

    def first_frame(self, scene: int) -> tuple[ShardIndex, int]:
        """Return the shard of a scene and where its frames begin there."""
        shard = self.shards[self.shard_of[scene]]
        return shard, int(shard.scene_start[self.scene_of[scene]])


def source_table(shards: Sequence[ShardIndex]) -> SourceTable:
    """Put the scenes of a source's shards in one table; scenes of one frame have no pairs."""
    frames = [np.diff(shard.scene_start) for shard in shards]
    shard_of = np.concatenate([np.full(len(n), k) for k, n in enumerate(frames)])
    scene_of = np.concatenate([np.arange(len(n)) for n in frames])
    counts = np.concatenate(frames)
    usable = counts >= 2
    return SourceTable(
        tuple(shards),
        shard_of[usable].astype(np.int64),
        scene_of[usable].astype(np.int64),
        counts[usable].astype(np.int64),
    )


def predict_overlap(
    table: SourceTable,
    scene: int,
    inputs: Int[np.ndarray, " n"],
    targets: Int[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """Return the share of input views that target views see, as far as cameras and depth tell.

    A grid of rays of the input view is followed to two depths (the 0.2 and 0.8 quantiles of its
    known depth; where nobody has looked, one and four times the cameras' mean distance to their
    centre) and projected into the target. A point that the target would see from behind, at more
    than a right angle to how the input sees it, is not shared. Other occlusion is not known, so
    this is an upper bound.

    Args:
        table: Of the source.
        scene: In the table.
        inputs: Frames of the scene.
        targets: Frames of the scene.
    """
    shard, first = table.first_frame(scene)
    seen, shown = first + inputs, first + targets
    depth = shard.depth[seen][:, [5, 7]].astype(np.float64)
    radius = float(shard.radius[table.scene_of[scene]]) or 1.0
    depth = np.where(np.isfinite(depth) & (depth > 0), depth, radius * np.array([1.0, 4.0]))
    side = shard.image_size_px[seen].min(1)[:, None].astype(np.float64)
    steps = (np.arange(OVERLAP_GRID) + 0.5) / OVERLAP_GRID
    u, v = (grid.reshape(1, -1) for grid in np.meshgrid(steps, steps, indexing="xy"))
    focal, centre = shard.focal_px[seen], shard.principal_px[seen]
    x = (u * side - centre[:, :1]) / focal[:, :1]
    y = -(v * side - centre[:, 1:]) / focal[:, 1:]
    rays = np.stack([x, y, -np.ones_like(x)], axis=-1)
    points = (rays[:, None] * depth[:, :, None, None]).reshape(len(inputs), -1, 3)
    pose, other = shard.camera_to_world[seen], shard.camera_to_world[shown]
    world = points @ pose[:, :3, :3].transpose(0, 2, 1) + pose[:, None, :3, 3]
    local = (world - other[:, None, :3, 3]) @ other[:, :3, :3]
    ahead = -local[..., 2]
    safe = np.where(ahead > 1e-9, ahead, 1.0)
    focal, centre = shard.focal_px[shown], shard.principal_px[shown]
    side = shard.image_size_px[shown].min(1)[:, None]
    u_px = focal[:, :1] * local[..., 0] / safe + centre[:, :1]
    v_px = -focal[:, 1:] * local[..., 1] / safe + centre[:, 1:]
    facing = ((world - pose[:, None, :3, 3]) * (world - other[:, None, :3, 3])).sum(-1) > 0
    inside = facing & (ahead > 1e-9) & (u_px >= 0) & (u_px < side) & (v_px >= 0) & (v_px < side)
    return inside.mean(1)
