"""Estimators of field of view, elevation and scene scale: value, source, spread.

Elevation: the camera faces the scene's origin, so its elevation is the angle by which it is
tilted down: the world's up direction is (0, cos e, sin e) in the camera's frame. A plane is linear
in disparity: with the ray (x, y, -1) through a pixel, the plane n.P = -h gives
1/z = -(n_x x + n_y y - n_z) / h. So a linear fit finds the ground in depth of any scale.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

DEFAULT_FOV_Y_RAD = math.radians(50.0)
"""A phone's main camera: 24 to 28 mm equivalent are 57 to 50 degrees along the shorter side."""
DEFAULT_FOV_SPREAD_RAD = math.radians(12.0)
EXIF_SPREAD_RAD = math.radians(2.0)
MIN_GUESS_SPREAD_RAD = math.radians(5.0)
"""Lower bound of the spread of a predicted field of view; networks are overconfident."""
MIN_AVERAGE_SPREAD_RAD = math.radians(10.0)
"""Lower bound of its spread after averaging: 68 % of errors on photographs with known cameras
(median 8, 90 % below 12 degrees, docs/numbers.md)."""
DEFAULT_ELEVATION_RAD = math.radians(5.0)
"""A hand-held photograph looks down a little: 2 degrees is the median of 58 photographs of scenes
with clear vertical lines (docs/log.md), and of things on a table it is more."""
DEFAULT_ELEVATION_SPREAD_RAD = math.radians(15.0)
GROUND_FRACTION = 0.8
"""Lower fraction of the image that the ground must explain: with less, the front of an object
passes for a ground seen from above."""
MIN_INLIERS = 0.7
PLANE_SPREAD_RAD = math.radians(10.0)
"""Monocular depth is not metric: a shift of its disparity tilts the ground."""
ON_THE_GROUND_RAD = math.radians(18.0)
"""Lines that run away from the camera on a ground seen from `elevation` above converge like
verticals of a camera tilted by `elevation` - 90 degrees: lines this near to it lie on it."""
DEFAULT_SCENE_SCALE = 0.7
"""The published setting for photographs without known depth."""
SCENE_SCALE_RANGE = (0.3, 1.0)
"""Bounds of the estimate: values outside are more likely errors of the depth model."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One number about a photograph."""

    value: float
    source: str
    """Origin of the value, for display: "given", "EXIF ...", "default", ..."""
    spread: float
    """One standard deviation, in the unit of the value; 0 where the user gave the number."""


def averaged(first: Estimate, second: Estimate, source: str) -> Estimate:
    """Average two independent estimates by their spreads (inverse variances)."""
    first_weight, second_weight = first.spread**-2, second.spread**-2
    total = first_weight + second_weight
    value = (first_weight * first.value + second_weight * second.value) / total
    return Estimate(value=value, source=source, spread=total**-0.5)


def given(value: float) -> Estimate:
    """Wrap a number that the user gave; it always wins."""
    return Estimate(value=value, source="given", spread=0.0)


def estimate_fov_y(
    short_side_px: int,
    focal_px: float | None = None,
    focal_source: str | None = None,
    *,
    guess: Estimate | None = None,
) -> Estimate:
    """Estimate the field of view of the centre square in radians.

    A recorded focal length is used as it is. Otherwise a predicted field of view is averaged with
    the default by their spreads; without one, the default is used.

    Args:
        short_side_px: Side of the square in pixels of the photograph.
        focal_px: Focal length in the same pixels, where the camera recorded it.
        guess: Prediction of a network, radians.
    """
    if focal_px is not None:
        return Estimate(
            value=2.0 * math.atan(0.5 * short_side_px / focal_px),
            source=focal_source or "recorded focal length",
            spread=EXIF_SPREAD_RAD,
        )
    default = Estimate(
        value=DEFAULT_FOV_Y_RAD,
        source="default (no lens data in the file)",
        spread=DEFAULT_FOV_SPREAD_RAD,
    )
    if guess is None:
        return default
    guess = Estimate(
        value=guess.value,
        source=guess.source,
        spread=max(guess.spread, MIN_GUESS_SPREAD_RAD),
    )
    source = f"{guess.source} ({math.degrees(guess.value):.0f} degrees), averaged with the default"
    both = averaged(guess, default, source)
    return replace(both, spread=max(both.spread, MIN_AVERAGE_SPREAD_RAD))


