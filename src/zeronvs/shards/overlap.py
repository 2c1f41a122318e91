"""Table of the scenes of a source, and the predicted overlap of two views of a scene."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from zeronvs.cameras.camera import Camera, intrinsics_matrix
from zeronvs.cameras.rays import pixel_rays
from zeronvs.cameras.warp import project
from zeronvs.shards.index import ShardIndex

OVERLAP_GRID = 6
"""Pixels per side of the grid that predicts the overlap of two views."""


@dataclass(frozen=True, eq=False)
class SourceTable:
    """The scenes of one source, as far as sampling needs them."""

    shards: tuple[ShardIndex, ...]
    shard_of: Int[np.ndarray, " s"]
    """Shard of each scene."""
    scene_of: Int[np.ndarray, " s"]
    """Index of each scene in its shard."""
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
    """Predict the share of input views that is visible in target views.

    A grid of pixels of the input view is unprojected at two depths (the 0.2 and 0.8 quantiles of
    its known depth; where the depth is unknown, one and four times the cameras' mean distance to
    their centre) and projected into the target. A point that the target would observe from behind,
    at more than a right angle to the input's ray, does not count. Other occlusion is not known, so
    this is an upper bound.
    """
    shard, first = table.first_frame(scene)
    inputs, targets = first + inputs, first + targets
    depth_z = shard.depth[inputs][:, [5, 7]].astype(np.float64)
    radius = float(shard.radius[table.scene_of[scene]]) or 1.0
    depth_z = np.where(np.isfinite(depth_z) & (depth_z > 0), depth_z, radius * np.array([1.0, 4.0]))
    # The same grid in every input image, pixels.
    side_px = torch.from_numpy(shard.image_size_px[inputs].min(1)).double()
    steps = (torch.arange(OVERLAP_GRID, dtype=torch.float64) + 0.5) / OVERLAP_GRID
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    uv_px = torch.stack([u, v], -1).reshape(-1, 2) * side_px[:, None, None]
    # World points at both depths: axes pair, depth, pixel. Rays have unit length; divide by the
    # cosine to the optical axis to get depth 1.
    input_camera, target_camera = _cameras(shard, inputs), _cameras(shard, targets)
    rays = pixel_rays(input_camera, uv_px)
    to_unit_depth = rays.directions / rays.z_per_unit_distance[..., None]
    offset = to_unit_depth[:, None] * torch.from_numpy(depth_z)[:, :, None, None]
    points = (rays.origins[:, None] + offset).flatten(1, 2)
    # A point counts if it is in front of the target, in its centre square, and seen from the front.
    uv_px, target_z = project(points, target_camera)
    from_target = points - target_camera.position[:, None]
    facing = (offset.flatten(1, 2) * from_target).sum(-1) > 0
    side_px = torch.from_numpy(shard.image_size_px[targets].min(1))[:, None, None]
    inside = ((uv_px >= 0) & (uv_px < side_px)).all(-1)
    return (facing & (target_z > 1e-9) & inside).double().mean(1).numpy()


def _cameras(shard: ShardIndex, frames: Int[np.ndarray, " n"]) -> Camera:
    """Return the cameras of frames in float64, as a batch; their sides may differ."""
    intrinsics_px = intrinsics_matrix(
        torch.from_numpy(shard.focal_px[frames]), torch.from_numpy(shard.principal_px[frames])
    )
    side_px = int(shard.image_size_px[frames].min())
    pose = torch.from_numpy(shard.camera_to_world[frames])
    return Camera(pose, intrinsics_px, (side_px, side_px))
