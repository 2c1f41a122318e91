"""Camera of a photograph: field of view, elevation and scene scale, each with its source."""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from zeronvs._core.errors import InputError
from zeronvs.cameras.camera import center_window
from zeronvs.photo.estimates import (
    Estimate,
    estimate_elevation,
    estimate_fov_y,
    estimate_scene_scale,
    given,
)
from zeronvs.photo.verticals import tilt_of_verticals
from zeronvs.protocols import Calibration, Geometry

DEPTH_SIZE_PX = 128
"""Side of the depth map that the ground plane is fitted to."""


@dataclass(frozen=True, eq=False, kw_only=True)
class CameraEstimate:
    """The camera of a photograph, as far as it can be estimated."""

    fov_y_rad: Estimate
    """Vertical field of view of the central square."""
    elevation_rad: Estimate
    """Angle of the camera above the horizon, as seen from the scene's origin."""
    scene_scale: Estimate
    """The paper's q: scene units per model unit, for a camera at distance 1."""
    relative_depth: Float[Tensor, "size size"] | None = None
    """Depth of the central square in the model's unit, where there is a depth model."""


def estimate_camera(
    image_size_px: tuple[int, ...],
    *,
    image: Float[Tensor, "3 h w"] | None = None,
    focal_px: float | None = None,
    focal_source: str | None = None,
    geometry: Geometry | None = None,
    calibration: Calibration | None = None,
    fov_y_rad: float | None = None,
    elevation_rad: float | None = None,
    scene_scale: float | None = None,
) -> CameraEstimate:
    """Estimate the camera of a photograph; a number that the user gives always wins.

    Args:
        image_size_px: (height, width) of the upright photograph.
        image: Itself, RGB in [0, 1], in which vertical lines are looked for.
        focal_px: Focal length in its pixels, where the camera recorded it.
        focal_source: The field that `focal_px` was read from.
        geometry: Predicted geometry of the whole photograph (a batch of one); without it,
            elevation and scale are defaults. Its field of view is used where no lens is recorded.
        calibration: Predicted field of view, preferred to that of the geometry, and elevation,
            preferred to vertical lines and ground.
        fov_y_rad: Given vertical field of view of the central square, in (0, pi).
        elevation_rad: Given elevation, in (-pi/2, pi/2).
        scene_scale: Given scene scale, above 0.

    Raises:
        InputError: A given number is outside its range.
    """
    check_given(fov_y_rad=fov_y_rad, elevation_rad=elevation_rad, scene_scale=scene_scale)
    depth = None if geometry is None else _central_depth(geometry)
    predicted = _predicted_fov(geometry, calibration, image_size_px)
    fov = (
        estimate_fov_y(min(image_size_px), focal_px, focal_source, guess=predicted)
        if fov_y_rad is None
        else given(fov_y_rad)
    )
    if elevation_rad is not None:
        elevation = given(elevation_rad)
    elif calibration is not None:
        elevation = Estimate(
            value=calibration.elevation_rad,
            source=calibration.source,
            spread=calibration.elevation_spread_rad,
        )
    else:
        square_focal_px = 0.5 * min(image_size_px) / math.tan(0.5 * fov.value)
        verticals = None if image is None else tilt_of_verticals(image, square_focal_px)
        elevation = estimate_elevation(fov.value, depth, verticals)
    return CameraEstimate(
        fov_y_rad=fov,
        elevation_rad=elevation,
        scene_scale=estimate_scene_scale(depth) if scene_scale is None else given(scene_scale),
        relative_depth=depth,
    )


def check_given(
    *, fov_y_rad: float | None, elevation_rad: float | None, scene_scale: float | None
) -> None:
    """Refuse numbers that no camera has.

    Raises:
        InputError: A field of view outside 5 to 150 degrees, an elevation outside -89 to 89
            degrees, or a scale outside 0.01 to 100.
    """
    ranges = {"fov_y_rad": (fov_y_rad, 5.0, 150.0), "elevation_rad": (elevation_rad, -89.0, 89.0)}
    for name, (value, low, high) in ranges.items():
        if value is not None and not low <= round(math.degrees(value), 6) <= high:
            raise InputError(
                f"it is {math.degrees(value):g} degrees and must lie between {low:g} and {high:g}",
                argument=name,
            )
    if scene_scale is not None and not 0.01 <= scene_scale <= 100.0:
        raise InputError(
            f"it is {scene_scale:g} and must lie between 0.01 and 100 (the paper uses 0.7)",
            argument="scene_scale",
        )


def _central_depth(geometry: Geometry) -> Float[Tensor, "size size"]:
    """Return the relative depth of the central square, resized."""
    depth_z = geometry.scaled_depth(1.0)[0].float().cpu()
    square = depth_z[center_window(*depth_z.shape)]
    size_px = (DEPTH_SIZE_PX, DEPTH_SIZE_PX)
    return interpolate(square[None, None], size_px, mode="bilinear", antialias=True)[0, 0]


def _predicted_fov(
    geometry: Geometry | None, calibration: Calibration | None, image_size_px: tuple[int, ...]
) -> Estimate | None:
    """Return the predicted field of view of the central square, where there is a prediction."""
    if calibration is not None:
        whole, spread = calibration.fov_y_rad, calibration.fov_spread_rad
        source = calibration.source
    elif (
        geometry is not None
        and geometry.fov_y_rad is not None
        and geometry.fov_spread_rad is not None
    ):
        whole, spread = float(geometry.fov_y_rad), float(geometry.fov_spread_rad)
        source = geometry.source
    else:
        return None
    # From the full height to the shorter side: the tangents are in proportion to the sides.
    slope = math.tan(0.5 * whole) * min(image_size_px) / image_size_px[0]
    value = 2.0 * math.atan(slope)
    return Estimate(value=value, source=source, spread=spread * value / whole)