@dataclass(frozen=True, kw_only=True)
class GroundPlane:
    """Plane fitted to the lower part of an image."""

    up: Float[Tensor, "3"]
    """Unit normal in the camera's OpenGL frame."""
    inlier_fraction: float
    """Fraction of the pixels of that part that lie on it."""

    @property
    def elevation_rad(self) -> float:
        """Tilt of the camera towards the plane."""
        return math.atan2(float(self.up[2]), float(self.up[1]))

    @property
    def roll_rad(self) -> float:
        """Lean of the plane to one side."""
        return math.asin(max(-1.0, min(1.0, float(self.up[0]))))


def estimate_elevation(
    fov_y_rad: float,
    depth_z: Float[Tensor, "h w"] | None = None,
    verticals: Estimate | None = None,
) -> Estimate:
    """Estimate the camera's elevation in radians.

    Clear vertical lines tell it best, unless they lie on the ground. Otherwise, a ground plane is
    accepted if most pixels are inliers, its roll is at most 15 degrees and its elevation is
    between -5 and 75 degrees. It is then averaged with the default by their spreads, since
    monocular depth is uncertain.

    Args:
        depth_z: Depth of the centre square in any unit, where there is a depth model.
        verticals: Tilt from vertical lines (`tilt_of_verticals`), where there are clear ones.
    """
    default = Estimate(
        value=DEFAULT_ELEVATION_RAD,
        source="default (no clear verticals or ground)",
        spread=DEFAULT_ELEVATION_SPREAD_RAD,
    )
    plane = None if depth_z is None else fit_ground_plane(depth_z, fov_y_rad)
    if plane is None or not _is_ground(plane):
        return verticals or default
    if verticals is not None:
        # A facade, whose depth grows towards its top, looks like a ground seen from high above;
        # its lines are parallel, where those on a table converge.
        on_the_ground = plane.elevation_rad - 0.5 * math.pi
        if abs(verticals.value - on_the_ground) > ON_THE_GROUND_RAD:
            return verticals
    from_plane = Estimate(
        value=plane.elevation_rad,
        source=f"ground plane in the depth ({math.degrees(plane.elevation_rad):.0f} degrees)",
        spread=PLANE_SPREAD_RAD,
    )
    return averaged(from_plane, default, f"{from_plane.source}, averaged with the default")


def _is_ground(plane: GroundPlane) -> bool:
    return (
        plane.inlier_fraction >= MIN_INLIERS
        and abs(plane.roll_rad) <= math.radians(15.0)
        and math.radians(-5.0) <= plane.elevation_rad <= math.radians(75.0)
    )


def fit_ground_plane(depth_z: Float[Tensor, "h w"], fov_y_rad: float) -> GroundPlane | None:
    """Fit a plane robustly to the lower 80 % of a depth map; None where the fit is degenerate.

    Args:
        depth_z: Depth along the optical axis, any unit; pixels that are not positive are ignored.
    """
    height_px, width_px = depth_z.shape
    focal_px = 0.5 * height_px / math.tan(0.5 * fov_y_rad)
    rows = torch.arange(height_px, dtype=torch.float64) + 0.5
    columns = torch.arange(width_px, dtype=torch.float64) + 0.5
    y, x = torch.meshgrid(
        (0.5 * height_px - rows) / focal_px, (columns - 0.5 * width_px) / focal_px, indexing="ij"
    )
    lower = slice(int((1 - GROUND_FRACTION) * height_px), None)
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
    """Fit least absolute deviations by iterative reweighting: robust to objects on the ground."""
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


def estimate_scene_scale(relative_depth: Float[Tensor, "h w"] | None = None) -> Estimate:
    """Estimate the scene units per model unit.

    In the model's unit the 20 % quantile of the depth is 1 (paper, viewer normalisation). The input
    camera is at distance 1 from the origin of the scene. For the origin to lie on the subject, the
    median depth of the image centre must be 1 scene unit: q = 1 / that median.
    """
    if relative_depth is not None:
        height_px, width_px = relative_depth.shape
        centre = relative_depth[
            height_px // 3 : height_px - height_px // 3, width_px // 3 : width_px - width_px // 3
        ]
        centre = centre[torch.isfinite(centre) & (centre > 0)]
        if centre.numel() > 0:
            raw = 1.0 / float(centre.median())
            value = min(max(raw, SCENE_SCALE_RANGE[0]), SCENE_SCALE_RANGE[1])
            bounded = "" if value == raw else f", bounded from {raw:.2f}"
            return Estimate(
                value=value, source=f"median depth of the centre{bounded}", spread=0.25 * value
            )
    return Estimate(value=DEFAULT_SCENE_SCALE, source="default (published)", spread=0.25)
