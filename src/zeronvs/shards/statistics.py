"""Statistics of a scene: cameras, depth, and a scene scale for every representation.

Computed once, at conversion or when a shard is first indexed, so that training decodes only the
depth maps that it returns. Formulas: published code, ldm/data/webdataset_co3d.py (cameras, near
plane) and ldm/data/common.py (viewer scale); see also `zeronvs.cameras.scene_scale`.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from zeronvs.cameras.embedding import Representation
from zeronvs.cameras.scene_scale import align_disparity, fill_depth, viewer_scale

DEPTH_QUANTILES = (0.02, 0.05, 0.2, 0.5, 0.8, 0.98)
"""Quantiles of the known depth of a frame that are stored."""
NEAR_QUANTILE = 0.05
"""Quantile of the known depth of one view, for the aggregate scale."""
NEAR_VIEW_QUANTILE = 0.1
"""Quantile of the near depths of all views, for the aggregate scale."""
MIN_ALIGN_POINTS = 12
"""Fewer known pixels do not fix scale and shift of a monocular disparity."""


@dataclass(frozen=True)
class DepthStatistics:
    """Statistics of a frame's depth map, scene units; NaN where unknown."""

    viewer_scale: float
    """0.2 quantile of the dense depth, every fourth row and column: `6DoF+1, viewer`."""
    aggregate_near: float
    """0.05 quantile of the known depth: goes into `6DoF+1, agg`."""
    depth_quantiles: tuple[float, ...]
    """Quantiles of the known depth, at `DEPTH_QUANTILES`."""
    known_fraction: float
    """Share of pixels whose depth is known."""

    def scaled(self, factor: float | int) -> "DepthStatistics":
        """Return the statistics in a unit that is `factor` times smaller."""
        return DepthStatistics(
            self.viewer_scale * factor,
            self.aggregate_near * factor,
            tuple(value * factor for value in self.depth_quantiles),
            self.known_fraction,
        )


UNKNOWN_DEPTH = DepthStatistics(math.nan, math.nan, (math.nan,) * len(DEPTH_QUANTILES), 0.0)
"""Statistics of a frame without depth."""


def camera_radius(camera_to_world: Float[np.ndarray, "n 4 4"]) -> float:
    """Return the mean distance of the cameras of a scene to their centroid, scene units.

    This is the scale of `6DoF+1, norm`.
    """
    position = camera_to_world[:, :3, 3]
    return float(np.linalg.norm(position - position.mean(0), axis=1).mean())


def depth_statistics(
    depth_z: Float[np.ndarray, "s s"], disparity: Float[np.ndarray, "s s"] | None = None
) -> DepthStatistics:
    """Return the statistics of the depth of one frame's centre square.

    Args:
        depth_z: Along the optical axis, scene units; 0 = unknown.
        disparity: Relative inverse depth of the same square by a monocular network. Where
            given and depth is not dense, it is aligned to the known depth and fills its holes, as
            published. Where None, the viewer scale is taken over the known pixels.
    """
    known = depth_z[depth_z > 0].astype(np.float32)
    if known.size == 0:
        return UNKNOWN_DEPTH
    quantiles = np.quantile(known, DEPTH_QUANTILES)
    near = float(quantiles[DEPTH_QUANTILES.index(NEAR_QUANTILE)])
    fraction = known.size / depth_z.size
    viewer = _viewer_scale(depth_z, disparity, fraction)
    return DepthStatistics(viewer, near, tuple(float(value) for value in quantiles), fraction)


def aggregate_scale(aggregate_near: Float[np.ndarray, " n"]) -> float:
    """Return the scale of `6DoF+1, agg` from the near depths of a scene's views; NaN if none."""
    known = aggregate_near[np.isfinite(aggregate_near)]
    return float(np.quantile(known, NEAR_VIEW_QUANTILE)) if known.size else math.nan


def scene_scales(radius: float, aggregate: float, viewer: float) -> dict[Representation, float]:
    """Return the scene scale of every representation that has one without a network.

    Args:
        radius: Mean distance of the cameras to their centroid, scene units.
        aggregate: The scale of `aggregate_scale`; NaN means unknown and becomes 1, as published.
        viewer: Viewer scale of the input view; NaN means unknown: the radius is used.
    """
    return {
        Representation.THREE_DOF: 1.0,
        Representation.SIX_DOF: 1.0,
        Representation.SIX_DOF_NORM: radius,
        Representation.SIX_DOF_AGG: aggregate if math.isfinite(aggregate) else 1.0,
        Representation.SIX_DOF_VIEWER: viewer if math.isfinite(viewer) else radius,
    }


def _viewer_scale(
    depth_z: Float[np.ndarray, "s s"],
    disparity: Float[np.ndarray, "s s"] | None,
    known_fraction: float,
) -> float:
    """Return the 0.2 quantile of depth, infilled where a disparity allows it."""
    sparse = torch.from_numpy(np.ascontiguousarray(depth_z, dtype=np.float32))
    can_align = known_fraction * depth_z.size >= MIN_ALIGN_POINTS
    if known_fraction < 1 and disparity is not None and can_align:
        relative = torch.from_numpy(np.ascontiguousarray(disparity, dtype=np.float32))
        dense = align_disparity(relative[None], sparse[None])[0]
        return float(viewer_scale(fill_depth(sparse, dense)))
    if known_fraction == 1:
        return float(viewer_scale(sparse))
    strided = depth_z[::4, ::4]
    known = strided[strided > 0]
    if known.size < MIN_ALIGN_POINTS:
        known = depth_z[depth_z > 0]
    return float(np.quantile(known, 0.2))
