"""What is not in the pixels: field of view, elevation and scale of a photograph, with sources."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from zeronvs._core.errors import InputError
from zeronvs.photo.elevation import estimate_elevation
from zeronvs.photo.estimate import Estimate, given
from zeronvs.photo.field_of_view import estimate_fov_y
from zeronvs.photo.scene_scale import estimate_scene_scale
from zeronvs.protocols import GeometryEstimator


@dataclass(frozen=True, eq=False, kw_only=True)
class CameraEstimate:
    """Where a photograph was taken from, as far as can be told."""

    fov_y_rad: Estimate
    """Vertical field of view of the centre square."""
    elevation_rad: Estimate
    """Angle of the camera above the horizon, as seen from the scene's origin."""
    scene_scale: Estimate
    """The paper's q: scene units per model unit, for a camera at distance 1."""
    relative_depth: Float[Tensor, "size size"] | None = None
    """Depth of the centre square in the model's unit, where there is a depth model."""


def estimate_camera(
    image: Float[Tensor, "3 h w"],
    *,
    focal_px: float | None = None,
    focal_source: str | None = None,
    geometry_estimator: GeometryEstimator | None = None,
    depth_size_px: int = 128,
    fov_y_rad: float | None = None,
    elevation_rad: float | None = None,
    scene_scale: float | None = None,
) -> CameraEstimate:
    """Estimate the camera of a photograph; a number that the user gives always wins.

    Args:
        image: The upright photograph, sRGB in [0, 1].
        focal_px: Focal length in its pixels, where recorded; `focal_source` says by what.
        focal_source: See above.
        geometry_estimator: Predicts depth; without one, elevation and scale are defaults. Its
            field of view, if it predicts one, is used where no lens is recorded.
        depth_size_px: Side of the square that the depth model is shown.
        fov_y_rad: Given vertical field of view of the centre square, in (0, pi).
        elevation_rad: Given elevation, in (-pi/2, pi/2).
        scene_scale: Given scene scale, above 0.

    Raises:
        InputError: A given number is outside its range.
    """
    check_given(fov_y_rad=fov_y_rad, elevation_rad=elevation_rad, scene_scale=scene_scale)
    square = _centre_square(image, depth_size_px)[None]
    depth = guess = None
    if geometry_estimator is not None:
        with torch.no_grad():
            geometry = geometry_estimator.estimate(square)
        depth = geometry.scaled_depth(1.0)[0].float().cpu()
        if geometry.fov_y_rad is not None and geometry.fov_spread_rad is not None:
            value, spread = float(geometry.fov_y_rad), float(geometry.fov_spread_rad)
            guess = Estimate(value=value, source="depth model", spread=spread)
    fov = (
        estimate_fov_y(min(image.shape[1:]), focal_px, focal_source, guess=guess)
        if fov_y_rad is None
        else given(fov_y_rad)
    )
    return CameraEstimate(
        fov_y_rad=fov,
        elevation_rad=(
            estimate_elevation(fov.value, depth) if elevation_rad is None else given(elevation_rad)
        ),
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
    degrees = {
        "field of view": (fov_y_rad, 5.0, 150.0, "--fov-deg"),
        "elevation": (elevation_rad, -89.0, 89.0, "--elevation-deg"),
    }
    for name, (value, low, high, flag) in degrees.items():
        if value is not None and not low <= round(math.degrees(value), 6) <= high:
            raise InputError(
                f"{flag}: the {name} is {math.degrees(value):g} degrees; "
                f"it must lie between {low:g} and {high:g}"
            )
    if scene_scale is not None and not 0.01 <= scene_scale <= 100.0:
        raise InputError(
            f"--scene-scale: the scene scale is {scene_scale:g}; it must lie between 0.01 and 100 "
            "(0.7 is usual)"
        )


def _centre_square(
    image: Float[Tensor, "3 h w"], size_px: int
) -> Float[Tensor, "3 size_px size_px"]:
    _, height_px, width_px = image.shape
    side_px = min(height_px, width_px)
    top_px, left_px = (height_px - side_px) // 2, (width_px - side_px) // 2
    square = image[None, :, top_px : top_px + side_px, left_px : left_px + side_px]
    return interpolate(square, (size_px, size_px), mode="bilinear", antialias=True)[0]
