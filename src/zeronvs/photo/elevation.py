"""Elevation of the camera above the scene, from the ground in a depth map.

The camera looks at the scene's origin, so its elevation is the angle by which it is tilted down:
the world's up direction has the coordinates (0, cos e, sin e) in the camera's frame.

A plane is linear in disparity: with the ray (x, y, -1) through a pixel, the plane n·P = -h gives
1/z = -(n_x x + n_y y - n_z) / h. So a line fit finds the ground, and depth of any scale will do.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from zeronvs.photo.estimate import Estimate, averaged

DEFAULT_ELEVATION_RAD = math.radians(15.0)
"""A hand-held photograph of something on a table or on the ground looks down a little."""
DEFAULT_SPREAD_RAD = math.radians(15.0)
LOOKED_AT = 0.8
"""Part of the picture, from below, that the ground must explain: less takes the front of whatever
stands in the picture for a ground seen from above."""
MIN_INLIERS = 0.7
PLANE_SPREAD_RAD = math.radians(10.0)
"""Depth from one picture is not metric: a shift of its disparity tilts the ground."""


@dataclass(frozen=True, kw_only=True)
class GroundPlane:
    """A plane in the picture, its uppermost part left out."""

    up: Float[Tensor, "3"]
    """Unit normal in the camera's OpenGL frame."""
    inlier_fraction: float
    """Part of the pixels looked at that lie on it."""

    @property
    def elevation_rad(self) -> float:
        """Tilt of the camera towards the plane."""
        return math.atan2(float(self.up[2]), float(self.up[1]))

    @property
    def roll_rad(self) -> float:
        """Lean of the plane to one side."""
        return math.asin(max(-1.0, min(1.0, float(self.up[0]))))


def estimate_elevation(fov_y_rad: float, depth_z: Float[Tensor, "h w"] | None = None) -> Estimate:
    """Estimate the camera's elevation in radians.

    A ground plane counts when it explains most of the picture, does not lean, and lies below.
    It is then averaged with the default by their spreads: depth from one picture is uncertain.

    Args:
        fov_y_rad: Vertical field of view of the depth map.
        depth_z: Depth of the centre square in any unit, where there is a depth model.
    """
    default = Estimate(
        value=DEFAULT_ELEVATION_RAD, source="default (no clear ground)", spread=DEFAULT_SPREAD_RAD
    )
    plane = None if depth_z is None else fit_ground_plane(depth_z, fov_y_rad)
    if plane is None or plane.inlier_fraction < MIN_INLIERS:
        return default
    if abs(plane.roll_rad) > math.radians(15.0):
        return default
    if not math.radians(-5.0) <= plane.elevation_rad <= math.radians(75.0):
        return default
    seen = Estimate(
        value=plane.elevation_rad,
        source=f"ground plane in the depth ({math.degrees(plane.elevation_rad):.0f} degrees)",
        spread=PLANE_SPREAD_RAD,
    )
    return averaged(seen, default, f"{seen.source}, averaged with the default")


def fit_ground_plane(depth_z: Float[Tensor, "h w"], fov_y_rad: float) -> GroundPlane | None:
    """Fit a plane to the lower 80 % of a depth map, robustly; None where the fit makes no sense.

    Args:
        depth_z: Depth along the optical axis, any unit; pixels that are not positive are left out.
        fov_y_rad: Vertical field of view in radians.
    """
    height_px, width_px = depth_z.shape
    focal_px = 0.5 * height_px / math.tan(0.5 * fov_y_rad)
    rows = torch.arange(height_px, dtype=torch.float64) + 0.5
    columns = torch.arange(width_px, dtype=torch.float64) + 0.5
    y, x = torch.meshgrid(
        (0.5 * height_px - rows) / focal_px, (columns - 0.5 * width_px) / focal_px, indexing="ij"
    )
    lower = slice(int((1 - LOOKED_AT) * height_px), None)
    depth = depth_z[lower].detach().cpu().to(torch.float64).flatten()
    usable = torch.isfinite(depth) & (depth > 0)
    if int(usable.sum()) < 32:
        return None
    disparity = 1.0 / depth[usable]
    design = torch.stack([x[lower].flatten(), y[lower].flatten(), torch.ones_like(depth)], dim=-1)
    design = design[usable]
    coefficients = _robust_line_fit(design, disparity)
    residual = (design @ coefficients - disparity).abs() / disparity
    a, b, c = coefficients.tolist()
    up = torch.tensor([-a, -b, c], dtype=torch.float32)
    if not bool(torch.isfinite(up).all()) or float(up.norm()) == 0.0:
        return None
    return GroundPlane(
        up=up / up.norm(),
        inlier_fraction=float((residual < 0.06).double().mean()) * float(usable.double().mean()),
    )


def _robust_line_fit(
    design: Float[Tensor, "n k"], target: Float[Tensor, " n"]
) -> Float[Tensor, " k"]:
    """Fit least absolute deviations by reweighting: what stands on the ground hardly counts."""
    weight = torch.ones_like(target)
    coefficients = torch.zeros_like(design[0])
    for _ in range(30):
        root = weight.sqrt()
        coefficients = torch.linalg.lstsq(
            design * root[:, None], (target * root)[:, None], driver="gelsd"
        ).solution[:, 0]
        residual = (design @ coefficients - target).abs()
        weight = 1.0 / residual.clamp_min(1e-3 * target.mean())
    return coefficients
